"""The diary's grid at its real size, 30 runs of up to 487 million weights: as many of them as the time allows."""

import gc
import time
from typing import Any

import torch

from seqae.benchmark.gpu_check.checks import Checks, project_parameters
from seqae.parameters import Parameters
from seqae.runs import experiment

LOSSES_OF_GRID = ("0nm", "0sb", "0sm", "1nm", "1tm")
# recon and pred are one size: the first three ways tell of all six.
WAYS = ("both-output", "both-zero", "pred-output", "pred-zero", "recon-output", "recon-zero")
EPOCHS = 10  # of the grid that is reckoned
EPOCH_SECONDS, GRID_SECONDS = 2.0, 600.0  # what an H100 should take for an epoch of `both`, and for the grid


def check_grid(checks: Checks) -> None:
    """Two epochs of each run in bf16, no model kept; three runs first, then those that the time allows."""
    names = [f"0nm-{way}" for way in WAYS]
    names += [f"{loss}-{way}" for loss in LOSSES_OF_GRID[1:] for way in WAYS]
    took: dict[str, dict[str, float]] = {}
    for name in names[:3] if checks.tiny else names:
        longest = max((run["seconds"] for run in took.values()), default=0.0)
        if checks.left < 1.2 * longest + 3:
            checks.skipped("grid", f"no time left for the other {len(names) - len(took)} of {len(names)} runs")
            break
        with checks.failing(f"grid {name}"):
            took[name] = _trained(checks, name)
    if {f"0nm-{way}" for way in WAYS[:3]} <= took.keys():
        seconds, cases = reckoned_grid(took), f"reckoned from {len(took)} runs"
        good = seconds <= GRID_SECONDS or checks.device == "cpu"
        text = f"{seconds / 60:.3g} minutes for 30 runs of {EPOCHS} epochs one after the other, {cases}"
        checks.told("grid", good, text + f", {GRID_SECONDS / 60:g} are wanted" * (not good), seconds=seconds)


def _trained(checks: Checks, name: str) -> dict[str, float]:
    """Train one run; seconds in all, of its second epoch and of what is no epoch; peak memory in GiB."""
    p = _grid_parameters(checks, name)
    rows: list[dict[str, Any]] = []
    if checks.device != "cpu":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    val = experiment.sequences(p, "val")
    model, *_ = experiment.train_model(p, val, record=lambda table, found: rows.extend(found))
    whole = time.monotonic() - began
    ended = {row["epoch"]: row["seconds"] for row in rows if "seconds" in row}
    epoch = ended[2] - ended[1]
    curve = [row["value"] for row in rows if row.get("split") == "val" and row["metric"] == "objective"]
    took = {
        "seconds": whole, "epoch": epoch, "first_epoch": ended[1], "start": whole - ended[2],
        "gib": torch.cuda.max_memory_allocated() / 2**30 if checks.device != "cpu" else 0.0,
        "weights": float(sum(weight.numel() for weight in model.parameters())),
    }  # fmt: skip
    fast = epoch <= EPOCH_SECONDS or "both" not in name or checks.device == "cpu"
    good = fast and all(value == value and value < float("inf") for value in curve)
    text = f"{epoch:.3g} s an epoch, {took['start']:.3g} s beside epochs, {took['weights'] / 1e6:.4g} M weights, "
    text += f"{took['gib']:.3g} GiB, val {curve[0]:.4f} → {curve[-1]:.4f}"
    checks.told(f"grid {name}", good, text + f"; {EPOCH_SECONDS:g} s are wanted" * (not fast), **took, curve=curve)
    return took


def _grid_parameters(checks: Checks, name: str) -> Parameters:
    """The run of a file of params/losses at its real size in bf16, or at the smallest one."""
    if checks.tiny:
        return project_parameters("losses", name, "smoke", device=checks.device, epochs=2)
    return project_parameters(
        "losses", name, "paper", device=checks.device, epochs=2, precision="bf16", digits="mnist5k"
    )


def reckoned_grid(took: dict[str, dict[str, float]]) -> float:
    """Seconds of all 30 runs, EPOCHS epochs each, one after the other.

    took: of runs by name, their seconds of an epoch and of what is no epoch; of the three first ways at least. A run
    that is not there takes as long as one of its way, or as `pred` for `recon`, or, reading zero, as `pred` reading its
    output times what `both` gains by that.
    """

    def of_way(way: str, key: str) -> float:
        task, _, reads = way.partition("-")
        task = "pred" if task == "recon" and not any(name.endswith(way) for name in took) else task
        found = [run[key] for name, run in took.items() if name.endswith(f"-{task}-{reads}")]
        if found:
            return sum(found) / len(found)
        gain = of_way("both-zero", key) / max(of_way("both-output", key), 1e-9) if key == "epoch" else 1.0
        return gain * of_way(f"{task}-output", key)

    return len(LOSSES_OF_GRID) * sum(of_way(way, "start") + EPOCHS * of_way(way, "epoch") for way in WAYS)
