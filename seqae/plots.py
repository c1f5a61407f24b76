"""Figures: arrays and data frames in, matplotlib figures and pictures out. Every axis has its unit; no torch here."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

UNITS = {
    "mse": "MSE per pixel, on [0, 1]",
    "bce": "BCE, nats/pixel",
    "mae": "MAE per pixel, on [0, 1]",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "grad_norm": "gradient norm before clipping",
    "learning_rate": "learning rate",
}
LOSS_ORDER = ["1tm", "1nm", "0sb", "0sm", "0nm"]
LINES = {"mean_frame": "--", "copy_last": "-.", "black": (0, (1, 3)), "floor": ":"}
GREY = 90  # between the frames of a strip
Strips = list[tuple[str, np.ndarray]]  # (title, uint8 (N, T, H, W), 0-255)


def show(figure: Figure, alt: str) -> None:
    """Display a figure once, with a text for those who do not see it, and free it."""
    from IPython.display import display

    display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def learning_curves(metrics: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """One run: a panel a branch, train and val by epoch, its reference levels on val as grey lines.

    metrics: as metrics.csv; levels: as baselines.csv.
    """
    data = metrics[metrics.metric == metric]
    levels = levels[(levels.split == "val") & (levels.metric == metric)]
    grid = sns.relplot(
        data,
        x="epoch",
        y="value",
        hue="split",
        col="branch",
        kind="line",
        height=3.4,
        aspect=1.35,
        palette="colorblind",
    )
    for branch, axis in grid.axes_dict.items():
        for row in levels[levels.branch == branch].itertuples():
            _level(axis, row.value, row.baseline.replace("_", " "), LINES[row.baseline])
    return _label(grid, metric, "epoch", titles="{col_name}")


def frame_errors(test: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """How the error grows with the horizon: one curve a branch over the frame steps, on test."""
    data = test[(test.metric == metric) & test.frame.notna()].astype({"frame": int})
    grid = sns.relplot(
        data,
        x="frame",
        y="value",
        hue="branch",
        kind="line",
        marker="o",
        estimator=None,
        height=3.2,
        aspect=1.6,
        palette="colorblind",
    )
    mean = levels[(levels.split == "test") & (levels.metric == metric) & (levels.baseline == "mean_frame")]["value"]
    if len(mean):
        _level(grid.ax, mean.mean(), "mean frame", LINES["mean_frame"])
    return _label(grid, metric, "frame step of the decoder")


def losses_in_ways(curves: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """Six panels, tasks by decoder inputs; one colour a loss, one line style a branch; val by epoch.

    curves: columns epoch, value, metric, loss, task, decoder_input, branch. levels: loss, branch, baseline, metric,
    value on val.
    """
    data = curves[curves.metric == metric]
    palette = dict(zip(_ordered(data.loss, LOSS_ORDER), sns.color_palette("colorblind", 10), strict=False))
    grid = sns.relplot(
        data,
        x="epoch",
        y="value",
        hue="loss",
        hue_order=_ordered(data.loss, LOSS_ORDER),
        style="branch",
        style_order=["recon", "pred"],
        units="run",
        estimator=None,
        col="task",
        col_order=_ordered(data.task, ["recon", "recon_ordered", "pred", "both"]),
        row="decoder_input",
        row_order=_ordered(data.decoder_input, ["zero", "output", "truth"]),
        kind="line",
        palette=palette,
        height=3.1,
        aspect=1.15,
        facet_kws={"sharex": True, "sharey": True},
    )
    levels = levels[levels.metric == metric]
    for (_, task), axis in grid.axes_dict.items():
        panel = levels[levels.task == task]
        _level(axis, panel[panel.baseline == "mean_frame"]["value"].mean(), "mean frame", LINES["mean_frame"])
        floors = panel[(panel.baseline == "floor") & (panel.value > 0)].groupby("loss")["value"].mean()
        for value, losses in floors.groupby(floors.round(6)):
            names = list(losses.index)
            _level(axis, value, f"floor of {', '.join(names)}", LINES["floor"], colour=palette[names[0]])
    return _label(grid, metric, "epoch", titles="{col_name}, decoder reads {row_name}")


def by_branch(curves: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse", hue: str = "way") -> Figure:
    """Two panels, all recons and all preds: a colour a way (or a run), a line style a loss; val by epoch. As above."""
    data = curves[curves.metric == metric].assign(way=lambda d: d.task + ", reads " + d.decoder_input)
    grid = sns.relplot(
        data,
        x="epoch",
        y="value",
        hue=hue,
        hue_order=sorted(set(data[hue])),
        units="run",
        estimator=None,
        style="loss" if hue == "way" and data.loss.nunique() > 1 else None,
        col="branch",
        col_order=[branch for branch in ("recon", "pred") if branch in set(data.branch)],
        kind="line",
        palette="colorblind",
        height=3.6,
        aspect=1.25,
    )
    levels = levels[(levels.metric == metric) & levels.run.isin(set(data.run))]
    for branch, axis in grid.axes_dict.items():
        of_branch = levels[levels.branch == branch]
        for (baseline, value), _ in of_branch.groupby(["baseline", of_branch.value.round(6)]):
            if value > 0:
                _level(axis, value, baseline.replace("_", " "), LINES[baseline])
    return _label(grid, metric, "epoch", titles="all {col_name}s")


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
    """One row a strip, one column a frame, of one sequence; black 0 to white 255. Titles stand to the left."""
    columns = max(frames.shape[1] for _, frames in strips)
    figure, axes = plt.subplots(len(strips), 1, figsize=(0.62 * columns + 2, 0.66 * len(strips)), squeeze=False)
    for axis, (title, frames) in zip(axes[:, 0], strips, strict=True):
        axis.imshow(_tile(frames[sequence : sequence + 1]), cmap="gray", vmin=0, vmax=255)
        axis.text(-0.01, 0.5, title, transform=axis.transAxes, ha="right", va="center", fontsize=9)
        axis.axis("off")
    figure.subplots_adjust(left=2 / figure.get_figwidth(), right=1, top=1, bottom=0, hspace=0.05)
    return figure


def save_strips(strips: Strips, file: Path, *, sequences: int = 2) -> None:
    """A PNG: for each of the first sequences its strips above each other, a grey line between the frames."""
    rows = [_tile(frames[i : i + 1]) for i in range(min(sequences, len(strips[0][1]))) for _, frames in strips]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 1), (0, width - row.shape[1])), constant_values=GREY) for row in rows]
    Image.fromarray(np.vstack(padded)).save(file)


def save_gif(strips: Strips, file: Path, *, scale: int = 3, milliseconds: int = 200) -> None:
    """An endless animation: strips side by side, one row a sequence (at most 4), one picture a frame step."""
    steps = max(frames.shape[1] for _, frames in strips)
    pictures = []
    for t in range(steps):
        columns = [_tile(frames[:4, min(t, frames.shape[1] - 1)][:, None]) for _, frames in strips]
        pictures.append(Image.fromarray(np.hstack(columns).repeat(scale, 0).repeat(scale, 1)))
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)


def _ordered(values: pd.Series, first: list[str]) -> list[str]:
    # The known ones in their order, then any others.
    return sorted(set(values), key=lambda value: (first.index(value) if value in first else len(first), value))


def _tile(frames: np.ndarray) -> np.ndarray:
    # (N, T, H, W) -> one row of frames a sequence, a line of grey right of and below each
    padded = np.pad(frames, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=GREY)
    n, t, h, w = padded.shape
    return padded.transpose(0, 2, 1, 3).reshape(n * h, t * w)


def _level(axis: Axes, value: float, name: str, line: object, *, colour: object = "0.4") -> None:
    axis.axhline(value, color=colour, linestyle=line, linewidth=1)
    x = axis.get_xlim()[1]
    axis.text(x, value, name, color=colour, fontsize=7, ha="right", va="bottom")


def _label(grid: sns.FacetGrid, metric: str, x: str, titles: str = "") -> Figure:
    grid.set_axis_labels(x, UNITS[metric])
    if titles:
        grid.set_titles(titles)
    return grid.figure
