"""seqae.runs.memory: what a training takes, of the process that trains."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from seqae.device import keep_freed_memory
from seqae.runs import experiment, resolve, used_memory
from seqae.training import Row

TINY = {
    "frame_size": 16, "width": 0.01, "epochs": 1, "batch_size": 4, "train_sequences": 8, "val_sequences": 4,
    "test_sequences": 4, "device": "cpu",
}  # fmt: skip
pytestmark = pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux alone tells it")


def test_the_peak_of_memory_is_the_runs_own() -> None:
    p, val = resolve(TINY), torch.zeros(4, 20, 16, 16, dtype=torch.uint8)

    def peak(large: int) -> int:
        def record(table: str, rows: list[Row]) -> None:
            if table == "metrics":  # once: freed memory may lie where the same again does not fit
                torch.ones(large)

        found: Any = experiment.train_model(p, val, record=record)[2]
        return found

    peak(1)  # imports what an optimizer needs
    assert 0 <= peak(1) < 100e6  # whatever the process took before
    assert 190e6 < peak(50_000_000) < 300e6  # 200 megabytes for a moment


def test_memory_that_was_freed_is_measured_again() -> None:
    """Kept by the process, freed blocks would be in use already when the next measurement begins."""
    keep_freed_memory()
    cpu = torch.device("cpu")
    for _ in range(3):
        held = used_memory(cpu)
        blocks = [torch.ones(2**20) for _ in range(25)]  # 4 MiB each
        assert len(blocks) == 25
        del blocks
        assert 80e6 < (used_memory(cpu, since=held) or 0) < 250e6


def test_a_kernel_that_tells_no_peak_costs_no_run(monkeypatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: "Name:\tpython\nVmRSS:\t     100 kB\nThreads:\t1\n")
    held = used_memory(torch.device("cpu"))
    assert held == 102_400
    assert used_memory(torch.device("cpu"), since=held) is None
