"""Sweeps that survive: their processes killed at random moments, or asked to end, and started again.

SEQAE_SOAK=40 kills that many (SEQAE_SOAK_SEED: other moments), and says at the end what it killed.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
import yaml
from dask.system import CPU_COUNT
from test_sweep import SEQAE, TRAIN, make_project

from seqae.runs import Run
from seqae.sweep import LIBRARIES

KILLS, SEED = int(os.environ.get("SEQAE_SOAK", "7")), int(os.environ.get("SEQAE_SOAK_SEED", "1"))
MINUTES = 60  # seconds; what takes longer hangs
pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="kernels are forked on Linux alone")


class Sweep:
    """A `seqae run` in a process of its own, known by a mark in the environment of all that it starts."""

    def __init__(
        self, project: Path, *arguments: str, store: Path, jobs: int = 2, before: Sequence[str] = (), **more: str
    ) -> None:
        self.mark = uuid.uuid4().hex
        command = [*before, *SEQAE, "run", *arguments, "--scale", "tiny", "--jobs", str(jobs), "--store", str(store)]
        environment = os.environ | {"SEQAE_STORE": "", "TEST_MARK": self.mark, **more}
        self.output = (project / f"{self.mark}.txt").open("w+")
        self.process = subprocess.Popen(
            command, cwd=project, env=environment, stdout=self.output, stderr=self.output, start_new_session=True
        )

    def said(self) -> str:
        return Path(self.output.name).read_text()

    def others(self) -> dict[str, list[psutil.Process]]:
        """All that lives of it but itself: workers, forkservers, kernels and what else there is."""
        found: dict[str, list[psutil.Process]] = {"worker": [], "forkserver": [], "kernel": [], "else": []}
        for process in psutil.process_iter():
            try:
                marked = process.pid != self.process.pid and process.environ().get("TEST_MARK") == self.mark
                if not marked or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                line, parent = " ".join(process.cmdline()), process.parent()
                if "seqae.forkserver" in line:
                    forked = parent is not None and "seqae.forkserver" in " ".join(parent.cmdline())
                    found["kernel" if forked else "forkserver"].append(process)
                else:
                    found["worker" if "spawn_main" in line else "else"].append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                continue
        return found

    def ended(self, code: int | None = None) -> str:
        """Wait for its end, and that of all it started; what it said."""
        self.process.wait(MINUTES)
        wait_until(lambda: not any(self.others().values()), f"orphans: {self.others()}")
        assert "Traceback" not in self.said(), self.said()
        assert code is None or self.process.returncode == code, self.said()
        return self.said()


def wait_until(condition: Callable[[], bool], told: str = "it did not come", seconds: float = MINUTES) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


@pytest.fixture
def started():
    """Sweeps; whatever becomes of the test, nothing of them lives on."""
    sweeps: list[Sweep] = []
    yield lambda *arguments, **options: sweeps.append(Sweep(*arguments, **options)) or sweeps[-1]
    for sweep in sweeps:
        for process in [sweep.process, *(p for kind in sweep.others().values() for p in kind)]:
            if process.is_running() if isinstance(process, psutil.Process) else process.poll() is None:
                process.kill()
        sweep.process.wait()
        sweep.output.close()


def records(store: Path) -> dict[Path, dict]:
    """Every run.yaml of a store by its folder; each must be whole at any time."""
    found = {file.parent: yaml.safe_load(file.read_text()) for file in store.glob("*/*/run.yaml")}
    assert all(isinstance(record, dict) and "parameters" in record for record in found.values())
    return found


def epochs(store: Path) -> int:
    """How many are logged, of all runs together."""
    logs = [log.read_text() for log in store.glob("*/*/metrics.csv")]
    return sum(log.count(",val,all,objective,") for log in logs)


def same(run: Path, other: Path) -> None:
    """Both are done, of the same numbers to the last bit, and nothing is left over."""
    assert Run.load(run).status == Run.load(other).status == "done"
    ours, theirs = (pd.read_csv(folder / "metrics.csv", dtype=str, keep_default_na=False) for folder in (run, other))
    assert not ours.duplicated(["epoch", "split", "branch", "metric"]).any()
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"))
    for name in ("test.csv", "histograms.csv", "baselines.csv", "samples.npz", "frames.png"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    weights, expected = (Run.load(folder).model().state_dict() for folder in (run, other))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert {f.name for f in run.iterdir()} == {f.name for f in other.iterdir()}


# --- killed ---


def a_kill(sweep: Sweep, dice: random.Random) -> str:
    """SIGKILL to one of its processes, by kind; what it was."""
    others = sweep.others()
    kinds = ["seqae run", *(kind for kind in ("worker", "forkserver", "kernel", "kernel") if others[kind])]
    kind = dice.choice(kinds)
    if kind == "seqae run":
        sweep.process.kill()
    else:
        try:
            dice.choice(others[kind]).kill()
        except psutil.NoSuchProcess:
            return "nobody"
    return kind


def test_a_sweep_survives_kills_at_random_moments(tmp_path, started):
    files = {"fam/a": {}, "fam/b": {"task": "pred"}, "fam/c": {"loss": "0sm", "schedule": "StepLR"}}
    make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {**files, "fam/d": {"optimizer": "SGD", "epochs": 150}})
    arguments, dice, killed, starts, began = ("params/fam", "-p", "epochs=120"), random.Random(SEED), Counter(), 0, 0.0
    started(tmp_path, *arguments, store=tmp_path / "unbroken").ended(0)
    unbroken = sorted(records(tmp_path / "unbroken"))
    assert len(unbroken) == 4
    rounds, began = 0, time.monotonic()
    while killed.total() < KILLS or rounds == 0:
        rounds += 1
        store, done, finished = tmp_path / f"broken-{rounds}", {}, False
        while not finished:
            sweep, starts = started(tmp_path, *arguments, store=store), starts + 1
            while sweep.process.poll() is None:
                # at any moment of its life, but not so often that it comes to nothing
                first, until = epochs(store), time.monotonic() + dice.uniform(0.5, 4)
                while sweep.process.poll() is None and (
                    killed.total() >= KILLS or time.monotonic() < until or epochs(store) == first
                ):
                    for folder, record in records(store).items():
                        if record.get("status") == "done" and (folder / "report.html").exists():
                            record |= {"trained": (folder / "test.csv").stat().st_mtime_ns}
                            assert done.setdefault(folder, record) == record, "touched after it was done"
                    time.sleep(0.05)
                if sweep.process.poll() is None:
                    kind = a_kill(sweep, dice)
                    killed[kind] += kind != "nobody"
                    if kind == "seqae run":
                        sweep.process.wait()
            sweep.ended()
            assert sweep.process.returncode in (0, 1, -signal.SIGKILL), sweep.said()
            finished = sweep.process.returncode == 0
        for folder, expected in zip(sorted(records(store)), unbroken, strict=True):
            same(folder, expected)
            assert (folder / "report.html").exists()
    seconds = time.monotonic() - began
    print(f"{killed.total()} kills ({dict(killed)}), {starts} starts, {rounds} sweeps, {seconds:.0f} s")  # noqa: T201


# --- asked to end ---

LONG = ("-p", "epochs=4", "-p", "train_sequences=1000", "-p", "checkpoint_seconds=3600")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A run of long epochs, unbroken."""
    project = tmp_path_factory.mktemp("long")
    make_project(project, {"long": [TRAIN.format("long")]}, {"long/a": {}})
    sweep = Sweep(project, "params/long", *LONG, store=project / "unbroken", jobs=1)
    sweep.ended(0)
    sweep.output.close()
    (folder,) = records(project / "unbroken")
    return project, folder


def to_the_sweep(sweep: Sweep, number: int) -> None:
    sweep.process.send_signal(number)


def to_all(sweep: Sweep, number: int) -> None:
    """As Slurm does, which knows a job's processes."""
    for process in [sweep.process, *(p for kind in sweep.others().values() for p in kind)]:
        process.send_signal(number)


def to_the_sweep_twice(sweep: Sweep, number: int) -> None:
    sweep.process.send_signal(number)
    time.sleep(0.3)
    sweep.process.send_signal(number)


@pytest.mark.parametrize(
    ("send", "number"),
    [(to_the_sweep, signal.SIGTERM), (to_all, signal.SIGTERM), (to_the_sweep_twice, signal.SIGINT)],
)
def test_asked_to_end_it_leaves_a_checkpoint_of_the_last_update(long, tmp_path, started, send, number):
    project, expected = long
    sweep = started(project, "params/long", *LONG, store=tmp_path, jobs=1)
    wait_until(lambda: epochs(tmp_path) == 1 or sweep.process.poll() is not None)
    time.sleep(0.3)  # in the midst of an epoch
    began = time.monotonic()
    send(sweep, number)
    said = sweep.ended(128 + number)
    print(f"ended after {time.monotonic() - began:.1f} s")  # noqa: T201
    assert said == "seqae: stopped; the same command goes on from the last checkpoints\n"
    (folder,) = records(tmp_path)
    run = Run.load(folder)
    assert run.status == "interrupted"
    assert run.record()["reason"] is None
    step, _, objectives, _ = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)["progress"]
    assert 250 * len(objectives) < step < 250 * (len(objectives) + 1)
    started(project, "params/long", *LONG, store=tmp_path, jobs=1).ended(0)
    same(folder, expected)


def test_asked_to_end_while_it_starts(long, tmp_path, started):
    project, _ = long
    for seconds in (3, 5):
        sweep = started(project, "params/long", *LONG, store=tmp_path, jobs=1)
        time.sleep(seconds)
        sweep.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        sweep.process.send_signal(signal.SIGINT)
        sweep.ended()
        assert sweep.process.returncode in (130, -signal.SIGINT, 1), sweep.said()


def test_a_kernel_that_is_interrupted_is_gone_on_with(long, tmp_path, started):
    project, expected = long
    sweep = started(project, "params/long", *LONG, store=tmp_path, jobs=1)
    wait_until(lambda: epochs(tmp_path) == 1 or sweep.process.poll() is not None)
    time.sleep(0.3)
    (kernel,) = sweep.others()["kernel"]
    kernel.send_signal(signal.SIGTERM)
    sweep.ended(0)
    (folder,) = records(tmp_path)
    assert len(records(tmp_path)[folder]["resumed"]) == 1
    same(folder, expected)


# --- workers of a cluster ---


@pytest.fixture
def cluster(tmp_path):
    """Starts Dask's own scheduler and workers, on this machine; the scheduler's port is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes: list[subprocess.Popen] = []
    threads = {f"{library}_NUM_THREADS": str(CPU_COUNT) for library in LIBRARIES}

    def start(what: str) -> subprocess.Popen:
        given = ["--host", "127.0.0.1", "--port", address.split(":")[1]] if what == "scheduler" else [
            f"tcp://{address}", "--nthreads", "1", "--nworkers", "1", "--local-directory", str(tmp_path / "dask")
        ]  # fmt: skip
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *given, "--no-dashboard"]
        with (tmp_path / f"{what}-{len(processes)}.txt").open("w") as said:
            processes.append(subprocess.Popen(command, env=os.environ | threads, stdout=said, stderr=said))
        return processes[-1]

    yield f"tcp://{address}", start
    for process in reversed(processes):
        process.kill()
        process.wait()


def test_a_worker_that_is_told_to_go_leaves_a_checkpoint_and_another_goes_on(long, tmp_path, started, cluster):
    project, expected = long
    address, start = cluster
    scheduler, worker = start("scheduler"), start("worker")
    sweep = started(project, "params/long", *LONG, "--cluster", address, store=tmp_path / "store")
    wait_until(lambda: epochs(tmp_path / "store") == 1 or sweep.process.poll() is not None, sweep.said())
    time.sleep(0.3)
    worker.terminate()
    worker.wait(MINUTES)
    (folder,) = records(tmp_path / "store")
    assert Run.load(folder).status == "interrupted"
    step, _, objectives, _ = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)["progress"]
    assert 250 * len(objectives) < step < 250 * (len(objectives) + 1)
    start("worker")
    wait_until(lambda: epochs(tmp_path / "store") == 3 or sweep.process.poll() is not None, sweep.said())
    scheduler.kill()
    said = sweep.ended(2)
    assert said.count("\n") == 1
    assert f"the scheduler at {address} is gone" in said
    wait_until(lambda: Run.load(folder).status == "interrupted", "the worker goes on without its scheduler")
    start("scheduler"), start("worker")
    started(project, "params/long", *LONG, "--cluster", address, store=tmp_path / "store").ended(0)
    same(folder, expected)


# --- two at once ---

EXECUTED = "import os\nopen({!r}, 'a').write(os.environ['SEQAE_RUN'] + '\\n')"


def test_two_sweeps_of_one_folder_do_each_run_once(tmp_path, started):
    log = tmp_path / "executed"
    cells = [EXECUTED.format(str(log)), TRAIN.format("fam")]
    make_project(tmp_path, {"fam": cells}, {"fam/a": {}, "fam/b": {"seed": 2}, "fam/c": {"seed": 3}})
    arguments, store = ("params/fam", "-p", "epochs=100"), tmp_path / "store"
    both = [started(tmp_path, *arguments, store=store) for _ in range(2)]
    said = [sweep.ended(0) for sweep in both]
    assert all("3 of 3 runs done" in text for text in said)
    assert sorted(log.read_text().split()) == sorted(folder.name for folder in records(store))
    assert not any("resumed" in record for record in records(store).values())


def test_a_sweep_takes_over_what_another_one_leaves_when_it_dies(long, tmp_path, started):
    project, expected = long
    one = started(project, "params/long", *LONG, store=tmp_path, jobs=1)
    wait_until(lambda: epochs(tmp_path) >= 1 or one.process.poll() is not None)
    two = started(project, "params/long", *LONG, store=tmp_path, jobs=1)
    wait_until(lambda: "another process trains it; waiting" in two.said() or two.process.poll() is not None)
    one.process.kill()
    one.ended()
    two.ended(0)
    (folder,) = records(tmp_path)
    same(folder, expected)


# --- a store that takes nothing ---


@pytest.fixture
def mounted(tmp_path):
    """Mounts a file system of that size on a folder; skips where that is not allowed."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user may not mount a file system")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def test_a_full_disk_is_one_reason_and_nothing_is_lost(mounted, tmp_path, started):
    store = mounted("size=400k")
    make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}, "fam/b": {"seed": 2}})
    (store / "filler").write_bytes(bytes(250_000))
    said = started(tmp_path, "params/fam", "-p", "epochs=3", store=store).ended(1)
    assert said.count("cannot write to") >= 1
    assert "free space there or choose another store" in said
    records(store)
    (store / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=50m", str(store)], check=True)
    assert "2 of 2 runs done" in started(tmp_path, "params/fam", "-p", "epochs=3", store=store).ended(0)


def test_a_store_that_is_read_only_is_told_before_anything_starts(mounted, tmp_path, started):
    store = mounted("ro")
    make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}})
    said = started(tmp_path, "params/fam", store=store).ended(2)
    assert said == f"seqae: cannot write to {store}: Read-only file system; choose another folder as store\n"
