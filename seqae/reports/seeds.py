"""The one rule by which several runs become one figure: the mean over seeds."""

from collections.abc import Sequence

import pandas as pd


def over_seeds(table: pd.DataFrame, keys: Sequence[str], value: str = "value") -> pd.DataFrame:
    """A row for each of `keys`: `value` is the mean over seeds, each counted once, however often it was run.

    low, high: the least and the largest of the seeds; n: how many have a number, which diverged runs have not. Other
    columns are those of the first row; seconds, val and val_below are means as well. Tables without a column `seed`
    have one run for each seed.
    """
    table = table if "seed" in table else table.assign(seed=table.groupby(list(keys), dropna=False).cumcount())
    means = {name: "mean" for name in ("seconds", "val", "val_below") if name in table} | {value: "mean"}
    others = dict.fromkeys(table.columns.difference([*keys, "seed"], sort=False), "first")
    each = table.groupby([*keys, "seed"], as_index=False, sort=False, dropna=False).agg(others | means)
    each = each.assign(low=each[value], high=each[value], n=each[value])
    spread = others | means | {"low": "min", "high": "max", "n": "count"}
    return each.groupby(list(keys), as_index=False, sort=False, dropna=False).agg(spread)
