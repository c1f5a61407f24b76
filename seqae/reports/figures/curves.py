"""Curves by epoch and by frame step: data frames in, matplotlib figures out, units on every axis."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seqae.losses import LOSSES
from seqae.reports.figures.style import (
    LEVEL_LINES,
    TIME_LABELS,
    axis_label,
    coloured,
    drawable,
    level_line,
    no_values,
    ordered,
)
from seqae.reports.seeds import over_seeds
from seqae.tasks import BRANCHES, DECODER_INPUTS, frame_shape

COLOURS = 10  # of the palette; more lines than that get other dashes


def learning_curves(
    metrics: pd.DataFrame, levels: pd.DataFrame, marks: Mapping[str, int] | None = None, *, metric: str = "mse"
) -> Figure:
    """One run: a panel for each branch, train and val by epoch, reference levels on val as grey horizontal lines.

    metrics: as metrics.csv; levels: as baselines.csv; marks: epochs to mark with vertical lines, as `Run.marks`.
    """
    data = drawable(metrics, "metrics", ["epoch", "split", "branch"], metric=metric)
    levels = drawable(levels, "levels", ["split", "branch", "baseline"], metric=metric)
    if not np.isfinite(data.value).any():
        return no_values(metric)
    levels = levels[levels.split == "val"]
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
            level_line(axis, row.value, row.baseline.replace("_", " "), LEVEL_LINES.get(row.baseline, "-"))
        for name, epoch in (marks or {}).items():
            axis.axvline(epoch, color="0.6", linewidth=1, linestyle=(0, (5, 5)))
            axis.text(epoch, 0.98, f"{name} ", transform=axis.get_xaxis_transform(), color="0.4", fontsize=7,
                      ha="right", va="top", rotation=90)  # fmt: skip
    return _labelled(grid, metric, "epoch", titles="" if set(data.branch) == {"all"} else "{col_name}")


def error_by_frame(test: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse", hue: str = "branch") -> Figure:
    """How the test error grows with the horizon: by frame step, with the mean frame's error as a horizontal line.

    Of one run a curve for each branch; of many, where `hue` is a column that tells them apart, a panel for each branch.
    test: as test.csv or `compare.frame_steps`; levels: as baselines.csv or `compare.levels`.
    """
    many = hue != "branch"
    labels = ["run", "branch", hue] if many else ["branch"]
    data = _frame_steps(test, labels, metric=metric, recipes=many)
    split = ["split"] if "split" in levels else []
    levels = drawable(levels, "levels", ["branch", "baseline", *split], metric=metric)
    if not np.isfinite(data.value).any():
        return no_values(metric)
    branches = ordered(data.branch, BRANCHES["both"])
    if many:
        data = over_seeds(data, ["run", "branch", "frame"])
        colours = coloured(sorted(set(data[hue])))
        grid = _lines(data, "frame", hue, colours, panels=["branch"], col_order=branches,
                      marker="o", height=3.4, aspect=1.35)  # fmt: skip
    else:
        grid = sns.relplot(data, x="frame", y="value", hue=hue, kind="line", marker="o", height=3.4, aspect=1.35,
                           hue_order=branches, palette=coloured(branches))  # fmt: skip
    levels = levels[levels.baseline == "mean_frame"]
    if split:
        levels = levels[levels.split == "test"]
    for axis, branch in zip(grid.axes.flat, grid.col_names or [None], strict=True):
        mean = levels[levels.branch == branch] if branch else levels
        if len(mean):
            level_line(axis, mean.value.mean(), "mean frame", LEVEL_LINES["mean_frame"])
    return _labelled(grid, metric, "frame step of the decoder", titles="{col_name}" if many else "")


def error_by_sequence(errors: pd.DataFrame, test: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """A panel for each branch: the error of each sequence by frame step, and the mean of all test sequences, dashed.

    errors: columns sequence, branch, frame, metric, value; test: as test.csv.
    """
    data = drawable(errors, "errors", ["sequence", "branch", "frame"], metric=metric)
    data = data.assign(sequence=data.sequence.map("test {}".format))
    grid = sns.relplot(data, x="frame", y="value", hue="sequence", col="branch", kind="line", marker="o", height=3.2,
                       aspect=1.35, palette=coloured(data.sequence.unique()))  # fmt: skip
    means = _frame_steps(test, ["branch"], metric=metric)
    for branch, axis in grid.axes_dict.items():
        mean = means[means.branch == branch]
        axis.plot(mean.frame, mean.value, color="0.4", linestyle="--", linewidth=1, label="mean of all test")
        axis.legend(fontsize=7, loc="lower right", frameon=False)
        axis.set_ylim(0)
    return _labelled(grid, metric, "frame step of the decoder", titles="{col_name}")


def then_and_again(curves: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """One run made twice: a panel for each branch, val by epoch, a thin line on a broad one, so that both are seen
    where they are equal. curves: columns epoch, branch, metric, value, made ("then" or "again").
    """
    order = ["then", "again"]
    data = drawable(curves, "curves", ["epoch", "branch", "made"], metric=metric)
    if others := {*data.made} - {*order}:
        raise ValueError(f"made in curves must be then or again; not {', '.join(map(repr, others))}")
    grid = sns.relplot(
        data,
        x="epoch",
        y="value",
        hue="made",
        hue_order=order,
        style="made",
        style_order=order,
        size="made",
        size_order=order,
        sizes={"then": 5, "again": 1.5},
        dashes=False,
        markers={"then": "o", "again": "X"},
        col="branch",
        kind="line",
        palette={"then": "0.7", "again": sns.color_palette("colorblind")[0]},
        height=3.4,
        aspect=1.35,
    )
    return _labelled(grid, metric, "epoch", titles="{col_name}, on val")


def losses_in_ways(curves: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """Val by epoch, a panel for each way (task × decoder input): a colour for each loss, a line style for each branch.

    curves: columns run (or recipe), epoch, value, metric, loss, task, decoder_input, branch. levels: columns loss,
    task, branch, baseline, metric, value, on val.
    """
    way = ["task", "decoder_input", "branch"]
    data = drawable(curves, "curves", ["run", "epoch", "loss", *way], metric=metric, recipes=True)
    levels = drawable(levels, "levels", ["loss", "task", "branch", "baseline"], metric=metric)
    data = over_seeds(data, ["run", "branch", "epoch"])
    colours = coloured(ordered(data.loss, [*LOSSES]))
    grid = _lines(
        data,
        "epoch",
        "loss",
        colours,
        panels=["decoder_input", "task"],
        col_order=ordered(data.task, BRANCHES),
        row_order=ordered(data.decoder_input, DECODER_INPUTS),
        style="branch",
        style_order=list(dict.fromkeys([*BRANCHES["both"], *ordered(data.branch, BRANCHES["both"])])),
        # Where two neighbouring losses are stuck at one level, the lower line is wider, so that both are seen.
        size="loss",
        size_order=[*colours],
        sizes=[(3, 1.5)[n % 2] for n in range(len(colours))],
        height=3.1,
        aspect=1.15,
    )
    for (_, task), axis in grid.axes_dict.items():
        panel = levels[levels.task == task]
        means = panel[panel.baseline == "mean_frame"]
        for value, rows in means.groupby(means.value.round(4)):  # of both branches, if they differ
            name = "mean frame" if len({*means.value.round(4)}) == 1 else f"mean frame, {rows.branch.iloc[0]}"
            level_line(axis, value, name, LEVEL_LINES["mean_frame"])
        floors = panel[(panel.baseline == "floor") & (panel.value > 0)]
        for value, rows in floors.groupby(floors.value.round(4)):
            names = list(dict.fromkeys(rows.loss))
            colour = colours.get(names[0], "0.4")  # a loss without curves has none
            level_line(axis, value, f"floor of {', '.join(names)}", LEVEL_LINES["floor"], colour=colour)
    return _labelled(grid, metric, "epoch", titles="{col_name}, decoder reads {row_name}")


def learning_curves_of_runs(
    curves: pd.DataFrame,
    levels: pd.DataFrame | None = None,
    *,
    metric: str = "mse",
    hue: str = "way",
    x: str = "epoch",
    log: bool = False,
) -> Figure:
    """Many runs: a panel for each branch, a colour for each way (or other `hue`), a line style for each loss.

    curves: as `compare.by_epoch`; levels: as `compare.levels`, drawn as horizontal lines. x: epoch or seconds. log: the
    vertical axis is logarithmic. A metric of no branch, such as the gradient norm, has one panel.
    """
    of_hue = ["task", "decoder_input"] if hue == "way" else [hue]
    styled = ["loss"] if hue not in ("run", "loss") else []
    labels = ["run", "branch", "epoch", x, *of_hue, *styled]
    data = over_seeds(drawable(curves, "curves", labels, metric=metric, recipes=True), ["run", "branch", "epoch"])
    if hue == "way":
        data = data.assign(way=data.task + ", reads " + data.decoder_input)
    if not np.isfinite(data.value).any():
        return no_values(metric)
    names = sorted(set(data[hue]))
    style, dashes = None, None
    if len(names) > COLOURS:
        style, dashes = hue, [("", (4, 1.5), (1, 1))[n // COLOURS % 3] for n in range(len(names))]
    elif styled and data.loss.nunique() > 1:
        style = "loss"
    grid = _lines(data, x, hue, coloured(names), panels=["branch"], col_order=ordered(data.branch, BRANCHES["both"]),
                  style=style, style_order=names if dashes else None, dashes=dashes, height=3.6,
                  aspect=1.25)  # fmt: skip
    if log:
        grid.set(yscale="log")
    if levels is not None:
        levels = drawable(levels, "levels", ["run", "branch", "baseline"], metric=metric, recipes=True)
        levels = levels[levels.run.isin(set(data.run))]
        for branch, axis in grid.axes_dict.items():
            of_branch = levels[levels.branch == branch]
            for (baseline, value), _ in of_branch.groupby(["baseline", of_branch.value.round(6)]):
                if value > 0:
                    level_line(axis, value, baseline.replace("_", " "), LEVEL_LINES.get(baseline, "-"))
    where = ""
    if all(name in data and data[name].nunique(dropna=False) == 1 for name in ("task", "frame_size")):
        where = ", task {}, {}×{} pixels".format(data.task.iloc[0], *frame_shape(data.frame_size.to_list()[0]))
    titles = "" if set(data.branch) == {"all"} else "{col_name}" + where
    return _labelled(grid, metric, TIME_LABELS.get(x, x), titles=titles)


def _frame_steps(test: pd.DataFrame, labels: Sequence[str], *, metric: str, recipes: bool = False) -> pd.DataFrame:
    # What is `drawable` of a table of test errors, without the means over frames. A run of means alone would vanish.
    data = drawable(test, "test", labels, numbers=["value", "frame"], metric=metric, recipes=recipes)
    steps = data[data.frame.notna()].astype({"frame": int})
    if lost := sorted(map(str, {*data[labels[0]]} - {*steps[labels[0]]})):
        raise ValueError(
            f"test has no frame in any row of {labels[0]} {', '.join(lost)}: give its errors by frame step"
        )
    return steps


def _lines(
    data: pd.DataFrame, x: str, hue: str, colours: Mapping[str, object], *, panels: Sequence[str], **options: Any
) -> sns.FacetGrid:
    # A line for each run of data; where that is a mean over seeds, with a band from the least to the largest value.
    # panels: the column of data that makes columns of panels, or those that make rows and columns.
    grid = sns.relplot(data, x=x, y="value", hue=hue, kind="line", units="run", estimator=None, palette=colours,
                       hue_order=[*colours], col=panels[-1], row=panels[0] if len(panels) > 1 else None,
                       **options)  # fmt: skip
    if data.n.max() == 1:
        return grid
    for key, axis in grid.axes_dict.items():
        of_panel = (data[list(panels)] == (list(key) if len(panels) > 1 else [key])).all(axis=1)
        for (name, _, _), line in data[of_panel & (data.n > 1)].groupby([hue, "run", "branch"]):
            axis.fill_between(line[x], line.low, line.high, color=colours[name], alpha=0.2, linewidth=0)
    counts = " or ".join(map(str, sorted(set(data.n[data.n > 1]))))
    grid.figure.text(0.01, 0, f"line: mean of the seeds, band: least to largest, n = {counts}", va="top", fontsize=8)
    return grid


def _labelled(grid: sns.FacetGrid, metric: str, x: str, titles: str = "") -> Figure:
    grid.set_axis_labels(x, axis_label(metric, grid.data))
    grid.set_titles(titles)
    for line in (line for axis in grid.axes.flat for line in axis.lines):
        if len(line.get_xdata()) == 1:  # of a metric that was measured later, or a run of one epoch
            line.set_marker("o")
    if x != TIME_LABELS["seconds"]:
        for axis in grid.axes.flat:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return grid.figure
