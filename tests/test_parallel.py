"""A run in several processes gives the numbers of one. Whatever dies, nothing hangs and no process is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
from own import write_modules

from seqae import training
from seqae.device import make_accelerator
from seqae.runs import experiment, logs
from seqae.runs.merging import resolve
from seqae.runs.ranks import RankError, launch
from seqae.runs.run import Run, open_run
from seqae.sweeps import execution
from seqae.sweeps.planning import Planned

# Batches of 11, 11 and 1 sequences: the ranks get 6 and 5 of them, the last time 1 and none.
TINY = {
    "loss": "0nm", "task": "both", "architecture": "srivastava", "hidden": 8, "frame_size": 16, "frames_in": 3,
    "frames_out": 2, "train_sequences": 23, "val_sequences": 9, "test_sequences": 5, "batch_size": 11, "epochs": 4,
    "checkpoint_seconds": 0, "device": "cpu",
}  # fmt: skip
OWN = {  # without dropout, whose random numbers are each rank's own
    "architecture": "own_models:Forecaster", "architecture_arguments": {"hidden": 6, "dropout": 0},
    "training_loss": "own_losses:focal", "activation": "sigmoid", "metrics": ["own_metrics:iou"],
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "output": {},
    # Weights that read zeros have no gradient. AdamW would decay them if their gradient were zero instead.
    "zero": {"decoder_input": "zero", "optimizer": "AdamW", "weight_decay": 0.1},
    "sum": {"reduction": "sum", "clip_norm": None, "clip_update": 1e-4, "endless": True, "val_sequences": 1},
    "lbfgs": {"optimizer": "LBFGS", "learning_rate": 0.1, "optimizer_arguments": {"max_iter": 4}},
    "bce": {"loss": "0sb", "schedule": "ReduceLROnPlateau", "schedule_arguments": {"patience": 0, "threshold": 0.5}},
    "fp16": {"precision": "fp16", "reduction": "sum", "recon_weight": 1000},
    "patience": {"patience": 1, "learning_rate": 1e-9},
    "diverges": {"optimizer": "SGD", "learning_rate": 1e30, "clip_norm": None},
}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert ranks_of(os.getpid()) == []


def ranks_of(parent: int) -> list[psutil.Process]:
    """The processes of ranks, in their order."""
    return [child for child in psutil.Process(parent).children() if "seqae.runs.ranks" in " ".join(child.cmdline())]


# ---- the same numbers ----


def curves(record: Callable[..., None]) -> dict[str, tuple[int | None, dict[str, torch.Tensor]]]:
    """Train every case. Returns, by case, the epoch at which it diverged and its best weights."""
    ended = {}
    for case, given in CASES.items():
        p = resolve(TINY, given)
        val = experiment.sequences(p, "val")
        _, fitted, _ = experiment.train_model(p, val, record=lambda table, rows, case=case: record(case, table, rows))
        ended[case] = (fitted.diverged_at, fitted.weights)
    return ended


class Log:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def __call__(self, case: str, table: str, rows: list[dict[str, Any]]) -> None:
        self.rows.setdefault((case, table), []).extend(rows)

    def of(self, case: str, table: str) -> pd.DataFrame:
        return pd.DataFrame(self.rows[case, table]).drop(columns="seconds", errors="ignore")


@pytest.fixture(scope="module")
def both() -> tuple[Any, Log, Any, Log]:
    alone, shared = Log(), Log()
    return curves(alone), alone, launch(curves, 2, device="cpu", record=shared), shared


@pytest.mark.parametrize("case", CASES)
@pytest.mark.soak
def test_two_processes_have_the_numbers_of_one(both: Any, case: str) -> None:
    (ended_alone, alone, ended_shared, shared) = both
    tolerance = 1e-3 if case in ("fp16", "lbfgs") else 1e-4  # these amplify rounding errors
    for table, column in (("metrics", "value"), ("histograms", "share")):
        one, two = alone.of(case, table), shared.of(case, table)
        pd.testing.assert_frame_equal(one.drop(columns=column), two.drop(columns=column))
        assert two[column].to_list() == pytest.approx(one[column].to_list(), rel=tolerance, abs=1e-3, nan_ok=True)
    one, two = alone.of(case, "metrics"), shared.of(case, "metrics")
    assert two.value.to_list() == pytest.approx(one.value.to_list(), rel=tolerance, abs=1e-7, nan_ok=True)
    (diverged, weights), (diverged_too, weights_too) = ended_alone[case], ended_shared[case]
    assert diverged == diverged_too
    for name, weight in weights.items():
        torch.testing.assert_close(weights_too[name], weight, rtol=1e-3, atol=1e-3 if case == "fp16" else 1e-5)


@pytest.mark.soak
def test_the_cases_do_what_they_are_for(both: Any) -> None:
    ended, alone = both[:2]
    last = {case: alone.of(case, "metrics").epoch.max() for case in CASES}
    assert last["patience"] < TINY["epochs"] == last["output"]
    assert ended["diverges"][0] is not None
    overflows = alone.of("fp16", "metrics").query("metric == 'overflows'").value
    assert overflows.sum() > 0
    rates = alone.of("bce", "metrics").query("metric == 'learning_rate'").value
    assert rates.nunique() > 1
    unread = "decoders.recon.layers.0.weight_ih"
    assert torch.equal(
        ended["zero"][1][unread], experiment.new_model(resolve(TINY, CASES["zero"])).state_dict()[unread]
    )


# ---- the life of a run ----


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run("f", TINY, {"store": str(tmp_path_factory.mktemp("alone"))}).train()


def at_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int, act: Callable[[], None]) -> None:
    """Call `act` when an epoch has been recorded, before its checkpoint is written."""

    def append(log: Path, rows: list[dict[str, Any]]) -> None:
        written(log, rows)
        if log.name == "metrics.csv" and rows[0]["epoch"] == epoch:
            act()

    written = logs.append_rows
    monkeypatch.setattr(logs, "append_rows", append)


@pytest.mark.soak
def test_a_killed_rank_fails_the_run_which_goes_on_from_its_checkpoint(
    tmp_path: Path, unbroken: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run("f", TINY, {"store": str(tmp_path), "devices": 2})
    assert run.name == unbroken.name
    with monkeypatch.context() as patched:
        at_epoch(patched, 3, lambda: ranks_of(os.getpid())[1].kill())
        with pytest.raises(RankError, match="rank 1 of 2: killed, or out of memory"):
            run.train()
    assert run.status == "failed"
    assert run.record()["reason"] == "RankError: rank 1 of 2: killed, or out of memory"

    again: list[int] = []
    at_epoch(monkeypatch, 1, lambda: again.append(1))
    run.train()
    assert not again, "it goes on, it does not begin anew"
    assert (run.status, run.verdict) == ("done", unbroken.verdict)
    assert (run.record()["parameters"]["devices"], run.record()["device"]) == (2, "2 × cpu")
    one, two = unbroken.metrics(), run.metrics()
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"), rtol=1e-4, atol=1e-7)
    pd.testing.assert_frame_equal(unbroken.test(), run.test(), rtol=1e-4)


@pytest.mark.soak
def test_an_epoch_of_ones_own_model_that_one_process_began_two_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What one process had summed up is counted once. Of two, one draws a progress bar."""
    write_modules(tmp_path)
    monkeypatch.chdir(tmp_path)
    unbroken = open_run("f", TINY, OWN | {"store": "alone"}).train()
    run, update, updates = open_run("f", TINY, OWN | {"store": "two"}), training.update, []

    def interrupted(*arguments: Any, **given: Any) -> Any:
        updates.append(1)
        if len(updates) == 5:  # the second of three updates of epoch 2
            signal.raise_signal(signal.SIGINT)
        return update(*arguments, **given)

    with monkeypatch.context() as patched:
        patched.setattr(training, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.train()
    assert run.metrics().epoch.max() == 1
    capfd.readouterr()
    run = open_run("f", TINY, OWN | {"store": "two", "devices": 2}).train()
    assert capfd.readouterr().err.count("| 5/12 [00:00<?") == 1
    assert (run.record()["parameters"]["devices"], len(run.record()["resumed"])) == (2, 1)
    one, two = unbroken.metrics(), run.metrics()
    assert "iou" in set(two.metric)
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"), rtol=1e-4, atol=1e-7)
    pd.testing.assert_frame_equal(unbroken.test(), run.test(), rtol=1e-4)


@pytest.mark.soak
def test_an_interrupt_is_the_notebooks_alone_and_stops_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter sends SIGINT to every process of the kernel's group."""

    def interrupt() -> None:
        for rank in ranks_of(os.getpid()):
            rank.send_signal(signal.SIGINT)
        at_epoch(monkeypatch, 2, stop)

    def stop() -> None:
        raise KeyboardInterrupt

    at_epoch(monkeypatch, 1, interrupt)
    run = open_run("f", TINY, {"store": str(tmp_path), "devices": 2})
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert run.status == "interrupted"
    assert run.metrics().epoch.max() == 2


@pytest.mark.parametrize(
    ("device", "devices", "gpus"), [("cuda", 3, 3), ("auto", 1, 1), ("cpu", 3, 0), ("cuda:1", 1, 0)]
)
def test_a_sweep_holds_a_gpu_for_each_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, devices: int, gpus: int
) -> None:
    def held(count: int, *, per_gpu: int) -> None:
        raise ValueError(f"asked for {count}")

    monkeypatch.setattr(execution, "held_gpus", held)
    run = open_run("f", TINY, {"store": str(tmp_path), "device": device, "devices": devices})
    with pytest.raises(ValueError, match=f"asked for {gpus}$"):
        execution.execute(Planned(run, "", {}))


# ---- ranks ----


def wait_for_ever(tell: Callable[[], None]) -> None:
    torch.distributed.barrier()
    tell()
    time.sleep(600)


def fail_on_rank_1() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("of its own")
    torch.distributed.barrier()


@pytest.mark.soak
def test_the_error_is_that_of_the_rank_that_began_it() -> None:
    with pytest.raises(RankError) as caught:
        launch(fail_on_rank_1, 2, device="cpu")
    assert str(caught.value) == "rank 1 of 2: ValueError: of its own"
    assert "in fail_on_rank_1" in caught.value.__notes__[0]


def give_a_function() -> Callable[[], None]:
    return lambda: None


@pytest.mark.soak
def test_a_result_that_cannot_be_sent_is_told() -> None:
    with pytest.raises(RankError, match=r"rank 0 of 2: .*[pP]ickle.*lambda"):
        launch(give_a_function, 2, device="cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ranks end with their next exchange")
@pytest.mark.soak
def test_ranks_die_with_the_process_that_started_them() -> None:
    script = """
from test_parallel import launch, wait_for_ever
launch(wait_for_ever, 2, device="cpu", tell=lambda: print("all are there", flush=True))
"""
    path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ | path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"all are there\n"
        ranks = ranks_of(process.pid)
        process.kill()
    assert len(ranks) == 2
    _, alive = psutil.wait_procs(ranks, timeout=20)
    for rank in alive:
        rank.kill()
    assert alive == []


# ---- what there is not ----


@pytest.mark.parametrize(
    ("gpus", "device", "message"),
    [
        (2, "auto", "devices 3 are more than .* for device auto, 2: use devices: 2, or device: cpu"),
        (2, "cuda", "for device cuda, 2: use devices: 2"),
        (4, "cuda:1", "for device cuda:1, 1: use devices: 1"),
        (0, "auto", "for device auto, 0: use devices: 1"),
    ],
)
def test_more_devices_than_there_are_are_refused(
    gpus: int, device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=message):
        make_accelerator(device=device, devices=3)


def test_a_run_says_so_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    run = open_run("f", TINY, {"store": str(tmp_path), "device": "auto", "devices": 2})
    with pytest.raises(ValueError, match="devices 2 are more than the GPUs of this machine for device auto, 0"):
        run.train()
    assert run.status == "failed"
    assert not (run.folder / "baselines.csv").exists()
