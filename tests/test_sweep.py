"""Sweeps end to end: real notebooks and kernels, and what happens when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import torch
import yaml
from bs4 import BeautifulSoup

from seqae.reports.index import update_index
from seqae.runs.merging import resolve
from seqae.runs.records import progress
from seqae.runs.run import Run, open_run
from seqae.sweeps import execution, planning
from seqae.sweeps.cluster import CPU_COUNT

SEQAE = [sys.executable, "-c", "from seqae.commands import app; app()"]
DEFAULTS = {"frame_size": 16, "width": 0.01, "batch_size": 4, "checkpoint_seconds": 0.0}
TINY = {"train_sequences": 8, "val_sequences": 4, "test_sequences": 4, "epochs": 2}
TRAIN = "from seqae import open_run, parameter_cells\nrun = open_run({0!r}, *parameter_cells({0!r})).train()"


def make_project(root: Path, families: dict[str, list[str]], files: dict[str, dict]) -> Path:
    """A project whose families' notebooks have these cells, and parameter files; scale `tiny` is there."""
    for family, cells in families.items():
        parameters = "\n".join([f"# Parameters of the family {family}", *(f"{k} = {v!r}" for k, v in DEFAULTS.items())])
        first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        notebook = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        (root / "notebooks").mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, root / "notebooks" / f"{family}.ipynb")
    for name, content in {"scale/tiny": TINY, **files}.items():
        file = root / "params" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content))
    return root


def seqae(*arguments: str, project: Path, **environment: str) -> subprocess.CompletedProcess:
    own = {"SEQAE_STORE": ""} | environment
    return subprocess.run([*SEQAE, *arguments], cwd=project, env=os.environ | own, capture_output=True, text=True)


def one_run(store: Path, family: str) -> Run:
    (file,) = store.glob(f"{family}/*/run.yaml")
    return Run.load(file.parent)


def values(run: Run) -> pd.DataFrame:
    log = pd.read_csv(run.folder / "metrics.csv", dtype=str)
    return log.drop(columns="seconds")


def snapshot(run: Run) -> dict[str, tuple[int, bytes]]:
    return {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in run.folder.iterdir() if f.is_file()}


# --- one sweep over all that can happen ---

ENVIRONMENT = "import os\nprint('threads', os.environ['OMP_NUM_THREADS'], os.environ.get('MALLOC_TRIM_THRESHOLD_'))"
AFTER_EPOCH = """
import os, signal, time
from pathlib import Path
from seqae.runs import experiment
train = experiment.train_model
def hooked(p, val, *, record, **others):
    def then(table, rows):
        record(table, rows)
        if table == "metrics" and rows[0]["epoch"] == {epoch}:
            {act}
    return train(p, val, record=then, **others)
experiment.train_model = hooked
"""


def after_epoch(epoch: int, act: str, *, once: Path | None = None) -> str:
    """A cell, for before that which trains: when an epoch is recorded, `act` is done; once: the first time only."""
    first = f"if not Path({str(once)!r}).exists(): Path({str(once)!r}).touch(); " if once else ""
    return AFTER_EPOCH.format(epoch=epoch, act=first + act)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    families = {
        "fam": [ENVIRONMENT, TRAIN.format("fam")],
        "bad": ["raise ValueError('no <b>such</b> thing')", TRAIN.format("bad")],
        "other": ["print('trains nothing')"],
        "killed": [
            after_epoch(3, "os.kill(os.getpid(), signal.SIGKILL)", once=root / "marker"),
            TRAIN.format("killed"),
        ],
    }
    files = {f"{family}/a": {} for family in families} | {
        "fam/b": {"loss": "0sm", "task": "pred"},
        "fam/nested/same-as-b": {"task": "pred", "loss": "0sm"},
        "fam/z-fresh": {"fresh": True},
        "killed/a": {"epochs": 4},
    }
    # What a user may have installed as `python3` must not matter.
    broken = root / "jupyter" / "kernels" / "python3"
    broken.mkdir(parents=True)
    (broken / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "", "language": "python"}))
    return make_project(root, families, files)


@pytest.fixture(scope="module")
def papermilled(project):
    """What bare papermill made of fam/b, before the sweep."""
    files = [project / "params" / name for name in ("scale/tiny.yaml", "fam/b.yaml")]
    command = [
        sys.executable,
        "-m",
        "papermill",
        "--no-progress-bar",
        "-k",
        "python3",
        "notebooks/fam.ipynb",
        "out.ipynb",
    ]
    for file in files:
        command += ["-f", str(file)]
    environment = os.environ | {"SEQAE_STORE": str(project / "reports"), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=project, env=environment, capture_output=True, check=True)
    run = one_run(project / "reports", "fam")
    return run, snapshot(run)


@pytest.fixture(scope="module")
def first(project, papermilled):
    jupyter = str(project / "jupyter")
    return seqae("run", "params", "--scale", "tiny", "--jobs", "2", project=project, JUPYTER_PATH=jupyter)


@pytest.fixture(scope="module")
def second(project, first):
    """The same once more, but for two that would fail again; with what a run of fam held before it."""
    before = snapshot(run := next(r for r in fam(project) if "pred" not in r.name))
    files = [f"params/{family}" for family in ("fam", "bad", "killed")]
    return seqae("run", *files, "--scale", "tiny", "--jobs", "2", project=project), run, before


def fam(project: Path) -> list[Run]:
    return [Run.load(file.parent) for file in sorted((project / "reports").glob("fam/*/run.yaml"))]


def words_of(page: Path) -> str:
    """What a reader sees of a page, without its marks."""
    return BeautifulSoup(page.read_text(), "html.parser").get_text()


@pytest.mark.soak
def test_runs_of_a_sweep_are_done_and_rendered(project, papermilled, first):
    runs = fam(project)
    assert {run.status for run in runs} == {"done"}
    assert all("learn" in run.verdict or "mean frame" in run.verdict for run in runs)
    for run in runs:
        page = words_of(run.folder / "report.html")
        assert run.verdict in page
        by_papermill = run.folder == papermilled[0].folder
        assert by_papermill == ("planned_from" not in run.record())
        assert by_papermill == ("seqae run params/fam/a.yaml --scale tiny, in a clone of" not in page)
        assert f"{run.family}/{run.name}: {run.verdict}, " in first.stdout
        hidden = {f.name for f in run.folder.iterdir() if f.name[0] == "." or f.suffix == ".tmp"}
        assert hidden <= {".lock", ".execution.lock"}


@pytest.mark.soak
def test_two_files_that_define_one_run_are_run_once(project, first):
    # same-as-b is b; the first time there is nothing beside which z-fresh would be another run than a
    assert first.stdout.count("\nfam/") + first.stdout.startswith("fam/") == 2


@pytest.mark.soak
def test_executed_notebook_holds_no_path_of_this_machine(project, first):
    for run in fam(project):
        text = (run.folder / "notebook.ipynb").read_text()
        assert str(project) not in text
        assert json.loads(text)["metadata"]["papermill"]["output_path"].endswith(f"fam/{run.name}/notebook.ipynb")


@pytest.mark.soak
def test_kernels_share_the_processors(project, first):
    (run, _) = fam(project)
    threads = max(1, CPU_COUNT // 2)
    assert f'"threads {threads} None\\n"' in (run.folder / "notebook.ipynb").read_text()


@pytest.mark.soak
def test_bare_papermill_and_seqae_run_share_a_folder(project, papermilled, first):
    run, before = papermilled
    after = snapshot(run)
    assert run.name in [r.name for r in fam(project)]
    assert not any(name in before for name in ("notebook.ipynb", "report.html"))
    assert after.keys() - before.keys() == {"notebook.ipynb", "report.html", ".execution.lock"}
    assert {name for name in before if after[name] != before[name]} == {"run.yaml"}
    told = yaml.safe_load(after["run.yaml"][1])
    assert len(told.pop("cells")) == 8, "of what notebook its report is"
    assert told == yaml.safe_load(before["run.yaml"][1])


@pytest.mark.soak
def test_failures_are_isolated_and_listed(project, first):
    reasons = {
        "bad": "ValueError: no <b>such</b> thing",
        "other": "the notebook ended without training this run",
        "killed": "the kernel died",
    }
    assert first.returncode == 1
    for family, reason in reasons.items():
        run = one_run(project / "reports", family)
        assert run.status == "failed"
        assert run.record()["reason"].startswith(reason)
        page = (run.folder / "report.html").read_text()
        assert reason.replace("<", "&lt;").replace(">", "&gt;") in page
        assert f"{family}/{run.name}: failed: {reason}" in first.stdout
        (row,) = [line for line in first.stderr.splitlines() if line.startswith(f"{family}/")]
        assert run.record()["reason"].splitlines()[0] in row
    assert "Traceback" not in first.stdout + first.stderr
    assert "2 of 5 runs done" in first.stdout


@pytest.mark.soak
def test_done_runs_are_left_alone(second):
    process, run, before = second
    assert snapshot(run) == before
    assert f"fam/{run.name}:" not in process.stdout


@pytest.mark.soak
def test_fresh_trains_beside_the_old_in_the_folder_planned(project, second):
    old, new = sorted((r for r in fam(project) if "pred" not in r.name), key=lambda r: len(r.name))
    assert new.name == f"{old.name}-2"
    assert new.status == "done"
    assert (new.folder / "report.html").exists()
    pd.testing.assert_frame_equal(values(new), values(old))


@pytest.mark.soak
def test_failed_runs_are_tried_again(project, second):
    process, *_ = second
    assert process.returncode == 1
    assert one_run(project / "reports", "bad").status == "failed"
    assert "4 of 5 runs done" in process.stdout


@pytest.mark.soak
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(project, second, tmp_path, monkeypatch):
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path))
    unbroken = open_run("killed", DEFAULTS, TINY | {"epochs": 4}).train()
    resumed = one_run(project / "reports", "killed")
    assert (project / "marker").exists()
    assert resumed.status == "done"
    assert resumed.name == unbroken.name
    pd.testing.assert_frame_equal(values(resumed), values(unbroken))
    for file in ("test.csv", "baselines.csv"):
        assert (resumed.folder / file).read_bytes() == (unbroken.folder / file).read_bytes()
    ours, theirs = (run.model().state_dict() for run in (resumed, unbroken))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.soak
def test_index_lists_every_run(project, second):
    page = (project / "reports" / "index.html").read_text()
    runs = [Run.load(file.parent) for file in (project / "reports").glob("*/*/run.yaml")]
    assert len(runs) == 6
    assert all(f'href="{run.family}/{run.name}/report.html"' in page for run in runs)


# --- interrupted ---


@pytest.mark.soak
def test_ctrl_c_leaves_no_process_and_a_run_to_resume(tmp_path):
    make_project(tmp_path, {"long": [TRAIN.format("long")]}, {"long/a": {}})
    command = [*SEQAE, "run", "params/long", "--scale", "tiny", "-p", "epochs=100000"]
    environment = os.environ | {"SEQAE_STORE": ""}
    client = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list(tmp_path.glob("reports/long/*/checkpoint/state.pt")):
        assert client.poll() is None
        time.sleep(0.1)
    run = one_run(tmp_path / "reports", "long")
    others = psutil.Process(client.pid).children(recursive=True)
    assert sum("fork_server" in " ".join(process.cmdline()) for process in others) == 2  # the server and the kernel
    assert run.status == "running"
    os.killpg(client.pid, signal.SIGINT)  # as a terminal does
    error = client.communicate()[1]
    assert client.returncode == 130
    assert error.splitlines()[-1] == "seqae: stopped; the same command goes on from the last checkpoints"
    assert psutil.wait_procs(others, timeout=10)[1] == []
    assert run.status == "interrupted"
    assert run.record()["reason"] is None
    nbformat.read(run.folder / "notebook.ipynb", as_version=4)


# --- what needs no worker ---


def test_a_run_whose_notebook_failed_after_training_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path))
    run = open_run("fam", DEFAULTS, TINY | {"epochs": 1}).train()
    before = snapshot(run)
    run.fail("NameError: a plot")
    assert run.status == "failed"
    again = open_run("fam", DEFAULTS, TINY | {"epochs": 1}).train()
    assert (again.status, again.record()["reason"]) == ("done", None)
    assert {**snapshot(again), "run.yaml": None} == {**before, "run.yaml": None}


def test_a_store_that_cannot_be_written_is_a_reason_and_no_error(tmp_path):
    make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}})
    (tmp_path / "file").touch()
    (item,) = plan(tmp_path, "fam/a.yaml", scale="tiny", store=str(tmp_path / "file" / "store"))
    outcome = execution.execute(item)
    assert outcome.reason.startswith("NotADirectoryError")
    assert str(tmp_path / "file") in outcome.reason


def plan(project: Path, *files: str, **options) -> list[planning.Planned]:
    return planning.plan([project / "params" / file for file in files], **options)


def test_plan_merges_as_papermill_does(tmp_path, monkeypatch):
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    make_project(tmp_path, {"fam": []}, {"fam/a": {"epochs": 7, "seed": 1}})
    (item,) = plan(tmp_path, "fam/a.yaml", scale="tiny", given={"seed": 2})
    assert item.given == TINY | {"epochs": 7, "seed": 2}
    assert item.run.parameters.model_dump(include={"epochs", "seed", "train_sequences", "batch_size"}) == {
        "epochs": 7, "seed": 2, "train_sequences": 8, "batch_size": 4
    }  # fmt: skip
    assert item.run.folder.parent == tmp_path / "reports" / "fam"
    assert item.planned_from == {"file": "params/fam/a.yaml", "scale": "tiny", "given": {"seed": 2}}
    (other,) = plan(tmp_path, "fam/a.yaml", scale=str(tmp_path / "params/scale/tiny.yaml"), given={"seed": "2"})
    assert other.run == item.run
    (bare,) = plan(tmp_path, "fam/a.yaml", store=str(tmp_path / "elsewhere"))
    assert bare.planned_from == {"file": "params/fam/a.yaml"}


@pytest.mark.parametrize(
    ("file", "given", "defined"),
    [
        ({"loss": "0sm"}, {"training_loss": "bce"}, "0sb"),
        ({"training_loss": "mse", "activation": "none"}, {"loss": "0sb"}, "0sb"),
        ({"loss": "0sb"}, {"loss": "1tm"}, "1tm"),
    ],
)
def test_a_later_layer_changes_one_of_what_a_loss_is(tmp_path, file, given, defined):
    make_project(tmp_path, {"fam": []}, {"fam/a": file})
    (item,) = plan(tmp_path, "fam/a.yaml", given=given)
    assert item.run.parameters.loss == defined
    assert resolve(DEFAULTS, item.given).loss == defined, "its kernel makes the same of it"


def test_why_a_run_is_to_be_executed_while_it_ends(tmp_path, monkeypatch):
    make_project(tmp_path, {"fam": []}, {"fam/a": {}})
    (item,) = plan(tmp_path, "fam/a.yaml")
    states = ["running", "done", "done", "done", "done"]
    monkeypatch.setattr(Run, "status", property(lambda run: states.pop(0)))
    assert item.reason_to_execute() == planning.BUSY
    assert item.reason_to_execute() == "has no report yet"
    item.run.update(status="failed")
    (item.run.folder / "report.html").write_text("It failed.")
    item.run.update(status="done")  # in Jupyter
    assert "It failed." not in (item.run.folder / "report.html").read_text()
    assert item.reason_to_execute() == "has no report yet"


@pytest.mark.parametrize("where", ["option", "parameter", "environment"])
def test_plan_finds_the_store(tmp_path, monkeypatch, where):
    make_project(tmp_path, {"fam": []}, {"fam/a": {}})
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / where if where == "environment" else tmp_path / "no"))
    options = {"option": {"store": str(tmp_path / where), "given": {"store": "no"}},
               "parameter": {"given": {"store": str(tmp_path / where)}}, "environment": {}}[where]  # fmt: skip
    (item,) = plan(tmp_path, "fam", **options)
    assert item.run.folder.parents[1] == tmp_path / where
    assert "store" not in item.given  # it would stand in the notebook


def test_a_plan_knows_the_notebooks_folder_wherever_it_is_made(tmp_path, monkeypatch):
    project = make_project(tmp_path / "project", {"fam": []}, {"fam/a": {}})
    for where in (tmp_path, project, project / "params" / "fam"):
        monkeypatch.chdir(where)
        (item,) = planning.plan([Path(os.path.relpath(project / "params" / "fam", where))], scale="tiny")
        assert item.folder == project / "notebooks"


def test_plan_tells_every_fault_of_every_file(tmp_path):
    files = {"fam/good": {}, "fam/typo": {"epoch": 3}, "fam/unsound": {"training_loss": "bce"}, "lost/a": {},
             "fam/type": {"epochs": "many", "loss": "0sx"}, "fam/size": {"architecture": "cnn_v1"}}  # fmt: skip
    make_project(tmp_path, {"fam": []}, files)
    (tmp_path / "params/fam/list.yaml").write_text("- epochs")
    (tmp_path / "params/fam/torn.yaml").write_text("{epochs: ")
    (tmp_path / "params/stray.yaml").touch()
    (tmp_path / "params/empty").mkdir()
    with pytest.raises(ValueError) as raised:  # noqa: PT011 its whole message is checked
        plan(tmp_path, ".", "fam/missing.yaml", "empty")
    faults = dict(line.split(": ", 1) for line in str(raised.value).splitlines() if not line.startswith(" "))
    faults = {Path(file).relative_to(tmp_path / "params").as_posix(): fault for file, fault in faults.items()}
    expected = {
        "fam/typo.yaml": "did you mean 'epochs'",
        "fam/unsound.yaml": "activation: sigmoid",
        "fam/type.yaml": "loss must be one of",
        "fam/size.yaml": "does not fit frame_size 16",
        "fam/list.yaml": "must hold a mapping",
        "fam/torn.yaml": "is not YAML",
        "lost/a.yaml": "lost.ipynb: copy one, such as fam.ipynb, and write lost for fam in its cells",
        "stray.yaml": "must be in params/FAMILY/",
        "fam/missing.yaml": "no parameter file",
        "empty": "no *.yaml or *.yml in this folder",
    }
    assert faults.keys() == expected.keys()
    assert [file for file, fault in expected.items() if fault not in faults[file]] == []


def test_a_fault_that_many_files_share_is_told_once(tmp_path):
    make_project(tmp_path, {"fam": []}, {"fam/a": {}, "fam/b": {"seed": 1}, "fam/c": {"seed": 2}})
    with pytest.raises(ValueError, match=r"^\S*a\.yaml and 2 more: unknown parameter 'epoch'[^\n]*$"):
        plan(tmp_path, "fam", given={"epoch": 1})


def test_a_damaged_run_hides_no_other_in_the_index(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path))
    for name, text in {
        "torn": "{status: ",
        "other": "a: 1",
        "old": "{family: f, parameters: {gone: 1}, differs: {}, status: done, verdict: well learned}",
    }.items():
        (tmp_path / "f" / name).mkdir(parents=True)
        (tmp_path / "f" / name / "run.yaml").write_text(text)
    good = open_run("f", DEFAULTS, TINY)
    good.folder.mkdir()
    good.fail("out of memory")
    update_index(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert [page.count(text) > 0 for text in ("f/torn/run.yaml", "f/other/run.yaml", "f/old/run.yaml", good.name)] == [
        True
    ] * 4
    assert "well learned" in page  # of another version: what it recorded is as true as ever
    assert "delete the folder" in page


def test_progress_reads_the_last_whole_epoch(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path))
    run = open_run("fam", DEFAULTS, TINY)
    assert progress(run.folder) is None
    run.train()
    found = values(run).query("split == 'val' and metric == 'objective'")["value"]
    assert progress(run.folder) == (2, float(found.iloc[-1]))
    with (run.folder / "metrics.csv").open("a") as log:
        log.write("3,6,1.0,train,all,objective,0.5\n3,6,1.0,val,all,objective,0.12")
    assert progress(run.folder) == (2, float(found.iloc[-1]))
