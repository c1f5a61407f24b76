"""What a model makes of sequences: its errors by frame step, its output frames.

Nothing here changes a weight: that is `training`.
"""

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import torch
from accelerate.utils import recursively_apply
from torch import Tensor, nn

from seqae.data import check_sequences, to_range
from seqae.device import seeded
from seqae.metrics import BranchMetrics, frame_errors, histogram, image_quality, preactivation_range
from seqae.models import activations
from seqae.objective import BranchOutput, Objective, branch_outputs, objective_value, output_frames, unit_frames
from seqae.tasks import check_choice, check_positive


@dataclass(frozen=True)
class Evaluation:
    """Means over sequences, float64 on the CPU: the objective (a scalar), the errors of each frame step, (T,) for each
    branch and metric, and, with `statistics`, the share of output pixels in each bin of `metrics.histogram`, (60,) for
    each branch.
    """

    objective: Tensor
    errors: BranchMetrics = field(default_factory=dict)
    histograms: dict[str, Tensor] = field(default_factory=dict)


def branch_errors(outputs: Mapping[str, BranchOutput], objective: Objective, *, quality: bool = False) -> BranchMetrics:
    """MSE and, where the output is a probability, BCE of each frame, (B, T); quality adds `metrics.image_quality`."""
    # On another range than (0, 1) a pixel is not the sigmoid itself, so the output is no probability.
    probability = objective.activation == "sigmoid" and objective.pixel_range == (0, 1)
    found: BranchMetrics = {}
    for branch, out in outputs.items():
        output, target = unit_frames(out, objective)
        errors = frame_errors(output, target, out.z if probability else None)
        found[branch] = errors | (image_quality(output, target) if quality else {})
    return found


def evaluate(
    model: nn.Module, frames: Tensor, batch_size: int, objective: Objective, *,
    statistics: bool = False, quality: bool = False, stop: Sized = (),
) -> Evaluation:  # fmt: skip
    """Errors of a model in evaluation mode, which is told no true frames: with `recon_truth` it reads those seen.

    frames: a tensor, uint8 (N, frames_in + frames_out, H, W), those seen and the true ones to come. statistics adds the
    least and the largest pre-activation of each frame and the histograms of outputs; quality adds
    `metrics.image_quality`. The objective's own metrics are always measured. stop: once it is not empty, the remaining
    batches are left out, and the result is of no use. The model is left in evaluation mode. Raises ValueError for
    frames of another kind or shape, for a batch_size below 1, and as `objective.branch_outputs`.
    """
    check_positive(batch_size=batch_size)
    check_sequences("frames", frames)
    device = next((weight.device for weight in model.eval().parameters()), torch.device("cpu"))
    means, histograms, sums = dict[str, Tensor](), dict[str, Tensor](), dict[str, dict[str, Tensor]]()
    # A model may draw random numbers, and may keep tensors: of inference_mode they could not be trained with.
    with seeded(0), torch.no_grad():
        for batch in takewhile(lambda _: not stop, frames.split(batch_size)):
            outputs = branch_outputs(model, batch.to(device), objective)
            errors, share = branch_errors(outputs, objective, quality=quality), len(batch) / len(frames)
            _add_mean(means, "objective", objective_value(outputs, objective)[0].unsqueeze(0), share)
            for branch, out in outputs.items():
                output, target = unit_frames(out, objective)
                errors[branch] |= {name: metric(output, target) for name, metric in objective.metrics.items()}
                if statistics:
                    errors[branch] |= preactivation_range(out.z)
                    _add_mean(histograms, branch, histogram(output), share)
                for metric, values in errors[branch].items():
                    _add_mean(sums.setdefault(branch, {}), metric, values, share)
    mean = means.get("objective", torch.zeros(())).double()
    return Evaluation(*recursively_apply(Tensor.cpu, (mean, sums, histograms)))


def _add_mean(totals: dict[str, Tensor], name: str, values: Tensor, share: float) -> None:
    # The mean over sequences, in float64, on the device where that has it: each copy to the CPU waits.
    values = values.cpu() if values.device.type == "mps" else values
    totals[name] = totals.get(name, 0) + values.double().mean(0) * share


def seen_frames(frames: Tensor, pixel_range: tuple[float, float]) -> Tensor:
    """Frames uint8 0–255, or floating point in [0, 1], → float32 in pixel_range, what a model reads; same shape."""
    low, high = pixel_range
    if frames.dtype == torch.uint8:
        return to_range(frames, pixel_range)
    if not frames.is_floating_point() or not ((frames >= 0) & (frames <= 1)).all():  # nor NaN
        seen = f"{frames.dtype}{' beyond that' if frames.is_floating_point() else ''}"
        raise ValueError(f"frames must be uint8, 0–255, or floating point in [0, 1]; not {seen}: convert or scale them")
    return frames.float() * (high - low) + low


def predict(
    model: nn.Module, frames: Tensor | np.ndarray, *, activation: str, pixel_range: tuple[float, float]
) -> dict[str, Tensor]:
    """Output frames of each branch on [0, 1], clipped, (B, T, H, W) on the CPU; those of `recon` in reverse order, the
    last frame seen first, but in task `recon_ordered`.

    frames: (B, frames_in, H, W), a tensor or an array, uint8 0–255, or floating point in [0, 1]; all B are one batch.
    activation, pixel_range: as in the model's `Objective`. The model is left in evaluation mode. Raises ValueError for
    frames of another kind, and for a `SequenceAutoencoder` of another activation.
    """
    check_choice("activation, as the model's,", activation, activations(model))
    device = next((weight.device for weight in model.eval().parameters()), torch.device("cpu"))
    with seeded(0), torch.no_grad():  # as in `evaluate`
        outputs = model(seen_frames(torch.as_tensor(frames, device=device), pixel_range))
    return {b: output_frames(z.float(), activation, pixel_range).clip(0, 1).cpu() for b, z in outputs.items()}
