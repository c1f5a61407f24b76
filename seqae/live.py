"""A curve that grows in the notebook cell that trains; no widgets, so what a page shows of it is the last picture."""

import time
from collections.abc import Callable
from os import environ
from typing import Any

import pandas as pd

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

    from seqae import plots

    handle, due = display(display_id=True), 0.0

    def record_and_draw(table: str, rows: list[dict[str, Any]]) -> None:
        nonlocal due
        record(table, rows)
        began = time.monotonic()
        if table == "metrics" and (began >= due or rows[-1]["epoch"] == epochs):
            picture, told = plots.live_curve(metrics(), epochs=epochs)
            handle.update(Image(picture, format="png", alt=told))
            due = time.monotonic() + (time.monotonic() - began) / SHARE

    return record_and_draw
