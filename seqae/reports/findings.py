"""What a page concludes, in sentences of Markdown: every number is computed from the runs."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, isinf

import pandas as pd

from seqae.reports.compare import below_mean_frame, by_epoch, finals, output_spread
from seqae.reports.groups import groups
from seqae.reports.published import diary_results
from seqae.reports.recipes import labels, recipes, report_links
from seqae.reports.seeds import over_seeds
from seqae.runs import Run, counted, four_digits, grades, own_metrics_of

LISTED = 20  # lines of one kind
FLAT = 0.01  # the error on val is flat where the last epoch changed it by less: from there on, training is on a plateau
OF_TEST = (
    "In this list percentages are of the squared error (MSE) on test, beside the mean frame's; the best is chosen on "
    "val. recon: the frames seen, given back; pred: those to come."
)
CANNOT = "cannot learn"  # as prognoses begin
ENDS = ("learned", "learned little", "could, but did not learn")  # as verdicts begin, but for the last


def run_findings(verdict: str, test: pd.DataFrame, levels: pd.DataFrame, next_step: str = "") -> str:
    """A run's verdict and, for each branch, its test error beside that of the mean frame: Markdown. Says, too, from how
    far below the mean frame on the verdict's words are used.

    test: as `Run.test`; levels: as `Run.baselines`. MSE per pixel on [0, 1]; BCE, where there is one, in nats/pixel.
    next_step: what to do now, as `Run.next_step`.
    """
    mean = levels[(levels.split == "test") & (levels.baseline == "mean_frame")].set_index(["branch", "metric"])["value"]
    lines = [f"**{escape(verdict[0].upper() + verdict[1:])}**, on val. {grades(verdict)}".strip(), ""]
    for row in test[test.frame.isna() & test.metric.isin(["mse", "bce"])].itertuples():
        unit = {"mse": "per pixel", "bce": "nats/pixel"}[row.metric]
        level = f"mean frame {mean[row.branch, row.metric]:.4f}"
        figure = f"{row.value:.4f} {unit}" if row.value == row.value else "has no number, because the run diverged,"
        lines.append(f"- {row.branch}: {row.metric.upper()} {figure} on test, {level}")
    return "\n".join([*lines, *(["", f"**Next:** {next_step}"] if next_step else [])])


def which_learn(grid: Sequence[Run]) -> str:
    """How many runs had the prognosis that they cannot learn, how many learned, and how many could and did not, with
    their losses and the updates that each had: Markdown. Then why the first one cannot learn, and of each loss that
    could and did not, where it ended on val, whether its error was still falling, and how far its outputs depend on the
    input.
    """
    names, below, ends = labels(grid), below_mean_frame(grid), dict[str, list[str]]()
    for name, run in zip(names, grid, strict=True):
        ends.setdefault(_end(run), []).append(name)
    cannot = ends.pop(CANNOT, [])
    told, lines = "No run had the prognosis, before training, that it cannot learn.", list[str]()
    if cannot:
        lines.append(f"{grid[names.index(cannot[0])].explain().partition('. ')[0]}.")
        did = int(below[below.run.isin(cannot)].groupby("run")["val_below"].max().gt(0).sum())
        told = (
            f"{len(cannot)} of {len(grid)} runs had the prognosis, before training, that they cannot learn "
            f"({_losses(below, cannot)}: their floor, the least error that their last layer can put out, is above the "
            f"mean frame's), and {did or 'none'} did."
        )
    if listed := "; ".join(f"{len(of)} {end} ({_losses(below, of)})" for end in ENDS if (of := ends.get(end))):
        told += f" Of {'the other ' * bool(cannot)}{len(grid) - len(cannot)}{_budget(grid)}, {listed}."
    lost = below[below.run.isin(ends.get(ENDS[-1], []))]
    lines += [_fell_short(loss, of, grid) for loss, of in lost.groupby("loss")]
    words = max((grades(run.verdict or "") for run in grid), key=len)
    return f"**{told}**\n\n{' '.join([*lines, words])}".strip()


def _budget(grid: Sequence[Run]) -> str:
    # The updates that each run had, where they are equally many.
    known = [run.parameters for run in grid]
    updates = {p.epochs * ceil(p.train_sequences / p.batch_size) for p in known}
    if len(updates) > 1 or any(p.patience for p in known):
        return ""
    return f", after {counted(updates.pop(), 'update')} each"


def _end(run: Run) -> str:
    if run.prognosis().startswith(CANNOT):
        return CANNOT
    return next((end for end in reversed(ENDS) if (run.verdict or "").startswith(end)), ENDS[-1])


def _losses(below: pd.DataFrame, names: Sequence[str]) -> str:
    return ", ".join(f"`{escape(loss)}`" for loss in below.loss[below.run.isin(names)].unique())


def _fell_short(loss: str, below: pd.DataFrame, grid: Sequence[Run]) -> str:
    # Of a loss that could learn and did not, what its curves and its outputs say.
    runs = [run for run, name in zip(grid, labels(grid), strict=True) if name in set(below.run)]
    curves = (
        by_epoch(runs).query("metric == 'mse'").pivot_table(index="epoch", columns=["run", "branch"], values="value")
    )
    told = f"`{escape(loss)}` ended on val {_from_to(below.val_below.min(), below.val_below.max())}"
    if (fall := -curves.pct_change(fill_method=None).iloc[-1].mean()) == fall:  # it has two epochs and did not diverge
        flat = f"was flat (changed by less than {100 * FLAT:.0f} %)"
        flat = flat if abs(fall) < FLAT else "was still falling" if fall > 0 else "was rising"
        told += f", where its error {flat}: {100 * -fall:+.1f} % in the last epoch, a mean over runs".replace("-", "−")
    shown = [(name, output_spread(x)) for run in runs if not run.diverged for name, x in run.samples().items()]
    if shown:
        own, truth = (max(x for name, x in shown if (name == "frames") == true) for true in (False, True))
        told += f"; between sequences, its outputs have a standard deviation of at most {own:.1f} grey levels of 255, "
        told += f"the true frames one of {truth:.1f}"
    return f"{told}."


def comparison_findings(
    grid: Sequence[Run], fixes: Sequence[Run] = (), *, by: str = "loss", branch: str | None = None
) -> str:
    """How far below the mean frame the compared runs end on test, as a list in Markdown; each of `groups` for itself.

    Names the recipe that is best on val in each branch, by MSE and by each metric of your own, with its figures on val,
    of which verdicts are, and on test. Then gives each branch's range for each value of the column `by` of
    `compare.by_epoch`, the best on val first, then each of `fixes`: with a fix, or, if it is in the grid, without. A
    figure of a recipe is the mean over its seeds. branch: the only one to report; None: all.
    """
    several, lines = groups(grid), [OF_TEST, ""]
    for group, runs in several.items():
        found = _group_findings(runs, fixes if len(several) == 1 else (), by, branch)
        indent = "    " if len(several) > 1 else ""
        lines += [f"- {group}:"] if indent else []
        lines += [f"{indent}- {line}" for line in found]
    return "\n".join(lines)


def _group_findings(grid: Sequence[Run], fixes: Sequence[Run], by: str, branch: str | None) -> list[str]:
    below = _of_recipes(grid)
    below = below[(below.branch == branch) | (branch is None)]
    lines, hrefs = [], report_links(grid)
    # by branch: a reconstruction is the easier task
    for name in sorted(dict.fromkeys(below.branch[below.val_below.notna()]), key=lambda name: name == "pred"):
        best = below.loc[below.val_below[below.branch == name].idxmax()]
        linked = f"[{escape(best.run)}]({hrefs[best.run]})"
        there, on_test = _beside_mean_frame(best.val_below), _beside_mean_frame(best.below)
        lines.append(f"Best {name} on val: **{linked}**, {there} there, on test {on_test}.")
    means = {of: f"{of} {rows.mean_frame.iloc[0]:.4f}" for of, rows in below.groupby("branch", sort=False)}
    lines += [f"The mean frame itself has on test: {', '.join(sorted(means.values(), reverse=True))}."] if means else []
    lines += _by_own_metrics(grid, branch, hrefs)
    order = below.groupby(by)["val_below"].max().sort_values(ascending=False)
    for value in order.index[:LISTED]:
        part = below[below[by] == value]
        lost = (
            f", {lost} without a number, because they diverged"
            if 0 < (lost := part.below.isna().sum()) < len(part)
            else ""
        )
        lines.append(f"`{escape(str(value), quote=False)}`: {_of_branches(part)}{lost}.")
    lines += _both_and_pred(below)
    fixed = _of_recipes(fixes) if fixes else below.head(0)
    if len(fixed) > 2 and fixed.n.max() == 1:
        lines.append("Of each fix there is one run, so which of them is best may be chance.")
    without = {name for name, run in zip(recipes(fixes), fixes, strict=True) if run in grid}
    for row in fixed.sort_values("val_below", ascending=False).head(LISTED).itertuples():
        made = "Without a fix" if row.run in without else "With a fix"
        lines.append(f"{made}, `{escape(row.run, quote=False)}`: {row.branch} {_beside_mean_frame(row.below)}.")
    if (found := max(len(order), len(fixed))) > LISTED:
        lines.append(f"This list holds the {LISTED} with the least error on val of {found:,}; the table holds all.")
    return lines


def _by_own_metrics(grid: Sequence[Run], branch: str | None, hrefs: Mapping[str, str]) -> list[str]:
    # The recipe that is best on val by each metric of one's own, in each branch.
    own = {name: of for run in grid for name, of in own_metrics_of(run.record()).items()}
    every, several = finals(grid), len(set(recipes(grid)))
    table = every[every.metric.isin(own) & every.val.notna() & ((every.branch == branch) | (branch is None))]
    lines = []
    for (name, of_branch), rows in over_seeds(table, ["metric", "branch", "recipe"]).groupby(["metric", "branch"]):
        if rows.val.nunique() == 1 < several:  # none is better than the others, or these were not measured with it
            continue
        more, unit = bool(own[name].get("more_is_better")), own[name]["unit"]
        best = rows.loc[rows.val.idxmax() if more else rows.val.idxmin()]
        linked = f"[{escape(best.recipe)}]({hrefs[best.recipe]})"
        told = ", ".join([*([escape(unit)] if unit != "1" else []), f"{'more' if more else 'less'} is better"])
        if len(rows) < (of := every.recipe[every.branch == of_branch].nunique()):
            told += f"; {len(rows)} of {of} recipes have it"
        lines.append(
            f"Best {of_branch} on val by `{name}` ({told}): **{linked}**, {four_digits(best.val)} there, on test "
            f"{four_digits(best.value)}."
        )
    return lines


def _of_branches(below: pd.DataFrame) -> str:
    # Each branch's range; those with the same one together.
    ranges = below.groupby("branch", sort=False)["below"].agg(["min", "max"])
    found: dict[str, list[str]] = {}
    for branch, least, most in sorted(ranges.itertuples(), key=lambda row: row.Index, reverse=True):
        found.setdefault(_from_to(least, most), []).append(branch)
    return ", ".join(f"{' and '.join(branches)} {told}" for told, branches in found.items())


def _both_and_pred(below: pd.DataFrame) -> list[str]:
    # Whether reconstructing as well helps to predict: of the best loss, where all runs of both tasks agree, one of them
    # predicts better than the mean frame, and the figures tell the tasks apart.
    pred = below[(below.branch == "pred") & below.val_below.notna()]
    pred = pred[pred.loss == pred.loss[pred.val_below.idxmax()]] if len(pred) else pred
    both, alone = (pred[pred.task == task] for task in ("both", "pred"))
    if both.empty or alone.empty or pred.val_below.max() <= 0:
        return []
    helps = both.val_below.min() > alone.val_below.max()
    if not helps and both.val_below.max() >= alone.val_below.min():
        return []
    spans = [_from_to(part.below.min(), part.below.max()) for part in (both, alone)]
    if spans[0] == spans[1]:
        return []
    chance = "" if pred.n.max() > 1 else "; one seed each, so this may be chance"
    return [
        f"Runs that also reconstruct predict {'better' if helps else 'worse'}: `{escape(both.loss.iloc[0])}` of task "
        f"both {spans[0]}, of task pred {spans[1]}{chance}."
    ]


def _of_recipes(runs: Sequence[Run]) -> pd.DataFrame:
    # `below_mean_frame`, a row for each recipe and branch: means over seeds.
    return over_seeds(below_mean_frame(runs), ["recipe", "branch"], "below").assign(run=lambda t: t.recipe)


def diary_order(grid: Sequence[Run]) -> str:
    """Whether the losses rank as in the diary, in a sentence of Markdown.

    For each way and branch with at least three losses: Spearman's rank correlation of the MSE on val, a mean over
    seeds, with the diary's, on val as well. Only runs of the diary's own architecture count. A diverged run ranks last.
    Losses that are equal in the diary, or here to three digits, may stand in either order.
    """
    each = ["task", "decoder_input", "branch"]
    table = below_mean_frame(grid).query("architecture == 'lstm_copy' and gain == 1")
    ours = over_seeds(table, [*each, "loss"], "val")
    ours = ours.assign(val=[float(f"{error:.3g}") for error in ours.val])
    both = ours.merge(diary_results(), on=[*each, "loss"]).groupby(each)
    ranked = [part[["val", "mse"]].rank(na_option="bottom") for _, part in both if len(part) > 2]
    correlations = [ranks.val.corr(ranks.mse) for ranks in ranked]  # Pearson's of the ranks is Spearman's
    if not correlations:
        return "Too few losses to compare their order with the diary's."
    same = sum(ranks.sort_values(["mse", "val"]).val.is_monotonic_increasing for ranks in ranked)
    told = f"In **{same} of {len(correlations)}** branches the losses stand in the order of the diary's own runs"
    told += "; errors that are equal to three digits count in either order"
    least = (
        f"; in the others Spearman's rank correlation with it is {min(correlations):.2f} or more (1: the same order)"
    )
    return f"{told}{least if same < len(correlations) else ''}."


def _beside_mean_frame(share: float) -> str:
    # share: as the column below of `below_mean_frame`
    if share != share:
        return "no number, because it diverged"
    if isinf(share):
        return "infinitely far above the mean frame"
    if round(100 * share) == 0:
        return "at the mean frame"
    return f"{100 * abs(share):.0f} % {'below' if share > 0 else 'above'} the mean frame"


def _from_to(least: float, most: float) -> str:
    # Both ends of a range of such shares, without saying anything twice.
    first, last = _beside_mean_frame(least), _beside_mean_frame(most)
    if first == last:
        return first
    if (side := first.partition(" % ")[2]) and last.endswith(f" % {side}"):
        first, last = (first, last) if side.startswith("below") else (last, first)  # the smaller number first
        return f"{first.removesuffix(f' {side}')} to {last}"
    if side and last == "at the mean frame":
        return f"{first.replace(side, '')}to 0 % {side}"
    return f"{first} to {last.replace('the mean frame', 'it')}"
