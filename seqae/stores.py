"""A store elsewhere, at an fsspec URL such as s3://bucket/runs, and its mirror in a folder here.

All that reads or writes run folders does so in the mirror (`naming.store_folder`). `fetch` brings there what others
made; `working` fetches a run whole, and publishes what becomes of it. A file in the mirror is that of the store where
size and time of modification agree: what is fetched or published gets the time that the store gave it.
"""

import csv
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from io import StringIO
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

import filelock
import yaml

from seqae.config import EXECUTION
from seqae.leases import LEASE_SECONDS, PREFIX, StoreError, every, lease, modified, on_disk
from seqae.naming import store_folder

PUBLISH_SECONDS = 10.0
MARK = ".seqae-store"  # in a mirror: the URL
UNPUBLISHED = ".unpublished"  # in a run's folder of a mirror: not all of it may be in the store yet
LEASED = ".leased"  # there: since when another machine has shown that it trains the run
CHECKPOINT = "checkpoint/state.pt"
TOLD = ("run.yaml", "metrics.csv", "test.csv", "performance.csv")  # these tell how far a run is
SHOWN = {*TOLD, "histograms.csv", "baselines.csv", "samples.npz", "frames.png", "report.html", "compare.html"}
RESOLUTION = 2e-6  # seconds: what a float keeps of a time of modification
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "ssh": "sshfs", "sftp": "paramiko", "az": "adlfs"}

Record = tuple[Mapping[str, Any], tuple[int, int], Any]  # see `record_of`


def fetch(store: str | None = None, under: str = "", *, whole: bool = False) -> Path:
    """The folder of a store (none: $SEQAE_STORE, else reports/); of one elsewhere its mirror, brought up to date.

    under: FAMILY or FAMILY/NAME: nothing else is looked at. whole: with models, checkpoints and notebooks, else only
    what tables, indexes and the planning of runs are made from. Raises StoreError; see `refresh`.
    """
    url = store or os.environ.get("SEQAE_STORE") or ""
    if "://" not in url:
        return store_folder(store)
    refresh(folder := mirror(url), under, whole=whole)
    return folder


def mirror(url: str) -> Path:
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
    with _reaching(url):
        fs, root = _connect(url)
        family = under.partition("/")[0]
        runs: dict[str, dict[str, Any]] = defaultdict(dict)  # FAMILY/NAME, or FAMILY: its files
        for name, info in _listing(fs, f"{root}/{family}".rstrip("/")).items():
            parts = f"{family}/{name}".strip("/").split("/")
            if "/".join(parts[:2]).startswith(under):
                runs["/".join(parts[: min(2, len(parts) - 1)])]["/".join(parts[2:] or parts[1:])] = info

        def fetch_run(run: str) -> None:
            with suppress(filelock.Timeout), _locked(folder / run):
                _tell_lease(folder / run, runs[run])
                _fetch_run(fs, f"{root}/{run}", folder / run, runs[run], whole=whole)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch_run, runs.keys() - {""}))


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
        with _reaching(url):
            try:
                held.enter_context(_locked(folder))
            except filelock.Timeout:
                raise StoreError("another process here trains it: wait for that one, or stop it") from None
            fs, root = _connect(url)
            run = f"{root}/{folder.parent.name}/{folder.name}"
            mine = held.enter_context(lease(fs, run, folder / ".token"))
            (folder / LEASED).unlink(missing_ok=True)
            if not _fetch_run(fs, run, folder, _listing(fs, run), whole=True):
                raise StoreError(f"{run} was finished elsewhere, with other results than {folder}: remove one of them")
        (folder / UNPUBLISHED).touch()
        try:
            with every(PUBLISH_SECONDS, lambda: _publish(fs, run, folder, mine)):
                yield
        finally:
            with _reaching(url):
                _try_again(lambda: _publish(fs, run, folder, mine))
            (folder / UNPUBLISHED).unlink()


def unpublished(folder: Path) -> bool:
    """Whether a run's folder may hold what its store elsewhere does not."""
    return (folder / UNPUBLISHED).exists()


def leased(folder: Path) -> bool:
    """Whether another machine trained the run when its store was last looked at, less than LEASE_SECONDS ago."""
    with suppress(FileNotFoundError):
        return time.time() - (folder / LEASED).stat().st_mtime < LEASE_SECONDS
    return False


def publish(folder: Path, *names: str) -> None:
    """Copy pages of a mirror, by their names in it, to its store; nothing where the folder is none, or a page missing.

    For what lies beside the runs; a run itself is published by `working`.
    """
    if (url := _url(folder)) is not None:
        with _reaching(url):
            fs, root = _connect(url)
            for name in names:
                if (folder / name).exists():
                    _put(fs, folder / name, f"{root}/{name}")


def compare_records(one: Record, other: Record) -> Literal["one", "other", "same", "different"]:
    """Which of two records of one run is further, `one` or `other`; `different`: both were trained to the end, with
    other results, or they are not of the same parameters.
    """
    (parameters, far, results), (parameters_2, far_2, results_2) = one, other
    if (parameters and parameters_2 and parameters != parameters_2) or (far[0] and far_2[0] and results != results_2):
        return "different"
    return "same" if far == far_2 else "one" if far > far_2 else "other"


def record_of(file: Callable[[str], Path], *, resumable: bool) -> Record:
    """What a run's folder tells: the parameters; how far it is (2: done, 1: trained, 0: not yet; the epochs that it can
    go on from); and what it recorded but the time it took. file: where those of these names lie, or would.
    """
    texts = {name: file(name).read_text(encoding="utf-8") if file(name).exists() else "" for name in TOLD}
    try:
        record = yaml.safe_load(texts["run.yaml"]) or {}
        parameters = {key: value for key, value in record.get("parameters", {}).items() if key not in EXECUTION}
        trained = 2 if record.get("status") == "done" else int("results" in record)
    except (yaml.YAMLError, AttributeError):  # damaged: any other is further
        parameters, trained = {}, 0
    rows = [*csv.DictReader(StringIO(texts["metrics.csv"].rpartition("\n")[0]))]  # whole lines
    epochs = int(rows[-1]["epoch"]) if rows and (trained or resumable) else 0
    results = [{**row, "seconds": None} for row in rows], texts["test.csv"], texts["performance.csv"]
    return parameters, (trained, epochs), results


def is_passing(name: str) -> bool:
    """Whether a file of a run's folder is only for the process that works there: hidden or temporary."""
    return name.endswith(".tmp") or any(part.startswith(".") for part in name.split("/"))


# --- the store ---


def _url(folder: Path) -> str | None:
    # In a sweep's kernel there is no store elsewhere: its worker does what is to be done.
    with suppress(FileNotFoundError, NotADirectoryError):
        return None if "SEQAE_RUN" in os.environ else (folder / MARK).read_text(encoding="utf-8")
    return None


def _connect(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # its own configuration says with what credentials, and where a server is

    fs, root = url_to_fs(url)
    return fs, root.rstrip("/")


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except ImportError as error:
        package = PACKAGES.get(url.partition("://")[0])
        advice = f"pip install {package}" if package else "install that package"
        raise StoreError(f"{url}: {error}; {advice}") from None
    except Exception as error:  # every kind of store has its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{url} cannot be reached: {reason}; nothing is lost: see {store_folder(url)}") from error


def _listing(fs: Any, path: str) -> dict[str, Any]:
    # Every file below a folder, by its path from there; none where there is no such folder.
    fs.invalidate_cache()
    return {name.removeprefix(path).lstrip("/"): info for name, info in fs.find(path, detail=True).items()}


def _put(fs: Any, file: Path, path: str) -> None:
    if not on_disk(fs):
        fs.put_file(str(file), path)
        return
    folder, _, name = path.rpartition("/")
    fs.makedirs(folder, exist_ok=True)
    fs.put_file(str(file), temporary := f"{folder}/.{name}.tmp")
    fs.mv(temporary, path)


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


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".publishing", timeout=0):
        yield


def _tell_lease(folder: Path, theirs: Mapping[str, Any]) -> None:
    token = folder / ".token"
    own = PREFIX + token.read_text() if token.exists() else ""  # left by a process that died here: the lock is ours
    when = max((modified(theirs[name]) for name in theirs if name.startswith(PREFIX) and name != own), default=0.0)
    (folder / LEASED).unlink(missing_ok=True)
    if when:
        (folder / LEASED).touch()
        os.utime(folder / LEASED, (when, when))


def _fetch_run(fs: Any, run: str, folder: Path, theirs: Mapping[str, Any], *, whole: bool) -> bool:
    # False where it is finished both here and there, with other results. What tells how far it is comes first.
    new = [name for name in theirs if not is_passing(name) and (whole or name in SHOWN)]
    new = sorted((name for name in new if _differs(_state(folder / name), theirs[name])), key=_order)
    if not new:
        return True
    stage = folder / ".fetch"

    def bring(names: Iterable[str]) -> None:
        for name in names:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # removed since it was listed
                fs.get_file(f"{run}/{name}", str(stage / name))
                os.utime(stage / name, (modified(theirs[name]),) * 2)

    def told(name: str) -> Path:
        return (stage if name in new or name not in theirs else folder) / name

    with _emptied(stage):
        bring(name for name in reversed(new) if name in TOLD)
        here = record_of(folder.joinpath, resumable=(folder / CHECKPOINT).exists())
        further = compare_records(here, record_of(told, resumable=CHECKPOINT in theirs))
        if further in ("one", "different"):
            return further == "one"
        if further == "same":
            new = [name for name in new if _older(_state(folder / name), theirs[name])]
        bring(name for name in reversed(new) if name not in TOLD)
        for name in new:
            if (stage / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (stage / name).replace(folder / name)
        if further == "other" and not (whole and CHECKPOINT in theirs):
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # one that is less far
    return True


def _publish(fs: Any, run: str, folder: Path, mine: str) -> None:
    # Checkpoint and run.yaml are taken before all else and sent after it: what resumes from a checkpoint has the logs
    # up to there, and what run.yaml says is true of what lies beside it, wherever this breaks off.
    theirs = _listing(fs, run)
    if mine.rpartition("/")[2] not in theirs:
        raise StoreError(f"another machine took {run} over; what was trained here since then stays in {folder}")
    files: dict[str, tuple[Path, os.stat_result]] = {}
    with _emptied(folder / ".publish") as stage:
        for name in (CHECKPOINT, "run.yaml"):
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                os.link(folder / name, stage / name)  # the file itself: it is replaced, never written to
                files[name] = stage / name, (stage / name).stat()
        for file in folder.rglob("*"):
            name = file.relative_to(folder).as_posix()
            if not is_passing(name) and name not in (CHECKPOINT, "run.yaml") and (state := _state(file)):
                files[name] = file, state
        new = [name for name, (_, state) in files.items() if _differs(state, theirs.get(name))]
        for name in sorted(new, key=lambda name: (_order(name), -files[name][1].st_size)):
            _put(fs, files[name][0], f"{run}/{name}")
        if CHECKPOINT in theirs and CHECKPOINT not in files:
            fs.rm_file(f"{run}/{CHECKPOINT}")
        sent = _listing(fs, run) if new else {}
        for name in new:
            source, state = files[name]
            now = _state(source)
            if name in sent and now and (now.st_size, now.st_mtime_ns) == (sent[name]["size"], state.st_mtime_ns):
                os.utime(source, (modified(sent[name]),) * 2)


def _order(name: str) -> tuple[bool, bool]:
    return name == CHECKPOINT, name == "run.yaml"


def _state(file: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return state if S_ISREG((state := file.stat()).st_mode) else None
    return None


def _differs(state: os.stat_result | None, info: Mapping[str, Any] | None) -> bool:
    if state is None or info is None or state.st_size != info["size"]:
        return True
    return abs(state.st_mtime - modified(info)) > RESOLUTION


def _older(state: os.stat_result | None, info: Mapping[str, Any]) -> bool:
    return state is None or state.st_mtime < modified(info) - RESOLUTION


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)  # what a process left that died
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
