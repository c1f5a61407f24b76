"""Merges the run folders of several machines into one store."""

import errno
import shutil
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import filelock

from seqae.runs.locks import EXECUTION_LOCK, UNWRITABLE, copying, executing
from seqae.runs.naming import existing_name
from seqae.runs.records import RunError, read_record, run_status
from seqae.stores import (
    CHECKPOINT,
    LOCKLESS,
    MARK,
    UNPUBLISHED_MARK,
    StoreError,
    check_no_half_url,
    compare_run_states,
    fetch,
    is_passing,
    local_checkpoint,
    mirror_lock,
    public_url,
    publish_run_folder,
    read_run_state,
    refresh,
    unpublished,
)

PROBLEMS = ("differs", "failed")  # the outcome of a run that could not be merged begins with one of these
OUTCOMES = {  # in words; by the result of `compare_run_states`, or `new`
    "new": "copied",
    "one": "further along in SRC: taken from there",
    "other": "further along in DST, which keeps its own",
    "same": "the same in both",
    "different": "differs under one hash: DST keeps its own; look at both, and delete one",
}
COPIED = ("new", "one")  # the keys of `OUTCOMES` that mean a copy
COPIES = 3  # copies of a run that is being changed where this process cannot hold it
CHANGED = f"failed: it changed {COPIES} times while it was copied; gather again when it is not trained"


class Gathered(NamedTuple):
    """What became of one run. run: FAMILY/NAME in its source. outcome: one of `OUTCOMES`, or a problem in words."""

    run: str
    outcome: str
    source: str


def merge_stores(sources: Sequence[str], target: str) -> tuple[Path, list[Gathered]]:
    """Copy the runs of the stores `sources`, folders or URLs, into the store `target`. Returns its folder and a list.

    Relative paths are relative to the working directory, since they often lie outside the project and a shell completes
    them; that of the parameter `store` is relative to the project.
    Of a run that both have, the copy that is further along is kept, whole. If both finished it with other results, or
    its parameters differ, the target keeps its own, and the outcome begins with one of `PROBLEMS`. Runs that are being
    trained are left alone, and none can be trained while it is copied or replaced. A source that cannot be written is
    copied again if its run changed meanwhile. A run is copied beside the others and gets its name once it is whole.
    Raises ValueError for a source without runs, before anything is copied, and StoreError if a remote store cannot be
    reached.
    """
    if not sources:
        raise ValueError("gather takes one or more SRC, folders or URLs of runs, and then DST")
    for place in (*sources, target):
        if "://" not in place and _folder(place).is_file():
            raise ValueError(f"{place} is a file: gather takes folders or URLs of runs, SRC… and then DST")
    found = {source: sorted(_folder(source).glob("*/*/run.yaml")) for source in sources}
    if empty := [source for source, files in found.items() if not files]:
        raise ValueError(
            f"{public_url(empty[0])} holds no run FAMILY/NAME-HASH: give the folder that families lie in, or its URL"
        )
    root = _folder(target)
    rows = []
    for run, source in [(file.parent, source) for source, files in found.items() for file in files]:
        name = existing_name(run.name, root / run.parent.name)
        if (run.parent / name).exists():  # SRC has runs under both names, so DST may get both
            name = run.name
        renamed = "" if name == run.name else f", as {name}"
        outcome = _merge(run, root / run.parent.name / name) + renamed
        rows.append(Gathered(f"{run.parent.name}/{run.name}", outcome, public_url(source)))
    return root, rows


def _folder(place: str) -> Path:
    # A relative path is relative to the working directory, not to the project: a shell completes it like that.
    check_no_half_url(place)
    return fetch(place) if "://" in place else Path(place).expanduser().resolve()


def _merge(source: Path, target: Path) -> str:
    try:
        for folder in (source, target):
            if read_record(folder).get("status") not in (None, "done"):  # then its checkpoint matters, too
                refresh(folder.parent.parent, f"{folder.parent.name}/{folder.name}", whole=True)
        further = _further(source, target)
        if further in COPIED:
            refresh(source.parent.parent, f"{source.parent.name}/{source.name}", whole=True)
            further = next((found for _ in range(COPIES) if (found := _copied(source, target))), CHANGED)
        if unpublished(target):
            publish_run_folder(target)
    except shutil.Error as error:  # a list of files, each with its copy and the reason
        return f"failed: {error.args[0][0][-1]}"
    except (RunError, StoreError, ValueError, OSError) as error:
        return f"failed: {error}"
    return OUTCOMES.get(further, further)


def _further(source: Path, target: Path, held: Collection[Path] = ()) -> str:
    # A key of `OUTCOMES`, or an outcome in words. held: folders whose locks this process holds.
    for folder in (source, target):
        if folder not in held and run_status(folder, read_record(folder)) == "running":
            return _busy(folder, source)
    one, other = (read_run_state(folder.joinpath, local_checkpoint(folder)) for folder in (source, target))
    return compare_run_states(one, other) if (target / "run.yaml").exists() else "new"


def _busy(folder: Path, source: Path) -> str:
    return f"is being trained in {'SRC' if folder == source else 'DST'}: left alone"


def _copied(source: Path, target: Path) -> str | None:
    """Copy a run, if that is still to be done, and return what `_further` found. Nobody trains either copy meanwhile.

    A source that cannot be written cannot be held either. Returns None if such a source changed while it was copied, or
    if somebody else made the target.
    """
    with ExitStack() as locks:
        held = []
        for folder in (source, target):
            try:
                if folder.exists() and _hold(folder, locks, shared=folder == source):
                    held.append(folder)
                elif folder == target and folder.exists():
                    raise RunError(f"cannot write to {target}, which is behind, or it is on a disk without locks")
            except filelock.Timeout:
                return _busy(folder, source)
        before, further = _stamp(source), _further(source, target, held)
        if further not in COPIED:
            return further
        if odd := next(filter(partial(_leads_out, source.resolve()), source.rglob("*")), None):
            raise RunError(f"{odd} is a link out of the run's folder, or to nothing: put the file there, or remove it")
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent.parent, prefix=".gather-") as aside:
            new, old = Path(aside, "new", target.name), Path(aside, "old", target.name)  # too deep to be found as runs
            try:
                shutil.copytree(source, new, ignore=lambda _, names: {*filter(is_passing, names)})
            except OSError:
                if _stamp(source) == before:
                    raise
                return None  # a file was removed before it could be copied
            for copy in (new, *new.rglob("*")):  # of a source that nobody may write, too
                copy.chmod(copy.stat().st_mode | (stat.S_IRWXU if copy.is_dir() else stat.S_IRUSR | stat.S_IWUSR))
            if _stamp(source) != before or _further(source, target, held) != further:
                return None
            if (target.parent.parent / MARK).exists():
                (new / UNPUBLISHED_MARK).touch()
            old.parent.mkdir()
            if target in held:
                target.rename(old)  # with its locks: who waits for them finds that they are gone, and tries anew
            try:
                new.rename(target)
            except BaseException as error:
                if old.exists() and not target.exists():
                    old.rename(target)
                if not isinstance(error, OSError) or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                return None
    return further


def _leads_out(run: Path, file: Path) -> bool:
    # Whether a copy of this file would hold what is not the run's, but of whoever copies it; or would have no end.
    if not file.is_symlink() or is_passing(file.name):
        return False
    try:
        real = file.resolve(strict=True)
    except (OSError, RuntimeError):  # to nothing, to itself
        return True
    return not real.is_relative_to(run) or file.parent.resolve().is_relative_to(real)


def _hold(folder: Path, locks: ExitStack, *, shared: bool) -> bool:
    # Whether all the folder's locks are held now; False if it cannot be written or locked. Raises filelock.Timeout.
    # shared: several may copy one source at once.
    execution = partial(copying, lock=EXECUTION_LOCK) if shared else executing
    held, kinds = True, list[Callable[[Path], AbstractContextManager[Any]]]([execution, copying])
    for lock in [*kinds, mirror_lock] if (folder.parent.parent / MARK).exists() else kinds:
        try:
            locks.enter_context(lock(folder))
        except filelock.Timeout:
            raise
        except OSError as error:
            if error.errno not in UNWRITABLE | LOCKLESS:
                raise
            held = False
    return held


def _stamp(folder: Path) -> tuple[bytes, tuple[int, int, int] | None]:
    # Differs once the run has been trained: training changes the record when it begins, and then the checkpoint.
    record, checkpoint = folder / "run.yaml", folder / CHECKPOINT
    try:
        found = checkpoint.stat()
    except OSError:
        return record.read_bytes(), None
    return record.read_bytes(), (found.st_ino, found.st_size, found.st_mtime_ns)
