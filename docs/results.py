"""Writes the tables and figures of results in README.md and results.md from a store's runs of the family `best`:
python docs/results.py [STORE], a folder or URL; by default $SEQAE_STORE, else reports/.

README.md has the recipe on full MNIST at scale `cpu`, and prediction alone. Their seeds are kept in
seqae/reports/hour.csv, which reports show beside a run: those of the store are added, so they need not be of one
machine or day. results.md has the ablations, of scale `ablation`, and other values of parameters, of scale `search`,
both in the order of val. A run belongs to a scale when its data and budget are those of the family's notebook at that
scale.
"""

import math
import re
import sys
from pathlib import Path

import pandas as pd

from seqae import Run, find_runs, resolve
from seqae.parameters import EXECUTION
from seqae.reports import compare
from seqae.reports.groups import data_and_budget
from seqae.reports.published import hour_results, hour_seeds, standing
from seqae.runs import family_defaults, sample_strips, save_strips
from seqae.runs.experiment import reference_levels
from seqae.stores import fetch
from seqae.sweeps.parameter_files import read_yaml

HERE = Path(__file__).parent
RECIPE = "the recipe"  # the label of its runs
ROWS = {RECIPE: "seqae", "prediction alone": "seqae, prediction alone"}  # of README's table, by the label of their runs
METRICS = ["mse", "nats_per_frame", "ssim"]
DIGITS = {"mse": 4, "nats_per_frame": 1, "ssim": 3}  # after the point
DECIMALS = {"mse": 6, "nats_per_frame": 2, "ssim": 4}  # of a seed, in hour.csv
COLUMNS = [(branch, metric) for branch in ("recon", "pred") for metric in METRICS]


def results(run: Run, levels: pd.DataFrame) -> pd.DataFrame:
    """A row for each model but the run's own, a column for each branch and metric. levels: as `Run.baselines`."""
    table = standing(run.test(), levels, "seqae")
    table = table[~table.model.isin(["seqae", *hour_results().model])]
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


def table(seeds: pd.DataFrame, run: Run, levels: pd.DataFrame) -> str:
    """A table in Markdown: the means over seeds first, then baselines, of these levels, and others by their squared
    error of prediction.
    """
    own = seeds.assign(model=seeds.recipe.map(ROWS))
    own = own.pivot_table(index=["model", "seed"], columns="branch", values=METRICS)
    found = pd.concat([own.droplevel("seed").swaplevel(axis=1), results(run, levels)])
    order = found.groupby(level=0).mean().sort_values(("pred", "mse")).index
    names = sorted(order, key=lambda name: name not in ROWS.values())
    head = ["", *(name for b in ("recon", "pred") for name in (f"{b}: MSE per pixel (a frame)", "nats/frame", "SSIM"))]
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    for name in names:
        rows = found.loc[[name]]
        cells = [written(rows[column] if column in rows else pd.Series(dtype=float), column) for column in COLUMNS]
        lines.append(" | ".join([f"**{name}**" if name in ROWS.values() else name, *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def with_these(seeds: pd.DataFrame, runs: list[Run]) -> pd.DataFrame:
    """As `hour_seeds`: those of these runs, and of the others of their recipe those of as many weights and training
    sequences; other recipes stay.
    """
    made = []
    for run in runs:
        p, record = run.parameters, run.record()
        tests = standing(run.test(), run.baselines(), "seqae").query("model == 'seqae'")[["branch", *METRICS]]
        took = {"threads": record["threads"], "minutes": round(record["seconds"] / 60), "ended": record["ended"][:10]}
        trained = {"recipe": p.label, "weights": record["weights"], "sequences": p.epochs * p.train_sequences}
        tests = tests.dropna(subset="mse")  # one that diverged has none
        made.append(tests.assign(seed=p.seed, **trained, **took, test_sequences=p.test_sequences))
    new = pd.concat(made)
    same = ["recipe", "weights", "sequences"]
    kept = ~seeds.recipe.isin(new.recipe) | seeds[same].apply(tuple, axis=1).isin(new[same].apply(tuple, axis=1))
    again = seeds[["recipe", "seed"]].apply(tuple, axis=1).isin(new[["recipe", "seed"]].apply(tuple, axis=1))
    found = pd.concat([seeds[kept & ~again], new[seeds.columns]]).infer_objects().round(DECIMALS)
    found = found.assign(place=found.recipe.map([*ROWS].index))
    found = found.sort_values(["place", "branch", "seed"], ascending=[True, False, True], ignore_index=True)
    return found.drop(columns="place")


def protocol(seeds: pd.DataFrame, *, lost: int) -> str:
    """Size, budget, seeds, of which `lost` more diverged, and test sequences of a recipe, in a sentence."""
    once = seeds.drop_duplicates("seed")
    times = once.groupby("threads", sort=False).minutes.mean()
    took = " or ".join(f"{t:.0f} minutes on {n} CPU core{'s' * (n > 1)}" for n, t in times.items())
    told = f"{len(once)} seeds, mean ± standard deviation" if len(once) > 1 else "one seed"
    if lost:
        told += f" of the others, since {lost} diverged"
    trained = f"{once.weights.max():,} weights, {once.sequences.max():,} training sequences"
    tested = f"figures of {once.test_sequences.max():,} sequences of MNIST's test digits"
    return f"{trained}, {took}, {told}; {tested}, {once.ended.max()}."


def protocols(seeds: pd.DataFrame, runs: list[Run]) -> str:
    """`protocol` of each recipe, a paragraph each, after the name of its row where there are several."""
    told = {}
    for recipe, own in seeds.groupby("recipe", sort=False):
        lost = sum(run.diverged for run in runs if run.parameters.label == recipe)
        told[ROWS[str(recipe)]] = protocol(own, lost=lost)
    return "\n\n".join(told.values() if len(told) == 1 else (f"{name}: {text}" for name, text in told.items()))


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


def put(page: Path, name: str, new: str) -> None:
    """Write `new` between the page's two comments of this name. Exits where it lacks them."""
    text = page.read_text(encoding="utf-8")
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if not {*marks} <= {*text.splitlines()}:
        sys.exit(f"{page} has no lines {' and '.join(marks)} to write between")
    text = re.sub(f"{marks[0]}.*{marks[1]}", lambda _: f"{marks[0]}\n{new}\n{marks[1]}", text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def of_scale(runs: list[Run], name: str) -> list[Run]:
    """The runs whose data and budget are those of the family's notebook at one of its scales."""
    defaults = family_defaults(HERE.parent / "notebooks/best.ipynb")
    there = data_and_budget(resolve(defaults, read_yaml(HERE.parent / f"params/best/scale/{name}.yaml")))
    return [run for run in runs if data_and_budget(run.parameters) == there]


if __name__ == "__main__":
    store = fetch(next(iter(sys.argv[1:]), None), "best", whole=True)
    done = [run for run in find_runs(store, "best") if run.status == "done" and run.parameters.digits == "mnist"]
    chosen = of_scale([run for run in done if run.parameters.label in ROWS], "cpu")
    compared, searched = of_scale(done, "ablation"), of_scale(done, "search")
    if not (chosen or compared or searched):
        sys.exit("no finished run of scale cpu, ablation or search on full MNIST in this store: make paper-cpu")
    if chosen:
        for label in ROWS:
            of_it = [run.parameters for run in chosen if run.parameters.label == label]
            if len({p.model_dump_json(exclude={*EXECUTION, "seed"}) for p in of_it}) > 1:
                sys.exit(f"runs of {label} at scale cpu differ in more than their seed: leave one kind in this store")
        for run in [run for run in chosen if run.parameters.label == RECIPE][:1]:
            strips = sample_strips(run.samples(), task=run.parameters.task, frames_in=run.parameters.frames_in)
            save_strips(strips, HERE / "results.png")
        seeds = with_these(hour_seeds(), chosen)
        seeds.to_csv(HERE.parent / "seqae/reports/hour.csv", index=False)
        both = chosen[0].parameters.model_copy(update={"task": "both"})  # baselines of recon, too
        rows = table(seeds, chosen[0], reference_levels(both, math.inf))
        put(HERE.parent / "README.md", "results", f"{rows}\n\n{protocols(seeds, chosen)}")
    for name, runs_of_it in ("ablation", compared), ("search", searched):
        if runs_of_it:
            put(HERE / "results.md", name, side_by_side(runs_of_it))
