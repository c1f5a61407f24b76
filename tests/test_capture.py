"""seqae.capture: gradients that are recorded and replayed are those that are computed anew."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from seqae import training
from seqae.capture import WARM_UP, CapturedGradients, can_capture
from seqae.checkpoint import Stateful
from seqae.models import SequenceAutoencoder
from seqae.objective import Objective
from seqae.runs.optimizers import optimizer_factory
from seqae.training import fit
from seqae.updates import Gradients, UpdateRule

OBJECTIVE = Objective("both", 3, "mse", "none")
FRAMES = torch.randint(0, 256, (22, 5, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Recorder:
    """A CUDA graph's ways on a CPU: what is recorded writes into the same memory at every replay, and Python of the
    model runs once. The first values are none: a recording computes nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.replays, self.warm_ups, self.recordings = model, 0, 0, 0

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        self.warm_ups += 1
        yield

    def record(self, compute: Callable[[], Gradients]) -> tuple[Callable[[], None], Gradients]:
        self.recordings += 1
        weights = list(self.model.parameters())
        found = compute()
        memory = [weight.grad for weight in weights]

        def all_of(gradients: Gradients, grads: Any) -> list[Tensor]:
            return [*tree_leaves(vars(gradients)), *(grad for grad in grads if grad is not None)]

        for tensor in all_of(found, memory):
            tensor.fill_(float("nan"))

        def replay() -> None:
            self.replays += 1
            assert [weight.grad for weight in weights] == memory or all(
                w.grad is m for w, m in zip(weights, memory, strict=True)
            ), "an optimizer would read other memory"
            new = compute()
            for old, value in zip(all_of(found, memory), all_of(new, [w.grad for w in weights]), strict=True):
                old.copy_(value)
            for weight, grad in zip(weights, memory, strict=True):
                weight.grad = grad

        return replay, found


def model_of(**given: Any) -> SequenceAutoencoder:
    torch.manual_seed(6)
    usual = {"architecture": "srivastava", "task": "both", "decoder_input": "output", "activation": "none", "hidden": 8}
    return SequenceAutoencoder(**usual | {"frame_size": 16, "frames_in": 3, "frames_out": 2} | given)


def trained(
    model: nn.Module, *, epochs: int = 3, optimizer: str = "Adam", train: Any = lambda epoch: FRAMES, **rule: Any
) -> tuple[dict[str, Tensor], list[Any]]:
    rows: list[Any] = []
    fitted = fit(
        model, train, FRAMES[:4], objective=OBJECTIVE, epochs=epochs, batch_size=4, device="cpu",
        rule=UpdateRule(optimizer_factory(optimizer, learning_rate=0.01), clip_norm=0.05, **rule),
        record=lambda table, found: rows.extend(found),
    )  # fmt: skip
    return fitted.weights, [{k: repr(v) for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.parametrize("decoder_input", ["output", "zero"])  # with zero, weights that have no gradient
def test_a_captured_training_has_the_numbers_of_an_eager_one(
    decoder_input: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager, rows = trained(model_of(decoder_input=decoder_input))
    model = model_of(decoder_input=decoder_input)
    recorder = Recorder(model)
    monkeypatch.setattr(training, "can_capture", lambda *given: True)
    monkeypatch.setattr(training, "CapturedGradients", lambda size: CapturedGradients(size, recorder))
    captured, own = trained(model)
    assert own == rows
    assert eager.keys() == captured.keys()
    assert all(torch.equal(eager[name], captured[name]) for name in eager)
    # 22 sequences: five batches of four and one of two, which goes another way, each of three epochs
    assert (recorder.warm_ups, recorder.recordings, recorder.replays) == (WARM_UP, 1, 15 - WARM_UP)


def test_longer_sequences_are_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def length(made: int) -> int:
        return 4 if made < 8 else 5

    eager, rows = trained(model_of(), length=length)
    recorder = Recorder(model := model_of())
    monkeypatch.setattr(training, "can_capture", lambda *given: True)
    monkeypatch.setattr(training, "CapturedGradients", lambda size: CapturedGradients(size, recorder))
    captured, own = trained(model, length=length)
    assert own == rows
    assert all(torch.equal(eager[name], captured[name]) for name in eager)
    # of 15 batches of four, seven are in the first eight updates, with one frame to predict
    assert (recorder.warm_ups, recorder.recordings, recorder.replays) == (2 * WARM_UP, 2, 15 - 2 * WARM_UP)


def test_weights_that_are_frozen_for_a_while_are_trained_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def thawing(model: SequenceAutoencoder) -> Any:
        def train(epoch: int) -> Tensor:
            model.encoder.requires_grad_(epoch > 1)
            return FRAMES.clone()

        return train

    model = model_of()
    eager, rows = trained(model, train=thawing(model))
    recorder = Recorder(model := model_of())
    monkeypatch.setattr(training, "can_capture", lambda *given: True)
    monkeypatch.setattr(training, "CapturedGradients", lambda size: CapturedGradients(size, recorder))
    captured, own = trained(model, train=thawing(model))
    assert own == rows
    assert all(torch.equal(eager[name], captured[name]) for name in eager)
    assert recorder.recordings == 2


def test_what_cannot_be_recorded_is_computed_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, rows = trained(model_of())
    model = model_of()
    recorder = Recorder(model)

    def refuse(compute: Any) -> Any:
        try:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more lines")
        finally:  # as the end of torch.cuda.graph does
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(recorder, "record", refuse)
    monkeypatch.setattr(training, "can_capture", lambda *given: True)
    monkeypatch.setattr(training, "CapturedGradients", lambda size: CapturedGradients(size, recorder))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        captured, own = trained(model)
    said = [str(warning.message) for warning in told if "captured" in str(warning.message)]
    assert said == [
        "updates are not captured in a CUDA graph, which makes them slower: "
        "CUDA error: operation not permitted when stream is capturing"
    ]
    assert own == rows
    assert all(torch.equal(eager[name], captured[name]) for name in eager)


def test_what_is_captured() -> None:
    def fits(
        *,
        device: str = "cuda",
        ranks: int = 1,
        optimizer: str = "Adam",
        fp16: bool = False,
        loss: Any = "mse",
        own: Any = None,
    ) -> bool:
        model = own or model_of()
        made = optimizer_factory(optimizer)(list(model.parameters()))
        parts = Stateful(model, made, None, torch.amp.GradScaler("cpu", enabled=fp16))
        accelerator: Any = SimpleNamespace(device=torch.device(device), num_processes=ranks)
        return can_capture(parts, Objective("both", 3, loss, "none"), accelerator)

    def loss(z: Tensor, target: Tensor, *, activation: str) -> Tensor:
        return (z - target).square().flatten(1).mean(1)

    own = nn.Linear(1, 1)
    assert fits()
    assert fits(optimizer="Muon")
    refused: list[dict[str, Any]] = [
        {"device": "cpu"}, {"device": "mps"}, {"ranks": 2}, {"fp16": True}, {"optimizer": "LBFGS"}, {"loss": loss},
        {"own": own},
    ]  # fmt: skip
    assert [given for given in refused if fits(**given)] == []
    own.capturable = loss.capturable = True  # type: ignore[attr-defined,assignment]
    assert fits(own=own, loss=loss)


class Louder(SequenceAutoencoder):
    """Its Python decides anew at each call, which a replay would not run."""

    def forward(self, frames: Tensor, truth: Any = None) -> dict[str, Tensor]:
        return {branch: z * torch.rand(1).item() for branch, z in super().forward(frames, truth).items()}


class Plain(SequenceAutoencoder):
    capturable = True


def test_a_model_that_runs_python_of_its_own_is_not_captured() -> None:
    accelerator: Any = SimpleNamespace(device=torch.device("cuda"), num_processes=1)

    def fits(model: nn.Module) -> bool:
        parts = Stateful(model, torch.optim.Adam(model.parameters()), None, torch.amp.GradScaler("cpu", enabled=False))
        return can_capture(parts, OBJECTIVE, accelerator)

    given: Any = {"architecture": "srivastava", "task": "both", "decoder_input": "zero", "hidden": 8, "frame_size": 16}
    assert not fits(Louder(activation="none", **given))  # although the class above it can be captured
    assert fits(Plain(activation="none", **given))
    for hook in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        model = model_of()
        registered = getattr(model.encoder, hook)(lambda *given: None)
        assert not fits(model)
        registered.remove()
        assert fits(model)
