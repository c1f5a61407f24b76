"""README's table of results and its figure, from the runs of the recipe in a store: python docs/results.py [STORE].

The runs are those of family `best` on full MNIST whose parameters are the recipe's, one a seed.
"""

import re
import sys
from pathlib import Path

import pandas as pd

from seqae import Run, find_runs
from seqae.diagnose import standing
from seqae.pictures import sample_strips, save_strips

HERE = Path(__file__).parent
COLUMNS = [(branch, figure) for branch in ("recon", "pred") for figure in ("mse", "nats_per_frame", "ssim")]


def figures(run: Run) -> pd.DataFrame:
    """A row a model, a column a branch and figure."""
    table = standing(run.test(), run.baselines(), "seqae").assign(model=lambda t: t.model + ", " + t.source)
    return table.pivot_table(index="model", columns="branch", values=["mse", "nats_per_frame", "ssim"]).swaplevel(
        axis=1
    )


def written(values: pd.Series, column: tuple[str, str]) -> str:
    """Mean and, of several, standard deviation of a figure over the seeds; squared errors a frame as well."""
    values = values.dropna()
    if not len(values):
        return "–"
    form = {"mse": "{:.4f}", "nats_per_frame": "{:.1f}", "ssim": "{:.3f}"}[column[1]]
    mean, spread = values.mean(), values.std()
    text = form.format(mean) + (f" ± {form.format(spread)}" if len(values) > 1 and spread > 1e-9 else "")
    return text + (f" ({4096 * mean:.1f})" if column[1] == "mse" else "")


def table(runs: list[Run]) -> str:
    """In Markdown: the runs' own row first, then the others by their squared error of prediction."""
    found = pd.concat([figures(run) for run in runs])
    order = found.groupby(level=0).mean().sort_values(("pred", "mse")).index
    names = sorted(order, key=lambda name: not name.startswith("seqae"))
    head = ["", *(name for b in ("recon", "pred") for name in (f"{b}: MSE per pixel (a frame)", "nats/frame", "SSIM"))]
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    for name in names:
        rows = found.loc[[name]]
        cells = [written(rows[column] if column in rows else pd.Series(dtype=float), column) for column in COLUMNS]
        lines.append(" | ".join([f"**{name.strip(', ')}**" if name.startswith("seqae") else name, *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def protocol(runs: list[Run]) -> str:
    """What the figures are of, in a sentence."""
    p, records = runs[0].parameters, [run.record() for run in runs]
    minutes = sum(record["seconds"] for record in records) / len(records) / 60
    seeds = f"{len(runs)} seeds, mean ± standard deviation" if len(runs) > 1 else "one seed"
    trained = f"{records[0]['weights']:,} weights, {p.epochs * p.train_sequences:,} training sequences"
    took = f"{minutes:.0f} minutes on {records[0]['threads']} CPU cores, {seeds}"
    tested = f"figures of {p.test_sequences:,} sequences of MNIST's test digits"
    return f"{trained}, {took}; {tested}, {records[-1]['ended'][:10]}, by `make paper-cpu`."


if __name__ == "__main__":
    done = [run for run in find_runs(Path(*sys.argv[1:2] or ["reports"]), "best") if run.status == "done"]
    chosen = [run for run in done if run.parameters.label == "the recipe" and run.parameters.digits == "mnist"]
    if not chosen:
        sys.exit("no finished run of the recipe on full MNIST in this store: make paper-cpu")
    p = chosen[0].parameters
    save_strips(sample_strips(chosen[0].samples(), task=p.task, frames_in=p.frames_in), HERE / "results.png")
    readme = HERE.parent / "README.md"
    new = f"<!-- results -->\n{table(chosen)}\n\n{protocol(chosen)}\n<!-- end of results -->"
    text = re.sub(
        "<!-- results -->.*<!-- end of results -->", lambda _: new, readme.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    readme.write_text(text, encoding="utf-8")
