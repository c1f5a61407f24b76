"""Writes README's table of the speed of an update from a store's runs of the family `performance`:
python docs/speed.py [STORE], a folder or URL; by default $SEQAE_STORE, else reports/.

Each cell has the run whose decoders read zero / the one whose decoders read their own output.
"""

import sys
from pathlib import Path

import pandas as pd
from results import put

from seqae import find_runs
from seqae.benchmark import speedup_table
from seqae.benchmark.figures import size_name
from seqae.stores import fetch

HERE = Path(__file__).parent
LOOPS = ["× lstmcell_loop", "× conv2d_loop"]
COLUMNS = {  # by the table's head, the column of `speedup_table` and how its number is written
    "update, ms": ("update, ms", "{:,.0f}"),
    "plain loop": ("loop", "{:.1f}"),
    "`nn.LSTM`": ("× nn_lstm", "{:.1f}"),
    "Keras on JAX": ("× keras_jax", "{:.1f}"),
    "products alone, %": ("percent", "{:.0f}"),
    "memory": ("memory / loop's", "{:.1f}"),
}


def speed_table(table: pd.DataFrame) -> str:
    """A table in Markdown, a line for each size. table: as `speedup_table` makes it."""
    loop = table.reindex(columns=LOOPS).bfill(axis=1).iloc[:, 0]
    table = table.assign(loop=loop, percent=100 * table["products alone"])
    lines = [f"| pixels, hidden, batch | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for size, rows in table.groupby(["D", "H", "B", "architecture", "precision"]):
        inputs, cells = rows.set_index("decoder_input"), []
        for name, form in COLUMNS.values():
            found = [inputs[name].get(i) if name in inputs else None for i in ("zero", "output") if i in inputs.index]
            cells.append(" / ".join("–" if pd.isna(value) else form.format(value) for value in found))
        lines.append(f"| {size_name(*size)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    store = fetch(next(iter(sys.argv[1:]), None), "performance", whole=True)
    runs = [run for run in find_runs(store, "performance") if run.status == "done"]
    if not runs:
        sys.exit("no finished run of the family performance in this store: make performance")
    records = [run.record() for run in runs]
    machine = {(r["benchmark"]["processor"], r["benchmark"]["cores"]) for r in records}
    days = sorted({record["ended"][:10] for record in records})
    where = "; ".join(f"{cores} cores of {name}" for name, cores in sorted(machine))
    told = f"*{where}, {' to '.join(dict.fromkeys([days[0], days[-1]]))}, medians.*"
    put(HERE.parent / "README.md", "speed", f"{speed_table(speedup_table(runs))}\n\n{told}")
