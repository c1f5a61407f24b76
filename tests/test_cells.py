"""An edited parameters cell: how the runs of its family are named then, and which of them are new."""

import os
import re
import subprocess
from types import SimpleNamespace

import IPython
import nbformat
import papermill
import pytest
from own import write_modules
from test_sweep import DEFAULTS, TINY, TRAIN, make_project, one_run, plan

from seqae.parameters import ParameterError
from seqae.runs import assignment
from seqae.runs.identity import defining, run_hash
from seqae.runs.merging import resolve
from seqae.runs.notebook_cells import cells_hash, family_notebook, parameter_cells, read_cell
from seqae.runs.run import Run, open_run
from seqae.sweeps.execution import execute

pytestmark = [
    pytest.mark.processes,  # git
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def git(project, *arguments):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "-C", project, *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A committed project with one family of two runs, one of which gives its gain."""
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    monkeypatch.chdir(make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}, "fam/b": {"gain": 2.0}}))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "as it was")
    return tmp_path


def edit(project, old, new):
    """Edit the parameters cell and save the notebook; returns the new cell."""
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
    assert told == ["seqae: fam.ipynb is edited; all runs whose scale or file sets no other value have: gain 4.0"]
    git(project, "commit", "-qam", "the new default")
    assert names(project, tell=told.append)[0] == before[0]
    assert len(told) == 1
    edit(project, "batch_size", "epochs = 7\nbatch_size")  # the scale gives another value to all runs
    names(project, tell=told.append)
    assert told[1:] == ["seqae: fam.ipynb is edited, but no run here has epochs 7: scale, file or -p set another value"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("width = 0.01", "", "width1"),  # deleted: then the library's default holds
        ("width = 0.01", "loss = '0sm'", "0sm-recon-output-width1"),
        ("batch_size = 4", "batch_size = 4\ntraining_loss = 'bce'\nactivation = 'sigmoid'", "0sb-recon"),
    ],
)
def test_whatever_was_edited_stands_in_the_name(project, old, new, words):
    usual = names(project)
    edit(project, old, new)
    (item, _) = plan(project, "fam", scale="tiny")
    assert words in item.run.name
    assert item.run.name != usual[0]
    sent, saved = nbformat.reads(item.notebook, 4), nbformat.read(project / "notebooks" / "fam.ipynb", 4)
    of_its_kernel = resolve(read_cell(sent.cells[0].source), item.given)
    of_the_file = resolve(read_cell(saved.cells[0].source), TINY)
    assert defining(item.run.parameters) == defining(of_its_kernel) == defining(of_the_file)


def test_the_same_run_is_found_under_another_name(project):
    def executed():
        (item,) = plan(project, "fam/a.yaml", scale="tiny")
        assert execute(item).reason is None

    edit(project, "batch_size", "gain = 4.0\nbatch_size")
    executed()
    trained = one_run(project / "reports", "fam")
    assert dict(trained.differs)["gain"] == 4.0
    assert "-gain4-" in trained.name
    page = trained.folder / "report.html"
    assert "gain 4.0" in page.read_text()
    made = page.stat().st_mtime_ns
    git(project, "commit", "-qam", "the new default")
    os.utime(project / "notebooks" / "fam.ipynb")  # as a checkout does
    executed()
    assert one_run(project / "reports", "fam") == trained
    assert page.stat().st_mtime_ns > made, "its cells are others now: the default is in the first"
    made = page.stat().st_mtime_ns
    os.utime(project / "notebooks" / "fam.ipynb")
    executed()
    assert page.stat().st_mtime_ns == made, "the same cells: touched, not edited"
    record = trained.folder / "run.yaml"
    record.write_text(re.sub("cells: .*", "", record.read_text()))
    assert plan(project, "fam/a.yaml", scale="tiny")[0].reason_to_execute() == "its report is of an older version"


@pytest.mark.soak
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
    return parameter_cells("fam")


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
    monkeypatch.setattr(assignment, "_current", assignment.Assignment("x"))  # a sweep has separated edits already
    assert executed(monkeypatch, edited)[1] == {}


def test_edited_arguments_do_not_reach_what_names_another_architecture(project, monkeypatch):
    write_modules(project)
    edit(project, "batch_size", "architecture = 'own_models:Forecaster'\ntask = 'pred'\nbatch_size")
    git(project, "commit", "-qam", "a model")
    cell = edit(project, "batch_size", "architecture_arguments = {'hidden': 6}\nbatch_size")
    for name, model in (("a", "Tied"), ("b", "Forecaster")):
        (project / "params" / "fam" / f"{name}.yaml").write_text(f"architecture: own_models:{model}")
    tied, forecaster = (item.run for item in plan(project, "fam"))
    assert (tied.parameters.architecture_arguments, forecaster.parameters.architecture_arguments) == ({}, {"hidden": 6})
    injected = "# Parameters\narchitecture = 'own_models:Tied'"
    assert open_run("fam", *executed(monkeypatch, cell, injected)).name == tied.name


def test_a_notebook_without_the_cell_is_told_where_to_copy_it_from(project, monkeypatch):
    told = "first run the cell .*; in a notebook of your own, copy that cell from notebooks/fam.ipynb$"
    with pytest.raises(ParameterError, match=told):
        executed(monkeypatch, "run = 1")


def test_the_cell_is_taken_as_it_is_where_git_cannot_tell(project):
    file = project / "notebooks" / "fam.ipynb"
    edit(project, "batch_size", "gain = 4.0\nbatch_size")
    file.rename(file.with_name("new.ipynb"))
    text, defaults, edits = family_notebook(file.with_name("new.ipynb"))
    assert (text, defaults["gain"], edits) == (file.with_name("new.ipynb").read_text(), 4.0, {})


def test_a_wrong_value_that_was_committed_can_be_mended_before_it_is_committed(project, monkeypatch):
    edit(project, "batch_size", "task = 'recom'\nbatch_size")
    git(project, "commit", "-qam", "wrong")
    with pytest.raises(ValueError, match=r"a\.yaml and 1 more: the cell of parameters of fam\.ipynb: task:"):
        plan(project, "fam", scale="tiny")
    cell = edit(project, "recom", "pred")
    assert all(item.run.parameters.task == "pred" for item in plan(project, "fam", scale="tiny"))
    assert open_run("fam", *executed(monkeypatch, cell)).parameters.task == "pred"


def test_a_cell_that_contradicts_itself_is_refused_before_it_is_committed(project, monkeypatch):
    cell = edit(project, "batch_size", "loss = '0nm'\nactivation = 'tanh'\nbatch_size")
    with pytest.raises(ParameterError, match="give one of them"):
        executed(monkeypatch, cell)
    with pytest.raises(ValueError, match="give one of them"):
        plan(project, "fam")


def test_a_store_that_was_committed_can_be_taken_back(project):
    edit(project, "batch_size", "store = 'shared'\nbatch_size")
    git(project, "commit", "-qam", "a store")
    assert {item.run.folder.parents[1] for item in plan(project, "fam")} == {project / "shared"}
    edit(project, "'shared'", "None")
    assert {item.run.folder.parents[1] for item in plan(project, "fam")} == {project / "reports"}


def test_what_papermill_injected_is_no_edit():
    cells = [nbformat.v4.new_code_cell(text) for text in ("a", "b")]
    cells[1].metadata["tags"] = ["injected-parameters"]
    found = {cells_hash(nbformat.writes(nbformat.v4.new_notebook(cells=part))) for part in (cells, cells[:1])}
    assert len(found) == 1
    cells[1].metadata["tags"] = []
    assert cells_hash(nbformat.writes(nbformat.v4.new_notebook(cells=cells))) not in found


# --- a run that was called otherwise ---


@pytest.fixture
def renamed(tmp_path):
    """A trained run whose folder has other words than its name would have today."""
    run = open_run("fam", DEFAULTS, TINY | {"store": str(tmp_path)}).train()
    return Run.load(run.folder.rename(run.folder.with_name(f"other-words-{run_hash(run.parameters)}")))


def test_it_is_found_in_a_store_elsewhere_that_was_never_looked_into(renamed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = open_run("fam", DEFAULTS, TINY | {"store": renamed.folder.parents[1].as_uri()})
    assert (found.name, found.status) == (renamed.name, "done")
    assert (found.folder / "model.safetensors").exists()


def test_a_folder_in_which_nothing_began_is_not_it(renamed):
    store, digits = renamed.folder.parents[1], run_hash(renamed.parameters)
    waiting = open_run("fam", DEFAULTS, TINY | {"store": str(store.parent / "empty")}).name
    for name in (f"a-{digits}", waiting):
        (store / "fam" / name).mkdir()
    assert open_run("fam", DEFAULTS, TINY | {"store": str(store)}).name == renamed.name


def test_in_a_kernel_of_a_sweep_the_run_is_the_one_that_the_sweep_chose(renamed, monkeypatch):
    given = TINY | {"store": str(renamed.folder.parents[1])}
    monkeypatch.setattr(assignment, "_current", None)
    assignment.assign(chosen := f"chosen-{run_hash(renamed.parameters)}-2")
    run = open_run("fam", DEFAULTS, given | {"fresh": True})
    assert (run.name, run.assigned) == (chosen, True)
    other = open_run("fam", DEFAULTS, given | {"seed": 1})
    assert other.name.startswith("0nm-")
    assert not other.assigned, "a notebook may open other runs beside its own"
    with pytest.raises(RuntimeError, match="was given run chosen-"):
        assignment.assign(run.name)
