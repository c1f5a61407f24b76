"""What a reader wants to know first of a run, as labels and values."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from seqae.lstm import LSTMStack
from seqae.metrics import UNITS
from seqae.parameters import Parameters
from seqae.runs.building import meta_model
from seqae.runs.clip_sets import told_of_clips
from seqae.runs.horizon import grows, updates_an_epoch
from seqae.runs.naming import way
from seqae.runs.provenance import CodeVersion, code_version
from seqae.runs.records import diverged, final_figures, own_metrics_of
from seqae.runs.run_command import run_command
from seqae.runs.units import counted, duration, four_digits, label

if TYPE_CHECKING:
    from seqae.runs.folder import RunFolder


FEW = 64  # sequences: figures of fewer differ by several per cent from one choice of them to another

DIGIT_SETS = {  # how many images each has; none is in two splits
    "mnist5k": " (5,000 images: 4,000 for training, 500 for val, 500 for test)",
    "mnist": " (70,000 images: 55,000 for training, 5,000 for val; 10,000, MNIST's own test set, for test)",
}
SCALES = {
    "smoke": "the least that runs",
    "quick": "for minutes on 2 CPU cores",
    "paper": "the diary's full sizes",
}


def rough_figures(p: Parameters) -> str:
    """A sentence where val or test has fewer than `FEW` sequences; else "". Clips: where they say how many to use."""
    few = {split: count for split in ("val", "test") if 0 < (count := getattr(p, f"{split}_sequences") or 0) < FEW}
    told = " and ".join(f"{split} has only {count}" for split, count in few.items())
    return f"The figures are rough: {told} sequences." if told else ""


Rows = list[tuple[str, str]]  # labels and values
ONE_SEED = " (one seed: how far chance decides is not known)"

_OUTPUTS = {
    "recon": "gives them back, in reverse order",
    "recon_ordered": "gives them back",
    "pred": "predicts the next {}",
    "both": "gives them back, in reverse order, and predicts the next {}",
}


def introduction(p: Parameters, *others: Parameters) -> str:
    """One sentence for a reader who knows nothing of the run: what its model sees and what it puts out. others: those
    of the runs that it is compared with.
    """
    of = (p, *others)
    digits = [f"{q.digits_per_sequence} moving digit{'s' * (q.digits_per_sequence > 1)} (Moving MNIST)" for q in of]
    source = either("video clips" if q.clips_digest or q.clips else told for q, told in zip(of, digits, strict=True))
    seen = either("{} frames of {}×{} pixels".format(q.frames_in, *q.frame_shape) for q in of)
    outputs = _OUTPUTS | ({"both": "does both"} if {q.task for q in of} >= {"recon", "pred"} else {})
    told = [outputs[task].format(either(q.frames_out for q in of)) for task in outputs if task in {q.task for q in of}]
    which, it = ("Sequence autoencoders", "Each") if others else ("A sequence autoencoder", "It")
    return f"{which} on {source}. {it} sees {seen} and {', or '.join(told)}."


def either(values: Iterable[object]) -> str:
    """The distinct values, as text: all of up to three, else how many there are."""
    found = list(dict.fromkeys(map(str, values)))
    return " or ".join(found) if len(found) < 4 else f"several ({len(found)})"


def shared_facts(runs: "Sequence[RunFolder]") -> Rows:
    """What a reader wants to know first of runs that are compared: what they share, and of what differs the values."""
    records, of = [run.record() for run in runs], [run.parameters for run in runs]
    seeds, weights = sorted({p.seed for p in of}), sorted(r["weights"] for r in records if r.get("weights"))
    family = runs[0].family if runs else ""
    counts = f", {' to '.join(f'{n:,}' for n in dict.fromkeys((weights[0], weights[-1])))} weights" if weights else ""
    days = sorted({record["started"][:10] for record in records if "started" in record})
    spans = sorted(record["seconds"] for record in records if "seconds" in record)
    losses = list(dict.fromkeys(map(_loss, of)))
    # A model is built, though without memory, to tell its sizes: once for all seeds.
    alike = {run.parameters.model_dump_json(exclude={"seed", "label"}): run for run in runs}.values()
    rows = [
        ("loss", "; ".join(losses) if len(losses) < 9 else either(losses)),  # what follows has their short names
        ("architecture", either(_built(run).replace(_width(run.parameters), "") for run in alike) + counts),
        ("training", either(map(_trained, of))),
        ("scale", either(filter(None, map(_scale, records)))),
        ("seeds", either(seeds)) if len(seeds) > 1 else ("seed", f"{seeds[0]}{ONE_SEED}"),
        ("started", " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""),
        ("trained for", " to ".join(dict.fromkeys(map(duration, spans[:1] + spans[-1:]))) + " each" if spans else ""),
        ("machine", either(_machine(record) for record in records if {"machine", "device"} <= record.keys())),
        ("made with code", either(_told(_code(record)) for record in records if "commit" in record)),
        (
            "to make it again",
            f"`seqae rerun FOLDER` for each run, then `seqae compare {family}`, in {_clone_of(records)}, installed as "
            "its README says; the first checks each run's commit out and needs the folder of runs: ask the sender",
        ),
    ]
    return [(name, told) for name, told in rows if told and runs]


def facts_of(run: "RunFolder") -> dict[str, Rows]:
    """What a reader wants to know first, each fact once, by what it is about: the run, its results, its making."""
    found = {"the run": _what(run), "result": _results(run, run.record()), "made": _made(run)}
    return {about: rows for about, rows in found.items() if rows}


def _what(run: "RunFolder") -> Rows:
    record, p = run.record(), run.parameters
    weights = record.get("weights") or (None if ":" in p.architecture else _weights(p))
    rows = [
        ("task", ", decoder reads ".join(way(p).values())),
        ("loss", _loss(p)),
        ("architecture", f"{_built(run)}{'' if weights is None else f', {weights:,} weights'}"),
        (
            "data",
            "{} + {} frames of {}×{} pixels, ".format(p.frames_in, p.frames_out, *p.frame_shape)
            + f"{_data(p, record)}, {p.train_sequences:,} sequences an epoch, in batches of {p.batch_size}, "
            + ("new ones every epoch" if p.endless else "the same ones every epoch")
            + ("" if p.clips_digest else f"; {p.val_sequences:,} for val, {p.test_sequences:,} for test"),
        ),
        ("training", _trained(p)),
        ("scale", _scale(record)),
        ("seed", f"{p.seed}{ONE_SEED}"),
        ("differs from the family's defaults in", ", ".join(f"{k} {v}" for k, v in run.differs.items()) or "nothing"),
    ]
    return [(name, told) for name, told in rows if told]


def _made(run: "RunFolder") -> Rows:
    record, p, facts = run.record(), run.parameters, Rows()
    if "started" in record:
        facts.append(("started", f"{record['started'][:16].replace('T', ' ')} UTC"))
    if "seconds" in record:
        epochs = record.get("epochs", p.epochs)
        facts.append(("trained for", f"{duration(record['seconds'])}, {epochs} epochs"))
        if epochs and p.train_sequences:
            facts.append(("updates", f"{epochs * updates_an_epoch(p):,}"))
    if went_on := record.get("went_on"):
        made = f", made with code {went_on['commit']}" if "commit" in went_on else ""
        lacks = f", without {', '.join(went_on['without'])} of these epochs" if "without" in went_on else ""
        facts.append(("went on from", f"{went_on.get('run')}, after epoch {went_on.get('epochs')}{made}{lacks}"))
    if anew := record.get("began_anew"):
        facts.append(("training", anew))
    if {"machine", "device", "commit"} <= record.keys():
        facts.append(("machine", _machine(record)))
        today = code_version()
        then = _told(_code(record))
        same = record["commit"] == today.commit and record.get("sources", today.sources) == today.sources
        facts.append(("made with code", then if same else f"{then}; the code is now {_told(today)}"))
        if not record["commit"].startswith("seqae "):  # an installed package has no commit to check out
            alone = f"the notebook {run.family}.ipynb with the parameters of this page"
            alone = f"`{run_command(planned)}`" if (planned := record.get("planned_from")) else alone
            where = f"in {_clone_of([record])} at the commit that made it, installed as its README says"
            facts.append(("to make it again", f"{alone}, {where}"))
            facts.append(
                ("with this page's folder", "`seqae rerun FOLDER` in such a clone; it checks that commit out itself")
            )
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


def _loss(p: Parameters) -> str:
    low, high = p.pixel_range
    told = f"{p.loss}: pixels in ({low:g}, {high:g}), {'no activation' if p.activation == 'none' else p.activation}"
    return f"{told}, {p.training_loss}" + (f", gain {p.gain:g}" if p.gain != 1 else "")


def _built(run: "RunFolder") -> str:
    # The network and its LSTM layers, without the number of weights.
    p, hidden = run.parameters, run.record().get("hidden")
    if ":" in p.architecture:
        arguments = "".join(f", {name} {value}" for name, value in p.architecture_arguments.items())
        return f"{p.architecture}{arguments}, code {p.code}"
    told = f"{p.architecture}{_width(p)}"
    with suppress(ValueError):  # what an earlier version could build
        model = meta_model(p)
        hidden, layers = hidden or model.hidden, cast(LSTMStack, next(iter(model.decoders.values()))).hidden_sizes
        last = f" (in decoders {', '.join(map(str, layers))}, the frame)" if model.row.readout == "h" else ""
        return f"{told}, hidden {hidden:,}, {counted(len(layers), 'LSTM layer')}{last}"
    return told + (f", hidden {hidden:,}" if hidden else "")


def _width(p: Parameters) -> str:
    return f", width {p.width:g} of the full sizes" if p.width != 1 else ""


def _trained(p: Parameters) -> str:
    rate = "its own learning rate" if p.learning_rate is None else f"learning rate {p.learning_rate:g}"
    told = ""
    if grows(p):
        told = f"; predicts 1 frame at first, all {p.frames_out} after {p.horizon_until:.0%} of the updates, and "
        told += "errors on train are of as many"
    return f"{p.optimizer}, {rate}{told}"


def _scale(record: Mapping[str, Any]) -> str:
    # A name; the path of a file stands in the command.
    name = str(record.get("planned_from", {}).get("scale", ""))
    return "" if "/" in name else ": ".join(filter(None, [name, SCALES.get(name)]))


def _code(record: Mapping[str, Any]) -> CodeVersion:
    return CodeVersion(record["commit"], bool(record.get("dirty")), record.get("sources", ""), record.get("git"))


def _data(p: Parameters, record: Mapping[str, Any]) -> str:
    if not p.clips_digest:
        return f"digits {p.digits}{DIGIT_SETS.get(p.digits, '')}"
    paths = p.clips if isinstance(p.clips, str) else ", ".join(p.clips or ())
    told = told_of_clips(record.get("clips") or {})
    return f"clips {paths} ({p.clips_digest}{f'; {told}' if told else ''})"


def _machine(record: Mapping[str, Any]) -> str:
    # Its name, processor, device and threads; records of versions before 29 November 2026 lack the processor.
    processor = f", {record['processor']}" if record.get("processor") else ""
    threads = f", {record['threads']} thread{'s' * (record['threads'] != 1)}" if "threads" in record else ""
    return f"{record['machine']}{processor}, device {record['device']}{threads}"


def _clone_of(records: "Iterable[Mapping[str, Any]]") -> str:
    # Where runs with these records can be made again, with the address to clone from where it is recorded.
    origins = dict.fromkeys(str(record["origin"]) for record in records if "origin" in record)
    return f"a clone of {either(origins)}" if origins else "a clone of the project"


def _told(code: CodeVersion) -> str:
    changed, reason = " and uncommitted changes" if code.dirty else "", f" (git: {code.git})" if code.git else ""
    name = code.commit if code.commit.startswith("seqae ") else f"commit {code.commit}"  # or an installed package
    return f"{name}{changed}{reason}"


def _weights(p: Parameters) -> int:
    return sum(weights.numel() for weights in meta_model(p).parameters())
