"""seqae.training: the loop, its exactness, what it records and what it does when something goes wrong."""

import math
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.utils.data import DataLoader, Subset, TensorDataset

from seqae import training as module
from seqae.checkpoint import Checkpointing
from seqae.data import MovingMNIST, to_range
from seqae.device import make_accelerator, mixed_precision
from seqae.evaluation import Evaluation, evaluate, predict, seen_frames
from seqae.losses import activate, binary_cross_entropy, squared_error
from seqae.metrics import HISTOGRAM_EDGES, UNITS
from seqae.models import SequenceAutoencoder
from seqae.objective import Objective
from seqae.runs.old_checkpoints import upgrade_checkpoint
from seqae.runs.optimizers import optimizer_factory, schedule_factory
from seqae.tasks import branch_targets
from seqae.training import Fitted, Row, fit
from seqae.updates import UpdateRule

SEEN, FUTURE = 3, 2
BOTH = ("recon", "pred")
DIGITS = np.random.Philox(key=0).random_raw(7 * 98).view(np.uint8).reshape(7, 28, 28)
LOSSES = {"mse": ("none", (0.0, 1.0)), "bce": ("sigmoid", (0.0, 1.0))}


def sequences(split: str, first: int, last: int) -> Tensor:
    stream = MovingMNIST(DIGITS, seed=6, split=split, frame_size=16, frames=SEEN + FUTURE)
    return torch.from_numpy(stream.sequences(range(first, last)))


TRAIN, VAL = sequences("train", 0, 10), sequences("val", 0, 6)


def trains(
    loss: Any = "mse",
    pixel_range: tuple[float, float] = (0.0, 1.0),
    recon_weight: float = 1.0,
    reduction: str = "mean",
    *,
    task: str = "both",
    activation: str | None = None,
) -> Objective:
    activation = activation or ("sigmoid" if loss == "bce" else "none")
    return Objective(task, SEEN, loss, activation, pixel_range, recon_weight, reduction)


OBJECTIVE = trains()
RULE = ("optimizer", "schedule", "schedule_per", "clip_norm", "clip_update", "precision", "length")


def absolute(z: Tensor, target: Tensor, *, activation: str) -> Tensor:
    return (z - target).abs().flatten(1).mean(1)


def same(epoch: int) -> Tensor:
    return TRAIN


def endless(epoch: int) -> Tensor:
    return sequences("train", 10 * (epoch - 1), 10 * epoch)


def model_of(task: str = "both", activation: str = "none", seed: int = 6, **given: Any) -> SequenceAutoencoder:
    torch.manual_seed(seed)
    usual: dict[str, Any] = {"architecture": "srivastava", "decoder_input": "output", "hidden": 8, "frame_size": 16}
    return SequenceAutoencoder(task=task, activation=activation, frames_in=SEEN, frames_out=FUTURE, **usual | given)


@dataclass
class Log:
    rows: list[Row] = field(default_factory=list)  # of `metrics`
    shares: list[Row] = field(default_factory=list)  # of `histograms`
    calls: int = 0  # epochs told

    def __call__(self, table: str, rows: list[Row]) -> None:
        if table == "histograms":
            self.shares += rows
            return
        assert table == "metrics"
        self.calls += 1
        self.rows += rows

    def curve(self, split: str, metric: str, branch: str = "all") -> list[float]:
        wanted = (split, metric, branch)
        return [r["value"] for r in self.rows if (r["split"], r["metric"], r["branch"]) == wanted]

    def numbers(self, since: int = 1) -> list[tuple[str, ...]]:
        """Everything but the seconds, from an epoch on, as text: a NaN is equal to another."""
        return [tuple(repr(v) for k, v in r.items() if k != "seconds") for r in self.rows if r["epoch"] >= since]


@dataclass
class Outcome:
    model: SequenceAutoencoder
    log: Log
    fitted: Fitted


def fitted(model: SequenceAutoencoder | None = None, *, loss: str = "mse", **given: Any) -> Outcome:
    activation, pixel_range = LOSSES[loss]
    model = model or model_of(activation=activation)
    log = Log()
    usual: dict[str, Any] = {
        "train": same, "val": VAL, "epochs": 4, "batch_size": 4, "device": "cpu", "seed": 6, "record": log,
        "objective": trains(loss, pixel_range),
        "optimizer": optimizer_factory("Adam", learning_rate=0.01), "schedule": schedule_factory("none", steps=4),
    }  # fmt: skip
    told = usual | given
    told["rule"] = UpdateRule(**{name: told.pop(name) for name in RULE if name in told})
    told["objective"] = replace(told["objective"], task=model.task, activation=model.activation)
    if "checkpoint" in told:
        how = {"seconds": told.pop("checkpoint_seconds", 0.0), "resume": told.pop("resume", lambda epochs: None)}
        told["checkpoint"] = Checkpointing(told["checkpoint"], **how)
    return Outcome(model, log, fit(model, **told))


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# ---- the same again ----


def test_the_same_seed_gives_the_same_numbers_bit_by_bit() -> None:
    one, two, other = fitted(), fitted(), fitted(seed=7)
    assert one.log.numbers() == two.log.numbers()
    assert equal(one.fitted.weights, two.fitted.weights)
    assert one.log.numbers() != other.log.numbers()  # the seed is that of the order


def batches(**given: Any) -> list[Tensor]:
    """Which sequences each training batch held, from what the model read."""
    model, seen = model_of(), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
    fitted(model, **given)
    known, seen = to_range(TRAIN, (0, 1))[:, :SEEN], seen[1:]  # without the two of `check_contract`
    return [torch.tensor([next(i for i, k in enumerate(known) if torch.equal(k, s)) for s in batch]) for batch in seen]


def test_every_epoch_sees_every_sequence_once_in_an_order_of_its_own() -> None:
    found = batches()
    assert [len(batch) for batch in found] == [4, 4, 2] * 4
    epochs = [torch.cat(found[i : i + 3]).tolist() for i in range(0, 12, 3)]
    assert all(sorted(order) == [*range(10)] for order in epochs)
    assert len({tuple(order) for order in epochs}) == 4
    others = batches(seed=7)
    assert torch.cat(others[:3]).tolist() not in epochs


def test_an_update_predicts_as_many_frames_as_its_length_says() -> None:
    model, frames = model_of(), []

    def seen(module: Any, inputs: Any, outputs: Any) -> None:
        frames.append((module.training, len(outputs["pred"][0]), len(outputs["recon"][0])))

    model.register_forward_hook(seen)
    fitted(model, length=lambda made: SEEN + 1 if made < 4 else None, epochs=2)
    trained = [(future, past) for training, future, past in frames if training][1:]  # without that of `check_contract`
    assert trained == [(1, SEEN)] * 4 + [(FUTURE, SEEN)] * 2
    assert {(future, past) for training, future, past in frames if not training} == {(FUTURE, SEEN)}


def test_updates_of_a_length_are_those_of_sequences_cut_to_it() -> None:
    long = fitted(length=lambda made: SEEN + 1)
    torch.manual_seed(6)
    usual: dict[str, Any] = {"architecture": "srivastava", "decoder_input": "output", "hidden": 8, "frame_size": 16}
    short = SequenceAutoencoder(task="both", activation="none", frames_in=SEEN, frames_out=1, **usual)
    cut = fitted(short, train=lambda epoch: TRAIN[:, : SEEN + 1], val=VAL[:, : SEEN + 1])
    assert equal(long.model.state_dict(), cut.model.state_dict())
    assert long.log.curve("train", "mse", "pred") == cut.log.curve("train", "mse", "pred")


def test_a_model_of_ones_own_that_predicts_all_frames_at_once_is_told() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, frames: Tensor, truth: Any = None) -> dict[str, Tensor]:
            return {"pred": self.weight * frames[:, -1:].expand(-1, FUTURE, -1, -1)}

    rule = UpdateRule(RATE, length=lambda made: SEEN + 1)
    with pytest.raises(ValueError, match=r"Last in training, branch pred, returned \(2, 2, 16, 16\); it must be"):
        fit(Last(), TRAIN, VAL, objective=trains(task="pred"), rule=rule, epochs=1, batch_size=4, record=Log())


@dataclass
class Stop(Exception):  # noqa: N818
    """What kills a run, at the worst of times: an epoch is recorded and its checkpoint is not written."""


OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], Optimizer]] = {
    "sgd": optimizer_factory("SGD", learning_rate=0.1, momentum=0.9),
    "rmsprop": optimizer_factory("RMSprop", learning_rate=0.001, momentum=0.9, weight_decay=1e-4),
    "adam": optimizer_factory("Adam", learning_rate=0.01),
    "muon": optimizer_factory("Muon", learning_rate=0.01),
    "lbfgs": optimizer_factory("LBFGS", learning_rate=0.1, arguments={"max_iter": 4}),
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "none": {},
    "StepLR": {"every": 2},
    "ReduceLROnPlateau": {"arguments": {"patience": 0, "threshold": 0.5}},
    "MultiStepLR": {"arguments": {"milestones": [1, 3]}},
    "OneCycleLR": {"arguments": {"max_lr": 0.01}},
}


@pytest.mark.parametrize(
    ("optimizer", "schedule", "train", "after", "more"),
    [
        ("sgd", "StepLR", same, 3, {}),
        ("rmsprop", "ReduceLROnPlateau", same, 4, {}),
        ("adam", "OneCycleLR", endless, 2, {}),
        ("adam", "none", same, 5, {}),
        ("muon", "MultiStepLR", endless, 4, {}),
        ("sgd", "StepLR", same, 2, {"schedule_per": "update"}),
        ("adam", "OneCycleLR", endless, 3, {"schedule_per": "update"}),
        ("lbfgs", "none", same, 3, {}),
        ("sgd", "none", same, 3, {"clip_update": 1e-3, "objective": trains("mse", (0, 1), 2.0, "sum")}),
        ("adam", "none", same, 3, {"precision": "fp16", "objective": trains("mse", (0, 1), 1e3, "sum")}),
        ("adam", "StepLR", same, 3, {"precision": "bf16"}),
        ("adam", "none", same, 2, {"length": lambda made: SEEN + 1 + made // 5}),
    ],
)
def test_a_resumed_run_is_the_unbroken_run(
    tmp_path: Path, optimizer: str, schedule: str, train: Any, after: int, more: Any
) -> None:
    steps = 15 if "schedule_per" in more else 5  # ten sequences in batches of four
    given: dict[str, Any] = {
        "train": train, "epochs": 5, "clip_norm": 0.1, "optimizer": OPTIMIZERS[optimizer],
        "schedule": schedule_factory(schedule, steps=steps, **SCHEDULES[schedule]),
    } | more  # fmt: skip
    unbroken = fitted(**given)
    rates = unbroken.log.curve("train", "learning_rate")
    assert (len(set(rates)) > 1) == (schedule != "none")  # the schedule is at work
    assert (sum(unbroken.log.curve("train", "overflows")) > 0) == (more.get("precision") == "fp16")  # so is the scaler

    file, first, second = tmp_path / "deep" / "state.pt", Log(), Log()

    def record(table: str, rows: list[Row]) -> None:
        first(table, rows)
        if first.calls == after:
            raise Stop

    resumed_at: list[int] = []
    with pytest.raises(Stop):
        fitted(
            model_of(), checkpoint=file, checkpoint_seconds=0, record=record, resume=resumed_at.append, **given
        )  # fmt: skip
    assert resumed_at == [0]  # what one killed before its first checkpoint has recorded is to be dropped
    state = torch.load(file, weights_only=True)  # runs no code
    assert len(state["progress"]["objectives"]) == after - 1  # the objective on val, an epoch each
    assert [f.name for f in file.parent.iterdir()] == [file.name]

    resumed = fitted(
        model_of(seed=99), checkpoint=file, checkpoint_seconds=0, record=second, resume=resumed_at.append, **given
    )  # other initial weights: they must not matter
    assert resumed_at == [0, after - 1]
    assert first.numbers()[: len(first.rows) * (after - 1) // after] + second.numbers() == unbroken.log.numbers()
    assert [row for row in first.shares if row["epoch"] < after] + second.shares == unbroken.log.shares
    assert equal(resumed.fitted.weights, unbroken.fitted.weights)
    assert equal(resumed.model.state_dict(), unbroken.model.state_dict())
    seconds = [row["seconds"] for row in first.rows[: -len(first.rows) // after] + second.rows]
    assert seconds == sorted(seconds)  # the clock goes on where it stood


@pytest.mark.parametrize(
    ("optimizer", "schedule", "train", "more"),
    [
        ("sgd", "StepLR", same, {"schedule_per": "update", "clip_update": 1e-3}),
        ("rmsprop", "ReduceLROnPlateau", endless, {}),
        ("lbfgs", "none", same, {}),
        ("adam", "none", same, {"precision": "fp16", "objective": trains("mse", (0, 1), 1e3, "sum")}),
    ],
)
# The check before training makes three calls in evaluation mode.
@pytest.mark.parametrize(("number", "training", "call"), [(signal.SIGTERM, True, 5), (signal.SIGINT, False, 4)])
def test_asked_to_stop_it_goes_on_with_the_next_update(
    tmp_path: Path, optimizer: str, schedule: str, train: Any, more: Any, number: int, training: bool, call: int
) -> None:
    given: dict[str, Any] = {
        "train": train, "epochs": 3, "clip_norm": 0.1, "optimizer": OPTIMIZERS[optimizer],
        "schedule": schedule_factory(schedule, steps=9, **SCHEDULES[schedule]),
    } | more  # fmt: skip
    unbroken, file, model, first, calls = fitted(**given), tmp_path / "state.pt", model_of(), Log(), [0]

    def ask(module: nn.Module, *rest: Any) -> None:
        calls[0] += module.training == training
        if calls[0] == call and module.training == training:
            os.kill(os.getpid(), number)

    model.register_forward_pre_hook(ask)
    handlers = [*map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))]
    with pytest.raises(KeyboardInterrupt):
        fitted(model, checkpoint=file, checkpoint_seconds=3600, record=first, **given)
    assert [*map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))] == handlers
    progress = torch.load(file, weights_only=True)["progress"]
    step, objectives = progress["step"], progress["objectives"]
    assert 3 * len(objectives) < step <= 3 * len(objectives) + 3  # three updates an epoch: it stands in one

    second = fitted(model_of(seed=99), checkpoint=file, **given)
    assert first.numbers() + second.log.numbers() == unbroken.log.numbers()
    assert first.shares + second.log.shares == unbroken.log.shares
    assert equal(second.fitted.weights, unbroken.fitted.weights)
    assert equal(second.model.state_dict(), unbroken.model.state_dict())


ANEW = "name another file, or delete this one, and training starts anew"


def test_resuming_a_finished_run_trains_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "state.pt"
    done = fitted(checkpoint=file)
    with caplog.at_level("WARNING", logger="seqae"):
        again = fitted(model_of(seed=99), checkpoint=file)
    nothing = "none is left to train; raise epochs, or name another file"
    assert caplog.messages == [f"{file} has 4 epochs, and epochs is 4: {nothing}"]
    assert again.log.rows == []
    assert not again.model.training, "as after training"
    assert equal(again.fitted.weights, done.fitted.weights)
    assert again.fitted == Fitted(again.fitted.weights, 4, None)
    assert repr(again.fitted) == "Fitted(epochs=4, diverged_at=None)", "weights would fill the screen"


DENSE = sorted(  # every optimizer of this torch that takes dense gradients
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and name not in ("Optimizer", "SparseAdam")
)


@pytest.mark.parametrize("name", DENSE)
def test_every_optimizer_trains_a_step_with_its_defaults_and_resumes_exactly(name: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"optimizer": optimizer_factory(name), "batch_size": 10}  # an update an epoch
    one, two = fitted(epochs=1, checkpoint=tmp_path / "state.pt", **given), fitted(epochs=2, **given)
    assert one.log.curve("train", "objective") == two.log.curve("train", "objective")[:1]
    assert all(not torch.equal(w, old) for w, old in zip(one.model.parameters(), model_of().parameters(), strict=True))
    assert evaluate(one.model, TRAIN, 10, OBJECTIVE).objective < one.log.curve("train", "objective")[0]
    resumed = fitted(model_of(seed=99), epochs=2, checkpoint=tmp_path / "state.pt", **given)
    assert resumed.log.numbers() == two.log.numbers(since=2)
    assert equal(resumed.model.state_dict(), two.model.state_dict())


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    fitted(epochs=1, checkpoint=file)
    state = torch.load(file, weights_only=True)
    torch.save(state | {"progress": (1, 3, 0.5, 0.1, 1, None)}, file)
    with pytest.raises(ValueError, match=r"state\.pt is of an older version: delete it, and the run starts anew"):
        upgrade_checkpoint(file)


FAST, PLAIN = ({"optimizer": optimizer_factory(name, learning_rate=1.0)} for name in ("Adam", "SGD"))
OTHER: list[tuple[dict[str, Any], str]] = [
    (FAST, "lr 0.01, not 1.0"),
    (PLAIN, "optimizer Adam, not SGD; lr 0.01, not 1.0"),
    ({"schedule": schedule_factory("StepLR", steps=4)}, "schedule None, not StepLR"),
    ({"objective": trains("mse", (-1.0, 1.0))}, "pixel_range [0.0, 1.0], not [-1.0, 1.0]"),
    ({"objective": trains(absolute)}, "loss mse, not absolute"),
    ({"seed": 7}, "seed 6, not 7"),
    ({"clip_norm": 1.0}, "clip_norm None, not 1.0"),
    ({"batch_size": 2}, "updates an epoch 3, not 5; batch_size 4, not 2"),
    ({"train": lambda epoch: TRAIN[:6]}, "updates an epoch 3, not 2; sequences of train 10, not 6"),
    ({"model": model_of(gain=10.0)}, "gain of the model 1.0, not 10.0"),
    ({"model": model_of(decoder_input="zero")}, "decoder_input of the model output, not zero"),
    ({"val": VAL.flip(2).roll(1) // 2}, rf"sum of val's pixels {VAL.sum()}, not {(VAL // 2).sum()}"),
]


@pytest.mark.parametrize(("given", "differs"), OTHER, ids=[differs for _, differs in OTHER])
def test_a_checkpoint_of_another_training_is_refused_with_what_differs(
    given: dict[str, Any], differs: str, tmp_path: Path
) -> None:
    file = tmp_path / "state.pt"
    fitted(epochs=1, checkpoint=file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=re.escape(f"{file} was trained with {differs}: {ANEW}")):
        fitted(epochs=2, checkpoint=file, **given)
    assert file.read_bytes() == before


def warm(then: Any = lr_scheduler.ExponentialLR, value: float = 0.5, milestone: int = 2) -> Any:
    def schedule(optimizer: Any) -> Any:
        parts = [lr_scheduler.LinearLR(optimizer, 0.1), then(optimizer, value)]
        return lr_scheduler.SequentialLR(optimizer, parts, [milestone])

    return schedule


@pytest.mark.parametrize(
    ("schedule", "differs"),
    [
        (warm(value=0.9), "gamma of part 2 of the schedule 0.5, not 0.9"),
        (warm(milestone=3), "milestones of the schedule [2], not [3]"),
        (
            warm(then=lr_scheduler.CosineAnnealingLR, value=5),
            "part 2 of the schedule ExponentialLR, not CosineAnnealingLR",
        ),
    ],
)
def test_a_schedule_of_several_is_compared_part_by_part(schedule: Any, differs: str, tmp_path: Path) -> None:
    file, plain = tmp_path / "state.pt", fitted(epochs=2, schedule=warm())
    fitted(epochs=1, checkpoint=file, schedule=warm())
    with pytest.raises(ValueError, match=re.escape(f"{file} was trained with {differs}")):
        fitted(epochs=2, checkpoint=file, schedule=schedule)
    resumed = fitted(model_of(seed=99), epochs=2, checkpoint=file, schedule=warm())
    assert resumed.log.numbers() == plain.log.numbers(since=2)


def test_lbfgs_is_refused_in_fp16_and_not_in_the_first_update() -> None:
    with pytest.raises(ValueError, match="LBFGS cannot be scaled for precision fp16: use bf16, or none"):
        fitted(optimizer=optimizer_factory("LBFGS", learning_rate=0.1), precision="fp16")


class Keeps(nn.Module):
    """It keeps a tensor as long as batches have one size, and has extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.ones = nn.Parameter(torch.ones(())), torch.ones(0, 0)

    def forward(self, frames: Tensor, truth: Any = None) -> dict[str, Tensor]:
        if len(self.ones) != len(frames):
            self.ones = torch.ones_like(frames)
        return {"recon": self.weight * self.ones * frames}

    def get_extra_state(self) -> dict[str, str]:
        return {"made": "here"}

    def set_extra_state(self, state: dict[str, str]) -> None:
        self.state = state


def test_a_model_may_keep_tensors_between_val_and_training_and_have_extra_state() -> None:
    made = fit(
        Keeps(), TRAIN[:7], TRAIN[:4], objective=trains(task="recon"), epochs=2, batch_size=4, record=Log(),
        rule=UpdateRule(lambda weights: torch.optim.SGD(weights, lr=0.1)), device="cpu",
    )  # fmt: skip
    assert made.epochs == 2
    assert made.weights["_extra_state"] == {"made": "here"}  # type: ignore[comparison-overlap]


def test_a_refused_checkpoint_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    fitted(epochs=1, checkpoint=file)
    content = torch.load(file, weights_only=True)
    del content["progress"]["settings"]  # what an old one lacks is found out by torch, after it copied what fits
    torch.save(content, file)
    halves = lambda weights: torch.optim.Adam([{"params": [*weights][:4]}, {"params": [*weights][4:]}], lr=0.01)  # noqa: E731
    for model, given in ((model_of(hidden=9, seed=99), {}), (model_of(seed=99), {"optimizer": halves})):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ValueError, match="is of another run"):
            fitted(model, epochs=2, checkpoint=file, **given)
        assert equal(before, model.state_dict())


def test_a_file_of_weights_is_no_checkpoint_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    torch.save(model_of().state_dict(), file)
    before = file.read_bytes()
    told = re.escape(f"{file} is no whole checkpoint of fit (KeyError('progress')): {ANEW}")
    with pytest.raises(ValueError, match=f"^{told}$"):
        fitted(checkpoint=file)
    assert file.read_bytes() == before


def test_what_has_no_effect_on_the_numbers_may_change_under_a_checkpoint(tmp_path: Path) -> None:
    file, plain = tmp_path / "state.pt", fitted(epochs=2)
    fitted(epochs=1, checkpoint=file)
    slow = optimizer_factory("Adam", learning_rate=np.float64(0.01), arguments={"betas": [0.9, 0.999], "foreach": True})
    objective = replace(OBJECTIVE, metrics={"dark": lambda output, target: 1 - output.mean((2, 3))}, recon_weight=1)
    other = fitted(model_of(seed=99), epochs=2, checkpoint=file, optimizer=slow, objective=objective, patience=9)
    assert np.allclose(other.log.curve("val", "objective"), plain.log.curve("val", "objective")[1:])


def test_a_checkpoint_of_before_it_held_settings_is_gone_on_from(tmp_path: Path) -> None:
    file, plain = tmp_path / "state.pt", fitted(epochs=2)
    fitted(epochs=1, checkpoint=file)
    content = torch.load(file, weights_only=True)
    del content["progress"]["settings"]
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"state.pt is of another run \(optimizer: 'no dampening, momentum"):
        fitted(epochs=2, checkpoint=file, **PLAIN)
    assert fitted(model_of(seed=99), checkpoint=file, epochs=2).log.numbers() == plain.log.numbers(since=2)


def test_train_may_be_a_tensor_and_has_equally_many_sequences_in_every_epoch() -> None:
    assert fitted(train=TRAIN).log.curve("val", "objective") == fitted().log.curve("val", "objective")
    assert TRAIN.shape == (10, 5, 16, 16)
    for second, told in (
        (TRAIN[:4], r"train\(2\) has sequences \(4, 5, 16, 16\), not \(10, 5, 16, 16\) as the epoch before"),
        (TRAIN[..., :8], r"train\(2\) has sequences \(10, 5, 16, 8\), not \(10, 5, 16, 16\) as the epoch before"),
        (TRAIN / 255, r"train\(2\) must be a torch.uint8 tensor \(N, .*\), 0–255, N >= 1; not .* of torch.float32: "),
        (None, r"train\(2\) must be a torch.uint8 tensor \(N, .*\), 0–255, N >= 1; not a NoneType"),
    ):
        with pytest.raises(ValueError, match=told):
            fitted(train=lambda epoch, second=second: TRAIN if epoch == 1 else second)


def test_a_function_is_asked_once_for_an_epoch_and_for_the_first_one_where_training_resumes(tmp_path: Path) -> None:
    asked: list[int] = []
    given: dict[str, Any] = {"train": lambda epoch: (asked.append(epoch), endless(epoch))[1]}
    fitted(epochs=2, checkpoint=tmp_path / "state.pt", **given)
    assert asked == [1, 2]
    asked.clear()
    fitted(epochs=3, checkpoint=tmp_path / "state.pt", **given)
    assert asked == [1, 3]


def test_what_else_one_would_pass_is_taken(tmp_path: Path) -> None:
    plain = fitted().log.curve("val", "objective")
    given: Any = {"device": torch.device("cpu"), "checkpoint": str(tmp_path / "state.pt")}
    assert fitted(**given).log.curve("val", "objective") == plain
    assert (tmp_path / "state.pt").exists()
    arrays = predict(model_of(), VAL[:, :SEEN].numpy(), activation="none", pixel_range=(0, 1))
    assert equal(arrays, predict(model_of(), VAL[:, :SEEN], activation="none", pixel_range=(0, 1)))


SHAPE = r"must be a torch.uint8 tensor \(N, frames_in \+ frames_out, H, W\), 0–255, N >= 1; not "
LIKE = r"val must be a torch.uint8 tensor \(N, 5, 16, 16\), 0–255, N >= 1; not "
WHOLE = "must be a whole number, 1 or more; not"
RATE = optimizer_factory("Adam", learning_rate=0.01)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"train": TRAIN.numpy()}, rf"train {SHAPE}\(10, 5, 16, 16\) of uint8: torch.from_numpy makes one"),
        ({"train": lambda epoch: TRAIN.numpy()}, rf"train {SHAPE}\(10, 5, 16, 16\) of uint8: torch.from_numpy"),
        (
            {"train": TRAIN.numpy() / 255},
            rf"train {SHAPE}\(10, 5, 16, 16\) of float64: torch.from_numpy.*then scale",
        ),
        ({"train": [*TRAIN]}, f"train {SHAPE}a list: torch.cat or torch.stack of them makes one$"),
        ({"train": lambda epoch: iter([TRAIN])}, f"train {SHAPE}a list_iterator: torch.cat or"),
        ({"train": DataLoader(TensorDataset(TRAIN))}, f"train {SHAPE}a DataLoader: torch.cat or"),
        ({"train": Subset(TRAIN, [0, 1, 2, 3])}, r"train, a Subset, cannot be indexed by a tensor \(.*torch.stack\("),  # type: ignore[arg-type]
        ({"train": TensorDataset(TRAIN)}, "a batch of train, a TensorDataset, must be a torch.uint8 tensor .* a tuple"),
        ({"record": None}, r"fit takes a function record\(table, rows\), not NoneType None"),
        (
            {"rule": UpdateRule(RATE, lambda optimizer: [])},
            "schedule must return a scheduler of torch, or None; not a list",
        ),  # type: ignore[arg-type, return-value]
        ({"val": None}, rf"{LIKE}a NoneType$"),
        ({"objective": None}, r"fit takes a seqae.Objective\(task, …\), not NoneType"),
        ({"rule": None}, r"fit takes a seqae.UpdateRule\(optimizer, …\), not NoneType"),
        ({"train": TRAIN[:, 0]}, rf"train {SHAPE}\(10, 16, 16\) of torch.uint8$"),
        ({"train": TRAIN[:, :, None]}, rf"train {SHAPE}\(10, 5, 1, 16, 16\) of torch.uint8$"),
        ({"train": TRAIN[:0]}, rf"train {SHAPE}\(0, 5, 16, 16\) of torch.uint8$"),
        ({"val": VAL / 255}, rf"{LIKE}\(6, 5, 16, 16\) of torch.float32: scale .*uint8\), others"),
        ({"val": VAL.numpy()}, rf"{LIKE}\(6, 5, 16, 16\) of uint8: torch.from_numpy makes one$"),
        ({"val": VAL[:, :-1]}, rf"{LIKE}\(6, 4, 16, 16\) of torch.uint8$"),
        ({"val": VAL[:0]}, rf"{LIKE}\(0, 5, 16, 16\) of torch.uint8$"),
        *(({name: 0}, f"{name} {WHOLE} 0") for name in ("batch_size", "epochs", "patience")),
        ({"epochs": -1}, f"epochs {WHOLE} -1"),
        ({"epochs": 1.5}, f"epochs {WHOLE} 1.5"),
        *(({"seed": seed}, f"seed must be a whole number; not {seed!r}") for seed in (1.5, "6", None)),
        (
            {"model": model_of(activation="sigmoid"), "objective": OBJECTIVE},
            "activation, as the model's, must be one of sigmoid; not 'none'",
        ),
    ],
)
def test_what_fit_is_given_is_looked_at_before_anything_is_trained(given: dict[str, Any], told: str) -> None:
    log = Log()
    usual: dict[str, Any] = {
        "model": model_of(), "train": TRAIN, "val": VAL, "objective": OBJECTIVE, "rule": UpdateRule(RATE), "epochs": 1,
        "batch_size": 4, "record": log, "device": "cpu",
    }  # fmt: skip
    with pytest.raises(ValueError, match=told) as error:
        fit(**usual | given)
    assert "\n" not in str(error.value)
    assert not log.rows


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"batch_size": 0}, f"batch_size {WHOLE} 0"),
        ({"frames": VAL / 255}, rf"frames {SHAPE}\(6, 5, 16, 16\) of torch.float32: scale"),
        (
            {"frames": VAL[:, :SEEN]},
            rf"task both after {SEEN} frames needs sequences of {SEEN + 1} or more; not of {SEEN}",
        ),
        (  # one frame would be compared with all
            {"frames": VAL[:, : SEEN + 1]},
            r"the output is \(4, 2, 16, 16\), the true frames are \(4, 1, 16, 16\)",
        ),
    ],
)
def test_what_evaluate_is_given_is_looked_at_first(given: dict[str, Any], told: str) -> None:
    usual: dict[str, Any] = {"frames": VAL, "batch_size": 4, "objective": OBJECTIVE}
    with pytest.raises(ValueError, match=told):
        evaluate(model_of(), **usual | given)


def test_what_is_given_in_the_place_of_another_thing_is_told_so(tmp_path: Path) -> None:
    model, made = model_of(), RATE([torch.zeros(2, requires_grad=True)])
    usual: dict[str, Any] = {"objective": OBJECTIVE, "rule": UpdateRule(RATE), "epochs": 1, "batch_size": 4}
    for given, told in (
        ({"rule": made}, r"fit takes a seqae.UpdateRule\(optimizer, …\), not Adam "),
        ({"checkpoint": tmp_path}, r"fit takes a seqae.Checkpointing\(file, …\), not PosixPath"),
        ({"objective": "mse"}, r"fit takes a seqae.Objective\(task, …\), not str 'mse': see help\(seqae.fit\)"),
        (
            {"rule": UpdateRule(lambda weights: made)},
            "optimizer Adam has none of the model's weights: make it of those",
        ),
        ({"rule": UpdateRule(lambda weights: None)}, "optimizer NoneType has none"),  # type: ignore[arg-type, return-value]
        ({"model": nn.Linear}, r"fit takes a model that has been made, model = Mine\(…\), not type <class 'torch"),
    ):
        with pytest.raises(ValueError, match=told):
            fit(**{"model": model, "train": TRAIN, "val": VAL, "record": Log()} | usual | given)
    for refused, told in (
        (lambda: UpdateRule(made), "optimizer must be a function that makes it, lambda weights: …; not Adam"),  # type: ignore[arg-type]
        (lambda: UpdateRule(RATE, length=4), "length must be a function that makes it, lambda made: …; not int"),  # type: ignore[arg-type]
        (lambda: UpdateRule(RATE, clip_norm=-1), "clip_norm must be a number above 0; not -1"),
        (lambda: UpdateRule(RATE, clip_update=0), "clip_update must be a number above 0; not 0"),
        (lambda: replace(OBJECTIVE, frames_in=0), "frames_in must be a whole number, 1 or more; not 0"),
        (lambda: replace(OBJECTIVE, frames_in=3.0), "frames_in must be a whole number, 1 or more; not 3.0"),  # type: ignore[arg-type]
        (lambda: replace(OBJECTIVE, metrics=["ssim"]), r"metrics must be functions by name, .*; not \['ssim'\]: mse"),  # type: ignore[arg-type]
        (lambda: seen_frames(VAL.float(), (0, 1)), "floating point in .0, 1.; not torch.float32 beyond that"),
        (
            lambda: seen_frames(torch.tensor([float("nan")]), (0, 1)),
            "floating point in .0, 1.; not torch.float32 beyond",
        ),
        (lambda: seen_frames(VAL.long(), (0, 1)), "floating point in .0, 1.; not torch.int64: convert"),
    ):
        with pytest.raises(ValueError, match=told):
            refused()


def test_choices_that_are_none_of_those_known_are_refused() -> None:
    for refused, told in (
        (
            lambda: UpdateRule(torch.optim.SGD, schedule_per="step"),
            "schedule_per must be one of epoch, update; not",
        ),
        (lambda: Objective(["recon", "pred"], 6, "mse", "none"), r"both; not \['recon', 'pred'\]"),  # type: ignore[arg-type]
        (lambda: Objective("predict", 6, "mse", "none"), "task must be one of recon, recon_ordered, pred, both"),
        (lambda: Objective("pred", 6, "mse", "none", reduction="total"), "reduction must be one of mean, sum"),
        (lambda: Objective("pred", 6, "mze", "none"), "loss must be one of mse, bce; not 'mze'"),
        *(
            (lambda w=w: trains(recon_weight=w), f"recon_weight must be a number above 0; not {w}")
            for w in (-1, math.nan)
        ),
        (lambda: Objective("pred", 6, "mse", "sgmoid"), "activation must be one of none, tanh, sigmoid; not 'sgmoid'"),
        (lambda: Objective("pred", 6, "mse", "none", (1, 0)), r"pixel_range \(1, 0\) is empty: give"),
        (lambda: Objective("pred", 6, "mse", "sigmoid", (0, 255)), r"range \(0, 255\) lies outside what sigmoid can"),
        (lambda: Objective("pred", 6, "mse", "tanh", (-2.0, 1.0)), r"can output, \(-1, 1\): choose a range inside it"),
        (
            lambda: Objective("pred", 6, "bce", "sigmoid", (-1.0, 1.0)),
            r"sigmoid with pixels in \(-1, 1\) does not give",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            refused()


def test_settings_of_ones_own_model_are_compared_whatever_they_are_called(tmp_path: Path) -> None:
    def model(**settings: Any) -> SequenceAutoencoder:
        made = model_of()
        made.checkpoint_settings = settings
        return made

    usual = {"momentum": 0.1, "fused": 1, "task": "x", "seed": 3}
    fitted(model(**usual), epochs=1, checkpoint=tmp_path / "state.pt")
    for name in usual:
        with pytest.raises(ValueError, match=f"trained with {name} of the model {usual[name]}, not 9: name another"):
            fitted(model(**usual | {name: 9}), epochs=2, checkpoint=tmp_path / "state.pt")
    with pytest.raises(ValueError, match="was trained with reduction mean, not sum: name another"):
        fitted(model(**usual), epochs=2, checkpoint=tmp_path / "state.pt", objective=trains(reduction="sum"))


def test_any_whole_number_is_a_seed() -> None:
    assert fitted(seed=2**40 + 7).log.numbers() == fitted(seed=7).log.numbers()
    assert fitted(seed=np.int32(7)).log.numbers() == fitted(seed=7).log.numbers()


@pytest.mark.parametrize(
    ("train", "val", "dark"),
    [
        ((TRAIN > 99).to(torch.uint8), (VAL > 99).to(torch.uint8), "train and val: "),  # masks
        (TRAIN, (VAL / 256).to(torch.uint8), "val: "),  # floats in [0, 1) that were cut
        ((TRAIN / 255).to(torch.uint8), VAL, "train: "),
        (TRAIN, VAL, None),
    ],
)
def test_dark_pixels_are_warned_of(
    train: Tensor, val: Tensor, dark: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    fitted(train=train, val=val, epochs=1)
    back = "scale those in [0, 1] back, (255 * frames).round().to(torch.uint8), others to [0, 1] first"
    told = [f"{dark}no pixel above 1, of 0–255, is black, or nearly: {back}"] if dark else []
    assert [record.message for record in caplog.records] == told
    masks = (255 * (VAL > 99).to(torch.uint8)).round().to(torch.uint8)
    assert masks.max() == 255  # what the message says does it for masks as well


def test_checkpoints_keep_their_distance(tmp_path: Path) -> None:
    fitted(checkpoint=tmp_path / "state.pt", checkpoint_seconds=3600)
    assert not (tmp_path / "state.pt").exists()


# ---- the best weights ----


def test_best_weights_are_those_of_the_least_val_objective_not_the_last() -> None:
    worse_and_worse = optimizer_factory("SGD", learning_rate=0.05, arguments={"maximize": True})
    run = fitted(optimizer=worse_and_worse)
    curve = run.log.curve("val", "objective")
    assert curve == sorted(curve)
    assert not equal(run.fitted.weights, run.model.state_dict())
    best = model_of()
    best.load_state_dict(run.fitted.weights)
    again = evaluate(best, VAL, 4, trains("mse", (0, 1)))
    assert float(again.objective) == pytest.approx(min(curve), rel=1e-6)


def test_best_is_judged_on_the_trained_objective_of_the_whole_task() -> None:
    run = fitted(epochs=6, optimizer=optimizer_factory("SGD", learning_rate=50.0))  # it jumps about
    curve = run.log.curve("val", "objective")
    assert curve != sorted(curve)
    assert curve != sorted(curve, reverse=True)
    best = model_of()
    best.load_state_dict(run.fitted.weights)
    assert float(evaluate(best, VAL, 4, OBJECTIVE).objective) == pytest.approx(min(curve), rel=1e-6)


def told(monkeypatch: pytest.MonkeyPatch, *objectives: float) -> None:
    """Let val have these objectives, an epoch each."""
    values = iter(objectives)
    found = lambda *a, **k: Evaluation(torch.tensor(next(values), dtype=torch.float64))  # noqa: E731
    monkeypatch.setattr(module, "evaluate", found)


def test_of_equally_good_epochs_the_first_is_kept_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    second = fitted(epochs=2).model.state_dict()
    told(monkeypatch, 2.0, 1.0, 1.0, 1.5)
    run = fitted()
    assert equal(run.fitted.weights, second)


def test_training_lowers_the_objective() -> None:
    run = fitted(epochs=30, optimizer=optimizer_factory("Adam", learning_rate=0.02))
    for split in ("train", "val"):
        curve = run.log.curve(split, "objective")
        assert curve[-1] < 0.7 * curve[0]


# ---- divergence ----


def finite(weights: dict[str, Tensor]) -> bool:
    return all(bool(weight.isfinite().all()) for weight in weights.values())


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_best(poison: float, tmp_path: Path) -> None:
    model, log = model_of(), Log()

    def record(table: str, rows: list[Row]) -> None:
        log(table, rows)
        if log.calls == 2:
            with torch.no_grad():
                model.readouts["pred"].bias.fill_(poison)  # type: ignore[union-attr, operator]

    run = fitted(model, record=record, checkpoint=tmp_path / "state.pt")
    healthy = fitted(epochs=2)
    assert run.fitted.diverged_at == 3
    assert log.calls == 3  # what happened is recorded, and no epoch more
    assert finite(run.fitted.weights)
    assert equal(run.fitted.weights, healthy.fitted.weights)
    # killed after that, it is found diverged at the same epoch
    again = fitted(model_of(), checkpoint=tmp_path / "state.pt")
    assert (again.fitted.diverged_at, again.log.calls) == (3, 0)


def test_divergence_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wild: dict[str, Any] = {"optimizer": optimizer_factory("SGD", learning_rate=1e30), "checkpoint": tmp_path / "s.pt"}
    for _ in ("trained", "resumed"):
        with caplog.at_level("WARNING", logger="seqae"):
            assert fitted(**wild).fitted.diverged_at == 1
    assert caplog.messages == ["diverged at epoch 1: fit returns weights of before it"] * 2


def test_divergence_in_the_first_epoch_leaves_the_initial_weights() -> None:
    run = fitted(optimizer=optimizer_factory("SGD", learning_rate=1e38))
    assert run.fitted.diverged_at == 1
    assert equal(run.fitted.weights, model_of().state_dict())


def test_an_epoch_that_diverged_in_training_alone_is_not_the_best_either() -> None:
    """In fp16 a batch without a finite loss changes no weight, so val may be better than ever. One call is a check."""
    model, calls = model_of(), []

    def poison(module: nn.Module, inputs: Any, outputs: dict[str, Tensor]) -> dict[str, Tensor] | None:
        calls.extend([1] if module.training else [])
        return {b: z * math.inf for b, z in outputs.items()} if module.training and len(calls) == 5 else None

    model.register_forward_hook(poison)
    run = fitted(model, precision="fp16")
    assert run.fitted.diverged_at == run.fitted.epochs == 2
    first, second = run.log.curve("val", "objective")
    assert second < first
    assert equal(run.fitted.weights, fitted(epochs=1, precision="fp16").fitted.weights)


def test_without_divergence_there_is_none() -> None:
    assert fitted().fitted.diverged_at is None


# ---- what is recorded ----


def test_the_bar_can_be_hidden(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(epochs=1)
    assert "step" in capsys.readouterr().err
    monkeypatch.setattr(module, "tqdm", partial(module.tqdm, disable=True))  # as $TQDM_DISABLE does at the import
    fitted(epochs=1)
    assert capsys.readouterr().err == ""


def test_rows_are_tidy() -> None:
    run = fitted(epochs=2, loss="bce")
    assert run.log.calls == 2
    columns = ["epoch", "step", "seconds", "split", "branch", "metric", "value"]
    assert all([*row] == columns for row in run.log.rows)
    assert all(type(row["value"]) is float for row in run.log.rows)
    of_branches = {(b, m) for b in BOTH for m in ("mse", "bce")}
    expected = {
        "train": of_branches | {("all", m) for m in ("objective", "grad_norm", "learning_rate", "update_ratio")},
        "val": of_branches | {("all", "objective")} | {(b, f"preactivation_{e}") for b in BOTH for e in ("min", "max")},
    }
    for epoch in (1, 2):
        for split, keys in expected.items():
            rows = [r for r in run.log.rows if (r["epoch"], r["split"]) == (epoch, split)]
            assert sorted((r["branch"], r["metric"]) for r in rows) == sorted(keys)
            assert {r["step"] for r in rows} == {3 * epoch}  # ten sequences in batches of four
    assert {m for _, m in of_branches} <= {*UNITS}


@pytest.mark.parametrize("pixel_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_histograms_and_extremes_are_those_of_the_outputs_on_val(pixel_range: tuple[float, float]) -> None:
    model = model_of()
    with torch.no_grad():  # so that outputs lie anywhere, beyond the bins at either end too
        model.readouts["recon"].bias.add_(torch.linspace(-3, 3, 256))  # type: ignore[union-attr, operator]
    run = fitted(model, epochs=2, objective=trains("mse", pixel_range))
    edges = np.linspace(-0.25, 1.25, 61)
    centres = ((edges[1:] + edges[:-1]) / 2).round(4)
    assert [(r["epoch"], r["branch"], r["output"]) for r in run.log.shares] == [
        (epoch, branch, pytest.approx(centre)) for epoch in (1, 2) for branch in BOTH for centre in centres
    ]
    assert all([*row] == ["epoch", "branch", "output", "share"] for row in run.log.shares)
    low, high = pixel_range
    with torch.no_grad():
        outputs = model.eval()(to_range(VAL[:, :SEEN], pixel_range))
    for branch, z in outputs.items():
        for epoch in (1, 2):
            own = [r["share"] for r in run.log.shares if (r["epoch"], r["branch"]) == (epoch, branch)]
            assert sum(own) == pytest.approx(1)
        counts, _ = np.histogram(((z.double() - low) / (high - low)).clip(-0.2499, 1.2499), edges)
        assert own == pytest.approx(counts / z.numel(), abs=2 / z.numel())  # but for a pixel on an edge
        assert min(own[0], own[-1]) > 0.01 or branch == "pred"
        for metric, extreme in (("preactivation_min", z.amin((2, 3))), ("preactivation_max", z.amax((2, 3)))):
            assert run.log.curve("val", metric, branch)[-1] == pytest.approx(float(extreme.mean()), rel=1e-4)


def test_statistics_are_measured_only_where_asked_for() -> None:
    found = evaluate(model_of(), VAL, 4, OBJECTIVE)
    assert {branch: {*errors} for branch, errors in found.errors.items()} == {branch: {"mse"} for branch in BOTH}
    assert found.histograms == {}
    more = evaluate(model_of(), VAL, 4, OBJECTIVE, statistics=True)
    assert torch.equal(more.objective, found.objective)
    for branch, errors in more.errors.items():
        assert {*errors} == {"mse", "preactivation_min", "preactivation_max"}
        assert torch.equal(errors["mse"], found.errors[branch]["mse"])
        assert more.histograms[branch].shape == (len(HISTOGRAM_EDGES) - 1,)


@pytest.mark.parametrize(
    ("activation", "pixel_range", "has_bce"),
    [
        ("none", (0.0, 1.0), False),
        ("tanh", (-1.0, 1.0), False),
        ("sigmoid", (0.0, 1.0), True),
        ("sigmoid", (0.2, 0.8), False),  # its output is no probability on the [0, 1] scale
    ],
)
def test_bce_is_absent_where_it_does_not_exist(
    activation: str, pixel_range: tuple[float, float], has_bce: bool
) -> None:
    run = fitted(model_of(activation=activation), epochs=1, objective=trains("mse", pixel_range))
    assert ("bce" in {row["metric"] for row in run.log.rows}) == has_bce


@pytest.mark.parametrize(("task", "branch"), [("recon", "recon"), ("recon_ordered", "recon"), ("pred", "pred")])
def test_one_task_records_its_branch_alone(task: str, branch: str) -> None:
    run = fitted(model_of(task), epochs=1, objective=trains("mse", (0, 1), recon_weight=0.1))
    assert {row["branch"] for row in run.log.rows} == {"all", branch}
    assert run.log.curve("val", "objective") == pytest.approx(run.log.curve("val", "mse", branch))  # weight 1


def test_the_objective_is_weighted_and_in_the_training_range_but_mse_never_is() -> None:
    run = fitted(model_of(), objective=trains("mse", (-1.0, 1.0), recon_weight=0.8))
    for split in ("train", "val"):
        objective, recon, pred = (
            np.array(run.log.curve(split, *key))
            for key in (("objective",), ("mse", "recon"), ("mse", "pred"))
        )  # fmt: skip
        assert objective == pytest.approx(4 * (0.8 * recon + pred), rel=1e-5)


def test_the_recon_weight_reaches_the_gradients() -> None:
    def moved(weight: float) -> dict[str, float]:
        run = fitted(
            epochs=1, batch_size=10, objective=trains("mse", (0, 1), recon_weight=weight),
            optimizer=optimizer_factory("SGD", learning_rate=0.1),
        )  # fmt: skip
        before, after = model_of().state_dict(), run.model.state_dict()
        return {b: float((after[n] - before[n]).norm()) for b in ("recon", "pred") for n in [f"readouts.{b}.weight"]}

    one, three = moved(1), moved(3)
    assert three["recon"] == pytest.approx(3 * one["recon"], rel=1e-3)
    assert three["pred"] == pytest.approx(one["pred"], rel=1e-3)


def gradient_norm(batch: Tensor) -> float:
    model = model_of()
    frames = to_range(batch, (0, 1))
    targets = branch_targets(frames, task="both", frames_in=SEEN)
    outputs = model.train()(frames[:, :SEEN], targets)
    torch.stack([squared_error(z, targets[b], activation="none").mean() for b, z in outputs.items()]).sum().backward()
    return math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))


@pytest.mark.parametrize("clip_norm", [None, 1e-3, 1e3])
def test_clipping_shortens_the_step_and_the_norm_is_recorded_before_it(clip_norm: float | None) -> None:
    run = fitted(
        epochs=1, batch_size=10, clip_norm=clip_norm, optimizer=optimizer_factory("SGD", learning_rate=1.0)
    )  # one update, as long as the gradient
    before, after = model_of().state_dict(), run.model.state_dict()
    step = math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in before))
    norm = gradient_norm(TRAIN)
    assert 1e-2 < norm < 1e2
    assert run.log.curve("train", "grad_norm") == pytest.approx([norm], rel=1e-4)
    assert step == pytest.approx(min(norm, clip_norm or math.inf), rel=1e-3)


def test_weights_that_the_optimizer_leaves_out_do_not_count_in_the_norm() -> None:
    def last(weights: Iterable[Tensor]) -> Optimizer:
        return torch.optim.SGD([*weights][-2:], lr=0.1)

    frozen = model_of(task="pred")
    for weight in [*frozen.parameters()][:-2]:
        weight.requires_grad = False
    given: dict[str, Any] = {"clip_norm": 0.25, "optimizer": last, "epochs": 3}
    left, wanted = fitted(model_of(task="pred"), **given), fitted(frozen, **given)
    assert left.log.curve("train", "grad_norm") == wanted.log.curve("train", "grad_norm")
    assert equal(left.fitted.weights, wanted.fitted.weights)


def test_the_recorded_rate_is_the_one_the_epoch_was_trained_with() -> None:
    run = fitted(
        optimizer=optimizer_factory("SGD", learning_rate=0.1),
        schedule=schedule_factory("StepLR", steps=4, every=2, gamma=0.5),
    )
    assert run.log.curve("train", "learning_rate") == pytest.approx([0.1, 0.1, 0.05, 0.05])


def test_a_plateau_is_one_of_the_val_objective() -> None:
    run = fitted(
        epochs=8,
        optimizer=optimizer_factory("SGD", learning_rate=50.0),  # it jumps about
        schedule=schedule_factory("ReduceLROnPlateau", steps=8, arguments={"patience": 0, "threshold": 0.0}),
    )
    rate, least, expected = 50.0, math.inf, []
    for objective in run.log.curve("val", "objective"):
        expected.append(rate)
        rate, least = (rate, objective) if objective < least else (rate / 10, least)
    assert run.log.curve("train", "learning_rate") == pytest.approx(expected)
    assert 1 < len(set(expected)) < 8


def test_train_figures_are_means_over_sequences_though_batches_differ_in_size() -> None:
    frozen = optimizer_factory("SGD", learning_rate=1e-20)
    run = fitted(epochs=1, batch_size=4, optimizer=frozen)  # 4, 4 and 2 sequences
    whole = fitted(epochs=1, batch_size=10, optimizer=frozen)
    for key in (("objective", "all"), ("mse", "recon"), ("mse", "pred")):
        assert run.log.curve("train", *key) == pytest.approx(whole.log.curve("train", *key), rel=1e-5)


# ---- what an update is ----


@dataclass
class Seen:
    """What an optimizer is given at each of its updates."""

    weights: list[list[Tensor]] = field(default_factory=list)
    gradients: list[list[Tensor]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def watched(build: Callable[[Iterable[Tensor]], Optimizer]) -> tuple[Callable[[Iterable[Tensor]], Optimizer], Seen]:
    seen = Seen()

    def own(parameters: Iterable[Tensor]) -> Optimizer:
        weights = list(parameters)
        optim = build(weights)

        def note(*_: Any) -> None:
            seen.weights.append([w.detach().clone() for w in weights])
            seen.gradients.append([w.grad.clone() for w in weights])  # type: ignore[union-attr]
            seen.rates.append(optim.param_groups[0]["lr"])

        optim.register_step_pre_hook(note)
        return optim

    return own, seen


def still(parameters: Iterable[Tensor]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)  # leaves every weight as it is


def plain_objective(
    model: SequenceAutoencoder, batch: Tensor, *, task: str, loss: str, weight: float, reduction: str
) -> Tensor:
    """The objective in its plainest form: every pixel's error by its formula, added up or averaged."""
    frames = (batch / 255.0).to(next(model.parameters()).dtype)
    targets = {"recon": frames[:, :SEEN].flip(1), "pred": frames[:, SEEN:]}
    total = torch.zeros(())
    for branch, z in model.train()(frames[:, :SEEN]).items():
        true = targets[branch]
        error = (z - true) ** 2 if loss == "mse" else -(true * z.sigmoid().log() + (1 - true) * (-z).sigmoid().log())
        part = error.sum() if reduction == "sum" else error.mean()
        total = total + (weight * part if task == "both" and branch == "recon" else part)
    return total


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [1.0, 0.3])
@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_the_gradient_is_that_of_a_plain_mean_or_sum(loss: str, weight: float, reduction: str) -> None:
    """Of `both` with three frames seen and two to come: no factor turns the one into the other."""
    own, seen = watched(still)
    fitted(
        loss=loss, epochs=1, batch_size=10, optimizer=own,
        objective=trains(loss, (0.0, 1.0), weight, reduction),
    )  # fmt: skip
    plain = model_of(activation=LOSSES[loss][0]).double()
    plain_objective(plain, TRAIN, task="both", loss=loss, weight=weight, reduction=reduction).backward()
    for ours, weights in zip(seen.gradients[0], plain.parameters(), strict=True):
        assert weights.grad is not None
        assert torch.allclose(ours.double(), weights.grad, rtol=1e-4, atol=1e-5 * float(weights.grad.abs().max()))


@pytest.mark.parametrize(("task", "frames"), [("recon", SEEN), ("recon_ordered", SEEN), ("pred", FUTURE)])
def test_a_summed_gradient_is_the_mean_times_all_pixels_of_the_batch(task: str, frames: int) -> None:
    gradients, norms = [], []
    for reduction in ("mean", "sum"):
        own, seen = watched(still)
        run = fitted(
            model_of(task), epochs=1, batch_size=10, optimizer=own,
            objective=trains("mse", (0.0, 1.0), reduction=reduction),
        )  # fmt: skip
        gradients.append(torch.cat([g.flatten() for g in seen.gradients[0]]))
        norms += run.log.curve("train", "grad_norm")
    pixels = 10 * frames * 16 * 16
    assert torch.allclose(gradients[1], pixels * gradients[0], rtol=1e-4, atol=1e-5 * float(gradients[1].abs().max()))
    assert norms[1] == pytest.approx(pixels * norms[0], rel=1e-4)
    assert norms[1] == pytest.approx(float(gradients[1].norm()), rel=1e-4)


def test_a_smaller_batch_sums_less_and_averages_as_much() -> None:
    ten_times_the_same = TRAIN[:1].repeat(10, 1, 1, 1)
    for reduction, share in (("mean", 1.0), ("sum", 0.5)):
        own, seen = watched(still)
        objective = trains("mse", (0.0, 1.0), reduction=reduction)
        fitted(train=lambda epoch: ten_times_the_same, epochs=1, optimizer=own, objective=objective)
        first, _, last = seen.gradients  # of 4, 4 and 2 sequences
        for large, small in zip(first, last, strict=True):
            assert torch.allclose(small, share * large, rtol=1e-3, atol=1e-5 * float(large.abs().max()))


def test_what_is_reported_is_the_mean_whatever_is_differentiated() -> None:
    mean, total = (
        fitted(epochs=1, optimizer=still, objective=trains("mse", (0.0, 1.0), 0.3, reduction))
        for reduction in ("mean", "sum")
    )  # fmt: skip
    for key in (("objective", "all"), ("mse", "recon"), ("mse", "pred")):
        for split in ("train", "val"):
            assert mean.log.curve(split, *key) == total.log.curve(split, *key)


SGD = optimizer_factory("SGD", learning_rate=2.0, momentum=0.9)


def between(seen: Seen, model: SequenceAutoencoder) -> list[tuple[Tensor, Tensor, Tensor]]:
    """All weights before and after each update, and the gradient it was made of, as vectors."""
    states = [*seen.weights, [*model.parameters()]]
    weights = [torch.cat([w.detach().flatten() for w in state]) for state in states]
    gradients = [torch.cat([g.flatten() for g in update]) for update in seen.gradients]
    return [*zip(weights, weights[1:], gradients, strict=False)]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_clipped_update_is_sgds_with_every_weights_change_limited(momentum: float) -> None:
    """And what is limited goes on as the momentum, as in the paper's code, where momentum and update are one."""
    own, seen = watched(optimizer_factory("SGD", learning_rate=2.0, momentum=momentum))
    run = fitted(
        epochs=4, clip_update=1e-3, optimizer=own, schedule=schedule_factory("StepLR", steps=4, every=2, gamma=0.5)
    )
    velocity: Any = 0
    for (before, after, gradient), rate in zip(between(seen, run.model), seen.rates, strict=True):
        change = (-rate * (momentum * velocity + gradient)).clamp(-1e-3, 1e-3)
        velocity = -change / rate
        assert 0.01 < (change.abs() == 1e-3).float().mean() < 0.99  # some are and some are not
        assert torch.allclose(after, before + change, rtol=0, atol=1e-6)
    assert {*seen.rates} == {2.0, 1.0}


def test_a_clipped_update_at_a_rate_of_nothing_is_none() -> None:
    """A schedule may end there."""
    run = fitted(
        epochs=3, clip_update=1e-3, optimizer=SGD,
        schedule=schedule_factory("CosineAnnealingLR", steps=3, arguments={"T_max": 1}),
    )  # fmt: skip
    assert run.log.curve("train", "learning_rate")[1] == 0
    assert run.log.curve("train", "update_ratio")[1] == 0


@pytest.mark.parametrize("name", ["adam", "muon", "rmsprop", "lbfgs"])
def test_no_weight_moves_more_than_the_limit(name: str) -> None:
    for limit, bites in ((1e-4, True), (1e3, False)):
        own, seen = watched(OPTIMIZERS[name])
        run = fitted(epochs=2, clip_update=limit, optimizer=own)
        free = fitted(epochs=2, optimizer=OPTIMIZERS[name])
        moves = [float((after - before).abs().max()) for before, after, _ in between(seen, run.model)]
        assert max(moves) <= limit * 1.01  # a weight of 1 has no more digits
        assert equal(run.model.state_dict(), free.model.state_dict()) != bites


def test_the_update_ratio_by_hand() -> None:
    for clip_update in (None, 1e-3):
        own, seen = watched(SGD)
        run = fitted(epochs=2, clip_update=clip_update, optimizer=own)
        updates = between(seen, run.model)
        ratios = [float((after - before).norm() / before.norm()) for before, after, _ in updates]
        assert len(ratios) == 6
        assert run.log.curve("train", "update_ratio") == pytest.approx([ratios[2], ratios[5]], rel=1e-4)  # the last
    assert fitted(epochs=1, optimizer=still).log.curve("train", "update_ratio") == [0]


def test_a_plateau_that_is_stepped_by_update_looks_at_every_epoch() -> None:
    def rates(schedule_per: str) -> list[float]:
        plateau = schedule_factory("ReduceLROnPlateau", steps=4, arguments={"patience": 0, "threshold": 1e9})
        run = fitted(epochs=4, schedule=plateau, schedule_per=schedule_per)
        return run.log.curve("train", "learning_rate")

    assert rates("update") == rates("epoch")
    assert len(set(rates("epoch"))) > 1


# First steps that change the loss by more than float32 can miss: of other last bits a line search makes other steps.
@pytest.mark.parametrize(("search", "rate"), [(None, 0.1), ("strong_wolfe", 1.0)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_lbfgs_takes_the_steps_of_a_plain_loop(reduction: str, search: str | None, rate: float) -> None:
    arguments = {"max_iter": 2, "line_search_fn": search}
    run = fitted(
        epochs=2, batch_size=10, optimizer=optimizer_factory("LBFGS", learning_rate=rate, arguments=arguments),
        objective=trains("mse", (0.0, 1.0), 0.3, reduction),
    )  # fmt: skip
    plain = model_of()
    optim = torch.optim.LBFGS(plain.parameters(), lr=rate, **arguments)  # type: ignore[arg-type]

    def closure() -> Tensor:
        optim.zero_grad()
        value = plain_objective(plain, TRAIN, task="both", loss="mse", weight=0.3, reduction=reduction)
        value.backward()
        return value

    first = [w.clone() for w in plain.parameters()]
    for _ in range(2):
        optim.step(closure)
    for ours, theirs, old in zip(run.model.parameters(), plain.parameters(), first, strict=True):
        assert (ours - theirs).norm() < (0.1 if search else 1e-3) * (theirs - old).norm()


# ---- schedules by update, and an end before the last epoch ----


def test_a_schedule_by_update_by_hand() -> None:
    def rates(schedule_per: str) -> tuple[list[float], list[float]]:
        own, seen = watched(optimizer_factory("SGD", learning_rate=0.8))
        run = fitted(
            epochs=3, optimizer=own, schedule=schedule_factory("StepLR", steps=9, every=4, gamma=0.5),
            schedule_per=schedule_per,
        )  # fmt: skip
        return seen.rates, run.log.curve("train", "learning_rate")

    updates, epochs = rates("update")  # three an epoch
    assert updates == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.2])
    assert epochs == pytest.approx([0.8, 0.4, 0.2])  # at the epoch's end
    updates, epochs = rates("epoch")
    assert updates == pytest.approx([0.8] * 9)
    assert epochs == pytest.approx([0.8] * 3)


def test_a_whole_cycle_by_update_ends_with_the_last_one() -> None:
    own, seen = watched(optimizer_factory("SGD", learning_rate=0.1))
    cycle = schedule_factory("OneCycleLR", steps=12, arguments={"max_lr": 1.0, "anneal_strategy": "linear"})
    fitted(optimizer=own, schedule=cycle, schedule_per="update")
    # torch's cycle: from 1/25 up over 0.3 · 12 - 1 = 2.6 steps, then down to 4e-6 at step 11
    up, down = 1.0 - 1 / 25, 1.0 - 1 / 25 / 1e4
    by_hand = [1 / 25 + up * k / 2.6 for k in (0, 1, 2)] + [1.0 - down * (k - 2.6) / 8.4 for k in range(3, 12)]
    assert seen.rates == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("patience", "objectives", "epochs"),
    [
        (2, [8, 4, 4, 4, 0, 0], 4),  # two epochs after the second without a gain
        (3, [8, 4, 4, 4, 0, 0], 6),
        (2, [8, 4, 3.97, 3.961, 0, 0], 4),  # 0.99 % in total is none
        (2, [8, 4, 3.97, 3.95, 3, 2], 6),  # 1.3 % is one, and 0.5 % came after it
        (1, [8, 7.95, 7, 6, 5, 4], 2),
        (3, [8 * 0.995**n for n in range(6)], 6),  # slow, but 1.5 % in three epochs
        (1, [8 * 0.995**n for n in range(6)], 2),
        (2, [4, 5, 6, 1, 1, 1], 3),  # the best counts, not the last
        (6, [4, 4, 4, 4, 4, 4], 6),
        (5, [4, 4, 4, 4, 4, 4], 6),  # stopped as it ends
        (None, [4, 4, 4, 4, 4, 4], 6),
    ],
)
def test_patience_by_hand(
    patience: int | None, objectives: Sequence[float], epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, *objectives)
    run = fitted(epochs=6, batch_size=10, patience=patience)
    assert run.fitted.epochs == run.log.calls == epochs
    assert run.fitted.diverged_at is None


@pytest.mark.parametrize("after", [2, 5])
def test_a_resumed_run_loses_patience_where_the_unbroken_does(tmp_path: Path, after: int) -> None:
    given: dict[str, Any] = {
        "epochs": 12, "patience": 3, "schedule": schedule_factory("StepLR", steps=12, every=2, gamma=1e-9),
    }  # fmt: skip
    unbroken = fitted(**given)
    assert unbroken.fitted.epochs == unbroken.log.calls == 2 + 3  # nothing moves after the second
    first = Log()

    def record(table: str, rows: list[Row]) -> None:
        first(table, rows)
        if table == "metrics" and first.calls == after:
            raise Stop

    file = tmp_path / "state.pt"
    with pytest.raises(Stop):
        fitted(checkpoint=file, record=record, **given)
    resumed = fitted(model_of(seed=99), checkpoint=file, **given)
    assert resumed.log.numbers() == unbroken.log.numbers(since=after)
    assert resumed.fitted.epochs == 5
    assert equal(resumed.fitted.weights, unbroken.fitted.weights)
    again = fitted(model_of(seed=99), checkpoint=file, **given)  # it has ended, and stays so
    assert (again.log.calls, again.fitted.epochs) == (0, 5)


# ---- evaluate and predict ----


def test_evaluate_by_hand_whatever_the_batches() -> None:
    model = model_of(activation="sigmoid").eval()
    objective = trains("bce", (0.0, 1.0), recon_weight=0.5, activation="sigmoid")
    frames = to_range(VAL, (0, 1))
    targets = branch_targets(frames, task="both", frames_in=SEEN)
    with torch.no_grad():
        outputs = model(frames[:, :SEEN])
    for batch_size in (1, 4, 6, 100):
        found = evaluate(model, VAL, batch_size, objective, quality=True)
        for branch, z in outputs.items():
            error = (z.sigmoid() - targets[branch]).square().mean((0, 2, 3))
            assert found.errors[branch]["mse"].tolist() == pytest.approx(error.tolist(), rel=1e-5)  # of each frame step
            assert {*found.errors[branch]} == {*UNITS}
        expected = 0.5 * binary_cross_entropy(outputs["recon"], targets["recon"]).mean()
        expected += binary_cross_entropy(outputs["pred"], targets["pred"]).mean()
        assert float(found.objective) == pytest.approx(float(expected), rel=1e-5)


def test_a_baseline_without_weights_is_measured_and_predicts() -> None:
    class LastFrame(torch.nn.Module):
        def forward(self, frames: Tensor, truth: Any = None) -> dict[str, Tensor]:
            return {"pred": frames[:, -1:].expand(-1, FUTURE, -1, -1)}

    found = evaluate(LastFrame(), VAL, 4, Objective("pred", SEEN, "mse", "none")).errors["pred"]["mse"]
    error = (VAL[:, SEEN:] / 255 - VAL[:, SEEN - 1 : SEEN] / 255).square().mean((0, 2, 3))
    assert found.tolist() == pytest.approx(error.tolist(), rel=1e-5)
    output = predict(LastFrame(), VAL[:, :SEEN], activation="none", pixel_range=(0.0, 1.0))["pred"]
    assert torch.allclose(output, (VAL[:, SEEN - 1 : SEEN] / 255).expand_as(output))


def test_evaluation_changes_nothing() -> None:
    model = model_of()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    evaluate(model, VAL, 4, trains("mse", (0, 1)))
    assert equal(before, model.state_dict())
    assert torch.equal(drawn, torch.rand(3))
    assert all(p.grad is None for p in model.parameters())


def test_another_activation_than_that_of_a_built_in_model_is_refused() -> None:
    model = model_of(activation="sigmoid")
    told = "activation, as the model's, must be one of sigmoid; not 'none'"
    with pytest.raises(ValueError, match=told):
        evaluate(model, VAL, 4, OBJECTIVE)
    with pytest.raises(ValueError, match=told):
        predict(model, VAL[:, :SEEN], activation="none", pixel_range=(0.0, 1.0))
    with pytest.raises(ValueError, match=told):
        fit(model, TRAIN, VAL, objective=OBJECTIVE, rule=UpdateRule(RATE), epochs=1, batch_size=4, record=Log())


class Blanks(nn.Module):
    """Changes the frames that it is given, and takes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, frames: Tensor, truth: Any = None) -> dict[str, Tensor]:
        frames.zero_()
        if truth is not None:
            truth.popitem()
        return {"recon": self.level.expand_as(frames)}


def test_a_model_that_changes_its_input_does_not_change_its_target() -> None:
    objective = trains(task="recon_ordered")
    fit(
        Blanks(), TRAIN, VAL, objective=objective, rule=UpdateRule(lambda w: torch.optim.SGD(w, lr=0.0)), epochs=1,
        batch_size=4, record=(log := Log()), device="cpu",
    )  # fmt: skip
    black = (VAL[:, :SEEN] / 255).square().mean()
    assert log.curve("val", "mse", "recon") == pytest.approx([float(black)], rel=1e-5)


class Flips:
    """Sequences that draw random numbers of torch where they are indexed."""

    def __len__(self) -> int:
        return len(TRAIN)

    def __getitem__(self, indices: Any) -> Tensor:
        return TRAIN[indices].flip(3) if torch.rand(()) < 0.5 else TRAIN[indices]


def test_sequences_that_draw_random_numbers_are_the_same_where_training_goes_on(tmp_path: Path) -> None:
    given: dict[str, Any] = {"train": lambda epoch: Flips(), "batch_size": 2}
    unbroken = fitted(epochs=3, **given)
    for epochs in (1, 2):
        fitted(epochs=epochs, checkpoint=(file := tmp_path / f"{epochs}.pt"), **given)
        torch.rand(epochs)
        assert equal(fitted(epochs=3, checkpoint=file, **given).fitted.weights, unbroken.fitted.weights)


def test_predictions_are_frames_on_the_unit_scale() -> None:
    model = model_of()
    with torch.no_grad():
        for readout in model.readouts.values():
            readout.bias.add_(torch.linspace(-3, 3, 256))  # type: ignore[union-attr, operator]
    output = predict(model, VAL[:, :SEEN], activation=model.activation, pixel_range=(-1.0, 1.0))
    assert {b: tuple(o.shape) for b, o in output.items()} == {"recon": (6, SEEN, 16, 16), "pred": (6, FUTURE, 16, 16)}
    with torch.no_grad():
        z = model(to_range(VAL[:, :SEEN], (-1.0, 1.0)))["pred"]
    assert torch.allclose(output["pred"], ((activate(z, "none") + 1) / 2).clip(0, 1))
    assert (output["pred"].min(), output["pred"].max()) == (0, 1)


# ---- precision and device ----


def test_bf16_trains_and_is_close() -> None:
    full, half = fitted(epochs=10), fitted(epochs=10, precision="bf16")
    a, b = (run.log.curve("val", "objective") for run in (full, half))
    assert a != b  # it is another precision indeed
    assert b[-1] < 0.9 * b[0]
    assert b == pytest.approx(a, rel=0.05)
    assert {weight.dtype for weight in half.fitted.weights.values()} == {torch.float32}


def test_a_model_keeps_nothing_of_the_precision_it_was_trained_in() -> None:
    half = fitted(precision="bf16")
    fresh = model_of()
    fresh.load_state_dict(half.model.state_dict())  # as loaded from a file
    ours, theirs = (predict(m, VAL[:, :SEEN], activation=m.activation, pixel_range=(0, 1)) for m in (half.model, fresh))
    assert equal(ours, theirs)
    # and can be trained on in another, in the same process
    after, reference = (fitted(m, precision="none") for m in (half.model, fresh))
    assert after.log.numbers() == reference.log.numbers()


def test_an_interrupted_fit_leaves_no_precision_behind_either() -> None:
    model = model_of()

    def record(table: str, rows: list[Row]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(model, precision="bf16", record=record)
    fresh = model_of()
    fresh.load_state_dict(model.state_dict())
    assert fitted(model).log.numbers() == fitted(fresh).log.numbers()


def test_val_is_measured_in_float32_whatever_the_precision() -> None:
    for precision in ("bf16", "fp16"):
        run = fitted(epochs=1, precision=precision)
        found = evaluate(run.model, VAL, 4, OBJECTIVE).objective
        assert run.log.curve("val", "objective") == [float(found)]


def test_fp16_trains_and_is_close_on_a_cpu_as_well() -> None:
    full, half = fitted(epochs=10), fitted(epochs=10, precision="fp16")
    a, b = (run.log.curve("val", "objective") for run in (full, half))
    assert a != b  # it is another precision indeed
    assert b[-1] < 0.9 * b[0]
    assert b == pytest.approx(a, rel=0.01)
    assert half.log.curve("train", "grad_norm") == pytest.approx(full.log.curve("train", "grad_norm"), rel=0.05)
    assert {weight.dtype for weight in half.fitted.weights.values()} == {torch.float32}
    assert half.log.curve("train", "overflows") == [0] * 10
    assert full.log.curve("train", "overflows") == []  # told where there can be some


HUGE = trains("mse", (0.0, 1.0), 100.0, "sum")  # times the loss's scale, 65536, it is too much for fp16
OF_EVERY_KIND = ["adam", "sgd", "rmsprop", "muon"]  # two of them fused, two not


@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_an_update_that_overflows_is_left_out_and_counted(name: str) -> None:
    run = fitted(epochs=1, batch_size=10, precision="fp16", objective=HUGE, optimizer=OPTIMIZERS[name])
    assert run.log.curve("train", "overflows") == [1]
    assert run.log.curve("train", "grad_norm") == []  # infinite, and of no update
    assert equal(run.model.state_dict(), model_of().state_dict())
    assert run.log.curve("train", "update_ratio") == [0]
    assert run.fitted.diverged_at is None
    full = fitted(epochs=1, batch_size=10, objective=HUGE, optimizer=OPTIMIZERS[name])  # which it would have been
    assert not equal(full.model.state_dict(), model_of().state_dict())


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
def test_an_epoch_of_nothing_but_overflows_is_told(batch_size: int) -> None:
    objective = trains("mse", (0.0, 1.0), 1e6, "sum")
    run = fitted(epochs=1, batch_size=batch_size, precision="fp16", objective=objective)
    assert run.log.curve("train", "overflows") == [-(-10 // batch_size)]
    assert run.log.curve("train", "grad_norm") == []
    assert equal(run.model.state_dict(), model_of().state_dict())


def test_the_gradient_norm_is_the_mean_over_the_updates_made() -> None:
    ten_times_the_same = TRAIN[:1].repeat(10, 1, 1, 1)
    objective = trains("mse", (0.0, 1.0), 1.0, "sum")
    run = fitted(
        train=lambda epoch: ten_times_the_same, epochs=1, batch_size=2, precision="fp16", objective=objective,
        optimizer=still,
    )  # fmt: skip
    (overflows,) = run.log.curve("train", "overflows")
    assert 0 < overflows < 5
    full = fitted(train=lambda epoch: ten_times_the_same, epochs=1, batch_size=2, objective=objective, optimizer=still)
    assert run.log.curve("train", "grad_norm") == pytest.approx(full.log.curve("train", "grad_norm"), rel=0.02)


@pytest.fixture
def _poisoned() -> Iterator[None]:
    """What torch leaves uninitialised is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_poisoned")
@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_after_overflows_it_trains_as_if_they_had_not_been(name: str) -> None:
    given: dict[str, Any] = {
        "batch_size": 10, "objective": HUGE, "optimizer": OPTIMIZERS[name], "clip_norm": 0.1,
    }  # fmt: skip
    run = fitted(epochs=16, precision="fp16", **given)
    assert run.fitted.diverged_at is None
    overflows = run.log.curve("train", "overflows")
    left = overflows.count(0)
    assert 0 < left < 16
    assert overflows == [1] * (16 - left) + [0] * left  # the scale is halved until all is within reach
    plain = fitted(epochs=left, **given)
    curve = run.log.curve("val", "objective")[-left:]
    assert curve == pytest.approx(plain.log.curve("val", "objective"), rel=0.02)


@pytest.mark.parametrize("schedule_per", ["epoch", "update"])
def test_a_schedule_takes_its_steps_beside_overflows(schedule_per: str) -> None:
    """Without torch's warning that no update came before the schedule's first step."""
    schedule = schedule_factory("StepLR", steps=4, every=4)
    run = fitted(
        batch_size=10, precision="fp16", objective=HUGE, optimizer=OPTIMIZERS["muon"], schedule=schedule,
        schedule_per=schedule_per,
    )  # fmt: skip
    assert run.log.curve("train", "overflows")[0] == 1


@pytest.mark.parametrize(
    ("precision", "dtype", "scales"),
    [("none", None, False), ("bf16", torch.bfloat16, False), ("fp16", torch.float16, True)],
)
def test_mixed_precision_is_torchs(precision: str, dtype: torch.dtype | None, scales: bool) -> None:
    autocast, scaler = mixed_precision(torch.device("cpu"), precision)
    with autocast:
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (dtype or torch.float32)
    assert scaler.is_enabled() == scales
    assert (float(scaler.scale(torch.ones(()))) > 1) == scales


def test_a_precision_that_there_is_not_is_refused_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("fp8", "no", "float16", ""):
        with pytest.raises(ValueError, match=f"precision must be one of none, tf32, bf16, fp16; not '{wrong}'"):
            fitted(precision=wrong)
    asked: list[dict[str, bool]] = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.append(how))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ValueError, match="Tesla T4 has no bf16: use precision: fp16, or none"):
        mixed_precision(torch.device("cuda"), "bf16")
    assert asked == [{"including_emulation": False}]  # slower than float32, it would be a silent replacement


def test_a_device_that_is_not_there_is_refused_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda", "cuda:0", "cuda:7", "mps"):
        with pytest.raises(ValueError, match=f"device {device} is not available on this machine.*cpu"):
            fitted(device=device)


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:x", "cuda:", "cuda:-1", "", "mps:0"])
def test_a_device_is_one_of_the_known(device: str) -> None:
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda, cuda:N or mps; not"):
        fitted(device=device)


def test_auto_finds_a_device() -> None:
    assert make_accelerator(device="cpu").device == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert make_accelerator(device="auto").device.type == expected


# ---- what it takes ----


def test_a_model_in_a_module_of_ones_own_is_trained_by_it() -> None:
    """`fit` takes any optimizer that is awaiting parameters, not only those by name."""
    seen: list[nn.Parameter] = []

    def own(parameters: Iterable[Tensor]) -> Optimizer:
        seen.extend(parameters)  # type: ignore[arg-type]
        return torch.optim.SGD(seen, lr=0.1)

    model = model_of()
    fitted(model, optimizer=own, epochs=1)
    assert {id(p) for p in seen} == {id(p) for p in model.parameters()}
