"""The tables of a run, CSV files, and its samples, checked when they are read.

Its logs are tables that grow row by row; they are read and cut so that a torn last line does no harm.
"""

import csv
import os
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqae.files import replace_text
from seqae.runs.records import RunError, notes, regular_text

if TYPE_CHECKING:  # commands that only read runs should not wait 0.5 s for them
    import numpy as np
    import pandas as pd

LOG_COLUMNS = {  # of the logs of a run, by the name of the file without .csv
    "metrics": ["epoch", "step", "seconds", "split", "branch", "metric", "value"],
    "histograms": ["epoch", "branch", "output", "share"],
}
TABLE_COLUMNS: Mapping[str, list[str]] = {  # what a table of any version has at least
    "metrics": ["epoch", "split", "branch", "metric", "value"],
    "histograms": ["epoch", "branch", "output", "share"],
    "test": ["branch", "frame", "metric", "value"],
    "baselines": ["split", "branch", "baseline", "metric", "value"],
    "performance": ["implementation", "part", "median_ms"],
}
WHOLE_NUMBERS = {"epoch", "step", "frame", "sequences"}  # columns of them, and
NUMBERS = {*WHOLE_NUMBERS, "seconds", "value", "output", "share", "median_ms"}  # of any
SAMPLES_FILE = "samples.npz"
MOST_SAMPLES = 2**30  # bytes that samples take in memory: a file of some kilobytes can hold any number of zeros
FILLED = {"metrics", "test", "baselines"}  # these have rows once a run is done
# Two rows that are equal in these say two values of one thing. What a benchmark times has other keys.
KEYS = {"epoch", "split", "branch", "baseline", "frame", "metric", "output"}


def append_rows(log: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a CSV log. A new log begins with a header line, the keys of the first row.

    They are on the disk when this returns: a checkpoint that comes after them survives a crash of the machine.
    """
    import pandas as pd

    table = pd.DataFrame(rows)
    with log.open("a", encoding="utf-8") as file:
        file.write(table.to_csv(index=False, header=file.tell() == 0))
        file.flush()
        os.fsync(file.fileno())


def truncate_logs(logs: list[Path], epoch: int) -> None:
    """Drop the lines after `epoch` from each log. The header and the other lines stay as they are, byte for byte.

    Raises RunError if a log is damaged.
    """
    for log in logs:
        header, *lines = whole_lines(log)
        _check(log, [header, *lines])
        kept = [header, *(line for line in lines if float(line.split(",")[0]) <= epoch)]
        replace_text(log, "".join(f"{line}\n" for line in kept))


def without_metrics(lines: Sequence[str], names: Collection[str]) -> list[str]:
    """The lines of a table that has a column metric, the header first, without the rows of these metrics."""
    place = lines[0].split(",").index("metric")
    return [lines[0], *(line for line in lines[1:] if line.split(",")[place] not in names)]


def whole_lines(log: Path) -> list[str]:
    """The lines of a log of `LOG_COLUMNS`, the header first. A last line without its line end is left out.

    A process that is killed while it writes leaves such a line. A missing log has a header and no rows. Raises RunError
    if the file is not in UTF-8.
    """
    text = _text(log) if log.exists() else ""
    return text.rpartition("\n")[0].splitlines() or [",".join(LOG_COLUMNS[log.stem])]


def read_table(folder: Path, name: str) -> "pd.DataFrame":
    """NAME.csv of a run's folder. Raises RunError if it is damaged, FileNotFoundError if it is missing and no log."""
    import pandas as pd

    _check(folder / f"{name}.csv", lines := _lines(folder / f"{name}.csv"))
    return pd.read_csv(StringIO("\n".join(lines)))


def has_results(folder: Path, status: str, name: str, what: str) -> None:
    """Raise RunError where a run's folder lacks a file that training writes at its end. what: is in it, in words.

    Of a finished run, what reads the file says that it is missing.
    """
    if status != "done" and not (folder / name).exists():
        remedy = "wait for it" if status == "running" else "run.train(), or seqae run, first"
        raise RunError(f"{folder.name} is {status} and has no {what} yet: {remedy}")


def check_tables(folder: Path) -> None:
    """Check the tables and the samples that a finished run has. Raises RunError, which names the first damaged file.

    It takes some milliseconds for each run, so `records.remembered` keeps what it found.
    """
    names = [*(f"{name}.csv" for name in TABLE_COLUMNS), SAMPLES_FILE]
    files = [file for name in names if (file := folder / name).exists()]
    state, kept = [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files], notes(folder)
    if kept.get("tables") == state:
        return
    for file in files:
        if file.name == SAMPLES_FILE:
            read_samples(folder)
            continue
        _check(file, lines := _lines(file))
        if file.stem in FILLED and len(lines) < 2:
            raise RunError(f"{file} is damaged (it has no rows): {_REMEDY}")
        if file.stem == "metrics" and not any(",val,all,objective," in line for line in lines):
            raise RunError(f"{file} is damaged (it has no objective on val): {_REMEDY}")
    kept["tables"] = state


def read_samples(folder: Path) -> "dict[str, np.ndarray]":
    """The arrays of a run's samples.npz. Raises RunError if it is missing or damaged."""
    import numpy as np

    file = folder / SAMPLES_FILE
    try:
        with zipfile.ZipFile(file) as parts:
            size = sum(part.file_size for part in parts.infolist())
        if size > MOST_SAMPLES:
            raise ValueError(f"it would take {size:,} bytes of memory")
        with np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays)
        if odd := [name for name, array in found.items() if array.dtype != np.uint8 or array.ndim != 4]:
            raise ValueError(f"{odd[0]} holds no frames")
        return {"frames": found.pop("frames"), **found}
    except FileNotFoundError:
        raise RunError(f"{file} is missing: copy the folder again, or train the run anew") from None
    except KeyError:
        fault = "it has no frames"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        fault = str(error)
    raise RunError(f"{file} is damaged ({fault}): {_REMEDY}")


def _lines(file: Path) -> list[str]:
    return whole_lines(file) if file.stem in LOG_COLUMNS else _text(file).splitlines()


def _text(file: Path) -> str:
    try:
        return regular_text(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RunError(f"{file} is damaged (no text in UTF-8): {_REMEDY}") from None


def _check(file: Path, lines: list[str]) -> None:
    try:
        rows = csv.reader(lines)
        header = next(rows, [])
        if missing := [name for name in TABLE_COLUMNS[file.stem] if name not in header]:
            raise RunError(f"{file} is damaged (its first line does not name {', '.join(missing)}): {_REMEDY}")
        numbers = [(place, name) for place, name in enumerate(header) if name in NUMBERS]
        keys, seen = [place for place, name in enumerate(header) if name in KEYS], set[tuple[str, ...]]()
        for row in rows:
            if len(row) != len(header):
                raise RunError(f"{file} is damaged (line {rows.line_num} has {len(row)} columns): {_REMEDY}")
            for place, name in numbers:
                if row[place]:
                    _number(row[place], name, f"{file} is damaged (line {rows.line_num}")
                elif name == "epoch":
                    raise RunError(f"{file} is damaged (line {rows.line_num} has no epoch): {_REMEDY}")
            if (key := tuple(row[place] for place in keys)) in seen:
                raise RunError(f"{file} is damaged (line {rows.line_num} says what another line says): {_REMEDY}")
            seen |= {key} - {()}
    except csv.Error as error:
        raise RunError(f"{file} is damaged ({error}): {_REMEDY}") from None


def _number(text: str, name: str, where: str) -> None:
    whole = name in WHOLE_NUMBERS
    with suppress(ValueError):
        if float(text).is_integer() or not whole:
            return
    raise RunError(f"{where}: {name} must be a {'whole ' * whole}number; not {text[:40]!r}): {_REMEDY}")


_REMEDY = "delete the run's folder and run it again"
