"""Execute a notebook about finished runs into an HTML page: a comparison, a demo of one run, a run beside its rerun."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from seqae.device import make_accelerator
from seqae.reports import Facts, comparable_runs, compare, give_pages, render_notebook
from seqae.runs import (
    Run,
    RunError,
    family_defaults,
    introduction,
    outside_runs,
    read_record,
    recorded_run,
    run_status,
    shared_facts,
    without_effect,
)
from seqae.stores import fetch, mark_unpublished, project_root
from seqae.sweeps.notebooks import execute_notebook
from seqae.sweeps.parameter_files import nearest, parameter_files
from seqae.sweeps.shipped_files import SHIPPED, page_notebook

UNFINISHED = 8  # runs that are not finished, at most, that a comparison names at its top


def project_around(folder: Path) -> Path:
    """The project of the working directory. If that is in no project, the one around `folder`, a run's.

    That one may have come with the run: execute nothing of it unless it `is_trusted` or the user says so.
    """
    here = _project_here()
    return here if (here / "notebooks").is_dir() else project_root(outside_runs(folder))


def is_trusted(project: Path) -> bool:
    """Whether this is the project of the working directory, whose code is the user's own."""
    return project == _project_here() and (project / "notebooks").is_dir()


def _project_here() -> Path:
    return project_root(outside_runs(Path.cwd()))


class Page(NamedTuple):
    """A page, and why its notebook failed; None if it did not. The page of a failed notebook ends with the error."""

    file: Path
    reason: str | None


def comparison_page(family: str, runs: Collection[Run], *, store: str | None = None) -> Page:
    """Execute notebooks/compare/FAMILY.ipynb, or else notebooks/compare.ipynb, into compare.html beside the runs.

    runs: those to compare; if empty, the notebook chooses. store: where runs are kept. Raises ValueError if the family
    has no runs there, or if a run is of another family.
    """
    folder, project = fetch(store, family) / family, _project_here()
    own = project / "notebooks" / "compare" / f"{family}.ipynb"
    source = own if own.exists() else page_notebook(project, "compare.ipynb")
    if not any(folder.glob("*/run.yaml")):
        known = {file.parents[1].name for file in folder.parent.glob("*/*/run.yaml")}
        raise ValueError(f"no run of family {family!r} in {folder.parent}{nearest(family, known)}")
    if others := [run.name for run in runs if run.family != family]:
        raise ValueError(f"{others[0]} is no run of family {family}")
    give_pages(folder.parent, family)  # the comparison links them
    mixed = bool(family_defaults(source).get("mixed"))
    told, chosen = _how_many(family, runs, folder.parent, project, mixed=mixed)
    return execute_page(
        source,
        folder / "compare.html",
        title=f"{family}: comparison",
        links={"all runs": "../index.html"},
        ends_first=True,
        rows=[("runs finished", told), *shared_facts(chosen), ("folder of runs", folder.parent.name)],
        store=folder.parent,
        parameters={"family": family, "runs": [run.name for run in runs]},
        introduction=introduction(*(run.parameters for run in chosen)) if chosen else None,
    )


def _how_many(
    family: str, runs: Collection[Run], store: Path, project: Path, *, mixed: bool
) -> tuple[str, Sequence[Run]]:
    # Of how many: whoever sees 2 of 33 runs should know that 31 are missing, and which. And those that the notebook
    # compares. Where no runs are chosen, files are not counted against runs: a file makes many (-p seed=6,7; scales).
    # Runs that were trained in notebooks alone are counted apart: parameter files may not define them.
    names = [run.name for run in runs]
    with warnings.catch_warnings(action="ignore"):  # of damaged runs: the notebook warns of them
        try:
            done = comparable_runs(family, names, store=str(store), mixed=True)
        except ValueError:  # none is finished, as the page itself says
            done = []
    files, left = len(parameter_files(project, family)), [name for name in names if name not in {r.name for r in done}]
    dry = f"seqae run params/{family} --dry-run"
    alone = [run for run in done if files and not (names or run.record().get("cells"))]
    count, more = len(done) - len(alone), f"; {len(alone)} more, trained without seqae run" if alone else ""
    missing = ""
    if left:
        missing = f" of {len(names)}; {_listed(left, dry)}"
    elif not names and 0 < files != count:
        has = f"{files} files" if files > 1 else "one file"
        missing = f"; params/{family} has {has}: {dry}, with your --scale and -p, names what is missing"
    if not names and (begun := _begun(store / family)):
        more += f"; {_listed(begun, 'seqae status')}"
    return f"{count}{missing}{more}", done if mixed or not done else next(iter(compare.groups(done).values()))


def _listed(names: Sequence[str], command: str) -> str:
    return f"not finished: {', '.join(names) if len(names) <= UNFINISHED else f'{command} names them'}"


def _begun(folder: Path) -> list[str]:
    # The runs of a family that are in training, or were interrupted.
    found = []
    for file in sorted(folder.glob("*/run.yaml")):
        with suppress(RunError):  # damaged, as the notebook warns
            if run_status(file.parent, read_record(file.parent)) in ("running", "interrupted"):
                found.append(file.parent.name)
    return found


def demo_page(
    folder: Path, *, device: str = "cpu", given: Mapping[str, Any] | None = None, trust_code: bool = False
) -> Page:
    """Execute notebooks/demo.ipynb on a run, into demo.html in the run's folder.

    given: further parameters of the notebook, but run and device. trust_code: as for `Run.load`. Raises RunError or
    ValueError, before it starts, for a folder without a trained run, a missing device, code of your own that may not
    run, or parameters that the notebook does not have or that the run does not use.
    """
    run = Run.load(folder, trust_code=trust_code)
    run.model_file()
    if ":" in run.parameters.architecture:
        run.own_code()  # raises here, not in the notebook, if it may not run
    make_accelerator(device=device)
    source = page_notebook(_project_here(), "demo.ipynb")
    own = {"run": f"{run.folder.parent.name}/{run.name}", "device": device}
    if twice := own.keys() & (given or {}):
        raise ValueError(f"-p {min(twice)}: seqae demo RUN --device DEVICE says run and device; leave it out")
    parameters = {**(given or {}), **own} | ({"trust_code": True} if trust_code else {})
    if idle := without_effect(run.parameters, run.family, given or {}):
        raise ValueError(f"-p {next(iter(idle.values()))}: leave it out")
    if unknown := [key for key in parameters if key not in family_defaults(source)]:
        raise ValueError(f"-p {unknown[0]}: no parameter of {source}; it has {', '.join(family_defaults(source))}")
    mark_unpublished(run.folder)
    beside = {"this run": "report.html"} if (run.folder / "report.html").exists() else {}
    return execute_page(
        source,
        run.folder / "demo.html",
        title=f"{run.family}/{run.name}: demo",
        links={"all runs": "../../index.html", **beside},
        rows=[("verdict on val", run.verdict or "none"), ("device", device), ("sequences", "of the test split")],
        store=run.folder.parents[1],
        parameters=parameters,
    )


def rerun_page(original: Run, again: Path) -> Page:
    """Execute notebooks/rerun.ipynb on a run and its rerun, into rerun.html in the rerun's store.

    again: the folder of the rerun.
    """
    source, store = page_notebook(_project_here(), "rerun.ipynb"), again.parents[1]
    records = {"then": original.record(), "again": recorded_run(again).record()}
    changes = " and uncommitted changes"
    rows = [(n, r.get("commit", "not recorded") + changes * bool(r.get("dirty"))) for n, r in records.items()]
    return execute_page(
        source,
        store / "rerun.html",
        title=f"{original.family}/{original.name}: made again",
        rows=rows,
        store=store,
        # relative to the store, so that the executed notebook contains no path of this machine
        parameters={"original": "../..", "again": again.relative_to(store).as_posix()},
    )


def execute_page(
    source: Path,
    page: Path,
    *,
    title: str,
    rows: Sequence[tuple[str, str]],
    store: Path,
    parameters: Mapping[str, Any],
    links: Mapping[str, str] | None = None,
    ends_first: bool = False,
    introduction: str | None = None,
) -> Page:
    """Execute the notebook `source` into the HTML file `page` and an .ipynb file of the same name beside it.

    title, rows: the head of the page, rows as (what, value). store: the notebook's $SEQAE_STORE. links, ends_first,
    introduction: as in `Facts`.
    """
    notebook, text = page.with_suffix(".ipynb"), source.read_text(encoding="utf-8")
    environment = {"SEQAE_STORE": str(store)}
    import_module("seqae.reports.formulas")  # of the page: free while the fork server still imports
    folder = project_root() if source.is_relative_to(SHIPPED) else source.parent
    reason = execute_notebook(text, notebook, name=title, parameters=parameters, environment=environment, folder=folder)
    beside = (notebook.name, page.with_suffix(".gif").name)
    facts = Facts(
        title, "failed" if reason else "done", None, rows, reason, beside, {}, links or {}, introduction, ends_first
    )
    render_notebook(notebook, page, facts, beside=source.parent)
    return Page(page, reason)
