"""What code of your own is asked for: a model by its constructor, a training loss, metrics.

Signatures are checked when runs are planned; what a model, a loss and a metric return, by `seqae.contract` before
training.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import Tensor, nn

from seqae.losses import loss_fault
from seqae.metrics import TAKEN
from seqae.parameters import Parameters
from seqae.runs.own_code import OwnCode, OwnCodeError, told

OFFERED = ("task", "frame_shape", "frames_in", "frames_out", "decoder_input", "activation")


def check_own(p: Parameters, code: OwnCode) -> None:
    """Raise OwnCodeError if the code cannot be imported or does not take what it is given; nothing of it is called."""
    if ":" in p.architecture:
        _arguments(p, code)
    if ":" in p.training_loss:
        loss = _function(code, p.training_loss, "training_loss", ("z", "target"), {"activation"})
        if fault := loss_fault(loss, p.activation, p.pixel_range):
            raise OwnCodeError(fault)
    own_metrics(p, code)


def build_own(p: Parameters, code: OwnCode, *, frame_shape: tuple[int, int]) -> nn.Module:
    """A new model of your own. frame_shape: (H, W) in pixels. Its pre-activations are multiplied by p.gain.

    Raises OwnCodeError if its constructor fails.
    """
    values = {name: getattr(p, name) for name in OFFERED if name != "frame_shape"} | {"frame_shape": frame_shape}
    given = {name: values[name] for name in taken_by(p, code) if name in values} | p.architecture_arguments
    try:
        model = code.load(p.architecture)(**given)
    except Exception as error:  # of any type: it is raised in code that is not ours
        raise OwnCodeError(f"architecture {p.architecture} cannot be built of {given}: {told(error)}") from error
    if not isinstance(model, nn.Module):
        raise OwnCodeError(f"architecture {p.architecture} made a {type(model).__name__}; it must be a torch.nn.Module")

    def gained(module: nn.Module, seen: Any, outputs: Any) -> Any:
        return {branch: p.gain * z for branch, z in outputs.items()} if isinstance(outputs, Mapping) else outputs

    if p.gain != 1:
        model.register_forward_hook(gained)
    return model


def stated_reach(model: nn.Module, p: Parameters) -> float:
    """The largest |pre-activation| that any weights of a model of your own can give, as it says; else infinity."""
    return p.gain * float(getattr(model, "reach", float("inf")))


def taken_by(p: Parameters, code: OwnCode) -> list[str]:
    """The names of the arguments that the constructor takes."""
    return [name for name, argument in _signature(p, code).items() if argument.kind != argument.VAR_KEYWORD]


def default_of(name: str, p: Parameters, code: OwnCode | None) -> str:
    """What the constructor takes for an argument that it is not given, as text; … if nothing."""
    default = _signature(p, code)[name].default if code else inspect.Parameter.empty
    return "…" if default is inspect.Parameter.empty else "none" if default is None else str(default)


def own_loss(p: Parameters, code: OwnCode | None) -> str | Callable[..., Tensor]:
    """The training loss: the name of a built-in one, or a function."""
    return code.load(p.training_loss) if code and ":" in p.training_loss else p.training_loss


def own_metrics(p: Parameters, code: OwnCode | None) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The functions of `metrics`, by the name after the colon. Raises OwnCodeError for names that are taken."""
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    if code is None:
        return found
    for full in p.metrics:
        name = full.partition(":")[2]
        if name in found or name in TAKEN or name.startswith("preactivation_"):
            why = "two have it" if name in found else "what is measured anyway has it"
            raise OwnCodeError(f"metrics {full}: there can be no metric {name}, {why}: give it another name")
        found[name] = _function(code, full, "metrics", ("output", "target"), set())
    return found


def finite_only(metric: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The metric, but NaN for each frame whose output is not finite, whatever the metric makes of it.

    A comparison, such as output > 0.5, is false for NaN, so a metric of a model that diverged may look like a result.
    """

    @wraps(metric)
    def measured(output: Tensor, target: Tensor) -> Tensor:
        values = metric(output, target)
        if not isinstance(values, Tensor) or values.shape != output.shape[:2] or not values.is_floating_point():
            return values  # `contract` says what is wrong with them
        return values.where(output.isfinite().flatten(2).all(2), float("nan"))

    vars(measured)["unit"] = getattr(metric, "unit", "1")
    return measured


def _arguments(p: Parameters, code: OwnCode) -> None:
    signature, given = _signature(p, code), p.architecture_arguments
    takes = f"it takes {', '.join(signature) or 'no arguments'}"
    open_ended = any(argument.kind == argument.VAR_KEYWORD for argument in signature.values())
    for name in given:
        if name in OFFERED:
            raise OwnCodeError(f"architecture_arguments {name} is given to every architecture: leave it out")
        if name not in signature and not open_ended:
            raise OwnCodeError(f"architecture {p.architecture} has no argument {name}: {takes}")
    lacks = [
        name
        for name, a in signature.items()
        if a.default is a.empty and a.kind not in (a.VAR_KEYWORD, a.VAR_POSITIONAL)
    ]
    if missing := [name for name in lacks if name not in OFFERED and name not in given]:
        raise OwnCodeError(
            f"architecture {p.architecture} needs {', '.join(missing)}: give it in architecture_arguments, such as "
            f"{{{missing[0]}: 64}}; of the parameters a constructor can ask for {', '.join(OFFERED)}"
        )


def _signature(p: Parameters, code: OwnCode) -> dict[str, inspect.Parameter]:
    kind = code.load(p.architecture)
    if not callable(kind):
        raise OwnCodeError(f"architecture {p.architecture} is a {type(kind).__name__}, not a torch.nn.Module class")
    return {n: a for n, a in inspect.signature(kind).parameters.items() if a.kind != a.VAR_POSITIONAL}


def _function(code: OwnCode, name: str, parameter: str, given: tuple[str, ...], named: set[str]) -> Any:
    function = code.load(name)
    try:
        inspect.signature(function).bind(*given, **dict.fromkeys(named))
    except (TypeError, ValueError) as error:
        wanted = ", ".join([*given, *(["*", *sorted(named)] if named else [])])
        raise OwnCodeError(f"{parameter} {name} must be a function of ({wanted}): {error}") from None
    return function
