"""Runs compared: which runs belong together, what each is called, and their results in tidy tables.

Tables of many runs have one row for each value, with the run, its recipe and its `FACETS` beside it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from io import StringIO

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from seqae.metrics import UNITS
from seqae.parameters import Parameters
from seqae.reports.published import diary_results
from seqae.runs import (
    Run,
    Strip,
    Strips,
    find_runs,
    finished,
    label,
    name_words,
    sample_strips,
    short_hash,
    whole_lines,
)
from seqae.stores import fetch

# Runs that are equal in these parameters are tested on the same sequences, so they can be compared.
SHARED = ("digits", "data_seed", "test_data", "val_sequences", "test_sequences")
MOST = 40  # recipes that one figure can show
FACETS = ("loss", "task", "decoder_input", "architecture", "gain", "optimizer", "precision", "frame_size", "seed")


def comparable_runs(family: str, names: Sequence[str] = (), *, store: str | None = None) -> list[Run]:
    """The finished runs of a family: those in `names`, or else the largest group that is equal in all of `SHARED`.

    Of groups of the same size, the one with the newest run. names: of run folders. store: a folder or URL; None: the
    default store. Raises ValueError where no run is finished.
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
    """The runs that a figure shows: all, or, where they have more than `most` recipes, `most` of those, evenly spaced
    by rank from the least test error (mean MSE of branches and seeds) to the largest. Their labels are as among all.
    """
    names = _facets(tuple(runs)).recipe.to_list() if runs else []
    if len(set(names)) <= most:
        return list(runs)
    errors = [np.mean([v for k, v in run.record()["results"].items() if k.endswith(" mse")]) for run in runs]
    ranked = pd.Series(errors).groupby(names).mean().sort_values(kind="stable").index
    kept = set(ranked[np.linspace(0, len(ranked) - 1, most).round().astype(int)])
    called = [name.partition(", n = ")[0] for name in names]  # computed among fewer runs, a label could be shorter
    labelled = [run.parameters.model_copy(update={"label": label}) for run, label in zip(runs, called, strict=True)]
    return [replace(run, parameters=p) for run, p, name in zip(runs, labelled, names, strict=True) if name in kept]


def describe(runs: Sequence[Run]) -> str:
    """What is compared, in Markdown: sizes and budgets, runs left out, and how many recipes the figures show."""
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
        others += f" Figures show {MOST} of {count:,} recipes, evenly from the least test error to the largest."
    if len(parts) == 1:
        return f"**{len(runs)} runs**: {next(iter(parts))}.{others}"
    lines = [f"**{len(runs)} runs**:{others}", "", *(f"- {count} of {part}" for part, count in parts.items())]
    return "\n".join(lines)


def curves(runs: Sequence[Run], split: str = "val") -> pd.DataFrame:
    """Metrics by epoch: epoch, step, seconds, branch, metric, value; and run, recipe (see `recipes`) and `FACETS`."""
    return stack(runs, "metrics").query(f"split == '{split}'").reset_index(drop=True)


def frame_steps(runs: Sequence[Run]) -> pd.DataFrame:
    """Test metrics of each frame step: branch, frame, metric, value, unit, sequences, and the columns of `curves`."""
    return stack(runs, "test").dropna(subset="frame").astype({"frame": int}).reset_index(drop=True)


def histograms(runs: Sequence[Run]) -> pd.DataFrame:
    """Outputs on val by epoch: epoch, branch, output, share, and the columns of `curves`."""
    return stack(runs, "histograms")


def budgets(runs: Sequence[Run]) -> pd.DataFrame:
    """What each run took: seconds, training sequences per second (with evaluation on val), peak memory in MiB, updates
    skipped for overflow (fp16 only), device, and the columns of `curves`.
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


def below_mean_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Where each branch ends on test, in MSE per pixel on [0, 1]: branch, reached, mean_frame, floor, verdict, and
    below, the share by which it is below the mean frame (1: no error, negative: above it); and the columns of `curves`.
    """
    keys = ["run", "branch", *FACETS]
    known = levels(runs, "test").query("metric == 'mse' and baseline in ['mean_frame', 'floor']")
    table = known.pivot_table(index=keys, columns="baseline", values="value", sort=False)
    table["reached"] = finals(runs).query("metric == 'mse'").set_index(keys)["value"]
    table = table.reset_index()
    return table.assign(below=1 - table.reached / table.mean_frame, verdict=table.run.map(_verdicts(runs)))


def summary(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each run and branch: test metrics, the verdict, and the diary's own MSE where it has one."""
    table = finals(runs)
    index = ["run", "loss", "task", "decoder_input", "branch", "architecture", "gain", "verdict"]
    wide = table.pivot_table(index=index, columns="metric", values="value").reset_index()
    recorded = diary_results().rename(columns={"mse": "diary, mse"})
    wide = wide.merge(recorded, how="left", on=["task", "decoder_input", "branch", "loss"])
    wide["diary, mse"] = wide["diary, mse"].where((wide.architecture == "lstm_copy") & (wide.gain == 1))
    others = [name for name in UNITS if name in wide and name != "mse"]
    told = ["diary, mse"] if {run.family for run in runs} == {"losses"} else []
    shown = ["run", "branch", "mse", *told, "verdict", *others]
    return wide[shown].sort_values("mse", ignore_index=True).rename(columns=label)


def table(runs: Sequence[Run], most: int = 200) -> Styler:
    """`summary` styled for a page: the first `most` rows, names and verdicts on one line each, text escaped."""
    rows = summary(runs)
    style = rows.head(most).style.format(precision=4, na_rep="", escape="html").hide()
    if len(rows) > most:
        style.set_caption(f"The {most} with the least error of {len(rows):,}")
    return style.set_properties(**{"white-space": "nowrap"})


def gallery(runs: Sequence[Run], branch: str) -> Strips:
    """The truth and every run's output of one branch, on the same val sequences, in true time order.

    Of runs that differ only by seed, the first stands for all where there are more than `MOST`. Empty where no run has
    that branch. Raises ValueError where the runs' sequences differ.
    """
    seen, title = {"recon": ("seen", "reconstruction"), "pred": ("future", "prediction")}[branch]
    strips: Strips = []
    names = recipes(runs) if len(runs) > MOST else labels(runs)
    first = dict(zip(reversed(names), reversed(runs), strict=True))  # the first run of each name
    for called in dict.fromkeys(names):
        run, p = first[called], first[called].parameters
        found = dict(sample_strips(run.samples(), task=p.task, frames_in=p.frames_in))
        if seen in found:
            strips = strips or [Strip("truth", found[seen])]
            if not np.array_equal(found[seen], strips[0][1]):
                raise ValueError(f"{run.name} has other val sequences than {runs[0].name}: compare runs of one scale")
            strips.append(Strip(called, found[title]))
    return strips


def counterparts(runs: Sequence[Run], among: Sequence[Run]) -> list[Run]:
    """The runs of `among` with the same loss, task and decoder input as one of `runs`."""
    ways = {(run.parameters.loss, run.parameters.task, run.parameters.decoder_input) for run in runs}
    return [r for r in among if (r.parameters.loss, r.parameters.task, r.parameters.decoder_input) in ways]


def labels(runs: Sequence[Run]) -> list[str]:
    """The name of each run in a comparison, no two alike.

    It is the run's parameter `label`, or else its way and the values in which it differs from most of the runs. Runs
    with the same name get their seed added; if that is not enough, they are called by their folder.
    """
    columns = pd.DataFrame([run.parameters.model_dump(exclude={"label"}) for run in runs]).map(repr)
    usual = {name: runs[int((column == column.mode()[0]).argmax())].parameters for name, column in columns.items()}
    common = Parameters.model_construct(**{name: getattr(p, name) for name, p in usual.items()})
    names = [run.parameters.label or name_words(run.parameters, common, run.family) for run in runs]
    seeded = [(name, f"{name}, seed {run.parameters.seed}") for run, name in zip(runs, names, strict=True)]
    names = [longer if names.count(name) > 1 else name for name, longer in seeded]
    return [run.name if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def recipes(runs: Sequence[Run]) -> list[str]:
    """The name of each run's recipe, the same for runs that differ only by seed, with their number of seeds."""
    alike = [run.parameters.model_copy(update={"seed": runs[0].parameters.seed}) for run in runs]
    keys = [short_hash(parameters) for parameters in alike]
    firsts = {key: replace(runs[i], parameters=alike[i]) for i, key in reversed([*enumerate(keys)])}
    names = dict(zip(firsts, labels(list(firsts.values())), strict=True))
    seeds = pd.Series([run.parameters.seed for run in runs]).groupby(keys).nunique()
    return [names[key] + (f", n = {seeds[key]} seeds" if seeds[key] > 1 else "") for key in keys]


def stack(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """NAME.csv of all run folders in one table, with the columns of `curves` added.

    All files are parsed at once: parsing each by itself took ten times as long.
    """
    rows: dict[str, list[str]] = {}  # by header, which can differ between versions
    for number, run in enumerate(runs):
        header, *lines = whole_lines(run.folder / f"{name}.csv")
        rows.setdefault(header, []).extend(f"{number},{line}" for line in lines)
    parts = [pd.read_csv(StringIO("\n".join([f"number,{header}", *lines]))) for header, lines in rows.items()]
    return _with_facets(pd.concat(parts).sort_values("number", kind="stable", ignore_index=True), runs)


def _with_facets(table: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    # Adds run, recipe and FACETS to each row; the column number is the run's place in `runs`.
    facets = _facets(tuple(runs))
    if "branch" in table:  # a recon decoder that reads the truth predicts one step, so it gets a name of its own
        given = table.number.map(dict(enumerate(run.parameters.recon_truth for run in runs))).astype(bool)
        table["branch"] = table.branch.mask(given & (table.branch == "recon"), "recon, given truth")
    table = table.drop(columns=facets.columns, errors="ignore")  # performance.csv has some of them itself
    return table.join(facets, on="number").drop(columns="number")


@lru_cache(maxsize=16)  # a comparison makes many tables of the same runs
def _facets(runs: tuple[Run, ...]) -> pd.DataFrame:
    columns = {name: [getattr(run.parameters, name) for run in runs] for name in FACETS}
    return pd.DataFrame({"run": labels(runs), "recipe": recipes(runs)} | columns)


def _verdicts(runs: Sequence[Run]) -> dict[str, str | None]:
    return dict(zip(_facets(tuple(runs)).run, [run.verdict for run in runs], strict=True))


def output_spread(output: np.ndarray) -> float:
    """How much an output depends on the frames seen: its standard deviation over sequences, averaged over pixels.

    output: uint8 (N, T, H, W). In grey levels of 255. 0 means that all sequences give the same frames.
    """
    return float(output.std(0).mean())
