"""Writes the tables and figures of results in README.md and results.md from a store's runs of the family `best`:
python docs/results.py [STORE], a folder or URL; by default $SEQAE_STORE, else reports/.

README.md has the recipe on full MNIST at scale `cpu`, one run for each seed, and so has seqae/reports/hour.csv, which
reports show beside a run. results.md has the ablations, of scale `ablation`, and other values of parameters, of scale
`search`, both in the order of val. A run belongs to a scale when its data and budget are those of the family's notebook
at that scale.
"""

import math
import re
import sys
from pathlib import Path

import pandas as pd

from seqae import Run, find_runs, resolve
from seqae.reports import compare
from seqae.reports.groups import data_and_budget
from seqae.reports.published import hour_results, standing
from seqae.runs import family_defaults, sample_strips, save_strips
from seqae.stores import fetch
from seqae.sweeps.parameter_files import read_yaml

HERE = Path(__file__).parent
RECIPE = "the recipe"  # the label of its runs
METRICS = ["mse", "nats_per_frame", "ssim"]
DIGITS = {"mse": 4, "nats_per_frame": 1, "ssim": 3}  # after the point
COLUMNS = [(branch, metric) for branch in ("recon", "pred") for metric in METRICS]


def results(run: Run) -> pd.DataFrame:
    """A row for each model, a column for each branch and metric."""
    table = standing(run.test(), run.baselines(), "seqae")
    table = table[~table.model.isin(hour_results().model)]
    table = table.assign(model=table.model + ", " + table.source)
    return table.pivot_table(index="model", columns="branch", values=METRICS).swaplevel(axis=1)


def written(values: pd.Series, column: tuple[str, str]) -> str:
    """The mean over seeds and, of several, the standard deviation; of MSE also the mean per frame of 4096 pixels."""
    values = values.dropna()
    if not len(values):
        return "–"
    form = f"{{:.{DIGITS[column[1]]}f}}"
    mean, spread = values.mean(), values.std()
    text = form.format(mean) + (f" ± {form.format(spread)}" if len(values) > 1 and spread > 1e-9 else "")
    return text + (f" ({4096 * mean:.1f})" if column[1] == "mse" else "")


def table(runs: list[Run]) -> str:
    """A table in Markdown: the runs' own row first, then the others by their squared error of prediction."""
    found = pd.concat([results(run) for run in runs])  # a seed that diverged has no row of its own
    order = found.groupby(level=0).mean().sort_values(("pred", "mse")).index
    names = sorted(order, key=lambda name: not name.startswith("seqae"))
    head = ["", *(name for b in ("recon", "pred") for name in (f"{b}: MSE per pixel (a frame)", "nats/frame", "SSIM"))]
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    for name in names:
        rows = found.loc[[name]]
        cells = [written(rows[column] if column in rows else pd.Series(dtype=float), column) for column in COLUMNS]
        lines.append(" | ".join(["**seqae**" if name.startswith("seqae") else name, *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def hour(runs: list[Run]) -> pd.DataFrame:
    """As `hour_results`, of these runs: means over seeds."""
    found = pd.concat([standing(run.test(), run.baselines(), "seqae") for run in runs]).query("model == 'seqae'")
    means = found.groupby("branch", sort=False)[METRICS].mean().iloc[::-1].round(DIGITS).reset_index()
    seeds = f"mean of {len(runs)} seeds" if len(runs) > 1 else "one seed"
    tested = f"test, {runs[0].parameters.test_sequences:,} sequences"
    source = f"--scale cpu, full MNIST, {tested}, {seeds}, {runs[-1].record()['ended'][:10]}"
    return means.assign(model="the recipe, an hour", source=source)[["model", "branch", *METRICS, "source"]]


def protocol(runs: list[Run]) -> str:
    """Size, budget, seeds and test sequences of the runs, in a sentence."""
    p, records = runs[0].parameters, [run.record() for run in runs]
    times: dict[int, list[float]] = {}
    for record in records:
        times.setdefault(record["threads"], []).append(record["seconds"] / 60)
    took = " or ".join(f"{sum(t) / len(t):.0f} minutes on {n} CPU core{'s' * (n > 1)}" for n, t in times.items())
    seeds = f"{len(runs)} seeds, mean ± standard deviation" if len(runs) > 1 else "one seed"
    if lost := sum(run.diverged for run in runs):
        seeds += f" of the others, since {lost} diverged"
    trained = f"{records[0]['weights']:,} weights, {p.epochs * p.train_sequences:,} training sequences"
    tested = f"figures of {p.test_sequences:,} sequences of MNIST's test digits"
    return f"{trained}, {took}, {seeds}; {tested}, {records[-1]['ended'][:10]}."


def side_by_side(runs: list[Run]) -> str:
    """A table in Markdown: the recipe first, then the runs that differ from it in one thing, by error of prediction on
    val, with the figures on test beside it; means over seeds.
    """
    finals = compare.finals(runs).query("metric in ['mse', 'bce']")
    p = min((run.parameters for run in runs), key=lambda p: p.seed)
    pixels = math.prod(p.frame_shape)
    means = compare.over_seeds(finals, ["recipe", "branch", "metric"])
    wide = means.set_index(["recipe", "branch", "metric"])[["val", "value"]].unstack(["branch", "metric"])
    wide = wide.sort_values(("val", "pred", "bce"))
    wide = wide.sort_index(key=lambda names: ~names.str.contains(RECIPE), kind="stable")
    head = [f"{branch}: {name}" for branch in ("recon", "pred") for name in ("val, nats/frame", "test", "test, MSE")]
    lines = [f"|  | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for name, row in wide.iterrows():
        cells = []
        for branch in ("recon", "pred"):
            known = [("val", "bce", pixels, ".0f"), ("value", "bce", pixels, ".0f"), ("value", "mse", 1, ".4f")]
            found = [
                (scale * row.get((kind, branch, metric), float("nan")), form) for kind, metric, scale, form in known
            ]
            cells += ["–" if value != value else f"{value:{form}}" for value, form in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    told = f"{p.epochs * p.train_sequences:,} training sequences each, {p.val_sequences:,} of val and "
    told += f"{p.test_sequences:,} of test of their own, seed {p.seed}"
    recipe = means[means.recipe.str.contains(RECIPE)].query("branch == 'pred' and metric == 'bce' and n > 1")
    for row in recipe.itertuples():
        told += (
            f"; the recipe's {row.n} seeds lie within {pixels * (row.high - row.low):.0f} nats of prediction on test"
        )
    return "\n".join(lines) + f"\n\n{told}."


def replaced(text: str, name: str, new: str) -> str:
    """The text with `new` between the two comments of this name. Exits where the text lacks them."""
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if not {*marks} <= {*text.splitlines()}:
        sys.exit(f"the page has no lines {' and '.join(marks)} to write between")
    return re.sub(f"{marks[0]}.*{marks[1]}", lambda _: f"{marks[0]}\n{new}\n{marks[1]}", text, flags=re.DOTALL)


def of_scale(runs: list[Run], name: str) -> list[Run]:
    """The runs whose data and budget are those of the family's notebook at one of its scales."""
    defaults = family_defaults(HERE.parent / "notebooks/best.ipynb")
    there = data_and_budget(resolve(defaults, read_yaml(HERE.parent / f"params/best/scale/{name}.yaml")))
    return [run for run in runs if data_and_budget(run.parameters) == there]


if __name__ == "__main__":
    store = fetch(next(iter(sys.argv[1:]), None), "best", whole=True)
    done = [run for run in find_runs(store, "best") if run.status == "done" and run.parameters.digits == "mnist"]
    recipes = [run for run in done if run.parameters.label == RECIPE]
    chosen, compared, searched = of_scale(recipes, "cpu"), of_scale(done, "ablation"), of_scale(done, "search")
    if not (chosen or compared or searched):
        sys.exit("no finished run of scale cpu, ablation or search on full MNIST in this store: make paper-cpu")
    if chosen:
        p = chosen[0].parameters
        save_strips(sample_strips(chosen[0].samples(), task=p.task, frames_in=p.frames_in), HERE / "results.png")
        hour(chosen).to_csv(HERE.parent / "seqae/reports/hour.csv", index=False)
    for page, name, runs_of_it, write in (
        (HERE.parent / "README.md", "results", chosen, lambda runs: f"{table(runs)}\n\n{protocol(runs)}"),
        (HERE / "results.md", "ablation", compared, side_by_side),
        (HERE / "results.md", "search", searched, side_by_side),
    ):
        if runs_of_it:
            page.write_text(replaced(page.read_text(encoding="utf-8"), name, write(runs_of_it)), encoding="utf-8")
