"""How long an update takes beside torch's own layers, and what of the card it uses."""

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqae.benchmark.cost_estimate import count_cost, update_key
from seqae.benchmark.dispatch_counter import DispatchCounter
from seqae.benchmark.gpu_check.captured import captured_update
from seqae.benchmark.gpu_check.checks import Checks, project_parameters
from seqae.benchmark.machine_rates import matmul_rate
from seqae.benchmark.peers import PlainAutoencoder, torch_update
from seqae.checkpoint import Stateful
from seqae.data import to_range
from seqae.device import make_accelerator, mixed_precision
from seqae.losses import training_loss
from seqae.parameters import Parameters
from seqae.runs import experiment
from seqae.tasks import branch_targets
from seqae.updates import update

SIZES_OF_TABLE = ("4096-2048-16", "256-64-32", "1024-256-64", "4096-1024-16", "4096-256-32", "1024-128-32")
LARGE, LARGE_ON_CPU = 8192, 256  # side of the matrices whose product tells what the device can do
BURSTS = 5
PEERS = {"lstmcell_loop": 2.0, "nn_lstm": 1.0}  # how many times as long as ours their update should take at least
CAPTURED = {"none": 1e-4, "bf16": 1e-2}  # how far the gradients of a graph may be from eager ones, by precision
WAITS = 1  # of an update for the device, at most: the batch is copied to it


@dataclass(frozen=True)
class Prepared:
    """A model on the device, its batch there, and its update as `fit` makes it, one call an update.

    inputs: what `captured_update` makes the same update of.
    """

    model: nn.Module
    frames: Tensor
    update: Callable[[], None]
    inputs: dict[str, Any]


def check_timing(checks: Checks) -> None:
    """A line for each size of README's table, and for the diary's full size and the recipe."""
    rates: dict[str, float] = {}
    for precision in ("none", "bf16") if checks.device == "cpu" else ("none", "tf32", "bf16", "fp16"):
        with checks.failing(f"product in {precision}"):
            mixed_precision(torch.device(checks.device), precision)
            side = LARGE_ON_CPU if checks.device == "cpu" else LARGE
            rates[precision] = matmul_rate(device=checks.device, precision=precision, size=side)
            figure = f"{rates[precision] / 1e12:.4g} TFLOP/s in a product of {side} × {side} matrices"
            checks.told(f"product in {precision}", rates[precision] > 0, figure, flops=rates[precision])
    seconds = 0.05 if checks.tiny else 0.6
    for name, p in _timing_cases(checks):
        if checks.left < 8 and not checks.tiny:
            checks.skipped("timing", f"no time left from {name} on")
            return
        with checks.failing(f"update {name}"):
            _check_update(checks, f"update {name}", p, rates.get(p.precision), seconds)
        gc.collect()
        if checks.device != "cpu":
            torch.cuda.empty_cache()


def _timing_cases(checks: Checks) -> Iterator[tuple[str, Parameters]]:
    if checks.tiny:
        for reads in ("zero", "output"):
            yield f"256-64-32, {reads}", project_parameters("performance", f"256-64-32-{reads}", "smoke", batch_size=4)
        return
    for reads in ("output", "zero"):
        for precision in ("bf16", "tf32"):
            more = {"precision": precision, "digits": "mnist5k"}
            yield f"full size, {reads}, {precision}", project_parameters("losses", f"0nm-both-{reads}", "paper", **more)
    yield "recipe, bf16", project_parameters("best", "recipe", "paper", digits="mnist5k")
    for size in SIZES_OF_TABLE:
        for reads in ("zero", "output"):
            yield f"{size}, {reads}", project_parameters("performance", f"{size}-{reads}", "paper")
    for reads in ("zero", "output"):
        yield f"smoke, {reads}", project_parameters("losses", f"0nm-both-{reads}", "smoke")


def _check_update(checks: Checks, name: str, p: Parameters, rate: float | None, seconds: float) -> None:
    """One line: ours, eager and captured, its peers, launches, waits, memory, share of the rate of a large product."""
    cost = count_cost(p)
    if checks.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    ready = prepared(p, checks.device)
    eager = milliseconds(ready.update, checks.device, seconds)
    gib = torch.cuda.max_memory_allocated() / 2**30 if checks.device != "cpu" else None
    replayed = None
    with checks.failing(f"{name}, captured"):
        replayed = _captured_ms(checks, f"{name}, captured", p, ready, seconds)
    ours = min(found for found in (eager, replayed) if found is not None)
    figures: dict[str, Any] = {
        "key": update_key(p), "eager_ms": eager, "captured_ms": replayed, "ms": ours, "weights": cost.weights,
        "operations": cost.operations, "share": cost.operations / (ours / 1e3) / rate if rate else None,
        "gib": gib, "counted_gib": (cost.memory + cost.activations) / 2**30,
        "kernels": launched(ready.update, checks.device), "waits": waits(ready.update, checks.device),
    }  # fmt: skip
    figures |= _peers(p, ready, checks.device, seconds)
    for peer in PEERS:
        if peer in figures:
            figures[f"× {peer}"] = figures[peer] / ours
    missed = [] if checks.device == "cpu" else missed_targets(figures)
    checks.told(name, not missed, ", ".join([_told(figures), *missed]), **figures)


def _captured_ms(checks: Checks, name: str, p: Parameters, ready: Prepared, seconds: float) -> float | None:
    """A line of the gradients that a CUDA graph makes; the milliseconds of an update with it, None without one."""
    captured = captured_update(ready.inputs)
    if captured is None:
        checks.skipped(name, "no CUDA graph of this update on this device")
        return None
    right = captured.off <= CAPTURED.get(p.precision, CAPTURED["bf16"])
    checks.told(name, right, f"gradients off by {captured.off:.1e} from eager ones", off=captured.off)
    return milliseconds(captured.update, checks.device, seconds)


def prepared(p: Parameters, device: str) -> Prepared:
    """What `fit` would begin with; weights as torch draws them, on the device itself."""
    accelerator = make_accelerator(device=device)
    with accelerator.device:
        model = experiment.build_model(p).train()
    made = experiment.sequences(p.model_copy(update={"train_sequences": p.batch_size}), "train")
    frames = made.to(accelerator.device)  # an epoch's sequences lie there
    order = torch.arange(len(frames), device=accelerator.device)
    rule, objective = experiment.update_rule(p), experiment.objective_of(p)
    autocast, scaler = mixed_precision(accelerator.device, p.precision)
    optimizer = rule.optimizer(list(model.parameters()))
    if scaler.is_enabled():
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # as fit
    stateful = Stateful(model, optimizer, None, scaler)
    how: dict[str, Any] = {"objective": objective, "rule": rule, "autocast": autocast, "factor": 1.0}
    how |= {"accelerator": accelerator, "watched": False}

    def one() -> None:
        update(model, stateful, frames[order], **how)

    return Prepared(model, frames, one, {"model": model, "stateful": stateful, "frames": frames, **how})


def milliseconds(update: Callable[[], Any], device: str, seconds: float) -> float:
    """The median, over bursts, of what one of several updates in a row takes, once three have warmed up."""
    for _ in range(3):
        update()
    wait(device)
    began = time.perf_counter()
    update()
    wait(device)
    count = max(1, int(seconds / BURSTS / max(time.perf_counter() - began, 1e-6)))
    bursts = []
    for _ in range(BURSTS):
        began = time.perf_counter()
        for _ in range(count):
            update()
        wait(device)
        bursts.append((time.perf_counter() - began) / count)
    return 1e3 * statistics.median(bursts)


def wait(device: str) -> None:
    """Wait until the device has done all that it was sent."""
    if device != "cpu":
        torch.cuda.synchronize()


def launched(update: Callable[[], Any], device: str) -> int | None:
    """Kernels that an update launches, copies included; None where the profiler sees none. On a CPU: operations."""
    if device == "cpu":
        with DispatchCounter() as counter:
            update()
        return counter.launches
    from torch.profiler import ProfilerActivity, profile

    with suppress(RuntimeError), profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        update()
        wait(device)
    with suppress(AttributeError, RuntimeError, UnboundLocalError):
        found = sum("CUDA" in str(event.device_type) for event in seen.events())
        return found or None
    return None


def waits(update: Callable[[], Any], device: str) -> int | None:
    """How often the processor waits for the device in an update, as torch's debug mode tells."""
    if device == "cpu":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            update()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def _peers(p: Parameters, ready: Prepared, device: str, seconds: float) -> dict[str, float]:
    """Milliseconds of the same update by torch's own layers, of those that can make it; in float32 and tf32."""
    found: dict[str, float] = {}
    if p.precision not in ("none", "tf32"):
        return found
    pixels = to_range(ready.frames, p.pixel_range)
    targets = branch_targets(pixels, task=p.task, frames_in=p.frames_in)
    seen = pixels[:, : p.frames_in].contiguous()

    def loss(z: Tensor, target: Tensor) -> Tensor:
        return training_loss(z, target, kind=p.training_loss, activation=p.activation).mean()

    for name, whole in (("lstmcell_loop", False), ("nn_lstm", True)):
        with suppress(ValueError), torch.device(device):  # what these layers cannot build
            net = PlainAutoencoder(ready.model, whole=whole)  # type: ignore[arg-type]
            update = torch_update(net, seen, targets, loss, precision=p.precision)
            found[name] = milliseconds(update, device, seconds)
    return found


def missed_targets(figures: dict[str, Any]) -> list[str]:
    """What of the figures of an update is less than it should be on a GPU, in words."""
    missed = []
    for peer, least in PEERS.items():
        if (times := figures.get(f"× {peer}")) is not None and not times >= least:
            missed.append(f"{peer} should take {least:g} times as long at least")
    if figures["waits"] is not None and figures["waits"] > WAITS:
        missed.append(f"at most {WAITS} wait is needed")
    return missed


def _told(figures: dict[str, Any]) -> str:
    words = [f"{figures['eager_ms']:.4g} ms"]
    if figures["captured_ms"] is not None:
        words.append(f"captured {figures['captured_ms']:.4g} ms")
    words += [f"{peer} {figures[f'× {peer}']:.3g} times that" for peer in PEERS if peer in figures]
    words += [f"{figures[key]} {key}" for key in ("kernels", "waits") if figures[key] is not None]
    if figures["gib"] is not None:
        words.append(f"{figures['gib']:.3g} GiB, {figures['counted_gib']:.3g} counted")
    if figures["share"] is not None:
        words.append(f"{figures['share']:.1%} of the rate of a large product")
    return ", ".join(words)
