"""Execute a planned run in a worker: its notebook in a kernel, on GPUs of its own; then record and render the result.

Whether a run is done is read from its run.yaml, never from its notebook.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import filelock
from distributed import get_worker

from seqae.files import replace_text
from seqae.reports import render_notebook, run_facts
from seqae.runs import (
    CODE_FOLDER,
    Run,
    executing,
    fetch_shorter,
    other_clips,
    remove_leftovers,
    sources_hash,
    unmeasured,
)
from seqae.stores import BusyError, StoreError, mirror_folder, working
from seqae.sweeps.cluster import RUN_LOG
from seqae.sweeps.gpus import held_gpus
from seqae.sweeps.notebooks import StoppedError, execute_notebook, stoppable
from seqae.sweeps.planning import BUSY, NOT_PUBLISHED, Planned

OTHERWISE = "install the same there; if the code was edited since this command began, start this command again"
OTHER_CODE = f"it has another version of seqae than this command: {OTHERWISE}"
OTHER_PACKAGES = "it has other packages than this command, which your own code imports: {}: " + OTHERWISE
OTHER_DISK = "it does not see {}: give --store the URL of a store that all reach, or a folder that all machines share"
OTHER_CLIPS = (
    "it lacks the run's clips ({}): copy them there, to the same path, then start that worker or this command again"
)
DYING_SECONDS = 5.0  # until a killed worker has freed its locks, and its kernel has noticed and ended
SHARED_SECONDS = 5.0  # until a shared folder shows what another machine wrote
STOPPED = "its kernel was interrupted"


@dataclass(frozen=True)
class Outcome:
    """How one execution ended. reason: why it failed; None if the run is done.

    `sweep` executes the run again if the reason is BUSY or one of TRIES, or if the worker refused it. refused_by: the
    address of that worker, which gets no run; the reason says why.
    """

    run: Run
    reason: str | None
    seconds: float
    refused_by: str = ""


def execute(item: Planned, per_gpu: int = 1, mark: Path | None = None) -> Outcome:
    """In a worker: execute the run's notebook, on GPUs of its own, record a failure, render the report.

    per_gpu: how many runs may share a GPU. mark: a file that the command has put into the store's folder. A worker
    that does not see it, or has other code than the command, or other packages or clips than the run was planned with,
    changes nothing.
    """
    here = replace(item, run=run_here(item))
    with stoppable(here.run.folder / "notebook.ipynb"):  # also while it reads clips for the first time
        if refusal := _refusal(item, mark):
            logging.getLogger(RUN_LOG).info("%s/%s: not here, as %s", item.run.family, item.run.name, refusal)
            return Outcome(item.run, refusal, 0.0, get_worker().address)
        return replace(_executed(here, per_gpu), run=item.run)


def _executed(here: Planned, per_gpu: int) -> Outcome:
    began, folder, name = time.monotonic(), here.run.folder, f"{here.run.family}/{here.run.name}"
    logging.getLogger(RUN_LOG).info("%s begins", name)
    try:
        with executing(folder), working(folder):
            # another process may have finished it since it was planned
            reason = None if here.reason_to_execute() in (None, NOT_PUBLISHED) else _execute(here, per_gpu)
    except (BusyError, filelock.Timeout):
        reason = BUSY
    except StoppedError:
        reason = STOPPED
    except StoreError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    ended = f"failed: {reason}" if reason not in (None, BUSY, STOPPED) else reason or "done"
    logging.getLogger(RUN_LOG).info("%s: %s, %.0f s", name, ended, seconds)
    return Outcome(here.run, reason, seconds)


def _refusal(item: Planned, mark: Path | None) -> str:
    if sources_hash() != item.sources:
        return OTHER_CODE
    if others := item.run.code.other_packages("there") if item.run.code else "":
        return OTHER_PACKAGES.format(others)
    deadline = time.monotonic() + SHARED_SECONDS
    while mark and not mark.exists():
        if time.monotonic() > deadline:
            return OTHER_DISK.format(mark.parent)
        time.sleep(0.2)
    if others := other_clips(item.run.parameters):
        return OTHER_CLIPS.format(others)
    return ""


def run_here(item: Planned) -> Run:
    """The planned run with its folder on this machine, which for a remote store is in this machine's mirror."""
    if "://" not in item.store:
        return item.run
    return replace(item.run, folder=mirror_folder(item.store) / item.run.family / item.run.name)


def _store_of(item: Planned) -> str:
    # For other runs that the notebook may open. Of a URL, with its credentials, which no file holds.
    return item.store if "://" in item.store else str(item.run.folder.parents[1])


def _execute(item: Planned, per_gpu: int) -> str | None:
    run = item.run
    if not _free(run):
        return BUSY
    fetch_shorter(run)
    remove_leftovers(run.folder / "notebook.ipynb", run.folder / "report.html")
    done, copy = run.status == "done", run.folder / CODE_FOLDER
    # It travels with the run; the kernel imports these files, whatever is in the project. What has measured a finished
    # run stays there.
    if run.code and not (done and copy.exists() and not unmeasured(run)):
        run.code.write(copy, beside=done)
    gpus = run.parameters.devices * (run.parameters.device in ("auto", "cuda"))
    with held_gpus(gpus, per_gpu=per_gpu) as environment, _written(item.modules) as modules:
        reason = execute_notebook(
            item.notebook,
            run.folder / "notebook.ipynb",
            name=f"{run.family}/{run.name}",
            parameters=item.given,
            environment=environment | {"SEQAE_STORE": _store_of(item)},
            folder=item.folder,
            run=run.name,
            modules=modules,
            planned=item.planned_from,
        )
    if reason is None and run.status != "done":
        reason = f"the notebook ended without training this run: it must open family {run.family!r} and call train()"
    return _record_and_render(item, reason)


@contextmanager
def _written(modules: Mapping[str, str]) -> Iterator[str]:
    # A folder of these files; empty if there are none.
    with TemporaryDirectory(prefix="seqae-modules-") if modules else nullcontext("") as folder:
        for path, text in modules.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            replace_text(Path(folder) / path, text)
        yield folder


def _record_and_render(item: Planned, reason: str | None) -> str | None:
    # Any error here, such as a full disk, is the reason why this run failed. It does not end the sweep.
    run = item.run
    try:
        if reason is not None and _free(run):
            run.fail(reason)
        page, facts = run.folder / "report.html", run_facts(run, reason)
        render_notebook(run.folder / "notebook.ipynb", page, facts, beside=item.folder)
        run.rendered(item.cells)
    except Exception as error:
        return reason or f"no report: {type(error).__name__}: {error}"
    return reason


def record_lost(item: Planned, reason: str) -> str | None:
    """Record why a run failed whose worker died. Returns the reason, BUSY if another process trains it, None if done.

    A dead worker's lease in a remote store has to expire first; until then the run is BUSY.
    """
    try:
        # A killed worker's connections end, by which Dask knows, a moment before its locks are free.
        with executing(item.run.folder, wait=DYING_SECONDS), working(item.run.folder):
            return None if item.reason_to_execute() in (None, NOT_PUBLISHED) else _record_and_render(item, reason)
    except (BusyError, filelock.Timeout):
        return BUSY
    except (StoreError, OSError):
        return reason


def _free(run: Run) -> bool:
    deadline = time.monotonic() + DYING_SECONDS
    while run.status == "running":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
