"""What a page concludes, in sentences of Markdown: every number is computed from the runs."""

from collections.abc import Mapping, Sequence
from html import escape
from math import isinf

import pandas as pd

from seqae.reports.compare import below_mean_frame, finals
from seqae.reports.groups import groups
from seqae.reports.published import diary_results
from seqae.reports.recipes import report_links
from seqae.reports.seeds import over_seeds
from seqae.runs import Run, four_digits, grades, own_metrics_of

LISTED = 20  # lines of one kind


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
    """How far below the mean frame the compared runs end, as a list in Markdown; each of `groups` for itself.

    Names the recipe that is best on val in each branch, by MSE and by each metric of your own, then gives the range on
    test for each value of the column `by` of `compare.by_epoch`, the best on val first, then each of `fixes`. A figure
    of a recipe is the mean over its seeds.
    branch: the only one to report; None: all.
    """
    several, lines = groups(grid), []
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
    for name in dict.fromkeys(below.branch[below.val_below.notna()]):  # by branch: a reconstruction is the easier task
        best = below.loc[below.val_below[below.branch == name].idxmax()]
        on_val, on_test = _beside_mean_frame(best.val_below), _beside_mean_frame(best.below)
        linked = f"[{escape(best.run)}]({hrefs[best.run]})"
        lines.append(f"Best {name} on val: **{linked}**, {on_val} there, on test {on_test}.")
    lines += _by_own_metrics(grid, branch, hrefs)
    spans = below.groupby(by).agg(
        least=("below", "min"),
        most=("below", "max"),
        val=("val_below", "max"),
        size=("below", "size"),
        count=("below", "count"),
    )
    for value, least, most, _, size, count in spans.sort_values("val", ascending=False).head(LISTED).itertuples():
        lost = f", {size - count} without a number, because they diverged" if 0 < count < size else ""
        told = _from_to(least, most) + (f", {size} branches" if size > 1 else "")
        lines.append(f"`{escape(str(value))}`: on test {told}{lost}.")
    fixed = _of_recipes(fixes) if fixes else below.head(0)
    for row in fixed.sort_values("val_below", ascending=False).head(LISTED).itertuples():
        told = _beside_mean_frame(row.below)
        lines.append(f"With or without a fix, `{escape(row.run)}`: {row.branch} on test {told}.")
    if (found := max(len(spans), len(fixed))) > LISTED:
        lines.append(f"This list holds the {LISTED} with the least error on val of {found:,}; the table holds all.")
    return lines


def _by_own_metrics(grid: Sequence[Run], branch: str | None, hrefs: Mapping[str, str]) -> list[str]:
    # The recipe that is best on val by each metric of one's own, in each branch.
    own = {name: of for run in grid for name, of in own_metrics_of(run.record()).items()}
    table = finals(grid)
    table = table[table.metric.isin(own) & table.val.notna() & ((table.branch == branch) | (branch is None))]
    lines = []
    for (name, of_branch), rows in over_seeds(table, ["metric", "branch", "recipe"]).groupby(["metric", "branch"]):
        if rows.val.nunique() == 1 < len(rows):  # none is better than the others
            continue
        more, unit = bool(own[name].get("more_is_better")), own[name]["unit"]
        best = rows.loc[rows.val.idxmax() if more else rows.val.idxmin()]
        linked = f"[{escape(best.recipe)}]({hrefs[best.recipe]})"
        told = ", ".join([*([escape(unit)] if unit != "1" else []), f"{'more' if more else 'less'} is better"])
        lines.append(
            f"Best {of_branch} on val by `{name}` ({told}): **{linked}**, {four_digits(best.val)} there, on test "
            f"{four_digits(best.value)}."
        )
    return lines


def _of_recipes(runs: Sequence[Run]) -> pd.DataFrame:
    # `below_mean_frame`, a row for each recipe and branch: means over seeds.
    return over_seeds(below_mean_frame(runs), ["recipe", "branch"], "below").assign(run=lambda t: t.recipe)


def diary_order(grid: Sequence[Run]) -> str:
    """Whether the losses rank as in the diary, in a sentence of Markdown.

    For each way and branch with at least three losses: Spearman's rank correlation of the MSE on val, a mean over
    seeds, with the diary's, on val as well. Only runs of the diary's own architecture count. A diverged run ranks last,
    and losses that are equal in the diary may stand in either order.
    """
    each = ["task", "decoder_input", "branch"]
    table = below_mean_frame(grid).query("architecture == 'lstm_copy' and gain == 1")
    ours = over_seeds(table, [*each, "loss"], "val")
    both = ours.merge(diary_results(), on=[*each, "loss"]).groupby(each)
    ranked = [part[["val", "mse"]].rank(na_option="bottom") for _, part in both if len(part) > 2]
    correlations = [ranks.val.corr(ranks.mse) for ranks in ranked]  # Pearson's of the ranks is Spearman's
    if not correlations:
        return "Too few losses to compare their order with the diary's."
    same = sum(ranks.sort_values(["mse", "val"]).val.is_monotonic_increasing for ranks in ranked)
    return (
        f"In **{same} of {len(correlations)}** branches the losses have the order of the diary's own runs; "
        f"Spearman's rank correlation is {min(correlations):.2f} or more."
    )


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
        return f"{first.removesuffix(f' {side}')} to {last}"
    return f"{first} to {last.replace('the mean frame', 'it')}"
