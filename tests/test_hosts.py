"""Two hosts, each a network namespace with its own end of a cable, and a sweep on both while the cable is pulled."""

import os
import subprocess
import sys
import time

import pytest
from sweeps import CODE, ONE_THREAD, records, same, unbroken, wait_until
from test_sweep import TRAIN, make_project

HEAD, OTHER = "10.231.77.1", "10.231.77.2"
ENVIRONMENT = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",  # the least: so long a connection may be silent
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip
GIVEN = {"epochs": 24}
SLOW = """
import time
from seqae.runs import experiment
train = experiment.train_model
def slow(p, val, *, record, **others):
    return train(p, val, record=lambda *told: (record(*told), time.sleep(0.5)), **others)
experiment.train_model = slow
"""  # an epoch records twice


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@pytest.fixture
def hosts():
    """What begins a command on the first host, and on the second; the name of the second."""
    one, two, cable = (f"seqae{name}{os.getpid()}" for name in "abc")
    try:
        for host in (one, two):
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
        ip("link", "add", cable[:15], "netns", one, "type", "veth", "peer", "name", "cable", "netns", two)
        for host, end, address in ((one, cable[:15], HEAD), (two, "cable", OTHER)):
            ip("-n", host, "address", "add", f"{address}/24", "dev", end)
            ip("-n", host, "link", "set", end, "up")
    except OSError as error:  # not root, no iproute2, or a container that may not
        for host in (one, two):
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)
        pytest.skip(f"no network namespaces here: {error}")
    yield ["ip", "netns", "exec", one], ["ip", "netns", "exec", two], two
    for host in (one, two):
        ip("netns", "delete", host)


@pytest.fixture
def dask():
    """Starts Dask's own scheduler and workers, each on a host."""
    processes: list[subprocess.Popen] = []

    def start(host, what, *given, cwd):
        command = [*host, sys.executable, "-m", f"distributed.cli.dask_{what}", *given, "--no-dashboard"]
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": CODE}
        with (cwd / f"{what}-{len(processes)}.txt").open("w") as said:
            processes.append(subprocess.Popen(command, cwd=cwd, env=environment, stdout=said, stderr=said))

    yield start
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.soak
def test_a_host_that_is_cut_off_and_comes_back(hosts, dask, started, tmp_path):
    head, other, cut = hosts
    runs = [{"seed": seed} for seed in (1, 2, 3)]
    files = {f"fam/{given['seed']}": given for given in runs}
    make_project(tmp_path, {"fam": [ONE_THREAD, SLOW, TRAIN.format("fam")]}, files)
    scheduler, store = f"tcp://{HEAD}:8786", tmp_path / "store"
    worker = (scheduler, "--nthreads", "1", "--nworkers", "1", "--local-directory", "dask")
    dask(head, "scheduler", "--host", HEAD, "--port", "8786", cwd=tmp_path)
    dask(head, "worker", *worker, "--host", HEAD, cwd=tmp_path)
    dask(other, "worker", *worker, "--host", OTHER, cwd=tmp_path)
    given = [word for key, value in GIVEN.items() for word in ("-p", f"{key}={value}")]
    sweep = started(tmp_path, "params/fam", *given, "--cluster", scheduler, store=store, before=head, **ENVIRONMENT)
    both = lambda: len([*store.glob("*/*/metrics.csv")]) >= 2  # noqa: E731
    wait_until(lambda: both() or sweep.process.poll() is not None, sweep.said())
    ip("-n", cut, "link", "set", "cable", "down")
    time.sleep(14)  # the scheduler, and the worker, have seen it
    ip("-n", cut, "link", "set", "cable", "up")
    dask(other, "worker", *worker, "--host", OTHER, cwd=tmp_path)  # as whoever watches over it would
    assert "3 of 3 runs done" in sweep.ended(0)
    expected = sorted(unbroken("fam", tmp_path / "unbroken", **GIVEN, **given) for given in runs)
    assert any("resumed" in record for record in records(store).values())
    for folder, alone in zip(sorted(records(store)), expected, strict=True):
        same(folder, alone)
