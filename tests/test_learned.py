"""What was drawn, and what was learned of it: tables aligned with sequences, probes, few labels, errors elsewhere."""

import importlib
import linecache
import sys
from base64 import b64decode
from io import BytesIO

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_trained import SMALL, maker

from seqae.data import MovingMNIST
from seqae.reports import falls_apart, figures, measured_of, pointed_map, representation_findings
from seqae.representations import (
    digit_counts,
    few_labels,
    gate_shares,
    label_probes,
    linear_probes,
    longer_horizon,
    weight_pictures,
)
from seqae.representations import weights as gates
from seqae.representations.probes import STRENGTHS, chance_and_ceiling, probe_score, share_found, what_is_seen
from seqae.runs import load_digits, load_labels, locks
from seqae.runs.records import RunError
from seqae.runs.run import Run, open_run

TINY = SMALL | {"val_sequences": 40, "test_sequences": 30, "layers": 1, "epochs": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return maker(tmp_path_factory.mktemp("store"), TINY)


@pytest.fixture
def run(made) -> Run:
    return made()


# --- what was drawn ---


@pytest.mark.parametrize("frame", [1, 2, 9, 15])
def test_frames_are_made_again_of_what_was_drawn(run, frame: int) -> None:
    drawn, images = run.drawn("val", frame=frame), MovingMNIST(load_digits()["val"], seed=1, split="val", frame_size=16)
    again = np.zeros((40, 16, 16), np.uint8)
    for row in drawn.itertuples():
        for n in "12":
            image, y, x = (getattr(row, f"{name}_{n}") for name in ("image", "y", "x"))
            window = again[row.sequence, int(y) : int(y) + 7, int(x) : int(x) + 7]
            np.maximum(window, images.digits[image], out=window)
    np.testing.assert_array_equal(again, run.sequences("val")[:, frame - 1])


def test_a_velocity_is_the_step_that_follows_but_for_walls(run) -> None:
    now, then = run.drawn("test", frame=6), run.drawn("test", frame=7)
    inside = 0
    for n in "12":
        for axis in "yx":
            step, velocity = then[f"{axis}_{n}"] - now[f"{axis}_{n}"], now[f"v_{axis}_{n}"]
            free = then[f"{axis}_{n}"].between(1e-9, 9 - 1e-9)
            inside += free.sum()
            np.testing.assert_allclose(step[free], velocity[free], atol=1e-9)
            np.testing.assert_allclose(then[f"v_{axis}_{n}"][~free], -velocity[~free])
        np.testing.assert_allclose(np.hypot(now[f"v_y_{n}"], now[f"v_x_{n}"]), 0.9)  # a tenth of 16 - 7 pixels
    assert 60 < inside < 120


def test_labels_are_those_of_the_images() -> None:
    images, labels = load_digits(), load_labels()
    assert {split: len(of) for split, of in labels.items()} == {split: len(of) for split, of in images.items()}
    means = np.stack([images["train"][labels["train"] == c].mean(0) for c in range(10)]).reshape(10, -1)
    flat = images["test"].reshape(500, -1).astype(float)
    nearest = ((flat[:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == labels["test"]).mean() > 0.7, "the nearest mean of a class is right for four of five"


@pytest.fixture
def three(tmp_path) -> Run:
    """An untrained run on three digits."""
    return open_run("own", TINY, {"digits_per_sequence": 3, "store": str(tmp_path)})


def test_classes_are_those_of_the_images_drawn(three) -> None:
    drawn = three.drawn("val")
    for n in "123":
        np.testing.assert_array_equal(load_labels()["val"][drawn[f"image_{n}"]], drawn[f"digit_{n}"])


@pytest.mark.parametrize("frame", [0, 16, 1.0, True])
def test_another_frame_is_refused(run, frame) -> None:
    with pytest.raises(ValueError, match=f"frame must be a whole number from 1 to 15; not {frame!r}"):
        run.drawn(frame=frame)


def test_what_nothing_is_known_of_is_told(run, tmp_path) -> None:
    for split in ("trian", ""):
        with pytest.raises(ValueError, match=f"split must be one of train, val, test; not {split!r}"):
            run.drawn(split)
    given = {"test_data": "official", "frame_size": 64, "frames_in": 10, "data_folder": str(tmp_path)}
    official = open_run("own", TINY, given | {"store": str(tmp_path)})
    with pytest.raises(ValueError, match="the official test file does not say what was drawn: use val"):
        official.drawn("test")
    frames = np.random.default_rng(0).integers(0, 256, (20, 30, 64, 64), np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", frames)
    assert official.sequences("test").shape == official.sequences("test", frames_out=10).shape == (30, 20, 64, 64)
    np.testing.assert_array_equal(official.sequences("test", frames_out=3), official.sequences("test")[:, :13])
    with pytest.raises(ValueError, match="frames_out 11: the official test file has 20 frames: give 10 or fewer"):
        official.sequences("test", frames_out=11)
    with pytest.raises(ValueError, match="labels are of clips of your own, and this run has none"):
        run.labels("labels.csv")


def test_sequences_go_on_for_longer(run) -> None:
    longer = run.sequences("test", frames_out=30)
    assert longer.shape == (30, 35, 16, 16)
    np.testing.assert_array_equal(longer[:, :15], run.sequences("test"))
    with pytest.raises(ValueError, match="frames_out must be a whole number, 1 or more; not 0"):
        run.sequences("test", frames_out=0)


# --- labels of clips of one's own ---


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> Run:
    """A run on clips in which a bright block moves to the left or to the right, with a CSV file beside them."""
    place = tmp_path_factory.mktemp("project")
    (place / "notebooks").mkdir(), (place / "params").mkdir()
    rng, rows = np.random.default_rng(0), []
    clips = rng.integers(0, 40, (40, 15, 16, 16), np.uint8)
    for n, clip in enumerate(clips):
        way, top = (1, -1)[n % 2], rng.integers(0, 12)
        for t in range(15):
            clip[t, top : top + 4, (way * t) % 12 : (way * t) % 12 + 4] = 255
        rows.append(("all.npy", n, ("left", "right")[way > 0], float(top)))
    np.save(place / "all.npy", clips)
    pd.DataFrame(rows, columns=["file", "index", "way", "top"]).to_csv(place / "labels.csv", index=False)
    given = {"clips": str(place / "all.npy"), "clips_val": None, "store": str(place / "store")}
    return open_run("own", TINY | {"val_sequences": 9, "test_sequences": 9}, given).train()


def test_labels_of_clips_are_those_of_their_sequences(moving) -> None:
    file = moving.folder.parents[2] / "labels.csv"
    for split in ("train", "val", "test"):
        table, frames = moving.labels(file, split), moving.sequences(split)
        assert len(table) == len(frames)
        lit = frames[:, 0].mean(2)
        tops = [int(np.convolve(of, np.ones(4), "valid").argmax()) for of in lit]
        np.testing.assert_array_equal(tops, table.top)
        to_the_left = frames[:, 1, :, 11:15].mean((1, 2)) > frames[:, 1, :, 1:5].mean((1, 2))  # of the second frame
        np.testing.assert_array_equal(to_the_left, table.way == "left")
    probes = label_probes(moving, file)
    assert dict(zip(probes.target, probes.measure, strict=True)) == {"way": "share right", "top": "error, its own unit"}
    known = probes.set_index(["target", "features"])
    assert known.loc[("top", "all frames"), "value"] < known.loc[("top", "all frames"), "chance"]
    assert set(probes.ceiling) == {0, 1}
    pd.read_csv(file).assign(way="left").to_csv(moving.folder / "one.csv", index=False)
    with pytest.warns(UserWarning, match="way is left in all of test, which tells nothing: name clips"):
        label_probes(moving, moving.folder / "one.csv")


def test_a_file_of_labels_that_does_not_fit_is_told(moving, tmp_path) -> None:
    for text, told in (
        ("file,index,way\nall.npy,0,left\n", r"has no row for clip \d+ of .*all.npy"),
        ("file,way\nall.npy,left\nall.npy,right\n", r"has 2 rows for clip"),
        ("name,way\nall.npy,left\n", "has the columns name, way: it needs file, and a label or more"),
        ("file\nall.npy\n", "it needs file, and a label"),
        ("file,way,start\nall.npy,left,1\n", "has the column start, which the table of .* rename it"),
        ("file,way\nall.npy,left\n,right\n", "names no file in line 3: write there which clip its labels are of"),
    ):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(ValueError, match=told):
            moving.labels(tmp_path / "labels.csv")
    with pytest.raises(FileNotFoundError, match=r"none.csv is not a file: give a CSV file"):
        moving.labels(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="nothing was drawn for clips of your own"):
        moving.drawn()


def test_a_row_of_labels_that_two_files_end_with_is_told(moving, tmp_path) -> None:
    for folder, clip in zip("abcdef", np.load(moving.folder.parents[2] / "all.npy"), strict=False):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "one.npy", clip)
    given = {"clips": str(tmp_path / "*/one.npy"), "clips_val": [str(tmp_path / n) for n in "ab"]}
    sizes = {"train_sequences": 2, "val_sequences": 2, "test_sequences": 1}
    run = open_run("own", TINY | sizes, given | {"store": str(tmp_path / "store")})
    (tmp_path / "labels.csv").write_text("file,way\none.npy,left\n")
    with pytest.raises(ValueError, match=r"has one row for .*one.npy and for .*one.npy: write folders before the"):
        run.labels(tmp_path / "labels.csv", "val")


# --- states decoded ---


@pytest.mark.parametrize(
    "given", [{}, {"architecture": "lstm_copy", "hidden": 6, "layers": 2, "decoder_input": "output"}]
)
def test_a_state_decoded_is_the_output(made, given) -> None:
    run = made(**given)
    seen = run.sequences()[:4, :5]
    state = run.encode(seen)
    for of in ({"flat": state["flat"]}, {name: array for name, array in state.items() if name != "flat"}, state):
        outputs = run.decode(of, seen[:, -1])
        assert list(outputs) == ["recon", "pred"]
        np.testing.assert_allclose(outputs["pred"], run.predict(seen), atol=1e-6)
        np.testing.assert_allclose(outputs["recon"], run.reconstruct(seen), atol=1e-6)
    of_torch = run.decode({"flat": torch.from_numpy(state["flat"])}, torch.from_numpy(seen[:, -1]))
    np.testing.assert_array_equal(of_torch["pred"].numpy(), outputs["pred"])


@pytest.mark.parametrize(
    ("state", "last", "told"),
    [
        (
            {"flat": np.zeros((2, 23))},
            None,
            r"state has \{'flat': \(2, 23\)\}; .* has h1 \(B, 12\), c1 \(B, 12\), or flat",
        ),
        ({"h1": np.zeros((2, 12))}, None, r"state has \{'h1': \(2, 12\)\}"),
        ({"h1": np.zeros((2, 12)), "c1": np.zeros((3, 12))}, None, "state has"),
        ({}, None, "state has nothing"),
        ({"flat": np.zeros((2, 24))}, np.zeros((2, 8, 8)), r"last has shape \(2, 8, 8\)"),
        (
            {"flat": np.zeros((2, 24))},
            torch.zeros(2, 16, 16),
            "must all be numpy arrays, or torch tensors; not Tensor, nd",
        ),
    ],
)
def test_another_state_is_refused(run, state, last, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        run.decode(state, last)


# --- probes ---


def test_a_probe_finds_what_is_there_and_not_what_is_not() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros((400, 10), int)
    for row in counts:
        np.add.at(row, rng.integers(0, 10, 2), 1)
    places = counts @ np.arange(10)[:, None] / 3.0
    known = {"each digit": counts, "all digits": counts @ 3 ** np.arange(10), "positions": places}
    half = {name: of[:200] for name, of in known.items()}, {name: of[200:] for name, of in known.items()}
    told, noise = counts + 0.01 * rng.normal(size=counts.shape), rng.normal(size=counts.shape)
    assert probe_score("each digit", told[:200], half[0], told[200:], half[1]) == 1
    assert probe_score("positions", told[:200], half[0], told[200:], half[1]) < 0.05
    assert probe_score("each digit", noise[:200], half[0], noise[200:], half[1]) < 0.4
    assert probe_score("positions", noise[:200], half[0], noise[200:], half[1]) > 0.8
    assert probe_score("all digits", told[:200], half[0], told[200:], half[1]) > 0.3, "of 55 classes"
    assert len(STRENGTHS) > 3


def test_the_share_of_digits_found() -> None:
    scores = np.eye(10)[[3, 3, 3]] + 0.5 * np.eye(10)[[5, 5, 5]]
    counts = np.zeros((3, 10), int)
    counts[0, [3, 5]], counts[1, [3, 4]], counts[2, 3] = 1, 1, 2
    assert share_found(scores, counts) == (2 + 1 + 2) / 6


def test_targets_are_from_left_to_right(three) -> None:
    known, drawn = what_is_seen(three, "val"), three.drawn("val", frame=5)
    x = known["positions"][:, 3:]
    np.testing.assert_array_equal(x, np.sort(drawn[["x_1", "x_2", "x_3"]], axis=1))
    left = drawn[["x_1", "x_2", "x_3"]].to_numpy().argmin(1)
    np.testing.assert_array_equal(
        known["velocities"][:, 0], drawn[["v_y_1", "v_y_2", "v_y_3"]].to_numpy()[range(40), left]
    )
    assert (known["each digit"].sum(1) == 3).all()


def test_probes_have_chance_and_ceiling_and_say_their_examples(run) -> None:
    probes = run.measured(linear_probes)
    assert len(probes) == 4 * 5
    assert set(zip(probes.train, probes.test, strict=True)) == {(40, 30)}
    assert set(probes[probes.features == "state"].dimensions) == {24}
    assert probes[["value", "chance", "ceiling"]].notna().all(axis=None)
    levels = chance_and_ceiling(run, what_is_seen(run, "val"), what_is_seen(run, "test"))
    assert levels["each digit"][0] < 0.5 < levels["each digit"][1] < 1
    assert levels["all digits"][1] < levels["each digit"][1], "both are to be right"
    assert levels["positions"][1] == pytest.approx(0.25, abs=0.05)
    shares = (probes.value - probes.chance) / (probes.ceiling - probes.chance)
    np.testing.assert_allclose(probes.gained, shares)


def test_a_table_is_measured_once_and_read_from_then_on(run, monkeypatch) -> None:
    first = run.measured(linear_probes)
    assert (run.folder / "linear_probes.csv").exists()
    monkeypatch.setattr("seqae.representations.probes.probe_score", None)
    pd.testing.assert_frame_equal(run.measured(linear_probes), first)
    with pytest.raises(ValueError, match="a table cannot be named 'metrics'"):
        run.measured(Run.metrics)
    (run.folder / "digit_counts.csv").write_text("")
    with pytest.raises(RunError, match=r"digit_counts.csv is damaged .*: delete it, and it is made again"):
        run.measured(digit_counts)
    (run.folder / "digit_counts.csv").unlink()


def test_a_table_is_not_written_while_another_process_changes_the_run(run, monkeypatch) -> None:
    def ones(run: Run) -> pd.DataFrame:
        return pd.DataFrame({"a": [1]})

    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)
    with filelock.FileLock(run.folder / ".lock"):
        assert run.measured(ones).a.item() == 1
    assert not (run.folder / "ones.csv").exists()
    assert run.measured(ones).a.item() == 1
    (run.folder / "ones.csv").unlink()


def test_a_table_is_measured_again_when_its_function_has_changed(run, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for number in (1, 22):  # sources of other lengths, which linecache tells apart
        (tmp_path / "measures.py").write_text(
            f"import pandas\ndef one(run): return pandas.DataFrame({{'a': [{number}]}})\n"
        )
        sys.modules.pop("measures", None)
        importlib.invalidate_caches()
        linecache.checkcache()
        assert run.measured(importlib.import_module("measures").one).a.item() == number
    (run.folder / "one.csv").write_text("a\n3\n")
    assert run.measured(sys.modules["measures"].one).a.item() == 3, "read, not measured"
    (run.folder / "one.csv").unlink()


def test_what_is_measured_meanwhile_stays_on_record(run) -> None:
    """Or an edit of the function that made it would no longer be noticed."""

    def inner(run: Run) -> pd.DataFrame:
        return pd.DataFrame({"a": [1]})

    def outer(run: Run) -> pd.DataFrame:
        return run.measured(inner)

    assert run.measured(outer).a.item() == 1
    assert {"inner", "outer"} <= run.record()["measured"].keys()
    for name in ("inner", "outer"):
        (run.folder / f"{name}.csv").unlink()


def test_what_is_not_trained_has_no_table(tmp_path) -> None:
    with pytest.raises(RunError, match="has no trained model, it is waiting"):
        open_run("own", TINY, {"store": str(tmp_path)}).measured(linear_probes)


# --- elsewhere, and with few labels ---


@pytest.mark.parametrize("given", [{}, {"loss": "0nm"}])
def test_within_what_was_trained_the_errors_are_those_of_test(made, given) -> None:
    run = made(**given)
    horizon, test = run.measured(longer_horizon), run.test().query("metric == 'mse' and branch == 'pred'")
    model = horizon[horizon.source == "model"].set_index("frame")["value"]
    assert list(model.index) == list(range(1, 31))
    steps = test.dropna(subset="frame").set_index("frame")["value"]
    np.testing.assert_allclose(model[:10], steps, rtol=1e-4)
    levels = (
        run.baselines().query("split == 'test' and branch == 'pred' and metric == 'mse'").set_index("baseline")["value"]
    )
    first = horizon[horizon.frame <= 10].groupby("source")["value"].mean()
    assert first["mean frame"] == pytest.approx(levels["mean_frame"])
    assert first["copy last"] == pytest.approx(levels["copy_last"])


def test_errors_by_digits_are_of_other_sequences(run, made) -> None:
    counts = run.measured(digit_counts)
    assert set(counts.digits) == {1, 2, 3}
    mean = counts[counts.source == "mean frame"].groupby("digits")["value"].mean()
    assert mean[1] < mean[2] < mean[3]
    two = counts.query("digits == 2 and branch == 'recon' and source == 'model'")["value"].mean()
    overall = run.test().query("metric == 'mse' and branch == 'recon' and frame.isna()")["value"].item()
    assert two == pytest.approx(overall, rel=1e-4)
    assert made(task="recon").measured(longer_horizon).empty
    assert set(made(task="recon").measured(digit_counts).branch) == {"recon"}
    table = measured_of([made(task="recon"), run], longer_horizon)
    assert set(zip(table.run, table.task, table.seed, strict=True)) == {(run.name, "both", 6)}
    diverged = made(loss="0nm", optimizer="SGD", learning_rate=1e30, clip_norm=None)
    assert diverged.diverged
    pd.testing.assert_frame_equal(measured_of([run, diverged, run], longer_horizon), table)
    with pytest.raises(ValueError, match="all of these runs diverged: nothing that they learned can be measured"):
        measured_of([diverged], longer_horizon)


def test_few_labels_leave_the_run_as_it_is(run, monkeypatch) -> None:
    monkeypatch.setattr("seqae.representations.labelled.UPDATES", 2)
    before = {name: weight.clone() for name, weight in run.model().state_dict().items()}
    labelled = run.measured(few_labels)
    assert sorted(set(labelled.labels)) == [10, 30], "val has 40"
    assert len(labelled) == 3 * 2 * 3
    assert labelled.value.between(0, 1).all()
    assert all(torch.equal(weight, before[name]) for name, weight in run.model().state_dict().items())


def test_a_classifier_learns_from_labels(run) -> None:
    from seqae.representations.labelled import _fine_tuned, _scores

    seen, counts = run.sequences("val")[:8, :5], what_is_seen(run, "val")["each digit"][:8]
    classifier = _fine_tuned(run.model(), run.parameters, seen, counts, seed=0)
    assert share_found(_scores(classifier, run.parameters, seen), counts) > 0.6, "of sequences it was trained on"


def test_a_map_has_a_point_and_its_frames_for_each_sequence(run) -> None:
    seen, drawn = run.sequences("val")[:, :5], run.drawn("val", frame=5)
    page = pointed_map(run.encode(seen)["flat"], drawn, seen).data
    assert page.count("<circle") == 40
    assert f"sequence 39: digits {drawn.digit_1[39]}, {drawn.digit_2[39]};" in page
    assert page.count("<img") == 1
    encoded = page.partition("base64,")[2].partition('"')[0]
    with Image.open(BytesIO(b64decode(encoded))) as picture:
        assert picture.size == (5 * 17, 40 * 17)


# --- weights and gates ---


@pytest.mark.parametrize(
    "given",
    [
        {"layers": 2, "peepholes": True},
        {"architecture": "convlstm", "hidden": 4, "peepholes": True},
        {"architecture": "convlstm_pointwise", "hidden": 4},
    ],
)
def test_gates_seen_are_those_that_make_the_state(made, given, monkeypatch) -> None:
    run = made(**given)
    model, seen = run.model(), torch.from_numpy(run.sequences()[:, :5]) / 255
    read = model._embed(seen.transpose(0, 1).flatten(2))
    for number, layer in enumerate(model.encoder.layers, start=1):
        values, read = gates._gates(layer, read, model.encoder.map_size)
        assert values.shape == (5, 30, 4, read.shape[2])
        np.testing.assert_allclose(read[-1].detach(), run.encode(run.sequences()[:, :5])[f"h{number}"], atol=1e-5)
    shares = run.measured(gate_shares)
    assert len(shares) == 4 * len(model.encoder.layers)
    np.testing.assert_allclose(shares[["shut", "open", "between"]].sum(axis=1), 1)
    assert shares["mean"].between(-1, 1).all()
    monkeypatch.setattr(gates, "AT_ONCE", 7)  # of 30 sequences: parts of unequal length
    pd.testing.assert_frame_equal(gate_shares(run), shares, check_exact=False, rtol=1e-5)
    figures.show(figures.gate_bars(shares), "gates")


def test_weights_are_pictures(made) -> None:
    run = made()
    pictures = weight_pictures(run, units=3)
    assert {name: of.shape for name, of in pictures.items()} == {
        **{f"into the {gate} gate": (3, 16, 16) for gate in ("input", "forget", "candidate", "output")},
        **{f"out of {branch}": (3, 16, 16) for branch in ("recon", "pred")},
    }
    weight = run.model().encoder.layers[0].weight_ih.detach().numpy().reshape(4, 12, 16, 16)
    unit = int((weight**2).sum((0, 2, 3)).argmax())
    np.testing.assert_array_equal(pictures["into the forget gate"][0], weight[1, unit])
    figures.show(figures.picture_grid(pictures), "weights")
    assert not [name for name in weight_pictures(made(layers=2, peepholes=True)) if name.startswith("out of")], "h2"
    convolutional = made(architecture="convlstm", hidden=4, peepholes=True)
    assert weight_pictures(convolutional)["kernels of the embedding"].shape[1:] == (4, 4)


# --- what is told ---


def horizon_table(*model: float) -> pd.DataFrame:
    rows = [(n, source, v) for n, m in enumerate(model, 1) for source, v in (("model", m), ("mean frame", 1.0))]
    return pd.DataFrame(rows, columns=["frame", "source", "value"]).assign(trained=2, task="both")


@pytest.mark.parametrize(
    ("model", "frame"), [((0.5, 0.6, 0.7), None), ((0.5, 1.0, 1.2), 2), ((1.1, 1.2, 1.3), 1), ((0.5, 1.1, 0.9, 1.1), 4)]
)
def test_where_a_prediction_falls_apart(model, frame) -> None:
    assert falls_apart(horizon_table(*model)) == frame


def many(**gained: tuple[float, ...]) -> pd.DataFrame:
    rows = [
        (task, seed, target, features, value if features == "state" else 0.1, 40, 30)
        for task, values in gained.items()
        for seed, value in enumerate(values)
        for target in ("all digits", "each digit", "positions", "velocities")
        for features in ("state", "PCA")
    ]
    return pd.DataFrame(rows, columns=["task", "seed", "target", "features", "gained", "train", "test"])


def labels_table(trained: float, random: float) -> pd.DataFrame:
    values = {"trained": trained, "random": random, "probe": 0.4}
    rows = [(start, n, draw, v + 0.01 * draw) for start, v in values.items() for n in (10, 100) for draw in range(3)]
    table = pd.DataFrame(rows, columns=["start", "labels", "draw", "value"])
    return table.assign(chance=0.2, ceiling=0.8, test=30, task="both")


def test_the_conclusion_is_computed_from_the_tables() -> None:
    horizon = horizon_table(0.5, 0.6, 1.1)
    told = representation_findings(
        many(recon=(0.3, 0.4), pred=(0.2, 0.3), both=(0.5, 0.6)), horizon, labels_table(0.5, 0.3), by="task"
    )
    lines = told.splitlines()
    assert [line[:3] for line in lines] == ["1. ", "2. ", "3. ", "4. "]
    assert "positions 38 % (best without training: PCA, 10 %)" in lines[0]
    assert "Beyond the spread of 2 seeds, the composite model knows more of all digits and of" in lines[1]
    assert "both 55 % (50 % to 60 %)" in lines[1]
    assert "both is better than the mean frame up to step 2" in lines[2]
    assert (
        "both: with 10, 100 labels every draw from the trained encoder beats every draw from random weights" in lines[3]
    )
    other = representation_findings(
        many(recon=(0.3, 0.55), pred=(0.2, 0.3), both=(0.5, 0.6)), horizon, labels_table(0.3, 0.3), by="task"
    )
    assert "knows no more of anything than the better of the two" in other
    assert "at no number of labels" in other
    worse = representation_findings(many(both=(0.5, 0.6)), horizon, labels_table(0.3, 0.5), by="task")
    assert "; with 10, 100 every draw from random weights beats every one from it (" in worse
    alone = representation_findings(many(both=(0.5,)), horizon.iloc[:0], labels_table(0.5, 0.3))
    assert "It takes runs of recon, pred and both to show it" in alone
    assert "This run predicts nothing" in alone
    single = representation_findings(
        many(recon=(0.3,), pred=(0.2,), both=(0.5,)), horizon, labels_table(1, 0), by="task"
    )
    assert "One seed of each task cannot show it" in single
    two = many(recon=(0.3, 0.4), pred=(0.2, 0.3), both=(0.5, 0.6))
    fewer = two[(two.task != "recon") | (two.seed == 0)]
    assert "One seed of each task cannot show it" in representation_findings(
        fewer, horizon, labels_table(1, 0), by="task"
    )
    mixed = representation_findings(pd.concat([two, two]), horizon, labels_table(1, 0), by="task")
    assert "Beyond the spread of runs that differ in more than the seed, the composite model" in mixed


def test_figures_have_units_on_their_axes(run, monkeypatch) -> None:
    monkeypatch.setattr("seqae.representations.labelled.UPDATES", 1)
    tables = {f: run.measured(f) for f in (linear_probes, longer_horizon, digit_counts, few_labels)}
    tasks = {f: pd.concat([table.assign(task=t) for t in ("recon", "both")]) for f, table in tables.items()}
    drawn = [
        figures.probe_bars(tables[linear_probes]),
        figures.probe_bars(tasks[linear_probes], hue="task"),
        figures.error_beyond(tables[longer_horizon]),
        figures.error_beyond(tasks[longer_horizon], hue="task"),
        figures.errors_by_digits(tables[digit_counts]),
        figures.errors_by_digits(tasks[digit_counts], hue="task"),
        figures.label_curves(tables[few_labels]),
        figures.label_curves(tasks[few_labels], panels="task"),
        figures.state_map(run.encode(run.sequences("val")[:, :5])["flat"], run.drawn("val", frame=5)),
    ]
    for figure in drawn:
        assert all(axis.get_xlabel() or axis.get_ylabel() for axis in figure.axes)
        figures.show(figure, "a figure")
    assert [axis.get_xlabel() for axis in drawn[0].axes][2:] == ["error, pixels", "error, pixels/frame"]


TABLES = {  # of each figure, the columns that it needs
    "probe_bars": {"target": "x", "features": "state", "measure": "m", "value": 0.5, "chance": 0.1, "ceiling": 1.0},
    "error_beyond": {"source": "model", "frame": 1, "trained": 10, "value": 0.1},
    "errors_by_digits": {"branch": "pred", "source": "model", "digits": 2, "trained": 2, "value": 0.1},
    "label_curves": {"start": "probe", "labels": 10, "value": 0.5, "chance": 0.1, "ceiling": 1.0},
    "gate_bars": {"layer": 1, "gate": "input", "shut": 0.1, "between": 0.5, "open": 0.4},
}


@pytest.mark.parametrize(("name", "column"), [(name, column) for name, of in TABLES.items() for column in of])
def test_a_table_that_lacks_a_column_is_refused(name: str, column: str) -> None:
    with pytest.raises(ValueError, match=rf"^\w+ lacks {column}; the columns needed are .*\b{column}\b"):
        getattr(figures, name)(pd.DataFrame([TABLES[name]]).drop(columns=column))
