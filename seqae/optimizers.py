"""torch's optimizers and learning-rate schedulers by name, with their arguments checked before anything runs."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

FUSED_ON = {"cpu", "cuda"}
UNFIT = {
    "SparseAdam": "it takes sparse gradients only, and every gradient here is dense; use Adam",
    **dict.fromkeys(("LambdaLR", "MultiplicativeLR"), "it is made of functions, which parameters cannot hold"),
    **dict.fromkeys(("SequentialLR", "ChainedScheduler"), "it is made of schedulers, which parameters cannot hold"),
}
OWN_NAMES = {"lr": "learning_rate", "momentum": "momentum", "weight_decay": "weight_decay"}


def optimizer_factory(
    name: str,
    *,
    learning_rate: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Callable[[Iterable[Tensor]], Optimizer]:
    """`torch.optim.<name>` with its arguments, awaiting the parameters; fused where torch has it for the device.

    None leaves an argument at torch's default. Muon, which takes matrices only, has AdamW beside it for all else.
    Raises ValueError for a name torch.optim does not have, an optimizer that cannot train these models, an argument
    it does not take, or a value it refuses.
    """
    kind, what = _named(name, torch.optim, Optimizer, "optimizer"), f"optimizer {name}"
    if twice := [key for key in OWN_NAMES if key in (arguments or {})]:
        raise ValueError(f"{what}: give {twice[0]} as {OWN_NAMES[twice[0]]}, not in optimizer_arguments")
    common = {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    given = {key: value for key, value in common.items() if value is not None} | dict(arguments or {})
    allowed = _check_arguments(kind, given, what)

    def build(parameters: Iterable[Tensor]) -> Optimizer:
        listed = list(parameters)
        if name == "Muon":
            return _MuonAndAdamW(listed, given)
        # 3-12 times faster than torch's default on this package's models; beside foreach, torch refuses it
        free = "fused" in allowed and not {"fused", "foreach"} & {*given}
        fused = free and {p.device.type for p in listed} <= FUSED_ON
        return kind(listed, **given, **({"fused": True} if fused else {}))

    _try(lambda: _update(build(_parameters())), what, given)
    return build


def schedule_factory(
    name: str, *, steps: int, every: int = 30, gamma: float = 0.5, arguments: Mapping[str, Any] | None = None
) -> Callable[[Optimizer], LRScheduler | ReduceLROnPlateau | None]:
    """`torch.optim.lr_scheduler.<name>` awaiting the optimizer, to be stepped `steps` times; `none` gives None.

    every and gamma fill step_size and gamma, steps fills T_max, total_iters and total_steps, where the scheduler
    has them and arguments do not say otherwise. Raises ValueError as `optimizer_factory`.
    """
    if name == "none":
        return lambda optimizer: None
    kind, what = _named(name, lr_scheduler, LRScheduler, "schedule"), f"schedule {name}"
    for key, parameter in (("step_size", "schedule_every"), ("gamma", "schedule_gamma")):
        if key in (arguments or {}):
            raise ValueError(f"{what}: give {key} as {parameter}, not among its other arguments")
    filled = {"step_size": every, "gamma": gamma, "T_max": steps, "total_iters": steps, "total_steps": steps}
    taken = inspect.signature(kind).parameters
    given = {key: value for key, value in filled.items() if key in taken} | dict(arguments or {})
    if {"epochs", "steps_per_epoch"} <= {*(arguments or {})}:
        given.pop("total_steps", None)  # OneCycleLR takes it either way
    _check_arguments(kind, given, what)

    def build(optimizer: Optimizer) -> LRScheduler | ReduceLROnPlateau:
        return kind(optimizer, **given)

    def rehearse() -> None:
        optimizer = torch.optim.SGD(_parameters(), lr=0.1)
        scheduler = build(optimizer)
        if (most := getattr(scheduler, "total_steps", steps)) < steps:
            raise ValueError(f"it ends after {most} steps and the run takes {steps}: leave them out")
        _update(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(0.0)
        else:
            scheduler.step()

    _try(rehearse, what, given)
    return build


class _MuonAndAdamW(Optimizer):
    """Muon on matrices, AdamW with the same rate and decay on biases, peepholes and convolutions (Jordan, 2024)."""

    def __init__(self, parameters: Iterable[Tensor], given: Mapping[str, Any]) -> None:
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for parameter in parameters:
            (matrices if parameter.dim() == 2 else others).append(parameter)
        shared = {key: value for key, value in given.items() if key in ("lr", "weight_decay")}
        self.parts = [torch.optim.Muon(matrices, **given), torch.optim.AdamW(others, **shared)]
        # The groups are the parts' own: what a schedule sets here, they read.
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def _named(name: str, module: Any, base: type, what: str) -> Any:
    kinds = {n: k for n, k in vars(module).items() if isinstance(k, type) and issubclass(k, base) and n[0] != "_"}
    kinds = {n: k for n, k in kinds.items() if n not in ("Optimizer", "LRScheduler")}
    if name not in kinds:
        fit = {n.lower(): n for n in kinds if n not in UNFIT}
        near = difflib.get_close_matches(name.lower(), fit, n=1)
        hint = f"did you mean {fit[near[0]]}?" if near else f"known: {', '.join(fit.values())}"
        raise ValueError(f"{what} {name!r} is not in {module.__name__}; {hint}")
    if name in UNFIT:
        raise ValueError(f"{what} {name} does not fit: {UNFIT[name]}")
    return kinds[name]


def _check_arguments(kind: Any, given: Mapping[str, Any], what: str) -> list[str]:
    taken = dict(list(inspect.signature(kind).parameters.items())[1:])  # the first is what it acts on
    if unknown := sorted(set(given) - set(taken)):
        raise ValueError(f"{what} takes no {', '.join(unknown)}; it takes {', '.join(taken)}")
    required = [n for n, p in taken.items() if p.default is p.empty and n not in given]
    if required:
        raise ValueError(f"{what} needs {', '.join(required)}: set {what.split()[0]}_arguments")
    return list(taken)


def _parameters() -> list[Tensor]:
    return [torch.zeros(2, 2, requires_grad=True), torch.zeros(2, requires_grad=True)]


def _update(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step(lambda: 0.0)  # LBFGS calls it for the loss


def _try(trial: Callable[[], Any], what: str, given: Mapping[str, Any]) -> None:
    try:
        trial()
    except Exception as error:  # torch refuses a value in many ways: IndexError, ZeroDivisionError, AssertionError
        values = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise ValueError(f"{what}({values}): {str(error) or type(error).__name__}") from None
