"""What sequence autoencoders learned, in sentences of Markdown: every number is computed from tables of runs."""

from collections.abc import Callable, Sequence

import pandas as pd

from seqae.reports.recipes import recipes
from seqae.runs import Run

_TARGETS = ("all digits", "each digit", "positions", "velocities")


def representation_findings(
    probes: pd.DataFrame, horizon: pd.DataFrame, labelled: pd.DataFrame, *, by: str | None = None
) -> str:
    """Four sentences: what the state holds, what prediction adds to reconstruction, how far a prediction carries beyond
    its training, with how few labels unsupervised training pays.

    probes, horizon, labelled: as `linear_probes`, `longer_horizon` and `few_labels`, of one run, or of several with the
    columns run and `by`, which is task. Of several runs the mean is told, with the least and the largest.
    """
    lines = [_holds(probes), _adds(probes, by), _carries(horizon, by), _pays(labelled, by)]
    return "\n".join(f"{number}. {line}".replace("%", " %") for number, line in enumerate(lines, start=1))


def measured_of(runs: Sequence[Run], measure: Callable[[Run], pd.DataFrame]) -> pd.DataFrame:
    """What `Run.measured` returns for each run, in one table with the columns run, task and seed before. Runs that have
    no rows, as those that predict nothing, and runs that diverged are not in it; of several runs of one recipe and
    seed, the last is. Raises ValueError where all have diverged.
    """
    seeds = {
        (name, run.parameters.seed): run for name, run in zip(recipes(runs), runs, strict=True) if not run.diverged
    }
    if not seeds:
        raise ValueError("all of these runs diverged: nothing that they learned can be measured")
    tables = [(run, run.measured(measure)) for run in seeds.values()]
    named = [
        table.assign(run=run.name, task=run.parameters.task, seed=run.parameters.seed)
        for run, table in tables
        if len(table)
    ]
    return pd.concat(named, ignore_index=True) if named else tables[0][1]


def falls_apart(horizon: pd.DataFrame) -> int | None:
    """The first frame step from which a prediction is no better than the mean frame to the end; None if it is.

    horizon: as `longer_horizon`, of one run or the mean of several.
    """
    table = horizon.pivot_table(index="frame", columns="source", values="value").sort_index()
    better = table["model"] < table["mean frame"]
    if better.iloc[-1]:
        return None
    return int(table.index[0] if not better.any() else better[better].index[-1] + 1)


def _holds(probes: pd.DataFrame) -> str:
    parts = []
    for target in _TARGETS:
        part = probes[probes.target == target]
        of = part.groupby("features")["gained"].mean()
        others = of.drop("state")
        best = others.idxmax()
        parts.append(f"{target} {of['state']:.0%} (best without training: {best}, {others.max():.0%})")
    train, test = int(probes.train.iloc[0]), int(probes.test.iloc[0])
    return (
        "**What the state holds.** How far linear probes of the state go from chance to ceiling, on test: "
        f"{', '.join(parts)}; trained on {train:,} sequences of val, tested on {test:,} of unseen digits."
    )


def _adds(probes: pd.DataFrame, by: str | None) -> str:
    state = probes[probes.features == "state"]
    tasks = set(state[by]) if by else set()
    if not {"recon", "pred", "both"} <= tasks:
        return "**What prediction adds.** It takes runs of recon, pred and both to show it: see the comparison."
    told, more = [], []
    for target in _TARGETS:
        part = state[state.target == target]
        gains = {task: part[part[by] == task]["gained"] for task in ("recon", "pred", "both")}
        spans = [f"{task} {gain.mean():.0%} ({gain.min():.0%} to {gain.max():.0%})" for task, gain in gains.items()]
        told.append(f"{target}: {', '.join(spans)}")
        if gains["both"].min() > max(gains["recon"].max(), gains["pred"].max()):
            more.append(target)
    each = (
        state[state.target == _TARGETS[0]].groupby(by)["seed"].agg(["nunique", "size"]).loc[["recon", "pred", "both"]]
    )
    seeds, one_recipe = each["nunique"].min(), (each["nunique"] == each["size"]).all()
    among = f"{seeds} seeds" if one_recipe else "runs that differ in more than the seed"
    claim = f"more of {' and of '.join(more)} than either" if more else "no more of anything than the better of the two"
    if seeds < 2:
        why = "One seed of each task cannot show it"
        return f"**What prediction adds.** {why}. Shares of the way from chance to ceiling, on test: {'; '.join(told)}."
    return (
        f"**What prediction adds.** Beyond the spread of {among}, the composite model knows {claim}. Shares of "
        f"the way from chance to ceiling, on test, mean (least to largest): {'; '.join(told)}."
    )


def _carries(horizon: pd.DataFrame, by: str | None) -> str:
    if horizon.empty:
        return "**How far it carries.** This run predicts nothing."
    parts = dict(iter(horizon.groupby(by))) if by else {"the prediction": horizon}
    told = []
    for name, part in parts.items():
        frame = falls_apart(part)
        until = (
            f"better than the mean frame up to step {frame - 1}" if frame else "better than the mean frame to the end"
        )
        told.append(f"{name} is {'never better than the mean frame' if frame == 1 else until}")
    trained, asked = int(horizon.trained.max()), int(horizon.frame.max())
    return f"**How far it carries.** Trained on {trained} frames to come and asked for {asked}, {', '.join(told)}."


def _pays(labelled: pd.DataFrame, by: str | None) -> str:
    parts = dict(iter(labelled.groupby(by))) if by else {"": labelled}
    told = []
    for name, part in parts.items():
        means = part.pivot_table(index="labels", columns="start", values="value").sort_index()
        each = part.groupby(["start", "labels"])["value"]
        low, high = each.min(), each.max()
        pays = [int(n) for n in means.index if low["trained", n] > high["random", n]]
        harms = [f"{n:,}" for n in means.index if high["trained", n] < low["random", n]]
        last = means.iloc[-1]
        beats = "every draw from the trained encoder beat{} every draw from random weights"
        claim = (
            f"with {', '.join(f'{n:,}' for n in pays)} labels {beats.format('s')}"
            if pays
            else f"at no number of labels does {beats.format('')}"
        )
        claim += f"; with {', '.join(harms)} every draw from random weights beats every one from it" * bool(harms)
        told.append(
            (f"{name}: {claim}" if name else claim[0].upper() + claim[1:])
            + f" (with {int(means.index[-1]):,}: {last['trained']:.0%} of test's digits found against "
            f"{last['random']:.0%}, by a probe {last['probe']:.0%})"
        )
    chance, ceiling = labelled.chance.mean(), labelled.ceiling.mean()
    return f"**With how few labels it pays.** {'; '.join(told)}; chance is {chance:.0%}, the ceiling {ceiling:.0%}."
