"""Files of a run's folder that are whole whatever dies: logs that grow row by row, and what is replaced at once."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from os import environ, fsync
from pathlib import Path
from typing import Any

import yaml

COLUMNS = {
    "metrics": ["epoch", "step", "seconds", "split", "branch", "metric", "value"],
    "histograms": ["epoch", "branch", "output", "share"],
}


def append(log: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows to the end of a log, which begins with its columns."""
    import pandas as pd  # here, as commands that only look at runs need no half second of it

    table = pd.DataFrame(rows)
    with log.open("a", encoding="utf-8") as file:
        file.write(table.to_csv(index=False, header=file.tell() == 0))


def truncate(logs: list[Path], epoch: int) -> None:
    """Leave the header and the lines up to an epoch, as they are, byte for byte."""
    for log in logs:
        header, *lines = whole_lines(log)
        kept = [header, *(line for line in lines if int(line.split(",")[0]) <= epoch)]
        replace_text(log, "".join(f"{line}\n" for line in kept))


def whole_lines(log: Path) -> list[str]:
    """Its lines, the header first, without what a process that was killed while it wrote left of a last one."""
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    return text.rpartition("\n")[0].splitlines() or [",".join(COLUMNS[log.stem])]


def replace_text(file: Path, text: str) -> None:
    """Write a text file in the place of another, or of none, at once."""
    with whole(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Where to write, so that a reader finds the old file or the new one, whole, whatever dies meanwhile."""
    temporary = file.with_name(f".{file.name}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            fsync(stream.fileno())  # whole on the disk before it takes the name
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def project_root(start: Path | None = None) -> Path:
    """The nearest folder upward of `start` (the working directory) that holds notebooks/ and params/; else `start`."""
    start = (start or Path.cwd()).resolve()
    return next((p for p in [start, *start.parents] if (p / "notebooks").is_dir() and (p / "params").is_dir()), start)


def project_around(folder: Path) -> Path:
    """The project of the working directory; where that lies in none, the one around `folder`."""
    here = project_root()
    return here if (here / "notebooks").is_dir() else project_root(folder)


def store_folder(store: str | None = None) -> Path:
    """Where runs are kept: `store`, else $SEQAE_STORE, else reports/; a relative one is of the project, wherever
    Jupyter or papermill were started. Of a store elsewhere, at a URL, its mirror in the user's cache; see `stores`.
    """
    where = store or environ.get("SEQAE_STORE") or "reports"
    if "://" not in where:
        return (project_root() / Path(where).expanduser()).resolve()
    from pooch import os_cache

    words = re.sub(r"[^\w.]+", "-", where.rpartition("@")[2]).strip("-")
    return (os_cache("seqae") / "stores" / f"{words}-{sha256(where.rstrip('/').encode()).hexdigest()[:8]}").resolve()


def load_yaml(text: str) -> Any:
    """What a text in YAML holds, by libyaml's safe loader (seven times as fast as PyYAML's own) where there is one."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
