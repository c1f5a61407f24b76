"""What benchmarks say: runs of the family `performance` as tables, and figures of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from seqae.reports import coloured, labels, stack
from seqae.runs import Run


def performances(runs: Sequence[Run]) -> pd.DataFrame:
    """performance.csv of each, the machine's matmul_gflops and copy_gbs, and, of the update's matrix products,
    gflops, the rate that the time means, and intensity, operations per byte; and the columns of `curves`.
    """
    table = stack(runs, "performance")
    work = pd.DataFrame([run.record()["benchmark"] for run in runs], index=labels(runs)).loc[table.run].reset_index()
    return table.assign(
        gflops=work.operations / table.median_ms / 1e6,
        intensity=work.operations / work.bytes,
        matmul_gflops=work.matmul_gflops,
        copy_gbs=work.copy_gbs,
    )


def speedups(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run: the median time of its update, how many times as long its peers take, and the LSTMCell loop without
    clipping and optimizer; what share of its forward and backward pass the matrix products alone would take; and its
    memory over that of the loop.
    """
    size, rows = ["D", "H", "B", "decoder_input"], []
    for (*key, _), part in performances(runs).groupby([*size, "run"]):
        step = part[part.part == "step"].set_index("implementation").median_ms
        whole = part[part.part == "forward_backward"].set_index("implementation").median_ms
        memory = part[part.part == "step"].set_index("implementation").memory_mb
        row = {**dict(zip(size, key, strict=True)), "update, ms": step.seqae}
        row |= {f"× {name}": step[name] / step.seqae for name in step.index if name != "seqae"}
        row["loop, forward and backward"] = whole.get("lstmcell_loop", float("nan")) / whole.seqae
        row["products alone"] = whole.gemm_floor / whole.seqae
        loop = memory.get("lstmcell_loop") or float("nan")  # 0, where an update takes less than a page
        rows.append(row | {"memory / loop's": memory.seqae / loop})
    return pd.DataFrame(rows).sort_values(size, ignore_index=True)


def update_times(table: pd.DataFrame) -> Figure:
    """Median time of one update a part and implementation, a panel a part; table: as performance.csv."""
    grid = sns.catplot(
        table, x="median_ms", y="implementation", col="part", kind="bar", sharex=False, height=3, aspect=1.4, color="C0"
    )
    for axis in grid.axes.flat:
        axis.bar_label(axis.containers[0], fmt="%.4g", padding=2, fontsize=8)
    grid.set_axis_labels("milliseconds", "")
    grid.set_titles("{col_name}")
    return grid.figure


def speedup_bars(table: pd.DataFrame) -> Figure:
    """How many times as long each implementation takes, by size, a panel a decoder input; table: as `speedups`."""
    named = table.assign(size=table.D.astype(str) + ", " + table.H.astype(str) + ", " + table.B.astype(str))
    ratios = named.melt(["size", "decoder_input"], [name for name in table if name.startswith("× ")]).dropna()
    grid = sns.catplot(
        ratios, x="value", y="size", hue="variable", col="decoder_input", kind="bar", palette="colorblind", height=4
    )
    grid.set(xscale="log")
    for axis in grid.axes.flat:
        axis.axvline(1, color="0.3", linewidth=1, linestyle="--")
    grid.set_axis_labels("time of an update / that of seqae", "D, H, B")
    grid.set_titles("decoder reads {col_name}")
    return grid.figure


def roofline(table: pd.DataFrame) -> Figure:
    """What each implementation makes of the machine: GFLOP/s of the necessary products over their intensity, under
    the lesser of the processor's rate and the memory's (Williams et al., 2009); table: as `performances`.
    """
    table = table[table.part == "forward_backward"]
    grid = sns.relplot(
        table, x="intensity", y="gflops", hue="implementation", style="decoder_input", height=4.4, aspect=1.5, s=60,
        palette=coloured(table.implementation.unique()),
    )  # fmt: skip
    span = np.geomspace(table.intensity.min() / 2, table.intensity.max() * 2, 100)
    peak, memory = table.matmul_gflops.max(), table.copy_gbs.max()
    grid.ax.plot(span, np.minimum(peak, span * memory), color="0.4", linewidth=1)
    grid.ax.text(span[-1], peak, f"{peak:.0f} GFLOP/s, large product", ha="right", va="bottom", fontsize=7, color="0.4")
    grid.ax.set(xscale="log", yscale="log")
    grid.set_axis_labels("operations per byte of the products' operands, FLOP/byte", "GFLOP/s of an update")
    return grid.figure
