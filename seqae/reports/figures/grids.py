"""Grids, bars, bands and histograms: data frames in, matplotlib figures out, units on every axis."""

from collections.abc import Mapping
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from seqae.reports.figures.style import AXIS_LABELS, drawable, level_line, no_values, ordered
from seqae.reports.seeds import over_seeds
from seqae.tasks import BRANCHES

NAME_LETTERS = 30  # of a name beside a bar, before it goes on in a second line
COLUMNS = [f"{task}, {b}" if len(of) > 1 else task for task, of in BRANCHES.items() for b in of]  # of a status grid


def status_grid(table: pd.DataFrame, *, rows: str = "architecture", columns: str = "column") -> Figure:
    """What learned and what did not: each cell says how far below the mean frame its runs end on test, in percent; of
    several seeds their mean, with their number n, of how many if some diverged. Blue is better than the mean frame, red
    is worse; the colours end at 50 %.

    table: as `compare.in_cells`. rows, columns: which columns of it make the grid.
    """
    table = drawable(table, "table", [rows, columns], numbers=["below"])
    of_cells = over_seeds(table, [rows, columns], "below").set_index([rows, columns])
    order = {"index": list(dict.fromkeys(table[rows])), "columns": ordered(table[columns], COLUMNS)}
    cells = (100 * of_cells.below).unstack().reindex(**order).round() + 0.0  # no -0
    counts = of_cells.n.unstack().reindex(**order)
    each = table.groupby([rows, columns])
    of = (each.seed.nunique() if "seed" in table else each.size()).unstack().reindex(**order)
    told = counts.map(" (n = {:.0f}".format) + of.map(" of {:.0f})".format).where(of > counts, ")")
    texts = cells.map("{:.0f}".format) + told.where(of > 1, "")
    figure, axis = plt.subplots(figsize=(1.5 * len(cells.columns) + 2.5, 0.42 * len(cells) + 1.6))
    sns.heatmap(cells, annot=texts, fmt="", cmap="vlag_r", center=0, vmin=-50, vmax=50, ax=axis,
                cbar_kws={"label": "% below the mean frame, test MSE"})  # fmt: skip
    axis.set(xlabel="", ylabel="")
    axis.tick_params(rotation=0)
    figure.tight_layout()
    return figure


def ranking(table: pd.DataFrame, *, unit: str, levels: Mapping[str, float] | None = None) -> Figure:
    """Horizontal bars, a recipe each: the mean over seeds, and a line from the least to the largest. The best on val is
    at the top. Where any run predicts, the order is by prediction; runs that do not predict, or diverged, are last.

    table: columns run (or recipe), branch, value (in `unit`, less is better), a row for each seed; val, by which they
    are ordered: where it is missing, as of published figures, value itself. levels: other values to compare with, drawn
    as named vertical lines.
    """
    table = drawable(table, "table", ["run", "branch"], recipes=True)
    bars = over_seeds(table, ["run", "branch"])
    branches = ordered(bars.branch, BRANCHES["both"])
    by = bars[bars.branch == "pred"] if "pred" in branches else bars
    by = by.assign(key=by.val.fillna(by.value) if "val" in by else by.value)
    order = by.groupby("run")["key"].mean().reindex(table.run.unique()).sort_values(kind="stable").index
    names = [fill(name, NAME_LETTERS) for name in order]  # broken, so that long ones leave the bars their room
    letters = max((len(line) for name in names for line in name.split("\n")), default=0)
    size = (0.085 * letters + 5, 0.3 * len(order) * max(1, 0.8 * len(branches)) + 1.4)
    figure, axis = plt.subplots(figsize=size)
    each = ["run", "branch", *(["seed"] if "seed" in table else [])]
    seeds = table.groupby(each, as_index=False, sort=False, dropna=False)["value"].mean() if len(each) > 2 else table
    sns.barplot(seeds, y="run", x="value", hue="branch", order=order, hue_order=branches, errorbar=("pi", 100),
                palette="colorblind", orient="h", legend=len(branches) > 1, ax=axis)  # fmt: skip
    if len(branches) > 1:
        at = (-0.017 * letters, 1 + 0.26 / size[1])  # above the names of levels, where a phone shows it
        sns.move_legend(axis, "lower left", bbox_to_anchor=at, frameon=False, ncols=len(branches), title=None)
    axis.set_yticks(range(len(order)), names)
    for of_branch in (found for found in axis.containers if isinstance(found, BarContainer)):
        axis.bar_label(of_branch, fmt=lambda value: f"{value:.4g}" if value == value else "", fontsize=8, padding=3)
    axis.margins(x=0.08)
    for name, value in (levels or {}).items():
        axis.axvline(value, color="0.3", linewidth=1, linestyle="--")
        axis.annotate(name, (value, 1), xycoords=axis.get_xaxis_transform(), xytext=(0, 2), textcoords="offset points",
                      fontsize=8, ha="center", va="bottom")  # fmt: skip
    axis.set(xlabel=unit, ylabel="")
    sns.despine(figure)
    figure.tight_layout()
    return figure


def preactivations(curves: pd.DataFrame, reaches: Mapping[str, float]) -> Figure:
    """The last layer's output before its activation, by epoch: a panel for each run, a band for each branch from the
    least to the largest value of a frame (means over val).

    curves: columns run, epoch, branch, metric, value. reaches: by run the largest possible |value|, drawn where finite.
    """
    curves = drawable(curves, "curves", ["run", "epoch", "branch", "metric"])
    curves = curves[curves.metric.isin(["preactivation_min", "preactivation_max"])]
    if not (runs := list(dict.fromkeys(curves.run))):
        return no_values("pre-activation")
    figure, axes = _panels(len(runs), sharey=False)
    for axis, run in zip(axes, runs, strict=False):
        of_run = curves[curves.run == run].pivot_table(index=["branch", "epoch"], columns="metric", values="value")
        for branch, band in of_run.groupby("branch"):
            epochs = band.index.get_level_values("epoch")
            (line,) = axis.plot(epochs, band.preactivation_max, label=branch)  # seen where the band has no height, too
            axis.plot(epochs, band.preactivation_min, color=line.get_color())
            axis.fill_between(
                epochs, band.preactivation_min, band.preactivation_max, color=line.get_color(), alpha=0.35, linewidth=0
            )
        if np.isfinite(reach := reaches.get(run, np.inf)):
            axis.set_ylim(-1.35 * reach, 1.35 * reach)  # room for the names of the lines
            level_line(axis, reach, f"reach {reach:g}", ":")
            level_line(axis, -reach, f"reach −{reach:g}", ":", above=False)
        axis.set_title(run, fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if of_run.index.get_level_values("branch").nunique() > 1:
            axis.legend(fontsize=8, loc="upper left")
    return _axis_names(figure, "epoch", "pre-activation, least to largest of a frame")


def output_histograms(histograms: pd.DataFrame, targets: pd.Series | None = None) -> Figure:
    """The share of output pixels by value, a panel for each run and branch, a row for each epoch.

    histograms: columns run, branch, epoch, output, share. targets: the share of the true pixels at the same outputs,
    shown as the top row.
    """
    histograms = drawable(histograms, "histograms", ["run", "branch", "epoch", "output"], numbers=["share"])
    parts = list(histograms.groupby(["run", "branch"], sort=False))
    if not parts:
        return no_values("share of output pixels")
    figure, axes = _panels(len(parts), sharey=True)
    for axis, ((run, branch), part) in zip(axes, parts, strict=False):
        grid = part.pivot(index="epoch", columns="output", values="share")
        if targets is not None:
            grid.loc[grid.index.max() + 1] = targets.reindex(grid.columns).to_numpy()
        shares = np.log10(grid.clip(lower=1e-4))
        mesh = axis.pcolormesh(grid.columns, grid.index, shares, cmap="viridis", vmin=-4, edgecolors="face")
        if targets is not None:
            axis.text(grid.columns.min(), grid.index.max(), " truth", color="white", fontsize=8, va="center")
        axis.set_title(f"{run}, {branch}", fontsize=8)
    last = histograms.epoch.max()  # above it is the truth
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda epoch, _: f"{epoch:g}" if 1 <= epoch <= last else ""))
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.colorbar(mesh, ax=list(axes), label="log10 share of pixels")
    return _axis_names(figure, "output on the [0, 1] scale of the pixels", "epoch")


def floor_and_reached(table: pd.DataFrame) -> Figure:
    """For each run the floor of its last layer, its error on test and the mean frame's.

    table: columns run, branch, floor, reached, mean_frame (MSE per pixel on [0, 1]), as `compare.below_mean_frame`.
    """
    table = drawable(table, "table", ["run", "branch"], numbers=["floor", "reached", "mean_frame"])
    table = table.sort_values("val" if "val" in table else "reached", ascending=False, na_position="first").assign(
        name=lambda t: t.run + ", " + t.branch
    )
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(table) + 1.5))
    axis.hlines(table.name, table.floor, table.reached, color="0.75")
    axis.scatter(table.floor, table.name, marker="|", s=140, color="black", label="floor: the least it can reach")
    axis.scatter(table.reached, table.name, color="tab:blue", label="reached")
    axis.scatter(table.mean_frame, table.name, marker="x", color="tab:red", label="mean frame")
    axis.set(xlabel=AXIS_LABELS["mse"])
    axis.legend(fontsize=8)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def _panels(count: int, *, sharey: bool) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    size = (5.5, 3.6) if count == 1 else (3.3 * columns, 2.5 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=sharey,
                                squeeze=False, layout="constrained")  # fmt: skip
    for axis in grid.flat[count:]:
        axis.axis("off")
    return figure, list(grid.flat[:count])


def _axis_names(figure: Figure, x: str, y: str) -> Figure:
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure
