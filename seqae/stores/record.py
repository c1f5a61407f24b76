"""What run.yaml may say: its entries and their types, checked whenever it is read."""

from collections.abc import Mapping
from typing import Any

import yaml

from seqae.stores.yaml_text import load_yaml

RECORD_FORMAT = 1  # of run.yaml, its entry `format`; records without one are of earlier versions and of this format
STATUSES = ("running", "done", "failed")  # what a record says; others are found out by looking at the run's folder
NUMBER, NONE = (int, float), type(None)  # tuples, which isinstance takes in half the time that unions take
_TYPES: Mapping[Any, str] = {
    dict: "parameters differs versions results benchmark clips code went_on measured planned_from",
    str: "family started ended commit sources git machine processor device explanation explained cells began_anew",
    NUMBER: "format seconds weights epochs threads",
    (str, NONE): "reason verdict",
    (*NUMBER, NONE): "peak_memory_bytes hidden reach",
    bool: "dirty",
    list: "resumed",
}
_PARTS: Mapping[tuple[str, str], Any] = {  # of entries that are mappings: what their own entries are
    ("code", "metrics"): dict, ("code", "packages"): dict, ("code", "files"): list, ("clips", "grey"): str,
    ("clips", "splits"): dict, ("went_on", "without"): list,
    ("planned_from", "file"): str, ("planned_from", "scale"): str, ("planned_from", "given"): dict,
}  # fmt: skip
LARGEST = 1e13  # of any number: more seconds than a time can be, and 10 TB
ENTRIES = {name: expected for expected, names in _TYPES.items() for name in names.split()}  # others may be anything


class RecordError(ValueError):
    """A run.yaml is not what it should be; the message says what is wrong with it."""


class NewerFormatError(RecordError):
    """A run.yaml was written by a newer version of this package."""


def parse_record(text: str) -> dict[str, Any]:
    """The content of a run.yaml. Raises RecordError if it is damaged, NewerFormatError if it is of a newer version."""
    try:
        record = load_yaml(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecordError(f"no YAML: {error.problem or error.context}{line}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # a date of month 13, for example
        raise RecordError(f"no YAML: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from None
    return checked_record(record)


def checked_record(record: Any) -> dict[str, Any]:
    """The record itself, if each entry has its type. Raises as `parse_record`."""
    if not isinstance(record, dict):
        raise RecordError(f"it holds {_named(record)}, not entries")
    if isinstance(form := record.get("format"), int) and form > RECORD_FORMAT:
        raise NewerFormatError(
            f"was written by a newer seqae, in format {form}; this one reads format {RECORD_FORMAT}: "
            "install the newer one"
        )
    for name, expected in ENTRIES.items():
        value = record.get(name, _MISSING)
        if value is _MISSING or (isinstance(value, expected) and (expected is bool or not isinstance(value, bool))):
            if isinstance(value, NUMBER) and not abs(value) < LARGEST:  # nor NaN
                raise RecordError(f"{name} must be a number below {LARGEST:g}; not {_named(value)}")
            continue
        raise RecordError(f"{name} must be {_WORDS[expected]}; not {_named(value)}")
    for (name, part), expected in _PARTS.items():
        value = record.get(name, {}).get(part, expected())
        if not isinstance(value, expected) or (expected is list and not all(isinstance(item, str) for item in value)):
            texts = " of texts" if expected is list else ""
            raise RecordError(f"{part} of {name} must be {_WORDS[expected]}{texts}; not {_named(value)}")
    if record.get("status", "done") not in STATUSES:
        raise RecordError(f"status must be one of {', '.join(STATUSES)}; not {record['status']!r}")
    for name in ("parameters", "differs", "results"):
        if odd := [key for key in record.get(name, ()) if not isinstance(key, str)]:
            raise RecordError(f"{name} has the key {odd[0]!r}, which is no name")
    for key, value in record.get("results", {}).items():
        if not isinstance(value, NUMBER) or isinstance(value, bool) or len(key.split()) != 2:
            raise RecordError(f"results must map BRANCH METRIC to a number; not {key!r} to {_named(value)}")
    for part in record.get("resumed", ()):
        if not isinstance(part, dict) or not isinstance(part.get("commit"), str):
            raise RecordError(f"resumed must list commits; not {_named(part)}")
    return record


def _named(value: Any) -> str:
    return "null" if value is None else repr(value)[:40]


_MISSING = object()
_WORDS: Mapping[Any, str] = {
    dict: "a mapping", list: "a list", str: "a text", NUMBER: "a number", bool: "true or false",
    (str, NONE): "a text or null", (*NUMBER, NONE): "a number or null",
}  # fmt: skip
