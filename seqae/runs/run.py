"""A run's life, from its first epoch to its test: what is written into its folder, and when.

`open_run` finds the folder that a family's parameters define. A `Run` trains once; from then on it shows what is
recorded there.
"""

import errno
import json
import platform
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from glob import escape
from os import environ
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from seqae import files
from seqae.device import make_accelerator, mixed_precision
from seqae.diagnosis import verdict
from seqae.models import SequenceAutoencoder
from seqae.parameters import EXECUTION, ParameterError, Parameters, resolve
from seqae.runs import experiment, logs, pictures
from seqae.runs.assignment import current_assignment
from seqae.runs.folder import SAMPLES, RunFolder, family_of, holds_run, images
from seqae.runs.live import watched
from seqae.runs.naming import differing, known_as, run_name
from seqae.runs.provenance import code_version, now, provenance_of
from seqae.runs.records import RunError, read_record, remembered
from seqae.runs.trackers import check_tracker, tracking
from seqae.stores import MachineLock, fetch, store_folder, unpublished, working
from seqae.training import Fitted, Row

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # a disk that takes no more; such errors name no file
RECORDED = {"device", "devices", "keep_checkpoint", "label"}  # they do not define a run, but run.yaml has them
WRITTEN = (  # by the process that trains
    *("run.yaml", "metrics.csv", "histograms.csv", "baselines.csv", "test.csv", "performance.csv"),
    *("samples.npz", "frames.png", "frames.gif", "model.safetensors", "checkpoint/state.pt"),
)


def open_run(family: str, defaults: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> "Run":
    """The run that the parameters `given`, merged over the family's `defaults`, define. Its folder need not exist yet.

    defaults: the values of the parameters cell of the family's notebook; in that notebook the first of the two that
    `parameter_cells()` returns. Parameters in neither have the library's default, the diary's full size: 64×64 pixels,
    200 epochs. What a remote store has of the run is fetched. Without the parameter `store`, a working directory that
    is this run's folder is taken, wherever it lies; a new run outside any project gives a warning that says where.

    Raises ParameterError or ValueError for parameters that are unknown, contradict each other or do not fit torch,
    before anything is written, and StoreError if a remote store cannot be reached.
    """
    usual, parameters = resolve(defaults), resolve(defaults, given or {})
    experiment.check_parameters(parameters)
    digits, assignment = parameters.short_hash(), current_assignment()
    if assignment and assignment.is_of(digits):
        folder = store_folder(parameters.store) / family / assignment.run
        return Run(folder, family, parameters, differing(parameters, usual), assigned=True)
    folder = Path.cwd()
    if parameters.store or not holds_run(folder, family, digits):
        name = known_as(run_name(parameters, usual), fetch(parameters.store, family) / family)
        folder = fetch(parameters.store, f"{family}/{name}", whole=True) / family / name
        if not parameters.store and not folder.exists():
            _say_where(folder)
    if parameters.fresh:
        attempts = [folder, *(folder.with_name(f"{folder.name}-{n}") for n in range(2, 10_000))]
        folder = next(attempt for attempt in attempts if "results" not in read_record(attempt))
    return Run(folder, family, parameters, differing(parameters, usual))


def _say_where(folder: Path) -> None:
    if not environ.get("SEQAE_STORE") and not (files.project_root() / "params").is_dir():
        outside = f"{Path.cwd()} is in no project, which has notebooks/ and params/"
        told = f"{outside}: this run's results will lie in {folder}; to keep them elsewhere, set store or SEQAE_STORE"
        warnings.warn(told, stacklevel=3)


def find_runs(
    store: str | Path | None = None, family: str | None = None, *, names: Collection[str] = ()
) -> "list[Run]":
    """All runs of a store, sorted by family and name. A damaged run gives a warning and is left out.

    store: a folder or any URL of fsspec; by default where runs are that give no parameter `store`. family: only runs
    of this one. names: only run folders with these names. Raises StoreError if a remote store cannot be reached.
    """
    folder, runs = store if isinstance(store, Path) else fetch(store, family or ""), []
    with remembered(folder) as root:
        wanted = [f"{family or '*'}/{name}/run.yaml" for name in map(escape, names)] or [f"{family or '*'}/*/run.yaml"]
        for file in sorted({file for pattern in wanted for file in root.glob(pattern)}):
            try:
                runs.append(Run.load(file.parent))
            except (RunError, ValueError) as error:  # damaged, or with parameters of another version
                warnings.warn(f"{file.parent} left out: {error}", stacklevel=2)
    return runs


def recorded_run(folder: str | Path) -> "Run":
    """The run recorded in a folder, even if its parameters are of another version. A relative path is of the store.

    If this version does not know the parameters, only what is recorded can be read. Raises RunError if the folder
    holds no run.
    """
    folder = store_folder() / folder
    try:
        return Run.load(folder)
    except ParameterError:
        record = read_record(folder)
        parameters = Parameters.model_construct(**record["parameters"])
        return Run(folder.resolve(), family_of(folder, record), parameters, record["differs"])


@dataclass(frozen=True, repr=False)
class Run(RunFolder):
    """One run that can be trained; `open_run` and `load` make it. What can be read of it is in `RunFolder`.

    assigned: whether a sweep gave this run to this kernel. The sweep's worker then publishes it.
    """

    assigned: bool = field(default=False, compare=False)

    def train(self) -> "Run":
        """Train the run, resume it, or do nothing if it is done. Its folder then holds all of `RunFolder`.

        Raises RunError if another process trains the run or its folder cannot be written, StoreError as `working`, and
        ValueError for a device that is not there.
        """
        return self.once(self._train)

    def once(self, work: Callable[[], None]) -> "Run":
        """Call `work` with the run's folder locked, unless the run is done.

        work: has to end with `update(status="done", results=…)`. Raises as `train`, and what `work` raises.
        """
        if "results" in (record := self.record()):
            self._mend(record)
            return self
        with self._published(), self._writing():
            before = self.record()
            if before.get("status") == "done":  # by another process, while this one waited for the lock
                return self
            made = provenance_of(device=self.parameters.device, devices=self.parameters.devices)
            if self._checkpoint.exists():  # keep what began the run on record
                resumed = [*before.get("resumed", []), {"commit": made["commit"]}]
                self.update(status="running", reason=None, resumed=resumed)
            else:
                self.update(status="running", reason=None, started=now(), **made)
            work()
        return self

    def fail(self, reason: str) -> None:
        """Record a failure that the run itself could not record: its process died, or its notebook has an error."""
        commit, dirty = code_version()
        here = {"commit": commit, "dirty": dirty, "machine": platform.node(), "device": self.parameters.device}
        self.update(**({} if "machine" in self.record() else here), status="failed", reason=reason, ended=now())

    def rendered(self, cells: str) -> None:
        """Record that there is a report now, of a notebook with these cells. cells: as `cells_hash` returns them."""
        if self.record().get("cells") != cells:
            self.update(cells=cells)

    # --- inside ---

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "state.pt"

    def _mend(self, record: Mapping[str, Any]) -> None:
        # Of a trained run: what its notebook, or the process that trained it, could not finish; and its label.
        changes: dict[str, Any] = {}
        if record["status"] == "failed":  # its notebook failed after the training
            changes |= {"status": "done", "reason": None}
        if record["parameters"].get("label") != self.parameters.label:
            changes["parameters"] = record["parameters"] | {"label": self.parameters.label}
        if changes or unpublished(self.folder):
            with self._published():
                if changes:
                    self.update(**changes)
        if record["parameters"].get("keep_checkpoint") is False:  # its process may have died before it removed it
            self._drop_checkpoint()

    def _published(self) -> AbstractContextManager[None]:
        return nullcontext() if self.assigned else working(self.folder)

    def update(self, **changes: Any) -> None:
        """Write these entries into run.yaml, which keeps its others."""
        parameters = self.parameters.model_dump(mode="json", exclude=set(EXECUTION - RECORDED))
        base = {"family": self.family, "parameters": parameters, "differs": dict(self.differs)}
        files.replace_text(self.folder / "run.yaml", yaml.safe_dump(base | self.record() | changes, sort_keys=False))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        # One process at a time trains a run. Whatever ends it, the record has a status and a reason.
        lock = MachineLock(self.folder / ".lock")  # `acquire` makes the folder
        try:
            lock.acquire(timeout=2)  # seconds: `status` holds it for less, and kernels outlive their parents by less
        except filelock.Timeout:
            raise RunError(f"{self.folder} is being trained by another process: wait for it, or stop it") from None
        except OSError as error:
            raise RunError(f"cannot write to {self.folder}: {error.strerror}; choose another folder as store") from None
        try:
            files.remove_leftovers(*(self.folder / name for name in WRITTEN))
            yield
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if not isinstance(error, KeyboardInterrupt):  # an interrupted run has not failed; it resumes when run again
                with suppress(OSError):
                    self.fail(reason)
            if not isinstance(error, OSError):
                raise
            where = Path(str(error.filename or ""))
            if self.folder not in (where, *where.parents) and error.errno not in FULL:  # of the data, for example
                raise
            raise RunError(
                f"cannot write to {self.folder}: {error.strerror}; free space there or choose another store; run it "
                "again and it goes on from its last checkpoint"
            ) from error
        finally:
            lock.release()

    def _train(self) -> None:
        p, folder = self.parameters, self.folder
        mixed_precision(make_accelerator(device=p.device, devices=p.devices).device, p.precision)
        check_tracker(p.tracker)  # errors come before the work of making data
        files.replace_text(folder / "baselines.csv", experiment.reference_levels(p).to_csv(index=False))
        checkpoint, tables = self._checkpoint, [folder / f"{name}.csv" for name in logs.LOG_COLUMNS]
        if not checkpoint.exists():
            for log in tables:
                log.unlink(missing_ok=True)
        val = experiment.sequences(p, "val")
        with tracking(p.tracker, folder / "tracker") as track:

            def record(table: str, rows: list[Row]) -> None:
                logs.append_rows(folder / f"{table}.csv", rows)
                if table == "metrics":
                    track({f"{r['split']}/{r['branch']}/{r['metric']}": r["value"] for r in rows}, rows[0]["step"])

            model, fitted = experiment.train_model(
                p,
                val,
                record=watched(record, metrics=self.metrics, epochs=p.epochs, assigned=self.assigned),
                checkpoint=checkpoint,
                resume=lambda epoch: logs.truncate_logs(tables, epoch),
            )
        self._finish(model, val, fitted)
        if not p.keep_checkpoint:
            self._drop_checkpoint()

    def _drop_checkpoint(self) -> None:
        shutil.rmtree(self._checkpoint.parent, ignore_errors=True)

    def _finish(self, model: SequenceAutoencoder, val: torch.Tensor, fitted: Fitted) -> None:
        p, folder, metrics = self.parameters, self.folder, self.metrics()
        table = experiment.test_table(model, p)
        files.replace_text(folder / "test.csv", table.to_csv(index=False))

        with files.whole(folder / "samples.npz") as file:
            np.savez_compressed(file, allow_pickle=False, **images(model, val[:SAMPLES], p))
        strips = pictures.sample_strips(self.samples(), task=p.task, frames_in=p.frames_in)
        with files.whole(folder / "frames.png") as file:
            pictures.save_strips(strips, file)
        with files.whole(folder / "frames.gif") as file:
            pictures.save_gif(strips, file)

        metadata = {"family": self.family, "parameters": json.dumps(p.model_dump(mode="json", exclude=set(EXECUTION)))}
        with files.whole(folder / "model.safetensors") as file:
            save_file(model.state_dict(), file, metadata=metadata)

        floor, mean = self._levels()
        line = verdict(
            metrics[metrics.split == "val"],
            mean_frame=mean,
            floor=floor,
            diverged_at=fitted.diverged_at,
            stopped=fitted.epochs < p.epochs,
        )
        means = table[table.frame == ""]
        results = dict(zip(means.branch + " " + means.metric, means.value.astype(float), strict=True))
        self.update(
            status="done",
            ended=now(),
            seconds=float(metrics.seconds.max()),
            weights=sum(w.numel() for w in model.parameters()),
            epochs=fitted.epochs,
            peak_memory_bytes=fitted.peak_memory,
            verdict=line,
            explanation=self.explain(),
            results=results,
        )
