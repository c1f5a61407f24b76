"""What a reader wants to know first of a run, as labels and values."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from seqae.metrics import UNITS
from seqae.parameters import Parameters
from seqae.runs.building import meta_model
from seqae.runs.naming import way
from seqae.runs.provenance import CodeVersion, code_version
from seqae.runs.records import diverged, final_figures, own_metrics_of
from seqae.runs.units import duration, four_digits, label

if TYPE_CHECKING:
    from seqae.runs.folder import RunFolder


FEW = 64  # sequences: figures of fewer differ by several per cent from one choice of them to another


def rough_figures(p: Parameters) -> str:
    """A sentence where val or test has fewer than `FEW` sequences; else "". Clips: where they say how many to use."""
    few = {split: count for split in ("val", "test") if 0 < (count := getattr(p, f"{split}_sequences") or 0) < FEW}
    told = " and ".join(f"{split} has only {count}" for split, count in few.items())
    return f"The figures are rough: {told} sequences." if told else ""


Rows = list[tuple[str, str]]  # labels and values


_OUTPUTS = {
    "recon": "gives them back, in reverse order",
    "recon_ordered": "gives them back",
    "pred": "predicts the next {}",
    "both": "gives them back, in reverse order, and predicts the next {}",
}


def introduction(p: Parameters) -> str:
    """One sentence for a reader who knows nothing of the run: what its model sees and what it puts out."""
    digits = f"{p.digits_per_sequence} moving digit{'s' * (p.digits_per_sequence > 1)} (Moving MNIST)"
    source = "video clips" if p.clips_digest or p.clips else digits
    seen = "{} frames of {}×{} pixels".format(p.frames_in, *p.frame_shape)
    return f"A sequence autoencoder on {source}. It sees {seen} and {_OUTPUTS[p.task].format(p.frames_out)}."


def facts_of(run: "RunFolder") -> dict[str, Rows]:
    """What a reader wants to know first, each fact once, by what it is about: the run, its results, its making."""
    found = {"the run": _what(run), "result": _results(run, run.record()), "made": _made(run)}
    return {about: rows for about, rows in found.items() if rows}


def _what(run: "RunFolder") -> Rows:
    record, p = run.record(), run.parameters
    weights, hidden = record.get("weights"), record.get("hidden")
    if (weights is None or hidden is None) and ":" not in p.architecture:
        weights, hidden = _sizes(p)
    return [
        ("task", ", decoder reads ".join(way(p).values())),
        (
            "loss",
            f"{p.loss}: pixels in ({p.pixel_range[0]:g}, {p.pixel_range[1]:g}), "
            f"{'no activation' if p.activation == 'none' else p.activation}, {p.training_loss}"
            + (f", gain {p.gain:g}" if p.gain != 1 else ""),
        ),
        ("architecture", f"{p.architecture}, width {p.width:g}, hidden {hidden:,}, {weights:,} weights")
        if hidden is not None
        else ("architecture", _own_architecture(p, weights)),
        (
            "data",
            "{} + {} frames of {}×{} pixels, ".format(p.frames_in, p.frames_out, *p.frame_shape)
            + f"{_data(p, record)}, {p.train_sequences:,} sequences an epoch, in batches of {p.batch_size}, "
            + ("new ones every epoch" if p.endless else "the same ones every epoch"),
        ),
        ("differs from the family's defaults in", ", ".join(f"{k} {v}" for k, v in run.differs.items()) or "nothing"),
    ]


def _made(run: "RunFolder") -> Rows:
    record, p, facts = run.record(), run.parameters, Rows()
    if "started" in record:
        facts.append(("started", f"{record['started'][:16].replace('T', ' ')} UTC"))
    if "seconds" in record:
        epochs = record.get("epochs", p.epochs)
        facts.append(("trained for", f"{duration(record['seconds'])}, {epochs} epochs"))
        if epochs and p.train_sequences:
            facts.append(("updates", f"{epochs * math.ceil(p.train_sequences / p.batch_size):,}"))
    if went_on := record.get("went_on"):
        made = f", made with code {went_on['commit']}" if "commit" in went_on else ""
        lacks = f", without {', '.join(went_on['without'])} of these epochs" if "without" in went_on else ""
        facts.append(("went on from", f"{went_on.get('run')}, after epoch {went_on.get('epochs')}{made}{lacks}"))
    if anew := record.get("began_anew"):
        facts.append(("training", anew))
    if {"machine", "device", "commit"} <= record.keys():
        facts.append(("machine", _machine(record)))
        dirty, sources, today = bool(record.get("dirty")), record.get("sources", ""), code_version()
        then = _told(CodeVersion(record["commit"], dirty, sources, record.get("git")))
        same = record["commit"] == today.commit and record.get("sources", today.sources) == today.sources
        facts.append(("made with code", then if same else f"{then}; the code is now {_told(today)}"))
        if not record["commit"].startswith("seqae "):  # an installed package has no commit to check out
            facts.append(("to make it again", "seqae rerun FOLDER, this page's folder, in a clone of the project"))
    return facts


def _results(run: "RunFolder", record: Mapping[str, Any]) -> Rows:
    # The final metrics, each with the baselines of the same metric.
    results, facts = final_figures(record), Rows()
    units = UNITS | {name: of["unit"] for name, of in own_metrics_of(record).items()}
    levels = run.baselines().query("split == 'test' and baseline != 'floor'") if results else pd.DataFrame()
    for key, value in results.items():
        branch, metric = key.split()
        beside = levels[(levels.branch == branch) & (levels.metric == metric)].sort_values("value")
        told = ", ".join(_beside(row.baseline, row.value, value) for row in beside.itertuples())
        figure = "no number, because it diverged" if diverged(record) else four_digits(value)
        facts.append((f"test {branch} {label(metric, units)}", figure + (f" ({told})" if told else "")))
    if results and (rough := rough_figures(run.parameters)):
        facts.append(("note", rough))
    return facts


def _beside(baseline: str, level: float, value: float) -> str:
    # A baseline, and of the mean frame how far the figure is from it.
    told = f"{baseline.replace('_', ' ')} {four_digits(level)}"
    if baseline != "mean_frame" or not (level > 0 and math.isfinite(value)):
        return told
    share = 1 - value / level
    return f"{abs(100 * share):.0f} % {'below' if share > 0 else 'above'} {told}"


def _own_architecture(p: Parameters, weights: int | None) -> str:
    arguments = "".join(f", {name} {value}" for name, value in p.architecture_arguments.items())
    return f"{p.architecture}{arguments}{'' if weights is None else f', {weights:,} weights'}, code {p.code}"


def _data(p: Parameters, record: Mapping[str, Any]) -> str:
    if not p.clips_digest:
        return f"digits {p.digits}"
    paths = p.clips if isinstance(p.clips, str) else ", ".join(p.clips or ())
    clips = record.get("clips") or {}
    many = ", ".join(f"{count:,} for {split}" for split, count in (clips.get("splits") or {}).items())
    colours = f", {clips['grey']}" if "Rec. 601" in clips.get("grey", "") else ""
    return f"clips {paths} ({p.clips_digest}{f'; {many}' if many else ''}{colours})"


def _machine(record: Mapping[str, Any]) -> str:
    # Its name, processor, device and threads; records of versions before 29 November 2026 lack the processor.
    processor = f", {record['processor']}" if record.get("processor") else ""
    threads = f", {record['threads']} thread{'s' * (record['threads'] != 1)}" if "threads" in record else ""
    return f"{record['machine']}{processor}, device {record['device']}{threads}"


def _told(code: CodeVersion) -> str:
    changed, reason = " and uncommitted changes" if code.dirty else "", f" (git: {code.git})" if code.git else ""
    return f"{code.commit}{changed}{reason}"


def _sizes(p: Parameters) -> tuple[int, int]:
    # The number of weights, and the LSTM's units as built.
    model = meta_model(p)  # costs neither memory nor time
    return sum(weights.numel() for weights in model.parameters()), model.hidden
