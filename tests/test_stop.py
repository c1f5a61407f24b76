"""Sweeps that are asked to end, that meet another on the same folder, or a store that takes nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from dask.system import CPU_COUNT
from sweeps import DEADLINE, ONE_THREAD, Sweep, epochs, records, same, wait_until
from test_sweep import TRAIN, make_project

from seqae.runs import Run
from seqae.sweep import LIBRARIES

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="kernels are forked on Linux alone")

LONG = ("-p", "epochs=4", "-p", "train_sequences=400", "-p", "checkpoint_seconds=3600")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A run of long epochs, unbroken."""
    project = tmp_path_factory.mktemp("long")
    make_project(project, {"long": [ONE_THREAD, TRAIN.format("long")]}, {"long/a": {}})
    Sweep(project, "params/long", *LONG, store=project / "unbroken", jobs=1).ended(0)
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
    assert 100 * len(objectives) < step < 100 * (len(objectives) + 1)
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
    worker.wait(DEADLINE)
    (folder,) = records(tmp_path / "store")
    assert Run.load(folder).status == "interrupted"
    step, _, objectives, _ = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)["progress"]
    assert 100 * len(objectives) < step < 100 * (len(objectives) + 1)
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
