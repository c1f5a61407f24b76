"""What a run will take, before it runs: weights, memory, operations, time."""

import math
import timeit
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from seqae.device import DTYPES, make_accelerator, mixed_precision
from seqae.parameters import EXECUTION, Parameters
from seqae.runs import experiment
from seqae.tasks import branch_targets

NO_TIME = {*EXECUTION, "seed", "data_seed", "pixel_range", "activation", "training_loss", "gain", "recon_weight"}
NO_TIME |= {"learning_rate", "momentum", "weight_decay", "clip_norm", "init", "init_range", "bias_init", "forget_bias"}
# Of an H100 SXM, dense, in operations a second, as its data sheet has them; what share a run reaches is an assumption.
H100 = {"none": 67e12, "tf32": 494.7e12, "bf16": 989.4e12, "fp16": 989.4e12}
H100_SHARE = 0.3
H100_LAUNCH = 1e-5  # seconds that each operation takes at least, launched from Python by itself: assumed as well
SMALL = 5e10  # floating-point operations an update, up to which timing a few of them is quick


@dataclass(frozen=True)
class Cost:
    """weights: their number. memory: bytes of weights, gradients and optimizer state. activations: bytes that the
    backward pass needs of the forward pass, at most. operations: floating-point ones an update. seconds: for all
    epochs, as estimated by `how`. launches: tensor operations of an update's forward and backward pass, step by step
    as on a CPU: cuDNN takes several of them in one, clipping and optimizer come on top. h100_seconds: at H100_SHARE of
    an H100's peak in the run's precision, or at H100_LAUNCH for each of the launches, whichever is longer.
    """

    weights: int
    memory: int
    activations: int
    operations: int
    launches: int
    updates: int
    seconds: float
    how: str
    h100_seconds: float


class _Launches(TorchDispatchMode):
    """Counts the tensor operations that a device would have to be sent, views and allocations left out."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or "empty" in func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def estimate(p: Parameters) -> Cost:
    """Count and time what training with these parameters takes on this machine; raises ValueError as `check` does."""
    model, batch = experiment.check(p).train(), min(p.batch_size, p.train_sequences)
    weights = sum(w.numel() for w in model.parameters())
    saved: dict[int, int] = {}  # bytes by storage

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.device("meta"), hooks, _Launches() as launches, FlopCounterMode(display=False) as counter:
        frames = torch.empty(batch, p.frames_in + p.frames_out, p.frame_size, p.frame_size)
        targets = branch_targets(frames, task=p.task, frames_in=p.frames_in)
        torch.stack([z.sum() for z in model(frames[:, : p.frames_in], targets).values()]).sum().backward()
    operations = int(counter.get_total_flops())
    if operations < SMALL:
        update, how = _timed_update(p, batch), "timed updates"
    else:
        rate = matmul_rate(device=p.device, precision=p.precision)
        update, how = operations / rate, f"the rate of a large matrix product here, {rate / 1e9:,.0f} GFLOP/s"
    updates = p.epochs * math.ceil(p.train_sequences / batch)
    evaluations = p.epochs * math.ceil(p.val_sequences / p.batch_size)  # forward only, a third of an update
    memory = round(4 * weights * (2 + _optimizer_state(p)))
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    activations = sum(size for storage, size in saved.items() if storage not in own)
    times = updates + evaluations / 3
    on_h100 = max(operations / (H100_SHARE * H100[p.precision]), launches.count * H100_LAUNCH) * times
    return Cost(weights, memory, activations, operations, launches.count, updates, update * times, how, on_h100)


def seconds_of(runs: Sequence[Parameters]) -> list[float]:
    """As `estimate` has them, of many runs: timed once for all that differ in nothing that takes time."""
    keys = [p.model_dump_json(exclude=NO_TIME) for p in runs]
    found = {key: estimate(p).seconds for key, p in dict(zip(keys, runs, strict=True)).items()}
    return [found[key] for key in keys]


def _timed_update(p: Parameters, batch: int, steps: int = 3) -> float:
    # By the training loop itself, without its progress bar; the first of two short epochs warms up.
    rows: list[dict[str, Any]] = []
    short = {"train_sequences": steps * batch, "epochs": 2, "tracker": "none", "devices": 1}
    few = p.model_copy(update=short | {"learning_rate": 1e-9})  # diverged, it would end before the second
    val = experiment.sequences(few.model_copy(update={"val_sequences": 1}), "val")
    with redirect_stderr(StringIO()):
        experiment.train(few, val, record=lambda table, found: rows.extend(found))
    first, last = (max(row.get("seconds", 0.0) for row in rows if row["epoch"] == epoch) for epoch in (1, 2))
    return (last - first) / steps


def matmul_rate(*, device: str = "auto", precision: str = "none", size: int = 2048) -> float:
    """Floating-point operations a second of a large matrix product on the device, the best of four."""
    square = torch.ones(size, size, device=make_accelerator(device=device).device, dtype=DTYPES[precision])
    times = timeit.repeat(lambda: (square @ square).sum().item(), number=1, repeat=4)  # .item() waits for the device
    return 2 * size**3 / min(times)


def precisions(device: str = "auto") -> dict[str, str]:
    """What the device can compute in: for each precision its rate in a matrix product, or why it is refused."""
    found = {}
    for precision in DTYPES:
        try:
            mixed_precision(make_accelerator(device=device).device, precision)
            found[precision] = f"{matmul_rate(device=device, precision=precision, size=512) / 1e9:,.1f} GFLOP/s"
        except (ValueError, RuntimeError) as error:
            found[precision] = f"refused: {error}"
    return found


def _optimizer_state(p: Parameters) -> float:
    # Numbers that the optimizer keeps for each weight, seen on a small matrix and a bias.
    weights = [torch.nn.Parameter(torch.zeros(64, 64)), torch.nn.Parameter(torch.zeros(64))]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer = experiment.optimizer(p)(weights)
    optimizer.step(lambda: 0.0)  # LBFGS calls it for the loss
    state = [value for value in tree_leaves(optimizer.state_dict()) if isinstance(value, torch.Tensor)]
    return sum(value.numel() for value in state if value.numel() > 1) / sum(weight.numel() for weight in weights)
