"""A curve that grows in the notebook cell that trains; no widgets, so what a page shows of it is the last picture."""

import time
from collections.abc import Callable
from io import BytesIO
from os import environ
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SHARE = 0.05  # of the time may go into drawing
Record = Callable[[str, list[dict[str, Any]]], None]


def watched(record: Record, metrics: Callable[[], pd.DataFrame], *, epochs: int) -> Record:
    """`record`, which then draws what `metrics` reads, in the cell that runs; the last epoch always.

    Elsewhere than in a notebook, and in a sweep's, which nobody watches, it is `record` itself.
    """
    from IPython import get_ipython

    if not hasattr(get_ipython(), "kernel") or "SEQAE_RUN" in environ:
        return record
    from IPython.display import Image, display

    handle, due = display(display_id=True), 0.0

    def record_and_draw(table: str, rows: list[dict[str, Any]]) -> None:
        nonlocal due
        record(table, rows)
        began = time.monotonic()
        if table == "metrics" and (began >= due or rows[-1]["epoch"] == epochs):
            picture, told = live_curve(metrics(), epochs=epochs)
            handle.update(Image(picture, format="png", alt=told))
            due = time.monotonic() + (time.monotonic() - began) / SHARE

    return record_and_draw


def live_curve(metrics: pd.DataFrame, *, epochs: int) -> tuple[bytes, str]:
    """How far a training is: a PNG of the objective by epoch, the axis as long as all of it, and the same in words.

    Drawn in a few hundredths of a second, without pyplot, which the notebook may be using. metrics: as metrics.csv.
    """
    figure = Figure(figsize=(6, 2.4), layout="constrained")
    axis = figure.subplots()
    objective = metrics[metrics.metric == "objective"]
    for (split, line), colour in zip(objective.groupby("split"), sns.color_palette("colorblind"), strict=False):
        axis.plot(line.epoch, line.value, marker=".", label=split, color=colour)
    val = objective[objective.split == "val"].reset_index()
    told = f"epoch {val.epoch.max()} of {epochs}: val {val.value.iloc[-1]:.4g}"
    if val.value.notna().any():
        best = val.loc[val.value.idxmin()]
        told += f", best {best.value:.4g} at epoch {best.epoch}"
    axis.set(xlim=(0.5, epochs + 0.5), xlabel="epoch", ylabel="objective")
    axis.set_title(told, fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False)
    figure.savefig(buffer := BytesIO(), dpi=90)
    return buffer.getvalue(), told
