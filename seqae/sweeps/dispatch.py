"""Many runs executed by the workers of a Dask cluster, of this machine or of many; whatever dies, none is lost."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from distributed import CancelledError, Client, Future, wait
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from seqae.runs import Run, RunError
from seqae.stores import StoreError, refresh
from seqae.sweeps.execution import STOPPED, Outcome, conclude_lost, execute, run_here
from seqae.sweeps.kernels import GRACE, NOT_STARTED, StopKernels, stop_kernels
from seqae.sweeps.planning import BUSY, Planned

KILLED = "its worker process died twice: killed, or out of memory"
TRIES: Mapping[str | None, int] = {KILLED: 2, NOT_STARTED: 3, STOPPED: 10}  # executions that may end so; else 1
LOOK_SECONDS = 2.0  # between looks at a run that another process trains


def sweep(
    planned: Collection[Planned],
    client: Client,
    *,
    jobs: int | None = None,
    per_gpu: int = 1,
    finished: Callable[[Outcome], None] = lambda outcome: None,
    tick: Callable[[list[Run]], None] = lambda running: None,
    busy: Callable[[Run], None] = lambda run: None,
) -> list[Outcome]:
    """Execute planned runs on the workers of a Dask client, one at a time on each.

    jobs: at most so many at a time. per_gpu: how many share a GPU. finished: called after each. tick: about once a
    second, with those under way. busy: called once for a run that another process trains; this one waits for that, and
    takes the run over if it is not done then. On KeyboardInterrupt the kernels are stopped; the same sweep goes on from
    their checkpoints. Raises RunError when the scheduler is lost.
    """
    running = dict[Future, Planned]()
    waiting, outcomes = deque(planned), list[Outcome]()
    tried = Counter[tuple[Path, str | None]]()  # a run's folder, how an execution of it ended
    elsewhere, next_look = list[Planned](), 0.0  # runs of other processes, and when to look after them
    with _ending_told(client, running):
        client.register_plugin(StopKernels())
        while waiting or running or elsewhere:
            if not waiting and time.monotonic() >= next_look:
                waiting.extend(elsewhere)
                elsewhere, next_look = [], time.monotonic() + LOOK_SECONDS
            # As many as there are slots: a restarted worker would get nothing that queues at another one.
            slots = min(jobs or len(planned), max(1, sum(client.nthreads().values())))
            while waiting and len(running) < slots:
                item = waiting.popleft()
                running[client.submit(execute, item, per_gpu, pure=False)] = item
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


@contextmanager
def _ending_told(client: Client, running: Mapping[Future, Planned]) -> Iterator[None]:
    try:
        yield
    except (OSError, CancelledError) as error:
        if not isinstance(error, CancelledError | CommClosedError) and client.status == "running":
            raise  # of another thing, such as a full disk
        raise RunError("the scheduler is gone: start it; the same command goes on from the last checkpoints") from None
    except KeyboardInterrupt:
        _stop(client, running)
        raise


def _outcome(future: Future, item: Planned, *, killed_before: bool) -> Outcome:
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Outcome(item.run, conclude_lost(item, KILLED) if killed_before else KILLED, 0.0)
    if error:
        return Outcome(item.run, conclude_lost(item, str(error)), 0.0)
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
    stop_kernels({run_here(item).folder / "notebook.ipynb" for item in items})
