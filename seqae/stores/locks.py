"""Locks of this machine: files that one process at a time holds. The lock of a process that dies is released."""

import errno

import filelock

LOCKLESS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
REMEDY = (
    "this file system has no locks: choose a store on a local disk, or have it mounted with locks (NFS: with its lock "
    "service, or with local_lock=flock; Lustre: with flock)"
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
