"""Notebooks executed in this process: a run's, whose failure is recorded and whose report is rendered, and pages.

What became of a run is read from its run.yaml, never from its notebook.
"""

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from seqae.reports import Facts, advice, render_notebook
from seqae.runs import Run
from seqae.stores import BusyError, StoreError, mirror_folder, working
from seqae.sweeps.cluster import TELLS
from seqae.sweeps.gpus import held_gpus
from seqae.sweeps.kernels import StoppedError, execute_notebook, stoppable
from seqae.sweeps.planning import BUSY, UNPUBLISHED, Planned

STOPPED = "its kernel was interrupted"
# What a report links to.
FILES = ("notebook.ipynb", "run.yaml", "metrics.csv", "test.csv", "frames.gif", "model.safetensors")


@dataclass(frozen=True)
class Outcome:
    """How one execution ended; reason: why it failed, None when the run is done.

    After BUSY, and after what TRIES holds, `sweep` executes it again.
    """

    run: Run
    reason: str | None
    seconds: float


def execute(item: Planned, per_gpu: int = 1) -> Outcome:
    """In a worker: execute the run's notebook, on GPUs that are its own, record a failure, render the report."""
    began, here = time.monotonic(), replace(item, run=run_here(item))
    folder, name = here.run.folder, f"{here.run.family}/{here.run.name}"
    _tell_here(f"{name} begins")
    try:
        with stoppable(folder / "notebook.ipynb"), _alone(folder), working(folder):
            # another may have done it since it was planned
            reason = None if here.why() in (None, UNPUBLISHED) else _execute(here, per_gpu)
    except (BusyError, filelock.Timeout):
        reason = BUSY
    except StoppedError:
        reason = STOPPED
    except StoreError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    _tell_here(f"{name}: {f'failed: {reason}' if reason else 'done'}, {seconds:.0f} s")
    return Outcome(item.run, reason, seconds)


def _tell_here(line: str) -> None:
    # On the terminal of `seqae worker`; what other workers do, the command that started them says.
    if TELLS in os.environ:
        sys.stderr.write(f"{line}\n")


def _alone(folder: Path) -> filelock.BaseFileLock:
    # One sweep at a time executes and renders a run; who dies lets go. The lock of the run itself is its kernel's.
    return filelock.FileLock(folder / ".execution.lock", timeout=0)  # makes the folder


def run_here(item: Planned) -> Run:
    """The planned run with its folder on this machine: of a store elsewhere each has a mirror_folder of its own."""
    if "://" not in item.store:
        return item.run
    return replace(item.run, folder=mirror_folder(item.store) / item.run.family / item.run.name)


def _execute(item: Planned, per_gpu: int) -> str | None:
    run = item.run
    if not _free(run):
        return BUSY
    if run.status != "done":  # else, trained but killed before it is rendered, it would have the report of a failure
        (run.folder / "report.html").unlink(missing_ok=True)
    for left in [*run.folder.glob(".notebook.ipynb.*"), *run.folder.glob(".report.html.*")]:
        left.unlink(missing_ok=True)  # by a worker that was killed while it wrote
    gpus = run.parameters.devices * (run.parameters.device in ("auto", "cuda"))
    with held_gpus(gpus, per_gpu=per_gpu) as environment:
        reason = execute_notebook(
            item.notebook,
            run.folder / "notebook.ipynb",
            name=f"{run.family}/{run.name}",
            parameters=item.given,
            environment=environment | {"SEQAE_STORE": str(run.folder.parents[1]), "SEQAE_RUN": run.name},
        )
    if reason is None and run.status != "done":
        reason = f"the notebook ended without training this run: it must open family {run.family!r} and call train()"
    return _conclude(item, reason)


def _conclude(item: Planned, reason: str | None) -> str | None:
    # Whatever is wrong here, a full disk or output that cannot be rendered, is a reason, not an error of the sweep.
    run = item.run
    try:
        if reason is not None and _free(run):
            run.fail(reason)
        error = reason and f"{reason}\n{advice(reason)}"
        facts = Facts(f"{run.family}/{run.name}", run.status, run.verdict, run.facts(), error, FILES)
        render_notebook(run.folder / "notebook.ipynb", run.folder / "report.html", facts)
        run.rendered(item.cells)
    except Exception as error:
        return reason or f"no report: {type(error).__name__}: {error}"
    return reason


def conclude_lost(item: Planned, reason: str) -> str | None:
    """Record why a run failed whose worker could not; BUSY where another process goes on with it, None if it is done.

    A worker of another machine that died leaves its lease in a store elsewhere, which has to run out first.
    """
    try:
        with _alone(item.run.folder), working(item.run.folder):
            return None if item.why() in (None, UNPUBLISHED) else _conclude(item, reason)
    except (BusyError, filelock.Timeout):
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
