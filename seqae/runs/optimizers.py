"""torch's optimizers and learning-rate schedules by name, with their arguments checked before training starts."""

import difflib
import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from seqae.parameters import Parameters

FUSED_ON = {"cpu", "cuda"}
UNFIT = {  # by name, why it cannot be used
    "SparseAdam": "it takes sparse gradients only, and every gradient here is dense; use Adam",
    **dict.fromkeys(("LambdaLR", "MultiplicativeLR"), "it is made of functions, which parameters cannot hold"),
    **dict.fromkeys(("SequentialLR", "ChainedScheduler"), "it is made of schedulers, which parameters cannot hold"),
}
# torch's argument: our parameter
OWN_NAMES = {"lr": "learning_rate", "momentum": "momentum", "weight_decay": "weight_decay"}


def optimizer_factory(
    name: str,
    *,
    learning_rate: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Callable[[Iterable[Tensor]], Optimizer]:
    """A function that makes `torch.optim.<name>` with these arguments for given parameters.

    None leaves an argument at torch's default. The optimizer is fused where torch has that for the device. Muon takes
    matrices only, so AdamW takes all other parameters. Raises ValueError for a name that torch.optim does not have, an
    optimizer that cannot train these models, an argument that it does not take, or a value that it refuses.
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
        # 3-12 times as fast as torch's default on this package's models; torch refuses it together with foreach
        free = "fused" in allowed and not {"fused", "foreach"} & {*given}
        fused = free and {p.device.type for p in listed} <= FUSED_ON
        return kind(listed, **given, **({"fused": True} if fused else {}))

    # Every optimizer takes a rate, momentum and decay from 0 on. Trying one imports torch._dynamo, which takes 2 s.
    if arguments or any(value is not None and value < 0 for value in common.values()):
        _try(lambda: _update(build(_parameters())), what, given)
    return build


def schedule_factory(
    name: str, *, steps: int, every: int = 30, gamma: float = 0.5, arguments: Mapping[str, Any] | None = None
) -> Callable[[Optimizer], LRScheduler | ReduceLROnPlateau | None]:
    """A function that makes `torch.optim.lr_scheduler.<name>` for a given optimizer; for `none` it returns None.

    steps: how often the schedule will be stepped. Where the schedule has such arguments, and `arguments` do not set
    them, step_size is `every`, gamma is `gamma`, and T_max, total_iters and total_steps are `steps`. Raises ValueError
    as `optimizer_factory` does, and for a schedule that ends before `steps`.
    """
    if name == "none":
        return lambda optimizer: None
    kind, what = _named(name, lr_scheduler, LRScheduler, "schedule"), f"schedule {name}"
    for key, parameter in (("step_size", "schedule_every"), ("gamma", "schedule_gamma")):
        if key in (arguments or {}):
            raise ValueError(f"{what}: give {key} as {parameter}, not in schedule_arguments")
    filled = {"step_size": every, "gamma": gamma, "T_max": steps, "total_iters": steps, "total_steps": steps}
    taken = inspect.signature(kind).parameters
    given = {key: value for key, value in filled.items() if key in taken} | dict(arguments or {})
    if {"epochs", "steps_per_epoch"} & {*(arguments or {})}:  # of OneCycleLR, which reads them or total_steps
        if "total_steps" in (arguments or {}):
            raise ValueError(f"{what}: give total_steps, or epochs and steps_per_epoch, not all of them")
        given.pop("total_steps", None)
    _check_arguments(kind, given, what)

    def build(optimizer: Optimizer) -> LRScheduler | ReduceLROnPlateau:
        return kind(optimizer, **given)

    def rehearse() -> None:
        optimizer = torch.optim.SGD(_parameters(), lr=0.1)
        scheduler = build(optimizer)
        if (most := getattr(scheduler, "total_steps", steps)) < steps:
            raise ValueError(f"it ends after {most} steps and the run takes {steps}: leave the number of steps out")
        _update(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(0.0)
        else:
            scheduler.step()

    _try(rehearse, what, given)
    return build


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan, 2024), which makes updates orthogonal in bfloat16, one by one: here in the dtype that
    the device multiplies fast, all matrices of one shape together. Arguments and state are torch's.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change the matrices once. closure: not called; what asks for the loss again is `LBFGS` alone."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for weights in by_shape.values():
                self._step(weights, group)

    def _step(self, weights: list[Tensor], group: Mapping[str, Any]) -> None:
        """Change matrices of one shape."""
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        gradients: Any = [weight.grad for weight in weights]
        momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        found = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        update = orthogonal(
            torch.stack([*found]), group["ns_coefficients"], group["ns_steps"], eps=group["eps"]
        ).to(weights[0].dtype)  # fmt: skip
        rows, columns = weights[0].shape
        ratio = math.sqrt(max(1, rows / columns))
        if group["adjust_lr_fn"] == "match_rms_adamw":
            ratio = 0.2 * math.sqrt(max(rows, columns))
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, [*update], alpha=-group["lr"] * ratio)


def orthogonal(matrices: Tensor, coefficients: Sequence[float], steps: int, *, eps: float) -> Tensor:
    """Matrices (n, rows, columns) with their singular values brought near 1, in the dtype of `fast_dtype`.

    coefficients: of the quintic Newton-Schulz iteration, which is made `steps` times (Jordan, 2024).
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)).to(fast_dtype(x.device))
    # Rounding errors of x xᵀ grow a²-fold at each step of `_factor`.
    if x.dtype == torch.float32 and x.shape[2] >= 2 * x.shape[1] and steps > 0 and abs(a) ** (2 * steps) < 1e6:
        x = _factor(x @ x.mT, coefficients, steps) @ x
    else:
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _factor(gram: Tensor, coefficients: Sequence[float], steps: int) -> Tensor:
    """What all steps together multiply x (n, rows, columns) by, from gram = x xᵀ: at twice as many columns as rows in
    five sixths of the operations, at four times as many in a half.
    """
    a, b, c = coefficients
    product = None
    for left in reversed(range(steps)):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        gram = factor @ gram @ factor if left else gram
    assert product is not None
    return product


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it faster than float32."""
    able = _abilities()
    fast = device.type == "cuda" or able.get("avx512_bf16") or able.get("amx_bf16")
    return torch.bfloat16 if fast else torch.float32


def slow_here(p: Parameters) -> str:
    """Why training takes many times as long on this machine as it would with precision none; "" if it does not."""
    on_cpu = p.device == "cpu" or (p.device == "auto" and not torch.cuda.is_available())
    known = _abilities().get("architecture") == "x86_64"  # of others, torch says less
    if p.precision != "bf16" or not (on_cpu and known) or fast_dtype(torch.device("cpu")) == torch.bfloat16:
        return ""
    return (
        "precision bf16 takes many times as long as none on this machine, whose processor cannot multiply it "
        "(avx512_bf16, amx_bf16): -p precision=none is another run, and fast"
    )


def _abilities() -> Mapping[str, Any]:
    return getattr(torch.cpu, "get_capabilities", dict)()  # earlier versions of torch do not tell


class _MuonAndAdamW(Optimizer):
    """Muon on matrices; AdamW on biases, peepholes and convolutions, with the same rate (Jordan, 2024), and the
    same decay where one is given; torch's defaults of it are 0.1 for Muon and 0.01 for AdamW.
    """

    def __init__(self, parameters: Sequence[Tensor], given: Mapping[str, Any]) -> None:
        matrices = [weight for weight in parameters if weight.dim() == 2]
        others = [weight for weight in parameters if weight.dim() != 2]
        shared = {key: value for key, value in given.items() if key in ("lr", "weight_decay")}
        wanted: Any = [(Muon, matrices, given), (torch.optim.AdamW, others, shared)]
        self.parts: list[Optimizer] = [kind(weights, **own) for kind, weights, own in wanted if weights]
        # The groups are the same objects as the parts' own, so the parts read what a schedule sets here.
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
    """The subclass of `base` in torch's `module` with this name. Raises ValueError for another name."""
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
    """The names of the arguments that `kind` takes. Raises ValueError where others are given or some are missing."""
    taken = dict(list(inspect.signature(kind).parameters.items())[1:])  # without parameters, or the optimizer
    if unknown := sorted(set(given) - set(taken)):
        raise ValueError(f"{what} takes no {', '.join(unknown)}; it takes {', '.join(taken)}")
    if wrong := [n for n in given if isinstance(given[n], bool) and type(taken[n].default) in (int, float)]:
        raise ValueError(f"{what}: {wrong[0]} is a number; not {given[wrong[0]]!r}")
    # Every text is true, "no" as well.
    if texts := [n for n in given if isinstance(given[n], str) and "bool" in str(taken[n].annotation)]:
        raise ValueError(f"{what}: {texts[0]} is true or false; not the text {given[texts[0]]!r}")
    required = [n for n, p in taken.items() if p.default is p.empty and n not in given]
    if required:
        raise ValueError(f"{what} needs {', '.join(required)}: set {what.split()[0]}_arguments")
    return list(taken)


def _parameters() -> list[Tensor]:
    """A small matrix and a bias, to try an optimizer on."""
    return [torch.zeros(2, 2, requires_grad=True), torch.zeros(2, requires_grad=True)]


def _update(optimizer: Optimizer) -> None:
    """One step with gradients of 1."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step(lambda: 0.0)  # LBFGS calls this function for the loss


def _try(trial: Callable[[], Any], what: str, given: Mapping[str, Any]) -> None:
    """Call `trial`, and raise any error of it as a ValueError that shows the arguments."""
    try:
        trial()
    except Exception as error:  # torch refuses a value in many ways: IndexError, ZeroDivisionError, AssertionError
        values = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise ValueError(f"{what}({values}): {str(error) or type(error).__name__}") from None
