"""The lines of the index: runs, and above those that differ only by seed one line for their setting."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any, NamedTuple, TypedDict

import pandas as pd

from seqae.reports.seeds import over_seeds

SEEDS_NAMED = 8  # of more seeds a line gives the number alone


class ComparisonData(TypedDict):
    """What the index page needs to draw a finished run beside others."""

    steps: dict[str, list[float]]  # by branch: test MSE of each frame step
    mean_frame: dict[str, float]  # by branch: test MSE of the mean frame
    sequences: str  # its data and budget, see `groups`: equal for runs that are comparable


@dataclass(frozen=True)
class IndexRow:
    """One run in the index. `href` is an unquoted path relative to the index."""

    family: str
    name: str
    href: str
    status: str
    verdict: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    picture: str | None = None  # a data URI, see `thumbnail`
    started: str = ""
    duration_s: float | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    comparison: ComparisonData | None = None  # with it, the run can be selected for comparison
    defined: Mapping[str, str] = field(default_factory=dict)  # all parameters, for the filter
    own_metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # unit, more_is_better
    setting: str | None = None  # equal for runs of a family that differ only by seed
    seed: int | None = None


class Spread(NamedTuple):
    """A figure of several seeds, each counted once. n: how many have a number, which diverged runs have not."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Setting:
    """All runs of a family that differ only by seed, whatever became of them."""

    runs: Sequence[IndexRow]
    metrics: Mapping[str, Spread]  # by column

    @property
    def family(self) -> str:
        return self.runs[0].family

    @property
    def key(self) -> str:
        """Its name in the address of a view, which stays when seeds are added."""
        return f"{self.family}/{self.runs[0].setting}"

    @property
    def name(self) -> str:
        """The name of its first run without hash and seed."""
        words = re.sub(r"-[0-9a-f]{8}(-\d+)?$", "", self.runs[0].name)
        return re.sub(rf"-seed{self.runs[0].seed}(?=-|$)", "", words)

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs if run.seed is not None})

    @property
    def told(self) -> str:
        """How many seeds, and which."""
        again = f" in {len(self.runs)} runs" if len(self.runs) > len(self.seeds) else ""
        which = f": {', '.join(map(str, self.seeds))}" if len(self.seeds) <= SEEDS_NAMED else ""
        return f"n = {len(self.seeds)} seeds{again}{which}"

    @property
    def differs(self) -> dict[str, str]:
        """What its runs have in common of that in which they differ from the family's defaults."""
        first, *others = [run.parameters.items() for run in self.runs]
        return {key: value for key, value in first if all((key, value) in other for other in others)}

    @property
    def states(self) -> dict[str, str]:
        """Each status of its runs, with how many have it where they have several."""
        return _counted([run.status for run in self.runs])

    @property
    def verdicts(self) -> dict[str, str]:
        """Each verdict of its runs: without numbers where these differ, and with how many have it where several are."""
        told = [run.verdict for run in self.runs if run.verdict]
        return _counted(told if len({*told}) == 1 else [re.split(r" \(|:", verdict)[0] for verdict in told])

    @property
    def duration_s(self) -> float | None:
        """The mean of its runs."""
        known = [run.duration_s for run in self.runs if run.duration_s is not None]
        return sum(known) / len(known) if known else None


class Line(NamedTuple):
    """A setting with several seeds, or a run that is alone."""

    setting: Setting | None
    runs: Sequence[IndexRow]


def lines(rows: Sequence[IndexRow]) -> list[Line]:
    """Runs of one setting together, by seed, at the place of the first of them; where there are several seeds."""
    seeds: dict[tuple[str, str | None], set[int | None]] = {}
    for row in rows:
        seeds.setdefault((row.family, row.setting), set()).add(row.seed)
    together: dict[object, list[IndexRow]] = {}
    for i, row in enumerate(rows):
        several = row.setting is not None and len(seeds[row.family, row.setting]) > 1
        together.setdefault((row.family, row.setting) if several else i, []).append(row)
    found = [sorted(runs, key=lambda row: row.seed or 0) for runs in together.values()]
    spreads = _spreads([runs for runs in found if len(runs) > 1])
    return [Line(Setting(runs, next(spreads)) if len(runs) > 1 else None, runs) for runs in found]


def figures(of: Setting | IndexRow, columns: Iterable[str]) -> str:
    """The figures of a line by column, in JSON: a number, mean, least and largest of several seeds, or null."""
    found = [of.metrics.get(column) for column in columns]
    several = [list(figure[:3]) if isinstance(figure, Spread) else [figure] for figure in found]
    told = [[float(f"{x:.7g}") for x in some if x is not None and isfinite(x)] for some in several]
    return json.dumps([(some[0] if len(some) == 1 else some) if some else None for some in told])


def _spreads(settings: Sequence[Sequence[IndexRow]]) -> Iterator[dict[str, Spread]]:
    if not settings:
        return iter(())
    values = [
        (i, row.seed, column, value)
        for i, runs in enumerate(settings)
        for row in runs
        for column, value in row.metrics.items()
    ]
    table = over_seeds(pd.DataFrame(values, columns=["setting", "seed", "column", "value"]), ["setting", "column"])
    found: list[dict[str, Spread]] = [{} for _ in settings]
    for setting, column, *spread in table[["setting", "column", "value", "low", "high", "n"]].itertuples(index=False):
        found[setting][column] = Spread(*spread)
    return iter(found)


def _counted(words: Sequence[str]) -> dict[str, str]:
    counts = Counter(words)
    return {word: f"{word} ×{count}" if len(counts) > 1 else word for word, count in counts.items()}
