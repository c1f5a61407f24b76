"""A sweep whose processes are killed at random moments, and which is started again, comes to the same.

SEQAE_SOAK=40 kills that many (SEQAE_SOAK_SEED: other moments), and says at the end what it killed.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from sweeps import ONE_THREAD, Sweep, epochs, records, same, unbroken
from test_sweep import TRAIN, make_project

EPOCHS = 40
KILLS, SEED = int(os.environ.get("SEQAE_SOAK", "3")), int(os.environ.get("SEQAE_SOAK_SEED", "1"))
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not Path("/proc").exists(), reason="kernels are forked on Linux alone"),
]


def a_kill(sweep: Sweep, dice: random.Random) -> str:
    """SIGKILL to one of its processes, by kind; what it was."""
    others = sweep.others()
    kinds = ["seqae run", *(kind for kind in ("forkserver", "kernel", "kernel") if others[kind])]
    process = sweep.process if (kind := dice.choice(kinds)) == "seqae run" else dice.choice(others[kind])
    with suppress(psutil.NoSuchProcess):
        process.kill()
    return kind


def watched(sweep: Sweep, store: Path, trained: dict[Path, int], until: Callable[[], bool]) -> None:
    """Until then, or until it ends, see that every run.yaml is whole, and that what is trained is not trained again."""
    while sweep.process.poll() is None and not until():
        for folder, record in records(store).items():
            if "results" in record:
                when = (folder / "test.csv").stat().st_mtime_ns
                assert trained.setdefault(folder, when) == when, f"{folder.name} was trained again"
        time.sleep(0.05)


def one_start(sweep: Sweep, store: Path, trained: dict[Path, int], dice: random.Random, killed: Counter[str]) -> int:
    """Kill processes of a sweep until it ends or KILLS are killed; its exit code."""
    while sweep.process.poll() is None:
        # at any moment of its life, but so often that it comes to nothing only now and then
        first, when, early = epochs(store), time.monotonic() + dice.uniform(0.5, 4), dice.random() < 0.2
        due = lambda: time.monotonic() > when and (early or epochs(store) != first)  # noqa: B023, E731
        watched(sweep, store, trained, lambda: killed.total() < KILLS and due())  # noqa: B023
        if sweep.process.poll() is None:
            killed[kind := a_kill(sweep, dice)] += 1
            if kind == "seqae run":
                break
    sweep.ended()
    return sweep.process.returncode


def test_a_sweep_survives_kills_at_random_moments(tmp_path, started):
    runs = [{"seed": 1}, {"task": "pred"}, {"loss": "0sm", "schedule": "StepLR"}, {"optimizer": "SGD"}]
    files = {f"fam/{n}": given for n, given in enumerate(runs)}
    make_project(tmp_path, {"fam": [ONE_THREAD, TRAIN.format("fam")]}, files)
    expected = sorted(unbroken("fam", tmp_path / "unbroken", epochs=EPOCHS, **given) for given in runs)
    arguments = ("params/fam", "-p", f"epochs={EPOCHS}")
    dice, killed, starts, sweeps, began = random.Random(SEED), Counter[str](), 0, 0, time.monotonic()
    while killed.total() < KILLS:
        sweeps += 1
        store, trained, code = tmp_path / f"broken-{sweeps}", dict[Path, int](), None
        while code != 0:
            starts += 1
            code = one_start(started(tmp_path, *arguments, store=store), store, trained, dice, killed)
            assert code in (0, 1, -signal.SIGKILL)  # 1: a kernel died
        for folder, other in zip(sorted(records(store)), expected, strict=True):
            same(folder, other)
        resumed = sum(len(record.get("resumed", [])) for record in records(store).values())
        seconds = time.monotonic() - began
        told = f"{sweeps} sweeps, {starts} starts, {killed.total()} kills: {dict(killed)}, {seconds:.0f} s"
        print(f"{told}; in this one {resumed} resumed")  # noqa: T201
