"""Curves by epoch and by frame step: data frames in, matplotlib figures out, units on every axis."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seqae.reports.figures.ends import (
    EndLabel,
    beside_mean_frame,
    columns_of,
    fit_axis,
    label_ends,
    name_marks,
    room_for_names,
    wall,
)
from seqae.reports.figures.style import (
    LEVEL_LINES,
    TIME_LABELS,
    axis_label,
    coloured,
    drawable,
    no_values,
    ordered,
    rows_by_step,
)
from seqae.reports.seeds import over_seeds
from seqae.tasks import BRANCHES, frame_shape

COLOURS = 10  # of the palette; more lines than that get other dashes
NAMED = 12  # lines of a panel, at most, that are named where they end
LONGEST = 40  # characters of such a name, at most
LEVEL_COLOUR = "0.4"
ACROSS_STEPS = {"mean_frame": "mean_frame", "copy_last": "copy_last, mean of all steps", "floor": "floor"}
FAR_BELOW = 2.5  # times lower than all curves: a floor down there would squeeze them, and is not drawn


def learning_curves(
    metrics: pd.DataFrame, levels: pd.DataFrame, marks: Mapping[str, int] | None = None, *, metric: str = "mse"
) -> Figure:
    """One run: a panel for each branch, train and val by epoch, reference levels on val as grey horizontal lines,
    a floor hatched; each is named at the right.

    metrics: as metrics.csv; levels: as baselines.csv; marks: epochs to mark with vertical lines, as `Run.marks`.
    """
    data = drawable(metrics, "metrics", ["epoch", "split", "branch"], metric=metric)
    levels = drawable(levels, "levels", ["split", "branch", "baseline"], metric=metric)
    if not np.isfinite(data.value).any():
        return no_values(metric)
    colours = coloured(data.split.unique())
    grid = sns.relplot(data, x="epoch", y="value", hue="split", col="branch", kind="line", height=3.4, aspect=1.35,
                       palette=colours, legend=False)  # fmt: skip
    ends = data.sort_values("epoch").groupby(["branch", "split"], sort=False).tail(1)
    named: dict[str, list[EndLabel]] = {branch: [] for branch in grid.axes_dict}
    for row in ends.itertuples():
        named[row.branch].append(EndLabel(row.value, row.split, colours[row.split], row.epoch))
    figure = _labelled(grid, metric, "epoch", titles="" if set(data.branch) == {"all"} else "{col_name}")
    _name_ends(grid, levels[(levels.split == "val") & (levels.value > 0)], named, log=None)
    for axis in grid.axes.flat:
        name_marks(axis, marks or {})
    return figure


def error_by_frame(test: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse", hue: str = "branch") -> Figure:
    """How the test error grows with the horizon: by frame step. Horizontal lines are the mean frame, a copy of the last
    frame (its mean over steps: its own error grows, too) and, hatched, the floor. Lines are named where they end, with
    their last error beside the mean frame's, as in `learning_curves_of_runs`.

    Of one run a curve for each branch; of many, where `hue` is a column that tells them apart, a panel for each branch.
    So has one run whose branches have levels that differ by more than 1 %.
    test: as test.csv or `compare.frame_steps`; levels: as baselines.csv or `compare.levels`.
    """
    many = hue != "branch"
    labels = ["run", "branch", hue] if many else ["branch"]
    data = rows_by_step(test, labels, metric=metric, recipes=many)
    split = ["split"] if "split" in levels else []
    levels = drawable(levels, "levels", ["branch", "baseline", *split], metric=metric)
    if not np.isfinite(data.value).any():
        return no_values(metric)
    levels = levels[
        levels.baseline.isin([*ACROSS_STEPS]) & (levels.value > 0) & (levels.split == "test" if split else True)
    ]
    data = data.assign(split="test")
    if many:
        data = over_seeds(data, ["run", "branch", "frame"])
    else:
        data, hue = data.assign(run=data.branch, n=1), "run"
    if not (panels := many or _differ(levels)):
        data, levels = data.assign(branch=""), levels.assign(branch="")
    last = "" if many else " at step {}:"  # what the share beside the mean frame is of
    names = sorted(set(data[hue])) if many else ordered(data[hue], BRANCHES["both"])
    named = _end_names(data, "frame", hue, None, coloured(names), last)
    grid = _lines(data, "frame", hue, coloured(names), panels=["branch"], **_dashed(names, hue),
                  col_order=ordered(data.branch, BRANCHES["both"]), marker="o", height=3.4, aspect=1.35,
                  legend="auto" if named is None else False)  # fmt: skip
    step = "frame step of the decoder" + " (percentages: at the last)" * (many and named is not None)
    figure = _labelled(grid, metric, step, titles="{col_name}" if panels else "")
    several = (levels.baseline == "floor") & many  # of several losses
    means = levels[~several].groupby(["branch", "baseline"], as_index=False)["value"].mean()
    shown = pd.concat([means, levels[several]]) if several.any() else means
    shown = shown.assign(baseline=shown.baseline.map(ACROSS_STEPS))
    _name_ends(grid, shown, named or {}, log=None)
    return figure


def _differ(levels: pd.DataFrame) -> bool:
    # Whether one line cannot stand for a level of all branches.
    spans = levels.groupby(["baseline", "branch"])["value"].mean().groupby("baseline").agg(["min", "max"])
    return bool((spans["max"] > 1.01 * spans["min"]).any())


def error_by_sequence(errors: pd.DataFrame, test: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """A panel for each branch: the error of each sequence by frame step, and the mean of all test sequences, dashed.

    errors: columns sequence, branch, frame, metric, value; test: as test.csv.
    """
    data = drawable(errors, "errors", ["sequence", "branch", "frame"], metric=metric)
    data = data.assign(sequence=data.sequence.map("test {}".format))
    grid = sns.relplot(data, x="frame", y="value", hue="sequence", col="branch", kind="line", marker="o", height=3.2,
                       aspect=1.35, palette=coloured(data.sequence.unique()))  # fmt: skip
    means = rows_by_step(test, ["branch"], metric=metric)
    for branch, axis in grid.axes_dict.items():
        mean = means[means.branch == branch]
        axis.plot(mean.frame, mean.value, color="0.4", linestyle="--", linewidth=1, label="mean of all test")
        axis.legend(fontsize=8, loc="lower right", frameon=False)
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


def learning_curves_of_runs(
    curves: pd.DataFrame,
    levels: pd.DataFrame | None = None,
    *,
    metric: str = "mse",
    hue: str = "way",
    x: str = "epoch",
    log: bool | None = None,
) -> Figure:
    """Many runs: a panel for each branch, a colour for each way (or other `hue`), a line style for each loss (of
    hue="loss": for each way). Up to `NAMED` lines of a panel are named where they end, with their last error beside the
    mean frame's; more have a legend.

    curves: as `compare.by_epoch`; levels: as `compare.levels`, drawn as horizontal lines, floors as hatched ones. x:
    epoch or seconds. log: whether the vertical axis is logarithmic; None: where a linear one would squeeze the curves.
    A metric of no branch, such as the gradient norm, has one panel.
    """
    of_hue = ["task", "decoder_input"] if hue == "way" else [hue]
    styled = ["loss"] if hue not in ("run", "loss") else []
    labels = ["run", "branch", "epoch", x, *of_hue, *styled]
    data = over_seeds(drawable(curves, "curves", labels, metric=metric, recipes=True), ["run", "branch", "epoch"])
    if not np.isfinite(data.value).any():
        return no_values(metric)
    if "way" not in data and {"task", "decoder_input"} <= {*data}:
        data = data.assign(way=data.task + ", reads " + data.decoder_input)
    styled = [name for name in ([*styled, "way"] if hue == "loss" else styled) if name in data]
    names = sorted(set(data[hue]))
    style = _dashed(names, hue)
    if not style and styled and data[styled[0]].nunique() > 1:
        style = {"style": styled[0]}
    colours = coloured(names)
    named = _end_names(data, x, hue, style.get("style"), colours)
    grid = _lines(data, x, hue, colours, panels=["branch"], col_order=ordered(data.branch, BRANCHES["both"]),
                  **style, height=3.6, aspect=1.25, legend="auto" if named is None else False)  # fmt: skip
    where = ""
    if all(name in data and data[name].nunique(dropna=False) == 1 for name in ("task", "frame_size")):
        where = ", task {}, {}×{} pixels".format(data.task.iloc[0], *frame_shape(data.frame_size.to_list()[0]))
    titles = "" if set(data.branch) == {"all"} else "{col_name}" + where
    figure = _labelled(grid, metric, TIME_LABELS.get(x, x), titles=titles)
    if levels is not None:
        levels = drawable(levels, "levels", ["run", "branch", "baseline"], metric=metric, recipes=True)
        levels = levels[levels.run.isin(set(data.run)) & (levels.value > 0)]
    _name_ends(grid, levels, named or {}, log=log)
    return figure


def _dashed(names: Sequence[str], hue: str) -> dict[str, Any]:
    # Options of `_lines` that give other dashes to the names whose colours are those of others again.
    dashes = [("", (4, 1.5), (1, 1))[n // COLOURS % 3] for n in range(len(names))]
    return {"style": hue, "style_order": names, "dashes": dashes} if any(dashes) else {}


def _end_names(
    data: pd.DataFrame, x: str, hue: str, style: str | None, colours: Mapping[str, object], last_of: str = ""
) -> dict[str, list[EndLabel]] | None:
    # By branch the names of its lines, without the mean frame; None where they are too many or too long to be read.
    shown = [name for name in dict.fromkeys([hue, style]) if name and data[name].nunique() > 1] or [hue]
    found: dict[str, list[EndLabel]] = {}
    for (branch, _), line in data.sort_values(x).groupby(["branch", "run"], sort=False):
        last = line.iloc[-1]
        text = ", ".join(str(last[name]) for name in shown)
        text += last_of.format(last[x])
        found.setdefault(branch, []).append(EndLabel(last.value, text, colours[last[hue]], last[x]))
    lines = [label for labels in found.values() for label in labels]
    fit = max(map(len, found.values())) <= NAMED and max(len(label.text) for label in lines) <= LONGEST
    return found if fit else None


def _name_ends(
    grid: sns.FacetGrid, levels: pd.DataFrame | None, named: Mapping[str, list[EndLabel]], *, log: bool | None
) -> None:
    # Reference levels as lines, and all names at the right of their panels.
    known = pd.DataFrame(columns=["branch", "baseline", "value"]) if levels is None else levels
    drawn = [*grid.data.value[grid.data.value > 0], *known.value[known.baseline != "floor"]]
    known = known[(known.baseline != "floor") | (known.value > min(drawn, default=0) / FAR_BELOW)]
    axes = grid.axes_dict
    reached = grid.data.reindex(columns=["value", "low", "high"]).to_numpy(float).ravel().tolist()  # bands, too
    fit_axis([*axes.values()], reached, known.value.to_list(), log=log)
    of_all: dict[str, list[EndLabel]] = {}
    for branch in axes:
        of_branch = known[known.branch == branch]
        means = of_branch.value[of_branch.baseline == "mean_frame"]
        mean = float(means.iloc[0]) if means.round(6).nunique() == 1 else None
        of_all[branch] = [
            label._replace(text=(label.text + beside_mean_frame(label.value, mean)).rstrip(":"))
            for label in named.get(branch, ())
        ]
        for (baseline, value), rows in of_branch.groupby(["baseline", of_branch.value.round(6)]):
            of_losses = f" of {', '.join(dict.fromkeys(rows.loss))}" if baseline == "floor" and "loss" in rows else ""
            beyond = f", at {value:.3g}" if value > axes[branch].get_ylim()[1] else ""
            of_all[branch].append(EndLabel(value, baseline.replace("_", " ") + of_losses + beyond, LEVEL_COLOUR))
    room_for_names(grid.figure, [label.text for labels in of_all.values() for label in labels], columns=len(axes))
    if grid.legend:  # below, where panels keep their size and names are near
        columns = columns_of([text.get_text() for text in grid.legend.texts], grid.figure.get_figwidth())
        sns.move_legend(grid, "upper left", bbox_to_anchor=(0, 0), frameon=False, ncols=columns, title=None)
    for branch, axis in axes.items():
        axis.set_xlim(axis.get_xlim())
        for label in of_all[branch][len(named.get(branch, ())) :]:
            if label.text.startswith("floor"):
                wall(axis, label.value, LEVEL_COLOUR)
            else:
                line = LEVEL_LINES.get(label.text.partition(",")[0].replace(" ", "_"), "-")
                axis.axhline(label.value, color=LEVEL_COLOUR, linestyle=line, linewidth=1)
        label_ends(axis, of_all[branch])


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
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return grid.figure
