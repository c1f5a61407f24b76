"""What a trained model makes of sequences: its errors by frame step, its frames. Trains nothing, draws nothing."""

from collections.abc import Mapping, Sized
from dataclasses import dataclass

import torch
from torch import Tensor

from seqae.data import to_range, to_unit
from seqae.losses import activate, training_loss
from seqae.metrics import frame_errors, image_quality, output_statistics
from seqae.models import SequenceAutoencoder
from seqae.tasks import branch_targets


@dataclass(frozen=True)
class Objective:
    """What is trained: the loss (mse, in squared units of pixel_range, or bce, in nats/pixel), and, of a model with two
    branches, recon_weight · recon + pred. reduction: whether the gradient is that of the loss's mean over sequences,
    frames and pixels, or of its sum; reported is the mean, always.
    """

    loss: str
    pixel_range: tuple[float, float]
    recon_weight: float = 1.0
    reduction: str = "mean"


def outputs_and_targets(
    net: torch.nn.Module, model: SequenceAutoencoder, batch: Tensor, objective: Objective
) -> dict[str, tuple[Tensor, Tensor]]:
    """One batch of uint8 sequences -> each branch's pre-activations and targets, (B, T, H, W) in float32."""
    frames, frames_in = to_range(batch, objective.pixel_range), model.steps["recon"]
    targets = branch_targets(frames, task=model.task, frames_in=frames_in)
    return {branch: (z.float(), targets[branch]) for branch, z in net(frames[:, :frames_in], targets).items()}


def objective_value(
    outputs: Mapping[str, tuple[Tensor, Tensor]], model: SequenceAutoencoder, objective: Objective
) -> tuple[Tensor, Tensor]:
    """The objective's mean and what is differentiated: that, or its sum over everything; both scalars."""
    mean, total = torch.zeros(2, device=next(iter(outputs.values()))[0].device)
    for branch, (z, target) in outputs.items():
        weight = objective.recon_weight if branch == "recon" and len(outputs) > 1 else 1.0
        loss = weight * training_loss(z, target, kind=objective.loss, activation=model.activation).mean()
        mean, total = mean + loss, total + loss * z.numel()
    return mean, total if objective.reduction == "sum" else mean


def branch_errors(
    outputs: Mapping[str, tuple[Tensor, Tensor]],
    model: SequenceAutoencoder,
    objective: Objective,
    *,
    statistics: bool = False,
    quality: bool = False,
) -> dict[tuple[str, str], Tensor]:
    """Every metric of each frame, (B, T) for each (branch, metric), and with `statistics` the histogram, (B, bins)."""
    # on another range than (0, 1) the pixel is not the sigmoid itself, so no probability
    probability = model.activation == "sigmoid" and objective.pixel_range == (0, 1)
    found: dict[tuple[str, str], Tensor] = {}
    for branch, (z, target) in outputs.items():
        output, target = (to_unit(x, objective.pixel_range) for x in (activate(z, model.activation), target))
        errors = frame_errors(output, target, z if probability else None)
        errors |= output_statistics(z, output) if statistics else {}
        errors |= image_quality(output, target) if quality else {}
        found |= {(branch, metric): error for metric, error in errors.items()}
    return found


def evaluate(
    model: SequenceAutoencoder,
    frames: Tensor,
    batch_size: int,
    objective: Objective,
    *,
    statistics: bool = False,
    quality: bool = False,
    stop: Sized = (),
) -> dict[tuple[str, str], Tensor]:
    """Mean metrics of each frame step over all sequences, (T,) for each (branch, metric); the objective is a scalar.

    frames: uint8 (N, T, H, W). statistics adds those of `metrics.output_statistics`, quality MAE, PSNR and SSIM.
    Decoders read their own outputs where they read true frames in training. Returns float64 tensors on the CPU. stop:
    once it is not empty the rest is left out, and what comes back is of no use.
    """
    device = next(model.parameters()).device
    totals: dict[tuple[str, str], Tensor] = {}
    model.eval()
    with torch.inference_mode():
        for batch in frames.split(batch_size):
            if stop:
                break
            outputs = outputs_and_targets(model, model, batch.to(device), objective)
            found = {("all", "objective"): objective_value(outputs, model, objective)[0][None]}
            found |= branch_errors(outputs, model, objective, statistics=statistics, quality=quality)
            for key, value in found.items():
                # in float64, which not every device has
                totals[key] = totals.get(key, 0) + value.cpu().double().mean(0) * (len(batch) / len(frames))
    return totals


def predict(model: SequenceAutoencoder, frames: Tensor, *, pixel_range: tuple[float, float]) -> dict[str, Tensor]:
    """Output frames of each branch on [0, 1], clipped, (B, T, H, W) on the CPU. frames: uint8, (B, frames_in, H, W)."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        outputs = model(to_range(frames.to(device), pixel_range))
    unit = {branch: to_unit(activate(z.float(), model.activation), pixel_range) for branch, z in outputs.items()}
    return {branch: output.clip(0, 1).cpu() for branch, output in unit.items()}
