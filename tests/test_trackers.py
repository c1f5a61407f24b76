"""Real trackers, with stores on this disk, get the same values as metrics.csv."""

from importlib.util import find_spec

import pytest

from seqae.runs import logs
from seqae.runs.run import open_run
from seqae.runs.trackers import check_tracker

TINY = {
    "loss": "0nm", "task": "both", "frame_size": 16, "width": 0.01, "epochs": 3, "batch_size": 8,
    "train_sequences": 24, "val_sequences": 8, "test_sequences": 8, "checkpoint_seconds": 0,
}  # fmt: skip

pytestmark = [  # of the trackers' own making
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def recorded(run):
    """metrics.csv as curves by the names that trackers give them: (step, value) of every epoch."""
    table = run.metrics()
    names = table.split + "/" + table.branch + "/" + table.metric
    return {name: list(zip(part.step, part.value, strict=True)) for name, part in table.groupby(names)}


def close(found, expected):
    assert {*found} == {*expected}
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=1e-6)


def test_tensorboard_holds_the_same_metrics(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is optional")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = open_run("losses", TINY, {"store": str(tmp_path), "tracker": "tensorboard"}).train()
    events = EventAccumulator(str(run.folder / "tracker" / "seqae")).Reload()
    close({name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}, recorded(run))


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    module = pytest.importorskip("mlflow", reason="mlflow is optional")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    module.set_tracking_uri(None)  # then it reads the environment variable
    yield module
    module.end_run()


def mirrored(mlflow):
    """Every mlflow run by name: its curves."""
    client = mlflow.MlflowClient()
    [experiment] = [found for found in client.search_experiments() if found.name == "seqae"]
    for run in client.search_runs([experiment.experiment_id]):
        curves = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        yield run.info.run_name, {name: [(m.step, m.value) for m in curve] for name, curve in curves.items()}


@pytest.mark.processes  # git, by mlflow
def test_mlflow_holds_the_same_metrics_under_the_runs_name(tmp_path, mlflow):
    run = open_run("losses", TINY, {"store": str(tmp_path), "tracker": "mlflow"}).train()
    [(name, curves)] = mirrored(mlflow)
    assert name == run.name
    close(curves, recorded(run))


def test_mlflow_without_a_database_says_so_before_anything_is_written(tmp_path, mlflow, monkeypatch):
    if find_spec("sqlalchemy"):
        pytest.skip("this mlflow has a database")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run = open_run("losses", TINY, {"store": str(tmp_path / "store"), "tracker": "mlflow"})
    with pytest.raises(ValueError, match=r"a database, which mlflow-skinny cannot: .* set MLFLOW_TRACKING_URI"):
        run.train()
    assert not (run.folder / "metrics.csv").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    check_tracker("mlflow")


@pytest.mark.processes  # git, by mlflow
def test_what_was_interrupted_goes_on_with_mlflow_in_the_same_process(tmp_path, mlflow, monkeypatch):
    """As in a notebook whose cell is stopped and executed again."""
    append = logs.append_rows

    def stopped(log, rows):
        append(log, rows)
        if log.name == "metrics.csv" and rows[0]["epoch"] == 2:
            raise KeyboardInterrupt

    run = open_run("losses", TINY, {"store": str(tmp_path), "tracker": "mlflow"})
    monkeypatch.setattr(logs, "append_rows", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    monkeypatch.setattr(logs, "append_rows", append)
    assert run.train().status == "done"
    found = [curves["val/all/objective"] for _, curves in mirrored(mlflow)]
    assert sorted(step for curve in found for step, _ in curve) == [3, 6, 9]


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(tracker, monkeypatch, tmp_path):
    monkeypatch.setattr("seqae.runs.trackers.find_spec", lambda name: None)
    run = open_run("losses", TINY, {"store": str(tmp_path), "tracker": tracker})
    with pytest.raises(ValueError, match=f"tracker {tracker} is not installed: pip install {tracker}"):
        run.train()
    assert not (run.folder / "metrics.csv").exists()
