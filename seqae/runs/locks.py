"""The locks of a run's folder: whoever changes it holds them; who only looks needs no permission to write there."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

LOCK = ".lock"  # of the process that trains the run or changes its record
EXECUTION_LOCK = ".execution.lock"  # of a sweep's worker, from before its kernel starts until the report is rendered
WAIT_SECONDS = 2.0  # kernels outlive their parents by less
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which is made if it is missing. A thread may hold it several times.

    Raises filelock.Timeout if another process holds it for WAIT_SECONDS, and OSError if it cannot be written.
    """
    with filelock.FileLock(folder / LOCK, is_singleton=True).acquire(timeout=WAIT_SECONDS):
        yield


@contextmanager
def executing(folder: Path) -> Iterator[None]:
    """Hold the lock of the one worker that executes and renders a run. Makes the folder. Raises as `changing`."""
    with filelock.FileLock(folder / EXECUTION_LOCK, timeout=0):
        yield


def is_being_changed(folder: Path) -> bool:
    """Whether a process holds the lock of `changing`. Nothing is written; True where it cannot be told."""
    try:
        import fcntl
    except ImportError:  # not POSIX: a lock can only be tried
        try:
            with filelock.FileLock(folder / LOCK, timeout=0):
                return False
        except filelock.Timeout:
            return True
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who look do not hinder each other
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return False
