"""What all figures share: colours, labels of axes, order of categories, lines of reference levels."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, MaxNLocator, ScalarFormatter

from seqae.metrics import UNITS
from seqae.runs import label

AXIS_LABELS = {metric: label(metric).replace(metric, metric.upper(), 1) for metric in UNITS} | {
    "grad_norm": "gradient norm before clipping",
    "update_ratio": "norm of an update / norm of the weights",
    "overflows": "updates skipped for overflow, per epoch",
    "learning_rate": "learning rate",
}
OF_TRAINING = {*AXIS_LABELS} - {*UNITS}  # they are of no split
TIME_LABELS = {"epoch": "epoch", "seconds": "training time, seconds"}
LEVEL_LINES = {"mean_frame": "--", "copy_last": "-.", "black": (0, (1, 3)), "floor": ":"}

READABLE = {  # colours of the palette that are too light for words on a light page, and what words have in their place
    "#de8f05": "#a46a00", "#cc78bc": "#a8559a", "#ca9161": "#97602f", "#fbafe4": "#b3508f", "#949494": "#6b6b6b",
    "#ece133": "#857a00", "#56b4e9": "#1f7fb5",
}  # fmt: skip


def readable(colour: Any) -> Any:
    """The colour of words about what is drawn in this colour. On a dark page they have that colour itself."""
    return READABLE.get(to_hex(colour), colour)


def coloured(names: Iterable[str]) -> dict[str, object]:
    """A colour for each name; the colours repeat after ten."""
    return dict(zip(names, cycle(sns.color_palette("colorblind")), strict=False))


def drawable(
    table: pd.DataFrame,
    name: str,
    labels: Sequence[str],
    *,
    numbers: Sequence[str] = ("value",),
    metric: str | None = None,
    recipes: bool = False,
) -> pd.DataFrame:
    """The rows of a table that a figure draws, numbered anew, with categories as plain values.

    name: of the table in messages. labels: the columns that say where a row is drawn, in what colour, and so on.
    numbers: columns that may also be NaN, as after divergence. metric: only rows of this metric. recipes: the column
    run becomes the recipe of each row that has one, so that seeds of a recipe are one line.

    Raises ValueError, which names the column, where a table lacks one, where rows have no label, and where a number is
    none. `pandas.concat` makes such rows of tables with different columns, and seaborn would leave them out.
    """
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"{name} must be a pandas DataFrame; not {type(table).__name__}")
    if recipes and "recipe" in table:
        own = table["recipe"].astype(object)
        table = table.assign(run=own.where(own.notna(), table["run"]) if "run" in table else own)
    labels = list(dict.fromkeys([*(["metric"] if metric else []), *labels]))
    needed = [*labels, *numbers]
    if lacking := [column for column in needed if column not in table]:
        index = [column for column in lacking if column in table.index.names]
        hint = "; it is in the index: use reset_index()" if index else ""
        raise ValueError(f"{name} lacks {', '.join(lacking)}{hint}; the columns needed are {', '.join(needed)}")
    rows = (table[table["metric"].isna() | (table["metric"] == metric)] if metric else table).reset_index(drop=True)
    for column in labels:
        if missing := int(rows[column].isna().sum()):
            raise ValueError(
                f"{name} has no {column} in {missing} of {len(rows)} rows, which would not be drawn; the columns "
                f"needed are {', '.join(needed)}"
            )
    for column in rows.columns[[isinstance(dtype, pd.CategoricalDtype) for dtype in rows.dtypes]]:
        rows[column] = rows[column].astype(rows[column].cat.categories.dtype)
    for column in numbers:
        try:
            rows[column] = pd.to_numeric(rows[column])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name} has in column {column} what is no number: {error}") from None
    return rows


def axis_label(metric: str, table: pd.DataFrame) -> str:
    """A metric with its unit: a built-in one's, or what the column unit of the table says of one of your own. Where all
    rows are of one split, the label begins with it.
    """
    units = table["unit"].dropna() if "unit" in table else pd.Series()
    of_own = label(metric, {metric: str(units.iloc[0])} if len(units) else {})
    told = AXIS_LABELS.get(metric, of_own.replace("$", r"\$"))  # else matplotlib sets formulas
    splits = set(table["split"]) if "split" in table and metric not in OF_TRAINING else set()
    return f"{splits.pop()} {told}" if len(splits) == 1 else told


def round_ticks(figure: Figure) -> None:
    """Ticks of all linear axes at 1, 2 or 5 times a power of ten, where nothing else was chosen, and written whole."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_locator(), AutoLocator):
            axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        if isinstance(formatter := axis.get_major_formatter(), ScalarFormatter):
            formatter.set_useOffset(False)


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


def level_line(axis: Axes, value: float, name: str, line: object, *, above: bool = True) -> None:
    """A horizontal line at a level, named at its right end, above it or below."""
    colour = "0.4"
    axis.axhline(value, color=colour, linestyle=line, linewidth=1)
    x = axis.get_xlim()[1]
    axis.text(x, value, name, color=colour, fontsize=8, ha="right", va="bottom" if above else "top")


def rows_by_step(test: pd.DataFrame, labels: Sequence[str], *, metric: str, recipes: bool = False) -> pd.DataFrame:
    """What is `drawable` of a table of test errors, without the means over frames. Runs of means alone would vanish."""
    data = drawable(test, "test", labels, numbers=["value", "frame"], metric=metric, recipes=recipes)
    steps = data[data.frame.notna()].astype({"frame": int})
    if lost := sorted(map(str, {*data[labels[0]]} - {*steps[labels[0]]})):
        raise ValueError(
            f"test has no frame in any row of {labels[0]} {', '.join(lost)}: give its errors by frame step"
        )
    return steps
