"""How far a copy of a run is, read from the files of its folder, and which of two copies is further along."""

import csv
import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO, Any, Literal
from zipfile import BadZipFile, ZipFile

from seqae.parameters import EXECUTION, Parameters
from seqae.stores.record import NewerFormatError, RecordError, parse_record

CHECKPOINT = "checkpoint/state.pt"
TOLD = ("run.yaml", "metrics.csv", "test.csv", "performance.csv")  # what `read_run_state` reads


@dataclass(frozen=True)
class RunState:
    """How far a run is, and what it recorded.

    parameters: as recorded. trained: 2 if it is done, 1 if it is trained but not finished, else 0. updates: how many a
    resumed run would begin with; 0 if it is trained. metrics, test: the rows of metrics.csv without their times, and of
    test.csv, of which the head is the first. performance: the text of performance.csv, empty if missing. own: the names
    of the metrics of one's own, which a finished run can be asked for later.
    """

    parameters: Mapping[str, Any]
    trained: int
    updates: int
    metrics: Sequence[Mapping[str, Any]]
    test: Sequence[Mapping[str, Any]]
    performance: str
    own: frozenset[str]


def compare_run_states(one: RunState, other: RunState) -> Literal["one", "other", "same", "different"]:
    """Which of two copies of a run is further along: `one`, `other`, or the `same` for both.

    `different` if both were trained to the end with other results, or if their parameters define other runs. Metrics of
    one's own that only one of two trained copies has been asked for are no difference; it is further along.
    """
    later = one.own ^ other.own if one.own <= other.own or one.own >= other.own else frozenset()
    results, others = (
        (_without(state.metrics, later), _without(state.test, later), state.performance) for state in (one, other)
    )
    if one.parameters and other.parameters and not _same_run(one.parameters, other.parameters):
        return "different"
    if one.trained and other.trained and results != others:
        return "different"
    measured = one.trained and other.trained
    reached, others_reached = (
        (state.trained, state.updates, len(state.own) if measured else 0) for state in (one, other)
    )
    return "same" if reached == others_reached else "one" if reached > others_reached else "other"


def read_run_state(file: Callable[[str], Path], checkpoint: Callable[[], IO[bytes]] | None) -> RunState:
    """Read how far a run is from the files of its folder. A damaged run.yaml counts as not trained.

    Raises NewerFormatError if a newer version wrote it.

    file: maps each name of `TOLD` to its path, which need not exist. checkpoint: opens the run's checkpoint; None if it
    has none. Only if the run is not trained it is opened, and only some kilobytes of it are read.
    """
    texts = {name: _text(file(name)) for name in TOLD}
    try:
        record = parse_record(texts["run.yaml"])
    except NewerFormatError:
        raise
    except RecordError:
        record = {}
    trained = 2 if record.get("status") == "done" else int("results" in record)
    return RunState(
        parameters=record.get("parameters", {}),
        trained=trained,
        updates=_updates(checkpoint) if checkpoint and not trained else 0,
        metrics=_untimed(texts["metrics.csv"].rpartition("\n")[0]),  # without a torn last line
        test=[{"": texts["test.csv"].partition("\n")[0]}, *_untimed(texts["test.csv"])],
        performance=texts["performance.csv"],
        own=_own_metrics(record),
    )


def _own_metrics(record: Mapping[str, Any]) -> frozenset[str]:
    code = record.get("code")
    metrics = code.get("metrics") if isinstance(code, Mapping) else None
    return frozenset(metrics) if isinstance(metrics, Mapping) else frozenset()


def _without(rows: Sequence[Mapping[str, Any]], metrics: Collection[str]) -> Sequence[Mapping[str, Any]]:
    return [row for row in rows if row.get("metric") not in metrics]


def _same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    # Versions differ in the parameters that they have. One that a record lacks has its default, as in the run's hash.
    # What neither this version nor one of both knows cannot be told apart from its default.
    usual = Parameters.model_validate({}).model_dump(mode="json")
    names = (usual.keys() | (one.keys() & other.keys())) - EXECUTION
    full, others = ({**usual, **given} for given in (one, other))
    return all(full[name] == others[name] for name in names)


def _text(file: Path) -> str:
    # Bytes that are no UTF-8 are replaced: who reads the file to show it says that it is damaged.
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _untimed(table: str) -> Sequence[Mapping[str, Any]]:
    try:
        return [{**row, "seconds": None} for row in csv.DictReader(StringIO(table))]
    except csv.Error:  # damaged
        return [{"": table}]


def _updates(checkpoint: Callable[[], IO[bytes]]) -> int:
    # How many updates were made before the checkpoint, of this version or an older one. A damaged one has none.
    try:
        with checkpoint() as file, ZipFile(file) as parts:  # torch keeps the tensors in other parts than the numbers
            numbers = parts.read(next(name for name in parts.namelist() if name.endswith("/data.pkl")))
    except (FileNotFoundError, BadZipFile, StopIteration):
        return 0
    try:
        progress = _Numbers(BytesIO(numbers)).load()["progress"]
        return int(progress["step"] if isinstance(progress, dict) else progress[0])
    except Exception:  # torn bytes make pickle raise any of a dozen types
        return 0


class _Numbers(pickle.Unpickler):
    """Reads the numbers, texts, lists and dicts of a checkpoint. Everything else is empty, and no code of it runs."""

    def find_class(self, module: str, name: str) -> type:
        return _Empty

    def persistent_load(self, key: Any) -> None:
        return None


class _Empty(dict):
    """What stands for a tensor, a mapping or anything else that is made by calling a name."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass
