"""What takes space and can be removed: in a store failed runs and kept checkpoints, and what lies in the user's cache.

Nothing here needs torch. What is not one of `REMOVAL_COSTS` is never removed.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import filelock

from seqae.files import cache_folder
from seqae.runs.locks import EXECUTION_LOCK, LOCK, changing, executing
from seqae.runs.records import RunError, read_record, remembered
from seqae.stores import MARK, BusyError, mirror_lock, unpublished

REMOVAL_COSTS = {  # what can be named, and what removing it costs
    "failed": "failed runs: the next seqae run begins them anew",
    "checkpoints": "of finished runs that kept theirs: a run with more epochs begins anew",
    "mirrors": "copies of stores at URLs: fetched again when they are needed",
    "clips": "decoded clips: decoded again when they are needed",
    "digits": "MNIST: downloaded again when it is needed",
    "compiled": "compiled steps of LSTMs: compiled again, in seconds",
}
STORE_KINDS = ("failed", "checkpoints")  # the others are in the cache
CACHED = {"clips": "clips/*", "digits": "*-idx[13]-ubyte.gz", "compiled": "lstm-*.so"}  # files in the cache
LAST = ("run.yaml", EXECUTION_LOCK, LOCK)  # of a run's folder: removed last, so that the rest is never taken for a run


class Removable(NamedTuple):
    """Something that can be removed. name: its kind, and after a slash which it is. size: in bytes."""

    name: str
    size: int
    act: Callable[[], None]  # removes it; raises OSError, filelock.Timeout and BusyError

    def remove(self) -> str | None:
        """Remove it, under the locks of the run folders that this changes. Returns why something of it stays, or None.

        What another process works on stays as it is.
        """
        try:
            self.act()
        except filelock.Timeout:
            return "another process works on it"
        except (BusyError, RunError) as error:
            return str(error)
        except OSError as error:
            return f"{error.strerror}: {error.filename}"
        return None


def removables(store: Path | None) -> list[Removable]:
    """All that can be removed, by kind as in `REMOVAL_COSTS`. store: its folder; None: only what the cache has.

    Running, interrupted and damaged runs are not in it, nor those that were trained before their notebook failed, nor
    what the cache holds beside `REMOVAL_COSTS`.
    """
    found = [*_of_store(store)] if store else []
    with suppress(OSError):  # who has no home folder has no cache
        found += _of_cache(cache_folder())
    order = [*REMOVAL_COSTS]
    return sorted(found, key=lambda item: (order.index(item.name.partition("/")[0]), item.name))


def chosen(found: Sequence[Removable], names: Iterable[str]) -> list[Removable]:
    """Those of `found` that are named: a kind, KIND/FAMILY or the whole name. Raises ValueError for any other name."""
    wanted = [name.strip("/") for name in names]
    for name in wanted:
        if name not in REMOVAL_COSTS and not any(_is_in(item.name, name) for item in found):
            example = f", or one of its things, such as {found[0].name}" if found else ""
            raise ValueError(f"there is no {name} to remove: name one of {', '.join(REMOVAL_COSTS)}{example}")
    return [item for item in found if any(_is_in(item.name, name) for name in wanted)]


def bytes_in(path: Path) -> int:
    """The size of a file, or of all files in a folder at any depth, in bytes. Links are not followed."""
    files = [path] if path.is_symlink() or not path.is_dir() else path.rglob("*")
    sizes = 0
    for file in files:
        with suppress(OSError):  # removed meanwhile
            sizes += 0 if file.is_dir() and not file.is_symlink() else file.lstat().st_size
    return sizes


def _is_in(item: str, name: str) -> bool:
    return item == name or item.startswith(f"{name}/")


def _of_store(store: Path) -> Iterator[Removable]:
    with remembered(store) as root:
        for folder in sorted(file.parent for file in root.glob("*/*/run.yaml")):
            if kind := None if folder.is_symlink() else _kind(folder):
                size = bytes_in(folder if kind == "failed" else folder / "checkpoint")
                name = f"{kind}/{folder.parent.name}/{folder.name}"
                yield Removable(name, size, partial(_remove_of_run, folder, kind))


def _of_cache(cache: Path) -> Iterator[Removable]:
    for mark in cache.glob(f"stores/*/{MARK}"):
        if (size := bytes_in(mark.parent) - bytes_in(mark)) > 0:
            yield Removable(f"mirrors/{mark.parent.name}", size, partial(_empty_mirror, mark.parent))
    for kind, pattern in CACHED.items():
        of_one: dict[str, list[Path]] = {}
        for file in cache.glob(pattern):
            if not file.name.startswith("."):  # else it is being written
                of_one.setdefault(file.stem, []).append(file)
        for name, files in of_one.items():
            yield Removable(f"{kind}/{name}", sum(map(bytes_in, files)), partial(_remove_files, files))


def _kind(folder: Path) -> str | None:
    # What of a run's folder can be removed: "failed": all, "checkpoints": its checkpoint, None: nothing.
    with suppress(RunError):  # damaged, or of a newer version: not known here
        record = read_record(folder)
        if record.get("status") == "failed" and "results" not in record:  # else it is trained: its notebook failed
            return "failed"
        if record.get("status") == "done" and (folder / "checkpoint").is_dir():
            return "checkpoints"
    return None


def _remove_of_run(folder: Path, kind: str) -> None:
    with executing(folder), changing(folder):
        if _kind(folder) != kind:  # it was looked at before its lock was held
            raise BusyError(f"it is {read_record(folder).get('status', 'gone')} now")
        if kind == "failed":
            _remove_run(folder)
        else:
            shutil.rmtree(folder / "checkpoint")


def _empty_mirror(mirror: Path) -> None:
    # The mark stays, with which whoever has one of its runs open still finds the store.
    kept = 0
    for folder in [file for file in mirror.glob("*/*") if file.is_dir() and not file.is_symlink()]:
        with ExitStack() as held:
            try:
                for lock in (executing, mirror_lock, changing):
                    held.enter_context(lock(folder))
            except filelock.Timeout:
                kept += 1
                continue
            if unpublished(folder):
                kept += 1
                continue
            _remove_run(folder)
    _remove_files(file for file in [*mirror.glob("*"), *mirror.glob("*/*")] if file.is_file() and file.name != MARK)
    for family in [folder for folder in mirror.iterdir() if folder.is_dir()]:
        with suppress(OSError):  # it has a run that is kept, or has just begun
            family.rmdir()
    if kept:
        raise BusyError(f"{kept} of its runs {'stays' if kept == 1 else 'stay'}: in work, or not published yet")


def _remove_run(folder: Path) -> None:
    entries = sorted(folder.iterdir(), key=lambda entry: LAST.index(entry.name) if entry.name in LAST else -1)
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
    with suppress(OSError):  # another process has just begun the run anew
        folder.rmdir()


def _remove_files(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
