"""One update of the weights: its rule, its gradients, and the limits set to gradients and updates."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from seqae.checkpoint import Stateful
from seqae.evaluation import branch_errors
from seqae.metrics import BranchMetrics
from seqae.objective import Objective, branch_outputs, objective_value
from seqae.tasks import check_choice, check_positive


@dataclass(frozen=True)
class UpdateRule:
    """How the weights are changed.

    optimizer: takes the weights, returns a torch optimizer. schedule: takes that, returns its scheduler, or None;
    schedule_per: `epoch` or `update`, how often the scheduler takes a step (ReduceLROnPlateau, which reads the
    objective on val: every epoch). clip_norm: largest gradient norm, of all weights together. clip_update: largest
    change of one weight in an update. precision: of matrix products, none (float32), tf32, bf16 or fp16:
    `seqae.device.mixed_precision`. length: takes the number of updates made; the next one is of so many frames of its
    sequences, the first ones (None: all), so that fewer are predicted.
    """

    optimizer: Callable[[Iterable[Tensor]], Optimizer]
    schedule: Callable[[Optimizer], LRScheduler | None] = lambda optimizer: None
    schedule_per: str = "epoch"
    clip_norm: float | None = None
    clip_update: float | None = None
    precision: str = "none"
    length: Callable[[int], int | None] = lambda made: None

    def __post_init__(self) -> None:
        check_choice("schedule_per", self.schedule_per, ("epoch", "update"))
        check_positive(float, clip_norm=self.clip_norm, clip_update=self.clip_update)
        for name, of in (("optimizer", "weights"), ("schedule", "optimizer"), ("length", "made")):
            if not callable(given := getattr(self, name)):
                raise ValueError(f"{name} must be a function that makes it, lambda {of}: …; not {type(given).__name__}")


@dataclass(frozen=True)
class Gradients:
    """The result of differentiating one batch. differentiated: the scalar whose gradients these are. objective: the
    mean over the batch, a scalar. errors: (B, T) for each branch and metric.
    """

    differentiated: Tensor
    objective: Tensor
    errors: BranchMetrics


@dataclass(frozen=True)
class Updated:
    """The result of one update. objective, errors: of its batch, as in `Gradients`. grad_norm: the norm before
    clipping, a scalar; None where an infinite gradient (fp16) left the update out. ratio: the norm of the update over
    that of the weights; None where it was not asked for.
    """

    objective: Tensor
    errors: BranchMetrics
    grad_norm: Tensor | None
    ratio: float | None


def gradients(
    net: nn.Module, batch: Tensor, *, objective: Objective, optimizer: Optimizer,
    autocast: torch.autocast, scaler: torch.amp.GradScaler, factor: float = 1.0,
) -> Gradients:  # fmt: skip
    """Leave the gradients of `factor` times the objective in the weights' .grad.

    net: the model, or what shares its gradients with other ranks. batch: uint8 (B, T, H, W).
    """
    optimizer.zero_grad()
    with autocast:
        outputs = branch_outputs(net, batch, objective)
    value, differentiated = objective_value(outputs, objective)
    differentiated = factor * differentiated
    scaler.scale(differentiated).backward()
    if scaler.is_enabled():
        scaler.unscale_(optimizer)
    with torch.no_grad():
        errors = branch_errors(outputs, objective)
    return Gradients(differentiated.detach(), value.detach(), errors)


def update(
    net: nn.Module, stateful: Stateful, batch: Tensor, *, objective: Objective, rule: UpdateRule,
    autocast: torch.autocast, factor: float, accelerator: Accelerator, watched: bool,
    differentiate: Callable[..., Gradients] = gradients,
) -> Updated:  # fmt: skip
    """Change the weights once. net, batch, factor: as `gradients`. watched: measure the update's size as well.
    differentiate: `gradients`, or what does the same.
    """
    optimizer, scaler, model = stateful.optimizer, stateful.scaler, stateful.model
    changed = {weight for group in optimizer.param_groups for weight in group["params"]}
    parameters = [weight for weight in model.parameters() if weight in changed]  # others keep gradients for ever
    before = [w.detach().clone() for w in parameters] if rule.clip_update or watched else []

    given = {"objective": objective, "optimizer": optimizer, "autocast": autocast, "scaler": scaler, "factor": factor}

    def clipped() -> tuple[Gradients, Tensor]:
        return differentiate(net, batch, **given), clip_gradients(parameters, rule.clip_norm)

    found, norm = clipped()  # with LBFGS, which makes gradients of its own, only for what is reported
    if isinstance(optimizer, torch.optim.LBFGS):  # it asks for the batch's loss and gradients up to max_eval times
        optimizer.step(lambda: float(accelerator.reduce(clipped()[0].differentiated, "mean")))
    else:
        scaler.step(optimizer)
        scaler.update()
    if rule.clip_update:
        limit_update(optimizer, parameters, before, rule.clip_update)
    overflowed = scaler.is_enabled() and not math.isfinite(norm)  # reads the norm, so fp16 waits for the device here
    ratio = update_ratio(parameters, before) if watched else None
    return Updated(found.objective, found.errors, None if overflowed else norm, ratio)


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], most: float | None) -> Tensor:
    """Scale all gradients so that their common norm is at most `most` (None: leave them); return the norm before."""
    found = [weight.grad for weight in parameters if weight.grad is not None]
    norm = _norm(found)
    # On a CPU a small norm saves the multiplication. A GPU always multiplies, because a comparison would wait for it.
    if most is not None and (norm.device.type != "cpu" or not norm <= most):
        torch._foreach_mul_(found, (most / (norm + 1e-6)).clamp(max=1))
    return norm


@torch.no_grad()
def limit_update(optimizer: Optimizer, parameters: Sequence[Tensor], before: Sequence[Tensor], most: float) -> None:
    """Let no weight be further than `most` from its value before the update. SGD's momentum is limited, too, to most /
    lr: in the code of Srivastava et al. the momentum is the update.
    """
    for weight, old in zip(parameters, before, strict=True):
        torch.clamp(weight, old - most, old + most, out=weight)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            momentum = optimizer.state[weight].get("momentum_buffer") if type(optimizer) is torch.optim.SGD else None
            if momentum is not None and group["lr"] > 0:
                momentum.clamp_(-most / group["lr"], most / group["lr"])


@torch.no_grad()
def update_ratio(parameters: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The norm of the change of all weights over their norm before it."""
    return float(_norm([new - old for new, old in zip(parameters, before, strict=True)]) / _norm(before))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    # Of all together, in chunks: a float32 sum over 64 M squares was off by 0.5 %, and not every device has float64.
    norms = torch._foreach_norm([chunk for tensor in tensors for chunk in tensor.flatten().split(2**20)])
    return torch.linalg.vector_norm(torch.stack(norms))
