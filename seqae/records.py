"""What a run's folder says of the run: run.yaml and the lock of whoever trains it. Nothing here needs torch, so that
commands which only look start at once. A `runs.Run` writes it.
"""

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from functools import lru_cache
from os import SEEK_END
from pathlib import Path
from typing import Any

import filelock
import yaml

from seqae.config import load_yaml
from seqae.stores import leased


class RunError(RuntimeError):
    """A run cannot be trained or read; the message says what to do. Nothing recorded is lost."""


def read_record(folder: Path) -> dict[str, Any]:
    """run.yaml as it stands; empty before the run began. Raises RunError where it is damaged."""
    file = folder / "run.yaml"
    try:
        record = deepcopy(_parsed(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (yaml.YAMLError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict):
        raise RunError(f"{file} is damaged: delete the folder and run it again")
    return record


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


@lru_cache(maxsize=4096)  # an index of many runs is written again and again, most of them unchanged
def _parsed(text: str) -> Any:
    return load_yaml(text)
