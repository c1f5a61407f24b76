"""The page of all runs of a store, written anew from what their folders say."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from seqae.reports.page import IndexRow, thumbnail, write_index
from seqae.runs import Run, RunError, mse_rows, notes, read_record, remembered, run_status
from seqae.stores import publish, refresh


def update_index(store: Path) -> None:
    """Rewrite index.html of a store from the run folders and comparisons in it."""
    with remembered(store) as root:
        rows = [_row(file.parent) for file in sorted(root.glob("*/*/run.yaml"))]
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


def _row(folder: Path) -> IndexRow:
    family, name = folder.parts[-2:]
    try:
        record = read_record(folder)
        known = _worked_out(folder, record)
        status = run_status(folder, record)
    except RunError as error:  # damaged: say so, and show the others
        return IndexRow(family, name, f"{family}/{name}/run.yaml", "failed", verdict=str(error))
    page = "report.html" if (folder / "report.html").exists() else "run.yaml"
    defined = {key: str(value) for key, value in record.get("parameters", {}).items()}
    return IndexRow(
        family,
        name,
        href=f"{family}/{name}/{page}",
        status=status,
        verdict=record.get("verdict"),
        metrics=record.get("results", {}),
        picture=known["picture"],
        started=record.get("started", "")[:16].replace("T", " "),
        duration_s=record.get("seconds"),
        parameters={key: str(value) for key, value in record.get("differs", {}).items()},
        defined=defined | ({"loss": known["loss"]} if known["loss"] else {}),
        beside=known["beside"],
    )


def _worked_out(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    # What takes more than a look at the record: with thousands of runs it is done once for each state of its files.
    files = [folder / name for name in ("frames.png", "test.csv", "baselines.csv")]
    state = [[stat.st_size, stat.st_mtime_ns] for file in files if file.exists() and (stat := file.stat())]
    kept = notes(folder)
    if kept.get("files") == state:
        return kept
    known: dict[str, Any] = {"loss": None, "beside": None, "picture": thumbnail(files[0])}
    # Of another version: what it recorded is as true as ever. Or not all copied: the next index has it.
    with suppress(RunError, ValueError, TypeError, LookupError):
        run = Run.load(folder)
        known["loss"] = run.parameters.loss
        if record.get("status") == "done":
            known["beside"] = beside_others(run)
            kept.update(known, files=state)
    return known


def beside_others(run: Run) -> dict[str, Any] | None:
    """What the index needs to set a finished run beside others: by branch the mse of each frame step on test and that
    of the mean frame; which sequences its pictures show; and `recipe`, equal where only the seed differs.
    """
    p = run.parameters
    try:
        test, levels = mse_rows(run.folder / "test.csv"), mse_rows(run.folder / "baselines.csv")
    except FileNotFoundError:
        return None
    mean = {r["branch"]: float(r["value"]) for r in levels if (r["split"], r["baseline"]) == ("test", "mean_frame")}
    steps: dict[str, list[float]] = {}
    for row in test:
        if row["frame"]:
            steps.setdefault(row["branch"], []).append(float(f"{float(row['value'] or 'nan'):.4g}"))
    return {
        "steps": {branch: values for branch, values in steps.items() if np.isfinite(values).all()},
        "mean_frame": mean,
        "sequences": f"{p.frame_size}×{p.frame_size} pixels, {p.frames_in} + {p.frames_out} frames, digits {p.digits}, "
        f"data seed {p.data_seed}",
        "recipe": f"{run.family} {p.model_copy(update={'seed': 0}).short_hash()}",
    }
