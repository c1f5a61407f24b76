"""A run beside the same run made again: curves, final figures, circumstances, and whether they are identical."""

from html import escape

import numpy as np
import pandas as pd

from seqae.runs import Run


def paired_verdicts(then: Run, again: Run) -> str:
    """Which run this is, and the verdicts of both, in a line of Markdown."""
    return escape(f"{then.family}/{then.name}, verdicts on val, then: {then.verdict}; again: {again.verdict}.")


def paired_curves(then: Run, again: Run) -> pd.DataFrame:
    """Val metrics by epoch of both runs: the columns of metrics.csv, and made, "then" or "again"."""
    tables = [run.metrics().query("split == 'val'") for run in (then, again)]
    return pd.concat([tables[0].assign(made="then"), tables[1].assign(made="again")], ignore_index=True)


def paired_finals(then: Run, again: Run) -> pd.DataFrame:
    """Test metrics of both runs, means over frames: branch, metric, unit, then, again, difference (again - then)."""
    keys = ["branch", "metric", "unit"]
    first, second = (run.test().query("frame.isna()")[[*keys, "value"]] for run in (then, again))
    both = first.merge(second, how="outer", on=keys).set_axis([*keys, "then", "again"], axis=1)
    return both.assign(difference=both.again - both.then)


def paired_circumstances(then: Run, again: Run) -> pd.DataFrame:
    """Code, versions and machine of both runs, a row each: then, again, and same ("same" or "differs")."""
    known = all("processor" in run.record() for run in (then, again))  # not by versions before 29 November 2026
    machine = ["machine", *(["processor"] if known else []), "device", "threads"]
    sides = {}
    for made, run in (("then", then), ("again", again)):
        record = run.record()
        dirty = {None: None, True: "yes", False: "no"}[record.get("dirty")]
        code = {"commit": record.get("commit"), "uncommitted changes": dirty}
        code |= {"sources": record.get("sources"), **record.get("versions", {})}
        sides[made] = code | {key: record.get(key) for key in machine}
    table = pd.DataFrame(sides).map(lambda value: "not recorded" if pd.isna(value) else str(value))
    return table.assign(same=(table.then == table.again).map({True: "same", False: "differs"}))


def rerun_findings(then: Run, again: Run) -> str:
    """One line: identical to the last bit, or the largest relative difference of val MSE and of the test metrics."""
    val = _differences(then, again, "metrics", ["split", "branch", "metric", "epoch"])
    val = val.query("metric == 'mse' and split == 'val'")
    test = _differences(then, again, "test", ["branch", "metric", "frame"])
    if (val.share == 0).all() and (test.share == 0).all():
        return f"Identical to the last bit: all {len(val)} values of val MSE by epoch and all {len(test)} test metrics."
    return f"Not identical: val MSE values {_largest(val, 'epoch')}; test metrics {_largest(test, 'frame')}."


def _differences(then: Run, again: Run, table: str, keys: list[str]) -> pd.DataFrame:
    # The values of the metrics that both runs recorded, read to the last bit, and share, the relative difference:
    # infinite where one run has no value, or NaN, and the other a number.
    first, second = (pd.read_csv(run.folder / f"{table}.csv", float_precision="round_trip") for run in (then, again))
    if table == "test":  # a run that diverged has no figures, whatever an earlier version recorded
        first, second = (t.assign(value=np.nan) if r.diverged else t for t, r in ((first, then), (second, again)))
    both = first.merge(second, how="outer", on=keys, suffixes=("_then", "_again"))
    both = both[both.metric.isin({*first.metric} & {*second.metric})]
    same = (both.value_then == both.value_again) | (both.value_then.isna() & both.value_again.isna())
    share = ((both.value_again - both.value_then) / both.value_then).abs().fillna(float("inf"))
    return both.assign(share=share.where(~same, 0.0))


def _largest(both: pd.DataFrame, step: str) -> str:
    if (both.share == 0).all():
        return f"are identical to the last bit ({len(both)})"
    worst = both.loc[both.share.idxmax()]
    where = f"{worst.branch} {worst.metric}" + (f", {step} {worst[step]:.0f}" if worst[step] == worst[step] else "")
    most = f" by up to {100 * worst.share:.2g} %" if worst.share < float("inf") else ""
    return f"differ{most} ({where}: {worst.value_then:.6g} then, {worst.value_again:.6g} again)"
