"""A run: its name, its folder, its life. Puts parameters, data, model and training together.

`open_run` finds or makes the folder that a family's parameters define; a `Run` trains once and ever after shows what
is recorded there. Sweeps, reports and the command line build on this; plots take what `Run` reads.
"""

import errno
import json
import platform
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
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
from seqae.files import store_folder
from seqae.models import SequenceAutoencoder
from seqae.parameters import EXECUTION, resolve
from seqae.runs import experiment, pictures
from seqae.runs.live import watched
from seqae.runs.naming import differing, known_as, run_name
from seqae.runs.provenance import circumstances, code_version, now
from seqae.runs.recorded import SAMPLES, RunFolder, images
from seqae.runs.records import RunError, read_record, remembered
from seqae.runs.trackers import check_tracker, tracking
from seqae.stores import fetch, unpublished, working
from seqae.training import Fitted

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # a disk that takes no more says no name
RECORDED = {"device", "devices", "keep_checkpoint", "label"}  # of what names no run, what run.yaml tells all the same


def open_run(family: str, defaults: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> "Run":
    """The run of `family` that `given`, merged over the family's `defaults`, defines; its folder need not exist yet.
    What a store elsewhere has of it is fetched.

    defaults: the values of its notebook's cell, there the first of `parameter_cells()`; what neither they nor `given`
    say is the library's default, the diary's full size: 64×64 pixels, 200 epochs.

    Raises ParameterError or ValueError for parameters that are unknown, do not go together or do not fit torch,
    before anything is written, and StoreError where a store cannot be reached.
    """
    usual, parameters = resolve(defaults), resolve(defaults, given or {})
    experiment.check(parameters)
    digits, chosen = parameters.short_hash(), environ.get("SEQAE_RUN", "")
    if re.search(rf"-{digits}(-\d+)?$", chosen):  # in a sweep's kernel: its folder
        return Run(store_folder(parameters.store) / family / chosen, family, parameters, differing(parameters, usual))
    name = known_as(f"{run_name(parameters, usual)}-{digits}", fetch(parameters.store, family) / family)
    folder = fetch(parameters.store, f"{family}/{name}", whole=True) / family / name
    if parameters.fresh:
        attempts = [folder, *(folder.with_name(f"{name}-{n}") for n in range(2, 10_000))]
        folder = next(attempt for attempt in attempts if "results" not in read_record(attempt))
    return Run(folder, family, parameters, differing(parameters, usual))


def find_runs(
    store: str | Path | None = None, family: str | None = None, *, names: Collection[str] = ()
) -> "list[Run]":
    """Every run of the store (of one family), in the order of their names; a damaged one is told and left out.

    store: a folder, any URL of fsspec, or None: where a run without parameter `store` would be. names: of run folders,
    none: all.
    """
    folder, runs = store if isinstance(store, Path) else fetch(store, family or ""), []
    with remembered(folder) as root:
        wanted = [f"{family or '*'}/{name}/run.yaml" for name in map(escape, names)] or [f"{family or '*'}/*/run.yaml"]
        for file in sorted({file for pattern in wanted for file in root.glob(pattern)}):
            try:
                runs.append(Run.load(file.parent))
            except (RunError, ValueError) as error:  # damaged, or its parameters are not known to this version
                warnings.warn(f"{file.parent} left out: {error}", stacklevel=2)
    return runs


class Run(RunFolder):
    """One run and its life; what is known of it is in `RunFolder`. `open_run` and `load` make it."""

    def train(self) -> "Run":
        """Train, resume or, when done already, do nothing. Afterwards everything of the run is in its folder."""
        return self.once(self._train)

    def once(self, work: Callable[[], None]) -> "Run":
        """Do `work`, which has to end with `record(status="done", results=…)`, in this run's folder and under its lock;
        when done already, do nothing.
        """
        if "results" in (record := self.record()):
            changes: dict[str, Any] = {}
            if record["status"] == "failed":  # in its notebook, after it was trained
                changes |= {"status": "done", "reason": None}
            if record["parameters"].get("label") != self.parameters.label:
                changes["parameters"] = record["parameters"] | {"label": self.parameters.label}
            if changes or unpublished(self.folder):
                with working(self.folder):
                    if changes:
                        self.update(**changes)
            if record["parameters"].get("keep_checkpoint") is False:  # its process died between its last two steps
                self._drop_checkpoint()
            return self
        with working(self.folder), self._writing():
            before = self.record()
            if before.get("status") == "done":  # by another process, while this one waited for the lock
                return self
            made = circumstances(device=self.parameters.device, devices=self.parameters.devices)
            if self._checkpoint.exists():  # what began the run stays on record; what goes on with it is added
                again = {"at": now(), "commit": made["commit"], "machine": made["machine"]}
                self.update(status="running", reason=None, resumed=[*before.get("resumed", []), again])
            else:
                self.update(status="running", reason=None, started=now(), **made)
            work()
        return self

    def fail(self, reason: str) -> None:
        """Record a failure that the run itself could not: its process died, or its notebook has an error."""
        commit, dirty = code_version()
        here = {"commit": commit, "dirty": dirty, "machine": platform.node(), "device": self.parameters.device}
        self.update(**({} if "machine" in self.record() else here), status="failed", reason=reason, ended=now())

    def rendered(self, cells: str) -> None:
        """Record of which notebook there is a report now; see `planning.Planned.cells`."""
        if self.record().get("cells") != cells:
            self.update(cells=cells)

    # --- inside ---

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "state.pt"

    def update(self, **changes: Any) -> None:
        """Write these entries into run.yaml."""
        parameters = self.parameters.model_dump(mode="json", exclude=set(EXECUTION - RECORDED))
        base = {"family": self.family, "parameters": parameters, "differs": dict(self.differs)}
        files.replace_text(self.folder / "run.yaml", yaml.safe_dump(base | self.record() | changes, sort_keys=False))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        # One process trains a run; whatever ends it leaves a status and a reason.
        lock = filelock.FileLock(self.folder / ".lock")  # acquired, it makes the folder
        try:
            lock.acquire(timeout=2)  # longer than `status` holds it, and than a kernel outlives its parent
        except filelock.Timeout:
            raise RunError(f"{self.folder} is being trained by another process: wait for it, or stop it") from None
        except OSError as error:
            raise RunError(f"cannot write to {self.folder}: {error.strerror}; choose another folder as store") from None
        try:
            yield
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if not isinstance(error, KeyboardInterrupt):  # stopped, not failed: it resumes when run again
                with suppress(OSError):
                    self.fail(reason)
            if not isinstance(error, OSError):
                raise
            where = Path(str(error.filename or ""))
            if self.folder not in (where, *where.parents) and error.errno not in FULL:  # of the data, say
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
        check_tracker(p.tracker)  # all told before data is made
        files.replace_text(folder / "baselines.csv", experiment.reference_levels(p).to_csv(index=False))
        checkpoint, tables = self._checkpoint, [folder / f"{name}.csv" for name in files.COLUMNS]
        for log in tables:
            if not checkpoint.exists():
                log.unlink(missing_ok=True)
        val = experiment.sequences(p, "val")
        with tracking(p.tracker, folder / "tracker") as log:

            def record(table: str, rows: list[dict[str, Any]]) -> None:
                files.append(folder / f"{table}.csv", rows)
                if table == "metrics":
                    log({f"{r['split']}/{r['branch']}/{r['metric']}": r["value"] for r in rows}, rows[0]["step"])

            model, fitted = experiment.train(
                p,
                val,
                record=watched(record, metrics=self.metrics, epochs=p.epochs),
                checkpoint=checkpoint,
                resume=lambda epoch: files.truncate(tables, epoch),
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
