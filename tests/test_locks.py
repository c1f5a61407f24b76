"""Whoever only looks at runs needs to write nothing; whoever changes a run's folder holds its lock."""

import shutil
from pathlib import Path

import filelock
import pytest
from test_cli import call
from test_gather import held, the_run, trained  # noqa: F401
from test_sweep import DEFAULTS, TINY, make_project
from users import as_nobody, readable  # noqa: F401

from seqae import open_run
from seqae.commands.terminal import status_rows
from seqae.reports.index import update_index
from seqae.runs import locks
from seqae.runs.finding import find_runs
from seqae.runs.records import RunError
from seqae.runs.run import Run
from seqae.sweeps import execution
from seqae.sweeps.planning import plan

FOUR = TINY | {"epochs": 4}


@pytest.fixture
def foreign(readable, trained):  # noqa: F811
    """A store of another user with a finished run and, as it were of another family, an interrupted one."""
    shutil.copytree(trained / "done" / "fam", readable / "store" / "fam")
    shutil.copytree(trained / "at-3" / "fam", readable / "store" / "other")
    (readable / "mine").mkdir(mode=0o777)
    (readable / "mine").chmod(0o777)
    return readable / "store"


def files(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("lock", ["there", "missing", "secret"])
def test_a_store_that_cannot_be_written_is_looked_at_and_gathered(foreign, lock):
    for file in foreign.glob("*/*/.lock"):
        file.unlink() if lock == "missing" else file.chmod(0o600 if lock == "secret" else 0o644)
    expected = ["done", "running" if lock == "secret" else "interrupted"]  # it cannot be told who holds it
    call("gather", str(foreign), str(foreign.parent / "first"))  # imports what it needs
    before = files(foreign)
    with as_nobody():
        assert [row[1].split(",")[0] for row in status_rows([str(foreign)])] == expected
        assert [run.status for run in find_runs(foreign)] == expected
        told = call("gather", str(foreign), str(foreign.parent / "mine"))
        mine = find_runs(foreign.parent / "mine")
    assert told.count("  copied  ") == len(mine) == expected.count("done") + expected.count("interrupted")
    assert files(foreign) == before


def test_a_finished_run_of_another_user_is_shown_and_not_written(foreign, monkeypatch):
    given = FOUR | {"store": str(foreign)}
    other = given | {"label": "another"}
    assert open_run("fam", DEFAULTS, given).train().status == "done"
    before = files(foreign)
    with as_nobody():
        for run in (open_run("fam", DEFAULTS, values).train() for values in (given, other)):
            assert run.status == "done"
            assert len(run.metrics())
        with pytest.raises(RunError, match=r"cannot write to .*choose another folder"):
            open_run("other", DEFAULTS, given).train()
    assert files(foreign) == before
    assert open_run("fam", DEFAULTS, other).train().record()["parameters"]["label"] == "another"


def test_seqae_run_of_finished_runs_needs_to_write_nothing(foreign, monkeypatch):
    project = make_project(foreign.parent, {"fam": ["1"]}, {"fam/a": {}})
    run = the_run(foreign)
    (run.folder / "report.html").touch()
    monkeypatch.chdir(project)
    cells = run_cells(project)
    run.rendered(cells)
    arguments = ["run", "params/fam", "--scale", "tiny", "-p", "epochs=4", "--store", str(foreign)]
    assert "1 of 1 runs done" in call(*arguments)
    (foreign / "index.html").unlink()
    before = files(foreign)
    with as_nobody():
        told = call(*arguments)
    assert "1 of 1 runs done" in told
    assert f"seqae: the index of {foreign} stays as it is: Permission denied" in told
    assert files(foreign) == before


def run_cells(project: Path) -> str:
    from seqae.runs import cells_hash

    return cells_hash((project / "notebooks" / "fam.ipynb").read_text())


def test_a_look_leaves_no_lock_and_hinders_no_training(trained, tmp_path):  # noqa: F811
    shutil.copytree(trained / "at-3", tmp_path / "store")
    run = the_run(tmp_path / "store")
    (run.folder / ".lock").unlink()
    update_index(tmp_path / "store")
    assert run.status == "interrupted"
    assert not (run.folder / ".lock").exists()
    with locks.changing(run.folder):
        assert run.status == "running"
        assert Run.load(run.folder).status == "running"


def test_a_record_is_changed_by_who_holds_the_lock(trained, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)
    shutil.copytree(trained / "done", tmp_path / "store")
    run, before = the_run(tmp_path / "store"), held(the_run(tmp_path / "store"))
    with filelock.FileLock(run.folder / ".lock"):  # as another process
        for change in (lambda: run.fail("late"), lambda: run.rendered("cells"), lambda: run.update(seconds=1.0)):
            with pytest.raises(filelock.Timeout):
                change()
        open_run("fam", DEFAULTS, FOUR | {"store": str(tmp_path / "store"), "label": "later"}).train()
        (run.folder / "checkpoint").mkdir()
        (run.folder / "checkpoint" / "state.pt").touch()  # as one whose process died before it removed it
        open_run("fam", DEFAULTS, FOUR | {"store": str(tmp_path / "store")}).train()
        assert (run.folder / "checkpoint" / "state.pt").exists()
        shutil.rmtree(run.folder / "checkpoint")
        assert held(run) == before
    with locks.changing(run.folder), locks.changing(run.folder):
        run.rendered("cells")
    assert run.record()["cells"] == "cells"


def test_a_run_that_another_worker_executes_is_busy(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path / "project", {"fam": []}, {"fam/a": {}}))
    (item,) = plan([Path("params/fam")], scale="tiny", store=str(tmp_path / "store"))
    item.run.folder.mkdir(parents=True)
    with filelock.FileLock(item.run.folder / ".execution.lock"):
        assert execution.execute(item).reason == execution.BUSY
        assert execution.record_lost(item, "its worker died") == execution.BUSY
    assert {file.name for file in item.run.folder.iterdir()} == {".execution.lock"}
