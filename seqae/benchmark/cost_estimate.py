"""What a run will cost, before it runs: weights, memory, operations, time."""

import math
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from seqae.benchmark.dispatch_counter import DispatchCounter
from seqae.benchmark.machine_rates import matmul_rate
from seqae.parameters import EXECUTION, Parameters
from seqae.runs import experiment
from seqae.tasks import branch_targets

# Parameters that change nothing about the time of an update.
NO_TIME = {*EXECUTION, "seed", "data_seed", "pixel_range", "activation", "training_loss", "gain", "recon_weight"}
NO_TIME |= {"learning_rate", "momentum", "weight_decay", "clip_norm", "init", "init_range", "bias_init", "forget_bias"}
NO_TIME |= {"digits_per_sequence", "digit_speed"}
# An H100 SXM's dense operations a second by precision, as in its data sheet; the share that a run reaches is assumed.
H100_RATES = {"none": 67e12, "tf32": 494.7e12, "bf16": 989.4e12, "fp16": 989.4e12}
H100_SHARE = 0.3
H100_LAUNCH_SECONDS = 1e-5  # the least time of one operation launched from Python, assumed as well
SMALL = 5e10  # floating-point operations of an update; below this, timing a few updates is quick


@dataclass(frozen=True)
class CostEstimate:
    """What training with some parameters costs.

    launches are the tensor operations of an update's forward and backward pass, made step by step as on a CPU. cuDNN
    takes several of them at once; clipping and optimizer come on top. h100_seconds is the longer of two times: that of
    the operations at H100_SHARE of an H100's peak in the run's precision, and H100_LAUNCH_SECONDS for each launch.
    """

    weights: int  # their number
    memory: int  # bytes of weights, gradients and optimizer state
    activations: int  # bytes that the backward pass needs of the forward pass, at most
    operations: int  # floating-point operations of an update
    launches: int
    updates: int  # of all epochs
    seconds: float  # of all epochs on this machine
    how: str  # how the seconds were estimated
    h100_seconds: float  # of all epochs on an H100


def estimate_cost(p: Parameters) -> CostEstimate:
    """Count what training with these parameters takes, and time it on this machine.

    Raises ValueError as `experiment.check_parameters` does, and for a device that is not available here.
    """
    experiment.check_parameters(p)
    model, batch = experiment.sized_model(p).train(), min(p.batch_size, p.train_sequences)
    weights = sum(w.numel() for w in model.parameters())
    counter, activations = _count_update(model, p, batch)
    if counter.operations < SMALL:
        update, how = _timed_update(p, batch), "timed updates"
    else:
        rate = matmul_rate(device=p.device, precision=p.precision)
        update, how = counter.operations / rate, f"the rate of a large matrix product here, {rate / 1e9:,.0f} GFLOP/s"
    updates = p.epochs * math.ceil(p.train_sequences / batch)
    evaluations = p.epochs * math.ceil(p.val_sequences / p.batch_size)  # forward only, so a third of an update
    times = updates + evaluations / 3
    on_h100 = max(counter.operations / (H100_SHARE * H100_RATES[p.precision]), counter.launches * H100_LAUNCH_SECONDS)
    return CostEstimate(
        weights=weights,
        memory=round(4 * weights * (2 + _optimizer_state(p))),
        activations=activations,
        operations=counter.operations,
        launches=counter.launches,
        updates=updates,
        seconds=update * times,
        how=how,
        h100_seconds=on_h100 * times,
    )


def estimated_seconds(runs: Sequence[Parameters]) -> list[float]:
    """The `seconds` of `estimate_cost` for each run; runs that differ in nothing that takes time are timed once."""
    keys = [p.model_dump_json(exclude=NO_TIME) for p in runs]
    found = {key: estimate_cost(p).seconds for key, p in dict(zip(keys, runs, strict=True)).items()}
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


def _timed_update(p: Parameters, batch: int, steps: int = 3) -> float:
    """Seconds of an update in the training loop itself; the first of two short epochs warms up."""
    rows: list[dict[str, Any]] = []
    short = {"train_sequences": steps * batch, "epochs": 2, "tracker": "none", "devices": 1, "metrics": ()}
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
