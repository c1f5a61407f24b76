"""What a page concludes, in sentences of Markdown: every number is computed from the runs."""

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from seqae.reports.compare import below_mean_frame, finals
from seqae.reports.groups import groups
from seqae.reports.outcomes import budget
from seqae.reports.published import diary_results
from seqae.reports.recipes import as_text, in_code, recipes, report_links
from seqae.reports.seeds import over_seeds
from seqae.reports.shares import from_to, share_in_words
from seqae.runs import Run, counted, four_digits, grades, own_metrics_of

LISTED = 20  # lines of one kind
OF_TEST = (
    "In this list percentages are of the squared error (MSE) on test, beside the mean frame's, with the weights of the "
    "epoch whose loss was least on val; the best is chosen on val. recon: the frames seen, given back; pred: those to "
    "come."
)


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


def comparison_findings(
    grid: Sequence[Run], fixes: Sequence[Run] = (), *, by: str = "loss", branch: str | None = None
) -> str:
    """How far below the mean frame the compared runs end on test, as a list in Markdown; each of `groups` for itself.

    Names the recipe that is best on val in each branch, by MSE and by each metric of your own, with its figures on val,
    of which verdicts are, and on test. Then gives each branch's range for each value of the column `by` of
    `compare.by_epoch`, the best on val first, then each of `fixes`: with other settings, or, if it is in the grid, with
    the usual ones. A figure of a recipe is the mean over its seeds. branch: the only one to report; None: all.
    """
    several, lines = groups(grid), [OF_TEST, ""]
    for group, runs in several.items():
        found = _group_findings(runs, fixes if len(several) == 1 else (), by, branch)
        indent = "    " if len(several) > 1 else ""
        lines += [f"- {group}{budget(runs)}:"] if indent else []
        lines += [f"{indent}- {line}" for line in found]
    return "\n".join(lines)


def _group_findings(grid: Sequence[Run], fixes: Sequence[Run], by: str, branch: str | None) -> list[str]:
    below = _of_recipes(grid)
    below = below[(below.branch == branch) | (branch is None)]
    lines, hrefs = [], report_links(grid)
    # by branch: a reconstruction is the easier task
    for name in sorted(dict.fromkeys(below.branch[below.val_below.notna()]), key=lambda name: name == "pred"):
        best = below.loc[below.val_below[below.branch == name].idxmax()]
        linked = f"[{as_text(best.run)}]({hrefs[best.run]})"
        there, on_test = share_in_words(best.val_below), share_in_words(best.below)
        lines.append(f"Best {name} on val: **{linked}**, {there} there, on test {on_test}.")
    means = {of: f"{of} {rows.mean_frame.iloc[0]:.4f}" for of, rows in below.groupby("branch", sort=False)}
    lines += [f"The mean frame itself has on test: {', '.join(sorted(means.values(), reverse=True))}."] if means else []
    lines += _by_own_metrics(grid, branch, hrefs)
    order = below.groupby(by)["val_below"].max().sort_values(ascending=False)
    for value in order.index[:LISTED]:
        part = below[below[by] == value]
        lines.append(f"{in_code(str(value))}: {_of_branches(part)}{_lost(part)}.")
    lines += _both_and_pred(below)
    fixed = _of_recipes(fixes) if fixes else below.head(0)
    if len(fixed) > 2 and fixed.n.max() == 1:
        lines.append("Of each of these settings there is one run, so which of them is best may be chance.")
    usual = {name for name, run in zip(recipes(fixes), fixes, strict=True) if run in grid}
    for row in fixed.sort_values("val_below", ascending=False).head(LISTED).itertuples():
        made = "With the usual settings" if row.run in usual else "With other settings"
        lines.append(f"{made}, {in_code(row.run)}: {row.branch} {share_in_words(row.below)}.")
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
        linked = f"[{as_text(best.recipe)}]({hrefs[best.recipe]})"
        told = ", ".join([*([as_text(unit)] if unit != "1" else []), f"{'more' if more else 'less'} is better"])
        if len(rows) < (of := every.recipe[every.branch == of_branch].nunique()):
            told += f"; {len(rows)} of {of} recipes have it"
        lines.append(
            f"Best {of_branch} on val by {in_code(name)} ({told}): **{linked}**, {four_digits(best.val)} there, on "
            f"test {four_digits(best.value)}."
        )
    return lines


def _of_branches(below: pd.DataFrame) -> str:
    # Each branch's range; those with the same one together.
    ranges = below.groupby("branch", sort=False)["below"].agg(["min", "max"])
    found: dict[str, list[str]] = {}
    for branch, least, most in sorted(ranges.itertuples(), key=lambda row: row.Index, reverse=True):
        found.setdefault(from_to(least, most), []).append(branch)
    return ", ".join(f"{' and '.join(branches)} {told}" for told, branches in found.items())


def _lost(below: pd.DataFrame) -> str:
    # How many recipes diverged, but for those of a branch without any number, whose range says it.
    diverged = below.below.isna()
    said = below.recipe[diverged.groupby(below.branch).transform("all")]
    count = below.recipe[diverged & ~below.recipe.isin(said)].nunique()
    return f", {counted(count, 'recipe')} diverged" if count else ""


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
    spans = [from_to(part.below.min(), part.below.max()) for part in (both, alone)]
    if spans[0] == spans[1]:
        return []
    seeds = "one seed each" if pred.n.max() <= 1 else "some of one seed"
    chance = "" if pred.n.min() > 1 else f"; {seeds}, so this may be chance"
    return [
        f"Runs that also reconstruct predict {'better' if helps else 'worse'} on val: on test "
        f"{in_code(both.loss.iloc[0])} of task both is {spans[0]}, of task pred {spans[1]}{chance}."
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
