"""What a run will cost, before it runs. Weights, memory and operations are counted; a time is always measured: on the
device at hand, or, as recorded, on a named GPU.
"""

import json
import math
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from seqae.benchmark.dispatch_counter import DispatchCounter
from seqae.benchmark.machine_rates import matmul_rate
from seqae.capture import WARM_UP
from seqae.device import make_accelerator, mixed_precision
from seqae.parameters import EXECUTION, Parameters
from seqae.runs import experiment
from seqae.tasks import branch_targets

# Parameters that change nothing about the time of an update.
NO_TIME = {*EXECUTION, "seed", "data_seed", "pixel_range", "activation", "training_loss", "gain", "recon_weight"}
NO_TIME |= {"learning_rate", "momentum", "weight_decay", "clip_norm", "init", "init_range", "bias_init", "forget_bias"}
NO_TIME |= {"digits_per_sequence", "digit_speed"}
# Of these, the time of a run depends on how many there are, that of an update does not.
COUNTS = {"epochs", "train_sequences", "val_sequences", "test_sequences", "test_data", "endless", "patience", "digits"}
COUNTS |= {"repeats", "schedule", "schedule_per", "schedule_every", "schedule_gamma", "schedule_arguments"}
COUNTS |= {"horizon_until"}  # which makes the time of a run less than is said here
RECORDED_GPUS = Path(__file__).with_name("recorded_gpus.json")  # written by docs/gpu.py, of files of `make gpu-check`
SMALL = 5e10  # floating-point operations of an update; below this, a CPU takes a few updates in seconds


@dataclass(frozen=True)
class Cost:
    """What training with some parameters takes, counted on tensors that hold no numbers; the same on every machine.

    launches are the tensor operations of an update's forward and backward pass, made step by step as on a CPU. cuDNN
    takes several of them at once; clipping and optimizer come on top.
    """

    weights: int  # their number
    memory: int  # bytes of weights, gradients and optimizer state
    activations: int  # bytes that the backward pass needs of the forward pass, at most
    operations: int  # floating-point operations of an update
    launches: int
    updates: int  # of all epochs
    times: float  # updates of which all epochs take the time; the forward pass of an evaluation is a third of one


@dataclass(frozen=True)
class RecordedUpdate:
    """The time of an update as `make gpu-check` measured it on a GPU; docs/gpu.md has the figures."""

    key: str  # `update_key` of its parameters
    ms: float
    card: str
    date: str
    commit: str


@dataclass(frozen=True)
class CostEstimate(Cost):
    """What training costs and how long it takes."""

    seconds: float | None  # of all epochs on this machine; None where it lacks the device or its precision
    how: str  # how the seconds were estimated, or why not
    recorded: tuple[RecordedUpdate, ...]  # of such an update, one a card


def count_cost(p: Parameters) -> Cost:
    """Count what training with these parameters takes; nothing is computed.

    Raises ValueError as `experiment.check_parameters` does.
    """
    experiment.check_parameters(p)
    model, batch = experiment.sized_model(p).train(), _batch_of(p)
    weights = sum(w.numel() for w in model.parameters())
    counter, activations = _count_update(model, p, batch)
    updates = p.epochs * math.ceil(p.train_sequences / batch)
    evaluations = p.epochs * math.ceil(p.val_sequences / p.batch_size)
    return Cost(
        weights=weights,
        memory=round(4 * weights * (2 + _optimizer_state(p))),
        activations=activations,
        operations=counter.operations,
        launches=counter.launches,
        updates=updates,
        times=updates + evaluations / 3,
    )


def estimate_cost(p: Parameters) -> CostEstimate:
    """Count what training with these parameters takes, and time it on this machine, where it can run there.

    Raises ValueError as `count_cost`.
    """
    cost, recorded, update = count_cost(p), recorded_updates(p), None
    try:
        device = make_accelerator(device=p.device).device
        mixed_precision(device, p.precision)
    except ValueError as reason:
        return CostEstimate(**vars(cost), seconds=None, how=str(reason), recorded=recorded)
    on_gpu = device.type == "cuda"
    if on_gpu or cost.operations < SMALL:
        with suppress(torch.OutOfMemoryError):
            update, how = _timed_update(p, _batch_of(p)), "timed updates"
    if update is None:
        rate = matmul_rate(device=p.device, precision=p.precision)
        update, how = cost.operations / rate, f"the rate of a large matrix product here, {rate / 1e9:,.0f} GFLOP/s"
    return CostEstimate(**vars(cost), seconds=update * cost.times, how=how, recorded=recorded)


def update_key(p: Parameters) -> str:
    """What tells an update of these parameters from one that takes another time: 12 digits of a hash."""
    of_update = p.model_copy(update={"batch_size": _batch_of(p)})
    text = of_update.model_dump_json(exclude=NO_TIME | COUNTS, exclude_defaults=True)
    return sha256((text + _own_loss(p)).encode()).hexdigest()[:12]


def _own_loss(p: Parameters) -> str:
    return p.training_loss if ":" in p.training_loss else ""  # the built-in ones take no time that counts


def recorded_updates(p: Parameters) -> tuple[RecordedUpdate, ...]:
    """What was recorded of an update of these parameters, the latest of each card."""
    key = update_key(p)
    return tuple({found.card: found for found in _all_recorded(RECORDED_GPUS) if found.key == key}.values())


@cache
def _all_recorded(file: Path) -> list[RecordedUpdate]:
    listed = [RecordedUpdate(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    return sorted(listed, key=lambda found: found.date)


def _batch_of(p: Parameters) -> int:
    return min(p.batch_size, p.train_sequences)


def estimate_costs(runs: Sequence[Parameters]) -> list[CostEstimate]:
    """`estimate_cost` of each run; runs that differ in nothing that takes time are timed once."""
    keys = [f"{_own_loss(p)} {p.model_dump_json(exclude=NO_TIME)}" for p in runs]
    found = {key: estimate_cost(p) for key, p in dict(zip(keys, runs, strict=True)).items()}
    return [found[key] for key in keys]


def _count_update(model: torch.nn.Module, p: Parameters, batch: int) -> tuple[DispatchCounter, int]:
    """One forward and backward pass where the model is, on the meta device or, if it cannot be built there, for real:
    its counter, and the bytes that are saved for the backward.
    """
    saved: dict[int, int] = {}  # bytes by storage

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with next(model.parameters()).device, hooks, DispatchCounter() as counter:
        frames = torch.zeros(batch, p.frames_in + p.frames_out, *p.frame_shape)
        targets = branch_targets(frames, task=p.task, frames_in=p.frames_in)
        torch.stack([z.sum() for z in model(frames[:, : p.frames_in], targets).values()]).sum().backward()
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    return counter, sum(size for storage, size in saved.items() if storage not in own)


def _timed_update(p: Parameters, batch: int, steps: int = WARM_UP + 1) -> float:
    """Seconds of an update in the training loop itself; the first of two short epochs warms up, and records on CUDA."""
    rows: list[dict[str, Any]] = []
    short = {
        "train_sequences": steps * batch,
        "epochs": 2,
        "tracker": "none",
        "devices": 1,
        "metrics": (),
        "init": "default",
        "horizon_until": None,
    }
    few = p.model_copy(update=short | {"learning_rate": 1e-9})  # a diverged run would end before the second epoch
    val = experiment.sequences(few.model_copy(update={"val_sequences": 1}), "val")
    with redirect_stderr(StringIO()):  # without its progress bar
        experiment.train_model(few, val, record=lambda table, found: rows.extend(found))
    first, last = (max(row.get("seconds", 0.0) for row in rows if row["epoch"] == epoch) for epoch in (1, 2))
    return (last - first) / steps


def _optimizer_state(p: Parameters) -> float:
    """How many numbers the optimizer keeps for each weight, as seen on a small matrix and a bias."""
    weights = [torch.nn.Parameter(torch.zeros(64, 64)), torch.nn.Parameter(torch.zeros(64))]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer = experiment.optimizer_of(p)(weights)
    optimizer.step(lambda: 0.0)  # LBFGS calls this function for the loss
    state = [value for value in tree_leaves(optimizer.state_dict()) if isinstance(value, torch.Tensor)]
    return sum(value.numel() for value in state if value.numel() > 1) / sum(weight.numel() for weight in weights)
