"""A run made again: by the code that made it, which is not today's, and by today's; and nothing stays behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from test_sweep import DEFAULTS, SEQAE, TINY, TRAIN, make_project, snapshot, values, words_of
from typer.testing import CliRunner

from seqae.commands.main import app
from seqae.reports import figures, reproduction
from seqae.runs.finding import recorded_run
from seqae.runs.merging import resolve
from seqae.runs.provenance import code_version
from seqae.runs.run import Run, RunError, open_run
from seqae.stores import MARK, unpublished
from seqae.sweeps import reproduce
from seqae.sweeps.notebooks import ForkedProvisioner

ROOT = Path(__file__).parents[1]
BEFORE_ROOMS = "d7aaa166f6bf"  # the commit that made the runs in OLD_RUNS, when all modules were in one folder
OLD_RUNS = ROOT / "tests" / "data" / "runs-before-rooms"
pytestmark = [
    pytest.mark.processes,  # git, mostly
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this copy of the project is no git repository"),
    # papermill 2.7 opens kernels and files through libraries that warn; ours are errors.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
MAKE = f"from seqae import open_run; open_run('fam', {DEFAULTS}, {TINY}).train()"
STOPS_SLOWLY = """
import sys, time
from pathlib import Path
def app():
    store = Path(sys.argv[sys.argv.index("--store") + 1])
    store.mkdir(parents=True)
    try:
        (store / "began").touch()
        time.sleep(600)
    except KeyboardInterrupt:
        (store / "stopping").touch()
        time.sleep(0.5)
        (store / "ended").write_text("in its worktree" if Path(__file__).exists() else "too late")
        sys.exit(130)
"""
DOUBLE = """
_as_it_was = frame_errors
def frame_errors(*arguments):
    return {name: 2 * value for name, value in _as_it_was(*arguments).items()}
"""


def git(*arguments: str, project: Path) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(project), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(project: Path) -> str:
    git("add", "--all", project=project)
    git("commit", "--quiet", "--no-verify", "--message", "next", project=project)
    return git("rev-parse", "--short=12", "HEAD", project=project)


def worktrees(project: Path) -> int:
    return len(git("worktree", "list", project=project).splitlines())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A small git repository with a notebook, whose code, of an older layout, ends at once."""
    root = make_project(tmp_path_factory.mktemp("small"), {"fam": [TRAIN.format("fam")]}, {"fam/a": {}})
    (root / "seqae").mkdir()
    (root / "seqae" / "__init__.py").touch()
    (root / "seqae" / "cli.py").write_text("def app(): raise SystemExit(7)")
    git("init", "--quiet", project=root)
    commit(root)
    return root


@pytest.fixture(scope="module")
def original(project, tmp_path_factory):
    """A run trained by today's code, whose record says that the commit of the small repository made it."""
    run = open_run("fam", DEFAULTS, TINY | {"store": str(tmp_path_factory.mktemp("elsewhere"))}).train()
    record = run.record() | {"commit": git("rev-parse", "--short=12", "HEAD", project=project), "dirty": False}
    (run.folder / "run.yaml").write_text(yaml.safe_dump(record))
    return run


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone of this repository (with what is not committed here yet), and in it a small family."""
    root = tmp_path_factory.mktemp("clone") / "project"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(root)], check=True)
    for folder in ("seqae", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / folder, root / folder, dirs_exist_ok=True, ignore=ignored)
    return make_project(root, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}})


@pytest.fixture(scope="module")
def doubled(clone, tmp_path_factory):
    """A run by a commit that measured errors doubled; today's code does not, and its notebook has other values."""
    store, file = tmp_path_factory.mktemp("elsewhere"), clone / "seqae" / "metrics.py"
    today = file.read_text()
    file.write_text(today + DOUBLE)
    before = commit(clone)
    environment = os.environ | {"SEQAE_STORE": str(store), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", MAKE], cwd=clone, env=environment, check=True, capture_output=True)
    file.write_text(today)
    notebook = clone / "notebooks" / "fam.ipynb"
    notebook.write_text(notebook.read_text().replace("width = 0.01", "width = 0.01\\nepochs = 1\\nseed = 3"))
    commit(clone)
    (run,) = [Run.load(file.parent) for file in store.glob("fam/*/run.yaml")]
    assert (run.record()["commit"], run.record()["dirty"], run.record()["threads"]) == (before, False, 1)
    return run


def call(*arguments: str, code: int = 0) -> str:
    """What the command prints, without its processes, when it ends with this exit code."""
    result = CliRunner().invoke(app, ["rerun", *arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def old_code(clone, doubled):
    """What `seqae rerun` prints, and the folder as it was before."""
    before = snapshot(doubled)
    with contextlib.chdir(clone):
        return call(str(doubled.folder)), before


@pytest.fixture
def changed(project, original, tmp_path, monkeypatch):
    """A copy of the run whose record says otherwise."""
    monkeypatch.chdir(project)

    def change(**changes) -> Run:
        folder = shutil.copytree(
            original.folder, tmp_path / "fam" / "changed", ignore=lambda *_: ["reruns"], dirs_exist_ok=True
        )
        record = yaml.safe_load((folder / "run.yaml").read_text())
        for key, value in changes.items():
            record[key] = record[key] | value if isinstance(value, dict) else value
        (folder / "run.yaml").write_text(yaml.safe_dump(record))
        return recorded_run(folder)

    return change


def made(run: Run, name: str) -> Run:
    (file,) = run.folder.glob(f"reruns/{name}/fam/*/run.yaml")
    return Run.load(file.parent)


# --- with the old code ---


@pytest.mark.soak
def test_the_old_code_makes_the_old_numbers(clone, doubled, old_code):
    again = made(doubled, doubled.record()["commit"])
    record = again.record()
    assert (record["commit"], record["dirty"], record["threads"]) == (doubled.record()["commit"], False, 1)
    assert (again.name, again.status, again.parameters) == (doubled.name, "done", doubled.parameters)
    pd.testing.assert_frame_equal(values(again), values(doubled))
    assert (again.folder / "test.csv").read_bytes() == (doubled.folder / "test.csv").read_bytes()
    assert snapshot(doubled) == old_code[1]
    assert worktrees(clone) == 1


@pytest.mark.soak
def test_it_tells_where_the_page_is_and_what_came_out(doubled, old_code):
    conclusion, page = old_code[0].splitlines()
    assert conclusion.startswith("Identical to the last bit: all 2 values of val MSE by epoch and all ")
    store = doubled.folder / "reruns" / doubled.record()["commit"]
    assert Path(page) == store / "rerun.html"
    text = (store / "rerun.html").read_text()
    assert conclusion in text
    assert doubled.verdict in words_of(store / "rerun.html")
    notebook = nbformat.read(store / "rerun.ipynb", as_version=4)
    figures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/svg+xml" in o.get("data", {})]
    assert len(figures) == 1
    assert str(doubled.folder) not in json.dumps(notebook)


@pytest.mark.soak
def test_what_is_done_is_not_made_once_more(clone, doubled, old_code, monkeypatch):
    monkeypatch.chdir(clone)
    monkeypatch.setattr(reproduce, "_old_project", None)
    folder, reason = reproduce.reproduce_run(doubled)
    assert (folder, reason) == (made(doubled, doubled.record()["commit"]).folder, None)


def held_by_git(commit: str) -> bool:
    command = ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.soak
@pytest.mark.skipif(not held_by_git(BEFORE_ROOMS), reason=f"git holds no commit {BEFORE_ROOMS}: a shallow clone, say")
def test_code_of_the_layout_before_makes_its_run_again(clone, tmp_path, monkeypatch):
    shutil.copytree(OLD_RUNS / "losses", tmp_path / "losses")
    (folder,) = tmp_path.glob("losses/*-cfa76d9f")
    original, before = Run.load(folder), snapshot(Run.load(folder))
    monkeypatch.chdir(clone)
    finding, page = call(str(folder)).splitlines()
    (file,) = folder.glob(f"reruns/{BEFORE_ROOMS}/losses/*/run.yaml")
    again = Run.load(file.parent)
    record = again.record()
    assert (record["commit"], record["dirty"], again.name) == (BEFORE_ROOMS, False, original.name)
    assert Path(page) == folder / "reruns" / BEFORE_ROOMS / "rerun.html"
    assert finding in words_of(Path(page))
    assert finding.startswith(("Identical to the last bit", "Not identical"))
    columns = ["epoch", "step", "split", "branch", "metric", "value"]
    then, now = original.metrics()[columns], again.metrics()[columns]
    pd.testing.assert_frame_equal(now, then, rtol=1e-3)  # another processor rounds otherwise
    assert snapshot(original) == before
    assert worktrees(clone) == 1


def test_old_and_new_code_find_what_starts_their_kernels():
    """Each by a name of its own: what is installed is today's, for either."""
    found = {point.name: point for point in entry_points(group="jupyter_client.kernel_provisioners")}
    assert found["seqae-forked"].value == "seqae.kernels:ForkedProvisioner"
    assert found["seqae-fork"].load() is ForkedProvisioner


# --- with today's ---


@pytest.mark.soak
def test_here_takes_todays_code_and_the_recorded_parameters(clone, doubled, monkeypatch):
    monkeypatch.chdir(clone)
    folder, reason = reproduce.reproduce_run(doubled, here=True)
    assert reason is None
    again = made(doubled, f"here-{code_version()[0]}-*")
    assert (again.folder, again.record()["commit"]) == (folder, code_version()[0])
    assert again.parameters == doubled.parameters, "the notebook's new values are not part of the run"
    mse = [run.test().query("metric == 'mse'")["value"].to_numpy() for run in (doubled, again)]
    np.testing.assert_array_equal(mse[0], 2 * mse[1])
    assert reproduction.rerun_findings(doubled, again).startswith(
        "Not identical: val MSE values differ by up to 50 % (recon mse, epoch"
    )


def test_here_is_told_apart_by_what_the_files_hold(project, tmp_path):
    notebook = Path(shutil.copy(project / "notebooks" / "fam.ipynb", tmp_path))
    before = reproduce._today(notebook)
    assert before == reproduce._today(notebook)
    assert before.startswith(f"here-{code_version()[0]}-")
    with notebook.open("a") as file:
        file.write("\n")
    assert reproduce._today(notebook) != before


# --- what fails ---


def test_a_rerun_that_fails_says_why_and_where(changed, monkeypatch):
    run = changed(dirty=True)

    def fail(file: Path, store: Path, **_) -> int:
        parameters = yaml.safe_load(file.read_text())
        failed = Run(store / "fam" / "again", "fam", resolve(parameters), {})
        failed.folder.mkdir(parents=True)
        failed.fail("ValueError: device cuda is not available")
        (failed.folder / "report.html").touch()
        return 1

    monkeypatch.setattr(reproduce, "_seqae_run", fail)
    warning, message = call(str(run.folder), code=1).splitlines()
    assert "with uncommitted changes; the rerun is made without them" in warning
    again = made(run, run.record()["commit"])
    assert again.parameters == run.parameters
    assert message == (
        "seqae: the rerun of fam/changed failed: ValueError: device cuda is not available; see "
        f"{again.folder / 'report.html'}"
    )


def test_old_code_that_does_not_start_is_a_reason(project, changed):
    output = call(str(changed().folder), code=1)
    assert "exit code 7" in output
    assert worktrees(project) == 1


@pytest.mark.soak
def test_stopped_it_waits_for_the_old_code_and_leaves_no_worktree(project, changed):
    (project / "seqae" / "cli.py").write_text(STOPS_SLOWLY)
    run = changed(commit=commit(project))
    git("revert", "--no-edit", "HEAD", project=project)
    store = run.folder / "reruns" / run.record()["commit"]
    client = subprocess.Popen(
        [*SEQAE, "rerun", str(run.folder)],
        cwd=project,
        env=os.environ | {"PYTHONSAFEPATH": "1"},  # the project holds a package `seqae` of its own
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (store / "began").exists():
        assert client.poll() is None
        time.sleep(0.05)
    assert worktrees(project) == 2
    client.send_signal(signal.SIGINT)
    while not (store / "stopping").exists():
        time.sleep(0.05)
    client.send_signal(signal.SIGTERM)  # somebody is impatient
    assert client.communicate()[1] == "seqae: stopped; the same command goes on from the last checkpoints\n"
    assert client.returncode == 130
    assert (store / "ended").read_text() == "in its worktree"
    assert worktrees(project) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": "seqae 0.1.0", "sources": "another"}, "'seqae 0.1.0' made the run, which is no git commit"),
        (
            {"commit": "seqae 0.1.0", "git": "detected dubious ownership"},
            "is no git commit (git said: detected dubious ownership): use --here",
        ),
        ({"commit": "0123456789ab"}, "does not hold commit 0123456789ab: fetch it, or use --here"),
        ({"status": "failed"}, "is failed, not done: finish it with seqae run"),
    ],
)
def test_what_cannot_be_made_again(changed, changes, message):
    run = changed(**changes)
    output = call(str(run.folder), code=2)
    assert output.startswith("seqae: ")
    assert message in output
    assert str(run.folder) in output or "git" in message or "commit" in message
    assert not (run.folder / "reruns").exists()


@pytest.mark.parametrize(
    "family", ["../../outside", "/outside", "fam/../../x", "..", ".", "", "a\0b", ["fam"], 3, None]
)
def test_a_family_that_is_no_name_leads_nowhere(changed, project, tmp_path, family):
    """It is joined to the folder of the project, of notebooks and of parameter files."""
    before = {*project.rglob("*")}
    with pytest.raises(
        RunError, match=r"run\.yaml (has family .*, which must be a name|is damaged \(family must be a text)"
    ):
        changed(family=family)  # reads it by `recorded_run`
    with pytest.raises(RunError, match=r"has family|family must be a text"):
        Run.load(tmp_path / "fam" / "changed")
    assert {*project.rglob("*")} == before


def test_a_record_adds_no_code_and_no_places_to_a_rerun(changed, project, tmp_path):
    threads = f"2; open({str(tmp_path / 'ran')!r}, 'w')"
    with pytest.raises(RunError, match="threads must be a number"):
        changed(threads=threads)
    assert not (tmp_path / "ran").exists()
    run = changed(threads=2, parameters={"data_folder": "/elsewhere", "store": "/elsewhere", "tracker": "wandb"})
    _, reason = reproduce.reproduce_run(run)
    assert "exit code 7" in reason
    values = reproduce._parameters(run.record(), here=False)
    assert values == {key: value for key, value in run.record()["parameters"].items() if key not in reproduce.PLACES}


@pytest.mark.parametrize("here", [(), ("--here",)])
def test_outside_of_any_project_the_code_around_a_run_is_not_executed_unasked(
    original, project, tmp_path, monkeypatch, here
):
    """A repository that lies around a run may have come with it: its notebooks, its modules, its library."""
    foreign = shutil.copytree(project, tmp_path / "foreign")
    folder = shutil.copytree(original.folder, foreign / "reports" / "fam" / original.name)
    (tmp_path / "elsewhere").mkdir()
    executed = []
    monkeypatch.setattr(reproduce, "_seqae_run", lambda *_, **__: executed.append(1) or 7)
    for outside in (tmp_path / "elsewhere", tmp_path):
        monkeypatch.chdir(outside)
        refused = call(str(folder), *here, code=2)
        assert f"would execute the notebooks and the code of {foreign}: do this in {foreign}, or" in refused
        assert "say --trust-code" in refused
    assert (executed, worktrees(foreign), (folder / "reruns").exists()) == ([], 1, False)
    assert "ended with exit code 7" in call(str(folder), *here, "--trust-code", code=1)
    monkeypatch.chdir(foreign)
    assert "ended with exit code 7" in call(str(folder), *here, code=1)
    assert executed == [1, 1]


def test_todays_notebook_finds_what_lies_beside_it(original, project, tmp_path, monkeypatch):
    mine, read = shutil.copytree(project, tmp_path / "mine"), []
    folder = shutil.copytree(original.folder, mine / "reports" / "fam" / original.name)
    (mine / "notebooks" / "beside.txt").write_text("what lies beside it")

    def looked(file, store, *, project, **others):
        read.append((project / "notebooks" / "beside.txt").read_text())
        return 7

    monkeypatch.setattr(reproduce, "_seqae_run", looked)
    monkeypatch.chdir(mine)
    call(str(folder), "--here", code=1)
    assert read == ["what lies beside it"]


def test_a_folder_without_a_run_and_a_project_without_git(tmp_path, original, monkeypatch):
    output = call(str(tmp_path), code=2)
    assert output == f"seqae: {tmp_path} is no run folder: it has no run.yaml\n"
    output = call("losses/none-12345678", code=2)
    assert output.startswith(
        "seqae: there is no run losses/none-12345678, neither that folder nor, as FAMILY/NAME-HASH, in "
    )
    monkeypatch.chdir(make_project(tmp_path, {"fam": []}, {}))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    output = call(str(original.folder), code=2)
    assert f"{tmp_path} is no git repository: do this in a clone of the project" in output


def test_a_repository_that_git_does_not_read_is_told_in_its_words(original, project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert f"git cannot read the repository of {project}: detected dubious own" in call(str(original.folder), code=2)


def test_only_how_it_is_executed_may_be_said(original, project, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(ValueError, match=r"-p epochs: .* only these can be set: .*device"):
        reproduce.reproduce_run(original, given={"epochs": 3})
    with pytest.raises(ValueError, match=r"^-p data_folder data has no effect: it is used with digits mnist"):
        reproduce.reproduce_run(original, given={"data_folder": "data"})
    assert reproduce._absolute({"data_folder": "~/data"}) == {"data_folder": str(Path.home() / "data")}
    assert reproduce._absolute({"data_folder": "data", "device": "cpu"}) == {
        "data_folder": f"{project}/data",
        "device": "cpu",
    }


def test_a_mirror_is_not_emptied_of_a_run_while_its_rerun_is_made(changed, tmp_path, monkeypatch):
    run, found = changed(), []
    monkeypatch.setattr(reproduce, "_seqae_run", lambda *_, **__: found.append(unpublished(run.folder)) or 5)
    reproduce.reproduce_run(run)
    (tmp_path / MARK).touch()
    reproduce.reproduce_run(run)
    assert found == [False, True], "only what lies in a mirror is to be published"


def test_a_run_that_several_codes_made_is_told(changed, monkeypatch):
    run, told = changed(resumed=[{"at": "", "commit": "feedfeedfeed"}]), []
    monkeypatch.setattr(reproduce, "_seqae_run", lambda *_, **__: 5)
    folder, reason = reproduce.reproduce_run(run, tell=told.append)
    assert folder == run.folder / "reruns" / run.record()["commit"]
    assert "exit code 5" in reason
    assert ["went on with feedfeedfeed" in message for message in told] == [True]


# --- side by side ---


def test_parameters_that_today_does_not_know_can_be_looked_at(changed):
    run = changed(parameters={"temperature": 3})
    with pytest.raises(ValueError, match="temperature"):
        Run.load(run.folder)
    assert len(reproduction.paired_finals(run, run)) == len(run.test().query("frame.isna()"))


def test_differences_and_what_only_one_has(original, changed):
    again = changed(machine="other", threads=2)
    metrics = pd.read_csv(again.folder / "metrics.csv")
    rows = metrics.index[(metrics.split == "val") & (metrics.metric == "mse")]
    metrics.loc[rows[-1], "value"] *= 1.25
    metrics.to_csv(again.folder / "metrics.csv", index=False)
    line = reproduction.rerun_findings(original, again)
    assert line.startswith("Not identical: val MSE values differ by up to 25 % (recon mse, epoch 2: ")
    assert "test metrics are identical to the last bit" in line
    metrics.drop(rows[-1]).to_csv(again.folder / "metrics.csv", index=False)
    assert "val MSE values differ (recon mse, epoch 2: " in reproduction.rerun_findings(original, again)

    table = reproduction.paired_circumstances(original, again)
    assert set(table[table.same == "differs"].index) == {"machine", "threads"}
    curves = reproduction.paired_curves(original, again)
    (axis,) = figures.then_and_again(curves).axes
    drawn = [line.get_ydata() for line in axis.lines if len(line.get_xdata())]
    assert [len(y) for y in drawn] == [2, 1]
    assert axis.get_ylabel() == "val MSE per pixel, on [0, 1]"
    plt.close("all")
