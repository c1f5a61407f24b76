"""seqae.train: the loop, its exactness, what it records and what it does when something goes wrong."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from seqae import train as module
from seqae.data import MovingMNIST, to_range
from seqae.losses import activate, binary_cross_entropy, squared_error
from seqae.metrics import UNITS
from seqae.models import SequenceAutoencoder, branch_targets
from seqae.optimizers import optimizer_factory, schedule_factory
from seqae.train import Fitted, Objective, Row, evaluate, fit, make_accelerator, predict

SEEN, FUTURE = 3, 2
DIGITS = np.random.Philox(key=0).random_raw(7 * 98).view(np.uint8).reshape(7, 28, 28)
LOSSES = {"mse": ("none", (0.0, 1.0)), "bce": ("sigmoid", (0.0, 1.0))}


def sequences(split: str, first: int, last: int) -> Tensor:
    stream = MovingMNIST(DIGITS, seed=6, split=split, frame_size=16, frames=SEEN + FUTURE)
    return torch.from_numpy(stream.sequences(range(first, last)))


TRAIN, VAL = sequences("train", 0, 10), sequences("val", 0, 6)


def same(epoch: int) -> Tensor:
    return TRAIN


def endless(epoch: int) -> Tensor:
    return sequences("train", 10 * (epoch - 1), 10 * epoch)


def model_of(task: str = "both", activation: str = "none", seed: int = 6) -> SequenceAutoencoder:
    torch.manual_seed(seed)
    return SequenceAutoencoder(
        architecture="srivastava", task=task, decoder_input="output", activation=activation, hidden=8,
        frame_size=16, frames_in=SEEN, frames_out=FUTURE,
    )  # fmt: skip


@dataclass
class Log:
    rows: list[Row] = field(default_factory=list)
    calls: int = 0

    def __call__(self, rows: list[Row]) -> None:
        self.calls += 1
        self.rows += rows

    def curve(self, split: str, metric: str, branch: str = "all") -> list[float]:
        wanted = (split, metric, branch)
        return [r["value"] for r in self.rows if (r["split"], r["metric"], r["branch"]) == wanted]

    def numbers(self, since: int = 1) -> list[tuple[Any, ...]]:
        """Everything but the seconds, from an epoch on."""
        return [tuple(v for k, v in row.items() if k != "seconds") for row in self.rows if row["epoch"] >= since]


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
        "objective": Objective("both", loss, pixel_range),
        "optimizer": optimizer_factory("Adam", learning_rate=0.01), "schedule": schedule_factory("none", epochs=4),
    }  # fmt: skip
    result = fit(model, **usual | given)
    return Outcome(model, log, result)


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
    known = to_range(TRAIN, (0, 1))[:, :SEEN]
    return [torch.tensor([next(i for i, k in enumerate(known) if torch.equal(k, s)) for s in batch]) for batch in seen]


def test_every_epoch_sees_every_sequence_once_in_an_order_of_its_own() -> None:
    found = batches()
    assert [len(batch) for batch in found] == [4, 4, 2] * 4
    epochs = [torch.cat(found[i : i + 3]).tolist() for i in range(0, 12, 3)]
    assert all(sorted(order) == [*range(10)] for order in epochs)
    assert len({tuple(order) for order in epochs}) == 4
    others = batches(seed=7)
    assert torch.cat(others[:3]).tolist() not in epochs


@dataclass
class Stop(Exception):  # noqa: N818
    """What kills a run, at the worst of times: an epoch is recorded and its checkpoint is not written."""


OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], Optimizer]] = {
    "sgd": optimizer_factory("SGD", learning_rate=0.1, momentum=0.9),
    "rmsprop": optimizer_factory("RMSprop", learning_rate=0.001, momentum=0.9, weight_decay=1e-4),
    "adam": optimizer_factory("Adam", learning_rate=0.01),
    "muon": optimizer_factory("Muon", learning_rate=0.01),
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "none": {},
    "StepLR": {"every": 2},
    "ReduceLROnPlateau": {"arguments": {"patience": 0, "threshold": 0.5}},
    "MultiStepLR": {"arguments": {"milestones": [1, 3]}},
    "OneCycleLR": {"arguments": {"max_lr": 0.01}},
}


@pytest.mark.parametrize("stopped_by", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("optimizer", "schedule", "train", "after"),
    [
        ("sgd", "StepLR", same, 3),
        ("rmsprop", "ReduceLROnPlateau", same, 4),
        ("adam", "OneCycleLR", endless, 2),
        ("adam", "none", same, 5),
        ("muon", "MultiStepLR", endless, 4),
    ],
)
def test_a_resumed_run_is_the_unbroken_run(
    tmp_path: Path, optimizer: str, schedule: str, train: Any, after: int, stopped_by: type[BaseException]
) -> None:
    given: dict[str, Any] = {
        "train": train, "epochs": 5, "clip_norm": 0.1, "optimizer": OPTIMIZERS[optimizer],
        "schedule": schedule_factory(schedule, epochs=5, **SCHEDULES[schedule]),
    }  # fmt: skip
    unbroken = fitted(**given)
    rates = unbroken.log.curve("train", "learning_rate")
    assert (len(set(rates)) > 1) == (schedule != "none")  # the schedule is at work

    file, first, second = tmp_path / "deep" / "state.pt", Log(), Log()

    def record(rows: list[Row]) -> None:
        first(rows)
        if first.calls == after:
            raise stopped_by

    with pytest.raises(stopped_by):
        fitted(model_of(), checkpoint=file, checkpoint_seconds=0, record=record, **given)
    state = torch.load(file, weights_only=True)  # runs no code
    assert state["progress"][0] == after - 1
    assert [f.name for f in file.parent.iterdir()] == [file.name]

    resumed_at: list[int] = []
    resumed = fitted(
        model_of(seed=99), checkpoint=file, checkpoint_seconds=0, record=second, resume=resumed_at.append, **given
    )  # other initial weights: they must not matter
    assert resumed_at == [after - 1]
    assert first.numbers()[: len(first.rows) * (after - 1) // after] + second.numbers() == unbroken.log.numbers()
    assert equal(resumed.fitted.weights, unbroken.fitted.weights)
    assert equal(resumed.model.state_dict(), unbroken.model.state_dict())
    assert resumed.fitted.best_epoch == unbroken.fitted.best_epoch
    seconds = [row["seconds"] for row in first.rows[: -len(first.rows) // after] + second.rows]
    assert seconds == sorted(seconds)  # the clock goes on where it stood


def test_resuming_a_finished_run_trains_nothing(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    done = fitted(checkpoint=file)
    again = fitted(model_of(seed=99), checkpoint=file)
    assert again.log.rows == []
    assert equal(again.fitted.weights, done.fitted.weights)
    assert again.fitted == Fitted(again.fitted.weights, done.fitted.best_epoch, None)


def test_checkpoints_keep_their_distance(tmp_path: Path) -> None:
    fitted(checkpoint=tmp_path / "state.pt", checkpoint_seconds=3600)
    assert not (tmp_path / "state.pt").exists()


# ---- the best weights ----


def test_best_weights_are_those_of_the_least_val_objective_not_the_last() -> None:
    worse_and_worse = optimizer_factory("SGD", learning_rate=0.05, arguments={"maximize": True})
    run = fitted(optimizer=worse_and_worse)
    curve = run.log.curve("val", "objective")
    assert curve == sorted(curve)
    assert run.fitted.best_epoch == 1
    assert not equal(run.fitted.weights, run.model.state_dict())
    best = model_of()
    best.load_state_dict(run.fitted.weights)
    again = evaluate(best, best, VAL, 4, Objective("both", "mse", (0, 1)))
    assert float(again["all", "objective"]) == pytest.approx(min(curve), rel=1e-6)


def test_best_is_judged_on_the_trained_objective_of_the_whole_task() -> None:
    run = fitted(epochs=6, optimizer=optimizer_factory("SGD", learning_rate=50.0))  # it jumps about
    curve = run.log.curve("val", "objective")
    assert curve != sorted(curve)
    assert curve != sorted(curve, reverse=True)
    assert run.fitted.best_epoch == 1 + curve.index(min(curve))


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

    def record(rows: list[Row]) -> None:
        log(rows)
        if log.calls == 2:
            with torch.no_grad():
                model.readouts["pred"].bias.fill_(poison)  # type: ignore[union-attr, operator]

    run = fitted(model, record=record, checkpoint=tmp_path / "state.pt")
    healthy = fitted(epochs=2)
    assert run.fitted.diverged_at == 3
    assert log.calls == 3  # what happened is recorded, and no epoch more
    assert finite(run.fitted.weights)
    assert run.fitted.best_epoch == healthy.fitted.best_epoch
    assert equal(run.fitted.weights, healthy.fitted.weights)
    # killed after that, it is found diverged at the same epoch
    again = fitted(model_of(), checkpoint=tmp_path / "state.pt")
    assert (again.fitted.diverged_at, again.log.calls) == (3, 0)


def test_divergence_in_the_first_epoch_leaves_the_initial_weights() -> None:
    run = fitted(optimizer=optimizer_factory("SGD", learning_rate=1e38))
    assert run.fitted.diverged_at == 1
    assert run.fitted.best_epoch == 0
    assert equal(run.fitted.weights, model_of().state_dict())


def test_without_divergence_there_is_none() -> None:
    assert fitted().fitted.diverged_at is None


# ---- what is recorded ----


def test_rows_are_tidy() -> None:
    run = fitted(epochs=2, loss="bce")
    assert run.log.calls == 2
    columns = ["epoch", "step", "seconds", "split", "branch", "metric", "value"]
    assert all([*row] == columns for row in run.log.rows)
    assert all(type(row["value"]) is float for row in run.log.rows)
    of_branches = {(b, m) for b in ("recon", "pred") for m in ("mse", "bce")}
    expected = {
        "train": of_branches | {("all", "objective"), ("all", "grad_norm"), ("all", "learning_rate")},
        "val": of_branches | {("all", "objective")},
    }
    for epoch in (1, 2):
        for split, keys in expected.items():
            rows = [r for r in run.log.rows if (r["epoch"], r["split"]) == (epoch, split)]
            assert sorted((r["branch"], r["metric"]) for r in rows) == sorted(keys)
            assert {r["step"] for r in rows} == {3 * epoch}  # ten sequences in batches of four
    assert {m for _, m in of_branches} <= {*UNITS}


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
    run = fitted(model_of(activation=activation), epochs=1, objective=Objective("both", "mse", pixel_range))
    assert ("bce" in {row["metric"] for row in run.log.rows}) == has_bce


@pytest.mark.parametrize(("task", "branch"), [("recon", "recon"), ("recon_ordered", "recon"), ("pred", "pred")])
def test_one_task_records_its_branch_alone(task: str, branch: str) -> None:
    run = fitted(model_of(task), epochs=1, objective=Objective(task, "mse", (0, 1), recon_weight=0.1))
    assert {row["branch"] for row in run.log.rows} == {"all", branch}
    assert run.log.curve("val", "objective") == pytest.approx(run.log.curve("val", "mse", branch))  # weight 1


def test_the_objective_is_weighted_and_in_the_training_range_but_mse_never_is() -> None:
    run = fitted(model_of(), objective=Objective("both", "mse", (-1.0, 1.0), recon_weight=0.8))
    for split in ("train", "val"):
        objective, recon, pred = (
            np.array(run.log.curve(split, *key))
            for key in (("objective",), ("mse", "recon"), ("mse", "pred"))
        )  # fmt: skip
        assert objective == pytest.approx(4 * (0.8 * recon + pred), rel=1e-5)


def test_the_recon_weight_reaches_the_gradients() -> None:
    def moved(weight: float) -> dict[str, float]:
        run = fitted(
            epochs=1, batch_size=10, objective=Objective("both", "mse", (0, 1), recon_weight=weight),
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


def test_the_recorded_rate_is_the_one_the_epoch_was_trained_with() -> None:
    run = fitted(
        optimizer=optimizer_factory("SGD", learning_rate=0.1),
        schedule=schedule_factory("StepLR", epochs=4, every=2, gamma=0.5),
    )
    assert run.log.curve("train", "learning_rate") == pytest.approx([0.1, 0.1, 0.05, 0.05])


def test_a_plateau_is_one_of_the_val_objective() -> None:
    run = fitted(
        epochs=8,
        optimizer=optimizer_factory("SGD", learning_rate=50.0),  # it jumps about
        schedule=schedule_factory("ReduceLROnPlateau", epochs=8, arguments={"patience": 0, "threshold": 0.0}),
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


# ---- evaluate and predict ----


def test_evaluate_by_hand_whatever_the_batches() -> None:
    model = model_of(activation="sigmoid").eval()
    objective = Objective("both", "bce", (0.0, 1.0), recon_weight=0.5)
    frames = to_range(VAL, (0, 1))
    targets = branch_targets(frames, task="both", frames_in=SEEN)
    with torch.no_grad():
        outputs = model(frames[:, :SEEN])
    for batch_size in (1, 4, 6, 100):
        found = evaluate(model, model, VAL, batch_size, objective, quality=True)
        for branch, z in outputs.items():
            error = (z.sigmoid() - targets[branch]).square().mean((0, 2, 3))
            assert found[branch, "mse"].tolist() == pytest.approx(error.tolist(), rel=1e-5)  # of each frame step
            assert {m for b, m in found if b == branch} == {*UNITS}
        expected = 0.5 * binary_cross_entropy(outputs["recon"], targets["recon"]).mean()
        expected += binary_cross_entropy(outputs["pred"], targets["pred"]).mean()
        assert float(found["all", "objective"]) == pytest.approx(float(expected), rel=1e-5)


def test_evaluation_changes_nothing() -> None:
    model = model_of()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, model, VAL, 4, Objective("both", "mse", (0, 1)))
    assert equal(before, model.state_dict())
    assert all(p.grad is None for p in model.parameters())


def test_predictions_are_frames_on_the_unit_scale() -> None:
    model = model_of()
    with torch.no_grad():
        for readout in model.readouts.values():
            readout.bias.add_(torch.linspace(-3, 3, 256))  # type: ignore[union-attr, operator]
    output = predict(model, VAL[:, :SEEN], pixel_range=(-1.0, 1.0))
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
    ours, theirs = (predict(m, VAL[:, :SEEN], pixel_range=(0, 1)) for m in (half.model, fresh))
    assert equal(ours, theirs)
    # and can be trained on in another, in the same process
    after, reference = (fitted(m, precision="none") for m in (half.model, fresh))
    assert after.log.numbers() == reference.log.numbers()


def test_an_interrupted_fit_leaves_no_precision_behind_either() -> None:
    model = model_of()

    def record(rows: list[Row]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(model, precision="bf16", record=record)
    fresh = model_of()
    fresh.load_state_dict(model.state_dict())
    assert fitted(model).log.numbers() == fitted(fresh).log.numbers()


def test_fp16_on_a_cpu_is_refused_not_replaced() -> None:
    with pytest.raises(ValueError, match=r"precision fp16 needs a GPU.*bf16"):
        fitted(precision="fp16")


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


# ---- trackers ----


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused(
    tracker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"tracker {tracker} is not installed: pip install {tracker}"):
        fitted(tracker=tracker, tracker_folder=tmp_path)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is optional")
def test_tensorboard_gets_the_val_metrics(tmp_path: Path) -> None:
    fitted(epochs=1, tracker="tensorboard", tracker_folder=tmp_path)
    assert [*tmp_path.rglob("events.out.tfevents*")]


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
