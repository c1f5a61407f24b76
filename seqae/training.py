"""`fit`: the training loop, flat, top to bottom, and its checkpoint.

Takes model, data and loss as arguments and knows nothing of run folders or parameter files. Which sequences make a
batch is ours, so that a resumed run sees exactly the batches of an unbroken one.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from seqae.checkpoint import _load, _replace
from seqae.device import keep_freed_memory, make_accelerator, memory, mixed_precision
from seqae.diagnosis import plateau_begins
from seqae.evaluation import Objective, branch_errors, evaluate, objective_value, outputs_and_targets
from seqae.metrics import HISTOGRAM_CENTRES
from seqae.models import SequenceAutoencoder
from seqae.signals import stop_asked

Row = dict[str, Any]
# Of an epoch under way: sums for each (branch, metric), overflows, the share they left out, rate, update ratio.
Begun = tuple[dict[tuple[str, str], Any], int, float, float, float]


@dataclass(frozen=True)
class Fitted:
    """What `fit` ends with: the weights best on val, and when (0: before the first epoch).

    epochs: how many were trained, fewer than asked for where `patience` ended them. diverged_at: the epoch of a NaN or
    Inf loss. peak_memory: bytes above what was held before, of tensors on CUDA, of the process on Linux, else None; of
    several ranks the first's.
    """

    weights: dict[str, Tensor]
    best_epoch: int
    epochs: int
    diverged_at: int | None
    peak_memory: int | None


def fit(
    model: SequenceAutoencoder,
    train: Callable[[int], Tensor],
    val: Tensor,
    *,
    objective: Objective,
    optimizer: Callable[[Iterable[Tensor]], Optimizer],
    schedule: Callable[[Optimizer], LRScheduler | None],
    epochs: int,
    batch_size: int,
    record: Callable[[str, list[Row]], None],
    schedule_per: str = "epoch",
    clip_norm: float | None = None,
    clip_update: float | None = None,
    patience: int | None = None,
    seed: int = 0,
    precision: str = "none",
    device: str = "auto",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 0.0,
    resume: Callable[[int], None] = lambda epoch: None,
) -> Fitted:
    """Train the model in place and return the weights that were best on val.

    train(epoch) gives the epoch's sequences and val is fixed, both uint8 (N, frames_in + frames_out, H, W). "Best" is
    the least objective on val. clip_norm: largest gradient norm; clip_update: largest change of one weight in an
    update; patience: epochs without a gain of 1 % on val after which training ends (`diagnose.plateau_begins`).

    record(table, rows) gets each epoch's rows. `metrics`: epoch, step, seconds, split, branch, metric, value (units in
    `metrics.UNITS`; on val the least and largest pre-activation, too; branch `all` holds the objective and, on train,
    the mean gradient norm before clipping, the learning rate, `update_ratio`, the norm of the epoch's last update over
    that of the weights, and, in fp16, `overflows`, updates left out for an infinite gradient). `histograms`: epoch,
    branch, output, share on val, see `metrics.histogram`.

    checkpoint: a file, replaced atomically at the end of an epoch when checkpoint_seconds have passed; if it exists,
    training goes on from it, after resume(its epoch). The order of sequences is a function of (seed, epoch) alone, so
    the numbers are those of an unbroken run (exactly, on CPU). Val is measured in float32, whatever the precision, but
    for tf32.

    SIGINT (Ctrl-C, Jupyter's interrupt) and SIGTERM end it with KeyboardInterrupt after the update under way, and leave
    a checkpoint from which the epoch goes on where it stood.

    Called by every rank of `parallel.launch`, all train one model: each has its share of every batch and of val, the
    gradients and the numbers are those of the whole, and rank 0 writes the checkpoint. record and resume are to do
    nothing in the others. Who launched them is asked to stop, and stops them: checkpoints are those of whole epochs.
    """
    keep_freed_memory()
    accelerator = make_accelerator(device=device)
    first, ranks = accelerator.is_main_process, accelerator.num_processes
    autocast, scaler = mixed_precision(accelerator.device, precision)
    held = memory(accelerator.device)
    net = accelerator.prepare_model(model)
    optim = optimizer(list(model.parameters()))
    if scaler.is_enabled():  # else fused SGD, its first update left out, goes on from uninitialised momentum
        optim._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    scheduler = schedule(optim)
    objectives: list[float] = []  # on val, an epoch each
    step, seconds, weights, diverged_at = 0, 0.0, _copy(model), None
    begun: Begun = ({}, 0, 0.0, 0.0, 0.0)

    def save() -> None:
        if checkpoint and first:
            state = {  # tensors, numbers, lists, tuples and dicts only: `weights_only` loads it
                "model": model.state_dict(),
                "optimizer": optim.state_dict(),
                "scheduler": scheduler.state_dict() if scheduler else None,
                "scaler": scaler.state_dict(),
                "progress": (step, seconds, objectives, diverged_at),
                "begun": begun,
                "weights": weights,
            }
            _replace(checkpoint, state)

    if checkpoint and checkpoint.exists():
        state = _load(checkpoint, accelerator.device)
        model.load_state_dict(state["model"])
        optim.load_state_dict(state["optimizer"])
        if scheduler:
            scheduler.load_state_dict(state["scheduler"])
        scaler.load_state_dict(state["scaler"])
        if len(state["progress"]) != 4:
            raise ValueError(f"{checkpoint} is of an older version: delete it, and the run starts anew")
        step, seconds, objectives, diverged_at = state["progress"]
        totals, *others = state.get("begun", begun)  # what one rank had summed up
        begun = ({key: value / ranks for key, value in totals.items()}, *others)
        weights = {name: tensor.cpu() for name, tensor in state["weights"].items()}
        resume(len(objectives))

    began, saved = time.monotonic() - seconds, time.monotonic()
    steps = -(-len(train(1)) // batch_size)
    val, val_share = _share(val, accelerator)
    stopping: AbstractContextManager[list[int]] = stop_asked() if ranks == 1 else nullcontext([])
    with (
        stopping as stop,
        tqdm(total=epochs * steps, initial=step, unit="step", leave=False, mininterval=0.5, disable=not first) as bar,
    ):
        while len(objectives) < epochs and diverged_at is None and not stop:
            if patience and objectives and len(objectives) - plateau_begins(objectives) >= patience:
                break
            epoch = len(objectives) + 1
            frames = train(epoch)
            order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            totals, overflows, left_out, rate, update_ratio = begun
            net.train()
            for indices in order.split(batch_size)[step - len(objectives) * steps :]:
                mine, share = _share(indices, accelerator)
                batch = frames[mine].to(accelerator.device)  # (B, T, H, W) uint8
                # What is differentiated is averaged over the ranks: N times a rank's part of the mean, or of the sum.
                factor = ranks * (share if objective.reduction == "mean" else share > 0)
                last = step + 1 == epoch * steps
                measured, ratio, overflowed = update(
                    net, model, batch, objective=objective, optim=optim, autocast=autocast, scaler=scaler,
                    factor=factor, accelerator=accelerator, clip_norm=clip_norm, clip_update=clip_update, watched=last,
                )  # fmt: skip
                update_ratio = update_ratio if ratio is None else ratio
                rate = float(optim.param_groups[0]["lr"])
                if overflowed:
                    overflows += 1
                    left_out += len(indices) / len(frames)
                elif scheduler and schedule_per == "update":
                    scheduler.step()
                step += 1
                bar.update()
                for key, value in measured.items():
                    totals[key] = totals.get(key, 0) + value.mean() * (share * len(indices) / len(frames))
                if stop:
                    break

            found = {} if stop else evaluate(model, val, batch_size, objective, statistics=True, stop=stop)
            if stop:  # in the midst of an epoch
                seconds, begun = time.monotonic() - began, (totals, overflows, left_out, rate, update_ratio)
                save()
                break
            begun = ({}, 0, 0.0, 0.0, 0.0)
            found = accelerator.reduce({key: value * val_share for key, value in found.items()}, "sum")
            trained = {key: float(value) for key, value in accelerator.reduce(totals, "sum").items()}
            trained["all", "learning_rate"] = rate
            trained["all", "update_ratio"] = update_ratio
            if precision == "fp16":
                trained["all", "overflows"] = overflows
                if ("all", "grad_norm") in trained:
                    trained["all", "grad_norm"] /= 1 - left_out
            shares = {branch: found.pop((branch, metric)) for branch, metric in [*found] if metric == "histogram"}
            valid = {key: float(value.mean()) for key, value in found.items()}
            objectives.append(valid["all", "objective"])
            if not (math.isfinite(trained["all", "objective"]) and math.isfinite(objectives[-1])):
                diverged_at = epoch
            elif all(objectives[-1] < earlier for earlier in objectives[:-1]):
                weights = _copy(model)
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(objectives[-1])
            elif scheduler and schedule_per == "epoch" and overflows < steps:
                scheduler.step()

            seconds = time.monotonic() - began
            at = {"epoch": epoch, "step": step, "seconds": round(seconds, 3)}
            rows = [
                at | {"split": split, "branch": branch, "metric": metric, "value": value}
                for split, values in (("train", trained), ("val", valid))
                for (branch, metric), value in values.items()
            ]
            record("histograms", [row for branch, share in shares.items() for row in _histogram(epoch, branch, share)])
            record("metrics", rows)  # the last thing an epoch leaves: what is here is whole
            bar.set_postfix(epoch=f"{epoch}/{epochs}", val=f"{objectives[-1]:.4g}", refresh=False)
            if stop or time.monotonic() - saved >= checkpoint_seconds:
                save()
                saved = time.monotonic()
    model.__dict__.pop("_is_accelerate_prepared", None)  # so that it can be fitted again
    sound = objectives[: diverged_at - 1] if diverged_at else objectives
    best_epoch = sound.index(min(sound)) + 1 if sound else 0
    peak = None if held is None else memory(accelerator.device, since=held)
    return Fitted(weights, best_epoch, len(objectives), diverged_at, peak)


def _share(batch: Tensor, accelerator: Accelerator) -> tuple[Tensor, float]:
    # This rank's part of a batch's first axis, and how large a part of it that is: of fewer than there are ranks, the
    # last have nothing. They take one along that counts nothing, as all have to go through the model.
    mine = batch[accelerator.process_index :: accelerator.num_processes]
    return (mine, len(mine) / len(batch)) if len(mine) else (batch[:1], 0.0)


def _histogram(epoch: int, branch: str, share: Tensor) -> list[Row]:
    pairs = zip(HISTOGRAM_CENTRES, share.tolist(), strict=True)
    return [{"epoch": epoch, "branch": branch, "output": centre, "share": value} for centre, value in pairs]


def _copy(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


Measured = tuple[Tensor, dict[tuple[str, str], Tensor]]  # what was differentiated, and metrics by (branch, metric)


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
