"""Copies one run between its folder here and a remote store.

A local file counts as equal to the store's where size and modification time agree: every copy, in either direction,
gets the time that the store gave it.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any

from seqae.stores.record import NewerFormatError
from seqae.stores.states import CHECKPOINT, TOLD, RunState, compare_run_states, read_run_state

SHOWN = {*TOLD, "histograms.csv", "baselines.csv", "samples.npz", "frames.png", "report.html", "compare.html"}
RESOLUTION = 2e-6  # seconds: the precision of a modification time stored as a float


class StoreError(RuntimeError):
    """A remote store cannot be reached, or a run in it belongs to another machine. The local mirror keeps its files."""


class BusyError(StoreError):
    """Another process, on this machine or another, works on the run."""


def local_checkpoint(folder: Path) -> Callable[[], IO[bytes]] | None:
    """What opens the checkpoint of a run's folder, as `read_run_state` takes it; None if there is none."""
    file = folder / CHECKPOINT
    return (lambda: file.open("rb")) if file.exists() else None


def is_passing(name: str) -> bool:
    """Whether a file of a run's folder is temporary or hidden, so only for the process that works there. Never copied.

    name: its path in the folder, with slashes.
    """
    return name.endswith(".tmp") or any(part.startswith(".") for part in name.split("/"))


def is_name(text: object) -> bool:
    """Whether this is the name of one file or folder: nothing that, joined to a folder, leads out of it."""
    return isinstance(text, str) and text not in ("", ".", "..") and not {"/", "\0"} & {*text}


def listing(fs: Any, path: str) -> dict[str, Any]:
    """fsspec's information on every file below a folder, by its path in it; empty if there is no such folder.

    A key that would lead out of a folder here, such as runs/../x or runs//x, is left out with a warning: an object
    store allows any key.
    """
    fs.invalidate_cache()
    found = {name.removeprefix(path).removeprefix("/"): info for name, info in fs.find(path, detail=True).items()}
    found = {name: info for name, info in found.items() if name and not name.endswith("/")}  # those are folders' marks
    for name in [name for name in found if not all(map(is_name, name.split("/")))]:
        del found[name]
        warnings.warn(f"left out of the store: {name!r} is no path in a folder; rename or remove it", stacklevel=2)
    return found


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
    Raises StoreError if a newer version of this package wrote the record of one.
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
        saved = partial(fs.open, f"{run}/{CHECKPOINT}", "rb", block_size=2**18) if CHECKPOINT in theirs else None
        further = _further(run, folder, partial(read_run_state, told, saved))
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


def _further(run: str, folder: Path, read_theirs: Callable[[], RunState]) -> str:
    # As `compare_run_states`, `one` being the folder here. A record of a newer version is brought where there is none
    # yet, so that whoever reads it here says that it is newer.
    here = None
    with suppress(NewerFormatError):  # fetched before
        here = read_run_state(folder.joinpath, local_checkpoint(folder))
    try:
        there = read_theirs()
    except NewerFormatError as error:
        if here and (folder / "run.yaml").exists():
            raise StoreError(f"{run}/run.yaml {error}") from None
        return "same"
    return compare_run_states(here, there) if here else "same"


def publish_run(fs: Any, run: str, folder: Path, mine: str) -> None:
    """Copy what is new in a run's folder here to its folder `run` in the store.

    Raises StoreError if the lease `mine` is gone; looks for it before each file, because a machine may sleep between
    two. Checkpoint and run.yaml are read before all other files and sent after them. Wherever sending breaks off, the
    store then has the logs up to its checkpoint, and the files that its run.yaml speaks of.
    """

    def check_held(*, held: bool) -> None:
        if not held:
            raise StoreError(f"another machine took {run} over; what was trained here since then stays in {folder}")

    def look() -> None:
        fs.invalidate_cache()
        check_held(held=fs.exists(mine))

    theirs = listing(fs, run)
    check_held(held=mine.rpartition("/")[2] in theirs)
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
            look()
            put(fs, files[name][0], f"{run}/{name}")
        for name in {CHECKPOINT, "report.html"} & theirs.keys() - files.keys():  # removed here, so out of date there
            look()
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
