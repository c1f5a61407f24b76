"""A store elsewhere, at an fsspec URL such as s3://bucket/runs, and its mirror in a folder here.

All that reads or writes run folders does so in the mirror (`naming.store_folder`). `fetch` brings there what others
made; `working` fetches a run whole, and publishes what becomes of it: `transfer` copies one run.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import filelock

from seqae.files import store_folder
from seqae.stores.leases import LEASE_SECONDS, PREFIX, every, lease
from seqae.stores.transfer import BusyError, StoreError, fetch_run, listing, modified, publish_run, put

PUBLISH_SECONDS = 10.0
MARK = ".seqae-store"  # in a mirror: the URL
UNPUBLISHED = ".unpublished"  # in a run's folder of a mirror: not all of it may be in the store yet
LEASED = ".leased"  # there: since when another machine has shown that it trains the run
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "ssh": "sshfs", "sftp": "paramiko", "az": "adlfs"}


def fetch(store: str | None = None, under: str = "", *, whole: bool = False) -> Path:
    """The folder of a store (none: $SEQAE_STORE, else reports/); of one elsewhere its mirror, brought up to date.

    under: FAMILY or FAMILY/NAME: nothing else is looked at. whole: with models, checkpoints and notebooks, else only
    what tables, indexes and the planning of runs are made from. Raises StoreError; see `refresh`.
    """
    url = store or os.environ.get("SEQAE_STORE") or ""
    if "://" not in url:
        return store_folder(store)
    refresh(folder := mirror_folder(url), under, whole=whole)
    return folder


def located(run: Path) -> Path:
    """The folder of a run, as seen from here, or else FAMILY/NAME in the store, brought up to date. Raises
    FileNotFoundError where there is neither.
    """
    if not run.exists():
        store = fetch(None, run.as_posix(), whole=True)
        if not (store / run).exists():
            raise FileNotFoundError(f"there is no run {run}, neither that folder nor, as FAMILY/NAME-HASH, in {store}")
        return store / run
    folder = run.resolve()
    refresh(folder.parent.parent, f"{folder.parent.name}/{folder.name}", whole=True)
    return folder


def check_writable(folder: Path) -> None:
    """Make a folder where there is none; raises OSError, which says what to do, where nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}; choose another folder as store") from None


def mirror_folder(url: str) -> Path:
    """The folder here of the store at `url`, made where there is none."""
    folder = store_folder(url)
    if not (folder / MARK).exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{MARK}-{os.getpid()}"
        temporary.write_text(url, encoding="utf-8")
        temporary.replace(folder / MARK)
    return folder


def refresh(folder: Path, under: str = "", *, whole: bool = False) -> None:
    """Bring a mirror up to date, as `fetch` does; nothing where the folder is none.

    A run that is further here than there, or finished in both with other results, stays as it is here, and so does
    one that is worked on here. What was deleted there stays here. Raises StoreError where the store cannot be read.
    """
    url = _url(folder)
    if url is None:
        return
    with _reaching(url) as (fs, root):
        family = under.partition("/")[0]
        runs: dict[str, dict[str, Any]] = defaultdict(dict)  # FAMILY/NAME, or FAMILY: its files
        for name, info in listing(fs, f"{root}/{family}".rstrip("/")).items():
            parts = f"{family}/{name}".strip("/").split("/")
            if "/".join(parts[:2]).startswith(under):
                runs["/".join(parts[: min(2, len(parts) - 1)])]["/".join(parts[2:] or parts[1:])] = info

        def fetch_one(run: str) -> None:
            with suppress(filelock.Timeout), _locked(folder / run):
                _tell_lease(folder / run, runs[run])
                fetch_run(fs, f"{root}/{run}", folder / run, runs[run], whole=whole)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch_one, runs.keys() - {""}))


@contextmanager
def working(folder: Path) -> Iterator[None]:
    """Work on a run: where its folder is of a mirror, fetch it whole, publish it every PUBLISH_SECONDS and at the end.

    Meanwhile it is this machine's alone, see `leases.lease`. Raises StoreError before anything is done where another
    machine works on it, finished it with other results, or the store cannot be reached; and at the end, with nothing
    lost, where the last of it could not be published: it is `unpublished`, and will be with the next `working`.
    """
    url = _url(folder.parent.parent)
    if url is None:
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(_locked(folder))
        except filelock.Timeout:
            raise BusyError("another process here trains it: wait for that one, or stop it") from None
        with _reaching(url) as (fs, root):
            run = f"{root}/{folder.parent.name}/{folder.name}"
            mine = held.enter_context(lease(fs, run, folder / ".token"))
            (folder / LEASED).unlink(missing_ok=True)
            if not fetch_run(fs, run, folder, listing(fs, run), whole=True):
                raise StoreError(f"{run} was finished elsewhere, with other results than {folder}: remove one of them")
        (folder / UNPUBLISHED).touch()
        try:
            with every(PUBLISH_SECONDS, lambda: publish_run(fs, run, folder, mine)):
                yield
        finally:
            with _reaching(url):
                _try_again(lambda: publish_run(fs, run, folder, mine))
            (folder / UNPUBLISHED).unlink()


def unpublished(folder: Path) -> bool:
    """Whether a run's folder may hold what its store elsewhere does not."""
    return (folder / UNPUBLISHED).exists()


def leased(folder: Path) -> bool:
    """Whether another machine trained the run when its store was last looked at, less than LEASE_SECONDS ago."""
    with suppress(FileNotFoundError):
        return time.time() - (folder / LEASED).stat().st_mtime < LEASE_SECONDS
    return False


def publish_run_folder(folder: Path) -> None:
    """Publish what is new in a run's folder; nothing where the store is here. Raises as `working`."""
    with working(folder):
        pass


def publish(folder: Path, *names: str) -> None:
    """Copy pages of a mirror, by their names in it, to its store; nothing where the folder is none, or a page missing.

    For what lies beside the runs; a run itself is published by `working`.
    """
    if (url := _url(folder)) is not None:
        with _reaching(url) as (fs, root):
            for name in names:
                if (folder / name).exists():
                    put(fs, folder / name, f"{root}/{name}")


# --- the store ---


def _url(folder: Path) -> str | None:
    # In a sweep's kernel there is no store elsewhere: its worker does what is to be done.
    with suppress(FileNotFoundError, NotADirectoryError):
        return None if "SEQAE_RUN" in os.environ else (folder / MARK).read_text(encoding="utf-8")
    return None


@contextmanager
def _reaching(url: str) -> Iterator[tuple[Any, str]]:
    try:
        from fsspec.core import url_to_fs  # its own configuration says with what credentials, and where a server is

        fs, root = url_to_fs(url)
        yield fs, root.rstrip("/")
    except StoreError:
        raise
    except ImportError as error:
        package = PACKAGES.get(url.partition("://")[0])
        advice = f"pip install {package}" if package else "install that package"
        raise StoreError(f"{url}: {error}; {advice}") from None
    except Exception as error:  # every kind of store has its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{url} cannot be reached: {reason}; nothing is lost: see {store_folder(url)}") from error


def _try_again(act: Callable[[], None]) -> None:
    for seconds in (1, 5):
        try:
            return act()
        except StoreError:
            raise
        except Exception:  # what the network does may be over in a moment
            time.sleep(seconds)
    return act()


# --- one run ---


def _locked(folder: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(folder / ".publishing", timeout=0)  # makes the folder


def _tell_lease(folder: Path, theirs: Mapping[str, Any]) -> None:
    token = folder / ".token"
    own = PREFIX + token.read_text() if token.exists() else ""  # left by a process that died here: the lock is ours
    when = max((modified(theirs[name]) for name in theirs if name.startswith(PREFIX) and name != own), default=0.0)
    (folder / LEASED).unlink(missing_ok=True)
    if when:
        (folder / LEASED).touch()
        os.utime(folder / LEASED, (when, when))
