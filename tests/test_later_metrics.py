"""Metrics of one's own that are asked for later: of finished runs, of retries, of runs that resume or go on."""

import shutil
from pathlib import Path
from typing import Any

import filelock
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from own import METRICS, write_modules
from test_own_code import SMALL, opened
from test_sweep import TINY, make_project, snapshot

from seqae import files
from seqae.contract import ContractError
from seqae.reports import compare, figures
from seqae.runs import logs
from seqae.runs.own_code import OwnCodeError
from seqae.runs.records import RunError
from seqae.runs.run import Run, open_run
from seqae.sweeps import execution
from seqae.sweeps.planning import plan

IOU, BRIGHT = "own_metrics:iou", "more_metrics:bright"
MORE = """
def bright(output, target):
    return output.mean((2, 3))

def broken(output, target):
    return output.mean()
"""
COLUMNS = ["epoch", "step", "split", "branch", "metric", "value"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    write_modules(tmp_path, more_metrics=MORE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built_in(**given: Any) -> Run:
    return open_run("mine", SMALL, TINY | {"architecture": "srivastava", "width": 0.01} | given)


def rows(table: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    chosen = (table[table.metric.isin(metrics)] if metrics else table).drop(columns="seconds", errors="ignore")
    return chosen.sort_values([*chosen.columns], ignore_index=True)


@pytest.mark.parametrize("own", [True, False])
def test_a_finished_run_is_measured_and_not_trained(project, own) -> None:
    make = opened if own else built_in
    run = make(epochs=3).train()
    before, weights = run.metrics(), (run.folder / "model.safetensors").read_bytes()
    ended = run.record()["ended"]
    later = make(epochs=3, metrics=[IOU, BRIGHT]).train()
    assert later.folder == run.folder
    assert (later.folder / "model.safetensors").read_bytes() == weights
    at_once = make(epochs=3, metrics=[IOU, BRIGHT], store=str(project / "other")).train()
    pd.testing.assert_frame_equal(rows(later.test()), rows(at_once.test()))
    best = at_once.metrics().query(f"epoch == {run.marks()['best']}")
    pd.testing.assert_frame_equal(rows(later.metrics(), "iou", "bright"), rows(best, "iou", "bright"))
    others = later.metrics()[~later.metrics().metric.isin(["iou", "bright"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(others.drop(columns="unit"), before)
    assert later.metrics().epoch.is_monotonic_increasing
    record, there = later.record(), at_once.record()
    assert (record["results"], record["code"]) == (there["results"], there["code"])
    assert record["parameters"]["metrics"] == [IOU, BRIGHT]
    assert (record["ended"], record["status"]) == (ended, "done")
    copied = {file.relative_to(run.folder).as_posix() for file in (run.folder / "code").rglob("*.py")}
    assert {f"code/{name}" for name in record["code"]["files"]} == copied
    assert "test pred iou, of 1" in dict(later.facts())


def test_what_is_there_is_not_measured_again(project) -> None:
    run = built_in(metrics=[IOU]).train()
    before = snapshot(run)
    write_modules(project, own_metrics=METRICS.replace("0.5", "0.4"))
    for metrics in ([IOU], []):
        assert snapshot(built_in(metrics=metrics).train()) == before
    built_in(metrics=[BRIGHT]).train()
    assert set(run.record()["code"]["metrics"]) == {"iou", "bright"}
    assert run.record()["parameters"]["metrics"] == [IOU, BRIGHT]
    assert len(run.metrics().query("metric == 'iou'")) == 2


def test_a_metric_that_does_not_fit_leaves_the_finished_run_as_it_is(project) -> None:
    run = built_in().train()
    before = snapshot(run)
    with pytest.raises(ContractError, match=r"metric broken returned a scalar; it must be \(B, T\)"):
        built_in(metrics=["more_metrics:broken"]).train()
    assert snapshot(run) == before


def test_a_run_that_cannot_be_changed_says_so(project, monkeypatch) -> None:
    run = built_in().train()
    before = snapshot(run)

    for named in (True, False):  # write() and close() name no file

        def full(file: Path, text: str, named: bool = named) -> None:
            raise OSError(28, "No space left on device", *([str(file)] if named else []))

        with monkeypatch.context() as patched:
            patched.setattr(files, "replace_text", full)
            with pytest.raises(RunError, match=r"cannot write to .*: No space left on device; it has no iou"):
                built_in(metrics=[IOU]).train()
    assert run.status == "done"
    with filelock.FileLock(run.folder / ".lock"), pytest.raises(RunError, match="is being changed by another process"):
        built_in(metrics=[IOU]).train()
    assert snapshot(run) == before
    assert "iou" in set(built_in(metrics=[IOU]).train().test().metric)


def test_a_diverged_run_has_no_number_of_it(project) -> None:
    worst = {"optimizer": "SGD", "learning_rate": 1e30, "clip_norm": None}
    built_in(**worst).train()
    run = built_in(**worst, metrics=[IOU]).train()
    assert run.test().query("metric == 'iou'").value.isna().all()
    assert "iou" not in set(run.metrics().metric)
    assert built_in(**worst, metrics=[IOU]).record()["results"].keys() >= {"pred iou"}


def test_a_sweep_executes_the_notebook_again(tmp_path, monkeypatch) -> None:
    project = make_project(tmp_path, {"fam": []}, {"fam/a": {"architecture": "srivastava"}})
    write_modules(project, more_metrics=MORE)
    monkeypatch.chdir(project)
    files = [project / "params" / "fam"]
    (item,) = plan(files, scale="tiny")
    item.run.train()
    (item.run.folder / "report.html").touch()
    item.run.rendered(item.cells)
    assert item.reason_to_execute() is None
    (more,) = plan(files, scale="tiny", given={"metrics": [BRIGHT]})
    assert more.reason_to_execute() == "lacks bright"
    more.run.train()
    assert more.reason_to_execute() == "its report is of an older version"
    more.run.rendered(item.cells)
    assert more.reason_to_execute() is None


def test_in_a_sweep_the_code_that_measured_a_finished_run_stays(tmp_path, monkeypatch) -> None:
    project = make_project(tmp_path, {"fam": []}, {"fam/a": {"architecture": "srivastava"}})
    write_modules(project, more_metrics=MORE)
    monkeypatch.chdir(project)
    monkeypatch.setattr(execution, "execute_notebook", lambda *_, **__: None)
    (item,) = plan([project / "params" / "fam"], scale="tiny", given={"metrics": [IOU]})
    run, copy = item.run.train(), item.run.folder / "code" / "own_metrics.py"
    write_modules(project, more_metrics=MORE, own_metrics=METRICS.replace("0.5", "0.4"))
    for metrics in ([IOU], [BRIGHT]):
        (again,) = plan([project / "params" / "fam"], scale="tiny", given={"metrics": metrics})
        assert again.run.folder == run.folder
        execution._execute(again, 1)
        assert copy.read_text() == METRICS
    assert copy.with_name("more_metrics.py").read_text() == MORE


# --- runs that are not finished ---


def interrupted(monkeypatch, run: Run, epoch: int = 2) -> None:
    append = logs.append_rows

    def until(log: Path, rows: list[dict]) -> None:
        if rows[0]["epoch"] == epoch:
            raise KeyboardInterrupt
        append(log, rows)

    with monkeypatch.context() as patched:
        patched.setattr(logs, "append_rows", until)
        with pytest.raises(KeyboardInterrupt):
            run.train()


def test_of_a_retry_the_newest_request_counts(project) -> None:
    with pytest.raises(ContractError):
        built_in(metrics=["more_metrics:broken"]).train()
    run = built_in(metrics=[BRIGHT]).train()
    assert run.record()["parameters"]["metrics"] == [BRIGHT]
    assert set(run.record()["code"]["metrics"]) == {"bright"}
    with pytest.raises(ContractError):
        built_in(seed=7, metrics=["more_metrics:broken"]).train()
    run = built_in(seed=7).train()
    assert (run.record()["parameters"]["metrics"], run.record()["code"]) == ([], {})


def test_a_resumed_run_records_the_code_that_lies_in_its_folder(project, monkeypatch) -> None:
    interrupted(monkeypatch, built_in(epochs=3, metrics=[IOU, BRIGHT]), epoch=3)
    write_modules(project, more_metrics=MORE.replace("output.mean((2, 3))", "output.amax((2, 3))"))
    run = built_in(epochs=3, metrics=[IOU, BRIGHT]).train()
    assert run.record()["resumed"]
    code = run.code
    assert code is not None
    assert run.record()["code"]["metrics"]["bright"]["code"] == code.part(BRIGHT).digest
    assert "amax" in (run.folder / "code" / "more_metrics.py").read_text()
    found = run.metrics()
    assert list(found[found.metric == "iou"].epoch) == [1, 2, 3]
    assert list(found[found.metric == "bright"].epoch) == [3]  # the others were measured by other code


def test_more_epochs_go_on_and_measure_what_the_shorter_run_lacks(project, caplog) -> None:
    kept = {"keep_checkpoint": True}
    short = built_in(**kept, epochs=2, metrics=[IOU, BRIGHT]).train()
    write_modules(project, more_metrics=MORE.replace("output.mean((2, 3))", "output.amax((2, 3))"))
    run = built_in(**kept, epochs=3, metrics=[IOU, BRIGHT]).train()
    found = run.metrics()
    assert list(found[found.metric == "iou"].epoch) == [1, 2, 3]
    assert list(found[found.metric == "bright"].epoch) == [3]
    assert run.record()["went_on"]["without"] == ["bright"]
    assert "it has no bright of these epochs" in caplog.text
    assert ", without bright of these epochs" in dict(run.facts())["went on from"]
    assert list(short.metrics().query("metric == 'bright'").epoch) == [1, 2]
    longest = built_in(**kept, epochs=4).train()
    assert not {"iou", "bright"} & set(longest.metrics().metric)
    assert "without" not in longest.record()["went_on"]


# --- without the metric's code ---


def test_a_built_in_model_needs_no_code_of_a_metric(project, tmp_path_factory, monkeypatch) -> None:
    run = built_in(metrics=[IOU]).train()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    moved = shutil.copytree(run.folder, elsewhere / "reports" / "mine" / run.name)
    monkeypatch.chdir(elsewhere)
    loaded = Run.load(moved)
    frames = torch.zeros(1, 3, 16, 16)
    assert loaded.predict(frames).shape == (1, 2, 16, 16)
    assert loaded.predict(frames, 4).shape == (1, 4, 16, 16)
    assert loaded.outputs(indices=[0])["pred"].shape == (1, 2, 16, 16)
    assert loaded.reach == float("inf")
    assert dict(loaded.facts())["test pred iou, of 1"]
    shown = built_in(metrics=[IOU], store=str(elsewhere / "reports"))
    before = snapshot(loaded)
    assert shown.train().folder == moved
    assert snapshot(loaded) == before
    with pytest.raises(OwnCodeError, match=r"there is no more_metrics.py"):
        built_in(metrics=[IOU, BRIGHT], store=str(elsewhere / "reports")).train()
    with pytest.raises(OwnCodeError, match=r"there is no own_metrics.py"):
        built_in(metrics=[IOU], seed=8, store=str(elsewhere / "reports"))


# --- how it is shown ---


def test_figures_show_a_metric_of_ones_own_with_its_unit(project) -> None:
    built_in(seed=8).train()
    run = built_in(seed=8, metrics=[IOU]).train()
    levels = run.baselines()
    later = figures.learning_curves(run.metrics(), levels, run.marks(), metric="iou")
    many = figures.learning_curves_of_runs(compare.by_epoch([run]), metric="iou", hue="run")
    by_frame = figures.error_by_frame(run.test(), levels, metric="iou")
    for figure, split in ((later, "val"), (many, "val"), (by_frame, "test")):
        assert figure.axes[0].get_ylabel() == f"{split} iou, of 1"
    for figure in (later, many):  # one point, that of the best epoch, has no line
        curve = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 1)
        assert curve.get_marker() == "o"
    assert "test iou, of 1" in compare.summary([run])
    assert "unit" not in built_in(seed=9).train().metrics()
    odd = run.metrics().assign(unit="$\\frac$")
    assert figures.learning_curves(odd, levels, metric="iou").axes[0].get_ylabel() == r"val iou, \$\frac\$"
    plt.close("all")
