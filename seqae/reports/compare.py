"""Many runs as tidy tables: which runs belong together, their curves, final figures, reference levels, pictures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from html import escape
from io import StringIO

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from seqae import files
from seqae.metrics import UNITS, label
from seqae.parameters import Parameters
from seqae.reports.published import diary
from seqae.runs import Run, Strips, find_runs, finished, run_name, sample_strips
from seqae.stores import fetch

# In these the runs of one comparison agree: they are judged on the same sequences.
SHARED = ("digits", "data_seed", "test_data", "val_sequences", "test_sequences")
MOST = 40  # recipes whose curves or pictures one figure can hold
LISTED = 20  # lines of a conclusion, of a kind
FACETS = ("loss", "task", "decoder_input", "architecture", "gain", "optimizer", "precision", "frame_size", "seed")


def comparable_runs(family: str, names: Sequence[str] = (), *, store: str | None = None) -> list[Run]:
    """The finished runs of a family: of those named, else of the largest group that agrees in all of `SHARED`.

    Of groups equally large, the one with the newest run. Raises ValueError when there is none.
    """
    folder = fetch(store, family)
    done = [run for run in find_runs(folder, family, names=names) if run.status == "done"]
    done.sort(key=lambda run: (run.parameters.label or "", run.name))
    if not done:
        raise ValueError(f"no finished run in {folder / family}: seqae run params/{family} first")
    if names:
        return done
    groups: dict[str, list[Run]] = {}
    for run in done:
        alike = [getattr(run.parameters, name) for name in SHARED]
        groups.setdefault(repr(alike), []).append(run)
    return max(groups.values(), key=lambda runs: (len(runs), max(run.record()["ended"] for run in runs)))


def evenly(runs: Sequence[Run], most: int = MOST) -> list[Run]:
    """What a figure can hold: all runs of at most `most` recipes; of more, as many of them, evenly from the least error
    on test (mean of the branches' mse, over seeds) to the largest, labelled as among all.
    """
    names = _facets(tuple(runs)).recipe.to_list() if runs else []
    if len(set(names)) <= most:
        return list(runs)
    errors = [np.mean([v for k, v in run.record()["results"].items() if k.endswith(" mse")]) for run in runs]
    ranked = pd.Series(errors).groupby(names).mean().sort_values(kind="stable").index
    kept = set(ranked[np.linspace(0, len(ranked) - 1, most).round().astype(int)])
    called = [name.partition(", n = ")[0] for name in names]  # among fewer, it might be shorter
    labelled = [run.parameters.model_copy(update={"label": label}) for run, label in zip(runs, called, strict=True)]
    return [replace(run, parameters=p) for run, p, name in zip(runs, labelled, names, strict=True) if name in kept]


def curves(runs: Sequence[Run], split: str = "val") -> pd.DataFrame:
    """Metrics by epoch: epoch, step, seconds, branch, metric, value; run, `recipes` and `FACETS`."""
    return stack(runs, "metrics").query(f"split == '{split}'").reset_index(drop=True)


def frame_steps(runs: Sequence[Run]) -> pd.DataFrame:
    """Test metrics of each frame step: branch, frame, metric, value, unit, sequences, and the columns of `curves`."""
    return stack(runs, "test").dropna(subset="frame").astype({"frame": int}).reset_index(drop=True)


def histograms(runs: Sequence[Run]) -> pd.DataFrame:
    """Outputs on val by epoch: epoch, branch, output, share, and the columns of `curves`."""
    return stack(runs, "histograms")


def budgets(runs: Sequence[Run]) -> pd.DataFrame:
    """What each run took: seconds, sequences trained a second (with evaluation on val), peak memory in MiB, updates
    left out for overflow (fp16 only), device, and the columns of `curves`.
    """
    rows = []
    for number, run in enumerate(runs):
        record, metrics = run.record(), run.metrics()
        rows.append(
            {
                "number": number,
                "seconds": record["seconds"],
                "sequences/s": run.parameters.train_sequences * metrics.epoch.max() / record["seconds"],
                "peak memory, MiB": record.get("peak_memory_bytes", float("nan")) / 2**20,
                "overflows": metrics[metrics.metric == "overflows"]["value"].sum(min_count=1),
                "device": record["device"],
            }
        )
    return _with_facets(pd.DataFrame(rows), runs)


def finals(runs: Sequence[Run]) -> pd.DataFrame:
    """Test metrics, means over frames: branch, metric, value, unit, sequences, verdict, and the columns of `curves`."""
    table = stack(runs, "test").query("frame.isna()").reset_index(drop=True)
    return table.assign(verdict=table.run.map(_verdicts(runs)))


def levels(runs: Sequence[Run], split: str = "val") -> pd.DataFrame:
    """Baselines and floors on one split: branch, baseline, metric, value, and the columns of `curves`."""
    return stack(runs, "baselines").query(f"split == '{split}'").reset_index(drop=True)


def summary(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run and branch: test metrics side by side, the verdict, and the diary's own mse where it has one."""
    table = finals(runs)
    index = ["run", "loss", "task", "decoder_input", "branch", "architecture", "gain", "verdict"]
    wide = table.pivot_table(index=index, columns="metric", values="value").reset_index()
    recorded = diary().rename(columns={"mse": "diary, mse"})
    wide = wide.merge(recorded, how="left", on=["task", "decoder_input", "branch", "loss"])
    wide["diary, mse"] = wide["diary, mse"].where((wide.architecture == "lstm_copy") & (wide.gain == 1))
    others = [name for name in UNITS if name in wide and name != "mse"]
    told = ["diary, mse"] if {run.family for run in runs} == {"losses"} else []
    shown = ["run", "branch", "mse", *told, "verdict", *others]
    return wide[shown].sort_values("mse", ignore_index=True).rename(columns=label)


def table(runs: Sequence[Run], most: int = 200) -> Styler:
    """`summary` for a report, of many rows the first: names and verdicts on one line each, all they hold escaped."""
    rows = summary(runs)
    style = rows.head(most).style.format(precision=4, na_rep="", escape="html").hide()
    if len(rows) > most:
        style.set_caption(f"The {most} with the least error of {len(rows):,}")
    return style.set_properties(**{"white-space": "nowrap"})


def gallery(runs: Sequence[Run], branch: str) -> Strips:
    """The truth and every run's output of one branch, on the same unseen sequences, in true time order.

    Raises ValueError when the runs were shown different sequences.
    """
    seen, title = {"recon": ("seen", "reconstruction"), "pred": ("future", "prediction")}[branch]
    strips: Strips = []
    names = recipes(runs) if len(runs) > MOST else labels(runs)
    first = dict(zip(reversed(names), reversed(runs), strict=True))  # of many seeds of one recipe
    for called in dict.fromkeys(names):
        run, p = first[called], first[called].parameters
        found = dict(sample_strips(run.samples(), task=p.task, frames_in=p.frames_in))
        if seen in found:
            strips = strips or [("truth", found[seen])]
            if not np.array_equal(found[seen], strips[0][1]):
                raise ValueError(f"{run.name} was shown other sequences than {runs[0].name}: compare runs of one scale")
            strips.append((called, found[title]))
    return strips


def counterparts(runs: Sequence[Run], among: Sequence[Run]) -> list[Run]:
    """Those of `among` with the same loss, task and decoder input as one of `runs`."""
    ways = {(run.parameters.loss, run.parameters.task, run.parameters.decoder_input) for run in runs}
    return [r for r in among if (r.parameters.loss, r.parameters.task, r.parameters.decoder_input) in ways]


def labels(runs: Sequence[Run]) -> list[str]:
    """What each run is called: its own label, else what tells it apart from the others, its way and where it differs
    from what most of them have; with its seed, or else its whole name, where that is another's, too.
    """
    columns = pd.DataFrame([run.parameters.model_dump(exclude={"label"}) for run in runs]).map(repr)
    usual = {name: runs[int((column == column.mode()[0]).argmax())].parameters for name, column in columns.items()}
    common = Parameters.model_construct(**{name: getattr(p, name) for name, p in usual.items()})
    names = [run.parameters.label or run_name(run.parameters, common) for run in runs]
    seeded = [(name, f"{name}, seed {run.parameters.seed}") for run, name in zip(runs, names, strict=True)]
    names = [longer if names.count(name) > 1 else name for name, longer in seeded]
    return [run.name if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def recipes(runs: Sequence[Run]) -> list[str]:
    """What each run is called together with those that differ from it only by seed, and how many seeds they have."""
    alike = [run.parameters.model_copy(update={"seed": runs[0].parameters.seed}) for run in runs]
    keys = [parameters.short_hash() for parameters in alike]
    firsts = {key: replace(runs[i], parameters=alike[i]) for i, key in reversed([*enumerate(keys)])}
    names = dict(zip(firsts, labels(list(firsts.values())), strict=True))
    seeds = pd.Series([run.parameters.seed for run in runs]).groupby(keys).nunique()
    return [names[key] + (f", n = {seeds[key]} seeds" if seeds[key] > 1 else "") for key in keys]


def stack(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """NAME.csv of every run's folder in one, and the columns of `curves`; parsed at once, as a table of its own for
    each took ten times as long.
    """
    rows: dict[str, list[str]] = {}  # by their header, as versions may differ in that
    for number, run in enumerate(runs):
        header, *lines = files.whole_lines(run.folder / f"{name}.csv")
        rows.setdefault(header, []).extend(f"{number},{line}" for line in lines)
    parts = [pd.read_csv(StringIO("\n".join([f"number,{header}", *lines]))) for header, lines in rows.items()]
    return _with_facets(pd.concat(parts).sort_values("number", kind="stable", ignore_index=True), runs)


def _with_facets(table: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    # What is asked of every run, beside each of its rows; `number` says whose they are.
    facets = _facets(tuple(runs))
    if "branch" in table:  # where it reads the truth it is a one-step prediction, not a reconstruction
        given = table.number.map(dict(enumerate(run.parameters.recon_truth for run in runs))).astype(bool)
        table["branch"] = table.branch.mask(given & (table.branch == "recon"), "recon, given truth")
    table = table.drop(columns=facets.columns, errors="ignore")  # a benchmark's has some of them itself
    return table.join(facets, on="number").drop(columns="number")


@lru_cache(maxsize=16)  # a comparison makes many tables of the same runs
def _facets(runs: tuple[Run, ...]) -> pd.DataFrame:
    columns = {name: [getattr(run.parameters, name) for run in runs] for name in FACETS}
    return pd.DataFrame({"run": labels(runs), "recipe": recipes(runs)} | columns)


def _verdicts(runs: Sequence[Run]) -> dict[str, str | None]:
    return dict(zip(_facets(tuple(runs)).run, [run.verdict for run in runs], strict=True))


def describe(runs: Sequence[Run]) -> str:
    """What is compared, in a sentence."""
    parts = Counter(
        f"{p.frame_size}×{p.frame_size} pixels, width {p.width:g}, {p.epochs} epochs of {p.train_sequences:,} "
        f"sequences in batches of {p.batch_size}, {p.val_sequences:,} sequences for val, {p.test_sequences:,} for "
        f"test, digits {p.digits}"
        for p in (run.parameters for run in runs)
    )
    left = sorted(finished(runs[0].folder.parent) - {run.name for run in runs})
    named = ", ".join(f"`{name}`" for name in left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
    others = f" Finished runs of the family left out: {named}." if left else ""
    if (count := _facets(tuple(runs)).recipe.nunique()) > MOST:
        others += f" Of {count:,} recipes a figure shows {MOST}, evenly from the least error on test to the largest."
    if len(parts) == 1:
        return f"**{len(runs)} runs**: {next(iter(parts))}.{others}"
    lines = [f"**{len(runs)} runs**:{others}", "", *(f"- {count} of {part}" for part, count in parts.items())]
    return "\n".join(lines)


def conclude(grid: Sequence[Run], fixes: Sequence[Run] = (), *, by: str = "loss", branch: str | None = None) -> str:
    """The comparison's findings as a list in Markdown, every number computed from the runs.

    by: a column of `curves`, for each value of which a line is given, the best first; branch: the only one told of.
    """
    below = below_mean_frame(grid)
    below = below[(below.branch == branch) | (branch is None)]
    lines = []
    for name in dict.fromkeys(below.branch[below.below.notna()]):  # a reconstruction is easier than a prediction
        best = below.loc[below.below[below.branch == name].idxmax()]
        lines.append(f"Best {name}: **{escape(best.run)}**, {_side(best.below)}.")
    spans = below.groupby(by)["below"].agg(["min", "max", "size"])
    for value, worst, most, size in spans.nlargest(LISTED, "max").itertuples():
        ends = " to ".join(dict.fromkeys([_side(worst), _side(most)]))
        lines.append(f"`{escape(str(value))}`: {ends}{f', {size} branches' if size > 1 else ''}.")
    fixed = below_mean_frame(fixes) if fixes else below.head(0)
    for row in fixed.nlargest(LISTED, "below").itertuples():
        lines.append(f"With or without a fix, `{escape(row.run)}`: {row.branch} {_side(row.below)}.")
    if (found := max(len(spans), len(fixed))) > LISTED:
        lines.append(f"Of {found:,} the {LISTED} with the least error are listed; all figures are in the table.")
    return "\n".join(f"- {line}".replace("%", " %") for line in lines)


def diary_order(grid: Sequence[Run]) -> str:
    """Whether the losses stand as in the diary, way by way and branch by branch, in Markdown: Spearman's rank
    correlation of the final MSE on test, a mean over seeds, with the diary's on val, where there are at least three
    losses to rank. Of the diary's own architecture alone; what diverged comes last, and of two that are equal in the
    diary either may be first.
    """
    each = ["task", "decoder_input", "branch"]
    table = below_mean_frame(grid).query("architecture == 'lstm_copy' and gain == 1")
    ours = table.groupby([*each, "loss"])["reached"].mean().reset_index()
    both = ours.merge(diary(), on=[*each, "loss"]).groupby(each)
    ranked = [part[["reached", "mse"]].rank(na_option="bottom") for _, part in both if len(part) > 2]
    alike = [ranks.reached.corr(ranks.mse) for ranks in ranked]  # Pearson's of the ranks is Spearman's
    if not alike:
        return "Too few losses to compare their order with the diary's."
    same = sum(ranks.sort_values(["mse", "reached"]).reached.is_monotonic_increasing for ranks in ranked)
    return (
        f"In **{same} of {len(alike)}** branches the losses stand in the order of the diary's own runs; "
        f"Spearman's rank correlation is {min(alike):.2f} or more."
    )


def _side(share: float) -> str:
    if share != share:
        return "no number, it diverged"
    if round(100 * share) == 0:
        return "at the mean frame"
    return f"{abs(share):.0%} {'below' if share > 0 else 'above'} the mean frame"


def below_mean_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Where each branch ends on test, in MSE per pixel on [0, 1]: reached, mean_frame, floor, and below, how far below
    the mean frame that is (1: no error at all; negative: above it); branch, verdict and the columns of `curves`.
    """
    keys = ["run", "branch", *FACETS]
    known = levels(runs, "test").query("metric == 'mse' and baseline in ['mean_frame', 'floor']")
    table = known.pivot_table(index=keys, columns="baseline", values="value", sort=False)
    table["reached"] = finals(runs).query("metric == 'mse'").set_index(keys)["value"]
    table = table.reset_index()
    return table.assign(below=1 - table.reached / table.mean_frame, verdict=table.run.map(_verdicts(runs)))
