"""One machine a run: who may train a run of a store elsewhere, and publish it."""

import json
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import getpid
from pathlib import Path
from typing import Any
from uuid import uuid4

from seqae.stores.transfer import BusyError, StoreError, modified, on_disk

PREFIX = ".lease-"
LEASE_SECONDS = 60.0  # whose lease is not renewed for so long counts as dead
BEAT_SECONDS = 10.0
SETTLE_SECONDS = 5.0  # for another that wants the run at the same instant to give way


@contextmanager
def lease(fs: Any, run: str, token: Path) -> Iterator[str]:
    """Hold the run whose folder in the store is `run`, for one machine alone; yields the path of the lease there.

    token: a file that names this machine's lease on this run. What a process of this machine that died left behind is
    its own, so no two processes here may do this at once: hold a lock. Raises BusyError where another machine holds
    the run; one that died is waited for until its lease is dead.

    Each machine that wants a run writes a lease of its own, then lists them: who sees no other that lives holds the
    run. So no two hold it at once where a file is listed as soon as it is written, as S3, Google's and Azure's stores,
    disks and SFTP servers do it. Of two that came at the same instant the second by name gives way. A lease that is
    not renewed for LEASE_SECONDS, by the store's clock alone, is dead and removed. A machine that only slept, or was
    cut off so long, is not stopped: it finds its lease gone and publishes no more, but for what it was sending.
    """
    if not token.exists():
        token.write_text(uuid4().hex)
    mine, seen = f"{run}/{PREFIX}{token.read_text()}", dict[str, float]()

    def write(*, holds: bool) -> None:
        fs.pipe_file(mine, json.dumps({"machine": platform.node(), "pid": getpid(), "holds": holds}).encode())

    def renew() -> None:
        fs.invalidate_cache()
        if fs.exists(mine):  # else it was taken for dead, and renewed now it would be a second
            write(holds=True)

    if on_disk(fs):
        fs.makedirs(run, exist_ok=True)
    try:
        while True:
            write(holds=False)
            deadline = time.monotonic() + SETTLE_SECONDS
            while (others := _living(fs, run, mine)) and min(others) > mine and time.monotonic() < deadline:
                time.sleep(SETTLE_SECONDS / 10)
            if not others:
                break
            fs.rm_file(mine)
            for path, written in others.items():
                if written > seen.setdefault(path, written) and (holder := _holder(fs, path)):
                    raise BusyError(f"{holder} trains it: wait for that one, or stop it")
            time.sleep(1.2 * BEAT_SECONDS)
        write(holds=True)
        with every(BEAT_SECONDS, renew):
            yield mine
    finally:
        with suppress(Exception):  # it dies by itself
            fs.rm_file(mine)


@contextmanager
def every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Meanwhile do something again and again, in a thread; what fails once is tried again the next time."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            with suppress(Exception):
                act()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _living(fs: Any, run: str, mine: str) -> dict[str, float]:
    # The leases of others, and when they were written; those of the dead are removed.
    fs.invalidate_cache()
    when = {i["name"]: modified(i) for i in fs.ls(run, detail=True) if i["name"].rpartition("/")[2].startswith(PREFIX)}
    if mine not in when:
        raise StoreError(f"{run} does not list what was just written there: not a store to share runs in")
    for path in [path for path, written in when.items() if written < when[mine] - LEASE_SECONDS]:
        del when[path]
        with suppress(FileNotFoundError):
            fs.rm_file(path)
    return {path: written for path, written in when.items() if path != mine}


def _holder(fs: Any, path: str) -> str | None:
    try:
        found = json.loads(fs.cat_file(path))
    except (FileNotFoundError, ValueError):  # let go, or being written
        return None
    return f"{found['machine']} (process {found['pid']})" if found["holds"] else None
