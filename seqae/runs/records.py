"""Reads what a run's folder says of the run: run.yaml, and the lock of the process that trains it.

Nothing here needs torch, so commands that only look at runs start at once. `Run` writes these files.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from os import SEEK_END
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import yaml

from seqae import files
from seqae.stores import leased, load_yaml

FORMAT = "1"  # of .records.json, see `remembered`; files of another format are ignored
_known: "dict[str, _Known]" = {}  # by run folder


class RunError(RuntimeError):
    """A run cannot be trained or read; the message says what to do. Nothing recorded is lost."""


class Progress(NamedTuple):
    """The last epoch that was logged, 1 or more, and its objective on val, which may be NaN."""

    epoch: int
    objective: float


class _Known(NamedTuple):
    # A record that was read before: the hash of its text, the record as JSON, and `notes`.
    digest: str
    record: str
    notes: dict[str, Any]


def read_record(folder: Path) -> dict[str, Any]:
    """The content of run.yaml; empty before the run began. Raises RunError if the file is damaged."""
    file = folder / "run.yaml"
    try:
        record = _parsed(str(folder), file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (yaml.YAMLError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict):
        raise RunError(f"{file} is damaged: delete the folder and run it again")
    return record


@contextmanager
def remembered(store: Path) -> Iterator[Path]:
    """While it is open, records of the store that any process has read before are not parsed again.

    Yields the resolved folder of the store; read the records in it. Parsing takes a millisecond a record. What was
    parsed is kept in the store's .records.json with the hash of each record's text, so it is never out of date.
    """
    root = store.resolve()
    file, kept = root / ".records.json", dict[str, Any]()
    with suppress(OSError, ValueError, LookupError, AttributeError, TypeError):
        found = json.loads(file.read_text(encoding="utf-8"))[FORMAT].items()
        kept = {name: _Known(str(digest), str(text), dict(noted)) for name, (digest, text, noted) in found}
    _known.update({f"{root}/{name}": entry._replace(notes={**entry.notes}) for name, entry in kept.items()})
    yield root
    known = {folder.removeprefix(f"{root}/"): entry for folder, entry in sorted(_known.copy().items())}
    there = {name: entry for name, entry in known.items() if name[0] != "/" and (root / name).is_dir()}
    if there != kept:
        with suppress(OSError, TypeError, filelock.Timeout), filelock.FileLock(root / ".records.lock", timeout=0):
            files.remove_leftovers(file)
            files.replace_text(file, json.dumps({FORMAT: there}))


def notes(folder: Path) -> dict[str, Any]:
    """Facts computed from a run's folder, for callers to read and add to, in JSON's types; `remembered` keeps them.

    They are dropped when the record changes. Call `read_record` first.
    """
    return _known.get(str(folder), _Known("", "", {})).notes


def finished(family: Path) -> set[str]:
    """The names of the finished runs in a family's folder. Damaged records are left out."""
    names = set()
    with remembered(family.parent) as store:
        for file in store.glob(f"{family.name}/*/run.yaml"):
            with suppress(RunError):
                names |= {file.parent.name} if read_record(file.parent).get("status") == "done" else set()
    return names


def run_status(folder: Path, record: Mapping[str, Any]) -> str:
    """The status of a run: waiting, running, interrupted, done or failed.

    An interrupted run has lost its process, and resumes when it is run again. record: as `read_record` returned it.
    """
    status = record.get("status", "waiting")
    if status != "running":
        return status
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            now = read_record(folder)["status"]  # it may have changed since `record` was read
            return "interrupted" if now == "running" and not leased(folder) else now
    except filelock.Timeout:
        return "running"


def progress(folder: Path) -> Progress | None:
    """How far a run's training is, read from the end of metrics.csv; None before the first epoch has ended."""
    with suppress(OSError), (folder / "metrics.csv").open("rb") as file:
        file.seek(max(0, file.seek(0, SEEK_END) - 8192))
        for line in reversed(file.read().decode().rpartition("\n")[0].splitlines()):
            if ",val,all,objective," in line:
                return Progress(int(line.split(",")[0]), float(line.split(",")[-1] or "nan"))  # pandas writes no NaN
    return None


def _parsed(folder: str, text: str) -> Any:
    digest, entry = sha256(text.encode()).hexdigest()[:16], _known.get(folder)
    if entry and entry.digest == digest:
        with suppress(ValueError):
            return json.loads(entry.record)  # a copy for each caller, who may change it
    record = load_yaml(text)
    with suppress(TypeError):  # JSON has no dates, for example: such a record is parsed each time
        _known[folder] = _Known(digest, json.dumps(record), {})
    return record
