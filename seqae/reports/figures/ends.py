"""What makes curves readable without a legend: names at their ends, pushed apart; axes; floors as walls."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from seqae.reports.figures.style import readable

SIZE = 8  # of a name, points
LETTER = 0.58  # width of a letter, as a share of its size
GAP = 1.25 * SIZE  # between the middles of two names, points
LEADER = 14.0  # from the end of the axis to the names, points
ROUND = (1, 1.5, 2, 3, 5, 7)  # of each decade, where a logarithmic axis has ticks
LOG_SCALE = ", log scale"  # ends the label of such an axis
DECADES = 9  # that have a tick, at most
LOG_FROM = 2.5  # the least ratio of largest to least value that makes an axis logarithmic
WALL = 9.0  # height of the hatching under a floor, points
FAR_ABOVE = 1.5  # times curves and the next level above them: higher levels are named at the axis's end
OFF_AXIS = 12.0  # times the largest reference level: higher up, a curve that diverges leaves the axis


class EndLabel(NamedTuple):
    """A name at the right of an axis. end: where on the horizontal axis its line ends; None: at the axis's end."""

    value: float
    text: str
    colour: object
    end: float | None = None


def apart(places: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """Places at least `gap` apart and within low and high, in the same order, as near the given ones as can be.

    Least squares: isotonic regression of each place less the gaps below it. If they do not fit, they stand above high.
    """
    order = np.argsort(places, kind="stable")
    blocks: list[tuple[float, int]] = []  # sum and number of the places that move together
    for rank, place in enumerate(np.asarray(places, float)[order]):
        block = (place - rank * gap, 1)
        while blocks and blocks[-1][0] / blocks[-1][1] >= block[0] / block[1]:
            total, count = blocks.pop()
            block = (block[0] + total, block[1] + count)
        blocks.append(block)
    level = np.repeat([total / count for total, count in blocks], [count for _, count in blocks])
    level = level.clip(low, max(low, high - (len(order) - 1) * gap))
    out = np.empty(len(order))
    out[order] = level + gap * np.arange(len(order))
    return out


def fit_axis(
    axes: Sequence[Axes], values: Sequence[float], levels: Sequence[float] = (), *, log: bool | None = None
) -> None:
    """Limits and round ticks of the vertical axes, for the values of curves and of reference levels. The label of an
    axis says that it is logarithmic.

    log: None: where it keeps curves from being squeezed together. Values that are not positive have no place there.
    Values that are not finite, or more than `OFF_AXIS` times the largest level, count for nothing, nor do levels so far
    above all else that curves would be squeezed for their sake.
    """
    most = OFF_AXIS * max(levels, default=0) or np.inf
    top = max((value for value in values if np.isfinite(value) and value <= most), default=0)
    above = FAR_ABOVE * max(top, min((level for level in levels if level >= top), default=0))
    levels = [level for level in levels if level <= above]
    finite = np.asarray([value for value in [*values, *levels] if np.isfinite(value) and value <= most], float)
    if not len(finite):
        return
    if log and (finite > 0).any():
        finite = finite[finite > 0]
    low, high = finite.min(), finite.max()
    if low == high:  # a constant stands in the middle, between zero and twice its value; zero below one
        low, high = min(0, 2 * low), max(0, 2 * high) or float(low == 0)
    if low <= 0 or not (log if log is not None else high / low > LOG_FROM):
        margin = 0.06 * (high - low)
        for axis in axes:
            axis.set_ylim(low - margin, high + margin)
        return
    margin = max((high / low) ** 0.06, 1.03)
    low, high = low / margin, high * margin
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    each = -(-len(decades) // DECADES)
    ticks = [step * 10.0**decade for decade in decades[::each] for step in (ROUND if len(decades) < 5 else (1,))]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) < 2:  # less than from one of them to the next
        ticks = [tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
    for axis in axes:
        axis.set_yscale("log")
        axis.set_ylabel((label := axis.get_ylabel()) + LOG_SCALE * bool(label))
        axis.set_ylim(low, high)
        axis.yaxis.set_major_locator(FixedLocator(ticks))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def label_ends(axis: Axes, labels: Sequence[EndLabel]) -> None:
    """Write the names at the right of an axis, none upon another, each with a thin line from where its own line ends.

    The limits of the axis and the layout of its figure must be final. What lies outside them is named at the edge.
    """
    height = axis.get_window_extent().height * 72 / axis.figure.dpi  # points
    at = [axis.transAxes.inverted().transform(axis.transData.transform((1, label.value)))[1] for label in labels]
    at = np.nan_to_num(np.asarray(at), nan=1.0).clip(0, 1)  # a diverged run's, at the top
    low, high = axis.get_ylim()
    for label, place in zip(labels, apart(at * height, GAP, GAP / 2, height - GAP / 2), strict=True):
        shown = np.clip(label.value, low, high) if np.isfinite(label.value) else high
        from_x = axis.get_xlim()[1] if label.end is None else label.end
        colour = readable(label.colour)
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
        x = axis.bbox.width * 72 / axis.figure.dpi + LEADER
        axis.annotate(label.text, (from_x, shown), xytext=(x, place), textcoords=("axes points", "axes points"),
                      fontsize=SIZE, color=colour, va="center", ha="left", annotation_clip=False,
                      arrowprops=line | {"relpos": (0, 0.5)})  # fmt: skip


def name_marks(axis: Axes, marks: Mapping[str, int]) -> None:
    """Vertical lines behind the curves, at the epochs to mark, named above the axis, none upon another."""
    if not marks:
        return
    together = {epoch: ", ".join(name for name, at in marks.items() if at == epoch) for epoch in marks.values()}
    width = axis.get_window_extent().width * 72 / axis.figure.dpi  # points
    at = [axis.transAxes.inverted().transform(axis.transData.transform((epoch, 0)))[0] * width for epoch in together]
    gap = LETTER * SIZE * max(map(len, together.values())) + 4
    for (epoch, text), place in zip(together.items(), apart(at, gap, 0, width), strict=True):
        axis.axvline(epoch, color="0.8", linewidth=1, linestyle=(0, (5, 5)), zorder=0.4)
        axis.annotate(text, (place / width, 1), xycoords="axes fraction", xytext=(0, 2), textcoords="offset points",
                      fontsize=SIZE, color="0.4", ha="center", va="bottom")  # fmt: skip
    axis.set_title(axis.get_title(), pad=16)


def columns_of(names: Sequence[str], width: float) -> int:
    """How many columns of these names a legend has that is as wide as a figure: inches."""
    return max(1, min(len(names), int(width * 72 / (LETTER * 10 * max(map(len, names), default=1) + 42))))


def wall(axis: Axes, value: float, colour: object) -> None:
    """A floor: a line with hatching below it, as of a wall, since no weights lead below it. Limits must be final."""
    axis.axhline(value, color=colour, linewidth=1)
    bottom, top = axis.transData.inverted().transform(
        axis.transData.transform((0, value)) + np.array([[0, -WALL * axis.figure.dpi / 72], [0, 0]])
    )[:, 1]
    axis.axhspan(bottom, top, **hatched(colour), zorder=0.5)


def hatched(colour: object) -> dict[str, Any]:
    """How a wall is filled. The face has no colour: in SVG a hatching is as transparent as its face."""
    return {"facecolor": "none", "edgecolor": colour, "hatch": "/////", "hatch_linewidth": 0.6, "linewidth": 0}


def beside_mean_frame(value: float, mean: float | None) -> str:
    """An error relative to the mean frame's, as " −27 %", or "" where there is none to compare with."""
    if mean is None or not mean > 0:
        return ""
    if not np.isfinite(value):
        return " diverged"
    return f" {100 * (value / mean - 1):+.0f} %".replace("-", "−").replace("+0 %", "±0 %").replace("−0 %", "±0 %")


def room_for_names(figure: Figure, names: Sequence[str], *, columns: int) -> None:
    """Widen a figure so that names of `label_ends` fit beside each of its columns of panels."""
    width = (LEADER + LETTER * SIZE * max(map(len, names), default=0)) / 72 + 0.1  # inches
    box = figure.subplotpars
    panel = (box.right - box.left) * figure.get_figwidth() / (columns + box.wspace * (columns - 1))
    left, right = box.left * figure.get_figwidth(), 0.1
    total = left + columns * (panel + width) + right
    figure.set_figwidth(total)
    figure.subplots_adjust(left=left / total, right=1 - (width + right) / total, wspace=width / panel)
