"""What can be read of a run: from its folder, or from its parameters alone. Nothing here writes."""

import csv
import html
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from seqae.data import to_range
from seqae.device import make_accelerator
from seqae.diagnosis import prognosis, saturated_since
from seqae.evaluation import predict
from seqae.metrics import HISTOGRAM_CENTRES, histogram
from seqae.models import ARCHITECTURES, SequenceAutoencoder
from seqae.parameters import ParameterError, Parameters, resolve
from seqae.runs import experiment
from seqae.runs.explanation import explain_head
from seqae.runs.logs import whole_lines
from seqae.runs.provenance import code_version
from seqae.runs.records import RunError, read_record, run_status
from seqae.runs.units import four_digits, label
from seqae.stores import is_name

SAMPLES = 8  # how many val sequences a run shows


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, as its files are now; CONTRIBUTING.md has a table of them.

    differs: the parameters that differ from the family's defaults.
    """

    folder: Path
    family: str
    parameters: Parameters = field(hash=False)
    differs: Mapping[str, Any] = field(hash=False)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The run recorded in a folder, which may have been moved. Raises RunError if there is none or it is damaged.

        Raises ParameterError if its parameters are of another version; see `recorded_run`.
        """
        folder = Path(folder).resolve()
        if not (record := read_record(folder)):
            raise RunError(f"{folder} is no run folder: it has no run.yaml")
        try:
            return cls(folder, family_of(folder, record), resolve(record["parameters"]), record["differs"])
        except (KeyError, TypeError) as error:
            raise RunError(
                f"{folder / 'run.yaml'} is damaged ({error!r}): delete the folder and run it again"
            ) from None

    @property
    def name(self) -> str:
        return self.folder.name

    def record(self) -> dict[str, Any]:
        """The content of run.yaml; empty before the run began."""
        return read_record(self.folder)

    @property
    def status(self) -> str:
        """waiting, running, interrupted, done or failed.

        An interrupted run has lost its process, and resumes when it is run again.
        """
        return run_status(self.folder, self.record())

    def performance(self) -> pd.DataFrame:
        """performance.csv: implementation, D, H, B, decoder_input, part, median_ms, min_ms, repeats, memory_mb.

        Only benchmarks have it; raises FileNotFoundError for others.
        """
        return pd.read_csv(self.folder / "performance.csv")

    def metrics(self) -> pd.DataFrame:
        """metrics.csv so far: epoch, step, seconds, split, branch, metric, value. A torn last line is left out."""
        return pd.read_csv(StringIO("\n".join(whole_lines(self.folder / "metrics.csv"))))

    def histograms(self) -> pd.DataFrame:
        """histograms.csv so far: epoch, branch, output (centre of a bin, in units of [0, 1]), share of pixels."""
        return pd.read_csv(StringIO("\n".join(whole_lines(self.folder / "histograms.csv"))))

    def true_shares(self) -> pd.Series:
        """The share of val's true pixels by bin, as `histograms` has it for the outputs."""
        share = histogram(to_range(experiment.sequences(self.parameters, "val"), (0.0, 1.0))).mean(0)
        return pd.Series(share.numpy(), index=HISTOGRAM_CENTRES)

    @property
    def reach(self) -> float:
        """The largest |pre-activation| that any weights can give, often infinite; see `SequenceAutoencoder.reach`."""
        return ARCHITECTURES[self.parameters.architecture].reach(self.parameters.gain)

    def marks(self) -> dict[str, int]:
        """Epochs to mark on a curve: `best` on val and, if the run has them, `saturated`, `stopped` and `diverged`."""
        table = self.metrics().query("metric == 'objective'")
        objective = table[table.split == "val"]["value"].to_list()
        if not objective or not np.isfinite(table[table.epoch == len(objective)]["value"]).all():
            return {"diverged": len(objective)} if objective else {}
        marks = {"best": int(np.argmin(objective)) + 1, "saturated": saturated_since(objective)}
        if self.status == "done" and len(objective) < self.parameters.epochs:
            marks["stopped"] = len(objective)
        return {name: epoch for name, epoch in marks.items() if epoch}

    def test(self) -> pd.DataFrame:
        """test.csv: branch, frame (1, 2, …; missing for the mean over frames), metric, value, unit, sequences."""
        return pd.read_csv(self.folder / "test.csv").astype({"frame": "Int64"})

    def baselines(self) -> pd.DataFrame:
        """Scores without any model, and the floor of the head: split, branch, baseline, metric, value."""
        file = self.folder / "baselines.csv"
        return pd.read_csv(file) if file.exists() else experiment.reference_levels(self.parameters)

    def samples(self) -> dict[str, np.ndarray]:
        """Fixed val sequences, at most 8: `frames` (N, T, H, W) and each branch's output (N, T, H, W), uint8 0-255."""
        with np.load(self.folder / "samples.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    def model_file(self) -> Path:
        """The path of model.safetensors. Raises RunError if nothing is trained yet."""
        if not (file := self.folder / "model.safetensors").exists():
            raise RunError(f"{self.folder} has no trained model, it is {self.status}: finish it with seqae run first")
        return file

    def model(self, device: str = "cpu") -> SequenceAutoencoder:
        """The model with the weights that were best on val, on any device. Raises RunError if none is trained yet."""
        return experiment.load_model(self.model_file(), device)[0]

    def outputs(
        self,
        split: str = "test",
        *,
        indices: Sequence[int] | None = None,
        device: str = "cpu",
        data_folder: str | None = None,
    ) -> dict[str, np.ndarray]:
        """What the trained model makes of sequences of a split, in the form of `samples`.

        split: train, val or test. indices: of the sequences, by default the first 8. device, data_folder: as the
        parameters of these names; they may differ from those in training. Raises RunError if nothing is trained yet,
        ValueError for an index or a device that does not exist.
        """
        p = self.parameters.model_copy(update={"data_folder": data_folder or self.parameters.data_folder})
        model, _ = experiment.load_model(self.model_file(), str(make_accelerator(device=device).device))
        sequences = experiment.sequences(p, split)
        chosen = list(range(len(sequences))[:SAMPLES] if indices is None else indices)
        if not chosen or not set(chosen) <= set(range(len(sequences))):
            raise ValueError(f"{split} has sequences 0 to {len(sequences) - 1}: choose some of them, not {chosen}")
        return images(model, sequences[chosen], p)

    def prognosis(self) -> str:
        """A sentence, known before training: whether this head can learn on this data at all."""
        floor, mean = self._levels()
        return prognosis(floor, min(mean.values()))

    def explain(self) -> str:
        """A paragraph: the reason for `prognosis`, computed from the data and the last layer; see `explain_head`."""
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
        """The verdict on a finished run, one computed line; None before."""
        return self.record().get("verdict")

    def facts(self) -> list[tuple[str, str]]:
        """Labels and values of what a reader wants to know first: parameters, results, times, machine and code."""
        record, p = self.record(), self.parameters
        weights = record.get("weights") or _count_weights(p)
        facts = [
            ("task", f"{p.task}, decoder reads {p.decoder_input}"),
            (
                "loss",
                f"{p.loss}: pixels in ({p.pixel_range[0]:g}, {p.pixel_range[1]:g}), "
                f"{'no activation' if p.activation == 'none' else p.activation}, {p.training_loss}"
                + (f", gain {p.gain:g}" if p.gain != 1 else ""),
            ),
            ("architecture", f"{p.architecture}, width {p.width:g}, {weights:,} weights"),
            (
                "data",
                f"{p.frames_in} + {p.frames_out} frames of {p.frame_size}×{p.frame_size} pixels, digits {p.digits}, "
                f"{p.train_sequences:,} sequences an epoch{', ever new' if p.endless else ''}, by {p.batch_size}",
            ),
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

    def __repr__(self) -> str:  # without the folder: executed notebooks should not name folders of this machine
        return f"Run({self.family}/{self.name})"

    def _repr_html_(self) -> str:
        rows = [("status", self.status), ("verdict", self.verdict or "none yet"), *self.facts()]
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows)
        return f"<table><caption>{html.escape(f'{self.family}/{self.name}')}</caption>{cells}</table>"

    # --- inside ---

    def _results(self, record: Mapping[str, Any]) -> list[tuple[str, str]]:
        # The final metrics, each with the baselines of the same metric.
        results, facts = record.get("results", {}), []
        levels = self.baselines().query("split == 'test' and baseline != 'floor'") if results else pd.DataFrame()
        for key, value in results.items():
            branch, metric = key.split()
            beside = levels[(levels.branch == branch) & (levels.metric == metric)].sort_values("value")
            told = ", ".join(
                f"{row.baseline.replace('_', ' ')} {four_digits(row.value)}" for row in beside.itertuples()
            )
            facts.append((f"test {branch} {label(metric)}", four_digits(value) + (f" ({told})" if told else "")))
        return facts

    def _levels(self) -> tuple[float, dict[str, float]]:
        # The mse on val of the floor, of the branch where it is highest, and of each branch's mean frame.
        file = self.folder / "baselines.csv"
        rows = mse_rows(file) if file.exists() else self.baselines().query("metric == 'mse'").to_dict("records")
        known = [(row["baseline"], row["branch"], float(row["value"])) for row in rows if row["split"] == "val"]
        floor = max(value for baseline, _, value in known if baseline == "floor")
        return floor, {branch: value for baseline, branch, value in known if baseline == "mean_frame"}


def family_of(folder: Path, record: Mapping[str, Any]) -> str:
    """The family in a run's record, which is joined to paths. Raises RunError if it is not the name of a folder."""
    if not is_name(family := record["family"]):
        raise RunError(
            f"{folder / 'run.yaml'} has family {family!r}, which must be a name without slashes: look at who made it"
        )
    return family


def holds_run(folder: Path, family: str, short_hash: str) -> bool:
    """Whether a folder, whatever it is called, holds the run of this family whose parameters have this hash."""
    with suppress(RunError, ParameterError, KeyError, TypeError):
        record = read_record(folder)
        return record.get("family") == family and resolve(record["parameters"]).short_hash() == short_hash
    return False


def mse_rows(file: Path) -> list[dict[str, str]]:
    """The rows of mse in one of a run's tables. For many runs: pandas would take 20 times as long."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader([*lines[:1], *(line for line in lines[1:] if ",mse," in line)]))


def _count_weights(p: Parameters) -> int:
    with torch.device("meta"):  # costs neither memory nor time
        return sum(weights.numel() for weights in experiment.build_model(p).parameters())


def images(model: SequenceAutoencoder, sequences: torch.Tensor, p: Parameters) -> dict[str, np.ndarray]:
    """Run a model on sequences, uint8 (N, T, H, W): these as `frames`, and each branch's output, uint8 (N, T, H, W)."""
    outputs = predict(model, sequences[:, : p.frames_in], activation=p.activation, pixel_range=p.pixel_range)
    images = {branch: (255 * output).round().byte().numpy() for branch, output in outputs.items()}
    return {"frames": sequences.numpy(), **images}
