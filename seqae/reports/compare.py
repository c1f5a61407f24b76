"""Runs compared: which runs belong together, and their results in tidy tables.

Tables of many runs have one row for each value, with the run, its recipe, its group and its `FACETS` beside it.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from seqae.metrics import UNITS
from seqae.reports.groups import alike as alike
from seqae.reports.groups import comparable_runs as comparable_runs
from seqae.reports.groups import data_and_budget, groups
from seqae.reports.published import diary_results
from seqae.reports.recipes import called as called
from seqae.reports.recipes import cells, labels, left_out, recipes, report_links
from seqae.reports.recipes import in_code as in_code
from seqae.reports.seeds import over_seeds
from seqae.reports.stacking import FACETS, facets, with_facets
from seqae.reports.stacking import stack as stack
from seqae.reports.unchanged import while_unchanged
from seqae.runs import (
    Run,
    Strip,
    Strips,
    counted,
    label,
    own_metrics_of,
    rough_figures,
    sample_strips,
    with_units,
)

MOST = 40  # recipes that one figure can show
VERDICT = "the run's verdict, on val"  # the head of a column: of both branches, in each row
TEXT_COLUMNS = ["run", "branch", VERDICT]  # columns of texts


def evenly(runs: Sequence[Run], most: int = MOST) -> list[Run]:
    """The runs that a figure shows: all, or, where they have more than `most` recipes, `most` of those, evenly spaced
    by rank from the least error on val (mean MSE of branches and seeds) to the largest. Their labels are as among all.
    """
    names = facets(runs).recipe.to_list() if runs else []
    if len(set(names)) <= most:
        return list(runs)
    errors = over_seeds(best_on_val(runs).query("metric == 'mse'"), ["recipe"], "val").set_index("recipe")["val"]
    ranked = errors.reindex(dict.fromkeys(names)).sort_values(kind="stable").index  # those that diverged are last
    kept = set(ranked[np.linspace(0, len(ranked) - 1, most).round().astype(int)])
    known = called(runs, [name.partition(", n = ")[0] for name in names])  # among fewer, a label could be shorter
    return [run for run, name in zip(known, names, strict=True) if name in kept]


def describe(runs: Sequence[Run]) -> str:
    """What is compared, in Markdown: data and budget of each group, how many the figures show, and what is left out."""
    parts, others = [], left_out(runs)
    for group in groups(runs).values():
        p = group[0].parameters
        widths = {run.parameters.width for run in group if ":" not in run.parameters.architecture}
        text = data_and_budget(p) + (f", width {_either(widths)} of the full sizes" if widths else "")
        text += f", batches of {_either({run.parameters.batch_size for run in group})}"
        if (count := len(set(recipes(group)))) > MOST:
            text += f"; figures show {MOST} of {count:,} recipes, evenly from the least error on val to the largest"
        text += f". {rough_figures(p).removesuffix('.')}" if rough_figures(p) else ""
        parts.append((len(group), text))
    if len(parts) == 1:
        return f"**{counted(len(runs), 'run')}**: {parts[0][1]}.{others}"
    lines = [f"**{counted(len(runs), 'run')}** of {len(parts)} groups, each shown apart:", ""]
    return "\n".join([*lines, *(f"- {count} of {text}" for count, text in parts)]) + others


def titled(groups: Mapping[str, Sequence[Run]]) -> list[tuple[str, Sequence[Run]]]:
    """The title of each group's figures, and its runs. A group that is alone needs none: `describe` says it once."""
    return [(name if len(groups) > 1 else "", runs) for name, runs in groups.items()]


def _either(values: set[float]) -> str:
    return " or ".join(f"{value:g}" for value in sorted(values))


def by_epoch(runs: Sequence[Run], split: str = "val") -> pd.DataFrame:
    """Metrics by epoch: epoch, step, seconds, branch, metric, value; and run, recipe (see `recipes`) and `FACETS`.

    Where a run has metrics of your own, also their unit.
    """
    table = stack(runs, "metrics").query(f"split == '{split}'").reset_index(drop=True)
    return with_units(table, [run.record() for run in runs])


def frame_steps(runs: Sequence[Run]) -> pd.DataFrame:
    """Test metrics of each frame step: branch, frame, metric, value, unit, sequences, and the columns of `by_epoch`."""
    return stack(runs, "test").dropna(subset="frame").astype({"frame": int}).reset_index(drop=True)


def histograms(runs: Sequence[Run]) -> pd.DataFrame:
    """Outputs on val by epoch: epoch, branch, output, share, and the columns of `by_epoch`."""
    return stack(runs, "histograms")


def budgets(runs: Sequence[Run]) -> pd.DataFrame:
    """What each run took: seconds, training sequences per second (with evaluation on val), peak memory in MiB, updates
    skipped for overflow (fp16 only), device, and the columns of `by_epoch`.
    """
    rows = []
    for number, run in enumerate(runs):
        record, metrics = run.record(), run.metrics()
        rows.append(
            {
                "number": number,
                "seconds": (seconds := record.get("seconds", float("nan"))),
                "sequences/s": run.parameters.train_sequences * metrics.epoch.max() / (seconds or float("nan")),
                "peak memory, MiB": (record.get("peak_memory_bytes") or float("nan")) / 2**20,
                "overflows": metrics[metrics.metric == "overflows"]["value"].sum(min_count=1),
                "device": record.get("device", ""),
            }
        )
    return with_facets(pd.DataFrame(rows), runs)


def best_on_val(runs: Sequence[Run]) -> pd.DataFrame:
    """The metrics on val of the weights that each run kept, those with the least objective: epoch, branch, metric, val,
    and the columns of `by_epoch`. A run that diverged has none.
    """
    table = by_epoch(runs)
    table = table[~table.run.map(dict(zip(facets(runs).run, [run.diverged for run in runs], strict=True)))]
    objective = table[(table.metric == "objective") & np.isfinite(table["value"])]
    kept = objective.loc[objective.groupby("run")["value"].idxmin(), ["run", "epoch"]]
    return table[table.branch != "all"].merge(kept, on=["run", "epoch"]).rename(columns={"value": "val"})


@while_unchanged("run.yaml", "metrics.csv", "test.csv")
def finals(runs: Sequence[Run]) -> pd.DataFrame:
    """Test metrics, means over frames: branch, metric, value, unit, sequences, verdict, val; the columns of `by_epoch`.
    val: the same metric on val, by which runs are ordered and chosen; NaN where it was not measured. epoch: the one
    whose weights were kept.
    """
    table = stack(runs, "test").query("frame.isna()").reset_index(drop=True)
    keys = ["run", "branch", "metric"]
    table = table.merge(best_on_val(runs)[[*keys, "val", "epoch"]], how="left", on=keys)
    return table.assign(verdict=table.run.map(_verdicts(runs)))


def levels(runs: Sequence[Run], split: str = "val") -> pd.DataFrame:
    """Baselines and floors on one split, in the order of `groups`, reconstructions first: branch, baseline, metric,
    value, and the columns of `by_epoch`.
    """
    table = stack(runs, "baselines").query(f"split == '{split}'")
    places = table.group.map({name: place for place, name in enumerate(groups(runs))})
    return table.iloc[np.lexsort((table.branch == "pred", places))].reset_index(drop=True)


def below_mean_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Where each branch ends, in MSE per pixel on [0, 1]: branch, and on test reached, mean_frame, floor and below, the
    share by which it is below the mean frame (1: no error, negative: above it); on val, by which runs are ordered and
    chosen, val and val_below; verdict, and the columns of `by_epoch`.
    """
    keys = ["run", "branch", "recipe", "group", *FACETS]
    known = levels(runs, "test").query("metric == 'mse' and baseline in ['mean_frame', 'floor']")
    table = known.pivot_table(index=keys, columns="baseline", values="value", sort=False)
    found = finals(runs).query("metric == 'mse'").set_index(keys)
    table["reached"], table["val"] = found["value"], found["val"]
    on_val = levels(runs).query("metric == 'mse' and baseline == 'mean_frame'").set_index(keys)["value"]
    table["val_below"] = 1 - table.val / on_val
    table = table.reset_index()
    return table.assign(below=1 - table.reached / table.mean_frame, verdict=table.run.map(_verdicts(runs)))


def in_cells(runs: Sequence[Run], by: Sequence[str], across: Sequence[str]) -> pd.DataFrame:
    """`below_mean_frame` for a grid whose columns are the parameters `across`: row, see `recipes.cells`, and column."""
    table, names = below_mean_frame(runs), dict(zip(labels(runs), cells(runs, by, across), strict=True))
    columns = table[list(across)].astype(str).agg(", ".join, axis=1)
    several = table.task == "both"  # has two branches
    return table.assign(row=table.run.map(names), column=columns.where(~several, columns + ", " + table.branch))


def summary(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each run and branch, by group and by MSE on val: that, the test metrics, the verdict, and the diary's
    own MSE where it has one.
    """
    table = finals(runs)
    index = ["run", "group", "loss", "task", "decoder_input", "branch", "architecture", "gain"]
    wide = table.set_index([*index, "metric"])["value"].unstack().reset_index()  # diverged runs keep their rows
    on_val = table[table.metric == "mse"].rename(columns={"val": "val mse"})[["run", "branch", "val mse"]]
    wide = wide.merge(on_val, how="left", on=["run", "branch"])
    wide["weights of epoch"] = wide.run.map(table.groupby("run").epoch.first()).astype("Int64")
    wide["verdict"] = wide.run.map(_verdicts(runs))
    recorded = diary_results().rename(columns={"mse": "diary, mse"})
    wide = wide.merge(recorded, how="left", on=["task", "decoder_input", "branch", "loss"])
    wide["diary, mse"] = wide["diary, mse"].where((wide.architecture == "lstm_copy") & (wide.gain == 1))
    units = UNITS | {name: of["unit"] for run in runs for name, of in own_metrics_of(run.record()).items()}
    others = [name for name in units if name in wide and name != "mse"]
    told = ["diary, mse"] if {run.family for run in runs} == {"losses"} else []
    group = ["group"] if wide.group.nunique() > 1 else []
    place = wide.group.map({name: i for i, name in enumerate(groups(runs))})
    wide = wide.assign(place=place).sort_values(["place", "val mse"], ignore_index=True)
    shown = ["run", "branch", "val mse", "mse", *told, "verdict", *group, "weights of epoch", *others]
    heads = {"verdict": VERDICT} | {name: f"test {label(name, units)}" for name in ("mse", *others)}
    return wide[shown].rename(columns=lambda name: heads.get(name, name))


def table(runs: Sequence[Run], most: int = 200) -> Styler:
    """`summary` styled for a page: the first `most` rows, names linked to their reports, text escaped."""
    rows = summary(runs)
    style = (
        rows.head(most).style.format(precision=4, na_rep="", escape="html").format_index(escape="html", axis=1).hide()
    )
    hrefs = report_links(runs)
    style = style.format(lambda name: f'<a href="{escape(hrefs[name])}">{escape(name)}</a>', subset=["run"])
    if len(rows) > most:
        style.set_caption(f"The first {most} of {len(rows):,}, by error on val")
    wraps = [name for name in ("group", VERDICT) if name in rows]
    style = style.set_properties(**{"white-space": "nowrap"}, subset=rows.columns.drop(wraps).to_list())
    left = [{"selector": "", "props": "text-align: left"}]  # of cells and of their column's head
    style = style.set_table_styles({name: left for name in ("group", *TEXT_COLUMNS) if name in rows}, overwrite=False)
    return style.set_properties(**{"min-width": "14rem"}, subset=wraps)


def gallery(runs: Sequence[Run], branch: str) -> Strips:
    """The truth and every run's output of one branch, on the same val sequences, in true time order.

    Of runs that differ only by seed, the first stands for all where there are more than `MOST`. Empty where no run has
    that branch. Raises ValueError where the runs are of several `groups`.
    """
    if len(of := groups(runs)) > 1:
        raise ValueError(f"runs of different data or budget ({'; '.join(of)}): show each group apart, see `groups`")
    seen, title = {"recon": ("seen", "reconstruction"), "pred": ("future", "prediction")}[branch]
    strips: Strips = []
    names = recipes(runs) if len(runs) > MOST else labels(runs)
    first = dict(zip(reversed(names), reversed(runs), strict=True))  # the first run of each name
    for name in dict.fromkeys(names):
        run, p = first[name], first[name].parameters
        found = dict(sample_strips(run.samples(), task=p.task, frames_in=p.frames_in))
        if seen in found:
            strips = strips or [Strip("truth", found[seen])]
            if not np.array_equal(found[seen], strips[0][1]):
                raise ValueError(f"{run.name} has other val sequences than {runs[0].name}: compare runs of one scale")
            strips.append(Strip(f"{name}, diverged" if run.diverged else name, found[title]))
    return strips


def counterparts(runs: Sequence[Run], among: Sequence[Run]) -> list[Run]:
    """The runs of `among` with the same loss, task and decoder input as one of `runs`."""
    ways = {(run.parameters.loss, run.parameters.task, run.parameters.decoder_input) for run in runs}
    return [r for r in among if (r.parameters.loss, r.parameters.task, r.parameters.decoder_input) in ways]


def _verdicts(runs: Sequence[Run]) -> dict[str, str | None]:
    return dict(zip(facets(runs).run, [run.verdict for run in runs], strict=True))


def output_spread(output: np.ndarray) -> float:
    """How much an output depends on the frames seen: its standard deviation over sequences, averaged over pixels.

    output: uint8 (N, T, H, W). In grey levels of 255. 0 means that all sequences give the same frames.
    """
    return float(output.std(0).mean())
