"""`fit`: the training loop, flat, top to bottom; `evaluate` and `predict` beside it.

Takes model, data and loss as arguments and knows nothing of run folders or parameter files. Accelerate does device,
mixed precision, gradient scaling and trackers; which sequences make a batch is ours, so that a resumed run sees
exactly the batches of an unbroken one.
"""

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from seqae.data import to_range, to_unit
from seqae.losses import activate, training_loss
from seqae.metrics import frame_errors, image_quality
from seqae.models import SequenceAutoencoder, branch_targets

Row = dict[str, Any]
TRACKERS = {"tensorboard": ["tensorboard", "tensorboardX"]}  # where its package has more than one name


@dataclass(frozen=True)
class Objective:
    """What is trained: the task, its loss (mse, in squared units of pixel_range, or bce, in nats/pixel), and, for
    `both`, recon_weight · recon + pred.
    """

    task: str
    loss: str
    pixel_range: tuple[float, float]
    recon_weight: float = 1.0


@dataclass(frozen=True)
class Fitted:
    """What `fit` ends with: the weights best on val, and when; diverged_at is the epoch of a NaN or Inf loss."""

    weights: dict[str, Tensor]
    best_epoch: int
    diverged_at: int | None


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
    record: Callable[[list[Row]], None],
    clip_norm: float | None = None,
    seed: int = 0,
    precision: str = "none",
    device: str = "auto",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 0.0,
    resume: Callable[[int], None] = lambda epoch: None,
    tracker: str = "none",
    tracker_folder: Path | None = None,
) -> Fitted:
    """Train the model in place and return the weights that were best on val.

    train(epoch) gives the epoch's sequences and val is fixed, both uint8 (N, frames_in + frames_out, H, W). "Best" is
    the least objective on val. record(rows) gets each epoch's metrics: epoch, step, seconds, split, branch, metric,
    value (units in `metrics.UNITS`; branch `all` holds the objective and, on train, the mean gradient norm before
    clipping and the learning rate). checkpoint: a file, replaced atomically at the end of an epoch when
    checkpoint_seconds have passed; if it exists, training goes on from it, after resume(its epoch). The order of
    sequences is a function of (seed, epoch) alone, so the numbers are those of an unbroken run (exactly, on CPU).
    """
    accelerator = make_accelerator(precision=precision, device=device, tracker=tracker, folder=tracker_folder)
    _release(model)
    torch_optimizer = optimizer(model.to(accelerator.device).parameters())
    scheduler = schedule(torch_optimizer)  # before accelerate wraps the optimizer, else it counts no steps under fp16
    net, optim = accelerator.prepare(model, torch_optimizer)
    epoch, step, seconds, best, best_epoch, weights = 0, 0, 0.0, float("inf"), 0, _copy(model)
    diverged_at = None

    if checkpoint and checkpoint.exists():
        state = _load(checkpoint, accelerator.device)
        model.load_state_dict(state["model"])
        optim.load_state_dict(state["optimizer"])
        if scheduler:
            scheduler.load_state_dict(state["scheduler"])
        if accelerator.scaler:
            accelerator.scaler.load_state_dict(state["scaler"])
        epoch, step, seconds, best, best_epoch, diverged_at = state["progress"]
        weights = {name: tensor.cpu() for name, tensor in state["weights"].items()}
        resume(epoch)

    began, saved = time.monotonic() - seconds, time.monotonic()
    steps = -(-len(train(1)) // batch_size)
    with tqdm(total=epochs * steps, initial=step, unit="step", leave=False, mininterval=0.5) as bar:
        while epoch < epochs and diverged_at is None:
            epoch += 1
            frames = train(epoch)
            order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            totals: dict[tuple[str, str], Tensor] = {}
            net.train()
            for indices in order.split(batch_size):
                batch = frames[indices].to(accelerator.device)  # (B, T, H, W) uint8
                value, errors = _measure(net, model, batch, objective)
                accelerator.backward(value)
                norm = accelerator.clip_grad_norm_(model.parameters(), clip_norm or float("inf"))
                optim.step()
                optim.zero_grad()
                step += 1
                bar.update()
                found = {("all", "objective"): value.detach(), ("all", "grad_norm"): norm} | errors
                for key, found_value in found.items():
                    totals[key] = totals.get(key, 0) + found_value.mean() * (len(batch) / len(frames))

            trained = {key: float(value) for key, value in totals.items()}
            trained["all", "learning_rate"] = optim.param_groups[0]["lr"]
            valid = {key: float(v.mean()) for key, v in evaluate(net, model, val, batch_size, objective).items()}
            objective_now = valid["all", "objective"]
            if not (math.isfinite(trained["all", "objective"]) and math.isfinite(objective_now)):
                diverged_at = epoch
            elif objective_now < best:
                best, best_epoch, weights = objective_now, epoch, _copy(model)
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(objective_now)
            elif scheduler:
                scheduler.step()

            seconds = time.monotonic() - began
            at = {"epoch": epoch, "step": step, "seconds": round(seconds, 3)}
            record(
                [
                    at | {"split": split, "branch": branch, "metric": metric, "value": value}
                    for split, values in (("train", trained), ("val", valid))
                    for (branch, metric), value in values.items()
                ]
            )
            accelerator.log({f"val/{branch}/{metric}": v for (branch, metric), v in valid.items()}, step=step)
            bar.set_postfix(epoch=f"{epoch}/{epochs}", val=f"{objective_now:.4g}", refresh=False)
            if checkpoint and time.monotonic() - saved >= checkpoint_seconds:
                state = {  # tensors, numbers and dicts only: `weights_only` loads it
                    "model": model.state_dict(),
                    "optimizer": optim.state_dict(),
                    "scheduler": scheduler.state_dict() if scheduler else None,
                    "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
                    "progress": (epoch, step, seconds, best, best_epoch, diverged_at),
                    "weights": weights,
                }
                _replace(checkpoint, state)
                saved = time.monotonic()
    accelerator.end_training()
    _release(model)
    return Fitted(weights, best_epoch, diverged_at)


def evaluate(
    net: torch.nn.Module,
    model: SequenceAutoencoder,
    frames: Tensor,
    batch_size: int,
    objective: Objective,
    *,
    quality: bool = False,
) -> dict[tuple[str, str], Tensor]:
    """Mean metrics of each frame step over all sequences, (T,) for each (branch, metric); the objective is a scalar.

    frames: uint8 (N, T, H, W). quality adds MAE, PSNR and SSIM. Decoders read their own outputs where they read true
    frames in training. Returns float64 tensors on the CPU.
    """
    device = next(model.parameters()).device
    totals: dict[tuple[str, str], Tensor] = {}
    net.eval()
    with torch.inference_mode():
        for batch in frames.split(batch_size):
            loss, errors = _measure(net, model, batch.to(device), objective, quality=quality)
            for key, value in ({("all", "objective"): loss[None]} | errors).items():
                # in float64, which not every device has
                totals[key] = totals.get(key, 0) + value.cpu().double().mean(0) * (len(batch) / len(frames))
    return totals


def predict(model: SequenceAutoencoder, frames: Tensor, *, pixel_range: tuple[float, float]) -> dict[str, Tensor]:
    """Output frames of each branch on [0, 1], clipped, (B, T, H, W) on the CPU. frames: uint8, (B, frames_in, H, W)."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        outputs = model(to_range(frames.to(device), pixel_range))
    unit = {branch: to_unit(activate(z.float(), model.activation), pixel_range) for branch, z in outputs.items()}
    return {branch: output.clip(0, 1).cpu() for branch, output in unit.items()}


def make_accelerator(
    *, precision: str = "none", device: str = "auto", tracker: str = "none", folder: Path | None = None
) -> Accelerator:
    """Raises ValueError where this machine lacks the device or the device the precision: never falls back silently."""
    kind, _, index = device.partition(":")
    count = {"auto": 1, "cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in count or (":" in device and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps; not {device!r}")
    if int(index or 0) >= count[kind]:
        raise ValueError(f"device {device} is not available on this machine: use device: auto, or cpu")
    if tracker != "none" and not any(find_spec(name) for name in TRACKERS.get(tracker, [tracker])):
        raise ValueError(f"tracker {tracker} is not installed: pip install {tracker}, or use tracker: none")
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may train one run after another
    if index:
        torch.cuda.set_device(int(index))
    accelerator = Accelerator(
        cpu=kind == "cpu",
        mixed_precision="no" if precision == "none" else precision,
        log_with=None if tracker == "none" else tracker,
        project_dir=folder,
    )
    if precision == "fp16" and accelerator.device.type == "cpu":  # accelerate would train on in float32
        raise ValueError("precision fp16 needs a GPU and the device is cpu: use precision: bf16, or none")
    if tracker != "none":
        accelerator.init_trackers("seqae")
    return accelerator


def _measure(
    net: torch.nn.Module, model: SequenceAutoencoder, batch: Tensor, objective: Objective, *, quality: bool = False
) -> tuple[Tensor, dict[tuple[str, str], Tensor]]:
    # One batch of uint8 sequences -> the objective's value (scalar) and every metric of each frame, (B, T).
    frames = to_range(batch, objective.pixel_range)
    frames_in = model.steps["recon"]
    targets = branch_targets(frames, task=objective.task, frames_in=frames_in)
    total = torch.zeros((), device=batch.device)
    errors: dict[tuple[str, str], Tensor] = {}
    for branch, z in net(frames[:, :frames_in], targets).items():
        weight = objective.recon_weight if objective.task == "both" and branch == "recon" else 1.0
        loss = training_loss(z, targets[branch], kind=objective.loss, activation=model.activation)
        total = total + weight * loss.mean()
        with torch.no_grad():
            output = to_unit(activate(z, model.activation), objective.pixel_range)
            target = to_unit(targets[branch], objective.pixel_range)
            # on another range than (0, 1) the pixel is not the sigmoid itself, so no probability
            probability = model.activation == "sigmoid" and objective.pixel_range == (0, 1)
            found = frame_errors(output, target, z if probability else None)
            found |= image_quality(output, target) if quality else {}
        errors |= {(branch, metric): value for metric, value in found.items()}
    return total, errors


def _release(model: torch.nn.Module) -> None:
    # Accelerate leaves its precision in the model and takes a model that it has seen as it is. Freed of that, a model
    # can be fitted again, with another precision, and gives in memory what it gives when loaded from a file.
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(name, None)


def _copy(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what torch makes of torn bytes is any of a dozen types
        raise ValueError(f"{path} is no whole checkpoint ({error}): delete it, and the run starts anew") from error


def _replace(path: Path, state: dict[str, Any]) -> None:
    # A reader, or a resume after a kill at any instant, finds the old file or the new one, whole.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(state, temporary)
    except RuntimeError as error:  # what torch's writer makes of a full disk
        temporary.unlink(missing_ok=True)
        raise OSError(f"checkpoint not written: {error}") from error
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
