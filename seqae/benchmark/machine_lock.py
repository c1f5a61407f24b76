"""One benchmark at a time on a machine, whoever its users are."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from seqae.stores import open_for_all_users

BENCHMARK_LOCK = "seqae-performance.lock"  # in the folder for temporary files


@contextmanager
def machine_alone() -> Iterator[None]:
    """Wait until no other benchmark runs on this machine, and keep others waiting.

    Where the lock of `open_for_all_users` cannot even be read, the benchmark does not wait, and a warning says so.
    """
    import fcntl  # here, because all modules can be imported where there is none

    try:
        descriptor = open_for_all_users(BENCHMARK_LOCK)
    except OSError as error:
        logging.getLogger("seqae").warning("other benchmarks are not waited for: %s", error)
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
