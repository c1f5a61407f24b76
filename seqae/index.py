"""The page of all runs of a store, written anew from what their folders say."""

import time
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from seqae.compare import beside_others
from seqae.records import RunError, read_record, run_status
from seqae.report import IndexRow, write_index
from seqae.runs import Run
from seqae.stores import publish, refresh


def update_index(store: Path) -> None:
    """Rewrite index.html of a store from the run folders and comparisons in it."""
    rows = [_row(file.parent, file.stat().st_mtime_ns) for file in sorted(store.glob("*/*/run.yaml"))]
    pages = sorted(store.glob("*/compare.html"))
    for left in store.glob(".index.html.*"):  # by a process that was killed while it wrote
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
    write_index(store / "index.html", rows, [(page.parent.name, page.relative_to(store).as_posix()) for page in pages])


def publish_index(store: Path, *pages: str) -> None:
    """Rewrite it with what other machines did meanwhile; where the store is elsewhere, publish it and those pages."""
    refresh(store)
    update_index(store)
    publish(store, *pages, "index.html")


def _row(folder: Path, recorded: int) -> IndexRow:
    # A run's record is read once for each state of it; whether its process lives and its report is there, each time.
    row = _recorded_row(folder, recorded)
    if row.status == "running":
        with suppress(RunError):
            row = replace(row, status=run_status(folder, {"status": "running"}))
    page = "report.html" if (folder / "report.html").exists() else "run.yaml"
    return replace(row, href=f"{row.family}/{row.name}/{page}")


@lru_cache(maxsize=10_000)
def _recorded_row(folder: Path, recorded: int) -> IndexRow:
    family, name = folder.parts[-2:]
    try:
        record, beside = read_record(folder), None
    except RunError as error:  # damaged: say so, and show the others
        return IndexRow(family, name, "", "failed", verdict=str(error))
    defined = dict(record.get("parameters", {}))
    with suppress(RunError, ValueError):  # of another version: what it recorded is as true as ever
        run = Run.load(folder)
        defined["loss"] = run.parameters.loss
        beside = beside_others(run) if record.get("status") == "done" else None
    return IndexRow(
        family,
        name,
        href="",
        status=record.get("status", "waiting"),
        verdict=record.get("verdict"),
        metrics=record.get("results", {}),
        thumbnail=folder / "frames.png",
        started=record.get("started", "")[:16].replace("T", " "),
        duration_s=record.get("seconds"),
        parameters={key: str(value) for key, value in record.get("differs", {}).items()},
        defined={key: str(value) for key, value in defined.items()},
        beside=beside,
    )
