"""Which of the compared runs learned, and what one parameter changes, in Markdown: all numbers are of the runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

import pandas as pd

from seqae.parameters import EXECUTION, LOSS_FIELDS
from seqae.reports.compare import below_mean_frame, by_epoch, output_spread
from seqae.reports.groups import groups
from seqae.reports.recipes import as_text, in_code, labels, recipes
from seqae.reports.seeds import over_seeds
from seqae.reports.shares import from_to, share_in_words
from seqae.runs import Run, counted, grades

MOST_NAMED = 5  # of more, only the number is said
ALIKE = 0.005  # two recipes end alike if their errors on val differ by less, as a share of the mean frame's
ORDER = "What ends lower is told of the prediction on val, else of the reconstruction:"
FLAT = 0.01  # the error on val is flat where the last epoch changed it by less: from there on, training is on a plateau
CANNOT, COULD, DIVERGED = "cannot learn", "could, but did not learn", "diverged"  # ends of runs; others: their verdict


def which_learn(grid: Sequence[Run], by: str = "loss") -> str:
    """How many runs had the prognosis that they cannot learn, how many learned, and how many could and did not, with
    their values of `by`, a column of `compare.by_epoch`, and the updates that each had: Markdown. Then why the first
    one cannot learn, and of those that could and did not, whether their error on val was still falling; of losses also
    where they ended and how far their outputs depend on the input.
    """
    names, below, ends = labels(grid), below_mean_frame(grid), dict[str, list[str]]()
    for name, run in zip(names, grid, strict=True):
        ends.setdefault(_end(run), []).append(name)
    others = [run for run in grid if _end(run) != CANNOT]
    values = {end: _values(below[below.run.isin(of)], by) for end, of in ends.items()}
    cannot = ends.pop(CANNOT, [])
    told, lines = "No run had the prognosis, before training, that it cannot learn.", list[str]()
    if cannot:
        named = f"{values[CANNOT]}: " if values[CANNOT] else ""
        lines.append(f"{'Of ' * bool(named)}{named}{grid[names.index(cannot[0])].explain().partition('. ')[0]}.")
        did = int(below[below.run.isin(cannot)].groupby("run")["val_below"].max().gt(0).sum())
        they, their, none = ("they", "their", "none did") if len(cannot) > 1 else ("it", "its", "it did not")
        told = (
            f"{len(cannot)} of {len(grid)} runs had the prognosis, before training, that {they} cannot learn "
            f"({named}{their} floor, the least error that {their} last layer can "
            f"put out, is above the mean frame's), and {f'{did} did' if did else none}."
        )
    order = sorted(ends, key=lambda end: (end in (COULD, DIVERGED), end == DIVERGED, end == "learned little", end))
    if order:
        listed = "; ".join(f"{len(ends[end])} {end}{f' ({values[end]})' * bool(values[end])}" for end in order)
        told += f" Of {'the other ' * bool(cannot)}{len(others)}{budget(others)}, {listed}."
    lost = below[below.run.isin(ends.get(COULD, []))]
    if by == "loss":
        lines += [_fell_short(loss, of, grid) for loss, of in lost.groupby("loss")]
    elif len(lost):
        lines.append(_last_epoch(grid, lost.run.unique()))
    words = max((grades(run.verdict or "") for run in grid), key=len)
    words = words.replace("Percentages are of the squared error. From", "By the squared error, from")
    return f"**{told}**\n\n{' '.join([*lines, words])}".strip()


def budget(runs: Sequence[Run]) -> str:
    """*, trained for 60 updates each*, or from how many to how many, but for those that diverged, which ended early; ""
    where one may have stopped early, or all diverged.
    """
    known = [run.parameters for run in runs if not run.diverged]
    if not known or any(p.patience for p in known):
        return ""
    updates = sorted({p.epochs * ceil(p.train_sequences / p.batch_size) for p in known})
    but = " but for those that diverged" if len(known) < len(runs) else ""
    return f", trained for {f'{updates[0]:,} to ' * (len(updates) > 1)}{counted(updates[-1], 'update')} each{but}"


def _end(run: Run) -> str:
    if run.prognosis().startswith(CANNOT):
        return CANNOT
    if run.diverged:
        return DIVERGED
    if not (verdict := run.verdict or "").startswith("learned"):
        return COULD
    return verdict.partition(" (")[0].replace("recon", "recon, given truth" if run.parameters.recon_truth else "recon")


def _values(below: pd.DataFrame, by: str) -> str:
    found = below[by].unique()
    return ", ".join(in_code(str(value)) for value in found) if len(found) <= MOST_NAMED else ""


def _last_epoch(grid: Sequence[Run], names: Sequence[str]) -> str:
    # Of runs that could learn and did not, where the loss that they trained was going on val when they ended.
    curves = by_epoch(grid).query("metric == 'objective'")  # of the grid, since a part of it has other names
    found: dict[str, list[str]] = {}
    for name, curve in curves[curves.run.isin(names)].groupby("run", sort=False):
        losses, told = curve.set_index("epoch")["value"], in_code(name)
        change, best, last = losses.pct_change().iloc[-1], losses.idxmin(), losses.index[-1]
        if best < last:
            found.setdefault(f"least at epoch {best} of {last}", []).append(told)
        elif abs(change) < FLAT:
            found.setdefault(f"flat in the last epoch (changed by less than {100 * FLAT:.0f} %)", []).append(told)
        elif last > 1:
            told += f" ({100 * change:+.1f} %)".replace("-", "−")
            found.setdefault("still falling in the last epoch", []).append(told)
    ways = [f"{w} for {', '.join(of) if len(of) <= MOST_NAMED else counted(len(of), 'run')}" for w, of in found.items()]
    return f"Of those that could and did not, the loss on val was {'; '.join(ways)}." if ways else ""


def _fell_short(loss: str, below: pd.DataFrame, grid: Sequence[Run]) -> str:
    # Of a loss that could learn and did not, what its curves and its outputs say.
    runs = [run for run, name in zip(grid, labels(grid), strict=True) if name in set(below.run)]
    curves = (
        by_epoch(runs).query("metric == 'mse'").pivot_table(index="epoch", columns=["run", "branch"], values="value")
    )
    told = f"{in_code(loss)} ended on val {from_to(below.val_below.min(), below.val_below.max())}"
    if len(change := curves.pct_change(fill_method=None).iloc[-1].dropna()):  # it has two epochs
        flat = f"was flat (changed by less than {100 * FLAT:.0f} %)" if change.abs().max() < FLAT else "was changing"
        flat = "was still falling" if change.max() <= -FLAT else "was rising" if change.min() >= FLAT else flat
        span = " to ".join(dict.fromkeys(f"{100 * end:+.1f} %" for end in (change.min(), change.max())))
        told += f", where its error {flat}: {span} in the last epoch".replace("-", "−")
    shown = [(name, output_spread(x)) for run in runs for name, x in run.samples().items()]
    own, truth = (max(x for name, x in shown if (name == "frames") == true) for true in (False, True))
    told += f"; between sequences, its outputs have a standard deviation of at most {own:.1f} grey levels of 255, "
    return f"{told}the true frames one of {truth:.1f}."


def one_parameter_findings(runs: Sequence[Run], questions: Mapping[str, str] | None = None) -> str:
    """What one parameter changes, as a list in Markdown: where two recipes of a group differ in it and in nothing else,
    by how far each ends below the mean frame on test, the better on val first: by the prediction where both predict,
    else by the reconstruction. "" where there are none. A parameter with more than two values is left to the list of
    `comparison_findings`. Pairs of which a recipe diverged are only counted: it has no error.

    questions: what some of the parameters ask, in words, which stand before their lines, and in this order before all
    others. Of two recipes that both end above the mean frame, the order says nothing of what either learned: these
    pairs are only counted.
    """
    found, left, lost = dict[str, list[_Pair]](), 0, 0
    for group, part in groups(runs).items():
        below = over_seeds(below_mean_frame(part), ["recipe", "branch"], "below")
        below = below.assign(shared=below.branch.str.partition(",")[0])  # recon, given truth or not
        for name, of in _pairs(part):
            rows = below[below.recipe.isin(of)]
            both = rows.groupby("shared").recipe.nunique() == len(of)
            rows = rows[rows.shared.isin(both.index[both])]
            if rows.val_below.isna().any():
                lost += 1
            elif len(rows) and rows.val_below.max() <= 0:
                left += 1
            elif len(rows):
                found.setdefault(name, []).append(_beside(rows, of, group))
    if not found:
        return ""
    seen = {pair.group for pairs in found.values() for pair in pairs}
    asked, lines = questions or {}, list[str]()
    for name in sorted(found, key=lambda name: (name not in asked, [*asked].index(name) if name in asked else name)):
        told = [f"{f'{pair.group}: ' * (len(seen) > 1)}{pair.told}." for pair in sorted(found[name])]
        asks = [asked[name]] if name in asked else []
        lines.append(" ".join(["-", *asks, f"`{name}`: {_won(found[name])}", *told]))
    lone = [pair.lone for pairs in found.values() for pair in pairs]
    whose = "one seed each" if min(lone) == 2 else "recipes without n have one seed"
    chance = f"; {whose}, so small ones may be chance" * any(lone)
    where = f", {min(seen)}" if len(seen) == 1 < len(groups(runs)) else ""
    head = (
        f"Differences by one parameter alone{where}, in squared error on test beside the mean frame's{chance}. {ORDER}"
    )
    everywhere = ", in all groups" * bool(where)
    more = (
        f"- {counted(left, 'pair')} more{everywhere}, of which both are above the mean frame: their order says nothing."
    )
    gone = f"- {counted(lost, 'pair')} more{everywhere}, of which one or both diverged: nothing to compare."
    return "\n".join([head, "", *lines, *([more] if left else []), *([gone] if lost else [])])


class _Pair(NamedTuple):
    """Two recipes that differ in one parameter; better: its value that ends lower, "" where they end alike, None where
    they cannot be ranked; lone: how many of the two have one seed.
    """

    group: str
    told: str
    better: str | None
    lone: int


def _won(pairs: Sequence[_Pair]) -> str:
    better, won = Counter(pair.better for pair in pairs).most_common(1)[0]
    if better is None:
        return f"{counted(won, 'pair')} of {len(pairs)} cannot be ranked: the truth is given to one of the two."
    if 2 * won <= len(pairs):
        return f"neither ends lower in most of {len(pairs)} pairs."
    return f"{f'{better} ends lower' if better else 'both end alike'} in {won} of {counted(len(pairs), 'pair')}."


def _pairs(runs: Sequence[Run]) -> list[tuple[str, dict[str, str]]]:
    # Each parameter in which two recipes alone differ while they agree in all others, and the value of each recipe.
    found: dict[tuple[str, str], dict[str, str]] = {}
    for recipe, run in zip(recipes(runs), runs, strict=True):
        p = run.parameters
        given = p.model_dump(exclude={*EXECUTION, "seed", *LOSS_FIELDS}) | {"loss": p.loss}
        for name, value in given.items():
            others = repr({other: x for other, x in given.items() if other != name})
            found.setdefault((name, others), {})[recipe] = "default" if value is None else str(value)
    return [(name, of) for (name, _), of in found.items() if len(of) == 2]


def _beside(rows: pd.DataFrame, of: Mapping[str, str], group: str) -> _Pair:
    judged = rows[rows.shared == ("pred" if "pred" in set(rows.shared) else "recon")]
    # A reconstruction that is given the truth cannot be ranked beside one that is not.
    ranked, judged = judged.branch.nunique() == 1, judged.set_index("recipe")["val_below"].sort_values(ascending=False)
    told, lone = list[str](), sum(", n = " not in recipe for recipe in of)
    for recipe in judged.index if ranked else of:
        shares = [
            f"{row.branch} {share_in_words(row.below).removesuffix(' the mean frame')}"
            for row in rows[rows.recipe == recipe].sort_values("branch", ascending=False).itertuples()
        ]
        told.append(f"*{as_text(of[recipe])}* ({in_code(recipe)}) {', '.join(shares)}")
    better = told[0].partition(" (")[0] if judged.iloc[0] - judged.iloc[-1] >= ALIKE else ""
    return _Pair(group, "; ".join(told), better if ranked else None, lone)
