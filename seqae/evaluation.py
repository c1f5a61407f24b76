"""What a trained model makes of sequences: its errors by frame step, its frames. Trains nothing, draws nothing."""

from collections.abc import Sized

import torch
from torch import Tensor

from seqae.data import to_range, to_unit
from seqae.losses import activate
from seqae.models import SequenceAutoencoder
from seqae.updates import Objective, branch_errors, objective_value, outputs_and_targets


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
