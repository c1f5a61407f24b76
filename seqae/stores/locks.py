"""Locks of this machine: files that one process at a time holds. The lock of a process that dies is released."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import filelock

LOCKLESS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
REMEDY = (
    "this file system has no locks: choose a store on a local disk, or have it mounted with locks (NFS: with its lock "
    "service, or, if this machine alone uses the store, with local_lock=flock; Lustre: with flock)"
)


class MachineLock(filelock.FileLock):
    """filelock's, whose error on a file system without locks says what to do."""

    def _acquire(self) -> None:
        try:
            super()._acquire()
        except OSError as error:
            if error.errno not in LOCKLESS:
                raise
            raise OSError(error.errno, REMEDY, self.lock_file) from None


def open_for_all_users(name: str) -> int:
    """Open a file in the folder for temporary files, to hold a flock on that all users of this machine see.

    Its first user makes it and all others only read it, so it belongs to nobody. Returns the descriptor. Raises OSError
    where it cannot even be read.
    """
    file = Path(tempfile.gettempdir()) / name
    with suppress(FileExistsError):  # O_NOFOLLOW, O_NONBLOCK: anyone may put a link or a pipe there
        descriptor = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        os.fchmod(descriptor, 0o644)  # whatever the umask: others have to read it
        return descriptor
    return os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
