"""Many runs: which ones parameter files define, and their notebooks executed by the workers of a Dask cluster.

Here or on a cluster it is the same: an embedded LocalCluster where no scheduler is named. What became of a run is
read from its run.yaml, never from its notebook.
"""

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import dask.config
from dask.system import CPU_COUNT
from distributed import Client, Future, LocalCluster, wait
from distributed.scheduler import KilledWorker

from seqae.cells import family_defaults
from seqae.compare import beside_others
from seqae.config import read_yaml
from seqae.kernels import StoppedError, execute_notebook, stop_kernels
from seqae.naming import project_root
from seqae.report import Facts, IndexRow, advice, render_notebook, write_index
from seqae.runs import Run, RunError, open_run
from seqae.stores import fetch, mirror, refresh, unpublished, working
from seqae.transfer import StoreError

UNPUBLISHED = "not all of it is in the store yet"

FILES = (
    "notebook.ipynb",
    "run.yaml",
    "metrics.csv",
    "test.csv",
    "frames.gif",
    "model.safetensors",
)  # linked in reports
LIBRARIES = ("OMP", "MKL", "OPENBLAS")


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
        return {"waiting": "new", "running": "another process trains it"}[self.run.status]


@dataclass(frozen=True)
class Outcome:
    """How one execution ended; reason: why it failed, None when the run is done."""

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
    try:
        with working(here.run.folder):  # fetched by now: another machine may have done it since it was planned
            reason = None if here.why() in (None, UNPUBLISHED) else _execute(here)
    except StoreError as error:
        reason = str(error)
    return Outcome(item.run, reason, time.monotonic() - began)


def _run_here(item: Planned) -> Run:
    if "://" not in item.store:
        return item.run
    return replace(item.run, folder=mirror(item.store) / item.run.family / item.run.name)


def _execute(item: Planned) -> str | None:
    run = item.run
    if not _free(run):
        return "another process trains it: wait for that one, or stop it"
    try:
        reason = execute_notebook(
            item.notebook,
            run.folder / "notebook.ipynb",
            name=f"{run.family}/{run.name}",
            parameters=item.given,
            environment={"SEQAE_STORE": str(run.folder.parents[1]), "SEQAE_RUN": run.name},
        )
    except StoppedError:
        return "stopped"
    if reason is None and run.status != "done":
        reason = f"the notebook ended without training this run: it must open family {run.family!r} and call train()"
    return _conclude(run, reason)


def _conclude(run: Run, reason: str | None) -> str | None:
    # Whatever is wrong here, a full disk or output that cannot be rendered, is a reason, not an error of the sweep.
    try:
        if reason is not None and _free(run):
            run.fail(reason)
        error = reason and f"{reason}\n{advice(reason)}"
        facts = Facts(f"{run.family}/{run.name}", run.status, run.verdict, run.facts(), error, FILES)
        render_notebook(run.folder / "notebook.ipynb", run.folder / "report.html", facts)
    except Exception as error:
        return reason or f"no report: {type(error).__name__}: {error}"
    return reason


def _conclude_lost(run: Run, reason: str) -> str | None:
    # Whose worker died leaves a lease in a store elsewhere, if it was of another machine: then it has to run out.
    try:
        with working(run.folder):
            return _conclude(run, reason)
    except StoreError:
        return reason


def _stop(items: Iterable[Planned]) -> None:
    stop_kernels({_run_here(item).folder / "notebook.ipynb" for item in items})


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
) -> list[Outcome]:
    """Execute planned runs in `jobs` processes here, or on the workers of the scheduler at `cluster`.

    finished: called after each. tick: about once a second, with those under way. On KeyboardInterrupt their kernels
    are killed; the same sweep goes on from their checkpoints.
    """
    waiting, running, outcomes, lost = deque(planned), dict[Future, Planned](), [], Counter[Path]()
    with _client(min(jobs, len(planned)), max(1, CPU_COUNT // jobs), cluster) as client:
        try:
            while waiting or running:
                # As many as there are slots: a restarted worker would get nothing that queues at another one.
                slots = max(1, sum(client.nthreads().values()))
                while waiting and len(running) < slots:
                    item = waiting.popleft()
                    running[client.submit(execute, item, pure=False)] = item
                tick([item.run for item in running.values()])
                with suppress(TimeoutError):
                    wait(list(running), timeout=1, return_when="FIRST_COMPLETED")
                for future in [future for future in running if future.done()]:
                    item = running.pop(future)
                    error = future.exception()
                    if isinstance(error, KilledWorker):
                        lost[item.run.folder] += 1
                        if lost[item.run.folder] == 1:
                            waiting.appendleft(item)  # once more, from its checkpoint
                            continue
                        error = RuntimeError("its worker process died twice: killed, or out of memory")
                    outcome = Outcome(item.run, _conclude_lost(item.run, str(error)), 0.0) if error else future.result()
                    future.release()  # dask makes a result anew when the worker that holds it dies
                    with suppress(StoreError):  # the next command shows it
                        refresh(item.run.folder.parents[1], f"{item.run.family}/{item.run.name}")
                    outcomes.append(outcome)
                    finished(outcome)
        except KeyboardInterrupt:
            with suppress(Exception):
                client.run(_stop, list(running.values()), on_error="ignore")
            raise
    return outcomes


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
            preload=["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],  # Ctrl-C is the client's alone
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
    beside = (notebook.name, page.with_suffix(".gif").name)
    render_notebook(notebook, page, Facts(title, "failed" if reason else "done", None, rows, reason, beside))
    return reason


def update_index(store: Path) -> None:
    """Rewrite index.html of a store from the run folders and comparisons in it."""
    rows = [_index_row(file.parent, file.stat().st_mtime_ns) for file in sorted(store.glob("*/*/run.yaml"))]
    pages = sorted(store.glob("*/compare.html"))
    write_index(store / "index.html", rows, [(page.parent.name, page.relative_to(store).as_posix()) for page in pages])


def _index_row(folder: Path, recorded: int) -> IndexRow:
    # A run's record is read once for each state of it; whether its process lives and its report is there, each time.
    row = _recorded_row(folder, recorded)
    if row.status == "running":
        with suppress(RunError):
            row = replace(row, status=Run.load(folder).status)
    page = "report.html" if (folder / "report.html").exists() else "run.yaml"
    return replace(row, href=f"{row.family}/{row.name}/{page}")


@lru_cache(maxsize=10_000)
def _recorded_row(folder: Path, recorded: int) -> IndexRow:
    family, name = folder.parts[-2:]
    try:
        run = Run.load(folder)
        record = run.record()
    except (RunError, ValueError) as error:  # damaged, or of another version: say so, and show the others
        return IndexRow(family, name, "", "failed", verdict=str(error))
    return IndexRow(
        family,
        name,
        href="",
        status=record.get("status", "waiting"),
        verdict=record.get("verdict"),
        metrics=record.get("results", {}),
        thumbnail=folder / "frames.png",
        started=record.get("started", "")[:16].replace("T", " "),
        duration_s=record.get("seconds"),
        parameters={key: str(value) for key, value in run.differs.items()},
        beside=beside_others(run) if record.get("status") == "done" else None,
    )
