"""A family's notebook through the whole house: interrupted, finished by `seqae run`, compared, and looked at."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import barriers, fits
from typer.testing import CliRunner

from seqae.commands.main import app
from seqae.runs import logs
from seqae.runs.finding import find_runs
from seqae.runs.notebook_cells import family_defaults
from seqae.runs.run import Run, open_run
from seqae.sweeps.parameter_files import read_yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / "params/losses/0nm-pred-zero.yaml"
pytestmark = [
    pytest.mark.processes,
    # papermill 2.7 opens kernels and files through libraries that warn; ours are errors.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def opened(store: Path) -> Run:
    given = read_yaml(ROOT / "params/scale/smoke.yaml") | read_yaml(FILE) | {"checkpoint_seconds": 0.0}
    return open_run("losses", family_defaults(ROOT / "notebooks/losses.ipynb"), given | {"store": str(store)})


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store whose one run was interrupted after its first epoch here, and finished and compared by commands."""
    store, append = tmp_path_factory.mktemp("end") / "store", logs.append_rows

    def interrupted(log: Path, rows: list[dict]) -> None:
        if rows[0]["epoch"] == 2:
            raise KeyboardInterrupt
        append(log, rows)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(logs, "append_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(store).train()
    assert opened(store).status == "interrupted"
    given = ["--scale", "smoke", "--store", str(store), "-p", "checkpoint_seconds=0"]
    assert "1 of 1 runs done" in command("run", str(FILE), *given)
    assert command("compare", "losses", "--store", str(store)).strip() == str(store / "losses" / "compare.html")
    return store


def test_an_interrupted_run_is_finished_by_a_sweep_as_if_unbroken(store, tmp_path):
    (run,) = find_runs(store)
    assert (run.status, len(run.record()["resumed"])) == ("done", 1)
    unbroken = opened(tmp_path).train()
    assert run.name == unbroken.name
    ours, theirs = (r.metrics().drop(columns="seconds") for r in (run, unbroken))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4)  # of another number of threads
    pd.testing.assert_frame_equal(run.test(), unbroken.test(), rtol=1e-4)
    left = {file.name for file in run.folder.rglob("*")} - {file.name for file in unbroken.folder.rglob("*")}
    assert left == {"notebook.ipynb", "report.html", ".execution.lock"}


def test_its_notebook_and_the_comparison_were_executed_top_to_bottom(store):
    (run,) = find_runs(store)
    for notebook, least in ((run.folder / "notebook.ipynb", 3), (store / "losses" / "compare.ipynb", 2)):
        cells = [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in cells if cell.source)
        figures = [output for cell in cells for output in cell.outputs if "image/svg+xml" in output.get("data", {})]
        assert len(figures) >= least
        assert all(output.metadata["image/svg+xml"]["alt"] for output in figures)
        assert cells[-1].outputs, "it ends with what was found"
        assert str(store) not in notebook.read_text()
    assert run.verdict in (run.folder / "report.html").read_text().replace("&gt;", ">")


def test_its_pages_ask_for_nothing_and_fit_the_screen(store, visit):
    (run,) = find_runs(store)
    for file in (run.folder / "report.html", store / "losses" / "compare.html", store / "index.html"):
        for width, scheme in ((390, "dark"), (1440, "light")):
            page = visit(file, width, scheme)
            assert fits(page), file
            assert page.locator("img:not([alt]), img[alt='']").count() == 0
            assert page.locator("details.code[open]").count() == 0
            assert page.locator("h1").count() == 1
            assert barriers(page) == [], file
            page.close()
