"""Diagnosis and verdicts: floors by hand and by brute force, baselines by a loop, verdicts on every kind of curve."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqae.commands.options import given_grid
from seqae.data import MovingMNIST
from seqae.reports.compare import output_spread
from seqae.reports.findings import run_findings
from seqae.reports.published import diary_results, published_results, standing
from seqae.runs import load_digits, planned_from, resolve
from seqae.runs.explanation import explain_head
from seqae.runs.levels import baselines, reachable_floor, reachable_pixels
from seqae.runs.run_command import run_command
from seqae.runs.verdicts import grades, next_step, plateau_since, prognosis, recorded_verdict, verdict
from seqae.training import plateau_begins

INFINITE = float("inf")
LOW = 1 / (1 + math.e)  # sigmoid(-1) = 0.2689, and sigmoid(1) is 1 less it


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


ACTIVATE = {"none": float, "tanh": math.tanh, "sigmoid": sigmoid}


# ---- floors ----


def test_floors_by_hand() -> None:
    three_black_one_white = np.array([0, 0, 0, 255], np.uint8)
    floor = reachable_floor(three_black_one_white, reach=1, activation="sigmoid", pixel_range=(0, 1))
    assert floor == pytest.approx({"mse": LOW**2, "bce": -math.log(1 - LOW)})  # both ends are as far out of reach

    tanh = reachable_floor(three_black_one_white, reach=1, activation="tanh", pixel_range=(-1, 1))
    assert tanh == pytest.approx({"mse": ((1 - math.tanh(1)) / 2) ** 2})  # bce is absent, not 0

    # 51 is 0.2, below sigmoid's reach, and 102 is 0.4, within it: that one costs its own entropy
    grey = reachable_floor(np.array([[51, 102]], np.uint8), reach=1, activation="sigmoid", pixel_range=(0, 1))
    entropy = -0.4 * math.log(0.4) - 0.6 * math.log(0.6)
    assert grey == pytest.approx({
        "mse": (LOW - 0.2) ** 2 / 2,
        "bce": (-0.2 * math.log(LOW) - 0.8 * math.log(1 - LOW) + entropy) / 2,
    })  # fmt: skip


def test_what_is_in_reach_costs_nothing() -> None:
    frames = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    for reach, activation, pixel_range in (
        (1, "none", (0, 1)), (1, "none", (-1, 1)), (1, "tanh", (-0.5, 0.5)), (INFINITE, "none", (-3, 9)),
        (INFINITE, "tanh", (-1, 1)),
    ):  # fmt: skip
        floor = reachable_floor(frames, reach=reach, activation=activation, pixel_range=pixel_range)
        assert floor == pytest.approx({"mse": 0}, abs=1e-15)
    # 10 times h is as good as any (see gain)
    assert reachable_floor(frames, reach=10, activation="sigmoid", pixel_range=(0, 1))["mse"] < 1e-8


def test_an_unbounded_sigmoid_costs_the_datas_own_entropy() -> None:
    black_and_white = np.array([0, 255, 255], np.uint8)
    floor = reachable_floor(black_and_white, reach=INFINITE, activation="sigmoid", pixel_range=(0, 1))
    assert floor == {"mse": 0, "bce": 0}


def test_a_sigmoid_on_another_range_is_no_probability() -> None:
    floor = reachable_floor(np.array([0], np.uint8), reach=1, activation="sigmoid", pixel_range=(0.2, 0.8))
    assert floor == pytest.approx({"mse": ((LOW - 0.2) / 0.6) ** 2})


pixels = st.lists(st.integers(0, 255), min_size=1, max_size=6)
heads = st.sampled_from([
    ("none", (0.0, 1.0)), ("none", (-1.0, 1.0)), ("tanh", (-1.0, 1.0)), ("tanh", (0.0, 1.0)), ("tanh", (-0.5, 0.5)),
    ("sigmoid", (0.0, 1.0)), ("sigmoid", (0.2, 0.8)),
])  # fmt: skip


@given(pixels, heads, st.floats(0.1, 12))
def test_no_constant_output_beats_the_floor_and_one_a_pixel_reaches_it(
    values: list[int], head: tuple[str, tuple[float, float]], reach: float
) -> None:
    activation, (low, high) = head
    floor = reachable_floor(np.array(values, np.uint8), reach=reach, activation=activation, pixel_range=(low, high))
    outputs = [ACTIVATE[activation](z) for z in np.linspace(-reach, reach, 1001)]
    unit = [(output - low) / (high - low) for output in outputs]

    def least(loss: str) -> float:
        def cost(output: float, pixel: float) -> float:
            if loss == "mse":
                return (output - pixel) ** 2
            return -pixel * math.log(output) - (1 - pixel) * math.log1p(-output)

        return sum(min(cost(output, value / 255) for output in unit) for value in values) / len(values)

    coarse = 2 * reach / 1000 / (high - low)  # the pixel scale's step between two outputs tried, at most
    assert floor["mse"] <= least("mse") + 1e-12
    assert floor["mse"] >= least("mse") - coarse**2
    if head == ("sigmoid", (0.0, 1.0)):
        assert floor["bce"] <= least("bce") + 1e-12
        assert floor["bce"] >= least("bce") - 0.01
    else:
        assert "bce" not in floor


def test_reachable_pixels_by_hand() -> None:
    assert reachable_pixels(reach=1, activation="sigmoid", pixel_range=(0, 1)) == pytest.approx((LOW, 1 - LOW))
    assert reachable_pixels(reach=2, activation="none", pixel_range=(-1, 1)) == (-0.5, 1.5)
    assert reachable_pixels(reach=INFINITE, activation="tanh", pixel_range=(-1, 1)) == (0, 1)


def test_the_explanation_says_the_numbers() -> None:
    frames = np.array([0, 0, 0, 255], np.uint8)
    text = explain_head(frames, reach=1, activation="sigmoid", pixel_range=(0, 1), mean_frame=0.0372)
    for words in ("0.2689 to 0.7311", "75.0 % of these pixels are black", "25.0 % of these pixels are white", "0.0723",
                  "0.0372", "no optimizer can change that"):  # fmt: skip
        assert words in text
    text = explain_head(frames, reach=0.5, activation="none", pixel_range=(0, 1), mean_frame=0.2)
    assert "black" not in text  # that is in reach
    assert "0.5000² = 0.2500" in text
    assert "room to learn" in text
    for reach in (1.0, INFINITE):
        text = explain_head(frames, reach=reach, activation="none", pixel_range=(0, 1), mean_frame=0.0372)
        assert "can reach every pixel value" in text
        assert "floor" not in text
        assert "inf" not in text


def test_the_explanation_adds_up() -> None:
    frames = np.repeat(np.array([0, 20, 255], np.uint8), [8996, 1000, 4])  # 0.04 % white: not worth a word
    text = explain_head(frames, reach=1, activation="sigmoid", pixel_range=(0, 1), mean_frame=0.02)
    black, grey = 0.8996 * LOW**2, 0.1 * (LOW - 20 / 255) ** 2
    assert f"which adds {black:.4f} to the MSE" in text
    assert "white" not in text
    assert f"Grey pixels out of reach add {grey + 0.0004 * LOW**2:.4f}" in text


def test_how_far_outputs_depend_on_what_was_seen() -> None:
    assert output_spread(np.full((5, 2, 3, 3), 69, np.uint8)) == 0
    assert output_spread(np.stack([np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 10, np.uint8)])) == 5


# ---- baselines ----


def plain_baselines(
    train: np.ndarray, targets: dict[str, np.ndarray], last: np.ndarray
) -> dict[tuple[str, ...], float]:
    n, t, h, w = train.shape
    sums: dict[tuple[str, ...], list[float]] = {}
    for y in range(h):
        for x in range(w):
            # half a white pixel more, so that what was always black is not impossible
            mean = (sum(int(v) for v in train[:, :, y, x].ravel()) / 255 + 0.5) / (n * t + 1)
            for branch, frames in targets.items():
                for i, s in np.ndindex(frames.shape[:2]):
                    true = int(frames[i, s, y, x]) / 255
                    found = {
                        ("black", "mse"): true**2,
                        ("black", "mae"): true,
                        ("mean_frame", "mse"): (mean - true) ** 2,
                        ("mean_frame", "mae"): abs(mean - true),
                        ("mean_frame", "bce"): -true * math.log(mean) - (1 - true) * math.log(1 - mean),
                    }
                    if branch == "pred":
                        found["copy_last", "mse"] = (int(last[i, y, x]) / 255 - true) ** 2
                        found["copy_last", "mae"] = abs(int(last[i, y, x]) / 255 - true)
                    for key, value in found.items():
                        sums.setdefault((branch, *key), []).append(value)
    return {key: sum(values) / len(values) for key, values in sums.items()}


def test_baselines_are_those_of_a_plain_loop() -> None:
    generator = np.random.default_rng(6)
    train = generator.integers(0, 256, (3, 5, 4, 4), np.uint8)
    train[:, :, 0] = 0  # always black in train, and not so in the targets
    train[:, :, 1] = 255
    frames = generator.integers(0, 256, (2, 7, 4, 4), np.uint8)
    targets, last = {"recon": frames[:, 2::-1], "pred": frames[:, 3:]}, frames[:, 2]
    table = baselines(train, targets, last)
    assert [*table.columns] == ["branch", "baseline", "metric", "value"]
    found = table.set_index(["branch", "baseline", "metric"])["value"].to_dict()
    assert found == pytest.approx(plain_baselines(train, targets, last))


def test_a_still_video_is_copied_without_error() -> None:
    frames = np.full((2, 3, 4, 4), 200, np.uint8)
    table = baselines(frames, {"pred": frames}, frames[:, -1]).set_index(["baseline", "metric"])["value"]
    assert table["copy_last", "mse"] == 0
    assert table["black", "mse"] == pytest.approx((200 / 255) ** 2)


def test_levels_on_moving_mnist_are_those_once_measured() -> None:
    """On 64×64 frames by the paper's rules; 400 sequences a split here, so within 4 %."""
    digits, n, seen = load_digits(), range(400), 10
    train = MovingMNIST(digits["train"], seed=1, split="train").sequences(n)
    frames = MovingMNIST(digits["val"], seed=1, split="val").sequences(n)
    target = frames[:, seen:]
    table = baselines(train, {"pred": target}, frames[:, seen - 1]).set_index(["baseline", "metric"])["value"]
    of_sigmoid = reachable_floor(target, reach=1, activation="sigmoid", pixel_range=(0, 1))
    found = {
        "mean frame": table["mean_frame", "mse"],
        "mean frame, nats": table["mean_frame", "bce"] * 4096,
        "black": table["black", "mse"],
        "copy last": table["copy_last", "mse"],
        "sigmoid(h)": of_sigmoid["mse"],
        "sigmoid(h), nats": of_sigmoid["bce"] * 4096,
        "tanh(h)": reachable_floor(target, reach=1, activation="tanh", pixel_range=(-1, 1))["mse"],
        "entropy": reachable_floor(target, reach=INFINITE, activation="sigmoid", pixel_range=(0, 1))["bce"] * 4096,
    }
    assert found == pytest.approx({
        "mean frame": 0.0372, "mean frame, nats": 670, "black": 0.0424, "copy last": 0.0697,
        "sigmoid(h)": 0.0698, "sigmoid(h), nats": 1320, "tanh(h)": 0.0136, "entropy": 86.2,
    }, rel=0.04)  # fmt: skip


# ---- plateau since ----


@pytest.mark.parametrize(
    ("values", "since"),
    [
        ([8, 4, 2, 1, 0.5, 0.25], None),  # still halving
        ([8, 4, 1, 1, 1, 1], 3),
        ([8, 4, 1.009, 1, 1, 1], 3),  # 0.9 % in total after it
        ([8, 4, 1.011, 1, 1, 1], None),  # 1.1 %; then epoch 4 is only two before the last
        ([8, 4, 1, 2, 3, 4], 3),  # the best counts, not the last
        ([1, 1, 1], None),  # no plateau of three epochs after the first
        ([1, 1, 1, 1], 1),
        ([2, 1, *[1] * 10, 0.9, 0.9, 0.9], None),  # three of 15 is less than a quarter
        ([2, *[1] * 20], 2),
    ],
)
def test_plateau_since_by_hand(values: Sequence[float], since: int | None) -> None:
    assert plateau_since(values) == since


@pytest.mark.parametrize(
    ("values", "epoch"),
    [
        ([8], 1),
        ([8, 4, 2], 3),
        ([8, 4, 4, 4], 2),
        ([8, 4, 3.97, 3.961], 2),  # 0.99 % in total after it
        ([8, 4, 3.97, 3.95], 3),  # 1.3 % after the second, 0.5 % after the third
        ([8, 4, 5, 6], 2),  # the best counts, not the last
        ([8, 8, 8], 1),
        ([8, 4, math.nan, 4], 2),  # no number is no gain
        ([-1, -2, -2.01], 2),  # as for any objective, 0.5 % of its size
        ([0, 0], 1),
    ],
)
def test_where_a_plateau_begins_by_hand(values: Sequence[float], epoch: int) -> None:
    assert plateau_begins(values) == epoch


# ---- the verdict ----


def val(objective: Sequence[float], **mse: Sequence[float]) -> pd.DataFrame:
    rows = [(e, "all", "objective", v) for e, v in enumerate(objective, 1)]
    rows += [(e, branch, "mse", v) for branch, values in mse.items() for e, v in enumerate(values, 1)]
    return pd.DataFrame(rows, columns=["epoch", "branch", "metric", "value"])


def of_recon(mse: Sequence[float], floor: float = 0.0, diverged_at: int | None = None) -> str:
    return verdict(val(mse, recon=mse), mean_frame={"recon": 0.04}, floor={"recon": floor}, diverged_at=diverged_at)


def test_learned() -> None:
    assert of_recon([0.04, 0.03, 0.0236]) == "learned (41 % below mean frame)"


def test_learned_figures_are_those_of_the_best_objective() -> None:
    curve = val([5, 3, 4], recon=[0.04, 0.03, 0.01])  # the lowest mse is not that of the model kept
    assert (
        verdict(curve, mean_frame={"recon": 0.04}, floor={"recon": 0}, diverged_at=None)
        == "learned (25 % below mean frame)"
    )


def test_learned_both() -> None:
    curve = val([3, 2], recon=[0.04, 0.02], pred=[0.05, 0.045])
    line = verdict(curve, mean_frame={"recon": 0.04, "pred": 0.05}, floor={"recon": 0, "pred": 0}, diverged_at=None)
    assert line == "learned recon, little of pred (recon 50 %, pred 10 % below mean frame)"
    assert not grades(line).endswith("counts.")
    curve = val([3, 2], recon=[0.04, 0.04], pred=[0.05, 0.03])
    line = verdict(curve, mean_frame={"recon": 0.04, "pred": 0.05}, floor={"recon": 0, "pred": 0}, diverged_at=None)
    assert line == "learned pred, not recon (recon 0 %, pred 40 % below mean frame)"
    curve = val([3, 2], recon=[0.04, 0.032], pred=[0.05, 0.03])
    line = verdict(curve, mean_frame={"recon": 0.04, "pred": 0.05}, floor={"recon": 0, "pred": 0}, diverged_at=None)
    assert line == "learned (recon 20 %, pred 40 % below mean frame)"


@pytest.mark.parametrize(
    ("mse", "told"),
    [
        (0.0320, "learned (20 % below mean frame)"),
        (0.0321, "learned (20 % below mean frame)"),  # the word fits the number that is shown
        (0.0323, "learned little (19 % below mean frame)"),
        (0.0344, "learned little (14 % below mean frame)"),
        (0.0387, "learned little (3 % below mean frame)"),
        (0.0389, "stuck at the mean frame"),
    ],
)
def test_how_much_was_learned_has_words(mse: float, told: str) -> None:
    assert of_recon([0.05, mse]) == told


def test_the_better_branch_decides_how_much_was_learned() -> None:
    given = {"mean_frame": {"recon": 0.04, "pred": 0.05}, "floor": {"recon": 0, "pred": 0}}
    line = verdict(val([3, 2], recon=[0.04, 0.036], pred=[0.05, 0.0495]), **given)
    assert line == "learned little (recon 10 %, pred 1 % below mean frame)"
    line = verdict(val([3, 2], recon=[0.04, 0.036], pred=[0.05, 0.065]), **given)
    assert line == "learned little (recon 10 % below, pred 30 % above mean frame)"
    assert "better one" in grades(line)


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        (None, None),
        ("learned (14 % below mean frame)", "learned little (14 % below mean frame)"),
        ("learned (20 % below mean frame), plateau since epoch 9",) * 2,
        ("learned (recon 19 %, pred 4 % below mean frame)", "learned little (recon 19 %, pred 4 % below mean frame)"),
        (
            "learned (pred 9 % below, recon 40 % above mean frame)",
            "learned little (pred 9 % below, recon 40 % above mean frame)",
        ),
        (
            "learned (recon 30 % below, pred 6 % above mean frame), plateau since epoch 9",
            "learned recon, not pred (recon 30 % below, pred 6 % above mean frame), plateau since epoch 9",
        ),
        (
            "learned (recon 40 %, pred 19 % below mean frame)",
            "learned recon, little of pred (recon 40 %, pred 19 % below mean frame)",
        ),
        ("learned (recon 40 %, pred 20 % below mean frame)",) * 2,
        ("learned recon, not pred (recon 30 % below, pred 6 % above mean frame)",) * 2,
        ("learned little (14 % below mean frame)",) * 2,
        ("stuck at the mean frame, stopped at epoch 20",) * 2,
        ("3.1 times as fast as the LSTMCell loop",) * 2,
        ("learned (by hand)",) * 2,
    ],
)
def test_verdicts_of_earlier_versions_are_shown_in_todays_words(recorded: str | None, told: str | None) -> None:
    assert recorded_verdict({"verdict": recorded}) == told


def test_the_words_are_explained_where_they_are_used() -> None:
    told = "Percentages are of the squared error. From 3 % below the mean frame, a run has *learned little*; "
    told += "from 20 %, it has *learned*."
    assert grades(of_recon([0.05, 0.03])) == grades(of_recon([0.05, 0.04])) == told
    assert grades("diverged at epoch 3") == grades(of_recon([0.04], floor=0.05)) == ""


def after(line: str, *, reach: float = float("inf"), **given: Any) -> str:
    return next_step(line, resolve({"learning_rate": 0.009, "epochs": 7} | given), family="mine", reach=reach)


def test_what_cannot_learn_is_told_which_losses_can() -> None:
    told = after("cannot learn: floor 0.065 > mean frame 0.021", reach=1, loss="0sb", val_sequences=8)
    assert "reaches every pixel value (1nm, 0nm), `seqae run FILE -p loss=0nm`" in told
    assert "`seqae run FILE -p gain=10`" in told
    assert "`architecture=srivastava`" in told
    own = {"pixel_range": [0, 1], "activation": "none", "training_loss": "my_losses:focal"}
    told = after("cannot learn: floor 0.05 > mean frame 0.04", reach=0.01, **own)
    assert "loss=" not in told, "it would replace a loss of one's own"
    assert "gain=" not in told, "ten times as much is not enough"
    assert "srivastava" in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("stuck at the mean frame", "Train for longer: `seqae run FILE -p epochs=28`."),
        ("learned little (14 % below mean frame)", "Train for longer: `seqae run FILE -p epochs=28`."),
        ("worse than the mean frame (9 % above)", "`seqae run FILE -p learning_rate=0.003,0.027`"),
        ("stuck at the mean frame, plateau since epoch 3", "will hardly help (plateau since epoch 3). Try other"),
        ("stuck at the mean frame, stopped at epoch 3", "will hardly help (stopped at epoch 3). Try other"),
        ("learned (41 % below mean frame), plateau since epoch 3", "`seqae compare mine`"),
        ("learned (41 % below mean frame)", "`seqae run FILE -p seed=7,8`"),
        (
            "learned (41 % below mean frame)",
            "before a plateau, so more epochs should help: `seqae run FILE -p ",
        ),
        ("learned recon, little of pred (recon 41 %, pred 9 % below mean frame)", "`seqae run FILE -p seed=7,8`"),
        ("diverged at epoch 3", "`seqae run FILE -p learning_rate=0.0009`"),
    ],
)
def test_each_verdict_says_what_to_do_next(line: str, told: str) -> None:
    assert told in after(line)
    rough = after(line, val_sequences=16)
    assert ("`seqae run FILE --scale quick`" in rough) == (not line.startswith("diverged"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("learned (41 % below mean frame)", "`seqae run params/mine/a.yaml --scale quick -p lr=0.5 -p seed=7,8`."),
        ("stuck at the mean frame", "`seqae run params/mine/a.yaml --scale quick -p lr=0.5 -p seed=1 -p epochs=28`."),
    ],
)
def test_what_to_do_next_names_the_file_that_the_run_was_planned_from(line: str, told: str) -> None:
    planned = planned_from("params/mine/a.yaml", "quick", {"lr": 0.5, "seed": 1, "store": "s3://key:secret@there"})
    assert "secret" not in str(planned_from("a.yaml", None, {"clips": ["s3://key:secret@there/*.npy"]}))
    said = next_step(line, resolve({"learning_rate": 0.009, "epochs": 7}), family="mine", reach=1, planned=planned)
    assert told in said
    assert "FILE" not in said


def test_a_command_is_quoted_for_a_shell() -> None:
    asked = {"label": "a b", "optimizer_arguments": {"betas": [0.9, 0.99]}, "peepholes": None, "gain": 2}
    command = run_command(planned_from("params/mine/my run.yaml", None, asked))
    assert shlex.split(command)[:3] == ["seqae", "run", "params/mine/my run.yaml"]
    pairs = [word for word in shlex.split(command)[3:] if word != "-p"]
    assert given_grid(pairs) == [asked]


def test_other_lines_say_nothing_of_what_is_next() -> None:
    assert "more epochs" not in after("learned (41 % below mean frame), plateau since epoch 3")
    assert after("3.1 times as fast as the LSTMCell loop") == after("") == ""
    assert "learning_rate=" not in after("stuck at the mean frame", learning_rate=None)


def test_stuck() -> None:
    assert of_recon([0.05, 0.041, 0.0395]) == "stuck at the mean frame"
    assert of_recon([0.05, 0.041]) == "stuck at the mean frame"


def test_worse() -> None:
    assert of_recon([0.09, 0.06]) == "worse than the mean frame (50 % above)"
    curve = val([3, 2], recon=[0.05, 0.04], pred=[0.08, 0.06])
    line = verdict(curve, mean_frame={"recon": 0.04, "pred": 0.05}, floor={"recon": 0, "pred": 0})
    assert line == "worse than the mean frame (recon 0 %, pred 20 % above)"  # both: a reader may want either
    line = verdict(curve, mean_frame={"recon": 0.041, "pred": 0.05}, floor={"recon": 0, "pred": 0})
    assert line == "worse than the mean frame (recon 2 % below, pred 20 % above)"


def test_cannot_learn_whatever_the_curve() -> None:
    assert of_recon([0.08, 0.075], floor=0.072) == "cannot learn: floor 0.0720 > mean frame 0.0400"
    assert prognosis({"recon": 0.072}, {"recon": 0.037}) == "cannot learn: floor 0.0720 > mean frame 0.0370"
    assert prognosis({"recon": 0.0}, {"recon": 0.037}) == "can learn: floor 0.0000 < mean frame 0.0370"


@pytest.mark.parametrize(
    ("floor", "mean", "told"),
    [
        # each branch beside its own mean frame: the largest floor lies above the smallest mean frame
        ((0.030, 0.038), (0.036, 0.042), "can learn: floor 0.0300 < mean frame 0.0360"),
        ((0.038, 0.030), (0.039, 0.036), "can learn: floor 0.0300 < mean frame 0.0360"),
        ((0.070, 0.072), (0.030, 0.040), "cannot learn: floor 0.0720 > mean frame 0.0400"),
        (
            (0.038, 0.038),
            (0.037, 0.040),
            "can learn pred: floor 0.0380 < mean frame 0.0400; cannot learn recon: floor 0.0380 > mean frame 0.0370",
        ),
    ],
)
def test_a_floor_is_compared_with_the_mean_frame_of_its_own_branch(floor, mean, told) -> None:
    by_branch = [dict(zip(("recon", "pred"), values, strict=True)) for values in (floor, mean)]
    assert prognosis(*by_branch) == told
    curve = val([3, 2], recon=[0.05, 0.035], pred=[0.08, 0.035])
    line = verdict(curve, floor=by_branch[0], mean_frame=by_branch[1])
    assert line == told if told.startswith("cannot") else line.startswith("learned"), line


def test_diverged_before_anything_else() -> None:
    assert of_recon([0.03, float("nan")], floor=0.072, diverged_at=2) == "diverged at epoch 2"
    assert of_recon([float("nan")], diverged_at=1) == "diverged at epoch 1"


def test_a_plateau() -> None:
    assert of_recon([0.04, 0.02, 0.02, 0.02, 0.02]) == "learned (50 % below mean frame), plateau since epoch 2"
    assert of_recon([0.04] * 8) == "stuck at the mean frame, plateau since epoch 1"


def test_stopped() -> None:
    curve = val([0.04, 0.02, 0.02, 0.02], recon=[0.04, 0.02, 0.02, 0.02])
    line = verdict(curve, mean_frame={"recon": 0.04}, floor={"recon": 0}, stopped=True)
    assert line == "learned (50 % below mean frame), stopped at epoch 4"
    long = [0.04] * 8
    line = verdict(val(long, recon=long), mean_frame={"recon": 0.04}, floor={"recon": 0}, stopped=True)
    assert line == "stuck at the mean frame, plateau since epoch 1, stopped at epoch 8"
    line = verdict(val([0.06] * 3, recon=[0.06] * 3), mean_frame={"recon": 0.04}, floor={"recon": 0}, stopped=True)
    assert line == "worse than the mean frame (50 % above), stopped at epoch 3"
    line = verdict(curve, mean_frame={"recon": 0.04}, floor={"recon": 0.072}, stopped=True)
    assert line == "cannot learn: floor 0.0720 > mean frame 0.0400, stopped at epoch 4"
    assert (
        verdict(curve, mean_frame={"recon": 0.04}, floor={"recon": 0}, diverged_at=4, stopped=True)
        == "diverged at epoch 4"
    )


# ---- the diary ----


def test_the_diary_is_whole() -> None:
    table = diary_results()
    assert {*table.columns} == {"task", "decoder_input", "branch", "loss", "mse"}
    assert len(table) == 40  # 5 losses in 6 ways, two of which have two branches
    assert not table.isna().any().any()
    keys = table[["task", "decoder_input", "branch", "loss"]].apply(tuple, axis=1)
    assert keys.is_unique
    assert {*table.loss} == {"1tm", "1nm", "0sb", "0sm", "0nm"}
    assert (table.groupby(["task", "decoder_input", "branch"]).size() == 5).all()


def test_the_diarys_numbers_are_its_own() -> None:
    mse = diary_results().set_index(["task", "decoder_input", "branch", "loss"])["mse"]
    # from the diary; those on (-1, 1) were logged 4 times as large
    assert mse["recon", "zero", "recon", "1tm"] == pytest.approx(0.182 / 4)
    assert mse["recon", "output", "recon", "0nm"] == 0.0349
    assert mse["pred", "zero", "pred", "0sb"] == 0.0936
    assert mse["pred", "output", "pred", "1nm"] == pytest.approx(0.172 / 4)
    assert mse["both", "zero", "pred", "0nm"] == 0.0396
    assert mse["both", "output", "recon", "0nm"] == mse.min() == 0.0322
    assert mse.sum() == pytest.approx(2.473)  # the sum over the reference file
    # as in the diary: the sigmoid losses sit at 0.092, 0nm at 0.032 to 0.040
    by_loss = mse.groupby("loss")
    assert by_loss.mean()[["0sb", "0sm"]].round(3).tolist() == pytest.approx([0.092, 0.092])
    assert (by_loss.min()["0nm"], by_loss.max()["0nm"]) == (0.0322, 0.0396)


def test_the_conclusion_sets_each_branch_beside_the_mean_frame() -> None:
    test = pd.DataFrame(
        [
            ("recon", None, "mse", 0.01),
            ("recon", 1, "mse", 0.5),
            ("recon", None, "bce", 0.08),
            ("pred", None, "mse", 0.03),
        ],
        columns=["branch", "frame", "metric", "value"],
    )
    levels = pd.DataFrame(
        [
            ("test", "recon", "mean_frame", "mse", 0.02),
            ("val", "recon", "mean_frame", "mse", 0.9),
            ("test", "recon", "mean_frame", "bce", 0.16),
            ("test", "pred", "mean_frame", "mse", 0.021),
            ("test", "pred", "black", "mse", 0.8),
        ],
        columns=["split", "branch", "baseline", "metric", "value"],
    )
    assert run_findings("learned (50 % below mean frame)", test, levels, "Compare it.").splitlines() == [
        "**Learned (50 % below mean frame)**, on val. Percentages are of the squared error. From 3 % below the mean "
        "frame, a run has *learned little*; from 20 %, it has *learned*.",
        "",
        "- recon: MSE 0.0100 per pixel on test, mean frame 0.0200",
        "- recon: BCE 0.0800 nats/pixel on test, mean frame 0.1600",
        "- pred: MSE 0.0300 per pixel on test, mean frame 0.0210",
        "",
        "**Next:** Compare it.",
    ]
    assert "Next" not in run_findings("learned (50 % below mean frame)", test, levels)


def test_the_published_figures_name_their_source() -> None:
    table = published_results()
    assert table.set_index("model").nats_per_frame["Composite + Conditional"] == 341.2
    assert table.source.notna().all()
    assert table[["mse_per_frame", "nats_per_frame"]].notna().any(axis=1).all()
    assert table.nats_per_frame.dropna().between(86.3, 670).all(), "between the data's own entropy and the mean frame"
    assert table.mse_per_frame.dropna().between(0, 0.0372 * 4096).all(), "below the mean frame"


def test_what_is_quoted_from_memory_says_so_wherever_it_is_shown() -> None:
    doubtful = {350.2, 344.9, 343.5, 115.5, 129.4}
    table = published_results()
    marked = table[table.source.str.contains("from memory")]
    assert {*marked.nats_per_frame.fillna(marked.mse_per_frame)} == doubtful
    shown = standing(pd.DataFrame([("pred", None, "mse", 0.02)], columns=["branch", "frame", "metric", "value"]),
                     pd.DataFrame(columns=["split", "branch", "baseline", "metric", "value"]))  # fmt: skip
    assert shown[shown.nats_per_frame.isin(doubtful)].source.str.contains("from memory").all()
    root = Path(__file__).parents[1]
    for page in [root / "README.md", *root.glob("docs/*.md"), *root.glob("notebooks/**/*.ipynb")]:
        for line in page.read_text(encoding="utf-8").splitlines():
            assert "from memory" in line or not any(str(value) in line for value in doubtful), (page.name, line)


def test_a_run_stands_between_baselines_and_published_figures() -> None:
    """0.02 per pixel are 81.92 a frame, 0.1 nats per pixel are 409.6; the least error comes first."""
    found = [(np.nan, "mse", 0.02), (np.nan, "bce", 0.1), (1.0, "mse", 0.01), (np.nan, "ssim", 0.7)]
    test = pd.DataFrame(found, columns=["frame", "metric", "value"]).assign(branch="pred", sequences=10_000)
    rows = [("test", "pred", "mean_frame", "mse", 0.0372), ("val", "pred", "mean_frame", "mse", 9.0)]
    rows += [("test", "pred", "floor", "mse", 0.0), ("test", "pred", "copy_last", "bce", 0.3)]
    levels = pd.DataFrame(rows, columns=["split", "branch", "baseline", "metric", "value"])
    table = standing(test, levels, "mine").set_index("model")
    assert set(table.branch) == {"pred"}, "a published reconstruction says nothing of a prediction"
    own = ["mse", "mse_per_frame", "nats_per_frame", "ssim"]
    assert table.loc["mine", own].tolist() == pytest.approx([0.02, 81.92, 409.6, 0.7])
    assert table.mse["mean frame"] == 0.0372
    assert table.nats_per_frame["copy last"] == pytest.approx(1228.8)
    assert table.mse["FC-LSTM"] == pytest.approx(118.3 / 4096)
    assert "floor" not in table.index
    known = table.mse.dropna()
    assert known.is_monotonic_increasing
    assert known.index.get_loc("mine") < known.index.get_loc("FC-LSTM") < known.index.get_loc("mean frame")
    assert table.source["mine"] == "test, 10,000 sequences"
    assert table.nats_per_frame["the recipe, scale cpu"] < table.nats_per_frame["Composite + Conditional"]
    assert table[table.mse.isna()].nats_per_frame.is_monotonic_increasing, "the best first there, too"


@pytest.mark.parametrize(
    ("error", "mean", "told"),
    [
        (0.0, 0.0, "stuck at the mean frame"),
        (0.1, 0.0, "worse than the mean frame"),
        (INFINITE, 0.1, "worse than the mean frame"),
        (0.2, 0.1, "worse than the mean frame (100 % above)"),
    ],
)
def test_frames_that_are_all_alike_have_a_verdict_too(error, mean, told) -> None:
    """Of clips that are black, the mean frame is right. No share is of nothing."""
    rows = [(1, "all", "objective", 0.5), (1, "pred", "mse", error)]
    val = pd.DataFrame(rows, columns=["epoch", "branch", "metric", "value"])
    given = {"pred": np.float64(mean)}
    assert verdict(val, mean_frame=given, floor={"pred": 0.0}) == told
