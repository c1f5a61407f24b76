"""What a model makes of sequences: the objective that trains it, its errors by frame step, its output frames.

Nothing here changes a weight: that is `training`.
"""

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from seqae.data import to_range, to_unit
from seqae.device import seeded
from seqae.losses import activate, training_loss
from seqae.metrics import frame_errors, histogram, image_quality, preactivation_range
from seqae.tasks import branch_targets

Errors = dict[str, dict[str, Tensor]]  # by branch, then by metric


@dataclass(frozen=True)
class Objective:
    """What a model is trained to do.

    task: what its branches decode, a key of `tasks.BRANCHES`. frames_in: how many frames of a sequence it sees; the
    others are to come. loss: `mse`, in squared units of pixel_range, `bce`, in nats/pixel, or a function of your own,
    see `contract`. activation: of the last layer. pixel_range: what uint8 frames are scaled to. recon_weight: with two
    branches, recon_weight · recon + pred. reduction: whether the gradient is that of the loss's mean over sequences,
    frames and pixels, or of its sum; the mean is what is reported, in both cases. metrics: functions of your own, by
    name, which `evaluate` measures.
    """

    task: str
    frames_in: int
    loss: str | Callable[..., Tensor]
    activation: str
    pixel_range: tuple[float, float] = (0.0, 1.0)
    recon_weight: float = 1.0
    reduction: str = "mean"
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class BranchOutput:
    """z: pre-activations (B, T, H, W), float32. target: true frames (B, T, H, W) in the training range."""

    z: Tensor
    target: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Means over sequences, float64 on the CPU: the objective (a scalar), the errors of each frame step, (T,) for each
    branch and metric, and, with `statistics`, the share of output pixels in each bin of `metrics.histogram`, (60,) for
    each branch.
    """

    objective: Tensor
    errors: Errors = field(default_factory=dict)
    histograms: dict[str, Tensor] = field(default_factory=dict)


def branch_outputs(net: nn.Module, batch: Tensor, objective: Objective) -> dict[str, BranchOutput]:
    """One batch of uint8 sequences (B, T, H, W) through the model, with the target of each branch.

    The model is given the targets in training mode only.
    """
    frames = to_range(batch, objective.pixel_range)
    targets = branch_targets(frames, task=objective.task, frames_in=objective.frames_in)
    outputs = net(frames[:, : objective.frames_in], targets if net.training else None)
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
    output = to_unit(activate(out.z, objective.activation), objective.pixel_range)
    return output, to_unit(out.target, objective.pixel_range)


def branch_errors(outputs: Mapping[str, BranchOutput], objective: Objective, *, quality: bool = False) -> Errors:
    """MSE and, where the output is a probability, BCE of each frame, (B, T); quality adds `metrics.image_quality`."""
    # On another range than (0, 1) a pixel is not the sigmoid itself, so the output is no probability.
    probability = objective.activation == "sigmoid" and objective.pixel_range == (0, 1)
    found: Errors = {}
    for branch, out in outputs.items():
        output, target = unit_frames(out, objective)
        found[branch] = frame_errors(output, target, out.z if probability else None)
        if quality:
            found[branch] |= image_quality(output, target)
    return found


def evaluate(
    model: nn.Module,
    frames: Tensor,
    batch_size: int,
    objective: Objective,
    *,
    statistics: bool = False,
    quality: bool = False,
    stop: Sized = (),
) -> Evaluation:
    """Errors of a model in evaluation mode, where decoders read their own outputs in the place of true frames.

    frames: uint8 (N, T, H, W). statistics adds the least and the largest pre-activation of each frame and the
    histograms of outputs; quality adds `metrics.image_quality`. The objective's own metrics are always measured. stop:
    once it is not empty, the remaining batches are left out, and the result is of no use.
    """
    device = next(model.parameters()).device
    total = Evaluation(torch.zeros((), dtype=torch.float64))
    model.eval()
    with seeded(0, device), torch.inference_mode():  # a model may draw random numbers
        for batch in frames.split(batch_size):
            if stop:
                break
            outputs = branch_outputs(model, batch.to(device), objective)
            errors = branch_errors(outputs, objective, quality=quality)
            share = len(batch) / len(frames)
            total.objective.add_(objective_value(outputs, objective)[0].cpu().double() * share)
            for branch, out in outputs.items():
                output, target = unit_frames(out, objective)
                errors[branch] |= {name: metric(output, target) for name, metric in objective.metrics.items()}
                if statistics:
                    errors[branch] |= preactivation_range(out.z)
                    _add_mean(total.histograms, branch, histogram(output), share)
                for metric, values in errors[branch].items():
                    _add_mean(total.errors.setdefault(branch, {}), metric, values, share)
    return total


def _add_mean(totals: dict[str, Tensor], name: str, values: Tensor, share: float) -> None:
    # The mean over sequences, in float64, which not every device has.
    totals[name] = totals.get(name, 0) + values.cpu().double().mean(0) * share


def seen_frames(frames: Tensor, pixel_range: tuple[float, float]) -> Tensor:
    """Frames uint8 0–255, or floating point in [0, 1], → float32 in pixel_range, what a model reads; same shape."""
    low, high = pixel_range
    return to_range(frames, pixel_range) if frames.dtype == torch.uint8 else frames.float() * (high - low) + low


def predict(
    model: nn.Module, frames: Tensor, *, activation: str, pixel_range: tuple[float, float]
) -> dict[str, Tensor]:
    """Output frames of each branch on [0, 1], clipped, (B, T, H, W) on the CPU.

    frames: (B, frames_in, H, W), as for `seen_frames`. activation, pixel_range: as in the model's `Objective`.
    """
    device = next(model.parameters()).device
    model.eval()
    with seeded(0, device), torch.inference_mode():
        outputs = model(seen_frames(frames.to(device), pixel_range))
    unit = {branch: to_unit(activate(z.float(), activation), pixel_range) for branch, z in outputs.items()}
    return {branch: output.clip(0, 1).cpu() for branch, output in unit.items()}
