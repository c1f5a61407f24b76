"""What the notebook cell that trains shows: a curve that grows, and a few lines where it is interrupted or refused.

The curve is a picture, so a saved notebook keeps the last one.
"""

import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pandas as pd

from seqae.contract import ContractError
from seqae.parameters import ParameterError
from seqae.runs.own_code import OwnCodeError
from seqae.runs.own_frames import rendered
from seqae.runs.records import RunError, progress
from seqae.training import Row

SHARE = 0.05  # the largest share of the time that goes into drawing
RecordRows = Callable[[str, list[Row]], None]

for _kind in (ContractError, OwnCodeError, ParameterError, RunError):  # their sentences say what to do
    setattr(_kind, "_render_traceback_", rendered)  # noqa: B010 IPython asks exceptions for it


def watched(record: RecordRows, metrics: Callable[[], pd.DataFrame], *, epochs: int, assigned: bool) -> RecordRows:
    """A function that calls `record` and then draws, in the notebook cell that runs, what `metrics` reads.

    The last of the `epochs` is always drawn. Outside notebooks, and for a run that a sweep has assigned to this kernel
    and nobody watches, it is `record` itself.
    """
    from IPython import get_ipython

    if assigned or not hasattr(get_ipython(), "kernel"):
        return record
    from IPython.display import Image, display

    handle, due = display(display_id=True), 0.0

    def record_and_draw(table: str, rows: list[Row]) -> None:
        nonlocal due
        record(table, rows)
        began = time.monotonic()
        if table == "metrics" and (began >= due or rows[-1]["epoch"] == epochs):
            picture, told = live_curve(metrics(), epochs=epochs)
            handle.update(Image(picture, format="png", alt=told))
            due = time.monotonic() + (time.monotonic() - began) / SHARE

    return record_and_draw


def shown_in_a_line(interrupt: KeyboardInterrupt, folder: Path, *, epochs: int) -> None:
    """Let IPython show this interrupt as one line, what was kept and how to go on, without a traceback.

    It stays a KeyboardInterrupt: who else waits for one, a sweep or a script, sees no difference.
    """
    logged = progress(folder)
    reached = f"after epoch {logged.epoch} of {epochs}" if logged else "in the first epoch"
    kept = "the checkpoint is kept" if (folder / "checkpoint" / "state.pt").exists() else "there is no checkpoint yet"
    told = f"Interrupted {reached}; {kept}. Run this cell again to go on."
    vars(interrupt)["_render_traceback_"] = lambda: [told]  # IPython asks exceptions for it


def live_curve(metrics: pd.DataFrame, *, epochs: int) -> tuple[bytes, str]:
    """A PNG of the objective by epoch, on an axis of all `epochs`, and a sentence for those who do not see it.

    metrics: as metrics.csv, of at least one epoch. Drawing takes a few hundredths of a second, without pyplot, whose
    state belongs to the notebook.
    """
    # Here, because commands and workers import this module too, draw nothing, and would wait a second.
    import seaborn as sns
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

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
