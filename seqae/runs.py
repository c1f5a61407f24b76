"""A run: its name, its folder, its life. Puts parameters, data, model and training together.

`open_run` finds or makes the folder that a family's parameters define; a `Run` trains once and ever after shows what
is recorded there. Sweeps, reports and the command line build on this; plots take what `Run` reads.
"""

import html
import json
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from os import environ
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import save_file

from seqae import experiment, logs, pictures
from seqae.config import EXECUTION, Parameters, resolve
from seqae.data import to_range
from seqae.device import make_accelerator, mixed_precision
from seqae.diagnose import explain_head, prognosis, saturated_since, verdict
from seqae.evaluation import predict
from seqae.live import watched
from seqae.metrics import HISTOGRAM_CENTRES, histogram
from seqae.models import SequenceAutoencoder
from seqae.naming import differing, run_name
from seqae.performance import measure
from seqae.provenance import circumstances, code_version, now
from seqae.records import RunError, read_record, run_status
from seqae.stores import fetch, unpublished, working
from seqae.train import Fitted

SAMPLES = 8  # sequences shown
RECORDED = {"device", "devices", "keep_checkpoint", "label"}  # of what names no run, what run.yaml tells all the same


def open_run(family: str, defaults: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> "Run":
    """The run of `family` that `given`, merged over the family's `defaults`, defines; its folder need not exist yet.
    What a store elsewhere has of it is fetched.

    Raises ParameterError or ValueError for parameters that are unknown, do not go together or do not fit torch,
    before anything is written, and StoreError where a store cannot be reached.
    """
    usual, parameters = resolve(defaults), resolve(defaults, given or {})
    experiment.check(parameters)
    name = f"{run_name(parameters, usual)}-{parameters.short_hash()}"
    folder = fetch(parameters.store, f"{family}/{name}", whole=True) / family / name
    if parameters.fresh:  # in a sweep's kernel the folder is the one that the sweep chose, $SEQAE_RUN
        attempts = [folder, *(folder.with_name(f"{name}-{n}") for n in range(2, 10_000))]
        unfinished = (f for f in attempts if f.name == environ.get("SEQAE_RUN") or not (f / "test.csv").exists())
        folder = next(unfinished)
    return Run(folder, family, parameters, differing(parameters, usual))


def find_runs(store: Path, family: str | None = None) -> "list[Run]":
    """Every run of the store (of one family), in the order of their names; a damaged one is told and left out."""
    runs = []
    for file in sorted(store.glob(f"{family or '*'}/*/run.yaml")):
        try:
            runs.append(Run.load(file.parent))
        except (RunError, ValueError) as error:  # damaged, or its parameters are not known to this version
            warnings.warn(f"{file.parent} left out: {error}", stacklevel=2)
    return runs


@dataclass(frozen=True)
class Run:
    """One run and its folder: see the table of files in CONTRIBUTING.md. `open_run` and `load` make it."""

    folder: Path
    family: str
    parameters: Parameters
    differs: Mapping[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """The run recorded in a folder, wherever it was moved to. Raises RunError if the folder holds none."""
        folder = Path(folder).resolve()
        if not (record := read_record(folder)):
            raise RunError(f"{folder} is no run folder: it has no run.yaml")
        try:
            return cls(folder, record["family"], resolve(record["parameters"]), record["differs"])
        except (KeyError, TypeError) as error:
            raise RunError(
                f"{folder / 'run.yaml'} is damaged ({error!r}): delete the folder and run it again"
            ) from None

    @property
    def name(self) -> str:
        return self.folder.name

    def record(self) -> dict[str, Any]:
        """run.yaml as it stands; empty before the run began."""
        return read_record(self.folder)

    @property
    def status(self) -> str:
        """waiting, running, interrupted (its process is gone; it resumes when run again), done or failed."""
        return run_status(self.folder, self.record())

    def train(self) -> "Run":
        """Train, resume or, when done already, do nothing. Afterwards everything of the run is in its folder."""
        return self._once(self._train)

    def benchmark(self) -> "Run":
        """Time the run's training update beside its peers, see `performance.measure`; when done already, do nothing."""
        return self._once(self._benchmark)

    def _once(self, work: Callable[[], None]) -> "Run":
        if "results" in (record := self.record()):
            if record["status"] == "failed":  # in its notebook, after it was trained
                self._update(status="done", reason=None)
            if record["parameters"].get("label") != self.parameters.label:
                self._update(parameters=record["parameters"] | {"label": self.parameters.label})
            if unpublished(self.folder):
                with working(self.folder):
                    pass
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
                self._update(status="running", reason=None, resumed=[*before.get("resumed", []), again])
            else:
                self._update(status="running", reason=None, started=now(), **made)
            work()
        return self

    def fail(self, reason: str) -> None:
        """Record a failure that the run itself could not: its process died, or its notebook has an error."""
        commit, dirty = code_version()
        here = {"commit": commit, "dirty": dirty, "machine": platform.node(), "device": self.parameters.device}
        self._update(**({} if "machine" in self.record() else here), status="failed", reason=reason, ended=now())

    def performance(self) -> pd.DataFrame:
        """performance.csv: implementation, D, H, B, decoder_input, part, median_ms, min_ms, repeats, memory_mb."""
        return pd.read_csv(self.folder / "performance.csv")

    def metrics(self) -> pd.DataFrame:
        """metrics.csv so far: epoch, step, seconds, split, branch, metric, value. A torn last line is left out."""
        return pd.read_csv(StringIO("\n".join(logs.whole_lines(self.folder / "metrics.csv"))))

    def histograms(self) -> pd.DataFrame:
        """histograms.csv so far: epoch, branch, output (a bin's centre on [0, 1]), share of val's pixels in it."""
        return pd.read_csv(StringIO("\n".join(logs.whole_lines(self.folder / "histograms.csv"))))

    def true_shares(self) -> pd.Series:
        """The same of the true pixels of val: share by output."""
        share = histogram(to_range(experiment.sequences(self.parameters, "val"), (0.0, 1.0))).mean(0)
        return pd.Series(share.numpy(), index=HISTOGRAM_CENTRES)

    @property
    def reach(self) -> float:
        """The largest |pre-activation| that any weights can give; see `SequenceAutoencoder.reach`."""
        return experiment.check(self.parameters).reach

    def marks(self) -> dict[str, int]:
        """Epochs to mark on a curve: `best` on val, and, where there are any, `saturated`, `stopped` and `diverged`."""
        table = self.metrics().query("metric == 'objective'")
        objective = table[table.split == "val"]["value"].to_list()
        if not objective or not np.isfinite(table[table.epoch == len(objective)]["value"]).all():
            return {"diverged": len(objective)} if objective else {}
        marks = {"best": int(np.argmin(objective)) + 1, "saturated": saturated_since(objective)}
        if self.status == "done" and len(objective) < self.parameters.epochs:
            marks["stopped"] = len(objective)
        return {name: epoch for name, epoch in marks.items() if epoch}

    def test(self) -> pd.DataFrame:
        """test.csv: branch, frame (1, 2, …; none: mean over frames), metric, value, unit, sequences."""
        return pd.read_csv(self.folder / "test.csv").astype({"frame": "Int64"})

    def baselines(self) -> pd.DataFrame:
        """What no model would score, and the head's floor: split, branch, baseline, metric, value."""
        file = self.folder / "baselines.csv"
        return pd.read_csv(file) if file.exists() else experiment.reference_levels(self.parameters)

    def samples(self) -> dict[str, np.ndarray]:
        """Fixed val sequences: `frames` (8, T, H, W) and each branch's output (8, T, H, W), uint8 0-255."""
        with np.load(self.folder / "samples.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    def model_file(self) -> Path:
        """model.safetensors; raises RunError before there is one."""
        if not (file := self.folder / "model.safetensors").exists():
            raise RunError(f"{self.folder} has no trained model, it is {self.status}: finish it with seqae run first")
        return file

    def model(self, device: str = "cpu") -> SequenceAutoencoder:
        """The best weights on val, on any device."""
        return experiment.load_model(self.model_file(), device)[0]

    def outputs(
        self,
        split: str = "test",
        *,
        indices: Sequence[int] | None = None,
        device: str = "cpu",
        data_folder: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Sequences of a split through the trained model, in the form of `samples`: `frames` and each branch's output.

        indices: which ones of the split, none: the first 8. device, data_folder: as the parameters; neither has to be
        what the run was trained with. Raises RunError where nothing is trained yet, ValueError for an index or a
        device that there is not.
        """
        p = self.parameters.model_copy(update={"data_folder": data_folder or self.parameters.data_folder})
        model, _ = experiment.load_model(self.model_file(), str(make_accelerator(device=device).device))
        sequences = experiment.sequences(p, split)
        chosen = list(range(len(sequences))[:SAMPLES] if indices is None else indices)
        if not chosen or not set(chosen) <= set(range(len(sequences))):
            raise ValueError(f"{split} has sequences 0 to {len(sequences) - 1}: choose some of them, not {chosen}")
        return _images(model, sequences[chosen], p)

    def prognosis(self) -> str:
        """Before training: can this head learn on this data at all?"""
        floor, mean = self._levels()
        return prognosis(floor, min(mean.values()))

    def explain(self) -> str:
        """Why, in a paragraph computed from this run's data and last layer; see `diagnose.explain_head`."""
        if "explanation" in self.record():
            return self.record()["explanation"]
        p, targets = self.parameters, experiment.sequences(self.parameters, "val").numpy()
        return explain_head(
            targets,
            reach=self.reach,
            activation=p.activation,
            pixel_range=p.pixel_range,
            mean_frame=min(self._levels()[1].values()),
        )

    @property
    def verdict(self) -> str | None:
        """The computed line on a finished run; None before."""
        return self.record().get("verdict")

    def facts(self) -> list[tuple[str, str]]:
        """Label and value of what a reader wants to know first."""
        record, p = self.record(), self.parameters
        facts = [
            ("task", f"{p.task}, decoder reads {p.decoder_input}"),
            (
                "loss",
                f"{p.loss}: pixels in ({p.pixel_range[0]:g}, {p.pixel_range[1]:g}), {p.activation}, "
                f"{p.training_loss}" + (f", gain {p.gain:g}" if p.gain != 1 else ""),
            ),
            ("architecture", f"{p.architecture}, width {p.width:g}, {self._weights(record):,} weights"),
            ("differs from the family in", ", ".join(f"{k} {v}" for k, v in self.differs.items()) or "nothing"),
        ]
        facts += self._results(record)
        if "started" in record:
            facts.append(("started", f"{record['started'][:16].replace('T', ' ')} UTC"))
        if "seconds" in record:
            facts.append(("trained for", f"{record['seconds']:.1f} s, {record.get('epochs', p.epochs)} epochs"))
        if "machine" in record:
            facts.append(("machine", f"{record['machine']}, device {record['device']}"))
            then = record["commit"] + (" and uncommitted changes" if record["dirty"] else "")
            today = "" if record["commit"] == code_version()[0] else f"; the code is now {code_version()[0]}"
            facts.append(("made with code", then + today))
        return facts

    def __repr__(self) -> str:  # stands in executed notebooks, which name no folder of this machine
        return f"Run({self.family}/{self.name})"

    def _repr_html_(self) -> str:
        rows = [("status", self.status), ("verdict", self.verdict or "none yet"), *self.facts()]
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows)
        return f"<table><caption>{html.escape(f'{self.family}/{self.name}')}</caption>{cells}</table>"

    # --- inside ---

    def _results(self, record: Mapping[str, Any]) -> list[tuple[str, str]]:
        # The final metrics, each beside what no model would score where there is such a number.
        results, facts = record.get("results", {}), []
        levels = self.baselines().query("split == 'test' and baseline != 'floor'") if results else pd.DataFrame()
        for key, value in results.items():
            branch, metric = key.split()
            beside = levels[(levels.branch == branch) & (levels.metric == metric)].sort_values("value")
            told = ", ".join(f"{row.baseline.replace('_', ' ')} {row.value:.4g}" for row in beside.itertuples())
            facts.append((f"test {key}", f"{value:.4g}" + (f" ({told})" if told else "")))
        return facts

    def _weights(self, record: Mapping[str, Any]) -> int:
        return record.get("weights") or sum(w.numel() for w in experiment.check(self.parameters).parameters())

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "state.pt"

    def _update(self, **changes: Any) -> None:
        parameters = self.parameters.model_dump(mode="json", exclude=set(EXECUTION - RECORDED))
        base = {"family": self.family, "parameters": parameters, "differs": dict(self.differs)}
        logs.replace_text(self.folder / "run.yaml", yaml.safe_dump(base | self.record() | changes, sort_keys=False))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        # One process trains a run; whatever ends it leaves a status and a reason.
        lock = filelock.FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
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
            if isinstance(error, OSError):
                raise RunError(
                    f"cannot write to {self.folder}: {error.strerror or error}; free space there or choose another "
                    "store; run it again and it goes on from its last checkpoint"
                ) from error
            raise
        finally:
            lock.release()

    def _train(self) -> None:
        p, folder = self.parameters, self.folder
        accelerator = make_accelerator(device=p.device, devices=p.devices)
        mixed_precision(accelerator.device, p.precision)  # told before data is made
        logs.replace_text(folder / "baselines.csv", experiment.reference_levels(p).to_csv(index=False))
        checkpoint, tables = self._checkpoint, [folder / f"{name}.csv" for name in logs.COLUMNS]
        for log in tables:
            if not checkpoint.exists():
                log.unlink(missing_ok=True)
        val = experiment.sequences(p, "val")
        model, fitted = experiment.train(
            p,
            val,
            record=watched(
                lambda table, rows: logs.append(folder / f"{table}.csv", rows), metrics=self.metrics, epochs=p.epochs
            ),
            checkpoint=checkpoint,
            resume=lambda epoch: logs.truncate(tables, epoch),
            tracker_folder=folder / "tracker",
        )
        self._finish(model, val, fitted)
        if not p.keep_checkpoint:
            self._drop_checkpoint()

    def _drop_checkpoint(self) -> None:
        shutil.rmtree(self._checkpoint.parent, ignore_errors=True)

    def _benchmark(self) -> None:
        table, machine = measure(self.parameters)
        logs.replace_text(self.folder / "performance.csv", table.to_csv(index=False))
        step = table[table.part == "step"].set_index("implementation").median_ms
        whole = table[table.part == "forward_backward"].set_index("implementation").median_ms
        line = f"{step.lstmcell_loop / step.seqae:.2g} times the LSTMCell loop, " if "lstmcell_loop" in step else ""
        line += f"{whole.gemm_floor / whole.seqae:.0%} of the speed of its matrix products alone"
        self._update(status="done", ended=now(), verdict=line, results={}, benchmark=machine)

    def _finish(self, model: SequenceAutoencoder, val: torch.Tensor, fitted: Fitted) -> None:
        p, folder, metrics = self.parameters, self.folder, self.metrics()
        table = experiment.test_table(model, p)
        logs.replace_text(folder / "test.csv", table.to_csv(index=False))

        with logs.whole(folder / "samples.npz") as file:
            np.savez_compressed(file, allow_pickle=False, **_images(model, val[:SAMPLES], p))
        strips = pictures.sample_strips(self.samples(), task=p.task, frames_in=p.frames_in)
        with logs.whole(folder / "frames.png") as file:
            pictures.save_strips(strips, file)
        with logs.whole(folder / "frames.gif") as file:
            pictures.save_gif(strips, file)

        metadata = {"family": self.family, "parameters": json.dumps(p.model_dump(mode="json", exclude=set(EXECUTION)))}
        with logs.whole(folder / "model.safetensors") as file:
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
        self._update(
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

    def _levels(self) -> tuple[float, dict[str, float]]:
        # The floor (the worst branch's) and each branch's mean frame, mse on val.
        mse = self.baselines().query("split == 'val' and metric == 'mse'")
        mean = mse[mse.baseline == "mean_frame"].set_index("branch")["value"]
        return mse[mse.baseline == "floor"]["value"].max(), dict(mean)


def _images(model: SequenceAutoencoder, sequences: torch.Tensor, p: Parameters) -> dict[str, np.ndarray]:
    # Sequences (n, T, H, W) and each branch's output for them, uint8 0-255.
    outputs = predict(model, sequences[:, : p.frames_in], pixel_range=p.pixel_range)
    images = {branch: (255 * output).round().byte().numpy() for branch, output in outputs.items()}
    return {"frames": sequences.numpy(), **images}
