"""Copies one run between its folder here and a remote store, and tells which of two copies is further along.

A local file counts as equal to the store's where size and modification time agree: every copy, in either direction,
gets the time that the store gave it.
"""

import csv
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

import yaml

from seqae.parameters import EXECUTION
from seqae.stores.yaml_text import load_yaml

CHECKPOINT = "checkpoint/state.pt"
TOLD = ("run.yaml", "metrics.csv", "test.csv", "performance.csv")  # what `read_run_state` reads
SHOWN = {*TOLD, "histograms.csv", "baselines.csv", "samples.npz", "frames.png", "report.html", "compare.html"}
RESOLUTION = 2e-6  # seconds: the precision of a modification time stored as a float


class StoreError(RuntimeError):
    """A remote store cannot be reached, or a run in it belongs to another machine. The local mirror keeps its files."""


class BusyError(StoreError):
    """Another process, on this machine or another, works on the run."""


@dataclass(frozen=True)
class RunState:
    """How far a run is, and what it recorded.

    parameters: those that define the run. trained: 2 if it is done, 1 if it is trained but not finished, else 0.
    epochs: how many a resumed run would start from. metrics: the rows of metrics.csv without their times. test,
    performance: the text of test.csv and performance.csv, empty if missing.
    """

    parameters: Mapping[str, Any]
    trained: int
    epochs: int
    metrics: Sequence[Mapping[str, Any]]
    test: str
    performance: str


def compare_run_states(one: RunState, other: RunState) -> Literal["one", "other", "same", "different"]:
    """Which of two copies of a run is further along: `one`, `other`, or the `same` for both.

    `different` if both were trained to the end with other results, or if their parameters differ.
    """
    results, others = ((state.metrics, state.test, state.performance) for state in (one, other))
    if one.parameters and other.parameters and one.parameters != other.parameters:
        return "different"
    if one.trained and other.trained and results != others:
        return "different"
    reached, others_reached = (one.trained, one.epochs), (other.trained, other.epochs)
    return "same" if reached == others_reached else "one" if reached > others_reached else "other"


def read_run_state(file: Callable[[str], Path], *, resumable: bool) -> RunState:
    """Read how far a run is from the files of its folder. A damaged run.yaml counts as not trained.

    file: maps each name of `TOLD` to its path, which need not exist. resumable: whether there is a checkpoint.
    """
    texts = {name: file(name).read_text(encoding="utf-8") if file(name).exists() else "" for name in TOLD}
    try:
        record = load_yaml(texts["run.yaml"]) or {}
        parameters = {key: value for key, value in record.get("parameters", {}).items() if key not in EXECUTION}
        trained = 2 if record.get("status") == "done" else int("results" in record)
    except (yaml.YAMLError, AttributeError):
        parameters, trained = {}, 0
    rows = [*csv.DictReader(StringIO(texts["metrics.csv"].rpartition("\n")[0]))]  # without a torn last line
    return RunState(
        parameters=parameters,
        trained=trained,
        epochs=int(rows[-1]["epoch"]) if rows and (trained or resumable) else 0,
        metrics=[{**row, "seconds": None} for row in rows],
        test=texts["test.csv"],
        performance=texts["performance.csv"],
    )


def is_passing(name: str) -> bool:
    """Whether a file of a run's folder is temporary or hidden, so only for the process that works there. Never copied.

    name: its path in the folder, with slashes.
    """
    return name.endswith(".tmp") or any(part.startswith(".") for part in name.split("/"))


def listing(fs: Any, path: str) -> dict[str, Any]:
    """fsspec's information on every file below a folder, by its path in it; empty if there is no such folder."""
    fs.invalidate_cache()
    return {name.removeprefix(path).lstrip("/"): info for name, info in fs.find(path, detail=True).items()}


def put(fs: Any, file: Path, path: str) -> None:
    """Copy a file to a store, where others see it only once it is whole."""
    if not on_disk(fs):
        fs.put_file(str(file), path)
        return
    folder, _, name = path.rpartition("/")
    fs.makedirs(folder, exist_ok=True)
    fs.put_file(str(file), temporary := f"{folder}/.{name}.tmp")
    fs.mv(temporary, path)


def modified(info: Mapping[str, Any]) -> float:
    """When a file was written, in seconds since 1970 by its store's clock; 0 if unknown. info: fsspec's on it."""
    keys = ("LastModified", "mtime", "last_modified", "updated", "created")
    when = next((info[key] for key in keys if info.get(key)), 0.0)
    when = datetime.fromisoformat(when) if isinstance(when, str) else when
    return when.timestamp() if isinstance(when, datetime) else float(when)


def on_disk(fs: Any) -> bool:
    """Whether a store has folders and shows files that are still being written. Object stores show whole files only."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    return protocols.isdisjoint(("s3", "gs", "gcs", "az", "abfs", "memory"))


def fetch_run(fs: Any, run: str, folder: Path, theirs: Mapping[str, Any], *, whole: bool) -> bool:
    """Copy a run from a store to its folder here, unless that is further along.

    Returns False, and copies nothing, if the run was finished in both with other results or has other parameters.
    run: its folder in the store. theirs: the files there, as `listing` returns them. whole: copy all files, not only
    those in `SHOWN`.
    """
    new = [name for name in theirs if not is_passing(name) and (whole or name in SHOWN)]
    new = sorted((name for name in new if _differs(_state(folder / name), theirs[name])), key=_order)
    if not new:
        return True
    stage = folder / ".fetch"

    def bring(names: Iterable[str]) -> None:
        for name in names:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # it was removed after it was listed
                fs.get_file(f"{run}/{name}", str(stage / name))
                os.utime(stage / name, (modified(theirs[name]),) * 2)

    def told(name: str) -> Path:
        return (stage if name in new or name not in theirs else folder) / name

    with _emptied(stage):  # first the files that tell how far the run is
        bring(name for name in reversed(new) if name in TOLD)
        here = read_run_state(folder.joinpath, resumable=(folder / CHECKPOINT).exists())
        further = compare_run_states(here, read_run_state(told, resumable=CHECKPOINT in theirs))
        if further in ("one", "different"):
            return further == "one"
        if further == "same":  # then only files that are missing or older here
            states = {name: _state(folder / name) for name in new}
            new = [n for n, s in states.items() if s is None or s.st_mtime < modified(theirs[n]) - RESOLUTION]
        bring(name for name in reversed(new) if name not in TOLD)
        for name in new:
            if (stage / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (stage / name).replace(folder / name)
        if further == "other" and not (whole and CHECKPOINT in theirs):
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # it is older than the logs now
    return True


def publish_run(fs: Any, run: str, folder: Path, mine: str) -> None:
    """Copy what is new in a run's folder here to its folder `run` in the store.

    Raises StoreError if the lease `mine` is gone. Checkpoint and run.yaml are read before all other files and sent
    after them. Wherever sending breaks off, the store then has the logs up to its checkpoint, and the files that its
    run.yaml speaks of.
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
        for name in {CHECKPOINT, "report.html"} & theirs.keys() - files.keys():  # removed here, so out of date there
            fs.rm_file(f"{run}/{name}")
        sent = listing(fs, run) if new else {}
        for name in new:
            source, state = files[name]
            for file in (source, folder / name):  # the same file, unless `_held` had to copy it
                now = _state(file)
                if name in sent and now and (now.st_size, now.st_mtime_ns) == (sent[name]["size"], state.st_mtime_ns):
                    os.utime(file, (modified(sent[name]),) * 2)


def _held(file: Path, aside: Path) -> None:
    # Keeps the present content: writers replace this file and never write into it.
    try:
        os.link(file, aside)
    except FileNotFoundError:
        raise
    except OSError:  # this disk has no hard links
        state = file.stat()  # before the copy: a file that replaces it meanwhile has another time
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
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
