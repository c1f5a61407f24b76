"""Metrics of output frames, one value for each frame, always on the [0, 1] scale, with their units.

SSIM is that of torchmetrics.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from seqae.losses import pixel_cross_entropy

if TYPE_CHECKING:  # who needs units only does not import torch
    from torch import Tensor

BranchMetrics: TypeAlias = "dict[str, dict[str, Tensor]]"  # by branch, then by metric
MORE_IS_BETTER = {"ssim", "psnr"}
SSIM_WINDOW = 11  # pixels
HISTOGRAM_EDGES = np.linspace(-0.25, 1.25, 61)  # of bins, on the [0, 1] scale; the end bins take what lies beyond
HISTOGRAM_CENTRES = ((HISTOGRAM_EDGES[1:] + HISTOGRAM_EDGES[:-1]) / 2).round(4).tolist()
# Of every metric, as written in test.csv. Tables and axes read them here, and tables their order of metrics.
UNITS = {"mse": "per pixel, on [0, 1]", "bce": "nats/pixel", "ssim": "1", "psnr": "dB", "mae": "per pixel, on [0, 1]"}
# What rows hold beside these, and `preactivation_min`, `preactivation_max`: a metric of your own has another name.
TAKEN = {*UNITS, "objective", "grad_norm", "learning_rate", "update_ratio", "overflows", "seconds"}


def frame_errors(output: "Tensor", target: "Tensor", logits: "Tensor | None") -> "dict[str, Tensor]":
    """Errors of each frame, (B, T) each, in the units of UNITS: `bce` with logits only, the others always.

    output: (B, T, H, W) on the [0, 1] scale; a linear output may lie outside and is not clipped. target: (B, T, H, W)
    in [0, 1]. logits: (B, T, H, W) with output = sigmoid(logits), or None where the output is no probability; `bce` is
    then absent, never 0.
    """
    of_probability = {} if logits is None else {"bce": pixel_cross_entropy(logits, target).mean((2, 3))}
    return {"mse": (output - target).square().mean((2, 3))} | of_probability


def preactivation_range(z: "Tensor") -> "dict[str, Tensor]":
    """The least and the largest pre-activation of each frame, (B, T) each. z: (B, T, H, W)."""
    return {"preactivation_min": z.amin((2, 3)), "preactivation_max": z.amax((2, 3))}


def histogram(frames: "Tensor") -> "Tensor":
    """The share of each sequence's pixels in each bin between HISTOGRAM_EDGES, (B, 60).

    frames: (B, ...) on the [0, 1] scale. NaN, as a diverged model puts out, is counted in the first bin.
    """
    low, high, bins = float(HISTOGRAM_EDGES[0]), float(HISTOGRAM_EDGES[-1]), len(HISTOGRAM_EDGES) - 1
    place = ((frames.flatten(1).nan_to_num(low) - low) / (high - low) * bins).clamp(0, bins - 1).long()
    count = place.new_zeros(len(place), bins).int()  # float32 counts to 2**24 only
    return count.scatter_add_(1, place, place.new_ones(()).int().expand_as(place)) / place.shape[1]


def image_quality(output: "Tensor", target: "Tensor") -> "dict[str, Tensor]":
    """`mae` per pixel, `psnr` in dB and `ssim` of each frame, (B, T) each.

    output, target: (B, T, H, W) on the [0, 1] scale; the output is clipped to [0, 1], as an image viewer shows it.
    PSNR = -10 log10 MSE, with MSE kept above 1e-10 (100 dB). SSIM: Wang et al. (2004), Gaussian window σ = 1.5,
    11 pixels, the mean over windows that lie within the frame (as scikit-image with gaussian_weights=True,
    use_sample_covariance=False); absent, never 0, where a side of the frame is shorter than that window.
    """
    output = output.clip(0, 1)
    mse = (output - target).square().mean((2, 3))
    found = {"mae": (output - target).abs().mean((2, 3)), "psnr": -10 * mse.clip(min=1e-10).log10()}
    if min(output.shape[2:]) < SSIM_WINDOW:
        return found
    # The import takes as long as that of torch, and only the final evaluation needs it.
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    options: Any = {"data_range": 1.0, "reduction": "none", "return_full_image": True}
    inside = slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2))
    # Frames as channels, (1, n, H, W), which convolutions take in half the time; few, since it takes 80 bytes a pixel.
    # torchmetrics' own mean counts windows that reach into a mirrored border: up to 0.02 more at 16×16.
    few = 2**20 // output[0, 0].numel() + 1
    parts = zip(*(x.flatten(0, 1)[None].split(few, dim=1) for x in (output, target)), strict=True)
    maps = (structural_similarity_index_measure(*part, **options)[1] for part in parts)
    ssim = torch.cat([each[0, :, inside, inside].mean((1, 2)) for each in maps])
    return found | {"ssim": ssim.reshape(output.shape[:2])}
