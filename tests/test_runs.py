"""Run folders: names, stores, the life of a run, what is read back, errors."""

import errno
import json
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from seqae.evaluation import predict
from seqae.parameters import ParameterError
from seqae.reports import demo
from seqae.reports.reproduction import paired_circumstances
from seqae.runs import duration, experiment, logs, rough_figures
from seqae.runs.experiment import load_model, sequences
from seqae.runs.finding import find_runs
from seqae.runs.identity import defining, run_hash
from seqae.runs.merging import resolve
from seqae.runs.naming import name_words
from seqae.runs.notebook_cells import parameter_cells
from seqae.runs.provenance import processor_name
from seqae.runs.records import RunError
from seqae.runs.run import Run, open_run
from seqae.stores import store_folder
from seqae.stores.project import project_root

TINY = {
    "loss": "0nm",
    "task": "both",
    "frame_size": 16,
    "width": 0.01,
    "train_sequences": 24,
    "val_sequences": 10,
    "test_sequences": 12,
    "batch_size": 8,
    "epochs": 3,
    "checkpoint_seconds": 0,
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return open_run("losses", TINY, {"store": str(store)}).train()


def values(run):
    return run.metrics().drop(columns="seconds")


# --- names and stores ---


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "0nm-both-output"),
        ({"loss": "0sm"}, "0sm-both-output"),
        ({"task": "pred", "decoder_input": "zero"}, "0nm-pred-zero"),
        ({"optimizer": "RMSprop", "learning_rate": 1e-4}, "0nm-both-output-rmsprop-lr0.0001"),
        ({"clip_norm": None}, "0nm-both-output-clipnone"),
        ({"optimizer_arguments": {"betas": [0.8, 0.9]}}, "0nm-both-output-betas_0.8_0.9"),
        ({"loss": "0sb", "gain": 10, "seed": 7}, "0sb-both-output-seed7-gain10"),
        ({"pixel_range": [-0.5, 0.5], "activation": "tanh"}, "range-0.5..0.5-tanh-mse-both-output"),
        ({"device": "cpu", "keep_checkpoint": True}, "0nm-both-output"),
    ],
)
def test_names_say_what_differs(given, name):
    assert name_words(resolve(TINY, given), resolve(TINY), "losses") == name


def test_every_parameter_that_defines_a_run_changes_its_folder(tmp_path):
    given = {"seed": 1, "width": 0.02, "epochs": 4, "endless": True, "init": "orthogonal", "recon_weight": 0.8}
    given |= {"reduction": "sum", "clip_update": 1e-4, "patience": 3}
    base = {"store": str(tmp_path)}
    folders = {open_run("f", TINY, base | {key: value}).folder for key, value in given.items()}
    assert len(folders | {open_run("f", TINY, base).folder}) == len(given) + 1


def test_store_is_the_parameter_else_the_environment_else_the_projects_reports(tmp_path, monkeypatch):
    project = tmp_path / "project"
    for folder in ("notebooks", "params", "deep/er"):
        (project / folder).mkdir(parents=True)
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    monkeypatch.chdir(project / "deep/er")
    assert project_root() == project
    assert store_folder() == project / "reports"
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / "elsewhere"))
    assert store_folder() == tmp_path / "elsewhere"
    assert store_folder(str(tmp_path / "given")) == tmp_path / "given"
    assert store_folder("other") == project / "other", "relative: of the project, wherever Jupyter was started"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A run of a store that is in no project; and in a working directory, what can be said of the same run there."""
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    run = open_run("losses", TINY, {"store": str(tmp_path / "store"), "epochs": 1}).train()

    def opened(folder: Path, **given) -> Run:
        monkeypatch.chdir(folder)
        before = {*tmp_path.rglob("*")}
        found = open_run("losses", TINY, {"epochs": 1} | given)
        assert {*tmp_path.rglob("*")} == before, "opening writes nothing"
        return found

    return run, opened


def test_an_executed_notebook_run_again_in_its_own_folder_is_that_run(outside, tmp_path, monkeypatch):
    run, opened = outside
    assert opened(run.folder).folder == run.folder
    assert opened(run.folder.parent).folder == run.folder, "where compare.ipynb lies"
    moved = tmp_path / "downloads" / "renamed"
    shutil.copytree(run.folder, moved)
    assert opened(moved).folder == moved
    assert opened(moved).train().status == "done"
    for project in (tmp_path / "project", tmp_path):  # the run's store need not be that of the project around it
        for name in ("notebooks", "params"):
            (project / name).mkdir(parents=True, exist_ok=True)
        assert opened(run.folder).folder == run.folder
        assert opened(moved).folder == moved
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / "another"))
    assert opened(moved).folder == moved
    assert opened(moved, store=str(tmp_path / "given")).folder.parents[1] == tmp_path / "given"


def test_another_run_in_the_folder_of_a_run_lies_beside_it(outside):
    run, opened = outside
    with pytest.warns(UserWarning, match=f"results will lie in {run.folder.parent}/"):
        assert opened(run.folder, seed=8).folder.parent == run.folder.parent
    assert opened(run.folder, fresh=True).folder == run.folder.with_name(f"{run.name}-2")
    for name in (f"losses/{run.name}", run.name, ""):  # as demo.ipynb in there was given it
        assert demo.shown_run(name).folder == run.folder


@pytest.mark.parametrize(
    "damage", ["", "- a list", "family: losses", "family: [", "family: losses\nparameters: {x: 1}"]
)
def test_a_folder_whose_record_is_damaged_is_no_runs_folder(tmp_path, monkeypatch, damage):
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(damage)
    with pytest.warns(UserWarning, match="is in no project"):
        run = open_run("losses", TINY)
    assert run.folder.parent == tmp_path / "reports" / "losses"


def test_outside_any_project_it_is_said_where_results_will_lie(tmp_path, monkeypatch):
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    said = rf"{tmp_path} is in no project.* will lie in {tmp_path}/reports/losses/\S+; .*set store or SEQAE_STORE"
    with pytest.warns(UserWarning, match=said):
        run = open_run("losses", TINY)
    run.folder.mkdir(parents=True)
    assert open_run("losses", TINY) == run, "said once, before there is something"
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / "chosen"))
    open_run("losses", TINY)


def test_fresh_trains_beside_the_old(done):
    given = {"store": str(done.folder.parents[1]), "fresh": True}
    again = open_run("losses", TINY, given)
    assert again.folder.name == f"{done.folder.name}-2"
    assert again.status == "waiting"
    assert open_run("losses", TINY, given).folder == again.folder, "an unfinished one is gone on with"


def test_fresh_goes_on_with_one_that_was_killed_in_its_last_steps(tmp_path, monkeypatch):
    given = {"store": str(tmp_path), "fresh": True}
    with monkeypatch.context() as patched:
        patched.setattr("seqae.runs.pictures.save_strips", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_run("losses", TINY, given).train()
    again = open_run("losses", TINY, given)
    assert (again.folder / "test.csv").exists()
    assert again.train().status == "done"
    assert [run.name for run in find_runs(tmp_path)] == [again.name]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lerning_rate": 1}, "did you mean 'learning_rate'"),
        ({"architecture": "transformer"}, "architecture must be one of .*lstm_copy"),
        ({"architecture": "cnn_v1"}, "cnn_v1 does not fit frame_size 16.*frame_size 64"),
        ({"optimizer": "Adm"}, "did you mean Adam"),
        ({"optimizer_arguments": {"betaz": 1}}, "takes no betaz"),
        ({"schedule": "StepRL"}, "did you mean StepLR"),
        ({"test_data": "official"}, "test_data: generated"),
        ({"schedule": "StepLR", "schedule_arguments": {"gamma": 0.1}}, "give gamma as schedule_gamma"),
        ({"layers": 1}, "use layers 2 or more"),
        ({"schedule": "OneCycleLR", "schedule_arguments": {"max_lr": 1, "total_steps": 2}}, "the run takes 3"),
        (
            {"schedule": "OneCycleLR", "schedule_arguments": {"max_lr": 1, "total_steps": 8}, "schedule_per": "update"},
            "ends after 8 steps and the run takes 9",
        ),
        (
            {"schedule": "OneCycleLR", "schedule_arguments": {"max_lr": 1}, "optimizer": "Muon"},
            "schedule OneCycleLR does not go with optimizer Muon: .*cycle_momentum",
        ),
    ],
)
def test_unsound_parameters_are_refused_before_anything_is_written(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_run("losses", TINY, given | {"store": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "set_to"),
    [
        ({"hidden": 1, "width": 1}, 64),
        ({"hidden": 97, "width": 1}, 64),
        ({"hidden": 130, "width": 1}, 128),
        ({"hidden": 100, "width": 0.125}, 512),
        ({"hidden": 1000, "width": 0.5}, 896),
        ({"hidden": 65, "width": 1.0, "layers": 1}, 64),
    ],
)
def test_a_hidden_that_cannot_be_built_exactly_is_refused_with_one_that_can(given, set_to, tmp_path):
    flat = TINY | {"architecture": "cnn_flatten", "frame_size": 64}
    with pytest.raises(ValueError, match=rf"set hidden: {set_to}, or leave hidden out") as refused:
        open_run("cnn", flat, given | {"store": str(tmp_path)})
    assert f"hidden {given['hidden']} at width" in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    run = open_run("cnn", flat, given | {"hidden": set_to, "store": str(tmp_path)})
    assert f"hidden {round(set_to * given['width'])}" in dict(run.facts())["architecture"].split(", ")


@pytest.mark.parametrize(
    ("given", "hidden"),
    [
        ({"architecture": "srivastava", "hidden": 97}, 97),
        ({"architecture": "lstm_copy", "hidden": 3}, 3),
        ({"architecture": "convlstm", "hidden": 5, "frame_size": 64}, 5),
        ({"architecture": "cnn_v3", "hidden": 97, "frame_size": 64}, 97),
        ({"architecture": "fc_lstm", "hidden": 1}, 1),
        ({"architecture": "lstm"}, 256),
        ({"architecture": "cnn_flatten", "frame_size": 64, "width": 0.01}, 64),
        ({"architecture": "srivastava", "hidden": 100, "width": 0.01}, 1),
    ],
)
def test_hidden_is_told_as_it_is_built(given, hidden, tmp_path):
    run = open_run("cnn", TINY | {"width": 1}, given | {"store": str(tmp_path)})
    assert f"hidden {hidden}, " in (told := dict(run.facts())["architecture"])
    assert (f"(in decoders {hidden}, {hidden}, 256, the frame)" in told) == (run.parameters.architecture == "lstm_copy")


@pytest.mark.parametrize(
    ("usual", "more"),
    [
        ({"clip_norm": None, "optimizer": "SGD"}, {"reduction": "sum"}),
        ({}, {"clip_update": 1e-6}),
        ({"schedule": "StepLR", "schedule_every": 1}, {"schedule_per": "update"}),
        ({"architecture": "srivastava"}, {"readout_bias": -1}),
        ({"architecture": "srivastava", "peepholes": True}, {"peephole_range": 1}),
        ({"decoder_input": "truth"}, {"recon_truth": True}),
        ({}, {"precision": "bf16"}),
        ({}, {"precision": "fp16"}),
    ],
)
def test_every_option_reaches_the_training(usual, more):
    def objectives(given):
        small = {"epochs": 2, "architecture": "srivastava", "hidden": 8, "width": 1}
        p, rows = resolve(TINY, small, given), []
        experiment.train_model(p, sequences(p, "val"), record=lambda table, found: rows.extend(found))
        return [row["value"] for row in rows if row.get("metric") == "objective"]

    assert len(objectives(usual)) == 4
    assert objectives(usual) != objectives(usual | more)


def test_parameter_cells_outside_a_notebook():
    with pytest.raises(ParameterError, match="give open_run a mapping"):
        parameter_cells()


# --- what a finished run holds ---


def test_the_folder_holds_every_file_and_no_leftover(done):
    files = {path.name for path in done.folder.iterdir()} - {".lock"}
    assert files == {
        "run.yaml",
        "metrics.csv",
        "histograms.csv",
        "baselines.csv",
        "test.csv",
        "model.safetensors",
        "samples.npz",
        "frames.png",
        "frames.gif",
    }


def test_records_of_before_lack_the_processor(done, tmp_path):
    shutil.copytree(done.folder, folder := tmp_path / "losses" / done.name)
    (old := Run.load(folder)).update(threads=2)
    record = yaml.safe_load((folder / "run.yaml").read_text())
    del record["processor"]
    (folder / "run.yaml").write_text(yaml.safe_dump(record))
    assert dict(old.facts())["machine"] == f"{record['machine']}, device cpu, 2 threads"
    table = paired_circumstances(old, done)
    assert "processor" not in table.index, "of one of them it is not known"
    assert "processor" in paired_circumstances(done, done).index


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="another system than Linux")
def test_the_processors_name_is_that_of_the_system():
    assert processor_name()
    assert f": {processor_name()}\n" in Path("/proc/cpuinfo").read_text() or processor_name() == platform.machine()


def test_the_record_says_what_made_it(done):
    record = done.record()
    assert record["status"] == "done"
    assert record["parameters"]["width"] == 0.01
    assert run_hash(resolve(record["parameters"])) == done.name.rsplit("-", 1)[1]
    assert {"commit", "dirty", "versions", "machine", "device", "started", "ended", "verdict", "results"} <= set(record)
    assert record["processor"] == processor_name()
    assert dict(done.facts())["machine"] == f"{record['machine']}, {processor_name()}, device cpu, 1 thread"
    peak = record["peak_memory_bytes"]
    assert (type(peak) is int and peak >= 0) or (peak is None and not sys.platform.startswith("linux"))
    assert record["epochs"] == 3
    assert record["hidden"] == done.model().hidden, "as it was built, not as it was asked for"
    assert record["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert "store" not in record["parameters"]


def test_every_file_of_a_run_has_the_mode_that_the_umask_gives(done):
    os.umask(umask := os.umask(0o022))
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in done.folder.rglob("*") if file.is_file()}
    assert "model.safetensors" in modes
    assert {name: mode for name, mode in modes.items() if mode != oct(0o666 & ~umask)} == {}


def test_metrics_are_tidy_and_complete(done):
    metrics = done.metrics()
    assert list(metrics.columns) == ["epoch", "step", "seconds", "split", "branch", "metric", "value"]
    assert set(metrics.epoch) == {1, 2, 3}
    assert set(metrics.step) == {3, 6, 9}
    found = set(zip(metrics.split, metrics.branch, metrics.metric, strict=True))
    assert {("val", "recon", "mse"), ("val", "pred", "mse"), ("train", "all", "grad_norm")} <= found
    assert not any(metric == "bce" for _, _, metric in found), "no cross-entropy where the output is no probability"


def test_histograms_are_tidy_and_complete(done):
    table = done.histograms()
    assert list(table.columns) == ["epoch", "branch", "output", "share"]
    assert len(table) == 3 * 2 * 60  # epochs, branches, bins
    whole = table.groupby(["epoch", "branch"])
    assert list(whole.groups) == [(epoch, branch) for epoch in (1, 2, 3) for branch in ("pred", "recon")]
    assert whole.share.sum().to_list() == pytest.approx([1] * 6)
    for _, of_one in whole:
        assert of_one.output.to_list() == pytest.approx([-0.2375 + 0.025 * i for i in range(60)])


def of_epochs(folder, *objectives):
    """A run with nothing but its objective on val, one value for each epoch."""
    rows = [(e, e, 1.0, "val", "all", "objective", value) for e, value in enumerate(objectives, start=1)]
    rows += [(e, e, 1.0, "train", "all", "objective", -1.0) for e, *_ in rows]
    columns = ["epoch", "step", "seconds", "split", "branch", "metric", "value"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metrics.csv", index=False)
    return Run(folder, "f", resolve(TINY), {})


@pytest.mark.parametrize(
    ("objectives", "marks"),
    [
        ([], {}),
        ([3.0, 2.0, 1.0], {"best": 3}),
        ([3.0, 1.0, 2.0], {"best": 2}),
        ([3.0, 1.0, 1.0, 1.0, 0.999], {"best": 5, "plateau": 2}),
        ([3.0, 1.0, float("nan")], {"diverged": 3}),
        ([float("inf")], {"diverged": 1}),
    ],
)
def test_marks_by_hand(tmp_path, objectives, marks):
    assert of_epochs(tmp_path, *objectives).marks() == marks


def test_marks_before_the_first_epoch(tmp_path):
    run = Run(tmp_path, "f", resolve(TINY), {})
    assert run.marks() == {}
    assert list(run.histograms().columns) == ["epoch", "branch", "output", "share"]
    assert len(run.histograms()) == len(run.metrics()) == 0


def test_marks_are_those_of_the_run(done):
    objective = done.metrics().query("split == 'val' and metric == 'objective'").set_index("epoch").value
    assert done.marks()["best"] == objective.idxmin()


def test_a_torn_last_line_is_left_out(done, tmp_path):
    for log, cut in (("histograms.csv", 7), ("metrics.csv", 3)):
        text = (done.folder / log).read_text()
        (tmp_path / log).write_text(text[:-cut])
    run = Run(tmp_path, "f", done.parameters, {})
    assert run.histograms().equals(done.histograms()[:-1])
    assert run.metrics().equals(done.metrics()[:-1])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    still = {"optimizer": "SGD", "learning_rate": 1e-12, "patience": 2, "epochs": 9}
    return open_run("losses", TINY, still | {"store": str(tmp_path_factory.mktemp("stopped"))}).train()


def test_patience_ends_a_run_and_its_verdict_says_so(stopped):
    assert stopped.metrics().epoch.max() == 3
    assert stopped.status == "done"
    assert stopped.verdict.endswith(", stopped at epoch 3")


def test_a_stopped_run_is_not_said_to_have_trained_longer(stopped):
    assert dict(stopped.facts())["trained for"].endswith(" s, 3 epochs")
    assert stopped.record()["epochs"] == stopped.marks()["stopped"] == 3


def test_true_shares_are_those_of_the_pixels_of_val(done):
    pixels = sequences(done.parameters, "val").numpy() / 255
    shares = done.true_shares()
    assert shares.index.to_list() == done.histograms().output.unique().tolist()
    assert shares.sum() == pytest.approx(1)
    assert shares[0.0125] == pytest.approx((pixels < 0.025).mean())
    assert shares[1.0125] == pytest.approx((pixels == 1).mean())
    assert shares[(shares.index < 0) | (shares.index > 1.02)].sum() == 0


def test_without_patience_nothing_is_stopped(done):
    assert "stopped" not in done.verdict
    assert "stopped" not in done.marks()
    assert dict(done.facts())["trained for"].endswith(" s, 3 epochs")


def test_the_final_figures_are_those_of_the_saved_weights(done):
    model, parameters = load_model(done.folder / "model.safetensors")
    test = sequences(parameters, "test")
    ranges = {"activation": parameters.activation, "pixel_range": parameters.pixel_range}
    output = predict(model, test[:, :10], **ranges)["pred"]
    table = done.test().query("branch == 'pred' and metric == 'mae'")
    by_hand = (output - test[:, 10:] / 255).abs().mean((0, 2, 3))
    assert np.allclose(table[table.frame.notna()].sort_values("frame").value, by_hand, atol=1e-6)
    assert table[table.frame.isna()].value.item() == pytest.approx(by_hand.mean().item(), abs=1e-6)
    assert set(table.unit) == {"per pixel, on [0, 1]"}
    assert set(table.sequences) == {12}


def test_the_official_file_is_the_test_set_when_asked_for(tmp_path, monkeypatch):
    stored = np.lib.format.open_memmap(
        tmp_path / "mnist_test_seq.npy", mode="w+", dtype=np.uint8, shape=(20, 10_000, 64, 64)
    )  # a sparse file, which takes no room on the disk
    stored[:, 1, 3, 4] = np.arange(20)
    given = {"frame_size": 64, "test_data": "official", "data_folder": str(tmp_path), "test_sequences": 2}
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (str(tmp_path), "~"):
        test = sequences(resolve(TINY, given | {"data_folder": folder}), "test")
    assert test.shape == (2, 20, 64, 64)
    assert test[1, :, 3, 4].tolist() == list(range(20))
    assert test.sum() == sum(range(20))
    with pytest.raises(ValueError, match="has 10,000 sequences; not test_sequences 10,001"):
        open_run("fam", TINY, given | {"test_sequences": 10_001})


def test_samples_are_truth_and_output_of_val(done):
    samples = done.samples()
    assert (samples["frames"] == sequences(done.parameters, "val")[:8].numpy()).all()
    assert samples["recon"].shape == samples["pred"].shape == (8, 10, 16, 16)
    assert samples["recon"].dtype == np.uint8


def test_a_second_train_does_nothing(done):
    before = {path: path.stat().st_mtime_ns for path in done.folder.iterdir()}
    assert open_run("losses", TINY, {"store": str(done.folder.parents[1])}).train().status == "done"
    assert {path: path.stat().st_mtime_ns for path in done.folder.iterdir()} == before


def test_a_folder_can_be_moved_and_found(done, tmp_path):
    moved = tmp_path / "other" / "losses" / done.name
    shutil.copytree(done.folder, moved)
    run = find_runs(tmp_path / "other")[0]
    assert run.folder == moved
    assert defining(run.parameters) == defining(done.parameters)
    assert run.verdict == done.verdict
    assert values(run).equals(values(done))


def test_the_same_run_twice_gives_the_same_numbers(done, tmp_path):
    again = open_run("losses", TINY, {"store": str(tmp_path)}).train()
    pd.testing.assert_frame_equal(values(again), values(done), check_exact=True)
    assert again.test().equals(done.test())


def test_facts_say_what_was_run_and_their_units(done):
    facts, p = dict(done.facts()), done.parameters
    assert f"{p.frame_size}×{p.frame_size} pixels" in facts["data"]
    assert f"{p.train_sequences} sequences an epoch, in batches of {p.batch_size}" in facts["data"]
    assert facts["data"].endswith(f"; {p.val_sequences} for val, {p.test_sequences} for test"), "what figures are of"
    assert facts["training"] == f"{p.optimizer}, learning rate {p.learning_rate:g}"
    assert facts["seed"].startswith(f"{p.seed} (one seed")
    test = done.test().query("frame.isna() and metric == 'mse' and branch == 'recon'")["value"].item()
    assert facts["test recon mse per pixel, on [0, 1]"].startswith(f"{test:#.4g} (")
    assert "mean frame 0.0" in facts["test recon mse per pixel, on [0, 1]"]


def test_facts_before_training_build_no_optimizer(tmp_path, done, monkeypatch):
    run = open_run("losses", TINY, {"store": str(tmp_path)})
    monkeypatch.setattr("seqae.runs.experiment.optimizer_factory", None)
    weights = f"{done.record()['weights']:,} weights"
    assert dict(run.facts())["architecture"] == dict(done.facts())["architecture"]
    assert weights in dict(run.facts())["architecture"]
    assert run.reach == done.reach


@pytest.mark.parametrize("task", ["recon", "recon_ordered", "pred", "both"])
def test_the_floor_that_is_explained_is_the_one_of_the_table(task, tmp_path):
    run = open_run("losses", TINY, {"task": task, "loss": "0sb", "val_sequences": 3, "store": str(tmp_path)})
    floors = run.baselines().query("split == 'val' and metric == 'mse'").pivot(
        index="branch", columns="baseline", values="value"
    )  # fmt: skip
    told = floors.loc[(floors.floor - floors.mean_frame).idxmin()]
    assert len({f"{value:.4f}" for value in floors.floor}) == len(floors), "the branches' floors differ"
    assert (
        f"MSE below {told.floor:.4f}. The mean frame, which needs no model, has {told.mean_frame:.4f}" in run.explain()
    )
    assert run.prognosis() == f"cannot learn: floor {told.floor:.4f} > mean frame {told.mean_frame:.4f}"


def test_what_an_earlier_version_explained_of_all_frames_is_explained_again(done, tmp_path, monkeypatch):
    old = shutil.copytree(done.folder, tmp_path / "losses" / done.name)
    record = done.record()
    assert record["explained"] == done.explain()
    (old / "run.yaml").write_text(
        yaml.safe_dump({k: v for k, v in record.items() if k != "explained"} | {"explanation": "of all"})
    )
    assert Run.load(old).explain() == done.explain()
    monkeypatch.setattr(experiment, "sequences", lambda *_: (_ for _ in ()).throw(FileNotFoundError("no digits")))
    assert Run.load(old).explain() == "of all", "where the digits are missing, what is recorded is still shown"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.123, "0.123 s"), (12.34, "12.3 s"), (60, "0:01:00"), (125.4, "0:02:05"), (90_000, "1 day 1 h"),
     (465_346, "5 days 9 h")],
)  # fmt: skip
def test_a_duration_is_told_as_people_say_it(seconds, told):
    assert duration(seconds) == told


def test_few_sequences_are_said_to_give_rough_figures(done):
    few = done.parameters.model_copy(update={"val_sequences": 64, "test_sequences": 63})
    assert rough_figures(few) == "The figures are rough: test has only 63 sequences."
    assert rough_figures(few.model_copy(update={"test_sequences": 64})) == ""
    assert dict(done.facts())["note"].startswith("The figures are rough: val has only ")


def test_names_and_verdicts_are_escaped(done):
    evil = Run(done.folder, "<script>alert(1)</script>", done.parameters, {"x": "<script>alert(2)</script>"})
    assert "<script>" not in evil._repr_html_()
    assert "&lt;script&gt;alert(1)" in evil._repr_html_()
    assert replace(done, assigned=True)._repr_html_() == f"<p>losses/{done.name}</p>", "the report has the facts above"


def test_changed_code_is_told(done):
    record = done.folder / "run.yaml"
    text = record.read_text()
    record.write_text(yaml.safe_dump(yaml.safe_load(text) | {"commit": "0123456789ab"}))
    try:
        assert dict(done.facts())["made with code"].startswith("commit 0123456789ab")
        assert "the code is now" in dict(done.facts())["made with code"]
    finally:
        record.write_text(text)


def test_no_folder_and_damaged_records_are_told(tmp_path):
    with pytest.raises(RunError, match=r"no run folder: it has no run\.yaml"):
        Run.load(tmp_path)
    (tmp_path / "run.yaml").write_text("family: [")
    with pytest.raises(RunError, match=r"damaged.*delete the folder"):
        Run.load(tmp_path)


# --- interruptions ---


def _train_in_a_process(given, kill_after):
    """Train in a child and SIGKILL it as soon as metrics.csv holds `kill_after` epochs."""
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(given,))
    process.start()
    log = open_run("losses", TINY, given).folder / "metrics.csv"
    while process.is_alive():
        if log.exists() and f"\n{kill_after}," in log.read_text():
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.002)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _child(given):
    torch.set_num_threads(1)
    open_run("losses", TINY, given).train()


@pytest.mark.parametrize("kill_after", [1, 7])
@pytest.mark.soak
def test_a_killed_run_resumes_and_ends_as_an_unbroken_one(tmp_path, kill_after):
    long = {"epochs": 40, "store": str(tmp_path / "broken"), "task": "recon", "schedule": "StepLR", "schedule_every": 5}
    torch.set_num_threads(1)
    _train_in_a_process(long, kill_after)
    run = open_run("losses", TINY, long)
    assert run.status == "interrupted"
    with (run.folder / "metrics.csv").open("a") as log:
        log.write("999,1,0.1,val,recon,mse,0.0")  # a torn line of an epoch that is not in the checkpoint
    with (run.folder / "histograms.csv").open("a") as log:
        log.write("999,recon,0.01")
    began, checkpoint = run.record(), (run.folder / "checkpoint" / "state.pt").exists()
    assert checkpoint or kill_after == 1  # an early kill may come before the first checkpoint
    run.train()
    if checkpoint:
        assert run.record()["started"] == began["started"]
        assert [part["commit"] for part in run.record()["resumed"]] == [began["commit"]]
    unbroken = open_run("losses", TINY, long | {"store": str(tmp_path / "unbroken")}).train()
    pd.testing.assert_frame_equal(values(run), values(unbroken), check_exact=True)
    assert (run.folder / "histograms.csv").read_bytes() == (unbroken.folder / "histograms.csv").read_bytes()
    assert run.test().equals(unbroken.test())
    assert run.verdict == unbroken.verdict


@pytest.mark.parametrize("table", ["histograms", "metrics"])
@pytest.mark.parametrize("torn", [True, False])
def test_a_resumed_run_makes_both_logs_again_from_its_checkpoint(done, tmp_path, monkeypatch, table, torn):
    """Stops in epoch 3 when its rows are in one log, or in both, and before its checkpoint is written."""
    run = open_run("losses", TINY, {"store": str(tmp_path)})
    append = logs.append_rows

    def stopping(log, rows):
        append(log, rows)
        if log.stem == table and rows[0]["epoch"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(logs, "append_rows", stopping)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run.train()
    told = f"Interrupted after epoch {3 if table == 'metrics' else 2} of 3; the checkpoint is kept."
    assert stopped.value._render_traceback_() == [f"{told} Run this cell again to go on."]
    assert run.status == "interrupted"
    assert run.histograms().epoch.max() == 3
    assert run.metrics().epoch.max() == (3 if table == "metrics" else 2)
    log = run.folder / f"{table}.csv"
    log.write_text(log.read_text()[: -4 if torn else None])
    run.train()
    pd.testing.assert_frame_equal(values(run), values(done), check_exact=True)
    assert (run.folder / "histograms.csv").read_bytes() == (done.folder / "histograms.csv").read_bytes()


def test_a_run_stopped_before_its_first_checkpoint_begins_both_logs_anew(done, tmp_path, monkeypatch):
    run = open_run("losses", TINY, {"store": str(tmp_path)})
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt) as stopped:
            run.train()
    told = "Interrupted after epoch 1 of 3; there is no checkpoint yet. Run this cell again to go on."
    assert stopped.value._render_traceback_() == [told], "all that IPython shows of it"
    assert run.metrics().epoch.max() == run.histograms().epoch.max() == 1
    run.train()
    pd.testing.assert_frame_equal(values(run), values(done), check_exact=True)
    assert (run.folder / "histograms.csv").read_bytes() == (done.folder / "histograms.csv").read_bytes()


def test_what_a_killed_writer_left_is_removed_when_the_run_goes_on(tmp_path):
    run = open_run("losses", TINY, {"store": str(tmp_path), "keep_checkpoint": True})
    (run.folder / "checkpoint").mkdir(parents=True)
    left = ("checkpoint/.state.pt.1-2.pt", "checkpoint/.state.pt", ".run.yaml.1-2.yaml", ".samples.npz.1-2.npz")
    for name in (*left, ".notebook.ipynb.1-2.ipynb"):
        (run.folder / name).touch()
    run.train()
    hidden = {path.name for path in run.folder.rglob(".*")}
    assert hidden == {".lock", ".notebook.ipynb.1-2.ipynb"}, "the notebook is written by another process"


def test_a_failure_is_recorded_and_tried_again(tmp_path, monkeypatch):
    run = open_run("losses", TINY, {"store": str(tmp_path)})
    with monkeypatch.context() as patch:
        patch.setattr(
            "seqae.runs.experiment.train_model", lambda *a, **k: (_ for _ in ()).throw(MemoryError("no room"))
        )
        with pytest.raises(MemoryError):
            run.train()
    assert run.status == "failed"
    assert run.record()["reason"] == "MemoryError: no room"
    assert run.train().status == "done"
    assert run.record()["reason"] is None


def test_a_stopped_run_is_interrupted_not_failed(tmp_path, monkeypatch):
    run = open_run("losses", TINY, {"store": str(tmp_path)})
    with monkeypatch.context() as patch:
        patch.setattr("seqae.runs.experiment.train_model", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.train()
    assert run.status == "interrupted"
    assert run.train().status == "done"


def test_a_run_finished_by_another_process_meanwhile_is_left_alone(tmp_path, monkeypatch):
    run, other = (open_run("losses", TINY, {"store": str(tmp_path)}) for _ in range(2))
    written, publishing = [], Run._published

    def meanwhile(self):  # after this process has seen that the run is not done, before it has the lock
        monkeypatch.setattr(Run, "_published", publishing)
        other.train()
        written.append((run.folder / "metrics.csv").stat().st_mtime_ns)
        return publishing(self)

    monkeypatch.setattr(Run, "_published", meanwhile)
    run.train()
    assert run.status == "done"
    assert [(run.folder / "metrics.csv").stat().st_mtime_ns] == written


def test_a_damaged_run_does_not_hide_the_others(done, tmp_path):
    shutil.copytree(done.folder, tmp_path / "losses" / done.name)
    (tmp_path / "losses" / "broken").mkdir()
    (tmp_path / "losses" / "broken" / "run.yaml").write_text("family: [")
    with pytest.warns(UserWarning, match="broken left out"):
        assert [run.name for run in find_runs(tmp_path)] == [done.name]


def test_a_damaged_checkpoint_is_told(tmp_path):
    run = open_run("losses", TINY, {"store": str(tmp_path)})
    (run.folder / "checkpoint").mkdir(parents=True)
    (run.folder / "checkpoint" / "state.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"no whole checkpoint of fit .*delete this one"):
        run.train()


def test_a_run_that_another_process_trains_is_refused(tmp_path):
    import filelock

    run = open_run("losses", TINY, {"store": str(tmp_path)})
    run.folder.mkdir(parents=True)
    with filelock.FileLock(run.folder / ".lock"), pytest.raises(RunError, match="trained by another process"):
        run.train()


def test_a_store_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    run = open_run("losses", TINY, {"store": str(tmp_path / "file" / "store")})
    with pytest.raises(RunError, match=r"cannot write to .*: .*; choose another folder as store"):
        run.train()


def test_data_that_cannot_be_read_is_no_fault_of_the_store(tmp_path, monkeypatch):
    run = open_run("losses", TINY, {"digits": "mnist", "data_folder": str(tmp_path), "store": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="holds neither"):
        run.train()
    here = run.folder / "metrics.csv"
    for number, file, told in [
        (errno.EACCES, "/data/digits", PermissionError),
        (errno.EACCES, here, RunError),
        (errno.ENOSPC, here, RunError),
        (errno.ENOSPC, None, RunError),
        (errno.ECONNREFUSED, None, ConnectionRefusedError),
    ]:
        error = OSError(number, os.strerror(number), file)
        monkeypatch.setattr(
            "seqae.runs.experiment.reference_levels", lambda p, reach, error=error: (_ for _ in ()).throw(error)
        )
        with pytest.raises(told, match=os.strerror(number)):
            run.train()


def _full_disk(given, results):
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # the checkpoint does not fit
    try:
        open_run("losses", TINY, given).train()
    except RunError as error:
        results.put(str(error))


@pytest.mark.soak
def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path):
    context = multiprocessing.get_context("spawn")
    given, results = {"store": str(tmp_path)}, context.Queue()
    process = context.Process(target=_full_disk, args=(given, results))
    process.start()
    assert "cannot write to" in results.get(timeout=120)
    process.join()
    run = open_run("losses", TINY, given)
    assert run.status == "failed"
    assert "checkpoint not written" in run.record()["reason"]
    assert list((run.folder / "checkpoint").iterdir()) == []
    assert run.train().status == "done"


def test_divergence_is_a_verdict_not_a_crash(tmp_path):
    given = {
        "store": str(tmp_path),
        "optimizer": "SGD",
        "learning_rate": 1e30,
        "clip_norm": None,
        "architecture": "srivastava",
    }
    run = open_run("losses", TINY, given).train()
    assert run.status == "done"
    assert run.verdict.startswith("diverged at epoch ")
    assert json.dumps(run.record()["results"])


@pytest.mark.parametrize("kept", [True, False])
def test_a_checkpoint_that_was_to_be_kept_is_kept_whoever_looks_at_the_run_later(tmp_path, kept):
    run = open_run("f", TINY, {"store": str(tmp_path), "keep_checkpoint": kept}).train()
    open_run("f", TINY, {"store": str(tmp_path)}).train()
    Run.load(run.folder).train()
    assert (run.folder / "checkpoint" / "state.pt").exists() is kept


def test_unknown_digits_and_losses_list_the_known(tmp_path):
    for given, known in (
        ({"digits": "svhn"}, "one of mnist5k, mnist"),
        ({"training_loss": "mae"}, "mse, bce or module:name"),
    ):
        with pytest.raises(ValueError, match=f"must be {known}; not"):
            open_run("f", TINY, {"store": str(tmp_path)} | given)
