"""Figures: arrays and data frames in, matplotlib figures out. Every axis carries its unit; no torch here."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

AXIS = {
    "mse": "MSE per pixel, on [0, 1]",
    "bce": "BCE, nats/pixel",
    "objective": "objective",
    "mae": "MAE per pixel",
    "ssim": "SSIM",
    "psnr": "PSNR, dB",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
}
LEVELS = {"mean_frame": ("--", "mean frame"), "floor": (":", "floor of the head"), "copy_last": ("-.", "copy last")}
Strips = list[tuple[str, np.ndarray]]  # (title, uint8 (N, T, H, W))


def sample_strips(samples: Mapping[str, np.ndarray], *, task: str, frames_in: int) -> Strips:
    """Truth and output of each branch in true time order. samples: as `Run.samples` gives them."""
    seen, future = samples["frames"][:, :frames_in], samples["frames"][:, frames_in:]
    strips: Strips = []
    if "recon" in samples:
        output = samples["recon"] if task == "recon_ordered" else samples["recon"][:, ::-1]
        strips += [("seen", seen), ("reconstruction", output)]
    if "pred" in samples:
        strips += [("future", future), ("prediction", samples["pred"])]
    return strips


def strip_figure(strips: Strips, *, sequence: int = 0) -> Figure:
    """One row a strip, one column a frame, of one sequence; black 0 to white 255."""
    columns = max(frames.shape[1] for _, frames in strips)
    figure, axes = plt.subplots(len(strips), 1, figsize=(0.9 * columns, 1.15 * len(strips)), squeeze=False)
    for axis, (title, frames) in zip(axes[:, 0], strips, strict=True):
        axis.imshow(_tile(frames[sequence : sequence + 1]), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, loc="left", fontsize=9)
        axis.axis("off")
    figure.tight_layout(pad=0.3)
    return figure


def save_strips(strips: Strips, file: Path, *, sequences: int = 2) -> None:
    """A PNG: for each of the first sequences its strips above each other, a grey line between the frames."""
    rows = [_tile(frames[i : i + 1]) for i in range(sequences) for _, frames in strips]
    width = max(row.shape[1] for row in rows)
    Image.fromarray(
        np.vstack([np.pad(row, ((0, 2), (0, width - row.shape[1])), constant_values=90) for row in rows])
    ).save(file)


def save_gif(strips: Strips, file: Path, *, scale: int = 3, milliseconds: int = 200) -> None:
    """An endless animation: strips side by side, one row a sequence, one picture a frame step."""
    steps = max(frames.shape[1] for _, frames in strips)
    pictures = []
    for t in range(steps):
        columns = [frames[:4, min(t, frames.shape[1] - 1)] for _, frames in strips]
        picture = np.hstack(
            [np.pad(np.vstack(list(column)), ((0, 0), (0, 2)), constant_values=90) for column in columns]
        )
        pictures.append(Image.fromarray(picture.repeat(scale, 0).repeat(scale, 1)))
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)


def _tile(frames: np.ndarray) -> np.ndarray:
    # (N, T, H, W) -> one row of frames a sequence, 1 pixel of grey around each
    padded = np.pad(frames, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=90)
    n, t, h, w = padded.shape
    return padded.transpose(0, 2, 1, 3).reshape(n * h, t * w)
