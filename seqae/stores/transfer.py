"""One run copied between a folder here and a store elsewhere, and which of two records of it is further.

A file here is that of the store where size and time of modification agree: what is copied either way gets the time
that the store gave it.
"""

import csv
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from io import StringIO
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

import yaml

from seqae.files import load_yaml
from seqae.parameters import EXECUTION

CHECKPOINT = "checkpoint/state.pt"
TOLD = ("run.yaml", "metrics.csv", "test.csv", "performance.csv")  # these tell how far a run is
SHOWN = {*TOLD, "histograms.csv", "baselines.csv", "samples.npz", "frames.png", "report.html", "compare.html"}
RESOLUTION = 2e-6  # seconds: what a float keeps of a time of modification

Record = tuple[Mapping[str, Any], tuple[int, int], Any]  # see `record_of`


class StoreError(RuntimeError):
    """A store elsewhere cannot be reached, or a run in it is another machine's. What is in the mirror here stays."""


class BusyError(StoreError):
    """Another process, here or elsewhere, works on the run."""


def compare_records(one: Record, other: Record) -> Literal["one", "other", "same", "different"]:
    """Which of two records of one run is further, `one` or `other`; `different`: both were trained to the end, with
    other results, or they are not of the same parameters.
    """
    (parameters, far, results), (parameters_2, far_2, results_2) = one, other
    if (parameters and parameters_2 and parameters != parameters_2) or (far[0] and far_2[0] and results != results_2):
        return "different"
    return "same" if far == far_2 else "one" if far > far_2 else "other"


def record_of(file: Callable[[str], Path], *, resumable: bool) -> Record:
    """What a run's folder tells: the parameters; how far it is (2: done, 1: trained, 0: not yet; the epochs that it can
    go on from); and what it recorded but the time it took. file: where those of these names lie, or would.
    """
    texts = {name: file(name).read_text(encoding="utf-8") if file(name).exists() else "" for name in TOLD}
    try:
        record = load_yaml(texts["run.yaml"]) or {}
        parameters = {key: value for key, value in record.get("parameters", {}).items() if key not in EXECUTION}
        trained = 2 if record.get("status") == "done" else int("results" in record)
    except (yaml.YAMLError, AttributeError):  # damaged: any other is further
        parameters, trained = {}, 0
    rows = [*csv.DictReader(StringIO(texts["metrics.csv"].rpartition("\n")[0]))]  # whole lines
    epochs = int(rows[-1]["epoch"]) if rows and (trained or resumable) else 0
    results = [{**row, "seconds": None} for row in rows], texts["test.csv"], texts["performance.csv"]
    return parameters, (trained, epochs), results


def is_passing(name: str) -> bool:
    """Whether a file of a run's folder is only for the process that works there: hidden or temporary."""
    return name.endswith(".tmp") or any(part.startswith(".") for part in name.split("/"))


def listing(fs: Any, path: str) -> dict[str, Any]:
    """Every file below a folder, by its path from there: fsspec's information. None where there is no such folder."""
    fs.invalidate_cache()
    return {name.removeprefix(path).lstrip("/"): info for name, info in fs.find(path, detail=True).items()}


def put(fs: Any, file: Path, path: str) -> None:
    """Copy a file to a store, where it is seen when it is whole."""
    if not on_disk(fs):
        fs.put_file(str(file), path)
        return
    folder, _, name = path.rpartition("/")
    fs.makedirs(folder, exist_ok=True)
    fs.put_file(str(file), temporary := f"{folder}/.{name}.tmp")
    fs.mv(temporary, path)


def modified(info: Mapping[str, Any]) -> float:
    """When a file was written, by the clock of its store; 0 where the store does not say. info: as fsspec has it."""
    keys = ("LastModified", "mtime", "last_modified", "updated", "created")
    when = next((info[key] for key in keys if info.get(key)), 0.0)
    when = datetime.fromisoformat(when) if isinstance(when, str) else when
    return when.timestamp() if isinstance(when, datetime) else float(when)


def on_disk(fs: Any) -> bool:
    """Whether a store has folders, and shows a file while it is being written; in an object store it is whole."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    return protocols.isdisjoint(("s3", "gs", "gcs", "az", "abfs", "memory"))


def fetch_run(fs: Any, run: str, folder: Path, theirs: Mapping[str, Any], *, whole: bool) -> bool:
    """Bring what a store has of a run, its files `theirs`, to its folder here, unless that is further; False where it
    is finished both here and there, with other results.

    run: its folder there. whole: with what `SHOWN` leaves out.
    """
    new = [name for name in theirs if not is_passing(name) and (whole or name in SHOWN)]
    new = sorted((name for name in new if _differs(_state(folder / name), theirs[name])), key=_order)
    if not new:
        return True
    stage = folder / ".fetch"

    def bring(names: Iterable[str]) -> None:
        for name in names:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # removed since it was listed
                fs.get_file(f"{run}/{name}", str(stage / name))
                os.utime(stage / name, (modified(theirs[name]),) * 2)

    def told(name: str) -> Path:
        return (stage if name in new or name not in theirs else folder) / name

    with _emptied(stage):  # first what tells how far it is
        bring(name for name in reversed(new) if name in TOLD)
        here = record_of(folder.joinpath, resumable=(folder / CHECKPOINT).exists())
        further = compare_records(here, record_of(told, resumable=CHECKPOINT in theirs))
        if further in ("one", "different"):
            return further == "one"
        if further == "same":  # then what is missing here or older
            states = {name: _state(folder / name) for name in new}
            new = [n for n, s in states.items() if s is None or s.st_mtime < modified(theirs[n]) - RESOLUTION]
        bring(name for name in reversed(new) if name not in TOLD)
        for name in new:
            if (stage / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (stage / name).replace(folder / name)
        if further == "other" and not (whole and CHECKPOINT in theirs):
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # one that is less far
    return True


def publish_run(fs: Any, run: str, folder: Path, mine: str) -> None:
    """Send what is new in a run's folder here to its folder `run` there. Raises StoreError if the lease `mine` is gone.

    Checkpoint and run.yaml are taken before all else and sent after it: what resumes from a checkpoint has the logs up
    to there, and what run.yaml says is true of what lies beside it, wherever this breaks off.
    """
    theirs = listing(fs, run)
    if mine.rpartition("/")[2] not in theirs:
        raise StoreError(f"another machine took {run} over; what was trained here since then stays in {folder}")
    files: dict[str, tuple[Path, os.stat_result]] = {}
    with _emptied(folder / ".publish") as stage:
        for name in (CHECKPOINT, "run.yaml"):
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                _held(folder / name, stage / name)
                files[name] = stage / name, (stage / name).stat()
        for file in folder.rglob("*"):
            name = file.relative_to(folder).as_posix()
            if not is_passing(name) and name not in (CHECKPOINT, "run.yaml") and (state := _state(file)):
                files[name] = file, state
        new = [name for name, (_, state) in files.items() if _differs(state, theirs.get(name))]
        for name in sorted(new, key=lambda name: (_order(name), -files[name][1].st_size)):
            put(fs, files[name][0], f"{run}/{name}")
        for name in {CHECKPOINT, "report.html"} & theirs.keys() - files.keys():  # no longer true
            fs.rm_file(f"{run}/{name}")
        sent = listing(fs, run) if new else {}
        for name in new:
            source, state = files[name]
            for file in (source, folder / name):  # one file, but for a copy
                now = _state(file)
                if name in sent and now and (now.st_size, now.st_mtime_ns) == (sent[name]["size"], state.st_mtime_ns):
                    os.utime(file, (modified(sent[name]),) * 2)


def _held(file: Path, aside: Path) -> None:
    # As it is now, whatever replaces it: it is never written to.
    try:
        os.link(file, aside)
    except FileNotFoundError:
        raise
    except OSError:  # no links on this disk
        state = file.stat()  # first: a file that replaces it meanwhile has another time
        shutil.copyfile(file, aside)
        os.utime(aside, ns=(state.st_atime_ns, state.st_mtime_ns))


def _order(name: str) -> tuple[bool, bool]:
    return name == CHECKPOINT, name == "run.yaml"


def _state(file: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return state if S_ISREG((state := file.stat()).st_mode) else None
    return None


def _differs(state: os.stat_result | None, info: Mapping[str, Any] | None) -> bool:
    if state is None or info is None or state.st_size != info["size"]:
        return True
    return abs(state.st_mtime - modified(info)) > RESOLUTION


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)  # what a process left that died
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
