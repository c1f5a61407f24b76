"""TODO"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqae.device import make_accelerator
from seqae.files import project_around, project_root
from seqae.reports import Facts, recorded, render_notebook
from seqae.runs import Run, RunError, family_defaults
from seqae.stores import fetch
from seqae.sweeps.kernels import execute_notebook


def show_demo(folder: Path, *, device: str = "cpu", given: Mapping[str, Any] | None = None) -> tuple[Path, str | None]:
    """Execute notebooks/demo.ipynb on a run, into demo.html in its folder; that page, and why it failed.

    given: other parameters of the notebook. Raises RunError or ValueError, before it starts, for a folder without a
    trained run, a device that is not there and parameters that the notebook does not have.
    """
    run = Run.load(folder)
    run.model_file()
    make_accelerator(device=device)
    source, page = project_around(run.folder) / "notebooks" / "demo.ipynb", run.folder / "demo.html"
    parameters = {**(given or {}), "run": run.name, "device": device}
    if source.exists() and (strange := [key for key in parameters if key not in family_defaults(source)]):
        raise ValueError(f"-p {strange[0]}: no parameter of {source}; it has {', '.join(family_defaults(source))}")
    rows = [("verdict", run.verdict or "none"), ("device", device), ("sequences", "of the test split")]
    title = f"{run.family}/{run.name}: demo"
    return page, execute_page(source, page, title=title, rows=rows, store=run.folder.parent, parameters=parameters)


def compare_runs(family: str, runs: Collection[Run], *, store: str | None = None) -> tuple[Path, str | None]:
    """Execute notebooks/compare/FAMILY.ipynb, or else compare.ipynb, on runs of a family, none: those it chooses; its
    page, and why it failed.
    """
    folder, notebooks = fetch(store, family) / family, project_root() / "notebooks"
    own = notebooks / "compare" / f"{family}.ipynb"
    source = own if own.exists() else notebooks / "compare.ipynb"
    if not any(folder.glob("*/run.yaml")):
        raise ValueError(f"no run of family {family!r} in {folder.parent}")
    if strangers := [run.name for run in runs if run.family != family]:
        raise ValueError(f"{strangers[0]} is no run of family {family}")
    page, parameters = folder / "compare.html", {"family": family, "runs": [run.name for run in runs]}
    rows = [("store", folder.parent.name)]
    return page, execute_page(
        source, page, title=f"{family}: comparison", rows=rows, store=folder.parent, parameters=parameters
    )


def execute_page(
    source: Path,
    page: Path,
    *,
    title: str,
    rows: Sequence[tuple[str, str]],
    store: Path,
    parameters: Mapping[str, Any],
) -> str | None:
    """Execute the notebook `source`, on `store`, into `page` (HTML) and the notebook beside it; why it failed, or None.

    title, rows: what stands at the top of the page.
    """
    if not source.exists():
        raise RunError(f"there is no {source}: do this in the folder of the project, or below it")
    notebook, text = page.with_suffix(".ipynb"), source.read_text(encoding="utf-8")
    environment = {"SEQAE_STORE": str(store)}
    reason = execute_notebook(text, notebook, name=title, parameters=parameters, environment=environment)
    beside = (notebook.name, page.with_suffix(".gif").name)
    render_notebook(notebook, page, Facts(title, "failed" if reason else "done", None, rows, reason, beside))
    return reason


def show_both(original: Run, again: Path) -> tuple[Path, str | None]:
    """Execute notebooks/rerun.ipynb on a run and the same made again; its page, and why it failed."""
    source, store = project_around(original.folder) / "notebooks" / "rerun.ipynb", again.parents[1]
    records = {"then": original.record(), "again": recorded(again).record()}
    rows = [(made, r["commit"] + (" and uncommitted changes" if r["dirty"] else "")) for made, r in records.items()]
    # Both as seen from the store, so that the executed notebook names no folder of this machine.
    parameters = {"original": "../..", "again": again.relative_to(store).as_posix()}
    page, title = store / "rerun.html", f"{original.family}/{original.name}: made again"
    return page, execute_page(source, page, title=title, rows=rows, store=store, parameters=parameters)
