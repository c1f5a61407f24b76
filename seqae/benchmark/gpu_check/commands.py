"""What `seqae run` does on the GPU: a sweep of small runs that share the card, and a large run that is interrupted."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch

from seqae.benchmark.gpu_check.checks import Checks
from seqae.runs import Run, find_runs, whole_lines
from seqae.stores import project_root

SEQAE = [sys.executable, "-c", "from seqae.commands import app; app()"]
RUNS = 33  # of params/losses
PER_GPU = 11  # runs that share a card: three rounds of the sweep
WARNING = "not part of single contiguous chunk"  # cuDNN's, of weights that it has to copy at every call
UPDATES = 60  # a second, that the recipe should reach on an H100 at scale paper


def check_sweep(checks: Checks) -> None:
    """All runs of the family losses at scale smoke, or two of them, on one card at a time."""
    files = [f"params/losses/0nm-{task}-zero.yaml" for task in ("recon", "pred")] if checks.tiny else ["params/losses"]
    at_once = ["--jobs", "2"] if checks.device == "cpu" else ["--per-gpu", str(PER_GPU)]
    with tempfile.TemporaryDirectory() as store:
        began = time.monotonic()
        process, last = _started(
            checks, ["run", *files, "--scale", "smoke", "-p", f"device={checks.device}", *at_once], Path(store)
        )
        _waited(process, checks.left - 3)
        seconds, runs = time.monotonic() - began, find_runs(store, "losses")
        states = Counter(run.status for run in runs)
        devices = Counter(str(run.record().get("device")) for run in runs)
        warned = sum(
            WARNING in file.read_text(encoding="utf-8") for file in Path(store).glob("losses/*/notebook.ipynb")
        )
        wanted = len(files) if checks.tiny else RUNS
        good = process.returncode == 0 and states["done"] == wanted and not warned
        good &= {*devices} == {"cpu" if checks.device == "cpu" else torch.cuda.get_device_name()}
        text = f"{states['done']} of {wanted} runs done in {seconds:.0f} s, {dict(states)} on {dict(devices)}"
        text += f", {warned} with a warning of cuDNN" * bool(warned)
        checks.told("sweep", good, text if good else f"{text}; {_reasons(runs)}{_end_of(last)}", seconds=seconds)


def check_recipe(checks: Checks) -> None:
    """The recipe of the family best: interrupted in its second epoch, run again, done.

    It trains on the digits that come with the package, so its figures are not those of full MNIST.
    """
    command = recipe_command(checks)
    with tempfile.TemporaryDirectory() as folder:
        store, began = Path(folder), time.monotonic()
        first, last = _started(checks, command, store)
        while first.poll() is None and checks.left > 0.5 * checks.seconds and not _epochs(store):
            time.sleep(0.05)
        seen = _epochs(store)
        _waited(first, 15, interrupt=True)
        states = [run.status for run in find_runs(store, "best")]
        text = f"{states} after {len(seen)} epochs, {time.monotonic() - began:.0f} s, exit code {first.returncode}"
        interrupted = states == ["interrupted"] and len(seen) > 0
        checks.told("recipe interrupted", interrupted, text if interrupted else text + _end_of(last))
        if not interrupted:
            return
        again, last = _started(checks, command, store)
        _waited(again, checks.left - 3)
        runs, epochs = find_runs(store, "best"), _epochs(store)
        done = again.returncode == 0 and [run.status for run in runs] == ["done"] and "resumed" in runs[0].record()
        rate = _updates_a_second(epochs)
        text = f"{[run.status for run in runs]} after {len(epochs)} epochs, {time.monotonic() - began:.0f} s in all"
        curve = [objective for _, _, objective in epochs]
        text += f", val {curve[0]:.4f} → {curve[-1]:.4f}" * bool(curve)
        checks.told("recipe resumed", done, text if done else text + _reasons(runs) + _end_of(last), curve=curve)
        fast = rate >= UPDATES or checks.device == "cpu"
        text = f"{rate:.3g} updates a second, evaluation on val included"
        checks.told("recipe's speed", fast, text + f", {UPDATES} are wanted" * (not fast), updates_a_second=rate)


def recipe_command(checks: Checks) -> list[str]:
    """What `seqae` is given to train the recipe."""
    size = ["--scale", "smoke", "-p", "epochs=15"] if checks.tiny else ["--scale", "paper", "-p", "epochs=3"]
    given = ["digits=mnist5k", "test_sequences=200", f"device={checks.device}"]
    given = [word for value in given for word in ("-p", value)]
    return ["run", "params/best/recipe.yaml", *size, *given, "--jobs", "1"]


def _started(checks: Checks, arguments: list[str], store: Path) -> tuple["subprocess.Popen[bytes]", Path]:
    """A command `seqae`, whose runs go to this store, and the file of what it prints."""
    last = store / "printed.txt"
    environment = os.environ | {"SEQAE_STORE": str(store)}
    if checks.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with last.open("wb") as printed:
        process = subprocess.Popen(
            [*SEQAE, *arguments], cwd=project_root(), env=environment, stdin=subprocess.DEVNULL, stdout=printed,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    return process, last


def _waited(process: "subprocess.Popen[bytes]", seconds: float, *, interrupt: bool = False) -> None:
    """Wait for its end, after Ctrl-C if `interrupt`; what does not end in these seconds gets Ctrl-C, then is killed."""
    asked = [signal.SIGINT] if interrupt else [None, signal.SIGINT]
    for number in asked:
        if number is not None and process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(max(seconds, 1) if number is asked[0] else 5)
            return
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.wait()


def _epochs(store: Path) -> list[tuple[int, float, float]]:
    """Updates, seconds and the objective on val of each epoch of the one run in the store."""
    found = []
    for file in store.glob("best/*/metrics.csv"):
        for line in whole_lines(file):
            fields = line.split(",")
            if fields[3:6] == ["val", "all", "objective"]:
                found.append((int(fields[1]), float(fields[2]), float(fields[6])))
    return found


def _updates_a_second(epochs: list[tuple[int, float, float]]) -> float:
    """Of the fastest epoch, evaluation on val included; the seconds are those of training."""
    pairs = pairwise(epochs)
    return max(((later[0] - earlier[0]) / max(later[1] - earlier[1], 1e-9) for earlier, later in pairs), default=0.0)


def _reasons(runs: list[Run]) -> str:
    """Why runs failed, each reason once."""
    reasons = {str(run.record().get("reason")) for run in runs if run.status == "failed"}
    return "; ".join(sorted(reasons))[:300]


def _end_of(printed: Path) -> str:
    return "; it printed last: " + " ".join(printed.read_text(encoding="utf-8", errors="replace").split())[-300:]
