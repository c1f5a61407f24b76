"""Metrics as people read them: their units beside their names, their values with four digits."""

from collections.abc import Mapping

from seqae.metrics import UNITS


def label(metric: str, units: Mapping[str, str] = UNITS) -> str:
    """A metric with its unit, for an axis or the head of a column; any other word comes back unchanged.

    units: by metric, where there are others than the built-in ones.
    """
    unit = units.get(metric, "1")
    return metric if unit == "1" else f"{metric} {unit}" if unit.startswith("per ") else f"{metric}, {unit}"


def four_digits(value: float) -> str:
    """A number with four significant digits, for tables and texts."""
    return f"{value:#.4g}".removesuffix(".")
