"""One benchmark at a time on a machine, whoever its users are."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BENCHMARK_LOCK = "seqae-performance.lock"  # in the folder for temporary files


@contextmanager
def machine_alone() -> Iterator[None]:
    """Wait until no other benchmark runs on this machine, and keep others waiting.

    The lock is held on a file that its first user makes and that all others only read, so it belongs to nobody. Where
    it cannot even be read, the benchmark does not wait, and a warning says so.
    """
    import fcntl  # here, because all modules can be imported where there is none

    file = Path(tempfile.gettempdir()) / BENCHMARK_LOCK
    try:
        descriptor = _opened(file)
    except OSError as error:
        logging.getLogger("seqae").warning("other benchmarks are not waited for: %s", error)
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _opened(file: Path) -> int:
    # O_NOFOLLOW, O_NONBLOCK: anyone may put a link or a pipe there.
    with suppress(FileExistsError):
        descriptor = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        os.fchmod(descriptor, 0o644)  # whatever the umask: others have to read it
        return descriptor
    return os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
