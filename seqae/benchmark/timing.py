"""How fast a run's training update is: beside its peers, and beside its own matrix products alone.

All in one process, in turn, again and again, so that whatever else the machine does meets all of them alike; where
memory does not hold them all, one after the other.
"""

import os
import platform
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula

from seqae.benchmark.estimates import matmul_rate
from seqae.benchmark.peers import PlainAutoencoder, Update, keras_update, sequitur_update, torch_update
from seqae.data import to_range
from seqae.device import keep_freed_memory, memory, mixed_precision
from seqae.files import replace_text
from seqae.losses import training_loss
from seqae.lstm import LINEAR, step_library
from seqae.models import SequenceAutoencoder
from seqae.parameters import Parameters
from seqae.runs import Run, experiment, now
from seqae.tasks import branch_targets
from seqae.training import backward, clip_gradients

BURST = 0.3  # seconds that an implementation is timed for before it is the next one's turn
OWN = ("seqae", "gemm_floor")
COLUMNS = ["implementation", "D", "H", "B", "decoder_input", "part", "median_ms", "min_ms", "repeats", "memory_mb"]


if LINEAR is not None:

    @register_flop_formula(LINEAR)
    def _linear_operations(x: Any, weight: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return 2 * x[0] * x[1] * weight[0]


class _Products(TorchDispatchMode):
    """Keeps every matrix product made inside: to make them again, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, product = func(*args, **(kwargs or {})), func.overloadpacket in flop_registry
        if product:
            self.calls.append(partial(func, *args, **(kwargs or {})))
            self.operations += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
            tensors = {id(leaf): leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)}
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        return result


def measure(p: Parameters) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Time one training update of the run's model on this machine's cores, while nothing else is measured there.

    Peers have glibc's memory as it comes, seqae and its products keep what is freed, as `fit` does. Returns a table of
    `COLUMNS`, a row for each implementation and part (`forward_backward`; `step`: that, clipping and optimizer),
    memory_mb being what an update takes at most above weights and optimizer state; and facts of the machine and the
    work: operations and bytes of the matrix products, GFLOP/s of a large one, GB/s of a copy, and `left_out`, which
    peers could not run, and why. Raises ValueError for a device or a precision that is not timed.
    """
    if p.device not in ("auto", "cpu"):
        raise ValueError(f"device {p.device} is not timed, only the CPU is: use device cpu or auto")
    if p.precision != "none":
        raise ValueError(f"precision {p.precision} is not timed, peers compute in float32 alone: use precision none")
    torch.set_num_threads(cores := len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    with filelock.FileLock(Path(tempfile.gettempdir()) / "seqae-performance.lock"):
        makers, model = _makers(p), experiment.check(p)
        times: dict[tuple[str, str], list[float]] = {}
        memories: dict[str, float] = {}
        left_out: dict[str, str] = {}
        work: dict[str, int] = {}
        # Weights, gradients and Adam's two moments of each: where they do not all fit, one after the other.
        held = 16 * sum(weight.numel() for weight in model.parameters()) * len(makers)
        together = held < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
        for group in [makers] if together else [{name: make} for name, make in makers.items()]:
            updates = _updates(group, memories, left_out)
            if "seqae" in updates:
                products = _products_of(updates["seqae"])
                updates["gemm_floor"] = partial(_again, products.calls)
                work |= {"operations": products.operations, "bytes": products.bytes}
                del products  # its tensors go with the updates
            _take_turns(updates, p.repeats, times)
            del updates
        size: dict[str, Any] = {"D": p.frame_size**2, "H": model.encoder.hidden_sizes[-1], "B": p.batch_size}
        size["decoder_input"] = p.decoder_input
        rows = [
            size | {"implementation": name, "part": part, "median_ms": statistics.median(found), "min_ms": min(found),
                    "repeats": len(found), "memory_mb": memories.get(name)}
            for (name, part), found in times.items()
        ]  # fmt: skip
        facts = work | {
            "in_turn": together,
            "matmul_gflops": round(matmul_rate(device="cpu") / 1e9, 1),
            "copy_gbs": round(_copy_rate() / 1e9, 1),
            "processor": _processor(),
            "cores": cores,
            "steps_in_c": step_library() is not None,
            "left_out": left_out,
        }
    return pd.DataFrame(rows)[COLUMNS], facts


def run_benchmark(run: Run) -> Run:
    """Time the run's training update beside its peers, see `measure`; when done already, do nothing."""

    def work() -> None:
        table, machine = measure(run.parameters)
        replace_text(run.folder / "performance.csv", table.to_csv(index=False))
        step = table[table.part == "step"].set_index("implementation").median_ms
        whole = table[table.part == "forward_backward"].set_index("implementation").median_ms
        line = f"{step.lstmcell_loop / step.seqae:.2g} times the LSTMCell loop, " if "lstmcell_loop" in step else ""
        line += f"{whole.gemm_floor / whole.seqae:.0%} of the speed of its matrix products alone"
        run.update(status="done", ended=now(), verdict=line, results={}, benchmark=machine)

    return run.once(work)


def _products_of(update: Update) -> _Products:
    # oneDNN's whole layers, which have no products to see, are made of the same.
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None), _Products() as products:
        update()
    return products


def _take_turns(updates: dict[str, Update], turns: int, times: dict[tuple[str, str], list[float]]) -> None:
    # Adds to times: milliseconds of each (implementation, part).
    for _ in range(turns):
        for name, update in updates.items():
            keep_freed_memory(name in OWN)
            burst = [update()]
            while sum(max(found.values()) for found in burst) < BURST:
                burst.append(update())
            for found in burst[1:] or burst:  # the first finds the caches full of another's data
                for part, seconds in found.items():
                    times.setdefault((name, part), []).append(1000 * seconds)


def _makers(p: Parameters) -> dict[str, Callable[[], Update]]:
    batch = experiment.sequences(p.model_copy(update={"train_sequences": p.batch_size}), "train")
    model = experiment.new_model(p)
    pixels = to_range(batch, p.pixel_range)
    targets = branch_targets(pixels, task=p.task, frames_in=p.frames_in)
    frames = pixels[:, : p.frames_in].contiguous()

    def loss(z: Tensor, target: Tensor) -> Tensor:
        return training_loss(z, target, kind=p.training_loss, activation=p.activation).mean()

    return {
        "seqae": lambda: _own(p, model, batch),
        "lstmcell_loop": lambda: torch_update(PlainAutoencoder(model), frames, targets, loss),
        "nn_lstm": lambda: torch_update(PlainAutoencoder(model, whole=True), frames, targets, loss),
        "keras_jax": lambda: keras_update(model, frames, targets),
        "sequitur": lambda: sequitur_update(model, frames),
    }


def _updates(
    makers: dict[str, Callable[[], Update]], memories: dict[str, float], left_out: dict[str, str]
) -> dict[str, Update]:
    # Each one's update, already called twice; fills in the memory that took in MB, and why others are left out.
    updates: dict[str, Update] = {}
    for name, make in makers.items():
        keep_freed_memory(name in OWN)
        try:
            update = make()
            update()  # compiles, and makes the optimizer's state
            held = memory(torch.device("cpu"))
            update()
        except (ImportError, ValueError) as error:
            left_out[name] = str(error)
            continue
        updates[name] = update
        memories[name] = (memory(torch.device("cpu"), since=held) or 0) / 1e6
    return updates


def _own(p: Parameters, model: SequenceAutoencoder, batch: Tensor) -> Update:
    # What `fit` does with a batch.
    objective, optim = experiment.objective(p), experiment.optimizer(p)(model.parameters())
    autocast, scaler = mixed_precision(torch.device("cpu"), "none")

    def update() -> dict[str, float]:
        began = time.perf_counter()
        backward(model, model, batch, objective=objective, optim=optim, autocast=autocast, scaler=scaler)
        middle = time.perf_counter()
        clip_gradients(model.parameters(), p.clip_norm)
        optim.step()
        return {"forward_backward": middle - began, "step": time.perf_counter() - began}

    return update


def _again(calls: list[Callable[[], Any]]) -> dict[str, float]:
    began = time.perf_counter()
    with torch.no_grad():
        for call in calls:
            call()
    return {"forward_backward": time.perf_counter() - began}


def _copy_rate() -> float:
    # Bytes read and written a second, the best of five.
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    return 8 * source.numel() / min(timeit.repeat(lambda: target.copy_(source), number=1, repeat=5))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
