"""The report of a run: its facts above its notebook, and the way to the index and to its family's comparison."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import filelock

from seqae.reports.findings import run_findings
from seqae.reports.head import Facts, advice
from seqae.reports.index import update_index
from seqae.reports.page import render_cells, render_notebook
from seqae.runs import (
    Run,
    RunError,
    defining_files,
    executing,
    facts_of,
    has_page,
    introduction,
    progress,
    read_record,
    remembered,
    run_status,
    sample_strips,
)
from seqae.stores import StoreError, leased_elsewhere, publish, refresh

if TYPE_CHECKING:
    from nbformat import NotebookNode

# The files that a report links to.
LINKED_FILES = ("notebook.ipynb", "run.yaml", "metrics.csv", "test.csv", "frames.gif", "model.safetensors")


def run_facts(run: Run, reason: str | None = None) -> Facts:
    """What stands at the top of a run's report. reason: why it failed, by default as recorded."""
    record = run.record()
    if not reason and run.status == "failed":
        reason = str(record.get("reason"))
    own = run.code.texts if run.code else record.get("code", {}).get("files", ())
    error = reason and f"{reason}\n{advice(reason, defining_files(run.parameters, own))}"
    name, links = f"{run.family}/{run.name}", {"all runs": "../../index.html"}
    if (run.folder.parent / "compare.html").exists():
        links[f"{run.family}: comparison"] = "../compare.html"
    else:  # it may be made later than this page: the index then leads to it
        links[f"{run.family}: runs and comparison"] = f"../../index.html#family={quote(run.family, safe='')}"
    return Facts(
        name, run.status, run.verdict, (), error, LINKED_FILES, facts_of(run), links, introduction(run.parameters)
    )


def report(run: Run, notebook: str | Path | None = None) -> Path:
    """Render the report of a run from a notebook as it stands on the disk, without executing it. Returns the page.

    notebook: by default the one that is open in JupyterLab: save it first. Outside Jupyter, the one in the run's
    folder. The index then leads to the page, and to those that `give_pages` makes. Warns where none of the notebook's
    cells has been executed. Raises ValueError where there is no such file.
    """
    there = [Path(os.environ.get("JPY_SESSION_NAME") or "none"), run.folder / "notebook.ipynb"]
    source = Path(notebook) if notebook else next((file for file in there if file.is_file()), there[-1])
    if not source.is_file():
        raise ValueError(f"there is no notebook {source}: give the one that shows this run, report(run, 'mine.ipynb')")
    if not (run.folder / "run.yaml").exists():
        raise ValueError(f"{run.family}/{run.name} has not begun: call run.train() first")
    page = run.folder / "report.html"
    if _not_executed(source):
        told = f"{source.name} on the disk has no outputs, so the report has none: save the notebook, then report(run)"
        warnings.warn(told, stacklevel=2)
    render_notebook(source, page, run_facts(run))
    with suppress(StoreError):  # the page is made, whatever becomes of others
        give_pages(run.folder.parents[1])
    update_index(run.folder.parents[1])
    return page


def _not_executed(notebook: Path) -> bool:
    try:
        cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        return bool(cells) and not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    except (ValueError, KeyError, TypeError, AttributeError):  # the report says so
        return False


WITHOUT_NOTEBOOK = (
    "This page was made from what the run's folder holds, because the run was trained without a report, as in Jupyter. "
    "`report(run)` in its notebook makes that notebook its report."
)
GOES_ON = "The next seqae run, or `run.train()` in its notebook, goes on from the last checkpoint."


def give_pages(store: Path, family: str | None = None) -> None:
    """Render a page for each run of a store that has ended, and has no report: from what its folder holds.

    So every run opens something that a person can read. Left out are runs that another process works on, damaged ones,
    and those whose folder cannot be written. family: only runs of this one. Pages of a mirror are published; raises
    StoreError as `refresh`.
    """
    made = []
    with remembered(store) as root:
        runs = sorted(file.parent for file in root.glob(f"{escape(family) if family else '*'}/*/run.yaml"))
        if lacking := [folder for folder in runs if not has_page(folder)]:
            refresh(root, family or "")  # of a mirror: another machine may have rendered some of them meanwhile
        for folder in lacking:
            page = folder / "report.html"
            with suppress(RunError, ValueError, OSError, filelock.Timeout):
                ended = run_status(folder, read_record(folder)) in ("done", "failed", "interrupted")
                if not ended or leased_elsewhere(folder):
                    continue
                run = Run.load(folder)
                with executing(folder):  # else a worker may be about to render it
                    if not has_page(folder):
                        render_cells([*_cells_of(run)], page, run_facts(run), folders=[folder])
                        made.append(page.relative_to(root).as_posix())
    if made:
        publish(root, *made)


def _cells_of(run: Run) -> "Iterator[NotebookNode]":
    import matplotlib.pyplot as plt
    from nbformat import v4

    from seqae.reports import figures
    from seqae.reports.figures.shown import as_output
    from seqae.reports.frames import strip_figure

    yield v4.new_markdown_cell(WITHOUT_NOTEBOOK)
    if run.status == "interrupted":
        after = f"epoch {logged[0]} of {run.parameters.epochs}" if (logged := progress(run.folder)) else "its start"
        yield v4.new_markdown_cell(f"**Interrupted** after {after}. {GOES_ON}")
    p, drawn, ended = run.parameters, {}, (run.folder / "test.csv").exists()  # a benchmark trains nothing
    if ended:
        strips = sample_strips(run.samples(), task=p.task, frames_in=p.frames_in, with_seen=True)
        drawn["Frames of val"] = strip_figure(strips)
    if ended or progress(run.folder):  # of one that was cut short, the epochs that it came to
        drawn["Error by epoch"] = figures.learning_curves(run.metrics(), run.baselines(), run.marks())
    if ended:
        drawn["Error by frame step, on test"] = figures.error_by_frame(run.test(), run.baselines())
    for title, figure in drawn.items():
        data, metadata = as_output(figure, title)
        plt.close(figure)
        yield v4.new_markdown_cell(f"## {title}")
        yield v4.new_code_cell(outputs=[v4.new_output("display_data", data, metadata=metadata)])
    if ended and run.verdict:
        found = run_findings(run.verdict, run.test(), run.baselines(), run.next_step())
        yield v4.new_markdown_cell(f"## Conclusion\n\n{found}")
