"""The index of a store: one page of all its runs, made from what their folders record."""

import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from PIL import Image

from seqae.metrics import MORE_IS_BETTER, UNITS
from seqae.reports.compare import best_on_val
from seqae.reports.groups import data_and_budget
from seqae.reports.index_lines import ComparisonData, IndexRow, figures, lines
from seqae.reports.rendering import write_page
from seqae.runs import (
    Run,
    RunError,
    check_tables,
    final_figures,
    label,
    mse_rows,
    notes,
    own_metrics_of,
    read_record,
    recorded_verdict,
    remembered,
    run_hash,
    run_status,
)
from seqae.stores import publish, refresh

THUMBNAIL = (240, 96)  # pixels; shown at half that size, so that it is sharp on screens of high density
SUMMARY = 5  # version of `FolderSummary`: what is kept of another is computed again
STALE_SECONDS = 3600  # a temporary index file of that age was left by a process that was killed


class FolderSummary(TypedDict):
    """What the index shows of a run beyond its record."""

    loss: str | None
    val: dict[str, float]  # "recon val mse" for example: by which runs are chosen
    beside: ComparisonData | None
    picture: str | None
    setting: str | None
    seed: int | None


def update_index(store: Path) -> None:
    """Rewrite index.html of a store from its run folders and comparison pages."""
    with remembered(store) as root:
        rows = [_row(file.parent) for file in sorted(root.glob("*/*/run.yaml"))]
    comparisons = {
        page.parent.name: page.relative_to(store).as_posix() for page in sorted(store.glob("*/compare.html"))
    }
    for left in store.glob(".index.html.*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
    write_index(store / "index.html", rows, comparisons)


def publish_index(store: Path, *pages: str) -> None:
    """Update the index with the runs of other machines; publish it and `pages` where the store is remote."""
    refresh(store)
    update_index(store)
    publish(store, *pages, "index.html")


def write_index(html: Path, rows: Sequence[IndexRow], comparisons: Mapping[str, str]) -> None:
    """Write the index page. comparisons: the path relative to the index, by title."""
    columns = _metric_columns(rows)
    own = {name: of for row in rows for name, of in row.own_metrics.items()}
    units = UNITS | {name: of["unit"] for name, of in own.items()}
    more = MORE_IS_BETTER | {name for name, of in own.items() if of.get("more_is_better")}
    shared, defined = _defined(rows)
    budgets = list(dict.fromkeys(row.comparison["sequences"] for row in rows if row.comparison))
    write_page(
        html,
        "index.html.j2",
        lines=lines(rows),
        figures=figures,
        count=len(rows),
        columns={column: label(metric, units) for column, metric in columns.items()},
        families=sorted(Counter(row.family for row in rows).items()),
        best={column for column, metric in columns.items() if metric in more},
        shared=shared,
        defined=defined,
        budgets=budgets,
        comparisons=comparisons,
        pictured=any(row.picture for row in rows),
        states=Counter(row.status for row in rows),
    )


def _defined(rows: Sequence[IndexRow]) -> tuple[str, Callable[[IndexRow], str]]:
    # The parameters that are the same in all rows, and for each row the others: a line for each.
    pairs = {pair for row in rows for pair in row.defined.items()}
    varying = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}
    shared = "".join(f"{key}={value}\n" for key, value in sorted(pairs) if key not in varying)
    return shared, lambda row: "".join(f"{key}={value}\n" for key, value in row.defined.items() if key in varying)


def _metric_columns(rows: Sequence[IndexRow]) -> dict[str, str]:
    # The metric of each column, "mse" of "recon mse": by metric in the order of UNITS, recon before pred;
    # those of recon decoders that read the truth, which few runs have, are last.
    metrics = {column: column.rpartition(" ")[2] for row in rows for column in row.metrics}
    order = [*UNITS, *sorted({*metrics.values()} - UNITS.keys())]
    ranks = {
        c: ("given truth" in c, order.index(metric), not c.startswith("recon"), c) for c, metric in metrics.items()
    }
    ordered = sorted(metrics, key=ranks.__getitem__)
    return {column: metrics[column] for column in ordered}


def _row(folder: Path) -> IndexRow:
    family, name = folder.parts[-2:]
    try:
        record = read_record(folder)
        known = _folder_summary(folder, record)
        status = run_status(folder, record)
    except RunError as error:  # a damaged record: the row says so, and the other runs are still listed
        return IndexRow(family, name, f"{family}/{name}/run.yaml", "failed", verdict=str(error))
    page = "report.html" if (folder / "report.html").exists() else "run.yaml"
    defined = {key: str(value) for key, value in record.get("parameters", {}).items()}
    named = {"label": defined["label"]} if record.get("parameters", {}).get("label") else {}
    return IndexRow(
        family,
        name,
        href=f"{family}/{name}/{page}",
        status=status,
        verdict=recorded_verdict(record),
        metrics=known["val"] | {_branch_of(name, record): value for name, value in final_figures(record).items()},
        own_metrics=own_metrics_of(record),
        picture=known["picture"],
        started=record.get("started", "")[:16].replace("T", " "),
        duration_s=record.get("seconds"),
        parameters=named | {key: str(value) for key, value in record.get("differs", {}).items()} | _own_code(record),
        comparison=known["beside"],
        defined=defined | ({"loss": known["loss"]} if known["loss"] else {}),
        setting=known["setting"],
        seed=known["seed"],
    )


def _branch_of(column: str, record: Mapping[str, Any]) -> str:
    # Whose recon decoder reads the truth has a column of its own, on test as on val, see `compare`.
    given = record.get("parameters", {}).get("recon_truth") and column.startswith("recon ")
    return column.replace("recon ", "recon, given truth ", 1) if given else column


def _own_code(record: Mapping[str, Any]) -> dict[str, str]:
    # Two versions of an edited model have the same name, but for the hash: the time tells them apart.
    given = (str(record.get("parameters", {}).get(name, "")) for name in ("architecture", "training_loss"))
    modules = dict.fromkeys(name.partition(":")[0] for name in given if ":" in name)
    files = ["a cell" if module == "cell" else f"{module}.py" for module in modules]
    started = record.get("started", "")[:16].replace("T", " ")
    return {"code": f"{', '.join(files)} of {started}"} if files and started else {}


def _folder_summary(folder: Path, record: Mapping[str, Any]) -> FolderSummary:
    # Reading tables and pictures takes long for thousands of runs, so it is done once for each state of the files.
    files = [folder / name for name in ("frames.png", "test.csv", "baselines.csv", "metrics.csv")]
    state = [SUMMARY, *([stat.st_size, stat.st_mtime_ns] for file in files if file.exists() and (stat := file.stat()))]
    kept = notes(folder)
    if kept.get("files") == state and FolderSummary.__required_keys__ <= kept.keys():
        return cast(FolderSummary, {key: kept[key] for key in FolderSummary.__required_keys__})
    known = FolderSummary(loss=None, val={}, beside=None, picture=thumbnail(files[0]), setting=None, seed=None)
    # A run of another version still shows its record. A folder that is being copied is read again at the next index.
    with suppress(RunError, ValueError, TypeError, LookupError):
        run = Run.load(folder)
        known["loss"], known["setting"], known["seed"] = run.parameters.loss, setting(run), run.parameters.seed
        if record.get("status") == "done":
            check_tables(folder)
            known["val"] = _errors_on_val(run)
            known["beside"] = comparison_data(run)
            kept.update(known, files=state)
    return known


def comparison_data(run: Run) -> ComparisonData | None:
    """What the index needs to compare a finished run with others; None while its tables are missing."""
    p = run.parameters
    try:
        test, levels = mse_rows(run.folder / "test.csv"), mse_rows(run.folder / "baselines.csv")
    except FileNotFoundError:
        return None
    # Whose recon decoder reads the truth is drawn apart, as it has a column of its own, see `_branch_of`.
    names = {"recon": "recon, given truth"} if p.recon_truth else {}
    mean = {r["branch"]: float(r["value"]) for r in levels if (r["split"], r["baseline"]) == ("test", "mean_frame")}
    steps: dict[str, list[float]] = {}
    for row in test:
        if row["frame"]:
            steps.setdefault(names.get(row["branch"], row["branch"]), []).append(
                float(f"{float(row['value'] or 'nan'):.4g}")
            )
    return {
        "steps": {b: values for b, values in steps.items() if np.isfinite(values).all() and not run.diverged},
        "mean_frame": {names.get(branch, branch): value for branch, value in mean.items()},
        "sequences": data_and_budget(p),
    }


def setting(run: Run) -> str:
    """8 hex digits that are equal for runs of a family that differ only by seed."""
    return run_hash(run.parameters.model_copy(update={"seed": 0}))


def _errors_on_val(run: Run) -> dict[str, float]:
    if run.diverged or not (run.folder / "metrics.csv").exists():
        return {}
    table = best_on_val([run]).query("metric == 'mse'")
    return dict(zip(table.branch + " val mse", table.val, strict=True))


def thumbnail(path: Path) -> str | None:
    """The first sequence of a frames.png as a small data URI; None where the file cannot be read."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB").crop((0, 0, image.width, min(image.height, 2 * image.width // 5)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # missing, half written or no picture
        return None
    small.thumbnail(THUMBNAIL)
    small.save(buffer := BytesIO(), "webp", quality=60, method=0)  # method 0 is the fastest, for a thousand runs
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"
