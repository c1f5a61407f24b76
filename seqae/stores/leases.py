"""Leases: only one machine at a time may train a run of a remote store, and publish it."""

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

from seqae.files import replace_text
from seqae.stores.transfer import BusyError, StoreError, modified, on_disk

PREFIX = ".lease-"
LEASE_SECONDS = 60.0  # a lease that is not renewed for so long has expired
BEAT_SECONDS = 10.0  # between renewals
WRITES = 3  # to write a lease that another machine removes because this one stopped for LEASE_SECONDS meanwhile
SETTLE_SECONDS = 5.0  # how long to wait for another machine, which wants the run at the same instant, to give way


@contextmanager
def lease(fs: Any, run: str, token: Path) -> Iterator[str]:
    """Hold a run for this machine alone; yields the path of its lease in the store.

    run: the run's folder in the store. token: a local file that names this machine's lease on this run, so that what a
    killed process of this machine left is recognised as its own. Hold a local lock: no two processes of a machine may
    do this at once. Raises BusyError if another machine holds the run. The lease of a machine that died is waited out.

    Each machine that wants a run writes a lease of its own, then lists all of them. The one that sees no other living
    lease holds the run. So no two hold it at once in stores that list a file as soon as it is written, such as S3,
    Google's and Azure's stores, disks and SFTP servers. Of two that come at the same instant the second by name gives
    way. A lease that is not renewed for LEASE_SECONDS, by the store's clock alone, has expired and is removed. A
    machine that slept or was cut off for so long is not stopped: it finds its lease gone and publishes nothing more,
    except the file that it was sending.
    """
    if not token.exists():
        replace_text(token, uuid4().hex)
    mine, seen, unlisted = f"{run}/{PREFIX}{token.read_text()}", dict[str, float](), 0

    def write(*, holds: bool) -> None:
        fs.pipe_file(mine, json.dumps({"machine": platform.node(), "pid": getpid(), "holds": holds}).encode())

    def renew() -> None:
        fs.invalidate_cache()
        if fs.exists(mine):  # otherwise it has expired, and another machine may hold the run
            write(holds=True)

    if on_disk(fs):
        fs.makedirs(run, exist_ok=True)
    try:
        while True:
            write(holds=False)
            deadline = time.monotonic() + SETTLE_SECONDS
            while (others := remove_expired(fs, run, mine)) and min(others) > mine and time.monotonic() < deadline:
                time.sleep(SETTLE_SECONDS / 10)
            if others is None:  # removed meanwhile: this process had stopped for LEASE_SECONDS
                unlisted += 1
                if unlisted == WRITES:
                    raise StoreError(f"{run} does not list what was just written there: not a store to share runs in")
                continue
            if not others:
                break
            with suppress(FileNotFoundError):  # removed by another machine, as above
                fs.rm_file(mine)
            for path, written in others.items():
                if written > seen.setdefault(path, written) and (holder := _holder(fs, path)):
                    raise BusyError(f"{holder} trains it: wait for that one, or stop it")
            time.sleep(1.2 * BEAT_SECONDS)
        renew()
        with every(BEAT_SECONDS, renew):
            yield mine
    finally:
        with suppress(Exception):  # a lease that cannot be removed expires
            fs.rm_file(mine)


@contextmanager
def every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` every so many seconds in a thread, until the block ends. Its errors are ignored."""
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


def remove_expired(fs: Any, run: str, mine: str) -> dict[str, float] | None:
    """Remove the leases of a run that have expired; return those of other machines, and when they were written.

    mine: the path of this machine's lease. None, and nothing is removed, if the store does not list it.
    """
    fs.invalidate_cache()
    try:
        listed = {info["name"]: modified(info) for info in fs.ls(run, detail=True)}
    except FileNotFoundError:  # a folder exists in many stores only as long as it holds a file
        return None
    when = {path: at for path, at in listed.items() if path.rpartition("/")[2].startswith(PREFIX)}
    if mine not in when:
        return None
    for path in [path for path, written in when.items() if written < when[mine] - LEASE_SECONDS]:
        del when[path]
        with suppress(FileNotFoundError):
            fs.rm_file(path)
    return {path: written for path, written in when.items() if path != mine}


def _holder(fs: Any, path: str) -> str | None:
    try:
        found = json.loads(fs.cat_file(path))
        return f"{found['machine']} (process {found['pid']})" if found["holds"] else None
    except (FileNotFoundError, ValueError):  # just removed, or being written
        return None
    except (LookupError, TypeError, RecursionError):  # of another version
        return "another machine"
