"""Execute many runs on the workers of a Dask cluster. Runs of workers and machines that die are executed again."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from math import inf
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Thread
from typing import Any

from distributed import CancelledError, Client, Future, wait
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from seqae.runs import Run, RunError, progress
from seqae.stores import StoreError, refresh
from seqae.sweeps.execution import SHARED_SECONDS, STOPPED, Outcome, execute, record_lost, run_here
from seqae.sweeps.notebooks import CHECKPOINT_GRACE_SECONDS, StopKernels, stop_kernels
from seqae.sweeps.planning import BUSY, Planned

KILLED = (
    "its worker process died twice and no epoch ended in between: killed, or out of memory; the same command goes on "
    "from the last checkpoint"
)
LOST = "its worker died or was cut off"
TRIES: Mapping[str | None, float] = {LOST: inf, STOPPED: 10}  # reason -> executions; 1 for others
BUSY_SECONDS = 2.0  # between two tries of a run that another process trains


def sweep(
    planned: Collection[Planned],
    client: Client,
    *,
    jobs: int | None = None,
    per_gpu: int = 1,
    finished: Callable[[Outcome], None] = lambda outcome: None,
    tick: Callable[[list[Run]], None] = lambda running: None,
    busy: Callable[[Run], None] = lambda run: None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> list[Outcome]:
    """Execute planned runs on the workers of a Dask client, one run at a time on each worker.

    jobs: the largest number of runs at a time. per_gpu: how many runs may share a GPU. finished: called after each run.
    tick: called about once a second with the runs in progress. busy: called once for a run that another process trains;
    the sweep waits, and takes the run over if it is not done then. tell: called with a sentence for each run that is
    executed again, and for each worker that gets none: it has another seqae, or lacks packages, clips or the store.

    On KeyboardInterrupt the kernels are stopped. The same sweep, started again, resumes from their checkpoints. Raises
    RunError if the scheduler is lost, or if no worker gets a run.
    """
    running, waiting, outcomes = dict[Future, Planned](), deque(planned), list[Outcome]()
    tried = Counter[tuple[Path, str | None]]()  # executions by the run's folder and the reason why they failed
    lost_at = dict[Path, int]()  # how many epochs a run had logged when its worker last died
    elsewhere, next_try = list[Planned](), 0.0  # runs that other processes train, and when to try them again
    others = dict[str, str]()  # addresses of workers that get no run, and why
    with _marked(planned) as marks, _cancelled_cleanly(client, running):
        client.register_plugin(StopKernels())
        while waiting or running or elsewhere:
            if not waiting and time.monotonic() >= next_try:
                waiting.extend(elsewhere)
                elsewhere, next_try = [], time.monotonic() + BUSY_SECONDS
            # Submit one run per slot. Runs queued at one worker would not move to a worker that starts later.
            threads, where = _usable(client, others, running)
            while waiting and len(running) < min(jobs or len(planned), max(1, threads)):
                item = waiting.popleft()
                mark = marks.get(item.run.folder.parents[1])
                running[client.submit(execute, item, per_gpu, mark, pure=False, **where)] = item
            tick([item.run for item in running.values()])
            with suppress(TimeoutError):
                wait([*running], timeout=1, return_when="FIRST_COMPLETED") if running else time.sleep(1)
            for future in [future for future in running if future.done()]:
                item = running.pop(future)
                outcome = _outcome(future, item, lost_at)
                tried[item.run.folder, outcome.reason] += 1
                if worker := outcome.refused_by:
                    waiting.appendleft(item)
                    others[worker] = str(outcome.reason)
                    tell(f"worker {worker} gets no run, as {others[worker]}")
                elif outcome.reason == BUSY:
                    elsewhere.append(item)
                    if tried[item.run.folder, BUSY] == 1:
                        busy(item.run)
                elif tried[item.run.folder, outcome.reason] < TRIES.get(outcome.reason, 1):
                    waiting.appendleft(item)  # it resumes from its checkpoint
                    tell(_again(outcome))
                else:
                    outcomes.append(_as_seen_here(outcome, item))
                    finished(outcomes[-1])
    return outcomes


def _usable(client: Client, others: Mapping[str, str], running: Collection[Future]) -> tuple[int, dict[str, Any]]:
    # How many threads the workers have that are not in `others`, and what tells Dask to use these.
    threads = client.nthreads()
    usable = {worker: count for worker, count in threads.items() if worker not in others}
    if threads and not usable and not running:
        raise RunError(f"no worker gets a run: {next(iter(others.values()))}")
    # Others are allowed where all of these die: they refuse, while Dask would wait for the dead.
    chosen = {"workers": [*usable], "allow_other_workers": True} if others and usable else {}
    return sum(usable.values()), chosen


@contextmanager
def _marked(planned: Iterable[Planned]) -> Iterator[Mapping[Path, Path]]:
    # Of each store that is a folder a file in it, as long as the sweep lasts, by which workers tell that they see it.
    with ExitStack() as files:
        marks = {}
        for store in {item.run.folder.parents[1] for item in planned if "://" not in item.store}:
            store.mkdir(parents=True, exist_ok=True)
            marks[store] = Path(files.enter_context(NamedTemporaryFile(prefix=".seqae-sweep-", dir=store)).name)
        yield marks


@contextmanager
def _cancelled_cleanly(client: Client, running: Mapping[Future, Planned]) -> Iterator[None]:
    try:
        yield
    except (OSError, CancelledError) as error:
        if not isinstance(error, CancelledError | CommClosedError) and client.status == "running":
            raise  # another error, such as a full disk
        raise RunError("the scheduler is gone: start it; the same command goes on from the last checkpoints") from None
    except KeyboardInterrupt:
        _stop(client, running)
        raise


def _outcome(future: Future, item: Planned, lost_at: dict[Path, int]) -> Outcome:
    error = future.exception()
    if isinstance(error, KilledWorker):  # again and again, as on machines that are lent for hours, if it gets on
        before, now = lost_at.get(item.run.folder, -1), _epochs(item)
        lost_at[item.run.folder] = now
        return Outcome(item.run, LOST if now > before else record_lost(item, KILLED), 0.0)
    if error:
        return Outcome(item.run, record_lost(item, str(error)), 0.0)
    outcome = future.result()
    future.release()  # else Dask computes the result again if the worker that holds it dies
    return outcome


def _epochs(item: Planned) -> int:
    with suppress(StoreError):  # the next command reports it
        refresh(item.run.folder.parents[1], f"{item.run.family}/{item.run.name}")
    logged = progress(item.run.folder)
    return logged.epoch if logged else 0


def _again(outcome: Outcome) -> str:
    told = f"{outcome.run.family}/{outcome.run.name}: {outcome.reason}; it is executed again"
    return f"{told}, from its last checkpoint if it has one"


def _as_seen_here(outcome: Outcome, item: Planned) -> Outcome:
    # A worker may have written to a disk of its own. A shared one may show it a little later (NFS).
    with suppress(StoreError):  # the next command reports it
        refresh(item.run.folder.parents[1], f"{item.run.family}/{item.run.name}")
    deadline = time.monotonic() + SHARED_SECONDS
    while outcome.reason is None and "://" not in item.store and item.run.status != "done":
        if time.monotonic() > deadline:
            where = f"its worker says that it is done, but {item.run.folder} is not here"
            remedy = "all workers have to see it at this path, or give --store the URL of a store that all reach"
            return replace(outcome, reason=f"{where}: {remedy}")
        time.sleep(0.2)
    return outcome


def _stop(client: Client, running: Mapping[Future, Planned]) -> None:
    def stop() -> None:
        with suppress(Exception):
            client.run(_stop_kernels_of, [*running.values()], on_error="ignore")

    Thread(target=stop, daemon=True).start()  # in a thread, since a worker may not answer
    with suppress(Exception):
        wait([*running], timeout=CHECKPOINT_GRACE_SECONDS + 2)


def _stop_kernels_of(items: Iterable[Planned]) -> None:
    stop_kernels({run_here(item).folder / "notebook.ipynb" for item in items})
