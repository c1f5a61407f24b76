"""Many runs: which ones parameter files define, and their notebooks executed by the workers of a Dask cluster.

Here or on a cluster it is the same: an embedded LocalCluster where no scheduler is named. What became of a run is
read from its run.yaml, never from its notebook.
"""

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import dask.config
import filelock
from dask.system import CPU_COUNT
from distributed import Client, Future, LocalCluster, wait
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from seqae.cells import family_defaults
from seqae.config import read_yaml
from seqae.kernels import GRACE, NOT_STARTED, StopKernels, StoppedError, execute_notebook, stop_kernels, stoppable
from seqae.naming import project_root
from seqae.report import Facts, IndexRow, render_notebook, write_index
from seqae.runs import Run, RunError, open_run
from seqae.stores import fetch, mirror, refresh, unpublished, working
from seqae.transfer import BusyError, StoreError

UNPUBLISHED = "not all of it is in the store yet"

LIBRARIES = ("OMP", "MKL", "OPENBLAS")
BUSY, STOPPED = "another process trains it", "its kernel was interrupted"
KILLED = "its worker process died twice: killed, or out of memory"
TRIES: Mapping[str | None, int] = {KILLED: 2, NOT_STARTED: 3, STOPPED: 10}  # executions that may end so; else 1
LOOK_SECONDS = 2.0  # between looks at a run that another process trains


@dataclass(frozen=True)
class Planned:
    """A run that a parameter file defines, and all that a worker needs to execute it."""

    run: Run
    notebook: str  # JSON text: a worker elsewhere needs the package alone
    given: Mapping[str, Any]
    edited: float  # when the notebook was: a finished run's report older than that is rendered again
    store: str = ""  # where its runs are, as given: the folder of a URL's mirror is another on each machine

    def why(self) -> str | None:
        """Why it has to be executed; None when it is done and has its report."""
        report = self.run.folder / "report.html"
        match self.run.status:
            case "interrupted":
                logged = progress(self.run)
                return f"interrupted after epoch {logged[0]}" if logged else "interrupted"
            case "failed":
                return f"failed: {self.run.record().get('reason')}"
            case "done" if not report.exists():
                return "has no report yet"
            case "done" if report.stat().st_mtime < self.edited:
                return "its notebook was edited"
            case "done":
                return UNPUBLISHED if unpublished(self.run.folder) else None
        return {"waiting": "new", "running": BUSY}[self.run.status]


@dataclass(frozen=True)
class Outcome:
    """How one execution ended; reason: why it failed, None when the run is done.

    After BUSY, and after what TRIES holds, `sweep` executes it again.
    """

    run: Run
    reason: str | None
    seconds: float


def plan(
    files: Iterable[Path], *, scale: str | None = None, given: Mapping[str, Any] | None = None, store: str | None = None
) -> list[Planned]:
    """The runs that parameter files, or all below folders, define; two files that define the same run count once.

    scale: a name in params/scale (and in scale/ of the folders below it, which win), or a file. given: what the
    command line says. Later ones win: notebook < scale < file < given, key by key as papermill merges. store: where
    runs are kept, else what the parameters, $SEQAE_STORE or the files' project say. Raises ValueError with the faults
    of all files at once, StoreError where a store elsewhere cannot be reached.
    """
    folder_of = cache(fetch)  # once for all that are in it
    faults: dict[str, list[Path]] = {}
    planned: dict[Path, Planned] = {}
    for named in files:
        for file in _parameter_files(named):
            try:
                item = _planned(file, scale, given or {}, store, folder_of)
                planned.setdefault(item.run.folder, item)
            except (ValueError, OSError) as error:
                faults.setdefault(str(error), []).append(file)
    if faults:
        more = {message: f" and {len(where) - 1} more" if len(where) > 1 else "" for message, where in faults.items()}
        lines = (f"{where[0]}{more[message]}: {message}" for message, where in faults.items())
        raise ValueError("\n".join(line.replace("\n", "\n  ") for line in lines))
    return list(planned.values())


def _parameter_files(named: Path) -> list[Path]:
    if not named.is_dir():
        return [named]
    return [file for file in sorted(named.rglob("*.yaml")) if file.parent.name != "scale"] or [named]


def _scale_files(file: Path, scale: str | None, root: Path) -> list[Path]:
    # params/scale/NAME.yaml, and over it those beside the file: a family of large frames has a quick scale of its own.
    if scale is None:
        return []
    if scale.endswith(".yaml"):
        return [Path(scale)]
    params = root / "params"
    folders = [folder for folder in file.resolve().parents if folder == params or params in folder.parents]
    found = [path for folder in folders[::-1] if (path := folder / "scale" / f"{scale}.yaml").exists()]
    return found or [params / "scale" / f"{scale}.yaml"]


def _planned(
    file: Path, scale: str | None, given: Mapping[str, Any], store: str | None, folder_of: Callable[[str], Path]
) -> Planned:
    if file.is_dir():
        raise ValueError("no *.yaml in this folder")
    root = project_root(file.parent)
    try:
        family = file.resolve().relative_to(root / "params").parts[:-1][0]
    except (ValueError, IndexError):
        raise ValueError("must lie in params/FAMILY/ of a project that has notebooks/FAMILY.ipynb") from None
    source = root / "notebooks" / f"{family}.ipynb"
    if not source.exists():
        raise ValueError(f"family {family} has no notebook {source}")
    layers = [*map(read_yaml, _scale_files(file, scale, root)), read_yaml(file), given]
    merged = {key: value for layer in layers for key, value in layer.items()}
    defaults = family_defaults(source)
    stores = (store, merged.pop("store", None), defaults.get("store"), os.environ.get("SEQAE_STORE"), root / "reports")
    where = str(next(place for place in stores if place))
    if defaults.get("store"):  # the kernel has it from $SEQAE_STORE, unless its own cell says another
        merged["store"] = where
    run = open_run(family, defaults, merged | {"store": str(folder_of(where))})
    return Planned(run, source.read_text(encoding="utf-8"), merged, source.stat().st_mtime, where)


def progress(run: Run) -> tuple[int, float] | None:
    """The last epoch logged and its objective on val, from the end of metrics.csv; None before there is one."""
    with suppress(OSError), (run.folder / "metrics.csv").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
        for line in reversed(file.read().decode().rpartition("\n")[0].splitlines()):
            if ",val,all,objective," in line:
                return int(line.split(",")[0]), float(line.split(",")[-1] or "nan")  # NaN is written as nothing
    return None


def execute(item: Planned) -> Outcome:
    """In a worker: execute the run's notebook, record a failure, render the report."""
    began, here = time.monotonic(), replace(item, run=_run_here(item))
    folder = here.run.folder
    try:
        with stoppable(folder / "notebook.ipynb"), _alone(folder), working(folder):
            # another may have done it since it was planned
            reason = None if here.why() in (None, UNPUBLISHED) else _execute(here)
    except BusyError:
        reason = BUSY
    except StoppedError:
        reason = STOPPED
    except StoreError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{type(error).__name__}: {error}"
    return Outcome(item.run, reason, time.monotonic() - began)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    # One sweep at a time executes and renders a run; who dies lets go. The lock of the run itself is its kernel's.
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".execution.lock", timeout=0):
            yield
    except filelock.Timeout:
        raise BusyError(BUSY) from None


def _run_here(item: Planned) -> Run:
    if "://" not in item.store:
        return item.run
    return replace(item.run, folder=mirror(item.store) / item.run.family / item.run.name)


def _execute(item: Planned) -> str | None:
    run = item.run
    if not _free(run):
        return BUSY
    if run.status != "done":  # else, trained but killed before it is rendered, it would have the report of a failure
        (run.folder / "report.html").unlink(missing_ok=True)
    for left in [*run.folder.glob(".notebook.ipynb.*"), *run.folder.glob(".report.html.*")]:
        left.unlink(missing_ok=True)  # by a worker that was killed while it wrote
    reason = execute_notebook(
        item.notebook,
        run.folder / "notebook.ipynb",
        name=f"{run.family}/{run.name}",
        parameters=item.given,
        environment={"SEQAE_STORE": str(run.folder.parents[1]), "SEQAE_RUN": run.name},
    )
    if reason is None and run.status != "done":
        reason = f"the notebook ended without training this run: it must open family {run.family!r} and call train()"
    return _conclude(run, reason)


def _conclude(run: Run, reason: str | None) -> str | None:
    # Whatever is wrong here, a full disk or output that cannot be rendered, is a reason, not an error of the sweep.
    try:
        if reason is not None and _free(run):
            run.fail(reason)
        error = reason and f"{reason}\nMend the cause; the next seqae run tries this run again."
        facts = Facts(f"{run.family}/{run.name}", run.status, run.verdict, run.facts(), error)
        render_notebook(run.folder / "notebook.ipynb", run.folder / "report.html", facts)
    except Exception as error:
        return reason or f"no report: {type(error).__name__}: {error}"
    return reason


def _conclude_lost(item: Planned, reason: str) -> str | None:
    # Whose worker died leaves a lease in a store elsewhere, if it was of another machine: then it has to run out.
    try:
        with _alone(item.run.folder), working(item.run.folder):
            return None if item.why() in (None, UNPUBLISHED) else _conclude(item.run, reason)
    except BusyError:
        return BUSY
    except (StoreError, OSError):
        return reason


def _free(run: Run) -> bool:
    # The kernel of a worker that died lives until it sees that, up to a second.
    deadline = time.monotonic() + 5
    while run.status == "running":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def sweep(
    planned: Collection[Planned],
    *,
    jobs: int,
    cluster: str | None = None,
    finished: Callable[[Outcome], None] = lambda outcome: None,
    tick: Callable[[list[Run]], None] = lambda running: None,
    busy: Callable[[Run], None] = lambda run: None,
) -> list[Outcome]:
    """Execute planned runs in `jobs` processes here, or on the workers of the scheduler at `cluster`.

    finished: called after each. tick: about once a second, with those under way. busy: called once for a run that
    another process trains; this one waits for that, and takes the run over if it is not done then. On
    KeyboardInterrupt the kernels are stopped; the same sweep goes on from their checkpoints. Raises RunError where the
    scheduler is lost.
    """
    running = dict[Future, Planned]()
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler is told once, below
    with _client(min(jobs, len(planned)), max(1, CPU_COUNT // jobs), cluster) as client:
        try:
            client.register_plugin(StopKernels())
            return _all_executed(client, planned, running, finished, tick, busy)
        except KeyboardInterrupt:
            _stop(client, running)
            raise
        except (CancelledError, CommClosedError):
            raise RunError(
                f"the scheduler at {cluster} is gone: start one again and give its address; the same command goes on "
                "from the last checkpoints"
            ) from None


def _all_executed(
    client: Client,
    planned: Collection[Planned],
    running: dict[Future, Planned],
    finished: Callable[[Outcome], None],
    tick: Callable[[list[Run]], None],
    busy: Callable[[Run], None],
) -> list[Outcome]:
    waiting, outcomes = deque(planned), list[Outcome]()
    tried = Counter[tuple[Path, str | None]]()  # a run's folder, how an execution of it ended
    elsewhere, next_look = list[Planned](), 0.0  # runs of other processes, and when to look after them
    while waiting or running or elsewhere:
        if not waiting and time.monotonic() >= next_look:
            waiting.extend(elsewhere)
            elsewhere, next_look = [], time.monotonic() + LOOK_SECONDS
        # As many as there are slots: a restarted worker would get nothing that queues at another one.
        slots = max(1, sum(client.nthreads().values()))
        while waiting and len(running) < slots:
            item = waiting.popleft()
            running[client.submit(execute, item, pure=False)] = item
        tick([item.run for item in running.values()])
        with suppress(TimeoutError):
            wait([*running], timeout=1, return_when="FIRST_COMPLETED") if running else time.sleep(1)
        for future in [future for future in running if future.done()]:
            item = running.pop(future)
            outcome = _outcome(future, item, killed_before=tried[item.run.folder, KILLED] > 0)
            tried[item.run.folder, outcome.reason] += 1
            if outcome.reason == BUSY:
                elsewhere.append(item)
                if tried[item.run.folder, BUSY] == 1:
                    busy(item.run)
            elif tried[item.run.folder, outcome.reason] < TRIES.get(outcome.reason, 1):
                waiting.appendleft(item)  # from its checkpoint
            else:
                with suppress(StoreError):  # the next command shows it
                    refresh(item.run.folder.parents[1], f"{item.run.family}/{item.run.name}")
                outcomes.append(outcome)
                finished(outcome)
    return outcomes


def _outcome(future: Future, item: Planned, *, killed_before: bool) -> Outcome:
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Outcome(item.run, _conclude_lost(item, KILLED) if killed_before else KILLED, 0.0)
    if error:
        return Outcome(item.run, _conclude_lost(item, str(error)), 0.0)
    outcome = future.result()
    future.release()  # dask makes a result anew when the worker that holds it dies
    return outcome


def _stop(client: Client, running: Mapping[Future, Planned]) -> None:
    def stop() -> None:
        with suppress(Exception):
            client.run(_stop_kernels_of, [*running.values()], on_error="ignore")

    Thread(target=stop, daemon=True).start()  # a worker may not answer
    with suppress(Exception):
        wait([*running], timeout=GRACE + 2)


def _stop_kernels_of(items: Iterable[Planned]) -> None:
    stop_kernels({_run_here(item).folder / "notebook.ipynb" for item in items})


@contextmanager
def _client(workers: int, threads: int, cluster: str | None) -> Iterator[Client]:
    if cluster is not None:
        if not cluster.startswith(("tcp://", "tls://")):
            raise ValueError(f"cluster must be the address of a scheduler, such as tcp://head:8786; not {cluster!r}")
        try:
            client = Client(cluster, timeout=10)
        except OSError as error:
            raise RunError(f"no scheduler answers at {cluster}: {error}") from None
        with client:
            yield client
        return
    with (
        # `sweep` itself counts deaths; workers need no profile of a thread that waits for a kernel
        dask.config.set({"distributed.scheduler.allowed-failures": 0, "distributed.worker.profile.enabled": False}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # its HTTP server: any free port, this machine only
            memory_limit=0,  # kernels take the memory, not workers
            silence_logs=logging.CRITICAL,
            env={f"{library}_NUM_THREADS": threads for library in LIBRARIES},
            preload=["from seqae.kernels import obey_signals; obey_signals()"],
        ) as local,
        Client(local) as client,
    ):
        yield client


def compare_runs(family: str, runs: Collection[Run], *, store: str | None = None) -> tuple[Path, str | None]:
    """Execute notebooks/compare/FAMILY.ipynb, or else compare.ipynb, on runs of a family, none: those it chooses; its
    page, and why it failed.
    """
    folder, notebooks = fetch(store, family) / family, project_root() / "notebooks"
    own = notebooks / "compare" / f"{family}.ipynb"
    source = own if own.exists() else notebooks / "compare.ipynb"
    if not any(folder.glob("*/run.yaml")):
        raise ValueError(f"no run of family {family!r} in {folder.parent}")
    if strangers := [run.name for run in runs if run.family != family]:
        raise ValueError(f"{strangers[0]} is no run of family {family}")
    page, parameters = folder / "compare.html", {"family": family, "runs": [run.name for run in runs]}
    rows = [("store", folder.parent.name)]
    return page, execute_page(
        source, page, title=f"{family}: comparison", rows=rows, store=folder.parent, parameters=parameters
    )


def execute_page(
    source: Path,
    page: Path,
    *,
    title: str,
    rows: Sequence[tuple[str, str]],
    store: Path,
    parameters: Mapping[str, Any],
) -> str | None:
    """Execute the notebook `source`, on `store`, into `page` (HTML) and the notebook beside it; why it failed, or None.

    title, rows: what stands at the top of the page.
    """
    if not source.exists():
        raise RunError(f"there is no {source}: do this in the folder of the project, or below it")
    notebook, text = page.with_suffix(".ipynb"), source.read_text(encoding="utf-8")
    environment = {"SEQAE_STORE": str(store)}
    reason = execute_notebook(text, notebook, name=title, parameters=parameters, environment=environment)
    render_notebook(notebook, page, Facts(title, "failed" if reason else "done", None, rows, reason))
    return reason


def update_index(store: Path) -> None:
    """Rewrite index.html of a store from the run folders and comparisons in it."""
    rows = [_index_row(file.parent) for file in sorted(store.glob("*/*/run.yaml"))]
    pages = sorted(store.glob("*/compare.html"))
    for left in store.glob(".index.html.*"):  # by a process that was killed while it wrote
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    write_index(store / "index.html", rows, [(page.parent.name, page.relative_to(store).as_posix()) for page in pages])


def _index_row(folder: Path) -> IndexRow:
    family, name = folder.parts[-2:]
    page = "report.html" if (folder / "report.html").exists() else "run.yaml"
    try:
        run = Run.load(folder)
        record, status = run.record(), run.status
    except (RunError, ValueError) as error:  # damaged, or of another version: say so, and show the others
        return IndexRow(family, name, f"{family}/{name}/{page}", "failed", verdict=str(error))
    return IndexRow(
        family,
        name,
        href=f"{family}/{name}/{page}",
        status=status,
        verdict=record.get("verdict"),
        metrics=record.get("results", {}),
        thumbnail=folder / "frames.png",
        started=record.get("started", ""),
        duration_s=record.get("seconds"),
        parameters={key: str(value) for key, value in run.differs.items()},
    )
