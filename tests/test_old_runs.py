"""Run folders of commit d7aaa16, made before the package was divided into rooms, load, compare and render, and the
interrupted run resumes.
"""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from seqae.reports.compare import comparable_runs, finals, recipes, table
from seqae.reports.index import update_index
from seqae.runs.finding import find_runs
from seqae.runs.identity import run_hash
from seqae.runs.notebook_cells import family_defaults
from seqae.runs.run import open_run

DATA = Path(__file__).parent / "data" / "runs-before-rooms"
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    shutil.copytree(DATA / "losses", tmp_path / "losses")
    return tmp_path


def test_they_load_with_what_was_recorded(store: Path) -> None:
    runs = {run.name: run for run in find_runs(store)}
    assert sorted(run.status for run in runs.values()) == ["done", "done", "done", "failed", "interrupted"]
    for run in runs.values():
        assert run.name.endswith(run_hash(run.parameters))
        if run.status == "done":
            recorded = run.record()["results"]
            means = run.test().query("frame.isna()")
            assert recorded == pytest.approx(dict(zip(means.branch + " " + means.metric, means.value, strict=True)))
            assert sum(w.numel() for w in run.model().parameters()) == run.record()["weights"]
            assert (run.outputs("val")["pred"] != run.samples()["pred"]).mean() < 0.01  # to rounding
    assert "missing/mnist" in next(run for run in runs.values() if run.status == "failed").record()["reason"]


def test_their_parameters_define_the_same_runs_today(store: Path) -> None:
    defaults = family_defaults(NOTEBOOKS / "losses.ipynb")
    for old in find_runs(store):
        given = {**old.record()["parameters"], "store": str(store)}
        assert open_run("losses", defaults, given).folder == old.folder


def test_they_compare_and_stand_in_the_index(store: Path) -> None:
    chosen = comparable_runs("losses", store=str(store))
    assert [run.parameters.seed for run in chosen] == [6, 7, 8]
    assert len(set(recipes(chosen))) == 1
    assert len(finals(chosen).query("metric == 'mse'")) == 6
    assert "worse than the mean frame" in table(chosen).to_html()
    update_index(store)
    page = (store / "index.html").read_text()
    assert all(run.name in page for run in find_runs(store))


def test_the_interrupted_one_goes_on_as_if_unbroken(store: Path, tmp_path: Path) -> None:
    (old,) = (run for run in find_runs(store) if run.status == "interrupted")
    before = (old.folder / "metrics.csv").read_text()
    given = {**old.record()["parameters"], "checkpoint_seconds": 0.0}
    defaults = family_defaults(NOTEBOOKS / "losses.ipynb")
    resumed = open_run("losses", defaults, {**given, "store": str(store)}).train()
    assert resumed.folder == old.folder
    assert resumed.status == "done"
    assert (resumed.folder / "metrics.csv").read_text().startswith(before)  # earlier epochs are not trained again
    assert resumed.record()["resumed"]
    unbroken = open_run("losses", defaults, {**given, "store": str(tmp_path / "unbroken")}).train()
    columns = ["epoch", "step", "split", "branch", "metric", "value"]
    then = pd.read_csv(DATA / "unbroken-metrics.csv")[columns]
    for found in (
        unbroken.metrics()[columns],
        resumed.metrics()[columns],
    ):  # made elsewhere: to rounding
        pd.testing.assert_frame_equal(found, then, rtol=1e-3)
    if unbroken.metrics()[columns].equals(then):  # on the same kind of processor
        pd.testing.assert_frame_equal(resumed.metrics()[columns], then, rtol=0, atol=0)
