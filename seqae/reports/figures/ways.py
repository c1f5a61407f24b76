"""The comparison's main figure: which losses learn, which sit at the mean frame, which cannot get below their floor."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from seqae.losses import LOSSES
from seqae.reports.figures.ends import LOG_SCALE, EndLabel, beside_mean_frame, fit_axis, hatched, label_ends, wall
from seqae.reports.figures.style import LEVEL_LINES, axis_label, coloured, drawable, no_values, ordered
from seqae.reports.seeds import over_seeds
from seqae.tasks import BRANCHES, DECODER_INPUTS

MARKERS = "os^vDPX*"  # of the losses, so that they differ in grey, too
LEARNED = (0.0, 0.62, 0.45, 0.09)  # of the area below the mean frame


def losses_in_ways(curves: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """Val by epoch, a panel for each branch of each way (task × decoder input): a colour and a marker for each loss,
    its name and its last error beside the mean frame's where the curve ends. The area below the mean frame is tinted; a
    hatched line is a floor, below which the losses that it names cannot get.

    curves: columns run (or recipe), epoch, value, metric, loss, task, decoder_input, branch. levels: columns loss,
    task, branch, baseline, metric, value, on val.
    """
    way = ["task", "decoder_input", "branch"]
    data = drawable(curves, "curves", ["run", "epoch", "loss", *way], metric=metric, recipes=True)
    levels = drawable(levels, "levels", ["loss", "task", "branch", "baseline"], metric=metric)
    if not np.isfinite(data.value).any():
        return no_values(metric)
    data = over_seeds(data, ["run", "branch", "epoch"])
    colours = coloured([*LOSSES, *(name for name in ordered(data.loss, LOSSES) if name not in LOSSES)])
    rows = ordered(data.decoder_input, DECODER_INPUTS)
    columns = [
        (task, branch)
        for task in ordered(data.task, BRANCHES)
        for branch in ordered(data.branch[data.task == task], BRANCHES["both"])
    ]
    size = (2.55 * len(columns) + 0.6, 2.4 * len(rows) + 0.5)
    figure, grid = plt.subplots(len(rows), len(columns), figsize=size, sharex=True, sharey=True, squeeze=False)
    inches = {"left": 0.6 / size[0], "right": 1 - 0.95 / size[0], "top": 1 - 0.3 / size[1], "bottom": 0.5 / size[1]}
    figure.subplots_adjust(**inches, wspace=0.72, hspace=0.26)
    fit_axis(list(grid.flat), data.value.to_list(), _limits(data, levels))
    for reads, row in zip(rows, grid, strict=True):
        for (task, branch), axis in zip(columns, row, strict=True):
            of_panel = data[(data.task == task) & (data.decoder_input == reads) & (data.branch == branch)]
            if of_panel.empty:
                axis.remove()
                continue
            several = len(ordered(data.branch[data.task == task], ())) > 1
            axis.set_title(f"{task}{f': {branch}' if several else ''}, decoder reads {reads}", fontsize=8.5, loc="left")
            of_levels = levels[(levels.task == task) & (levels.branch == branch)]
            _panel(axis, of_panel, of_levels, colours)
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
    label = axis_label(metric, data) + LOG_SCALE * (grid[0, 0].get_yscale() == "log")
    for row in grid:
        first = next(axis for axis in row if axis in figure.axes)
        first.set_ylabel(label, fontsize=8.5)
        first.tick_params(which="both", labelleft=True)  # matplotlib labels only those that stand at the edge
    for column in grid.T:
        last = [axis for axis in column if axis in figure.axes][-1]
        last.set_xlabel("epoch")
        last.tick_params(labelbottom=True)
    handles = _handles({*data.loss}, colours, walls=bool((levels.baseline == "floor").any()))
    if data.n.max() > 1:
        counts = " or ".join(map(str, sorted(set(data.n[data.n > 1]))))
        handles.append(Patch(color="0.6", alpha=0.4, label=f"seeds, least to largest, n = {counts}; line: their mean"))
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.015), ncols=min(4, len(handles)),
                  frameon=False, fontsize=8, columnspacing=1.8)  # fmt: skip
    return figure


def _limits(data: pd.DataFrame, levels: pd.DataFrame) -> list[float]:
    # The levels that the vertical axis has to hold: mean frames, and floors that are not far below all curves.
    means, floors = (levels.value[levels.baseline == name] for name in ("mean_frame", "floor"))
    least = min([*data.value[np.isfinite(data.value)], *means])
    return [*means, *floors[floors > least / 2]]


def _panel(axis: Axes, data: pd.DataFrame, levels: pd.DataFrame, colours: Mapping[str, object]) -> None:
    means = levels.value[levels.baseline == "mean_frame"]
    mean = float(means.mean()) if len(means) else None
    labels = []
    for place, (loss, colour) in enumerate(colours.items()):
        dashes = (0, (4, 2)) if place % 2 else "-"  # where two losses are stuck at one level, both can be seen
        for _, line in data[data.loss == loss].groupby("run", sort=False):
            line = line.sort_values("epoch")
            every = max(1, len(line) // 6)
            marks = list(range(min(place * every // len(colours), len(line) - 1), len(line), every))
            axis.plot(line.epoch, line.value, color=colour, linestyle=dashes, linewidth=1.6, marker=MARKERS[place % 8],
                      markersize=3.6, markevery=marks)  # fmt: skip
            if (line.n > 1).any():
                axis.fill_between(line.epoch, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
            last = line.iloc[-1]
            labels.append(EndLabel(last.value, loss + beside_mean_frame(last.value, mean), colour, last.epoch))
    if mean is not None:
        axis.axhline(mean, color="0.4", linestyle=LEVEL_LINES["mean_frame"], linewidth=1)
        axis.axhspan(axis.get_ylim()[0], mean, color=LEARNED, linewidth=0, zorder=0)
        labels.append(EndLabel(mean, "mean frame", "0.4"))
    floors = levels[(levels.baseline == "floor") & (levels.value > axis.get_ylim()[0])]
    for value, of_value in floors.groupby(floors.value.round(4)):
        names = list(dict.fromkeys(of_value.loss))
        colour = colours.get(names[0], "0.4")  # a loss without curves has none
        wall(axis, value, colour)
        labels.append(EndLabel(value, f"floor {', '.join(names)}", colour))
    label_ends(axis, labels)


def _handles(shown: set[str], colours: Mapping[str, object], *, walls: bool) -> list[Line2D | Patch]:
    # Of the one legend. A loss has the same colour and marker in every comparison, whichever others are shown.
    handles: list[Line2D | Patch] = []
    for place, (loss, colour) in enumerate(colours.items()):
        known = LOSSES.get(loss)
        told = "({:g}, {:g})".format(*known.pixel_range) + f" {known.activation} {known.training_loss}" if known else ""
        style: dict[str, Any] = {"color": colour, "linestyle": (0, (4, 2)) if place % 2 else "-", "linewidth": 1.6}
        style |= {"marker": MARKERS[place % 8], "markersize": 4}
        if loss in shown:
            handles.append(Line2D([], [], label=f"{loss}  {told}".strip(), **style))
    handles.append(Line2D([], [], color="0.4", linestyle="--", linewidth=1, label="mean frame: no model"))
    handles.append(Patch(facecolor=LEARNED, label="below the mean frame"))
    if walls:
        handles.append(Patch(**hatched("0.4"), label="floor, of the losses named there alone"))
    return handles
