"""`fit`: the training loop, flat, top to bottom; `evaluate` and `predict` beside it.

Takes model, data and loss as arguments and knows nothing of run folders or parameter files. Accelerate does device
and trackers, torch mixed precision and gradient scaling; which sequences make a batch is ours, so that a resumed run
sees exactly the batches of an unbroken one.
"""

import ctypes
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from seqae.data import to_range, to_unit
from seqae.diagnose import plateau_begins
from seqae.losses import activate, training_loss
from seqae.metrics import HISTOGRAM_CENTRES, frame_errors, image_quality, output_statistics
from seqae.models import SequenceAutoencoder, branch_targets
from seqae.stopping import stop_asked

Row = dict[str, Any]
# Of an epoch under way: sums for each (branch, metric), overflows, the share they left out, rate, update ratio.
Begun = tuple[dict[tuple[str, str], Any], int, float, float, float]
DTYPES = {"none": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
TRACKERS = {"tensorboard": ["tensorboard", "tensorboardX"]}  # where its package has more than one name
TRACKER_NAMES = {"mlflow": "run_name", "wandb": "name", "trackio": "name"}  # what each calls a run's name


@dataclass(frozen=True)
class Objective:
    """What is trained: the task, its loss (mse, in squared units of pixel_range, or bce, in nats/pixel), and, for
    `both`, recon_weight · recon + pred. reduction: whether the gradient is that of the loss's mean over sequences,
    frames and pixels, or of its sum; reported is the mean, always.
    """

    task: str
    loss: str
    pixel_range: tuple[float, float]
    recon_weight: float = 1.0
    reduction: str = "mean"


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
    tracker: str = "none",
    tracker_folder: Path | None = None,
) -> Fitted:
    """Train the model in place and return the weights that were best on val.

    train(epoch) gives the epoch's sequences and val is fixed, both uint8 (N, frames_in + frames_out, H, W). "Best" is
    the least objective on val. clip_norm: largest gradient norm; clip_update: largest change of one weight in an
    update; patience: epochs without a gain of 1 % on val after which training ends (`diagnose.plateau_begins`).

    record(table, rows) gets each epoch's rows. `metrics`: epoch, step, seconds, split, branch, metric, value (units in
    `metrics.UNITS`; branch `all` holds the objective and, on train, the mean gradient norm before clipping, the
    learning rate, `update_ratio`, the norm of the epoch's last update over that of the weights, and, in fp16,
    `overflows`, updates left out for an infinite gradient). `histograms`: epoch, branch, output, share on val, see
    `metrics.histogram`.

    checkpoint: a file, replaced atomically at the end of an epoch when checkpoint_seconds have passed; if it exists,
    training goes on from it, after resume(its epoch). The order of sequences is a function of (seed, epoch) alone, so
    the numbers are those of an unbroken run (exactly, on CPU). Val is measured in float32, whatever the precision.

    SIGINT (Ctrl-C, Jupyter's interrupt) and SIGTERM end it with KeyboardInterrupt after the update under way, and leave
    a checkpoint from which the epoch goes on where it stood.

    Called by every rank of `parallel.launch`, all train one model: each has its share of every batch and of val, the
    gradients and the numbers are those of the whole, and rank 0 writes the checkpoint. record and resume are to do
    nothing in the others. Who launched them is asked to stop, and stops them: checkpoints are those of whole epochs.
    """
    keep_freed_memory()
    accelerator = make_accelerator(device=device, tracker=tracker, folder=tracker_folder)
    first, ranks = accelerator.is_main_process, accelerator.num_processes
    autocast, scaler = mixed_precision(accelerator.device, precision)
    held = memory(accelerator.device)
    net = accelerator.prepare_model(model)
    parameters = list(model.parameters())
    optim = optimizer(parameters)
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
        begun = state.get("begun", begun)
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
                before = [w.detach().clone() for w in parameters] if clip_update or last else []
                scale = scaler.get_scale()
                clipped = partial(_clipped, clip_norm, net, model, batch, objective, optim, autocast, scaler, factor)
                measured = _update(optim, scaler, clipped, accelerator)
                if clip_update:
                    _limit(optim, parameters, before, clip_update)
                if last:
                    update_ratio = _update_ratio(parameters, before)
                rate = float(optim.param_groups[0]["lr"])
                if scaler.get_scale() < scale:
                    overflows += 1
                    left_out += len(indices) / len(frames)
                    del measured["all", "grad_norm"]  # infinite, and of no update
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
            accelerator.log({f"{r['split']}/{r['branch']}/{r['metric']}": r["value"] for r in rows}, step=step)
            bar.set_postfix(epoch=f"{epoch}/{epochs}", val=f"{objectives[-1]:.4g}", refresh=False)
            if stop or time.monotonic() - saved >= checkpoint_seconds:
                save()
                saved = time.monotonic()
    accelerator.end_training()
    model.__dict__.pop("_is_accelerate_prepared", None)  # so that it can be fitted again
    sound = objectives[: diverged_at - 1] if diverged_at else objectives
    best_epoch = sound.index(min(sound)) + 1 if sound else 0
    peak = None if held is None else memory(accelerator.device, since=held)
    return Fitted(weights, best_epoch, len(objectives), diverged_at, peak)


def evaluate(
    model: SequenceAutoencoder,
    frames: Tensor,
    batch_size: int,
    objective: Objective,
    *,
    statistics: bool = False,
    quality: bool = False,
    stop: Sized = (),
) -> dict[tuple[str, str], Tensor]:
    """Mean metrics of each frame step over all sequences, (T,) for each (branch, metric); the objective is a scalar.

    frames: uint8 (N, T, H, W). statistics adds those of `metrics.output_statistics`, quality MAE, PSNR and SSIM.
    Decoders read their own outputs where they read true frames in training. Returns float64 tensors on the CPU. stop:
    once it is not empty the rest is left out, and what comes back is of no use.
    """
    device = next(model.parameters()).device
    totals: dict[tuple[str, str], Tensor] = {}
    model.eval()
    with torch.inference_mode():
        for batch in frames.split(batch_size):
            if stop:
                break
            outputs = _outputs(model, model, batch.to(device), objective)
            found = {("all", "objective"): _objective(outputs, model, objective)[0][None]}
            for branch, (z, target) in outputs.items():
                errors = _errors(z, target, model, objective, statistics=statistics, quality=quality)
                found |= {(branch, metric): value for metric, value in errors.items()}
            for key, value in found.items():
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


def _share(batch: Tensor, accelerator: Accelerator) -> tuple[Tensor, float]:
    # This rank's part of a batch's first axis, and how large a part of it that is: of fewer than there are ranks, the
    # last have nothing. They take one along that counts nothing, as all have to go through the model.
    mine = batch[accelerator.process_index :: accelerator.num_processes]
    return (mine, len(mine) / len(batch)) if len(mine) else (batch[:1], 0.0)


def make_accelerator(
    *, device: str = "auto", devices: int = 1, tracker: str = "none", folder: Path | None = None
) -> Accelerator:
    """Raises ValueError where this machine lacks the device, `devices` of them, or the tracker: never falls back
    silently. The accelerator is the first device's, or, in a rank of `parallel.launch`, its own.
    """
    kind, _, index = device.partition(":")
    count = {"auto": 1, "cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in count or (":" in device and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps; not {device!r}")
    if int(index or 0) >= count[kind]:
        raise ValueError(f"device {device} is not available on this machine: use device: auto, or cpu")
    there = 1 if index or kind == "mps" else torch.cuda.device_count()
    if devices > max(there, 1) and kind != "cpu":
        raise ValueError(
            f"devices {devices} are more than the GPUs of this machine for device {device}, {there}: use devices: "
            f"{max(there, 1)}, or device: cpu, whose cores {devices} processes share"
        )
    if tracker != "none" and not any(find_spec(name) for name in TRACKERS.get(tracker, [tracker])):
        raise ValueError(f"tracker {tracker} is not installed: pip install {tracker}, or use tracker: none")
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may train one run after another
    if index:
        torch.cuda.set_device(int(index))
    accelerator = Accelerator(
        cpu=kind == "cpu",
        mixed_precision="no",
        log_with=None if tracker == "none" else tracker,
        project_dir=folder,
        # A decoder that reads zeros has weights that read nothing. Without a gradient they stay as they are.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if tracker != "none":
        if tracker == "mlflow":  # what an interrupted training left open, in a notebook for one
            import mlflow

            mlflow.end_run()
        named = {TRACKER_NAMES[tracker]: folder.parent.name} if folder and tracker in TRACKER_NAMES else {}
        accelerator.init_trackers("seqae", init_kwargs={tracker: named})
    return accelerator


def mixed_precision(device: torch.device, precision: str) -> tuple[torch.autocast, torch.amp.GradScaler]:
    """The context of the forward pass and the scaler of its loss (Micikevicius et al., 2018, §3.2); both do nothing
    for `none` and `tf32`, float32 whose products have 10 bits of mantissa on NVIDIA's tensor cores, which this sets for
    the process. Accelerate would train fp16 on a CPU in float32.

    Raises ValueError where the device cannot compute in it: never falls back silently.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision must be one of {', '.join(DTYPES)}; not {precision!r}")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"{torch.cuda.get_device_name(device)} has no bf16: use precision: fp16, or none")
    if precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        raise ValueError(f"{device.type} has no tf32, NVIDIA GPUs since Ampere do: use precision: none, or bf16")
    if device.type == "cuda":  # convolutions and cuDNN's LSTM would take tf32 unasked
        backends: Any = torch.backends
        for backend in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    autocast = torch.autocast(device.type, dtype=DTYPES[precision], enabled=DTYPES[precision] is not None)
    return autocast, torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def _outputs(
    net: torch.nn.Module, model: SequenceAutoencoder, batch: Tensor, objective: Objective
) -> dict[str, tuple[Tensor, Tensor]]:
    # One batch of uint8 sequences -> each branch's pre-activations and targets, (B, T, H, W) in float32.
    frames, frames_in = to_range(batch, objective.pixel_range), model.steps["recon"]
    targets = branch_targets(frames, task=objective.task, frames_in=frames_in)
    return {branch: (z.float(), targets[branch]) for branch, z in net(frames[:, :frames_in], targets).items()}


def _objective(
    outputs: Mapping[str, tuple[Tensor, Tensor]], model: SequenceAutoencoder, objective: Objective
) -> tuple[Tensor, Tensor]:
    # The objective's mean and what is differentiated: that, or its sum over everything; both scalars.
    mean, total = torch.zeros(2, device=next(iter(outputs.values()))[0].device)
    for branch, (z, target) in outputs.items():
        weight = objective.recon_weight if objective.task == "both" and branch == "recon" else 1.0
        loss = weight * training_loss(z, target, kind=objective.loss, activation=model.activation).mean()
        mean, total = mean + loss, total + loss * z.numel()
    return mean, total if objective.reduction == "sum" else mean


def _errors(
    z: Tensor,
    target: Tensor,
    model: SequenceAutoencoder,
    objective: Objective,
    *,
    statistics: bool = False,
    quality: bool = False,
) -> dict[str, Tensor]:
    # Every metric of one branch, of each frame, (B, T).
    output, target = (to_unit(x, objective.pixel_range) for x in (activate(z, model.activation), target))
    # on another range than (0, 1) the pixel is not the sigmoid itself, so no probability
    probability = model.activation == "sigmoid" and objective.pixel_range == (0, 1)
    errors = frame_errors(output, target, z if probability else None)
    errors |= output_statistics(z, output) if statistics else {}
    return errors | (image_quality(output, target) if quality else {})


def backward(
    net: torch.nn.Module,
    model: SequenceAutoencoder,
    batch: Tensor,
    objective: Objective,
    optim: Optimizer,
    autocast: torch.autocast,
    scaler: torch.amp.GradScaler,
    factor: float = 1.0,
) -> tuple[Tensor, dict[tuple[str, str], Tensor]]:
    """Leave the gradients of a batch, uint8 (B, T, H, W), in the weights' .grad; return what they are of, a scalar,
    `factor` times what the objective says, and what was measured, (B, T) for each (branch, metric), the objective a
    scalar.
    """
    optim.zero_grad()
    with autocast:
        outputs = _outputs(net, model, batch, objective)
    value, differentiated = _objective(outputs, model, objective)
    differentiated = factor * differentiated
    scaler.scale(differentiated).backward()
    if scaler.is_enabled():
        scaler.unscale_(optim)
    measured = {("all", "objective"): value.detach()}
    with torch.no_grad():
        for branch, (z, target) in outputs.items():
            errors = _errors(z, target, model, objective)
            measured |= {(branch, metric): error for metric, error in errors.items()}
    return differentiated.detach(), measured


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], most: float | None) -> Tensor:
    """Scale all gradients down to a norm of `most` together, none: leave them; return what it was, a scalar.

    Summed in chunks: a float32 sum over 64 M squares was off by 0.5 %.
    """
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    norms = torch._foreach_norm([chunk for gradient in gradients for chunk in gradient.flatten().split(2**20)])
    norm = torch.linalg.vector_norm(torch.stack(norms))
    # Where the answer costs no waiting for the device, a pass over all gradients is left out.
    if most is not None and (norm.device.type != "cpu" or not norm <= most):
        torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1))
    return norm


def _clipped(clip_norm: float | None, net: torch.nn.Module, *rest: Any) -> tuple[Tensor, dict[tuple[str, str], Tensor]]:
    differentiated, measured = backward(net, *rest)
    return differentiated, measured | {("all", "grad_norm"): clip_gradients(net.parameters(), clip_norm)}


def _update(
    optim: Optimizer,
    scaler: torch.amp.GradScaler,
    clipped: Callable[[], tuple[Tensor, dict[tuple[str, str], Tensor]]],
    accelerator: Accelerator,
) -> dict[tuple[str, str], Tensor]:
    _, measured = clipped()
    if isinstance(optim, torch.optim.LBFGS):  # it asks for the batch's loss and gradients up to max_eval times
        optim.step(lambda: float(accelerator.reduce(clipped()[0], "mean")))
    else:
        scaler.step(optim)
        scaler.update()
    return measured


@torch.no_grad()
def _limit(optim: Optimizer, parameters: Sequence[Tensor], before: Sequence[Tensor], most: float) -> None:
    # As in the code of Srivastava et al., what is limited is SGD's momentum, which there is the update itself.
    for weight, old in zip(parameters, before, strict=True):
        torch.clamp(weight, old - most, old + most, out=weight)
    for group in optim.param_groups:
        for weight in group["params"]:
            momentum = optim.state[weight].get("momentum_buffer") if type(optim) is torch.optim.SGD else None
            if momentum is not None and group["lr"] > 0:
                momentum.clamp_(-most / group["lr"], most / group["lr"])


@torch.no_grad()
def _update_ratio(parameters: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    change = sum(float((w - old).double().square().sum()) for w, old in zip(parameters, before, strict=True))
    return math.sqrt(change / sum(float(old.double().square().sum()) for old in before))


def _histogram(epoch: int, branch: str, share: Tensor) -> list[Row]:
    pairs = zip(HISTOGRAM_CENTRES, share.tolist(), strict=True)
    return [{"epoch": epoch, "branch": branch, "output": centre, "share": value} for centre, value in pairs]


def keep_freed_memory(keep: bool = True) -> None:
    """Have glibc keep what this process frees for what it allocates next.

    It would return large blocks to the kernel, and every update get them back page by page, full of zeros: 20,000
    page faults and a tenth of the time of an update at 1,024 pixels, 256 hidden, 64 sequences. It stays so until the
    process ends, which may then hold 2 GiB that it does not use, or until it is taken back: with keep False glibc does
    what it does by itself once it has seen large blocks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        _ = mallopt(-3, 2**30 if keep else 2**25) or mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, at most 2**25 in old ones
        mallopt(-1, 2**31 - 1 if keep else 2**26)  # M_TRIM_THRESHOLD


def memory(device: torch.device, *, since: int | None = None) -> int | None:
    # Bytes. Without `since`, what is in use, and the peak forgotten; with it, what the peak was above that: of tensors
    # on CUDA, of this process on Linux, elsewhere not known.
    begin, status = since is None, Path("/proc/self/status")
    if device.type == "cuda":
        if begin:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) if begin else torch.cuda.max_memory_allocated(device) - (since or 0)
    if device.type != "cpu" or not status.exists():
        return None
    with suppress(OSError):  # what sets VmHWM back to VmRSS (man proc_pid_clear_refs)
        if begin:
            if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
                trim(0)  # what is free and kept is not in use
            Path("/proc/self/clear_refs").write_text("5")
    kilobytes = {line.split(":")[0]: line.split()[1] for line in status.read_text().splitlines() if " kB" in line}
    return 1024 * int(kilobytes["VmRSS" if begin else "VmHWM"]) - (since or 0)


def _copy(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    where = device if device.type == "cuda" else device.type  # torch.load does not know a rank's cpu:0
    try:
        return torch.load(path, map_location=where, weights_only=True)
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
