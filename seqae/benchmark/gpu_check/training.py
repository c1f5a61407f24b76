"""Every optimizer takes steps and goes on from a checkpoint as if it had never stopped; clipping and evaluation."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seqae.benchmark.gpu_check.checks import Checks
from seqae.device import mixed_precision
from seqae.evaluation import evaluate
from seqae.parameters import Parameters
from seqae.runs import experiment, resolve
from seqae.updates import clip_gradients

OPTIMIZERS = (
    "Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop", "Adafactor",
    "Muon", "LBFGS",
)  # fmt: skip
# How far, as a share, a resumed run's objective on val may be from an unbroken one's. On a CPU they are the same.
RESUMED, RESUMED_ROUGHLY = 1e-3, 1e-2
ROUGH = {"Muon", "Rprop", "LBFGS"}  # in bfloat16; by signs; by searches along a line: these magnify a rounding error
EVALUATED = 1e-5  # an error in float32 on two devices
SIZES = {
    "frame_size": 16,
    "width": 0.03,
    "train_sequences": 64,
    "val_sequences": 16,
    "batch_size": 16,
    "clip_norm": 1.0,
}
TINY_SIZES = {
    "architecture": "srivastava", "task": "recon", "frame_size": 16, "width": 0.004, "frames_in": 3, "frames_out": 3,
    "train_sequences": 8, "val_sequences": 2, "batch_size": 4,
}  # fmt: skip


def check_training(checks: Checks) -> None:
    """A line for each optimizer, precision, and what else an update may do."""
    mixed_precision(torch.device(checks.device), "none")  # cuDNN would take tf32 unasked
    with checks.failing("clipping"):
        _check_clipping(checks)
    with checks.failing("evaluation"):
        _check_evaluation(checks)
    for name, given in _training_cases(tiny=checks.tiny, on_gpu=checks.device != "cpu"):
        if checks.left < 3:
            checks.skipped("training", f"no time left from {name} on")
            return
        with checks.failing(name):
            _check_resumed(checks, name, _parameters(checks, **given))


def _parameters(checks: Checks, **given: Any) -> Parameters:
    sizes = TINY_SIZES if checks.tiny else SIZES
    base = {"loss": "0nm", "task": "both", "device": checks.device, "checkpoint_seconds": 0}
    return resolve(base, sizes, given)


def _training_cases(*, tiny: bool, on_gpu: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("Adam", "SGD") if tiny else OPTIMIZERS:
        yield f"optimizer {name}", {"optimizer": name, "learning_rate": None, "decoder_input": "zero"}
    for precision in ("tf32", "bf16", "fp16") if on_gpu else ("bf16",):
        for reads in ("output",) if tiny else ("zero", "output"):
            yield f"training in {precision}, {reads}", {"precision": precision, "decoder_input": reads}
    if tiny:
        return
    yield "training with clip_update", {"clip_update": 0.01}
    yield "training with peepholes", {"architecture": "srivastava", "peepholes": True, "decoder_input": "truth"}
    yield "training of convlstm", {"architecture": "convlstm", "width": 0.25, "decoder_input": "output"}
    yield "training on a schedule", {"schedule": "StepLR", "schedule_every": 1, "optimizer": "Muon"}
    yield "training on endless sequences", {"endless": True}
    yield "training with a last batch of its own size", {"train_sequences": 56}


def _check_resumed(checks: Checks, name: str, p: Parameters) -> None:
    """Four epochs at once, and two and then the rest: the objective on val has changed and is the same in both."""
    with tempfile.TemporaryDirectory() as folder:
        unbroken = _objectives(p, 4)
        _objectives(p, 2, Path(folder) / "state.pt")
        resumed = _objectives(p, 4, Path(folder) / "state.pt")
    off = abs(resumed[-1] / unbroken[-1] - 1)
    allowed = RESUMED_ROUGHLY if p.optimizer in ROUGH or p.precision != "none" else RESUMED
    good = all(map(math.isfinite, unbroken)) and unbroken[-1] != unbroken[0] and off <= allowed * (p.device != "cpu")
    text = f"val {unbroken[0]:.6f} → {unbroken[-1]:.6f}, resumed {resumed[-1]:.6f}, off by {off:.1e}"
    checks.told(name, good, text, unbroken=unbroken, resumed=resumed, off=off)


def _objectives(p: Parameters, epochs: int, checkpoint: Path | None = None) -> list[float]:
    """The objective on val after each epoch that this trained. checkpoint: to go on from, and to leave at the end."""
    rows: list[dict[str, Any]] = []
    p = p.model_copy(update={"epochs": epochs, "keep_checkpoint": checkpoint is not None})
    val = experiment.sequences(p, "val")
    experiment.train_model(p, val, record=lambda table, found: rows.extend(found), checkpoint=checkpoint)
    return [row["value"] for row in rows if row.get("split") == "val" and row["metric"] == "objective"]


def _check_clipping(checks: Checks) -> None:
    """Gradients of a million numbers, whose norm is known, end with the norm that they may have."""
    weights = [torch.zeros(1000, 1000, device=checks.device, requires_grad=True) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.full_like(weight, 3.0)
    before = float(clip_gradients(weights, 0.25))
    after = math.sqrt(sum(float(weight.grad.double().square().sum()) for weight in weights if weight.grad is not None))
    right = 3.0 * math.sqrt(2e6)
    good = abs(before / right - 1) < EVALUATED and abs(after / 0.25 - 1) < EVALUATED
    checks.told("clipping", good, f"norm {before:.2f}, {right:.2f} is right; clipped to {after:.6f}, 0.25 is right")


def _check_evaluation(checks: Checks) -> None:
    """All that is measured of a model, on the device and on the CPU."""
    p = _parameters(checks, loss="0sb", decoder_input="output")
    val, objective, model = experiment.sequences(p, "val"), experiment.objective_of(p), experiment.new_model(p)
    here = evaluate(model, val, 4, objective, statistics=True, quality=True)
    there = evaluate(model.to(checks.device), val.to(checks.device), 4, objective, statistics=True, quality=True)
    pairs = [(there.errors[b][metric], v) for b, of in here.errors.items() for metric, v in of.items()]
    off = max(float((found - right).abs().max() / right.abs().max()) for found, right in pairs)
    # An output on the edge of a bin may lie in the next one.
    bins = max(float((there.histograms[b] - share).abs().max()) for b, share in here.histograms.items())
    good = off < 10 * EVALUATED and bins < 1e-3
    checks.told("evaluation", good, f"metrics off by {off:.1e}, shares of pixels by {bins:.1e}", off=off, bins=bins)
