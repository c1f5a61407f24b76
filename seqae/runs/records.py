"""What a run's folder says of the run: run.yaml and the lock of whoever trains it. Nothing here needs torch, so that
commands which only look start at once. A `runs.Run` writes it.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from os import SEEK_END
from pathlib import Path
from typing import Any

import filelock
import yaml

from seqae import files
from seqae.files import load_yaml
from seqae.stores import leased

FORMAT = "1"  # of what `remembered` keeps; another one is not read
_known: dict[str, tuple[str, str, dict[str, Any]]] = {}  # by run folder: its record's hash, that as JSON, `notes`


class RunError(RuntimeError):
    """A run cannot be trained or read; the message says what to do. Nothing recorded is lost."""


def read_record(folder: Path) -> dict[str, Any]:
    """run.yaml as it stands; empty before the run began. Raises RunError where it is damaged."""
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
    """While all of a store's records are looked at, in the folder that this yields: what any process has read before is
    not parsed again, which takes a millisecond each. Kept in .records.json there, with the hash of each record's text,
    so that none is out of date.
    """
    root = store.resolve()
    file, kept = root / ".records.json", dict[str, Any]()
    with suppress(OSError, ValueError, LookupError, AttributeError, TypeError):
        found = json.loads(file.read_text(encoding="utf-8"))[FORMAT].items()
        kept = {name: (str(digest), str(text), dict(noted)) for name, (digest, text, noted) in found}
    _known.update({f"{root}/{name}": (digest, text, {**noted}) for name, (digest, text, noted) in kept.items()})
    yield root
    known = {folder.removeprefix(f"{root}/"): entry for folder, entry in sorted(_known.copy().items())}
    there = {name: entry for name, entry in known.items() if name[0] != "/" and (root / name).is_dir()}
    if there != kept:
        with suppress(OSError, TypeError, filelock.Timeout), filelock.FileLock(root / ".records.lock", timeout=0):
            files.replace_text(file, json.dumps({FORMAT: there}))


def notes(folder: Path) -> dict[str, Any]:
    """What was worked out from the folder since its record is as `read_record` read it last, in JSON's types; for more
    to be added, which `remembered` keeps.
    """
    return _known.get(str(folder), ("", "", {}))[2]


def finished(family: Path) -> set[str]:
    """The names of the finished runs in a family's folder."""
    names = set()
    with remembered(family.parent) as store:
        for file in store.glob(f"{family.name}/*/run.yaml"):
            with suppress(RunError):  # damaged
                names |= {file.parent.name} if read_record(file.parent).get("status") == "done" else set()
    return names


def run_status(folder: Path, record: Mapping[str, Any]) -> str:
    """waiting, running, interrupted (its process is gone; it resumes when run again), done or failed.

    record: what was read of the folder.
    """
    status = record.get("status", "waiting")
    if status != "running":
        return status
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            now = read_record(folder)["status"]  # it may have ended between the two looks
            return "interrupted" if now == "running" and not leased(folder) else now
    except filelock.Timeout:
        return "running"


def progress(folder: Path) -> tuple[int, float] | None:
    """The last epoch logged and its objective on val, from the end of metrics.csv; None before there is one."""
    with suppress(OSError), (folder / "metrics.csv").open("rb") as file:
        file.seek(max(0, file.seek(0, SEEK_END) - 8192))
        for line in reversed(file.read().decode().rpartition("\n")[0].splitlines()):
            if ",val,all,objective," in line:
                return int(line.split(",")[0]), float(line.split(",")[-1] or "nan")  # NaN is written as nothing
    return None


def _parsed(folder: str, text: str) -> Any:
    digest, entry = sha256(text.encode()).hexdigest()[:16], _known.get(folder)
    if entry and entry[0] == digest:
        with suppress(ValueError):
            return json.loads(entry[1])  # of its own for each caller
    record = load_yaml(text)
    with suppress(TypeError):  # a date, say, which JSON has not: parsed each time
        _known[folder] = digest, json.dumps(record), {}
    return record
