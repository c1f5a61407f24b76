"""The local mirror of a remote store, a folder for any fsspec URL such as s3://bucket/runs.

All code reads and writes run folders in the mirror (`store_folder`). `fetch` copies there what other
machines made; `working` fetches one run whole and publishes what becomes of it.
"""

import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import filelock

from seqae.files import replace_text
from seqae.stores.leases import LEASE_SECONDS, PREFIX, every, lease
from seqae.stores.location import public_url, store_folder, store_location, without_credentials
from seqae.stores.locks import MachineLock
from seqae.stores.transfer import BusyError, StoreError, fetch_run, listing, modified, publish_run, put

PUBLISH_SECONDS = 10.0  # between two looks at what is new in a run's folder
MARK = ".seqae-store"  # a file of a mirror: holds the URL, without credentials
UNPUBLISHED_MARK = ".unpublished"  # a file of a run's folder in a mirror: not all of it may be in the store yet
LEASED_MARK = ".leased"  # another: its time is that of another machine's lease on the run
_given: dict[Path, str] = {}  # mirror -> its URL as this process was given it, with credentials; no file holds them
STORE_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "ssh": "sshfs", "sftp": "paramiko", "az": "adlfs"}


def fetch(store: str | None = None, under: str = "", *, whole: bool = False) -> Path:
    """The folder of a store's runs, by default that of `store_location`. For a URL the mirror, brought up to date.

    under: FAMILY or FAMILY/NAME, to fetch only what is there. whole: with models, checkpoints and notebooks; otherwise
    only what tables, the index and planning need. Raises StoreError if the store cannot be read; see `refresh`.
    """
    where = store_location(store)
    if "://" not in where:
        return store_folder(where)
    refresh(folder := mirror_folder(where), under, whole=whole)
    return folder


def located(run: Path) -> Path:
    """The folder of a run, brought up to date. run: its path from here, or else FAMILY/NAME in the store.

    Raises FileNotFoundError if there is neither, and StoreError as `refresh`.
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
    """Make a folder if it is missing. Raises OSError, which says what to do, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}; choose another folder as store") from None


def mirror_folder(url: str) -> Path:
    """The folder of the mirror of the store at `url`; it is made if it is missing."""
    folder, public = store_folder(url), public_url(url)
    _given[folder] = url
    if not (folder / MARK).exists():
        if (
            public != url
        ):  # until November 2026 the name of a mirror depended on its credentials, and its mark held them
            for older in [mark.parent for mark in folder.parent.glob(f"*/{MARK}") if mark.read_text("utf-8") == url]:
                older.rename(folder)
        folder.mkdir(parents=True, exist_ok=True)
    if _mark(folder) != public:
        replace_text(folder / MARK, public)
    return folder


def refresh(folder: Path, under: str = "", *, whole: bool = False) -> None:
    """Bring a mirror up to date, as `fetch` does. Does nothing if the folder is not a mirror.

    A run stays as it is here if it is further along here, was finished in both with other results, or is being worked
    on here. What was deleted in the store stays here. Raises StoreError if the store cannot be read.
    """
    url = _url(folder)
    if url is None:
        return
    with _reaching(url) as (fs, root):
        family = under.partition("/")[0]
        runs: dict[str, dict[str, Any]] = defaultdict(dict)  # FAMILY/NAME of a run, or FAMILY: its files
        for name, info in listing(fs, f"{root}/{family}".rstrip("/")).items():
            parts = f"{family}/{name}".strip("/").split("/")
            hidden = any(part.startswith(".") for part in parts[: min(2, len(parts) - 1)])  # no family, no run
            if "/".join(parts[:2]).startswith(under) and not hidden:
                runs["/".join(parts[: min(2, len(parts) - 1)])]["/".join(parts[2:] or parts[1:])] = info

        def fetch_one(run: str) -> None:
            with suppress(filelock.Timeout), mirror_lock(folder / run):
                _tell_lease(folder / run, runs[run])
                try:
                    fetch_run(fs, f"{root}/{run}", folder / run, runs[run], whole=whole)
                except StoreError as error:  # of this run alone
                    warnings.warn(f"{run} is not fetched: {error}", stacklevel=2)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch_one, runs.keys() - {""}))


@contextmanager
def working(folder: Path) -> Iterator[None]:
    """Work on a run. In a mirror: fetch it whole first, publish it every PUBLISH_SECONDS and once more at the end.

    In the meantime this machine holds the run's lease; see `leases.lease`. Raises StoreError before anything is done
    if another machine works on the run (BusyError), finished it with other results, or the store cannot be reached.
    Raises it at the end, with nothing lost, if the last files could not be published: the run then is `unpublished`,
    and the next `working` publishes it. Outside mirrors it does nothing.
    """
    url = _url(folder.parent.parent)
    if url is None:
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(mirror_lock(folder))
        except filelock.Timeout:
            raise BusyError("another process here trains it: wait for that one, or stop it") from None
        with _reaching(url) as (fs, root):
            run = f"{root}/{folder.parent.name}/{folder.name}"
            mine = held.enter_context(lease(fs, run, folder / ".token"))
            (folder / LEASED_MARK).unlink(missing_ok=True)
            if not fetch_run(fs, run, folder, listing(fs, run), whole=True):
                raise StoreError(f"{run} was finished elsewhere, with other results than {folder}: remove one of them")
        (folder / UNPUBLISHED_MARK).touch()
        try:
            with every(PUBLISH_SECONDS, lambda: publish_run(fs, run, folder, mine)):
                yield
        finally:
            with _reaching(url):
                _try_again(lambda: publish_run(fs, run, folder, mine))
            (folder / UNPUBLISHED_MARK).unlink()


def mirror_lock(folder: Path) -> filelock.BaseFileLock:
    """The lock of who fetches or publishes a run's folder in a mirror. Acquiring it makes the folder."""
    return MachineLock(folder / ".publishing", timeout=0)


def unpublished(folder: Path) -> bool:
    """Whether a run's folder in a mirror may hold something that its store does not."""
    return (folder / UNPUBLISHED_MARK).exists()


def mark_unpublished(folder: Path) -> None:
    """Say that a run's folder gets what its store does not have, until it is published. Does nothing outside mirrors.

    For who writes there and publishes later: nobody empties the mirror meanwhile.
    """
    if (folder.parents[1] / MARK).exists():
        (folder / UNPUBLISHED_MARK).touch()


def leased_elsewhere(folder: Path) -> bool:
    """Whether another machine trains the run, as far as the last `refresh` knows, and its lease has not expired."""
    with suppress(FileNotFoundError):
        return time.time() - (folder / LEASED_MARK).stat().st_mtime < LEASE_SECONDS
    return False


def publish_run_folder(folder: Path) -> None:
    """Publish what is new in a run's folder. Does nothing outside mirrors. Raises StoreError as `working`."""
    with working(folder):
        pass


def publish(folder: Path, *names: str) -> None:
    """Copy files of a mirror that lie beside the runs, such as index.html, to its store. Runs need `working`.

    names: their paths in the mirror; missing ones are left out. Does nothing if the folder is not a mirror.
    """
    if (url := _url(folder)) is not None:
        with _reaching(url) as (fs, root):
            for name in names:
                if (folder / name).exists():
                    put(fs, folder / name, f"{root}/{name}")


# --- the store ---


def _mark(folder: Path) -> str | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return (folder / MARK).read_text(encoding="utf-8")
    return None


def _url(folder: Path) -> str | None:
    # The URL of the store that the folder mirrors; None if it is no mirror. Credentials are those that this process was
    # given with the URL, or the ones in $SEQAE_STORE if that is this store.
    if (mark := _mark(folder)) is None:
        return None
    usual = os.environ.get("SEQAE_STORE", "")
    known = [_given.get(folder.resolve(), mark), usual if public_url(usual) == mark else mark]
    return next((url for url in known if url != mark), mark)


@contextmanager
def _reaching(url: str) -> Iterator[tuple[Any, str]]:
    try:
        from fsspec.core import url_to_fs  # credentials and the server's address are in fsspec's own configuration

        fs, root = url_to_fs(url)
        yield fs, root.rstrip("/")
    except StoreError as error:
        error.args = (without_credentials(str(error), url),)
        raise
    except ImportError as error:
        package = STORE_PACKAGES.get(url.partition("://")[0])
        advice = f"pip install {package}" if package else "install that package"
        raise StoreError(without_credentials(f"{url}: {error}; {advice}", url)) from None
    except Exception as error:  # each kind of store raises errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"{url} cannot be reached: {reason}; nothing is lost: see {store_folder(url)}"
        cause = error if public_url(url) == url else None  # a traceback shows the cause as well
        raise StoreError(without_credentials(message, url)) from cause


def _try_again(act: Callable[[], None]) -> None:
    for seconds in (1, 5):
        try:
            return act()
        except StoreError:
            raise
        except Exception:  # network errors may be over in a moment
            time.sleep(seconds)
    return act()


# --- one run ---


def _tell_lease(folder: Path, theirs: Mapping[str, Any]) -> None:
    token = folder / ".token"
    own = PREFIX + token.read_text() if token.exists() else ""  # left by a dead process: the caller holds the lock
    when = max((modified(theirs[name]) for name in theirs if name.startswith(PREFIX) and name != own), default=0.0)
    (folder / LEASED_MARK).unlink(missing_ok=True)
    if when:
        (folder / LEASED_MARK).touch()
        os.utime(folder / LEASED_MARK, (when, when))
