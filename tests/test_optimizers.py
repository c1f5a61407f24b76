"""seqae.runs.optimizers: every torch optimizer and scheduler by name; what is refused, and why, before training."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler

from seqae.runs.optimizers import Muon, optimizer_factory, orthogonal, schedule_factory

REFUSED = {"SparseAdam": "dense"}
OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer and name not in REFUSED
)


def weights() -> list[torch.nn.Parameter]:
    """A matrix, a bias and a convolution, as models have them."""
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(*shape)) for shape in ((3, 2), (3,), (2, 1, 3, 3))]


def descend(optimizer: Optimizer, parameters: list[torch.nn.Parameter]) -> float:
    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = sum((p.square().sum() for p in parameters), start=torch.zeros(()))
        value.backward()
        return value

    before = loss().item()
    optimizer.step(loss if isinstance(optimizer, torch.optim.LBFGS) else None)  # type: ignore[arg-type]
    return before


# ---- optimizers ----


def test_there_are_optimizers_to_test() -> None:
    assert {"Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "Muon", "Rprop", "LBFGS"} <= {*OPTIMIZERS}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_all_weights_with_its_defaults(name: str) -> None:
    parameters = weights()
    before = [p.detach().clone() for p in parameters]
    optimizer = optimizer_factory(name)(parameters)
    losses = [descend(optimizer, parameters) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert all(not torch.equal(p, q) for p, q in zip(parameters, before, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_from_its_stored_state_as_if_it_had_never_stopped(name: str, tmp_path: Path) -> None:
    parameters = weights()
    optimizer = optimizer_factory(name)(parameters)
    for _ in range(3):
        descend(optimizer, parameters)
    torch.save((parameters, optimizer.state_dict()), tmp_path / "state.pt")
    others, state = torch.load(tmp_path / "state.pt", weights_only=True)  # which runs no code
    again = optimizer_factory(name, learning_rate=0.5)(others)
    again.load_state_dict(state)
    for _ in range(2):
        descend(optimizer, parameters)
        descend(again, others)
        assert all(torch.equal(p, q) for p, q in zip(parameters, others, strict=True))


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"Muon"}))
def test_none_is_torchs_default(name: str) -> None:
    ours = optimizer_factory(name)(weights())
    torchs = getattr(torch.optim, name)(weights())
    ignored = {"fused", "foreach"}  # ways to compute the same
    assert {k: v for k, v in ours.defaults.items() if k not in ignored} == {
        k: v for k, v in torchs.defaults.items() if k not in ignored
    }


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"Muon"}))
def test_the_values_are_those_of_torchs_plain_implementation(name: str) -> None:
    ours, torchs = weights(), weights()
    mine = optimizer_factory(name, learning_rate=0.01)(ours)
    plain: dict[str, Any] = {"foreach": False} if "foreach" in mine.defaults else {}
    theirs = getattr(torch.optim, name)(torchs, lr=0.01, **plain)
    for _ in range(3):
        descend(mine, ours)
        descend(theirs, torchs)
    for p, q in zip(ours, torchs, strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_the_common_arguments_reach_the_optimizer() -> None:
    for name in ("SGD", "RMSprop"):
        group = optimizer_factory(name, learning_rate=0.5, momentum=0.9, weight_decay=0.1)(weights()).param_groups[0]
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.5, 0.9, 0.1)
    group = optimizer_factory("Adam", arguments={"betas": [0.5, 0.9], "eps": 1e-3})(weights()).param_groups[0]
    assert ([*group["betas"]], group["eps"]) == ([0.5, 0.9], 1e-3)


def test_momentum_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0]]))
    optimizer = optimizer_factory("SGD", learning_rate=0.1, momentum=0.5)([weight])
    descend(optimizer, [weight])  # gradient 2: 1 - 0.1 · 2
    assert weight.item() == pytest.approx(0.8)
    descend(optimizer, [weight])  # gradient 1.6, velocity 0.5 · 2 + 1.6
    assert weight.item() == pytest.approx(0.8 - 0.1 * 2.6)


def test_another_implementation_may_be_asked_for() -> None:
    assert optimizer_factory("Adam")(weights()).defaults["fused"]
    for other in ({"foreach": True}, {"fused": False}):
        assert not optimizer_factory("Adam", arguments=other)(weights()).defaults["fused"]


SHAPES = [(5, 3), (3, 5), (4, 4), (5, 3), (12, 2)]


@pytest.mark.parametrize("given", [{}, {"nesterov": False, "weight_decay": 0.0}, {"adjust_lr_fn": "match_rms_adamw"},
                                   {"momentum": 0.5, "ns_steps": 3, "lr": 0.2}])  # fmt: skip
def test_muon_is_torchs_in_another_dtype(given: dict[str, Any]) -> None:
    made = torch.Generator().manual_seed(1)
    ours, theirs = ([torch.randn(shape, generator=made).requires_grad_() for shape in SHAPES] for _ in range(2))
    before = [weight.detach().clone() for weight in ours]
    for own, other in zip(ours, theirs, strict=True):
        other.data.copy_(own.data)
    pair = Muon(ours, **given), torch.optim.Muon(theirs, **given)
    for step in range(4):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn(own.shape, generator=made)
            other.grad = own.grad.clone()
        if step == 2:  # a matrix that was not read
            ours[1].grad = theirs[1].grad = None
        for optimizer in pair:
            optimizer.step()
    for own, other, old in zip(ours, theirs, before, strict=True):  # torch's rounds to bfloat16, 8 bits
        assert (own - other).norm() < 0.05 * (other - old).norm()
    pair[0].load_state_dict(pair[1].state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonal_brings_singular_values_near_one(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr("seqae.runs.optimizers.fast_dtype", lambda device: dtype)
    made = torch.Generator().manual_seed(1)
    for shape in ((3, 20, 7), (3, 7, 20)):
        x = torch.randn(shape, generator=made)
        found = orthogonal(x, (3.4445, -4.7750, 2.0315), 5, eps=1e-7)
        assert found.dtype == dtype
        assert found.shape == x.shape
        values = torch.linalg.svdvals(found.float())
        assert 0.6 < values.min() <= values.max() < 1.3
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        assert ((u.mT @ found.float() @ v.mT) - torch.diag_embed(values)).abs().max() < 0.6, "the singular vectors stay"


@pytest.mark.parametrize("shape", [(2, 20, 39), (2, 20, 40), (2, 90, 20), (1, 64, 64), (3, 1, 5)])
@pytest.mark.parametrize("rank", [1, 3, 64])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_orthogonal_is_newton_and_schulz_s_polynomial_of_each_singular_value(
    monkeypatch: pytest.MonkeyPatch, shape: Any, rank: int, steps: int
) -> None:
    """Of matrices of any rank, square, wide and tall, in float32. Where the rank is low, rounding errors grow."""
    monkeypatch.setattr("seqae.runs.optimizers.fast_dtype", lambda device: torch.float32)
    coefficients, made = (3.4445, -4.7750, 2.0315), torch.Generator().manual_seed(2)
    rank = min(rank, *shape[1:])
    parts = (torch.randn(shape[0], rows, rank, generator=made, dtype=torch.float64) for rows in shape[1:])
    x = torch.matmul(*(part if n == 0 else part.mT for n, part in enumerate(parts)))
    u, values, v = torch.linalg.svd(x / x.norm(dim=(1, 2), keepdim=True), full_matrices=False)
    for _ in range(steps):
        values = sum(k * values**n for k, n in zip(coefficients, (1, 3, 5), strict=True))
    wanted = u @ torch.diag_embed(values) @ v
    found = orthogonal(x.float(), coefficients, steps, eps=1e-7)
    assert (found - wanted).norm() < 1e-3 * wanted.norm()


def test_orthogonal_stays_finite_in_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding errors that grow with every step, of a matrix of rank one, which is wide."""
    monkeypatch.setattr("seqae.runs.optimizers.fast_dtype", lambda device: torch.float32)
    column, row = torch.randn(2, 1, 1, 256, generator=torch.Generator().manual_seed(3))
    found = orthogonal(column[..., :64].mT @ row, (3.4445, -4.7750, 2.0315), 10, eps=1e-7)
    assert found.norm() < 2 * 64**0.5


def test_muon_trains_matrices_and_adamw_the_rest() -> None:
    parameters = weights()
    optimizer = optimizer_factory("Muon", learning_rate=0.1, arguments={"nesterov": False})(parameters)
    alone, others = weights()[:1], weights()[1:]
    muon, adamw = Muon(alone, lr=0.1, nesterov=False), torch.optim.AdamW(others, lr=0.1)
    schedule = schedule_factory("ExponentialLR", steps=3, gamma=0.5)(optimizer)
    for step in range(3):
        descend(optimizer, parameters)
        for reference, group in ((muon, alone), (adamw, others)):
            for g in reference.param_groups:
                g["lr"] = 0.1 * 0.5**step
            descend(reference, group)
        assert schedule is not None
        schedule.step()
    for p, q in zip(parameters, [*alone, *others], strict=True):
        assert torch.allclose(p, q, atol=1e-6)

    again = optimizer_factory("Muon", learning_rate=0.7)(parameters)
    again.load_state_dict(optimizer.state_dict())
    assert [g["lr"] for g in again.param_groups] == [0.1 * 0.5**3] * 2


@pytest.mark.parametrize("kept", [slice(1), slice(1, None)], ids=["matrices", "no matrix"])
def test_muon_trains_a_model_of_matrices_alone_and_one_without(kept: slice) -> None:
    parameters = weights()[kept]
    optimizer, before = optimizer_factory("Muon", learning_rate=0.1)(parameters), [p.clone() for p in parameters]
    descend(optimizer, parameters)
    optimizer.load_state_dict(optimizer.state_dict())
    assert not any(torch.equal(p, q) for p, q in zip(parameters, before, strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_that_cannot_train_these_models_says_why(name: str) -> None:
    with pytest.raises(ValueError, match=rf"optimizer {name} does not fit: .*{REFUSED[name]}"):
        optimizer_factory(name)


@pytest.mark.parametrize(("wrong", "near"), [("adam", "Adam"), ("RMSProp", "RMSprop"), ("AdmaW", "AdamW")])
def test_an_unknown_optimizer_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"optimizer '{wrong}' is not in torch.optim; did you mean {near}\?"):
        optimizer_factory(wrong)


@pytest.mark.parametrize("wrong", ["Xyz", "Optimizer", "lr_scheduler", "_functional"])
def test_what_is_no_optimizer_lists_those_that_are(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"optimizer '{wrong}' is not in torch.optim") as caught:
        optimizer_factory(wrong)
    assert not any(name in str(caught.value) for name in REFUSED)


def test_momentum_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match=r"optimizer Adam takes no momentum; it takes lr, betas, eps"):
        optimizer_factory("Adam", momentum=0.9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"betaz": 1}, "takes no betaz; it takes lr, betas"),
        ({"betas": 3}, r"Adam\(betas=3\)"),
        ({"betas": [0.9]}, r"Adam\(betas=\[0.9\]\)"),
        ({"betas": [0.9, 1.5]}, "Invalid beta"),
        ({"eps": "tiny"}, "eps='tiny'"),
        ({"lr": 0.1}, "give lr as learning_rate"),
        ({"weight_decay": 0.1}, "give weight_decay as weight_decay"),
        ({"params": []}, "takes no params"),
    ],
)
def test_wrong_arguments_are_named_before_training(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        optimizer_factory("Adam", arguments=arguments)


@pytest.mark.parametrize(
    ("name", "argument"), [("RMSprop", "centered"), ("SGD", "nesterov"), ("Adam", "amsgrad"), ("NAdam", "foreach")]
)
def test_a_text_is_not_taken_for_true(name: str, argument: str) -> None:
    with pytest.raises(ValueError, match=f"^optimizer {name}: {argument} is true or false; not the text 'no'$"):
        optimizer_factory(name, momentum=0.9 if name == "SGD" else None, arguments={argument: "no"})


# ---- schedules ----


def rates(name: str, steps: int, losses: list[float] | None = None, **given: Any) -> list[float]:
    """The learning rate of each step, from 1.0 on."""
    parameters = weights()
    optimizer = optimizer_factory("SGD", learning_rate=1.0)(parameters)
    schedule = schedule_factory(name, steps=steps, **given)(optimizer)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        descend(optimizer, parameters)
        if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            assert losses is not None
            schedule.step(losses[step])
        else:
            assert schedule is not None
            schedule.step()
    return found


def test_schedules_by_hand() -> None:
    assert rates("StepLR", 5, every=2, gamma=0.1) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert rates("ExponentialLR", 4, gamma=0.9) == pytest.approx([1, 0.9, 0.81, 0.729])
    assert rates("MultiStepLR", 5, gamma=0.5, arguments={"milestones": [1, 3]}) == pytest.approx(
        [1, 0.5, 0.5, 0.25, 0.25]
    )
    cosine = [0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]  # T_max is the number of steps
    assert rates("CosineAnnealingLR", 4) == pytest.approx(cosine)
    assert rates("CosineAnnealingLR", 2, arguments={"T_max": 4}) == pytest.approx(cosine[:2])
    assert rates("LinearLR", 3, arguments={"start_factor": 0.25, "end_factor": 1.0}) == pytest.approx([0.25, 0.5, 0.75])


def test_a_plateau_lowers_the_rate_by_hand() -> None:
    # patience 1: the second epoch in a row without a better loss lowers it
    losses = [1.0, 0.5, 0.6, 0.6, 0.4, 0.4]
    found = rates("ReduceLROnPlateau", 6, losses, arguments={"factor": 0.1, "patience": 1})
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1])


def test_a_whole_cycle_fits_the_steps() -> None:
    found = rates("OneCycleLR", 10, arguments={"max_lr": 2.0})
    assert max(found) == pytest.approx(2.0, rel=0.1)
    assert found[-1] == pytest.approx(2.0 / 25 / 1e4)  # torch's div_factor and final_div_factor


def test_a_cycle_may_be_told_in_epochs() -> None:
    told = {"max_lr": 2.0, "epochs": 5, "steps_per_epoch": 2}
    assert rates("OneCycleLR", 10, arguments=told) == rates("OneCycleLR", 10, arguments={"max_lr": 2.0})
    with pytest.raises(ValueError, match="it ends after 10 steps and the run takes 11"):
        schedule_factory("OneCycleLR", steps=11, arguments=told)


def test_no_schedule_is_none() -> None:
    assert schedule_factory("none", steps=3)(torch.optim.SGD(weights())) is None


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("steplr", {}, r"schedule 'steplr' is not in torch.optim.lr_scheduler; did you mean StepLR\?"),
        ("Cosine", {}, "schedule 'Cosine' is not in"),
        ("MultiStepLR", {}, "schedule MultiStepLR needs milestones: set schedule_arguments"),
        ("OneCycleLR", {}, "needs max_lr"),
        ("CyclicLR", {}, "needs base_lr, max_lr"),
        ("StepLR", {"gama": 1}, "takes no gama; it takes step_size, gamma"),
        ("StepLR", {"step_size": 2}, "give step_size as schedule_every"),
        ("CosineAnnealingLR", {"T_max": 0}, r"CosineAnnealingLR\("),
        ("ReduceLROnPlateau", {"factor": 2}, "Factor should be < 1.0"),
        ("StepLR", {"epochs": 2, "steps_per_epoch": 4}, "takes no epochs, steps_per_epoch"),
        ("OneCycleLR", {"max_lr": 1, "total_steps": 3}, "it ends after 3 steps and the run takes 8"),
        ("OneCycleLR", {"max_lr": 1, "epochs": 3}, "steps_per_epoch"),
        (
            "OneCycleLR",
            {"max_lr": 1, "epochs": 3, "steps_per_epoch": 9, "total_steps": 8},
            "give total_steps, or epochs and steps_per_epoch, not all of them",
        ),
        ("OneCycleLR", {"max_lr": 1, "three_phase": "no"}, "three_phase is true or false; not the text 'no'"),
        ("LambdaLR", {}, "LambdaLR does not fit: it is made of functions"),
        ("SequentialLR", {}, "SequentialLR does not fit: it is made of schedulers"),
    ],
)
def test_a_schedule_that_cannot_run_is_refused_before_training(
    name: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        schedule_factory(name, steps=8, arguments=arguments)
