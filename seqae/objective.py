"""The objective that trains a model: what it has to output, the loss of each branch, and their weighted sum."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from seqae.data import to_range, to_unit
from seqae.losses import TRAINING_LOSSES, activate, loss_fault, training_loss
from seqae.metrics import TAKEN
from seqae.models import activations
from seqae.tasks import ACTIVATIONS, BRANCHES, branch_targets, check_choice, check_positive, out_of_reach


@dataclass(frozen=True)
class Objective:
    """What a model is trained to do.

    task: what its branches decode, a key of `seqae.tasks.BRANCHES`. frames_in: how many frames of a sequence it sees;
    the others are to come. loss: `mse`, in squared units of pixel_range, `bce`, in nats/pixel, or a function of your
    own, see `seqae.contract`. activation: of the last layer. pixel_range: what uint8 frames are scaled to.
    recon_weight: with two branches, recon_weight · recon + pred. reduction: whether the gradient is that of the loss's
    mean over sequences, frames and pixels, or of its sum; the mean is what is reported, in both cases. metrics:
    functions of your own, by name, which `evaluate` measures. Raises ValueError for other names, for metrics named as
    one that is measured anyway (`seqae.metrics.TAKEN`), for frames_in below 1, for a recon_weight of 0 or less, for
    `bce` with another activation than sigmoid or on another range than (0, 1), and for a range outside what the
    activation can output.
    """

    task: str
    frames_in: int
    loss: str | Callable[..., Tensor]
    activation: str
    pixel_range: tuple[float, float] = (0.0, 1.0)
    recon_weight: float = 1.0
    reduction: str = "mean"
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("task", self.task, BRANCHES)
        check_positive(frames_in=self.frames_in)
        check_positive(float, recon_weight=self.recon_weight)
        check_choice("reduction", self.reduction, ("mean", "sum"))
        check_choice("activation", self.activation, ACTIVATIONS)
        if not callable(self.loss):
            check_choice("loss", self.loss, TRAINING_LOSSES)
        if not isinstance(self.metrics, Mapping) or not all(map(callable, self.metrics.values())):
            usual = "mse and bce are always measured, ssim by evaluate(…, quality=True)"
            raise ValueError(f"metrics must be functions by name, {{'iou': iou}}; not {self.metrics!r}: {usual}")
        if taken := [n for n in self.metrics if n in TAKEN or str(n).startswith("preactivation_")]:
            raise ValueError(f"metrics {taken}: what is measured anyway has this name; give yours another")
        object.__setattr__(self, "pixel_range", tuple(self.pixel_range))  # a list would equal no tuple
        fault = loss_fault(self.loss, self.activation, self.pixel_range)
        if fault := fault or out_of_reach(self.pixel_range, self.activation):
            raise ValueError(fault)


@dataclass(frozen=True)
class BranchOutput:
    """z: pre-activations (B, T, H, W), float32 (`branch_outputs` sees to it). target: true frames (B, T, H, W) in the
    training range. Raises ValueError where their shapes differ.
    """

    z: Tensor
    target: Tensor

    def __post_init__(self) -> None:
        if self.z.shape != self.target.shape:
            raise ValueError(f"the output is {tuple(self.z.shape)}, the true frames are {tuple(self.target.shape)}")


def branch_outputs(net: nn.Module, batch: Tensor, objective: Objective) -> dict[str, BranchOutput]:
    """One batch of uint8 sequences (B, T, H, W) through the model, with the target of each branch.

    The model is given the targets in training mode only. Raises ValueError for a `SequenceAutoencoder` of another
    activation.
    """
    check_choice("activation, as the model's,", objective.activation, activations(net))
    frames = to_range(batch, objective.pixel_range)
    targets = branch_targets(frames, task=objective.task, frames_in=objective.frames_in)
    outputs = net(frames[:, : objective.frames_in], dict(targets) if net.training else None)
    return {branch: BranchOutput(z.float(), targets[branch]) for branch, z in outputs.items()}


def objective_value(outputs: Mapping[str, BranchOutput], objective: Objective) -> tuple[Tensor, Tensor]:
    """Two scalars: the objective's mean, and what is differentiated, which is the mean or the sum over everything."""
    mean, total = torch.zeros(2, device=next(iter(outputs.values())).z.device)
    for branch, out in outputs.items():
        weight = objective.recon_weight if branch == "recon" and len(outputs) > 1 else 1.0
        loss = weight * training_loss(out.z, out.target, kind=objective.loss, activation=objective.activation).mean()
        mean, total = mean + loss, total + loss * out.z.numel()
    return mean, total if objective.reduction == "sum" else mean


def unit_frames(out: BranchOutput, objective: Objective) -> tuple[Tensor, Tensor]:
    """Output and true frames on the [0, 1] scale, (B, T, H, W) each; the output is not clipped."""
    return output_frames(out.z, objective.activation, objective.pixel_range), to_unit(out.target, objective.pixel_range)


def output_frames(z: Tensor, activation: str, pixel_range: tuple[float, float]) -> Tensor:
    """Pre-activations → output frames on the [0, 1] scale, not clipped, in the same shape."""
    return to_unit(activate(z, activation), pixel_range)
