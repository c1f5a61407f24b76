"""The report of a run: its facts above its notebook, and the way to the index and to its family's comparison."""

import os
from pathlib import Path
from urllib.parse import quote

from seqae.reports.head import Facts
from seqae.reports.index import update_index
from seqae.reports.page import render_notebook
from seqae.runs import Run, facts_of

# The files that a report links to.
LINKED_FILES = ("notebook.ipynb", "run.yaml", "metrics.csv", "test.csv", "frames.gif", "model.safetensors")


def run_facts(run: Run, error: str | None = None) -> Facts:
    """What stands at the top of a run's report. error: why it failed, and on further lines what to do."""
    name, links = f"{run.family}/{run.name}", {"all runs": "../../index.html"}
    if (run.folder.parent / "compare.html").exists():
        links[f"{run.family}: comparison"] = "../compare.html"
    else:  # it may be made later than this page: the index then leads to it
        links[f"{run.family}: runs and comparison"] = f"../../index.html#family={quote(run.family, safe='')}"
    return Facts(name, run.status, run.verdict, (), error, LINKED_FILES, facts_of(run), links)


def report(run: Run, notebook: str | Path | None = None) -> Path:
    """Render the report of a run from a notebook as it stands on the disk, without executing it. Returns the page.

    notebook: by default the one that is open in JupyterLab: save it first. Outside Jupyter, the one in the run's
    folder. The index then shows the page. Raises ValueError where there is no such file.
    """
    there = [Path(os.environ.get("JPY_SESSION_NAME") or "none"), run.folder / "notebook.ipynb"]
    source = Path(notebook) if notebook else next((file for file in there if file.is_file()), there[-1])
    if not source.is_file():
        raise ValueError(f"there is no notebook {source}: give the one that shows this run, report(run, 'mine.ipynb')")
    if not (run.folder / "run.yaml").exists():
        raise ValueError(f"{run.family}/{run.name} has not begun: call run.train() first")
    page = run.folder / "report.html"
    render_notebook(source, page, run_facts(run))
    update_index(run.folder.parents[1])
    return page
