"""Metrics as people read them: their units beside their names, their values with four digits."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from seqae.metrics import UNITS
from seqae.runs.records import own_metrics_of

if TYPE_CHECKING:
    import pandas as pd


def label(metric: str, units: Mapping[str, str] = UNITS) -> str:
    """A metric with its unit, for an axis or the head of a column; any other word comes back unchanged.

    units: by metric, where there are others than the built-in ones.
    """
    unit = units.get(metric, "1")
    return metric if unit == "1" else f"{metric} {unit}" if unit.startswith("per ") else f"{metric}, {unit}"


def with_units(table: "pd.DataFrame", records: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """A table that has a column metric, with a column unit: of the metrics of your own that these records have.

    The same table where they have none.
    """
    units = {name: of["unit"] for record in records for name, of in own_metrics_of(record).items()}
    return table.assign(unit=table["metric"].map(units)) if units else table


def duration(seconds: float) -> str:
    """Seconds as people say them: 12.3 s, 0:02:05 from one minute on, 5 days 9 h from one day on."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 86400:
        return str(timedelta(seconds=round(seconds)))
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days:,} day{'s' * (days > 1)} {hours} h"


def counted(number: int, word: str) -> str:
    """How many of something: "1 run", "1,200 runs"."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def four_digits(value: float) -> str:
    """A number with four significant digits, for tables and texts."""
    return f"{value:#.4g}".removesuffix(".")
