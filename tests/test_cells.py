"""The cell of parameters, edited: what its family's runs are then called, and which of them are new."""

import os
import subprocess
from types import SimpleNamespace

import IPython
import nbformat
import papermill
import pytest
from test_sweep import TRAIN, make_project, one_run, plan, seqae

from seqae.cells import family_notebook, parameter_cells, sources
from seqae.config import ParameterError
from seqae.runs import open_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def git(project, *arguments):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "-C", project, *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Of one family, committed: two runs, one of which says its gain."""
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    monkeypatch.chdir(make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}, "fam/b": {"gain": 2.0}}))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "as it was")
    return tmp_path


def edit(project, old, new):
    """The notebook's cell of parameters, saved."""
    file = project / "notebooks" / "fam.ipynb"
    notebook = nbformat.read(file, 4)
    assert old in notebook.cells[0].source
    notebook.cells[0].source = notebook.cells[0].source.replace(old, new)
    nbformat.write(notebook, file)
    return notebook.cells[0].source


def names(project, **options):
    return [item.run.name.rpartition("-")[0] for item in plan(project, "fam", scale="tiny", **options)]


def test_an_edited_default_is_told_and_stands_in_the_names(project):
    before = names(project)
    edit(project, "batch_size", "gain = 4.0\nbatch_size")
    told = []
    assert names(project, tell=told.append) == [before[0].replace("-train", "-gain4-train"), before[1]]
    assert told == ["seqae: parameters of fam.ipynb are edited, for all runs that do not say otherwise: gain 4.0"]
    git(project, "commit", "-qam", "the new default")
    assert names(project, tell=told.append)[0] == before[0]
    assert len(told) == 1


def test_the_same_run_is_found_under_another_name(project):
    edit(project, "batch_size", "gain = 4.0\nbatch_size")
    run = seqae("run", "params/fam/a.yaml", "--scale", "tiny", project=project)
    assert run.returncode == 0, run.stderr
    assert "seqae: parameters of fam.ipynb are edited" in run.stderr
    trained = one_run(project / "reports", "fam")
    assert dict(trained.differs)["gain"] == 4.0
    assert "-gain4-" in trained.name
    page = trained.folder / "report.html"
    assert "gain 4.0" in page.read_text()
    made = page.stat().st_mtime_ns
    git(project, "commit", "-qam", "the new default")
    os.utime(project / "notebooks" / "fam.ipynb")  # a checkout does so
    again = seqae("run", "params/fam/a.yaml", "--scale", "tiny", project=project)
    assert "1 of 1 runs done" in again.stdout
    assert one_run(project / "reports", "fam") == trained
    assert page.stat().st_mtime_ns > made, "its cells are others now: the default is in the first"
    made = page.stat().st_mtime_ns
    os.utime(project / "notebooks" / "fam.ipynb")
    seqae("run", "params/fam/a.yaml", "--scale", "tiny", project=project)
    assert page.stat().st_mtime_ns == made, "the same cells: touched, not edited"


def test_papermill_alone_makes_the_run_that_a_sweep_does(project):
    edit(project, "batch_size", "gain = 4.0\nbatch_size")
    (item, _) = plan(project, "fam", scale="tiny")
    papermill.execute_notebook(
        project / "notebooks" / "fam.ipynb", project / "out.ipynb", dict(item.given) | {"gain": 4.0},
        kernel_name="python3", progress_bar=False, cwd=str(project / "notebooks"),
    )  # fmt: skip
    assert one_run(project / "reports", "fam").folder == item.run.folder


def executed(monkeypatch, *cells):
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(user_ns={"In": ["", *cells]}))
    return parameter_cells()


def test_in_jupyter_an_unsaved_edit_is_in_the_name(project, monkeypatch):
    cell = nbformat.read(project / "notebooks" / "fam.ipynb", 4).cells[0].source
    usual, given = executed(monkeypatch, cell)
    assert given == {}
    edited = cell + "\nloss = '0sm'\ngain = 4.0"
    run = open_run("fam", *executed(monkeypatch, edited))
    assert run.name.startswith("0sm-recon-output-gain4-")
    assert run.parameters == open_run("fam", usual, {"loss": "0sm", "gain": 4.0}).parameters
    run = open_run("fam", *executed(monkeypatch, edited, "# Parameters\ntraining_loss = 'bce'"))
    assert (run.parameters.loss, run.parameters.gain) == ("0sb", 4.0)
    monkeypatch.setenv("SEQAE_RUN", "x")  # in a sweep's kernel: its planner has told them apart
    assert executed(monkeypatch, edited)[1] == {}


def test_the_cell_is_taken_as_it_is_where_git_cannot_tell(project, monkeypatch):
    file = project / "notebooks" / "fam.ipynb"
    edit(project, "batch_size = ", "# ")  # a default taken out
    text, defaults, edits = family_notebook(file)
    assert (text, edits) == (file.read_text(), {})
    assert "batch_size" not in defaults
    edit(project, "# 4", "batch_size = 4")
    file.rename(file.with_name("new.ipynb"))
    assert family_notebook(file.with_name("new.ipynb"))[2] == {}


def test_a_cell_that_contradicts_itself_is_refused_before_it_is_committed(project, monkeypatch):
    cell = edit(project, "batch_size", "loss = '0nm'\nactivation = 'tanh'\nbatch_size")
    with pytest.raises(ParameterError, match="give one of them"):
        executed(monkeypatch, cell)
    with pytest.raises(ValueError, match="give one of them"):
        plan(project, "fam")


def test_sources_leave_out_what_papermill_injected(tmp_path):
    cells = [nbformat.v4.new_code_cell(text) for text in ("a", "b")]
    cells[1].metadata["tags"] = ["injected-parameters"]
    assert sources(nbformat.writes(nbformat.v4.new_notebook(cells=cells))) == ["a"]
