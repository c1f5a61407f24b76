"""Sweeps as processes, for tests that kill them: what lives of one, what it recorded, whether two came to the same."""

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import torch
import yaml
from test_sweep import DEFAULTS, SEQAE, TINY

import seqae
from seqae.runs.run import Run, open_run

CODE = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(seqae.__file__).parents[1])])  # see tests/conftest.py
DEADLINE = 300  # seconds; what takes longer hangs
ONE_THREAD = "import torch\ntorch.set_num_threads(1)"  # two wait for each other where others want the processors


class Sweep:
    """A `seqae run` in a process of its own, known by a mark in the environment of all that it starts."""

    def __init__(
        self, project: Path, *arguments: str, store: Path, jobs: int = 2, before: Sequence[str] = (), **more: str
    ) -> None:
        self.mark = uuid.uuid4().hex
        command = [*before, *SEQAE, "run", *arguments, "--scale", "tiny", "--jobs", str(jobs), "--store", str(store)]
        environment = os.environ | {"SEQAE_STORE": "", "PYTHONPATH": CODE, "TEST_MARK": self.mark, **more}
        self.output = project / f"{self.mark}.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=project, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def said(self) -> str:
        return self.output.read_text()

    def kill(self) -> None:
        """It and all it started."""
        self.process.kill()
        self.process.wait()
        for process in (p for kind in self.others().values() for p in kind):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def others(self) -> dict[str, list[psutil.Process]]:
        """All that lives of it but itself: workers, forkservers, kernels and what else there is."""
        found: dict[str, list[psutil.Process]] = {"worker": [], "forkserver": [], "kernel": [], "else": []}
        for process in psutil.process_iter():
            try:
                marked = process.pid != self.process.pid and process.environ().get("TEST_MARK") == self.mark
                if not marked or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                line, parent = " ".join(process.cmdline()), process.parent()
                if "seqae.sweeps.fork_server" in line:
                    forked = parent is not None and "seqae.sweeps.fork_server" in " ".join(parent.cmdline())
                    found["kernel" if forked else "forkserver"].append(process)
                else:
                    found["worker" if "spawn_main" in line else "else"].append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                continue
        return found

    def ended(self, code: int | None = None) -> str:
        """Wait for its end, and that of all it started; what it said."""
        self.process.wait(DEADLINE)
        wait_until(lambda: not any(self.others().values()), f"orphans: {self.others()}")
        assert "Traceback" not in self.said(), self.said()
        assert code is None or self.process.returncode == code, self.said()
        return self.said()


def wait_until(condition: Callable[[], bool], told: str = "it did not come", seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def records(store: Path) -> dict[Path, dict]:
    """Every run.yaml of a store by its folder; each must be whole at any time."""
    found = {file.parent: yaml.safe_load(file.read_text()) for file in store.glob("*/*/run.yaml")}
    assert all(isinstance(record, dict) and "parameters" in record for record in found.values())
    return found


def epochs(store: Path) -> int:
    """How many are logged, of all runs together."""
    logs = [log.read_text() for log in store.glob("*/*/metrics.csv")]
    return sum(log.count(",val,all,objective,") for log in logs)


def unbroken(family: str, store: Path, **given: object) -> Path:
    """The folder of a run trained in this process, without a break."""
    return open_run(family, DEFAULTS, TINY | given | {"store": str(store)}).train().folder


def same(run: Path, other: Path) -> None:
    """A sweep's run is done, of the numbers of an `unbroken` one to the last bit, and rendered; nothing is left."""
    assert run.name == other.name
    assert Run.load(run).status == "done"
    ours, theirs = (pd.read_csv(folder / "metrics.csv", dtype=str, keep_default_na=False) for folder in (run, other))
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"))
    for name in ("test.csv", "histograms.csv", "baselines.csv", "samples.npz", "frames.png"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    weights, expected = (Run.load(folder).model().state_dict() for folder in (run, other))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    names = {f.name for f in run.rglob("*")} - {f.name for f in other.rglob("*")}
    assert names == {"notebook.ipynb", "report.html", ".execution.lock"}
