"""Figures of benchmarks: bars of times, bars of ratios, the roofline."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from seqae.reports import figures

PRECISION_NAMES = {"none": "float32", "bf16": "bf16"}


def size_name(D: int, H: int, B: int, architecture: str, precision: str) -> str:  # noqa: N803
    """The size of an update in words: `D, H, B`, and what is not as in most sizes."""
    own = [] if architecture == "lstm_copy" else [architecture]
    own += [] if precision == "none" else [PRECISION_NAMES[precision]]
    return ", ".join([str(D), str(H), str(B), *own])


def update_time_bars(table: pd.DataFrame) -> Figure:
    """Median milliseconds of one update: a panel for each part, a bar for each implementation.

    table: columns TIMING_COLUMNS, as `Run.performance`.
    """
    table = figures.drawable(table, "table", ["implementation", "part"], numbers=["median_ms"])
    grid = sns.catplot(
        table, x="median_ms", y="implementation", col="part", kind="bar", sharex=False, height=3, aspect=1.4, color="C0"
    )
    for axis in grid.axes.flat:
        axis.bar_label(axis.containers[0], fmt="%.4g", padding=2, fontsize=8)
        axis.set_xlim(right=1.15 * table.median_ms[table.part == axis.get_title().removeprefix("part = ")].max())
    grid.set_axis_labels("milliseconds", "")
    grid.set_titles("{col_name}")
    return grid.figure


def speedup_bars(table: pd.DataFrame) -> Figure:
    """How many times as long as seqae each implementation takes, by size; a panel for each decoder input.

    table: as `speedup_table` makes it.
    """
    columns = ["D", "H", "B", "architecture", "precision", "decoder_input"]
    table = figures.drawable(table, "table", columns, numbers=[])
    named = table.assign(size=[size_name(*row) for row in table[columns[:5]].itertuples(index=False)])
    others = [name for name in table if name.startswith("× ")]
    ratios = named.melt(["size", "decoder_input"], others, var_name="implementation").dropna()
    grid = sns.catplot(ratios, x="value", y="size", hue="implementation", col="decoder_input", kind="bar",
                       palette="colorblind", height=4)  # fmt: skip
    grid.set(xscale="log")
    for axis in grid.axes.flat:
        axis.axvline(1, color="0.3", linewidth=1, linestyle="--")
    grid.set_axis_labels("time of an update / that of seqae", "pixels, hidden, batch")
    grid.set_titles("decoder reads {col_name}")
    return grid.figure


def roofline(table: pd.DataFrame) -> Figure:
    """GFLOP/s of each implementation's necessary products over their intensity, in FLOP/byte (Williams et al., 2009).

    A line for each precision shows what the machine allows: the lesser of its rate in a large product and its memory's
    rate. table: as `benchmark_table` makes it.
    """
    numbers = ["intensity", "gflops", "matmul_gflops", "copy_gbs"]
    table = figures.drawable(table, "table", ["part", "implementation", "decoder_input", "precision"], numbers=numbers)
    table = table[table.part == "forward_backward"]
    grid = sns.relplot(
        table, x="intensity", y="gflops", hue="implementation", style="decoder_input", height=4.4, aspect=1.5, s=60,
        palette=figures.coloured(table.implementation.unique()),
    )  # fmt: skip
    span = np.geomspace(table.intensity.min() / 2, table.intensity.max() * 2, 100)
    memory = table.copy_gbs.max()
    for precision, peak in table.groupby("precision").matmul_gflops.max().items():
        grid.ax.plot(span, np.minimum(peak, span * memory), color="0.4", linewidth=1)
        rate = f"{peak:.0f} GFLOP/s, large product in {PRECISION_NAMES[precision]}"
        grid.ax.text(span[-1], peak, rate, ha="right", va="bottom", fontsize=7, color="0.4")
    grid.ax.set(xscale="log", yscale="log")
    grid.set_axis_labels("operations per byte of the products' operands, FLOP/byte", "GFLOP/s of an update")
    return grid.figure
