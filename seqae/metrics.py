"""What is measured of output frames: always on [0, 1], per frame, with units. SSIM comes from torchmetrics."""

from typing import TYPE_CHECKING

import numpy as np

from seqae.losses import cross_entropy

if TYPE_CHECKING:  # units alone are known without torch
    from torch import Tensor

MORE_IS_BETTER = {"ssim", "psnr"}
HISTOGRAM = np.linspace(-0.25, 1.25, 61)  # bin edges of outputs on the [0, 1] scale; the ends take what lies beyond
HISTOGRAM_CENTRES = [round(-0.2375 + 0.025 * i, 4) for i in range(60)]
UNITS = {  # of every metric, as test.csv says them; tables and axes take theirs from here, and tables their order
    "mse": "per pixel, on [0, 1]",
    "bce": "nats/pixel",
    "ssim": "1",
    "psnr": "dB",
    "mae": "per pixel, on [0, 1]",
}


def label(metric: str) -> str:
    """A metric and its unit, for an axis or the head of a column; any other word as it is."""
    unit = UNITS.get(metric, "1")
    return metric if unit == "1" else f"{metric} {unit}" if unit.startswith("per ") else f"{metric}, {unit}"


def four_digits(value: float) -> str:
    """A figure for people to compare with others."""
    return f"{value:#.4g}".removesuffix(".")


def frame_errors(output: "Tensor", target: "Tensor", logits: "Tensor | None") -> "dict[str, Tensor]":
    """Errors of each frame, (B, T) each.

    output: (B, T, H, W) on the [0, 1] scale (a linear output may lie outside and is not clipped);
    target: (B, T, H, W) in [0, 1]; logits: (B, T, H, W) with output = sigmoid(logits), or None where the output
    is no probability: then `bce` is absent, never 0.
    """
    errors = {"mse": (output - target).square().mean((2, 3))}
    if logits is not None:
        errors["bce"] = cross_entropy(logits, target).mean((2, 3))
    return errors


def output_statistics(z: "Tensor", output: "Tensor") -> "dict[str, Tensor]":
    """What the last layer gives: `preactivation_min` and `preactivation_max` of each frame, (B, T), and `histogram`.

    z: (B, T, H, W) pre-activations; output: (B, T, H, W) on the [0, 1] scale.
    """
    return {"preactivation_min": z.amin((2, 3)), "preactivation_max": z.amax((2, 3)), "histogram": histogram(output)}


def histogram(frames: "Tensor") -> "Tensor":
    """The share of each sequence's pixels in each bin of HISTOGRAM, (B, 60). frames: (B, ...) on the [0, 1] scale."""
    low, high, bins = float(HISTOGRAM[0]), float(HISTOGRAM[-1]), len(HISTOGRAM) - 1
    # NaN has no bin: a diverged model's pixels are all counted in the first
    place = ((frames.flatten(1).nan_to_num(low) - low) / (high - low) * bins).clamp(0, bins - 1).long()
    share = frames.new_zeros(len(frames), bins)
    return share.scatter_add_(1, place, frames.new_ones(place.shape)).div_(place.shape[1])


def image_quality(output: "Tensor", target: "Tensor") -> "dict[str, Tensor]":
    """MAE, PSNR and SSIM of each frame, (B, T) each, of the output clipped to [0, 1] as an image viewer shows it.

    PSNR = -10 log10 MSE, MSE kept above 1e-10 (100 dB). SSIM: Wang et al. (2004), Gaussian window σ = 1.5,
    11 pixels, the mean over windows that lie within the frame (as scikit-image with gaussian_weights=True,
    use_sample_covariance=False).
    """
    # Imported here: it costs as much as torch's own import and only the final evaluation needs it.
    from torchmetrics.functional.image import structural_similarity_index_measure

    output = output.clip(0, 1)
    frames, images = output.shape[:2], (-1, 1, *output.shape[2:])  # (B, T), (B·T, 1, H, W)
    # Its own mean counts windows that reach into a mirrored border: up to 0.02 more at 16×16.
    _, ssim = structural_similarity_index_measure(
        output.reshape(images), target.reshape(images), data_range=1.0, reduction="none", return_full_image=True
    )
    mse = (output - target).square().mean((2, 3))
    return {
        "mae": (output - target).abs().mean((2, 3)),
        "psnr": -10 * mse.clip(min=1e-10).log10(),
        "ssim": ssim[..., 5:-5, 5:-5].mean((1, 2, 3)).reshape(frames),
    }
