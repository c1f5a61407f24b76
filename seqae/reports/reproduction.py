"""TODO"""

from pathlib import Path

import pandas as pd

from seqae.files import store_folder
from seqae.parameters import ParameterError, Parameters
from seqae.runs import Run, read_record


def recorded(folder: str | Path) -> Run:
    """The run of a folder (a relative one seen from the store), also where today's code does not know its parameters:
    then only what is recorded can be read. Raises RunError if the folder holds none.
    """
    folder = store_folder() / folder
    try:
        return Run.load(folder)
    except ParameterError:
        record = read_record(folder)
        parameters = Parameters.model_construct(**record["parameters"])
        return Run(folder.resolve(), record["family"], parameters, record["differs"])


def curves(then: Run, again: Run) -> pd.DataFrame:
    """Val metrics by epoch of both: the columns of metrics.csv, and made, "then" or "again"."""
    tables = [run.metrics().query("split == 'val'") for run in (then, again)]
    return pd.concat([tables[0].assign(made="then"), tables[1].assign(made="again")], ignore_index=True)


def finals(then: Run, again: Run) -> pd.DataFrame:
    """Test metrics, means over frames, of both: branch, metric, unit, then, again, difference."""
    keys = ["branch", "metric", "unit"]
    first, second = (run.test().query("frame.isna()")[[*keys, "value"]] for run in (then, again))
    both = first.merge(second, how="outer", on=keys).set_axis([*keys, "then", "again"], axis=1)
    return both.assign(difference=both.again - both.then)


def circumstances(then: Run, again: Run) -> pd.DataFrame:
    """Code, versions and machine of both, a row each: then, again, and whether they are the same."""
    sides = {}
    for made, run in (("then", then), ("again", again)):
        record = run.record()
        code = {"commit": record["commit"], "uncommitted changes": {True: "yes", False: "no"}[record["dirty"]]}
        sides[made] = code | record["versions"] | {key: record.get(key) for key in ("machine", "device", "threads")}
    table = pd.DataFrame(sides).map(lambda value: "not recorded" if pd.isna(value) else str(value))
    return table.assign(same=(table.then == table.again).map({True: "same", False: "differs"}))


def conclude(then: Run, again: Run) -> str:
    """In one line: the same to the last bit, or the largest relative difference of val mse and of the test figures."""
    val = _paired(then, again, "metrics", ["split", "branch", "metric", "epoch"])
    val = val.query("metric == 'mse' and split == 'val'")
    test = _paired(then, again, "test", ["branch", "metric", "frame"])
    if (val.share == 0).all() and (test.share == 0).all():
        return f"Identical to the last bit: all {len(val)} val mse by epoch and all {len(test)} figures on test."
    return f"Not identical: val mse {_difference(val, 'epoch')}; figures on test {_difference(test, 'frame')}."


def _paired(then: Run, again: Run, table: str, keys: list[str]) -> pd.DataFrame:
    # What both recorded of the metrics that both have, read to the last bit, and the share by which again differs:
    # infinite where one has nothing, or NaN, and the other a number.
    first, second = (pd.read_csv(run.folder / f"{table}.csv", float_precision="round_trip") for run in (then, again))
    both = first.merge(second, how="outer", on=keys, suffixes=("_then", "_again"))
    both = both[both.metric.isin({*first.metric} & {*second.metric})]
    same = (both.value_then == both.value_again) | (both.value_then.isna() & both.value_again.isna())
    share = ((both.value_again - both.value_then) / both.value_then).abs().fillna(float("inf"))
    return both.assign(share=share.where(~same, 0.0))


def _difference(both: pd.DataFrame, step: str) -> str:
    if (both.share == 0).all():
        return f"identical to the last bit ({len(both)})"
    worst = both.loc[both.share.idxmax()]
    where = f"{worst.branch} {worst.metric}" + (f", {step} {worst[step]:.0f}" if worst[step] == worst[step] else "")
    most = f" by up to {100 * worst.share:.2g} %" if worst.share < float("inf") else ""
    return f"differ{most} ({where}: {worst.value_then:.6g} then, {worst.value_again:.6g} again)"
