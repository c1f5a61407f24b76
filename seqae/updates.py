"""One update: what is trained, its gradients, and the limits set to gradients and updates.

Of a batch everything is here, of an epoch nothing: that is `train`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from seqae.data import to_range, to_unit
from seqae.losses import activate, training_loss
from seqae.metrics import frame_errors, image_quality, output_statistics
from seqae.models import SequenceAutoencoder, branch_targets

Measured = tuple[Tensor, dict[tuple[str, str], Tensor]]  # what was differentiated, and metrics by (branch, metric)


@dataclass(frozen=True)
class Objective:
    """What is trained: the loss (mse, in squared units of pixel_range, or bce, in nats/pixel), and, of a model with two
    branches, recon_weight · recon + pred. reduction: whether the gradient is that of the loss's mean over sequences,
    frames and pixels, or of its sum; reported is the mean, always.
    """

    loss: str
    pixel_range: tuple[float, float]
    recon_weight: float = 1.0
    reduction: str = "mean"


def outputs_and_targets(
    net: torch.nn.Module, model: SequenceAutoencoder, batch: Tensor, objective: Objective
) -> dict[str, tuple[Tensor, Tensor]]:
    """One batch of uint8 sequences -> each branch's pre-activations and targets, (B, T, H, W) in float32."""
    frames, frames_in = to_range(batch, objective.pixel_range), model.steps["recon"]
    targets = branch_targets(frames, task=model.task, frames_in=frames_in)
    return {branch: (z.float(), targets[branch]) for branch, z in net(frames[:, :frames_in], targets).items()}


def objective_value(
    outputs: Mapping[str, tuple[Tensor, Tensor]], model: SequenceAutoencoder, objective: Objective
) -> tuple[Tensor, Tensor]:
    """The objective's mean and what is differentiated: that, or its sum over everything; both scalars."""
    mean, total = torch.zeros(2, device=next(iter(outputs.values()))[0].device)
    for branch, (z, target) in outputs.items():
        weight = objective.recon_weight if branch == "recon" and len(outputs) > 1 else 1.0
        loss = weight * training_loss(z, target, kind=objective.loss, activation=model.activation).mean()
        mean, total = mean + loss, total + loss * z.numel()
    return mean, total if objective.reduction == "sum" else mean


def branch_errors(
    outputs: Mapping[str, tuple[Tensor, Tensor]],
    model: SequenceAutoencoder,
    objective: Objective,
    *,
    statistics: bool = False,
    quality: bool = False,
) -> dict[tuple[str, str], Tensor]:
    """Every metric of each frame, (B, T) for each (branch, metric), and with `statistics` the histogram, (B, bins)."""
    # on another range than (0, 1) the pixel is not the sigmoid itself, so no probability
    probability = model.activation == "sigmoid" and objective.pixel_range == (0, 1)
    found: dict[tuple[str, str], Tensor] = {}
    for branch, (z, target) in outputs.items():
        output, target = (to_unit(x, objective.pixel_range) for x in (activate(z, model.activation), target))
        errors = frame_errors(output, target, z if probability else None)
        errors |= output_statistics(z, output) if statistics else {}
        errors |= image_quality(output, target) if quality else {}
        found |= {(branch, metric): error for metric, error in errors.items()}
    return found


def backward(
    net: torch.nn.Module,
    model: SequenceAutoencoder,
    batch: Tensor,
    *,
    objective: Objective,
    optim: Optimizer,
    autocast: torch.autocast,
    scaler: torch.amp.GradScaler,
    factor: float = 1.0,
) -> Measured:
    """Leave the gradients of a batch, uint8 (B, T, H, W), in the weights' .grad; return what they are of, a scalar,
    `factor` times what the objective says, and what was measured, (B, T) for each (branch, metric), the objective a
    scalar.

    net: what is called, `model` itself or what shares its gradients with other ranks.
    """
    optim.zero_grad()
    with autocast:
        outputs = outputs_and_targets(net, model, batch, objective)
    value, differentiated = objective_value(outputs, model, objective)
    differentiated = factor * differentiated
    scaler.scale(differentiated).backward()
    if scaler.is_enabled():
        scaler.unscale_(optim)
    with torch.no_grad():
        errors = branch_errors(outputs, model, objective)
    return differentiated.detach(), {("all", "objective"): value.detach()} | errors


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], most: float | None) -> Tensor:
    """Scale all gradients down to a norm of `most` together, none: leave them; return what it was, a scalar."""
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    norm = _norm(gradients)
    # Where the answer costs no waiting for the device, a pass over all gradients is left out.
    if most is not None and (norm.device.type != "cpu" or not norm <= most):
        torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1))
    return norm


def update(
    net: torch.nn.Module,
    model: SequenceAutoencoder,
    batch: Tensor,
    *,
    optim: Optimizer,
    scaler: torch.amp.GradScaler,
    accelerator: Accelerator,
    clip_norm: float | None,
    clip_update: float | None,
    watched: bool,
    **how: Any,
) -> tuple[dict[tuple[str, str], Tensor], float | None, bool]:
    """Change the weights once; how: as `backward`. What was measured (for LBFGS the first time), with the scalar
    `grad_norm`; `watched`, the update's norm over that of the weights; whether it overflowed and was left out.
    """
    parameters, scale = list(model.parameters()), scaler.get_scale()
    before = [w.detach().clone() for w in parameters] if clip_update or watched else []

    def gradients() -> Measured:
        differentiated, measured = backward(net, model, batch, optim=optim, scaler=scaler, **how)
        return differentiated, measured | {("all", "grad_norm"): clip_gradients(parameters, clip_norm)}

    _, measured = gradients()
    if isinstance(optim, torch.optim.LBFGS):  # it asks for the batch's loss and gradients up to max_eval times
        optim.step(lambda: float(accelerator.reduce(gradients()[0], "mean")))
    else:
        scaler.step(optim)
        scaler.update()
    if clip_update:
        limit_update(optim, parameters, before, clip_update)
    if overflowed := scaler.get_scale() < scale:
        del measured["all", "grad_norm"]  # infinite, and of no update
    return measured, update_ratio_of(parameters, before) if watched else None, overflowed


@torch.no_grad()
def limit_update(optim: Optimizer, parameters: Sequence[Tensor], before: Sequence[Tensor], most: float) -> None:
    """Let no weight be further than `most` from what it was before the update; nor any of SGD's momentum, which in the
    code of Srivastava et al. is the update itself.
    """
    for weight, old in zip(parameters, before, strict=True):
        torch.clamp(weight, old - most, old + most, out=weight)
    for group in optim.param_groups:
        for weight in group["params"]:
            momentum = optim.state[weight].get("momentum_buffer") if type(optim) is torch.optim.SGD else None
            if momentum is not None and group["lr"] > 0:
                momentum.clamp_(-most / group["lr"], most / group["lr"])


@torch.no_grad()
def update_ratio_of(parameters: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The norm of the change of all weights over what theirs was."""
    return float(_norm([new - old for new, old in zip(parameters, before, strict=True)]) / _norm(before))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    # Of all together, in chunks: a float32 sum over 64 M squares was off by 0.5 %, and not every device has float64.
    norms = torch._foreach_norm([chunk for tensor in tensors for chunk in tensor.flatten().split(2**20)])
    return torch.linalg.vector_norm(torch.stack(norms))
