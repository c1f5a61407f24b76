"""The contract of models, losses and metrics: what `fit` needs of them, and what it says where they do not give it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_train import FUTURE, SEEN, TRAIN, VAL, Log, equal
from torch import Tensor, nn

from seqae.architectures import ARCHITECTURES
from seqae.checkpoint import Checkpointing
from seqae.contract import ContractError, check_contract
from seqae.evaluation import evaluate, predict
from seqae.models import SequenceAutoencoder
from seqae.objective import Objective
from seqae.runs.optimizers import optimizer_factory
from seqae.training import Fitted, fit
from seqae.updates import UpdateRule

NO_AUTOCAST = torch.autocast("cpu", enabled=False)


class Forecaster(nn.Module):
    """A GRU with all that one's own model may have and ours do not: dropout, a normalisation, random numbers in use."""

    def __init__(self, change: Callable[[Any], Any] = lambda outputs: outputs, branches: tuple[str, ...] = ("pred",)):
        super().__init__()
        self.gru, self.norm = nn.GRU(256, 8, batch_first=True), nn.BatchNorm1d(8)
        self.dropout, self.out = nn.Dropout(0.3), nn.Linear(8, FUTURE * 256)
        self.change, self.branches = change, branches

    def forward(self, frames: Tensor, truth: dict[str, Tensor] | None = None) -> Any:
        assert (truth is not None) == self.training
        top = self.gru(frames.flatten(2))[0][:, -1]
        h = self.dropout(self.norm(top)) + 0.01 * torch.rand_like(top)
        return self.change({branch: self.out(h).unflatten(1, (FUTURE, 16, 16)) for branch in self.branches})


def trained(model: nn.Module, *, epochs: int = 3, checkpoint: Checkpointing | None = None, **trains: Any) -> Any:
    log, precision = Log(), trains.pop("precision", "none")
    objective = Objective(**{"task": "pred", "frames_in": SEEN, "loss": "mse", "activation": "none"} | trains)
    rule = UpdateRule(optimizer_factory("Adam", learning_rate=0.01), precision=precision)
    told: dict[str, Any] = {"objective": objective, "rule": rule, "epochs": epochs, "batch_size": 4, "record": log}
    return fit(model, lambda epoch: TRAIN, VAL, **told, device="cpu", checkpoint=checkpoint), log


def seeded_model(**given: Any) -> Forecaster:
    torch.manual_seed(3)
    return Forecaster(**given)


def test_a_plain_module_trains_and_is_evaluated() -> None:
    model = seeded_model()
    fitted, log = trained(model)
    assert isinstance(fitted, Fitted)
    assert log.curve("val", "objective")[-1] < log.curve("val", "objective")[0]
    assert predict(model, VAL[:, :SEEN], activation="none", pixel_range=(0, 1))["pred"].shape == (6, FUTURE, 16, 16)
    objective = Objective("pred", SEEN, "mse", "none")
    one, two = (evaluate(model, VAL, 4, objective).objective for _ in range(2))
    assert torch.equal(one, two)  # though it draws random numbers


def test_random_numbers_of_a_model_are_those_of_the_update_so_that_it_resumes_exactly(tmp_path) -> None:
    whole, log = trained(seeded_model())
    file = Checkpointing(tmp_path / "state.pt")
    trained(seeded_model(), epochs=2, checkpoint=file)
    torch.manual_seed(99)  # another process, which has drawn other numbers
    resumed, later = trained(seeded_model(), checkpoint=file)
    assert equal(resumed.weights, whole.weights)
    assert later.numbers(since=3) == log.numbers(since=3)
    with_other_order, _ = trained(seeded_model(), epochs=1)
    assert not equal(with_other_order.weights, whole.weights)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_built_in_models_pass_the_same_check(architecture: str) -> None:
    sizes: dict[str, Any] = {"width": 0.02} if architecture != "lstm" else {}
    side = 64 if architecture.startswith("cnn") else 16
    for task, decoder_input in (("both", "truth"), ("pred", "output"), ("recon_ordered", "zero")):
        model = SequenceAutoencoder(
            architecture=architecture, task=task, decoder_input=decoder_input, activation="sigmoid", frame_size=side,
            frames_in=SEEN, frames_out=FUTURE, **sizes,
        )  # fmt: skip
        frames = torch.randint(0, 256, (2, SEEN + FUTURE, side, side), dtype=torch.uint8)
        check_contract(model, frames, Objective(task, SEEN, "bce", "sigmoid"), NO_AUTOCAST)


def test_the_check_leaves_no_trace() -> None:
    model = seeded_model()
    before, numbers = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    check_contract(model, TRAIN[:2], Objective("pred", SEEN, "mse", "none"), NO_AUTOCAST)
    assert equal(before, model.state_dict())
    assert torch.equal(numbers, torch.get_rng_state())
    assert all(weight.grad is None for weight in model.parameters())


def flat(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {branch: z.flatten(2) for branch, z in outputs.items()}


WRONG: list[tuple[Callable[[Any], Any], str]] = [
    (lambda outputs: outputs["pred"], r"returned \(2, 2, 16, 16\) for frames \(2, 3, 16, 16\); task pred needs a dict"),
    (lambda outputs: None, r"returned None for frames .* needs a dict of pred \(2, 2, 16, 16\)$"),
    (lambda outputs: {"future": outputs["pred"]}, r"returned future \(2, 2, 16, 16\) for frames"),
    (lambda outputs: {**outputs, "recon": outputs["pred"]}, r"returned pred .* and recon .* needs a dict of pred \("),
    (flat, r"branch pred, returned \(2, 2, 256\); it must be \(B, T, H, W\), here \(2, 2, 16, 16\), of floats"),
    (lambda outputs: {"pred": outputs["pred"].long()}, r"returned \(2, 2, 16, 16\) of torch.int64; it must be"),
    (lambda outputs: {"pred": outputs["pred"] / 0}, r"returned 1,024 of 1,024 values not finite, before any training"),
    (lambda outputs: {"pred": outputs["pred"].detach()}, r"in training, branch pred, returned what no weight"),
    (lambda outputs: outputs["nothing"], r"on \(2, 3, 16, 16\), truth=None as in evaluation: KeyError: 'nothing'$"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "told"), WRONG)
def test_a_model_that_is_not_what_the_contract_says_is_told_so_in_a_sentence(change: Any, told: str) -> None:
    with pytest.raises(ContractError, match=told) as error:
        trained(seeded_model(change=change))
    assert "\n" not in str(error.value)


def test_a_task_with_two_branches_wants_both() -> None:
    with pytest.raises(ContractError, match=r"returned pred \(2, 2, 16, 16\) .* needs a dict of recon .* and pred"):
        trained(seeded_model(), task="both")


class NoTruth(nn.Linear):
    def forward(self, frames: Tensor) -> Any:  # type: ignore[override]
        return {}


def test_a_forward_without_truth_and_a_model_without_weights_are_told_so() -> None:
    with pytest.raises(ContractError, match=r"model NoTruth failed on .*: TypeError: .*forward\(\) takes"):
        trained(NoTruth(2, 2))
    with pytest.raises(ContractError, match="model Identity has no weights that can be trained"):
        trained(nn.Identity())


def test_a_model_that_ends_in_a_sigmoid_of_its_own_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    sound = {"loss": "bce", "activation": "sigmoid"}
    trained(seeded_model(), epochs=1, **sound)
    assert caplog.messages == []
    trained(seeded_model(change=lambda outputs: {b: z.sigmoid() for b, z in outputs.items()}), epochs=1, **sound)
    (told,) = caplog.messages
    assert told == "model Forecaster, branch pred, lies in (0, 1) before its sigmoid: does the model end in one?"


class AsksForTruth(Forecaster):
    def forward(self, frames: Tensor, truth: Any) -> Any:  # type: ignore[override]
        return super().forward(frames, truth)


def test_a_forward_may_have_truth_without_a_default() -> None:
    assert trained(AsksForTruth())[1].curve("val", "mse", "pred")


def absolute(z: Tensor, target: Tensor, *, activation: str) -> Tensor:
    return (z - target).abs().flatten(1).mean(1)


def test_a_loss_of_ones_own_is_trained_and_its_shape_is_checked() -> None:
    _, log = trained(seeded_model(), loss=absolute)
    expected = trained(seeded_model(), loss="mse")[1]
    assert log.curve("val", "objective") != expected.curve("val", "objective")
    assert log.curve("val", "mse", "pred")  # both are recorded
    for wrong, told in (
        (lambda z, target, *, activation: (z - target).abs().mean(), r"returned a scalar; it must be \(B,\)"),
        (lambda z, target: z, r"failed on \(2, 2, 16, 16\), \(2, 2, 16, 16\): TypeError"),
        (lambda z, target, *, activation: z.mean((1, 2, 3)) / 0, "returned 2 of 2 values not finite"),
        (lambda z, target, *, activation: z.detach().mean((1, 2, 3)), "returned what no weight has an effect on"),
    ):  # fmt: skip
        with pytest.raises(ContractError, match=f"^training_loss <lambda> {told}"):
            trained(seeded_model(), loss=wrong)


def test_a_model_whose_output_depends_on_the_other_sequences_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model = seeded_model()
    trained(model, epochs=1)
    assert not caplog.records  # though it has a normalisation and draws random numbers
    model.gru.batch_first = False  # then the sequences are its steps
    trained(model, epochs=1)
    told = "model Forecaster mixes a batch's sequences: LSTMs read (T, B, D), or batch_first"
    assert [record.message for record in caplog.records] == [told]


def test_the_check_computes_a_loss_as_training_does_outside_autocast() -> None:
    seen: list[bool] = []

    def watched(z: Tensor, target: Tensor, *, activation: str) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return absolute(z, target, activation=activation)

    objective = Objective("pred", SEEN, watched, "none")
    check_contract(seeded_model(), TRAIN[:2], objective, torch.autocast("cpu", dtype=torch.bfloat16))
    assert seen == [False, False]
    trained(seeded_model(), epochs=1, loss=watched, precision="bf16")
    assert not any(seen)


def test_a_loss_that_needs_a_probability_says_so() -> None:
    absolute.needs_probability = True  # type: ignore[attr-defined]
    try:
        with pytest.raises(ValueError, match="absolute needs a probability, which activation none with pixels"):
            trained(seeded_model(), loss=absolute)
    finally:
        del absolute.needs_probability  # type: ignore[attr-defined]


def brightness(output: Tensor, target: Tensor) -> Tensor:
    return output.mean((2, 3)) / target.amax((2, 3))


@pytest.mark.parametrize("name", ["mse", "ssim", "objective", "preactivation_min"])
def test_a_metric_of_ones_own_takes_no_name_of_another(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^metrics \['{name}'\]: what is measured anyway has this name; give yours"):
        Objective("pred", SEEN, "mse", "none", metrics={"brightness": brightness, name: brightness})


def test_metrics_of_ones_own_are_measured_on_val_by_frame() -> None:
    model = seeded_model()
    _, log = trained(model, metrics={"brightness": brightness})
    assert len(log.curve("val", "brightness", "pred")) == 3
    assert log.curve("train", "brightness", "pred") == []
    found = evaluate(model, VAL, 4, Objective("pred", SEEN, "mse", "none", metrics={"brightness": brightness}))
    output = predict(model, VAL[:, :SEEN], activation="none", pixel_range=(0, 1))["pred"]
    assert found.errors["pred"]["brightness"].shape == (FUTURE,)
    assert torch.isfinite(output).all()
    with pytest.raises(
        ContractError, match=r"metric mean returned \(2,\); it must be \(B, T\), here \(2, 2\), of floats"
    ):
        trained(seeded_model(), metrics={"mean": lambda output, target: output.mean((1, 2, 3))})
