"""The errors that need no training: baselines, and the least that the head can reach.

The head of a model is its last layer with the activation.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqae.losses import activate

if TYPE_CHECKING:
    import pandas as pd


def reachable_pixels(*, reach: float, activation: str, pixel_range: tuple[float, float]) -> tuple[float, float]:
    """The lowest and the highest output of a head on the [0, 1] scale. reach: its largest |pre-activation|."""
    ends = activate(torch.tensor([-reach, reach], dtype=torch.float64), activation)
    low, high = ((ends - pixel_range[0]) / (pixel_range[1] - pixel_range[0])).tolist()
    return low, high


def reachable_floor(
    targets: np.ndarray, *, reach: float, activation: str, pixel_range: tuple[float, float]
) -> dict[str, float]:
    """The least loss that any weights can give on these frames, from their pixel histogram alone.

    targets: uint8 frames of any shape. reach: the largest |pre-activation|, `SequenceAutoencoder.reach`. For each pixel
    the reachable value nearest to it is the best, in mse and in bce. Returns `mse` (per pixel, on [0, 1]) and, for
    sigmoid on (0, 1), `bce` (nats/pixel; with an unbounded head it is the data's own entropy).
    """
    parts = np.array_split(targets.ravel(), targets.size // 2**24 + 1)  # bincount takes eight times their memory
    share = sum(np.bincount(part, minlength=256) for part in parts) / targets.size
    value = np.linspace(0, 1, 256)
    best = value.clip(*reachable_pixels(reach=reach, activation=activation, pixel_range=pixel_range))
    floor = {"mse": float(share @ (best - value) ** 2)}
    if activation == "sigmoid" and tuple(pixel_range) == (0, 1):
        floor["bce"] = float(share @ _cross_entropy(best, value))
    return floor


def mean_frame(train: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of all frames, (H, W), on [0, 1]. train: uint8 (N, T, H, W), or its chunks in turn."""
    # Half a white pixel more, so that a pixel that is black in all of train has a finite cross-entropy.
    total, count = np.zeros(()), 0
    for chunk in train:
        frames = chunk.reshape(-1, *chunk.shape[-2:])
        total, count = total + frames.sum(0, dtype=np.float64), count + len(frames)
    return (total / 255 + 0.5) / (count + 1)


def baselines(train: Iterable[np.ndarray], targets: Mapping[str, np.ndarray], last_seen: np.ndarray) -> "pd.DataFrame":
    """The errors of predictions that need no model: black, the mean frame of train, a copy of the last frame seen.

    train: uint8 (N, T, H, W), or its chunks in turn. targets: uint8 (M, T, H, W) for each branch. last_seen: uint8
    (M, H, W), which copy_last repeats as the prediction. Returns columns branch, baseline (black, mean_frame,
    copy_last), metric (mse and mae per pixel on [0, 1]; bce in nats/pixel where it is finite), value.
    """
    import pandas as pd

    mean, rows = mean_frame(train), []
    for branch, frames in targets.items():
        steps, frame = len(frames) * frames.shape[1], frames.mean((0, 1), dtype=np.float64) / 255
        square = sum(np.square(f, dtype=np.float32).sum(0, dtype=np.float64) for f in frames) / steps / 255**2
        of_mean = (np.abs(np.subtract(f, 255 * mean, dtype=np.float32)) for f in frames)
        rows += [
            (branch, "black", "mse", square.mean()),
            (branch, "black", "mae", frame.mean()),
            (branch, "mean_frame", "mse", (square - 2 * mean * frame + mean**2).mean()),
            (branch, "mean_frame", "mae", sum(f.sum(dtype=np.float64) for f in of_mean) / frames.size / 255),
            # cross-entropy is linear in the target, so that of the targets' mean is the mean
            (branch, "mean_frame", "bce", _cross_entropy(mean, frame).mean()),
        ]
        if branch == "pred":
            square, absolute = 0.0, 0.0
            for f, last in zip(frames, last_seen, strict=True):
                error = np.subtract(f, last, dtype=np.float32)
                square += np.square(error).sum(dtype=np.float64)
                absolute += np.abs(error).sum(dtype=np.float64)
            rows.append((branch, "copy_last", "mse", square / frames.size / 255**2))
            rows.append((branch, "copy_last", "mae", absolute / frames.size / 255))
    return pd.DataFrame(rows, columns=["branch", "baseline", "metric", "value"])


def _cross_entropy(p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Of a probability p and a target in [0, 1], in nats; all of one shape."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return -(np.where(target > 0, target * np.log(p), 0) + np.where(target < 1, (1 - target) * np.log1p(-p), 0))
