"""Figures: data frames in, matplotlib figures out. Every axis has its unit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seqae.losses import LOSSES
from seqae.reports.figures.style import (
    BRANCH_ORDER,
    INPUT_ORDER,
    LINES,
    TASK_ORDER,
    UNITS,
    X_UNITS,
    coloured,
    level_line,
    no_values,
    ordered,
)


def learning_curves(
    metrics: pd.DataFrame, levels: pd.DataFrame, marks: Mapping[str, int] | None = None, *, metric: str = "mse"
) -> Figure:
    """One run: a panel a branch, train and val by epoch, its reference levels on val as grey lines, its marks (an
    epoch each: best, saturated, diverged) as upright ones.

    metrics: as metrics.csv; levels: as baselines.csv; marks: as `Run.marks`.
    """
    data = metrics[metrics.metric == metric]
    if not np.isfinite(data.value).any():
        return no_values(metric)
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
            level_line(axis, row.value, row.baseline.replace("_", " "), LINES[row.baseline])
        for name, epoch in (marks or {}).items():
            axis.axvline(epoch, color="0.6", linewidth=1, linestyle=(0, (5, 5)))
            axis.text(epoch, 0.98, f"{name} ", transform=axis.get_xaxis_transform(), color="0.4", fontsize=7,
                      ha="right", va="top", rotation=90)  # fmt: skip
    return _label(grid, metric, "epoch", titles="" if set(data.branch) == {"all"} else "{col_name}")


def frame_errors(test: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse", hue: str = "branch") -> Figure:
    """How the error grows with the horizon, on test: a curve a branch, or, of many runs, a panel a branch and a
    colour a `hue`, over the frame steps.
    """
    data = test[(test.metric == metric) & test.frame.notna()].astype({"frame": int})
    if not np.isfinite(data.value).any():
        return no_values(metric)
    branches, many = ordered(data.branch, BRANCH_ORDER), hue != "branch"
    how: dict[str, Any] = {"marker": "o", "height": 3.4, "aspect": 1.35}
    if many:
        data = _over_seeds(data, "frame")
        colours = coloured(sorted(set(data[hue])))
        grid = _curves(data, "frame", hue, colours, facets=["branch"], col_order=branches, **how)
    else:
        how |= {"hue_order": branches, "palette": coloured(branches)}
        grid = sns.relplot(data, x="frame", y="value", hue=hue, kind="line", **how)
    levels = levels[(levels.metric == metric) & (levels.baseline == "mean_frame")]
    if "split" in levels:
        levels = levels[levels.split == "test"]
    for axis, branch in zip(grid.axes.flat, grid.col_names or [None], strict=True):
        mean = levels[levels.branch == branch] if branch else levels
        if len(mean):
            level_line(axis, mean.value.mean(), "mean frame", LINES["mean_frame"])
    return _label(grid, metric, "frame step of the decoder", titles="{col_name}" if many else "")


def sequence_errors(errors: pd.DataFrame, test: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """A panel a branch: the error of each sequence by frame step, the mean of all test sequences dashed.

    errors: columns sequence, branch, frame, metric, value; test: as test.csv.
    """
    data = errors[errors.metric == metric].assign(sequence=lambda d: d.sequence.map("test {}".format))
    how: dict[str, Any] = {"marker": "o", "height": 3.2, "aspect": 1.35, "palette": coloured(data.sequence.unique())}
    grid = sns.relplot(data, x="frame", y="value", hue="sequence", col="branch", kind="line", **how)
    means = test[(test.metric == metric) & test.frame.notna()].astype({"frame": int})
    for branch, axis in grid.axes_dict.items():
        mean = means[means.branch == branch]
        axis.plot(mean.frame, mean.value, color="0.4", linestyle="--", linewidth=1, label="mean of all test")
        axis.legend(fontsize=7, loc="lower right", frameon=False)
        axis.set_ylim(0)
    return _label(grid, metric, "frame step of the decoder", titles="{col_name}")


def then_and_again(curves: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """One run made twice: a panel a branch, val by epoch. Again is thin on then's broad line, so that both are seen
    where they are the same. curves: columns epoch, branch, metric, value, made ("then" or "again").
    """
    grid = sns.relplot(
        curves[curves.metric == metric],
        x="epoch",
        y="value",
        hue="made",
        hue_order=(order := ["then", "again"]),
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
    return _label(grid, metric, "epoch", titles="{col_name}, on val")


def losses_in_ways(curves: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """Six panels, tasks by decoder inputs; a colour and a line width a loss, a line style a branch; val by epoch.

    curves: columns epoch, value, metric, loss, task, decoder_input, branch. levels: loss, branch, baseline, metric,
    value on val.
    """
    data = _over_seeds(curves[curves.metric == metric], "epoch")
    colours = coloured(ordered(data.loss, [*LOSSES]))
    how: dict[str, Any] = {"style": "branch", "style_order": BRANCH_ORDER, "height": 3.1, "aspect": 1.15}
    how |= {"col_order": ordered(data.task, TASK_ORDER), "row_order": ordered(data.decoder_input, INPUT_ORDER)}
    # Two neighbours that are stuck at the same level lie one on the other, the lower one being wider.
    how |= {"size": "loss", "size_order": [*colours], "sizes": [(3, 1.5)[n % 2] for n in range(len(colours))]}
    grid = _curves(data, "epoch", "loss", colours, facets=["decoder_input", "task"], **how)
    levels = levels[levels.metric == metric]
    for (_, task), axis in grid.axes_dict.items():
        panel = levels[levels.task == task]
        level_line(axis, panel[panel.baseline == "mean_frame"]["value"].mean(), "mean frame", LINES["mean_frame"])
        floors = panel[(panel.baseline == "floor") & (panel.value > 0)].groupby("loss")["value"].mean()
        for value, losses in floors.groupby(floors.round(6)):
            names = list(losses.index)
            level_line(axis, value, f"floor of {', '.join(names)}", LINES["floor"], colour=colours[names[0]])
    return _label(grid, metric, "epoch", titles="{col_name}, decoder reads {row_name}")


def by_branch(
    curves: pd.DataFrame,
    levels: pd.DataFrame | None = None,
    *,
    metric: str = "mse",
    hue: str = "way",
    x: str = "epoch",
    log: bool = False,
) -> Figure:
    """A panel a branch, all recons and all preds (or one of what belongs to no branch, such as the gradient norm): a
    colour a way (or a run), a line style a loss. x: epoch, or seconds of training. As above.
    """
    data = _over_seeds(curves[curves.metric == metric], "epoch").assign(
        way=lambda d: d.task + ", reads " + d.decoder_input
    )
    if not np.isfinite(data.value).any():
        return no_values(metric)
    names = sorted(set(data[hue]))
    how: dict[str, Any] = {"col_order": ordered(data.branch, BRANCH_ORDER), "height": 3.6, "aspect": 1.25}
    if len(names) > 10:  # colours come again, with other dashes
        dashes = [("", (4, 1.5), (1, 1))[n // 10 % 3] for n in range(len(names))]
        how |= {"style": hue, "style_order": names, "dashes": dashes}
    elif hue not in ("run", "loss") and data.loss.nunique() > 1:
        how["style"] = "loss"
    grid = _curves(data, x, hue, coloured(names), facets=["branch"], **how)
    if log:
        grid.set(yscale="log")
    if levels is not None:
        known = levels.recipe if "recipe" in levels else levels.run
        levels = levels[(levels.metric == metric) & known.isin(set(data.run))]
        for branch, axis in grid.axes_dict.items():
            of_branch = levels[levels.branch == branch]
            for (baseline, value), _ in of_branch.groupby(["baseline", of_branch.value.round(6)]):
                if value > 0:
                    level_line(axis, value, baseline.replace("_", " "), LINES[baseline])
    of_one = data.task.nunique() == data.frame_size.nunique() == 1
    where = f", task {data.task.iloc[0]}, {data.frame_size.iloc[0]} pixels a side" if of_one else ""
    return _label(grid, metric, X_UNITS[x], titles="" if set(data.branch) == {"all"} else "{col_name}" + where)


def _over_seeds(data: pd.DataFrame, step: str) -> pd.DataFrame:
    # Runs that differ only by seed become one, called by their recipe: value is their mean, from low to high, of n.
    data = data if "recipe" in data else data.assign(recipe=data.run)
    data = data.assign(run=data.recipe, low=data.value, high=data.value, n=1)
    how = dict.fromkeys(data.columns, "first") | {"value": "mean", "low": "min", "high": "max", "n": "sum"}
    how |= {"seconds": "mean"} if "seconds" in data else {}
    keys = ["recipe", "branch", step]
    return data.groupby(keys, as_index=False, sort=False).agg({k: v for k, v in how.items() if k not in keys})


def _curves(
    data: pd.DataFrame, x: str, hue: str, colours: Mapping[str, object], *, facets: list[str], **how: Any
) -> sns.FacetGrid:
    # A line for each of the data's runs; where that is the mean of several seeds, in a band from least to largest.
    # facets: what the columns of panels are, or what the rows and the columns are.
    how |= dict(zip(("col", "row"), reversed(facets), strict=False))
    lines = {"kind": "line", "units": "run", "estimator": None, "palette": colours, "hue_order": [*colours]}
    grid = sns.relplot(data, x=x, y="value", hue=hue, **lines, **how)
    if data.n.max() == 1:
        return grid
    for key, axis in grid.axes_dict.items():
        panel = data[(data[facets] == (list(key) if len(facets) > 1 else [key])).all(axis=1) & (data.n > 1)]
        for (name, _, _), line in panel.groupby([hue, "run", "branch"]):
            axis.fill_between(line[x], line.low, line.high, color=colours[name], alpha=0.2, linewidth=0)
    counts = " or ".join(map(str, sorted(set(data.n[data.n > 1]))))
    grid.figure.text(0.01, 0, f"line: mean of the seeds, band: least to largest, n = {counts}", va="top", fontsize=8)
    return grid


def _label(grid: sns.FacetGrid, metric: str, x: str, titles: str = "") -> Figure:
    grid.set_axis_labels(x, UNITS.get(metric, metric))
    grid.set_titles(titles)
    if x != X_UNITS["seconds"]:
        for axis in grid.axes.flat:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return grid.figure
