"""The tables of many runs as one, with the run, its recipe, its group and its `FACETS` beside each row.

A comparison makes many tables of the same runs. What was read is kept, and read again once a file has changed.
"""

from collections.abc import Sequence
from functools import lru_cache
from io import StringIO

import pandas as pd

from seqae.reports.groups import groups
from seqae.reports.recipes import labels, recipes
from seqae.reports.unchanged import states, while_unchanged
from seqae.runs import Run, whole_lines

FACETS = ("loss", "task", "decoder_input", "architecture", "gain", "optimizer", "precision", "frame_size", "seed")


def stack(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """NAME.csv of all run folders in one table, with run, recipe, group and `FACETS` added.

    All files are parsed at once: parsing each by itself took ten times as long.
    """
    return _stacked(tuple(runs), name, states(runs, f"{name}.csv"), states(runs, "run.yaml")).copy()


@lru_cache(maxsize=8)
def _stacked(runs: tuple[Run, ...], name: str, files: object, records: object) -> pd.DataFrame:
    rows: dict[str, list[str]] = {}  # by header, which can differ between versions
    for number, run in enumerate(runs):
        header, *lines = whole_lines(run.folder / f"{name}.csv")
        rows.setdefault(header, []).extend(f"{number},{line}" for line in lines)
    parts = [pd.read_csv(StringIO("\n".join([f"number,{header}", *lines]))) for header, lines in rows.items()]
    table = pd.concat(parts).sort_values("number", kind="stable", ignore_index=True)
    if name == "test":  # a run that diverged has no figures, whatever an earlier version recorded
        table["value"] = table["value"].mask(table.number.isin([i for i, run in enumerate(runs) if run.diverged]))
    return with_facets(table, runs)


def with_facets(table: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """A table with run, recipe, group and `FACETS` in place of its column `number`, the place of a run in `runs`."""
    added = facets(runs)
    if "branch" in table:  # a recon decoder that reads the truth predicts one step, so it gets a name of its own
        given = table.number.map(dict(enumerate(run.parameters.recon_truth for run in runs))).astype(bool)
        table["branch"] = table.branch.mask(given & (table.branch == "recon"), "recon, given truth")
    table = table.drop(columns=added.columns, errors="ignore")  # performance.csv has some of them itself
    return table.join(added, on="number").drop(columns="number")


@while_unchanged("run.yaml")
def facets(runs: Sequence[Run]) -> pd.DataFrame:
    """What `with_facets` adds, a row for each run. Names of recipes say how many seeds diverged."""
    columns = {name: [getattr(run.parameters, name) for run in runs] for name in FACETS}
    of = {run: name for name, group in groups(runs).items() for run in group}
    named = {"run": labels(runs), "recipe": recipes(runs), "group": [of[run] for run in runs]}
    return pd.DataFrame(named | columns)
