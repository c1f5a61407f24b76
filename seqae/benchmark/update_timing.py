"""How fast a run's training update is, beside the same update by other implementations and its matrix products alone.

All implementations are timed in one process, in turn, several times, so that other work on the machine affects them
alike. Where memory does not hold all of them, they are timed one after the other.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from seqae.benchmark.dispatch_counter import DispatchCounter
from seqae.benchmark.machine_lock import machine_alone
from seqae.benchmark.machine_rates import copy_rate, matmul_rate
from seqae.benchmark.peers import PlainAutoencoder, Update, sequitur_update, torch_update
from seqae.benchmark.peers_convolutional import PlainConvLSTM
from seqae.benchmark.peers_keras import keras_update
from seqae.data import to_range
from seqae.device import keep_freed_memory, mixed_precision
from seqae.files import replace_text
from seqae.losses import training_loss
from seqae.lstm import step_library
from seqae.models import SequenceAutoencoder
from seqae.parameters import Parameters
from seqae.runs import Run, experiment, now, processor_name, used_memory
from seqae.tasks import branch_targets
from seqae.updates import clip_gradients, gradients

BURST = 0.3  # seconds that an implementation is timed for before the next one's turn
OWN = ("seqae", "gemm_floor")
LOOPS = {"lstmcell_loop": "LSTMCell", "conv2d_loop": "conv2d"}  # peers that are a plain loop over steps, of what
TIMING_COLUMNS = [
    "implementation", "D", "H", "B", "decoder_input", "part", "median_ms", "min_ms", "repeats", "memory_mb",
]  # fmt: skip

Makers = Mapping[str, Callable[[], Update]]  # by implementation, what builds its update


class UpdateTiming(NamedTuple):
    """What `time_update` finds.

    table: columns TIMING_COLUMNS, a row for each implementation and part: `forward_backward`, and `step`, which is
    that, clipping and optimizer together. memory_mb is what an update takes at most beside weights and optimizer state.
    facts: operations and bytes of the update's products, in_turn (whether all implementations took turns),
    matmul_gflops (the machine's rate in the run's precision, GFLOP/s), copy_gbs (GB/s), processor, cores, steps_in_c,
    and left_out: why an implementation was not timed, by name.
    """

    table: pd.DataFrame
    facts: dict[str, Any]


@dataclass
class _Measured:
    milliseconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # by implementation and part
    memory_mb: dict[str, float] = field(default_factory=dict)  # by implementation
    left_out: dict[str, str] = field(default_factory=dict)  # why, by implementation
    work: dict[str, int] = field(default_factory=dict)  # operations and bytes of seqae's products


def time_update(p: Parameters) -> UpdateTiming:
    """Time one training update of these parameters on all cores of this machine, beside its peers.

    A lock keeps other benchmarks on this machine waiting, those of other users, too. Peers use glibc's memory as it
    comes; seqae and its products keep what is freed, as `fit` does. Raises ValueError for a device or a precision that
    is not timed.
    """
    if p.device not in ("auto", "cpu"):
        raise ValueError(f"device {p.device} is not timed, only the CPU is: use device cpu or auto")
    if p.precision not in ("none", "bf16"):
        raise ValueError(f"precision {p.precision} is not timed, a CPU computes in none and bf16: use one of these")
    if own := [name for name in (p.architecture, p.training_loss) if ":" in name]:
        raise ValueError(f"{own[0]} is not timed, as its peers are made of built-in architectures and losses only")
    torch.set_num_threads(cores := len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    with machine_alone():
        makers, model, measured = _makers(p), experiment.meta_model(p), _Measured()
        # Weights, gradients and Adam's two moments, of each implementation.
        held = 16 * sum(weight.numel() for weight in model.parameters()) * len(makers)
        together = held < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
        for group in [makers] if together else [{name: make} for name, make in makers.items()]:
            _time_group(group, p.repeats, measured)
        facts = measured.work | {
            "in_turn": together,
            "matmul_gflops": round(matmul_rate(device="cpu", precision=p.precision) / 1e9, 1),
            "copy_gbs": round(copy_rate() / 1e9, 1),
            "processor": processor_name(),
            "cores": cores,
            "steps_in_c": step_library() is not None,
            "left_out": measured.left_out,
        }
    return UpdateTiming(_table(p, model, measured), facts)


def run_benchmark(run: Run) -> Run:
    """Time the run's training update, see `time_update`, and record it; a run that is done already stays as it is.

    Raises ValueError as `time_update` does.
    """

    def work() -> None:
        table, facts = time_update(run.parameters)
        replace_text(run.folder / "performance.csv", table.to_csv(index=False))
        step = table[table.part == "step"].set_index("implementation").median_ms
        whole = table[table.part == "forward_backward"].set_index("implementation").median_ms
        found = {f"{cell} loop": step.get(name) for name, cell in LOOPS.items()}
        line = "".join(f"{ms / step.seqae:.2g} times as fast as the {loop}, " for loop, ms in found.items() if ms)
        line += f"{100 * whole.gemm_floor / whole.seqae:.0f} % of the speed of its matrix products alone"
        run.update(status="done", ended=now(), verdict=line, results={}, benchmark=facts)

    return run.once(work)


def _time_group(makers: Makers, repeats: int, measured: _Measured) -> None:
    """Time these implementations in turn; their updates, and what they hold, are gone afterwards."""
    updates = _updates(makers, measured)
    if "seqae" in updates:
        # oneDNN's whole layers, whose products cannot be seen, are made of the same ones.
        with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None), DispatchCounter(keep_products=True) as made:
            updates["seqae"]()
        updates["gemm_floor"] = partial(_products_alone, made.products)
        measured.work |= {"operations": made.operations, "bytes": made.bytes}
    for _ in range(repeats):
        for name, update in updates.items():
            keep_freed_memory(name in OWN)
            burst = [update()]
            while sum(max(found.values()) for found in burst) < BURST:
                burst.append(update())
            for found in burst[1:] or burst:  # without the first, which finds the caches full of another's data
                for part, seconds in found.items():
                    measured.milliseconds.setdefault((name, part), []).append(1000 * seconds)


def _updates(makers: Makers, measured: _Measured) -> dict[str, Update]:
    """Each implementation's update, called twice already; its memory and why others are left out go to `measured`."""
    updates: dict[str, Update] = {}
    for name, make in makers.items():
        keep_freed_memory(name in OWN)
        try:
            update = make()
            update()  # compiles, and creates the optimizer's state
            held = used_memory(torch.device("cpu"))
            update()
        except (ImportError, ValueError, RuntimeError) as error:  # RuntimeError: torch's LSTM where a CPU has no bf16
            if name == "seqae":
                raise
            measured.left_out[name] = str(error)
            continue
        updates[name] = update
        measured.memory_mb[name] = (used_memory(torch.device("cpu"), since=held) or 0) / 1e6
    return updates


def _table(p: Parameters, model: SequenceAutoencoder, measured: _Measured) -> pd.DataFrame:
    size: dict[str, Any] = {"D": math.prod(p.frame_shape), "H": model.hidden, "B": p.batch_size}
    size["decoder_input"] = p.decoder_input
    rows = [
        size | {"implementation": name, "part": part, "median_ms": statistics.median(found), "min_ms": min(found),
                "repeats": len(found), "memory_mb": measured.memory_mb.get(name)}
        for (name, part), found in measured.milliseconds.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)[TIMING_COLUMNS]


def _makers(p: Parameters) -> Makers:
    batch = experiment.sequences(p.model_copy(update={"train_sequences": p.batch_size}), "train")
    model = experiment.new_model(p)
    assert isinstance(model, SequenceAutoencoder)
    pixels = to_range(batch, p.pixel_range)
    targets = branch_targets(pixels, task=p.task, frames_in=p.frames_in)
    frames = pixels[:, : p.frames_in].contiguous()

    def loss(z: Tensor, target: Tensor) -> Tensor:
        return training_loss(z, target, kind=p.training_loss, activation=p.activation).mean()

    data = frames, targets, loss
    in_torch: Makers = {
        "lstmcell_loop": lambda: torch_update(PlainAutoencoder(model), *data, precision=p.precision),
        "nn_lstm": lambda: torch_update(PlainAutoencoder(model, whole=True), *data, precision=p.precision),
        "conv2d_loop": lambda: torch_update(PlainConvLSTM(model), *data, precision=p.precision),
    }
    in_float32: Makers = {
        "keras_jax": lambda: keras_update(model, frames, targets),
        "sequitur": lambda: sequitur_update(model, frames),
    }
    if p.precision != "none":
        in_float32 = dict.fromkeys(in_float32, partial(_refuse_precision, p.precision))
    return {"seqae": lambda: _own_update(p, model, batch), **in_torch, **in_float32}


def _refuse_precision(precision: str) -> Update:
    raise ValueError(f"this peer computes in float32 alone, not with precision {precision}")


def _own_update(p: Parameters, model: SequenceAutoencoder, batch: Tensor) -> Update:
    """What `fit` does with a batch, uint8 (B, T, H, W)."""
    objective, optimizer = experiment.objective_of(p), experiment.optimizer_of(p)(model.parameters())
    autocast, scaler = mixed_precision(torch.device("cpu"), p.precision)

    def update() -> dict[str, float]:
        began = time.perf_counter()
        gradients(model, batch, objective=objective, optimizer=optimizer, autocast=autocast, scaler=scaler)
        middle = time.perf_counter()
        clip_gradients(model.parameters(), p.clip_norm)
        optimizer.step()
        return {"forward_backward": middle - began, "step": time.perf_counter() - began}

    return update


def _products_alone(products: list[Callable[[], Any]]) -> dict[str, float]:
    """Seconds of making the products again, as the one part of an update."""
    began = time.perf_counter()
    with torch.no_grad():
        for make in products:
            make()
    return {"forward_backward": time.perf_counter() - began}
