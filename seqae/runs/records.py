"""Reads what a run's folder says of the run: run.yaml, and the lock of the process that trains it.

Nothing here needs torch, so commands that only look at runs start at once. `Run` writes these files.
"""

import errno
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from hashlib import sha256
from os import SEEK_END
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, NamedTuple

import filelock

from seqae import files
from seqae.runs.locks import is_being_changed, remove_leftovers
from seqae.stores import NewerFormatError, RecordError, checked_record, leased_elsewhere, parse_record

FORMAT = "1"  # of .records.json, see `remembered`; files of another format are ignored
_known: "dict[str, _Known]" = {}  # by run folder
_settled: dict[str, tuple[object, str]] = {}  # by run folder: the state of its file, and the hash of the text then
SETTLED_NS = 2 * 10**9  # since a file's last change: a later one cannot leave it the same state


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
    """The content of run.yaml, checked; empty before the run began.

    Raises RunError, which names the file and its fault, if it is damaged, of a newer version, or cannot be read.
    """
    file = folder / "run.yaml"
    try:
        found, before = file.stat(), time.time_ns()
        state, known = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino), _known.get(str(folder))
        if known and _settled.get(str(folder)) == (state, known.digest):
            return json.loads(known.record)  # a copy for each caller, who may change it
        settled = before - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED_NS
        return _parsed(str(folder), regular_text(file), state if settled else None)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        fault = "no text in UTF-8"
    except NewerFormatError as error:
        raise RunError(f"{file} {error}") from None
    except RecordError as error:
        fault = str(error)
    raise RunError(f"{file} is damaged ({fault}): delete the folder and run it again")


def regular_text(file: Path) -> str:
    """The content of a text file in UTF-8. Raises OSError for a pipe or a device, where reading might never end."""
    if not (S_ISREG(mode := file.stat().st_mode) or S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(file))
    return file.read_text(encoding="utf-8")


def outside_runs(folder: Path) -> Path:
    """The folder, or if it lies in a run's folder, at any depth, the one that holds this run; of several the outermost.

    What lies in a run's folder may be somebody else's: it is no project.
    """
    around = folder
    for above in (folder, *folder.parents):
        with suppress(RunError):  # another file of this name
            around = above.parent if read_record(above).get("family") else around
    return around


@contextmanager
def remembered(store: Path) -> Iterator[Path]:
    """While it is open, records of the store that any process has read before are not parsed again.

    Yields the resolved folder of the store; read the records in it. Parsing takes a millisecond a record. What was
    parsed is kept in the store's .records.json with the hash of each record's text, so it is never out of date.
    """
    root = store.resolve()
    file, kept = root / ".records.json", dict[str, Any]()
    with suppress(OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        found = json.loads(file.read_text(encoding="utf-8"))[FORMAT].items()
        kept = {name: _Known(str(digest), str(text), dict(noted)) for name, (digest, text, noted) in found}
    _known.update({f"{root}/{name}": entry._replace(notes={**entry.notes}) for name, entry in kept.items()})
    yield root
    known = {folder.removeprefix(f"{root}/"): entry for folder, entry in sorted(_known.copy().items())}
    there = {name: entry for name, entry in known.items() if name[0] != "/" and (root / name).is_dir()}
    if there != kept:
        with suppress(OSError, TypeError, filelock.Timeout), filelock.FileLock(root / ".records.lock", timeout=0):
            remove_leftovers(file)
            files.replace_text(file, json.dumps({FORMAT: there}))


def notes(folder: Path) -> dict[str, Any]:
    """Facts computed from a run's folder, for callers to read and add to, in JSON's types; `remembered` keeps them.

    They are dropped when the record changes. Call `read_record` first.
    """
    return _known.get(str(folder), _Known("", "", {})).notes


def diverged(record: Mapping[str, Any]) -> bool:
    """Whether a run's training ended in NaN or infinity. Such a run has no final figures, whatever its folder holds."""
    return (record.get("verdict") or "").startswith("diverged")


def final_figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The final figures on test, "pred mse" for example: NaN where the run diverged, none before it is done.

    Versions before 28 November 2026 recorded those of a diverged run's weights before it diverged.
    """
    found = record.get("results") or {}
    return dict.fromkeys(found, float("nan")) if diverged(record) else dict(found)


def own_metrics_of(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name of each metric of your own that a run recorded: `unit`, a text, and `more_is_better`."""
    found = record.get("code", {}).get("metrics", {})
    return {name: of for name, of in found.items() if isinstance(of, dict) and isinstance(of.get("unit"), str)}


def finished(family: Path) -> set[str]:
    """The names of the finished runs in a family's folder. Damaged records are left out."""
    names = set()
    with remembered(family.parent) as store:
        for file in store.glob(f"{escape(family.name)}/*/run.yaml"):
            with suppress(RunError):
                names |= {file.parent.name} if read_record(file.parent).get("status") == "done" else set()
    return names


def run_status(folder: Path, record: Mapping[str, Any]) -> str:
    """The status of a run: waiting, running, interrupted, done or failed.

    An interrupted run has lost its process, and resumes when it is run again. record: as `read_record` returned it.
    """
    status = record.get("status", "waiting")
    if status != "running" or is_being_changed(folder):
        return status
    now = read_record(folder).get("status", "waiting")  # it may have changed since `record` was read
    return "interrupted" if now == "running" and not leased_elsewhere(folder) else now


def progress(folder: Path) -> Progress | None:
    """How far a run's training is, read from the end of metrics.csv; None before the first epoch has ended."""
    if not (log := folder / "metrics.csv").is_file():
        return None
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, SEEK_END) - 8192))
        for line in reversed(file.read().decode(errors="replace").rpartition("\n")[0].splitlines()):
            if ",val,all,objective," in line:
                with suppress(ValueError):  # a text where a number belongs
                    return Progress(
                        int(line.split(",")[0]), float(line.split(",")[-1] or "nan")
                    )  # pandas writes no NaN
    return None


def _parsed(folder: str, text: str, state: object) -> dict[str, Any]:
    # state: of the file, where that tells whether it is still the same; None where it does not, yet.
    digest, entry = sha256(text.encode()).hexdigest()[:16], _known.get(folder)
    with suppress(json.JSONDecodeError, RecursionError):
        if entry and entry.digest == digest:
            record = checked_record(json.loads(entry.record))
            _settled[folder] = state, digest
            return record
    record = parse_record(text)
    with suppress(TypeError):  # JSON has no dates, for example: such a record is parsed each time
        _known[folder] = _Known(digest, json.dumps(record), {})
        _settled[folder] = state, digest
    return record
