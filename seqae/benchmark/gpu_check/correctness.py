"""Outputs, loss and gradients of every architecture in every precision, beside float64 on the CPU."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqae.architectures import ARCHITECTURES
from seqae.benchmark.gpu_check.checks import Checks
from seqae.data import to_range
from seqae.device import mixed_precision
from seqae.losses import training_loss
from seqae.parameters import Parameters
from seqae.runs import experiment, resolve
from seqae.tasks import branch_targets

# By precision, how far outputs, loss and gradients may be from float64's, as ‖found − right‖ / ‖right‖; a gradient that
# is less than a hundredth of the largest is held against that. bfloat16 has 8 bits of mantissa, tf32 and float16 11.
TOLERANCES = {
    "none": (1e-5, 1e-5, 1e-4),
    "tf32": (5e-3, 5e-3, 2e-2),
    "bf16": (2e-2, 2e-2, 0.1),
    "fp16": (5e-3, 5e-3, 3e-2),
}
FACTOR = 2.0**12  # of the loss in fp16, as a gradient scaler's
SMALL_FACTOR = 2.0**-20  # bfloat16 reaches as far as float32, so gradients of a loss this small are the same ones
RANGE_TOLERANCE = 1e-3
MODELS = {"lstm_copy": "output", "srivastava": "truth"}  # of a --tiny check: an architecture and what its decoder reads


@dataclass(frozen=True)
class Computed:
    """Pre-activations by branch, the loss, and gradients by weight; float64 on the CPU."""

    outputs: dict[str, Tensor]
    loss: Tensor
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Errors64:
    """The largest relative errors of outputs, loss and gradients, see TOLERANCES."""

    outputs: float
    loss: float
    gradients: float

    def within(self, limits: tuple[float, float, float]) -> bool:
        """Whether none is above its limit; what is not a number is."""
        return self.outputs <= limits[0] and self.loss <= limits[1] and self.gradients <= limits[2]


def check_correctness(checks: Checks) -> None:
    """A line for each architecture and decoder input, of the smallest sizes that it has, and one for a larger size."""
    for name, p in _cases(tiny=checks.tiny):
        if checks.left < 2:
            checks.skipped("correctness", f"no time left from {name} on")
            return
        with checks.failing(name):
            _check_case(checks, name, p)
    mixed_precision(torch.device(checks.device), "none")


def _cases(*, tiny: bool) -> Iterator[tuple[str, Parameters]]:
    """Name and parameters of each case."""
    if tiny:
        every = list(MODELS.items())
    else:
        every = [(architecture, reads) for architecture in ARCHITECTURES for reads in ("zero", "output", "truth")]
    for architecture, reads in every:
        yield f"{architecture} {reads}", _small(architecture, reads)
    if tiny:
        return
    for reads in ("zero", "output", "truth"):
        yield f"srivastava {reads} peepholes", _small("srivastava", reads, peepholes=True, layers=2)
    yield "lstm_copy output bce", _small("lstm_copy", "output", loss="0sb", gain=10)
    for reads in ("zero", "output"):
        larger = {"frame_size": 32, "width": 0.25, "batch_size": 32, "train_sequences": 32}
        yield f"lstm_copy {reads} large", _small("lstm_copy", reads, **larger)


def _small(architecture: str, reads: str, **more: Any) -> Parameters:
    convolves = bool(ARCHITECTURES[architecture].channels)
    sizes = {"frame_size": 64, "width": 1 / 16} if convolves else {"frame_size": 16, "width": 0.03}
    base = {"loss": "0nm", "task": "both", "architecture": architecture, "decoder_input": reads}
    counts = {"batch_size": 3, "train_sequences": 3, "frames_in": 4, "frames_out": 3}
    return resolve(base, counts, sizes, more)


def _check_case(checks: Checks, name: str, p: Parameters) -> None:
    """One line of all precisions that the device has."""
    batch, device = experiment.sequences(p, "train"), torch.device(checks.device)
    right = computed(experiment.new_model(p).double(), batch, p, double=True)
    told: list[str] = []
    figures: dict[str, Any] = {}
    good = True
    for precision, limits in TOLERANCES.items():
        try:
            autocast, _ = mixed_precision(device, precision)
        except ValueError:  # a CPU has no tf32
            continue
        if precision == "fp16" and device.type == "cpu":
            continue  # products of float16 on a CPU take seconds
        model, factor = experiment.new_model(p).to(device), FACTOR if precision == "fp16" else 1.0
        found = computed(model, batch.to(device), p, autocast=autocast, factor=factor)
        off = errors_of(found, right)
        told.append(f"{precision} {off.outputs:.1e}/{off.loss:.1e}/{off.gradients:.1e}")
        figures[precision] = vars(off)
        good &= off.within(limits)
        if precision == "bf16":
            small = computed(model, batch.to(device), p, autocast=autocast, factor=SMALL_FACTOR)
            lost = errors_of(small, found).gradients
            figures["bf16, small loss"] = lost
            if not lost <= RANGE_TOLERANCE:
                good = False
                told.append(f"gradients of a loss 2^20 times smaller are off by {lost:.1e}: there is float16 inside")
    checks.told(name, good, "output/loss/gradient off by " + ", ".join(told), **figures)


def computed(
    model: nn.Module,
    batch: Tensor,
    p: Parameters,
    *,
    double: bool = False,
    autocast: AbstractContextManager[Any] | None = None,
    factor: float = 1.0,
) -> Computed:
    """What a model makes of a batch of uint8 sequences (B, T, H, W) in training.

    double: in float64. factor: the loss is multiplied by it before the gradients are taken, and they divided by it.
    """
    frames = to_range(batch, p.pixel_range)
    frames = frames.double() if double else frames
    targets = branch_targets(frames, task=p.task, frames_in=p.frames_in)
    model.train().zero_grad()
    with autocast or nullcontext():
        outputs = model(frames[:, : p.frames_in], targets)
    outputs = {branch: z if double else z.float() for branch, z in outputs.items()}
    losses = [training_loss(z, targets[b], kind=p.training_loss, activation=p.activation) for b, z in outputs.items()]
    loss = torch.stack([of_branch.mean() for of_branch in losses]).sum()
    (factor * loss).backward()
    gradients = {name: w.grad.double().cpu() / factor for name, w in model.named_parameters() if w.grad is not None}
    return Computed({b: z.detach().double().cpu() for b, z in outputs.items()}, loss.detach().double().cpu(), gradients)


def errors_of(found: Computed, right: Computed) -> Errors64:
    """How far `found` is from `right`; infinitely where another set of weights has gradients."""
    outputs = max(float((found.outputs[b] - z).norm() / z.norm()) for b, z in right.outputs.items())
    loss = abs(float(found.loss / right.loss) - 1)
    if found.gradients.keys() != right.gradients.keys():
        return Errors64(outputs, loss, float("inf"))
    least = max(float(gradient.norm()) for gradient in right.gradients.values()) / 100
    off = [float((found.gradients[n] - g).norm()) / max(float(g.norm()), least) for n, g in right.gradients.items()]
    return Errors64(outputs, loss, max(off))
