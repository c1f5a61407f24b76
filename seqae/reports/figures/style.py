"""TODO"""

from collections.abc import Iterable
from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqae.metrics import UNITS as MEASURED
from seqae.metrics import label

UNITS = {metric: label(metric).replace(metric, metric.upper(), 1) for metric in MEASURED} | {
    "grad_norm": "gradient norm before clipping",
    "update_ratio": "norm of an update / norm of the weights",
    "overflows": "updates left out for overflow, an epoch",
    "learning_rate": "learning rate",
}


X_UNITS = {"epoch": "epoch", "seconds": "training time, seconds"}


BRANCH_ORDER = ["recon", "pred"]


INPUT_ORDER = ["zero", "output", "truth"]


TASK_ORDER = ["recon", "recon_ordered", "pred", "both"]


LINES = {"mean_frame": "--", "copy_last": "-.", "black": (0, (1, 3)), "floor": ":"}


def show(figure: Figure, alt: str) -> None:
    """Display a figure once, with a text for those who do not see it, and free it."""
    from IPython.display import display

    display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def coloured(names: Iterable[str]) -> dict[str, object]:
    """A colour for each name; after ten they come again."""
    return dict(zip(names, cycle(sns.color_palette("colorblind")), strict=False))


def no_values(metric: str) -> Figure:
    """Says so: of a run that diverged in its first epoch, or of what an older version did not record."""
    figure, axis = plt.subplots(figsize=(5, 1.2))
    axis.text(0.5, 0.5, f"no finite value of: {UNITS.get(metric, metric)}", ha="center", va="center")
    axis.axis("off")
    return figure


def ordered(values: pd.Series, first: list[str]) -> list[str]:
    """The known ones in their order, `first`, then any others."""
    return sorted(set(values), key=lambda value: (first.index(value) if value in first else len(first), value))


def level_line(axis: Axes, value: float, name: str, line: object, *, colour: object = "0.4") -> None:
    """A level across an axis, named at its right end."""
    axis.axhline(value, color=colour, linestyle=line, linewidth=1)
    x = axis.get_xlim()[1]
    axis.text(x, value, name, color=colour, fontsize=7, ha="right", va="bottom")
