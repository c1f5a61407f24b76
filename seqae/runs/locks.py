"""The locks of a run's folder: whoever changes it holds them; who only looks needs no permission to write there."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import filelock

from seqae.stores import MachineLock

LOCK = ".lock"  # of the process that trains the run or changes its record
EXECUTION_LOCK = ".execution.lock"  # of a sweep's worker, from before its kernel starts until the report is rendered
WAIT_SECONDS = 2.0  # kernels outlive their parents by less
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # a disk that takes no more; such errors name no file


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which is made if it is missing, alone. A thread may hold it several times.

    Raises filelock.Timeout if another process holds it for WAIT_SECONDS, and OSError if it cannot be written.
    """
    with MachineLock(folder / LOCK, is_singleton=True).acquire(timeout=WAIT_SECONDS):
        yield


@contextmanager
def copying(folder: Path, *, lock: str = LOCK) -> Iterator[None]:
    """Keep others from changing a run's folder while it is copied or replaced; others may look, and copy as well.

    lock: LOCK keeps those away who change it, EXECUTION_LOCK those who execute it. Needs no permission to write if the
    folder has that file. Raises as `changing`.
    """
    try:
        import fcntl
    except ImportError:  # not POSIX: locks cannot be shared
        with MachineLock(folder / lock, is_singleton=True).acquire(timeout=WAIT_SECONDS):
            yield
        return
    deadline, file = time.monotonic() + WAIT_SECONDS, os.open(folder / lock, os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise filelock.Timeout(str(folder / lock)) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(file)


@contextmanager
def executing(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of the one worker that executes and renders a run. Makes the folder.

    Raises filelock.Timeout if another process holds it for `wait` seconds, and OSError if it cannot be written.
    """
    with MachineLock(folder / EXECUTION_LOCK, timeout=wait):
        yield


def remove_leftovers(*written: Path) -> None:
    """Remove the temporary files that killed processes left when they wrote these files with `files.whole`.

    Call it only under a lock that keeps others from writing these files: it removes their temporary files, too.
    """
    for file in written:
        # The first is the name of temporary files until November 2026.
        for left in (file.with_name(f".{file.name}"), *file.parent.glob(f".{escape(file.name)}.*")):
            left.unlink(missing_ok=True)


def is_being_changed(folder: Path) -> bool:
    """Whether a process is `changing` the folder. Nothing is written. True where it cannot be told."""
    try:
        import fcntl
    except ImportError:  # not POSIX: a lock can only be tried
        try:
            with MachineLock(folder / LOCK, timeout=0):
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
