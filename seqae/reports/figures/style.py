"""What all figures share: colours, labels of axes, order of categories, lines of reference levels, and `show`."""

from collections.abc import Iterable
from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqae.metrics import UNITS
from seqae.runs import label

AXIS_LABELS = {metric: label(metric).replace(metric, metric.upper(), 1) for metric in UNITS} | {
    "grad_norm": "gradient norm before clipping",
    "update_ratio": "norm of an update / norm of the weights",
    "overflows": "updates skipped for overflow, per epoch",
    "learning_rate": "learning rate",
}
TIME_LABELS = {"epoch": "epoch", "seconds": "training time, seconds"}
LEVEL_LINES = {"mean_frame": "--", "copy_last": "-.", "black": (0, (1, 3)), "floor": ":"}


def show(figure: Figure, alt: str, group: str = "") -> None:
    """Display a figure once in a notebook, with the alt text for readers who do not see it, and close it.

    group: of runs, see `compare.groups`: the figure's title, and part of the alt text.
    """
    from IPython.display import display

    if group:
        figure.suptitle(group, y=1.0, va="bottom", fontsize=9)
        alt = f"{alt}, {group}"
    display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def coloured(names: Iterable[str]) -> dict[str, object]:
    """A colour for each name; the colours repeat after ten."""
    return dict(zip(names, cycle(sns.color_palette("colorblind")), strict=False))


def no_values(metric: str) -> Figure:
    """A figure that says that a metric has no finite value, as after divergence in the first epoch."""
    figure, axis = plt.subplots(figsize=(5, 1.2))
    axis.text(0.5, 0.5, f"no finite value of: {AXIS_LABELS.get(metric, metric)}", ha="center", va="center")
    axis.axis("off")
    return figure


def ordered(values: pd.Series, known: Iterable[str]) -> list[str]:
    """The distinct values: those in `known` in that order, then any others by name."""
    first = list(known)
    return sorted(set(values), key=lambda value: (first.index(value) if value in first else len(first), value))


def level_line(axis: Axes, value: float, name: str, line: object, *, colour: object = "0.4") -> None:
    """A horizontal line at a level, named at its right end."""
    axis.axhline(value, color=colour, linestyle=line, linewidth=1)
    x = axis.get_xlim()[1]
    axis.text(x, value, name, color=colour, fontsize=7, ha="right", va="bottom")
