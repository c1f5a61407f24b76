"""Sweeps that are asked to end, that meet another on the same folder, or a store that takes nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from dask.system import CPU_COUNT
from sweeps import DEADLINE, ONE_THREAD, Sweep, epochs, records, same, unbroken, wait_until
from test_sweep import TRAIN, make_project

from seqae.runs.run import Run
from seqae.sweeps.cluster import LIBRARIES

STOPPED = "seqae: stopped; the same command goes on from the last checkpoints\n"
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not Path("/proc").exists(), reason="kernels are forked on Linux alone"),
]

GIVEN = {"epochs": 6, "train_sequences": 1800, "checkpoint_seconds": 3600}
LONG = ("params/long", *(word for key, value in GIVEN.items() for word in ("-p", f"{key}={value}")))
STEPS = 450  # updates an epoch


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A project of one run with long epochs, and that run unbroken."""
    project = tmp_path_factory.mktemp("long")
    make_project(project, {"long": [ONE_THREAD, TRAIN.format("long")]}, {"long/a": {}})
    return project, unbroken("long", project / "unbroken", **GIVEN)


def in_an_epoch(sweep: Sweep, store: Path, logged: int) -> None:
    """Wait until its run is in the midst of the epoch after `logged` ones."""
    wait_until(lambda: epochs(store) >= logged or sweep.process.poll() is not None, sweep.said())
    time.sleep(0.3)


def interrupted(store: Path) -> Path:
    """The folder of the one run, stopped in the midst of an epoch and nothing but that."""
    (folder,) = records(store)
    run = Run.load(folder)
    assert (run.status, run.record()["reason"]) == ("interrupted", None)
    progress = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)["progress"]
    finished = len(progress["objectives"])
    assert STEPS * finished < progress["step"] <= STEPS * (finished + 1)
    return folder


def to_all(sweep: Sweep, number: int) -> None:
    """As Slurm does, which knows a job's processes."""
    for process in [sweep.process, *(p for kind in sweep.others().values() for p in kind)]:
        process.send_signal(number)


def twice(sweep: Sweep, number: int) -> None:
    sweep.process.send_signal(number)
    time.sleep(0.3)
    sweep.process.send_signal(number)


def from_terminal(sweep: Sweep, number: int) -> None:
    """As Ctrl-C is sent: to the whole process group."""
    os.killpg(sweep.process.pid, number)


# While its cluster starts, and while its kernel does.
STARTING = [
    ("forkserver", from_terminal, signal.SIGINT),
    ("forkserver", to_all, signal.SIGTERM),
    ("kernel", twice, signal.SIGINT),
]


def test_asked_to_end_it_ends_with_a_checkpoint_and_the_next_goes_on(long, tmp_path, started):
    project, expected = long
    for what, send, number in STARTING:
        sweep = started(project, *LONG, store=tmp_path, jobs=1)
        wait_until(lambda: sweep.others()[what] or sweep.process.poll() is not None, sweep.said())  # noqa: B023
        send(sweep, number)
        assert sweep.ended(128 + number).endswith(STOPPED), (what, send, number)
    for logged, (send, number) in enumerate([(to_all, signal.SIGTERM), (twice, signal.SIGINT)], start=1):
        sweep = started(project, *LONG, store=tmp_path, jobs=1)
        in_an_epoch(sweep, tmp_path, logged)
        began = time.monotonic()
        send(sweep, number)
        assert sweep.ended(128 + number).endswith(STOPPED)
        print(f"{send.__name__}: ended after {time.monotonic() - began:.1f} s")  # noqa: T201
        interrupted(tmp_path)
    sweep = started(project, *LONG, store=tmp_path, jobs=1)
    in_an_epoch(sweep, tmp_path, 3)
    ((folder, record),) = records(tmp_path).items()
    (kernel,) = sweep.others()["kernel"]
    kernel.send_signal(signal.SIGTERM)  # to it alone: its sweep goes on with it
    sweep.ended(0)
    assert len(Run.load(folder).record()["resumed"]) == len(record["resumed"]) + 1
    same(folder, expected)


SLEEPLESS = """
import sys
from seqae.sweeps import cluster
cluster.CONFIG["distributed.scheduler.worker-ttl"] = "1s"  # a minute is long for a test
from seqae.commands import app
sys.argv = ["seqae", *sys.argv[sys.argv.index("run"):]]
app()
"""


def test_a_sweep_that_slept_as_a_laptop_does_goes_on(long, tmp_path, started):
    project, expected = long
    sweep = started(project, *LONG, store=tmp_path, jobs=1, before=[sys.executable, "-c", SLEEPLESS])
    in_an_epoch(sweep, tmp_path, 1)
    to_all(sweep, signal.SIGSTOP)
    time.sleep(5)
    to_all(sweep, signal.SIGCONT)
    sweep.ended(0)
    (folder,) = records(tmp_path)
    same(folder, expected)


@pytest.mark.parametrize(("lasts", "result"), [(0.5, "done"), (60, "")], ids=["ends", "hangs"])
def test_what_is_not_to_be_interrupted_ends_first_unless_it_hangs(lasts, result):
    source = f"""if True:
        import sys, time
        from seqae.sweeps import interrupts
        interrupts.UNINTERRUPTED_SECONDS = 1.0
        def act():
            print("begun", flush=True)
            sys.stdin.readline()  # the signal has been sent
            time.sleep({lasts})
            print("done", flush=True)
        with interrupts.interrupt_once():
            try:
                interrupts.uninterrupted(act)
            except KeyboardInterrupt as ending:
                print(ending.args[0])
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", source], **pipes, text=True)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate("\n", timeout=DEADLINE)[0].split() == [*result.split(), str(int(signal.SIGTERM))]


# --- workers of a cluster ---


def answers(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


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
        if what == "scheduler":  # who finds none waits long alone
            wait_until(lambda: answers(address), "no scheduler")
        return processes[-1]

    yield f"tcp://{address}", start
    for process in reversed(processes):
        process.kill()
        process.wait()


def kernels(worker: subprocess.Popen) -> set[int]:
    """The kernels that a worker has forked, by their process ids."""
    parents = {}
    for process in psutil.Process(worker.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that ends as it is looked at; a zombie's command line is empty
            if "seqae.sweeps.fork_server" in " ".join(process.cmdline()):
                parents[process.pid] = process.ppid()
    return {pid for pid, parent in parents.items() if parent in parents}


GONE = "seqae: the scheduler is gone: start it; the same command goes on from the last checkpoints\n"
REGISTERED = """
import sys
from distributed import Client
from seqae.sweeps.notebooks import StopKernels
client = Client(sys.argv[1])
print("there", flush=True)
input()
client.register_plugin(StopKernels())
"""


def test_workers_of_a_cluster_come_and_go_and_so_does_its_scheduler(long, tmp_path, started, cluster):
    (project, expected), (address, start), store = long, cluster, tmp_path / "store"
    scheduler, worker = start("scheduler"), start("worker")
    sweep = started(project, *LONG, "--cluster", address, store=store)
    wait_until(lambda: kernels(worker) or sweep.process.poll() is not None, sweep.said())
    sweep.process.send_signal(signal.SIGINT)  # while its kernel starts
    assert sweep.ended(130).endswith(STOPPED)  # before that it may have waited for the worker
    wait_until(lambda: not kernels(worker), "it trains on")

    # As another sweep does. To import what it needs takes seconds, in which the run might end.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", REGISTERED, address], **pipes, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "there\n"
    sweep = started(project, *LONG, "--cluster", address, store=store)
    in_an_epoch(sweep, store, 1)
    before = kernels(worker)
    other.communicate("\n")
    assert (other.returncode, kernels(worker)) == (0, before)
    worker.terminate()
    worker.wait(DEADLINE)
    folder = interrupted(store)
    worker = start("worker")
    in_an_epoch(sweep, store, 3)
    scheduler.kill()
    assert sweep.ended(2).endswith(GONE)
    wait_until(lambda: Run.load(folder).status == "interrupted", "it trains on without its scheduler")
    interrupted(store)
    start("scheduler"), start("worker")
    started(project, *LONG, "--cluster", address, store=store).ended(0)
    same(folder, expected)


# --- two at once ---

EXECUTED = (
    "from seqae.runs.assignment import current_assignment\nopen({!r}, 'a').write(current_assignment().run + '\\n')"
)


def test_two_sweeps_of_one_folder_do_each_run_once(tmp_path, started):
    log = tmp_path / "executed"
    cells = [EXECUTED.format(str(log)), ONE_THREAD, TRAIN.format("fam")]
    make_project(tmp_path, {"fam": cells}, {"fam/a": {}, "fam/b": {"seed": 2}, "fam/c": {"seed": 3}})
    both = [started(tmp_path, "params/fam", "-p", "epochs=40", store=tmp_path / "store") for _ in range(2)]
    assert all("3 of 3 runs done" in sweep.ended(0) for sweep in both)
    assert sorted(log.read_text().split()) == sorted(folder.name for folder in records(tmp_path / "store"))
    assert not any("resumed" in record for record in records(tmp_path / "store").values())


def test_a_sweep_takes_over_what_another_one_leaves_when_it_dies(long, tmp_path, started):
    project, expected = long
    one = started(project, *LONG, store=tmp_path, jobs=1)
    in_an_epoch(one, tmp_path, 1)
    two = started(project, *LONG, store=tmp_path, jobs=1)
    wait_until(lambda: "another process trains it, or died" in two.said() or two.process.poll() is not None)
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


def test_a_full_disk_is_a_reason_and_nothing_is_lost(mounted, tmp_path, started):
    store, arguments = mounted("size=400k"), ("params/fam", "-p", "epochs=3")
    make_project(tmp_path, {"fam": [ONE_THREAD, TRAIN.format("fam")]}, {"fam/a": {}, "fam/b": {"seed": 2}})
    (store / "filler").write_bytes(bytes(250_000))
    sweep = started(tmp_path, *arguments, store=store)
    said = sweep.ended()
    assert sweep.process.returncode in (1, 2)  # 2: there was no room for the index either
    assert said.count("No space left on device") >= 2
    assert str(store) in said
    assert {record["status"] for record in records(store).values()} <= {"failed", "running"}
    (store / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=50m", str(store)], check=True)
    assert "2 of 2 runs done" in started(tmp_path, *arguments, store=store).ended(0)


def test_a_store_that_is_read_only_is_told_before_anything_starts(mounted, tmp_path, started):
    store = mounted("ro")
    make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}})
    said = started(tmp_path, "params/fam", store=store).ended(2)
    assert said == f"seqae: cannot write to {store}: Read-only file system; choose another folder as store\n"
