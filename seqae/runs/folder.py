"""What can be read of a run: from its folder, or from its parameters alone. Nothing here writes."""

import csv
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from seqae.data import to_range
from seqae.device import make_accelerator
from seqae.evaluation import predict
from seqae.files import expanded
from seqae.metrics import HISTOGRAM_CENTRES, histogram
from seqae.parameters import Parameters
from seqae.runs import experiment
from seqae.runs.building import load_model, reach_of
from seqae.runs.drawn import HasData
from seqae.runs.explanation import NO_LIMIT, explained, limit_unknown
from seqae.runs.facts import facts_of
from seqae.runs.horizon import all_predicted_from
from seqae.runs.identity import as_used, without_effect
from seqae.runs.logs import SAMPLES_FILE, has_results, read_samples, read_table
from seqae.runs.merging import resolve
from seqae.runs.own_code import OwnCode, recorded_code
from seqae.runs.records import RunError, diverged, read_record, run_status
from seqae.runs.trained import HasModel
from seqae.runs.units import with_units
from seqae.runs.verdicts import next_step, plateau_since, prognosis, recorded_verdict
from seqae.stores import is_name, refresh

SAMPLES = 8  # how many val sequences a run shows


@dataclass(frozen=True)
class RunFolder(HasModel, HasData):
    """A run's folder, as its files are now; CONTRIBUTING.md has a table of them.

    What its model makes of frames of one's own, `predict`, `reconstruct`, `encode` and `decode`, is in `HasModel`; its
    sequences, and what is known of them, are in `HasData`.

    What reads a table raises RunError, which names the file, if that is damaged.

    differs: the parameters that differ from the family's defaults. code: of your own, where it is known; trusted:
    whether the copy in the folder may run where the project has no such code.
    """

    folder: Path
    family: str
    parameters: Parameters = field(hash=False)
    differs: Mapping[str, Any] = field(hash=False)
    code: OwnCode | None = field(default=None, compare=False, repr=False)
    trusted: bool = field(default=False, compare=False)

    @classmethod
    def load(cls, folder: str | Path, *, trust_code: bool = False) -> Self:
        """The run recorded in a folder, which may have been moved. Raises RunError if there is none or it is damaged.

        A relative path is relative to the working directory, as for any function that opens a file. trust_code: let
        code of your own run from the copy in the folder, if the project here has no such code. Raises ParameterError if
        its parameters are of another version; see `recorded_run`, which takes a path in the store.
        """
        folder = Path(expanded(str(folder))).resolve()
        if not (record := read_record(folder)):
            raise RunError(f"{folder} is no run folder: it has no run.yaml")
        try:
            if record.get("status") == "done":
                record["results"]
            family = family_of(folder, record)
            p = as_used(resolve(record["parameters"]), family)
            return cls(folder, family, p, record["differs"], trusted=trust_code)
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
        return read_table(self.folder, "performance")

    def metrics(self) -> pd.DataFrame:
        """metrics.csv so far: epoch, step, seconds, split, branch, metric, value. A torn last line is left out.

        A run that has metrics of your own has a column more, their unit, which is missing for others.
        """
        return with_units(read_table(self.folder, "metrics"), [self.record()])

    def histograms(self) -> pd.DataFrame:
        """histograms.csv so far: epoch, branch, output (centre of a bin, in units of [0, 1]), share of pixels."""
        return read_table(self.folder, "histograms")

    def true_shares(self) -> pd.Series:
        """The share of val's true pixels by bin, as `histograms` has it for the outputs."""
        share = histogram(to_range(experiment.sequences(self.parameters, "val"), (0.0, 1.0))).mean(0)
        return pd.Series(share.numpy(), index=HISTOGRAM_CENTRES)

    @property
    def reach(self) -> float:
        """The largest |pre-activation| that any weights can give, often infinite; as recorded, or else computed."""
        record = self.record()
        if ":" not in self.parameters.architecture:
            return reach_of(self.parameters)
        if "reach" in record:
            return float("inf") if record["reach"] is None else float(record["reach"])
        return reach_of(self.parameters, self.own_code())

    def own_code(self) -> OwnCode | None:
        """Code of your own that the model or its training needs; None if these are built in.

        That of metrics is in it where the run was opened with it. Raises OwnCodeError, a ValueError.
        """
        p = self.parameters.model_copy(update={"metrics": ()})
        return self.code or recorded_code(p, self.folder, trust=self.trusted)

    def marks(self) -> dict[str, int]:
        """Epochs to mark on a curve: `best` on val and, if the run has them, `plateau`, `stopped` and `diverged`; with
        `horizon_until` the first from which on errors on train are of all frames, `all frames`.
        """
        table = self.metrics().query("metric == 'objective'")
        objective = table[table.split == "val"]["value"].to_list()
        if not objective or not np.isfinite(table[table.epoch == len(objective)]["value"]).all():
            return {"diverged": len(objective)} if objective else {}
        marks = {"best": int(np.argmin(objective)) + 1, "plateau": plateau_since(objective)}
        if self.status == "done" and len(objective) < self.parameters.epochs:
            marks["stopped"] = len(objective)
        if (whole := all_predicted_from(self.parameters)) and 1 < whole <= len(objective):
            marks["all frames"] = whole
        return {name: epoch for name, epoch in marks.items() if epoch}

    def test(self) -> pd.DataFrame:
        """test.csv: branch, frame (1, 2, …; missing for the mean over frames), metric, value, unit, sequences.

        The values of a run that diverged are NaN. Raises RunError if the run has none yet.
        """
        has_results(self.folder, self.status, "test.csv", "test figures")
        table = read_table(self.folder, "test").astype({"frame": "Int64"})
        return table.assign(value=float("nan")) if self.diverged else table

    def baselines(self) -> pd.DataFrame:
        """Scores without any model, and the head's floor if it is known: split, branch, baseline, metric, value."""
        table = self._levels()
        return table[table.baseline != "floor"].reset_index(drop=True) if limit_unknown(self) else table

    def _levels(self) -> pd.DataFrame:
        if (self.folder / "baselines.csv").exists():
            return read_table(self.folder, "baselines")
        return experiment.reference_levels(self.parameters, self.reach)

    def samples(self) -> dict[str, np.ndarray]:
        """Fixed val sequences, at most 8: `frames` (N, T, H, W) and each branch's output (N, T, H, W), uint8 0-255.

        Raises RunError if the run has none yet.
        """
        has_results(self.folder, self.status, SAMPLES_FILE, "samples")
        return read_samples(self.folder)

    def model_file(self) -> Path:
        """The path of model.safetensors, fetched if it is in a store at a URL. Raises RunError if nothing is trained.

        Raises StoreError if that store cannot be read.
        """
        if not (file := self.folder / "model.safetensors").exists():
            refresh(self.folder.parents[1], f"{self.family}/{self.name}", whole=True)
        if not file.exists():
            lost = "a benchmark has none, and that of another run is lost: choose another run, or train it anew"
            what = lost if (status := self.status) == "done" else "finish it with seqae run first"
            raise RunError(f"{self.folder} has no trained model, it is {status}: {what}")
        return file

    def model(self, device: str = "cpu") -> torch.nn.Module:
        """The model with the weights that were best on val. device: as the parameter.

        Raises RunError if none is trained yet, ValueError for a device that is not there, and OwnCodeError, a
        ValueError, if code of your own may not run.
        """
        return load_model(self.model_file(), device, trust_code=self.trusted, code=self.code)[0]

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
        ValueError for an index or a device that does not exist, and for a data_folder that the run does not use.
        """
        if data_folder and (idle := without_effect(self.parameters, self.family, {"data_folder": data_folder})):
            raise ValueError(f"{idle['data_folder']}: leave it out")
        p = self.parameters.model_copy(update={"data_folder": data_folder or self.parameters.data_folder})
        model = self.model(str(make_accelerator(device=device).device))
        sequences = experiment.sequences(p, split)
        chosen = list(range(len(sequences))[:SAMPLES] if indices is None else indices)
        if not chosen or not set(chosen) <= set(range(len(sequences))):
            raise ValueError(f"{split} has sequences 0 to {len(sequences) - 1}: choose some of them, not {chosen}")
        return images(model, sequences[chosen], p)

    def prognosis(self) -> str:
        """A sentence, known before training: whether this head can learn on this data at all."""
        return NO_LIMIT if limit_unknown(self) else prognosis(*self.levels_on_val())

    def explain(self) -> str:
        """A paragraph: the reason for `prognosis`, computed from the data and the last layer."""
        return explained(self)

    @property
    def diverged(self) -> bool:
        """Whether training ended in NaN or infinity: the run then has no final figures."""
        return diverged(self.record())

    @property
    def verdict(self) -> str | None:
        """The verdict on a finished run, one computed line; None before."""
        return recorded_verdict(self.record())

    def next_step(self) -> str:
        """What to try or to look at after the verdict, in Markdown, with the command."""
        planned = self.record().get("planned_from", {})
        return next_step(self.verdict or "", self.parameters, family=self.family, reach=self.reach, planned=planned)

    def facts(self) -> list[tuple[str, str]]:
        """Labels and values of what a reader wants to know first: parameters, results, times, machine and code."""
        return [*chain(*facts_of(self).values())]

    def __repr__(self) -> str:  # without the folder: executed notebooks should not name folders of this machine
        return f"Run({self.family}/{self.name})"

    def _repr_html_(self) -> str:
        rows = [("status", self.status), ("verdict on val", self.verdict or "none yet"), *self.facts()]
        cells = "".join(
            f"<tr><th>{html.escape(k)}</th><td>{html.escape(v.replace('`', ''))}</td></tr>" for k, v in rows
        )
        return f"<table><caption>{html.escape(f'{self.family}/{self.name}')}</caption>{cells}</table>"

    def levels_on_val(self) -> tuple[dict[str, float], dict[str, float]]:
        """The mse on val, by branch: of the floor, and of the mean frame."""
        file = self.folder / "baselines.csv"
        rows = mse_rows(file) if file.exists() else self._levels().query("metric == 'mse'").to_dict("records")
        known: dict[str, dict[str, float]] = {"floor": {}, "mean_frame": {}}
        try:
            for row in rows:
                if row["split"] == "val" and row["baseline"] in known:
                    known[row["baseline"]][row["branch"]] = float(row["value"])
        except (KeyError, ValueError, TypeError):
            read_table(self.folder, "baselines")  # raises RunError, which says what is wrong
            raise
        if not known["mean_frame"]:
            raise RunError(f"{file} is damaged (it has no mean frame on val): delete the run's folder and run it again")
        return known["floor"], known["mean_frame"]


def family_of(folder: Path, record: Mapping[str, Any]) -> str:
    """The family in a run's record, which is joined to paths. Raises RunError if it is not the name of a folder."""
    if not is_name(family := record["family"]):
        raise RunError(
            f"{folder / 'run.yaml'} has family {family!r}, which must be a name without slashes: look at who made it"
        )
    return family


def mse_rows(file: Path) -> list[dict[str, str]]:
    """The rows of mse in one of a run's tables. For many runs: pandas would take 20 times as long."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return list(csv.DictReader([*lines[:1], *(line for line in lines[1:] if ",mse," in line)]))


def images(model: torch.nn.Module, sequences: torch.Tensor, p: Parameters) -> dict[str, np.ndarray]:
    """Run a model on sequences, uint8 (N, T, H, W): these as `frames`, and each branch's output, uint8 (N, T, H, W)."""
    outputs = predict(model, sequences[:, : p.frames_in], activation=p.activation, pixel_range=p.pixel_range)
    images = {branch: (255 * output).round().byte().numpy() for branch, output in outputs.items()}
    return {"frames": sequences.numpy(), **images}
