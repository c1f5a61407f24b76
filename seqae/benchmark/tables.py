"""Tables of benchmarks: runs of the family `performance`, their times, rates and ratios."""

from collections.abc import Sequence

import pandas as pd

from seqae.benchmark.update_timing import LOOPS
from seqae.reports import compare
from seqae.runs import Run


def benchmark_table(runs: Sequence[Run]) -> pd.DataFrame:
    """performance.csv of all runs, with the columns of `compare.by_epoch` and the machine's matmul_gflops and copy_gbs.

    architecture, precision: of the run. gflops: what the time means for the update's matrix products, GFLOP/s.
    intensity: operations per byte of these.
    """
    table = compare.stack(runs, "performance")
    work = pd.DataFrame([run.record()["benchmark"] for run in runs], index=compare.labels(runs))
    work = work.assign(
        architecture=[run.parameters.architecture for run in runs], precision=[run.parameters.precision for run in runs]
    )
    work = work.loc[table.run].reset_index()
    return table.assign(
        architecture=work.architecture,
        precision=work.precision,
        gflops=work.operations / table.median_ms / 1e6,
        intensity=work.operations / work.bytes,
        matmul_gflops=work.matmul_gflops,
        copy_gbs=work.copy_gbs,
    )


def speedup_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each run, all of the median time and of memory.

    Columns: D, H, B, architecture, precision, decoder_input; `update, ms`; for each peer how many times as long its
    update takes; `loop, forward and backward`, the same of the loop over LSTMCell or convolutions without clipping and
    optimizer; `products alone`, the share of the forward and backward pass that the matrix products alone would take;
    `memory / loop's`.
    """
    size, rows = ["D", "H", "B", "architecture", "precision", "decoder_input"], []
    for (*key, _), part in benchmark_table(runs).groupby([*size, "run"]):
        step = part[part.part == "step"].set_index("implementation").median_ms
        whole = part[part.part == "forward_backward"].set_index("implementation").median_ms
        memory = part[part.part == "step"].set_index("implementation").memory_mb
        row = {**dict(zip(size, key, strict=True)), "update, ms": step.seqae}
        row |= {f"× {name}": step[name] / step.seqae for name in step.index if name != "seqae"}
        loop = next((name for name in LOOPS if name in whole), "none")
        row["loop, forward and backward"] = whole.get(loop, float("nan")) / whole.seqae
        row["products alone"] = whole.gemm_floor / whole.seqae
        of_loop = memory.get(loop) or float("nan")  # 0 where an update takes less than a page of memory
        rows.append(row | {"memory / loop's": memory.seqae / of_loop})
    return pd.DataFrame(rows).sort_values(size, ignore_index=True)
