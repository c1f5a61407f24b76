"""More epochs for a finished run: it goes on from a copy of the checkpoint where that is exact, and says so."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest
import torch
from test_sweep import DEFAULTS, TINY, make_project, snapshot
from torch.optim import lr_scheduler
from typer.testing import CliRunner

from seqae.benchmark import cost_estimate
from seqae.commands.main import app
from seqae.runs import facts, going_on, locks, logs
from seqae.runs.going_on import shorter_run
from seqae.runs.merging import resolve
from seqae.runs.optimizers import UNFIT
from seqae.runs.run import Run, open_run
from seqae.sweeps.planning import plan

KEPT = TINY | {"keep_checkpoint": True}
SCHEDULES: dict[str, dict[str, Any]] = {  # what each needs
    "ConstantLR": {},
    "CosineAnnealingLR": {},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "CyclicLR": {"base_lr": 1e-4, "max_lr": 1e-3},
    "ExponentialLR": {},
    "LinearLR": {},
    "MultiStepLR": {"milestones": [1, 3]},
    "OneCycleLR": {"max_lr": 1e-3},
    "PolynomialLR": {},
    "ReduceLROnPlateau": {},
    "StepLR": {},
}
KNOW_THE_END = {"ConstantLR", "CosineAnnealingLR", "LinearLR", "OneCycleLR", "PolynomialLR"}


def told_of(run) -> list[tuple[str, str]]:
    return [row for rows in facts.facts_of(run).values() for row in rows]


@pytest.fixture(autouse=True)
def said(caplog) -> Any:
    caplog.set_level(logging.WARNING, logger="seqae")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "seqae"]


def opened(store: Path, epochs: int, **given: Any) -> Run:
    return open_run("fam", DEFAULTS, KEPT | given | {"epochs": epochs, "store": str(store)})


def same(run: Run, other: Run) -> None:
    """To the last bit, in all that a run's folder shows but times."""
    for name in ("metrics", "histograms"):
        ours, theirs = (getattr(r, name)().drop(columns="seconds", errors="ignore") for r in (run, other))
        assert ours.equals(theirs)
    for name in ("test.csv", "samples.npz", "baselines.csv", "frames.png"):
        assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    weights, expected = (r.model().state_dict() for r in (run, other))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for key in ("epochs", "verdict", "weights", "explained"):
        assert run.record()[key] == other.record()[key]


def test_a_family_may_have_brackets_in_its_name(tmp_path) -> None:
    one, two = (open_run("fam[1]", DEFAULTS, KEPT | {"epochs": epochs, "store": str(tmp_path)}) for epochs in (1, 2))
    one.train()
    found = shorter_run(two)
    assert found
    assert (found.run.name, found.hindrance) == (one.name, None)


STEPS = {"schedule": "StepLR", "schedule_every": 1, "schedule_per": "update"}
PLATEAU = {"schedule": "ReduceLROnPlateau", "schedule_arguments": {"patience": 0}}
COSINE = {"schedule": "CosineAnnealingLR", "schedule_arguments": {"T_max": 3}}  # an end that the epochs do not move
STOPS = {"patience": 1, "learning_rate": 1e-7}  # early, as it would with more epochs
DIVERGES = {"optimizer": "SGD", "learning_rate": 1e30, "clip_norm": None, "architecture": "srivastava"}
AT_THE_END = {"checkpoint_seconds": 1000.0}  # the only checkpoint is that of the end


@pytest.mark.parametrize(
    "given",
    [
        {"endless": True, "optimizer": "SGD", "momentum": 0.9} | STEPS,
        AT_THE_END | STOPS,
        *(
            pytest.param(given, marks=pytest.mark.soak)
            for given in ({}, PLATEAU, COSINE, DIVERGES, {"precision": "bf16"})
        ),
    ],
    ids=lambda given: "-".join(map(str, given.values())) or "usual",
)
def test_it_comes_to_the_numbers_of_an_unbroken_run(given, tmp_path, said) -> None:
    short = opened(tmp_path / "a", 2, **given).train()
    before = snapshot(short), (short.folder / "checkpoint/state.pt").read_bytes()
    longer = opened(tmp_path / "a", 4, **given)
    assert longer.folder != short.folder
    longer.train()
    made, epochs = short.record(), short.record()["epochs"]
    whence = {"run": short.name, "epochs": epochs} | {key: made[key] for key in ("commit", "dirty", "sources")}
    assert longer.record()["went_on"] == whence
    assert f"fam/{longer.name} goes on from {short.name}, after epoch {epochs} of 4" in said()
    told = f"{short.name}, after epoch {epochs}, made with code {made['commit']}"
    assert ("went on from", told) in told_of(longer)
    assert (snapshot(short), (short.folder / "checkpoint/state.pt").read_bytes()) == before
    unbroken = opened(tmp_path / "b", 4, **given).train()
    assert "went_on" not in unbroken.record()
    same(longer, unbroken)


def test_the_best_weights_may_be_those_of_the_finished_run(tmp_path) -> None:
    given = {"optimizer": "SGD", "schedule": "StepLR", "schedule_every": 2, "schedule_gamma": 1e6}
    opened(tmp_path / "a", 2, **given).train()
    longer, unbroken = opened(tmp_path / "a", 3, **given).train(), opened(tmp_path / "b", 3, **given).train()
    assert longer.marks()["best"] <= 2
    same(longer, unbroken)


def test_only_what_has_more_epochs_and_is_the_same_otherwise_goes_on(tmp_path) -> None:
    runs = [opened(tmp_path, epochs).train() for epochs in (1, 2)]
    found = shorter_run(opened(tmp_path, 3))
    assert (found.run.name, found.epochs, found.hindrance) == (runs[1].name, 2, None)  # the longest
    shutil.rmtree(runs[1].folder / "checkpoint")
    assert shorter_run(opened(tmp_path, 3)).run.name == runs[0].name
    for given in ({"seed": 7}, {"task": "pred"}, {"train_sequences": 12}, {"fresh": True}, {"epochs": 1}):
        assert shorter_run(opened(tmp_path, **{"epochs": 3} | given)) is None


def test_it_says_why_it_begins_anew(tmp_path, said) -> None:
    short = opened(tmp_path, 2).train()
    file = short.folder / "checkpoint/state.pt"
    file.write_bytes(file.read_bytes()[:999])
    assert shorter_run(opened(tmp_path, 3)).hindrance == "its checkpoint is damaged, or of an older version"
    file.unlink()
    run = opened(tmp_path, 3, keep_checkpoint=False).train()
    why = f"begins anew, although {short.name} has 2 of its 3 epochs: that run kept no checkpoint, as it does with "
    why += "keep_checkpoint: true"
    assert said() == [f"fam/{run.name} {why}"]
    assert (run.record()["began_anew"], run.record()["went_on"]) == (why, {})
    assert ("training", why) in told_of(run)
    assert not (run.folder / "checkpoint").exists()
    decays = {"schedule": "CosineAnnealingLR"}
    opened(tmp_path, 2, **decays).train()
    found = shorter_run(opened(tmp_path, 3, **decays))
    assert found.told(3).endswith("2 of its 3 epochs: schedule CosineAnnealingLR depends on the number of epochs")
    grows = {"horizon_until": 1, "task": "pred"}
    opened(tmp_path, 2, **grows).train()
    found = shorter_run(opened(tmp_path, 3, **grows))
    assert found.told(3).endswith("2 of its 3 epochs: with horizon_until updates depend on the number of epochs")


@pytest.mark.parametrize("name", SCHEDULES)
def test_which_schedules_know_the_end(name) -> None:
    given = {"schedule": name, "schedule_arguments": SCHEDULES[name]}
    few, many = (going_on._schedule(resolve(DEFAULTS, TINY, given, {"epochs": epochs})) for epochs in (10, 20))
    assert (few != many) == (name in KNOW_THE_END)


def test_no_schedule_of_torch_is_left_out() -> None:
    kinds = {name: kind for name, kind in vars(lr_scheduler).items() if isinstance(kind, type) and name[0] != "_"}
    known = {name for name, kind in kinds.items() if issubclass(kind, lr_scheduler.LRScheduler)}
    assert known - {"LRScheduler", *UNFIT} == {*SCHEDULES}


def test_interrupted_before_its_copy_or_after_it_ends_as_unbroken(tmp_path, monkeypatch) -> None:
    unbroken = opened(tmp_path / "b", 4).train()
    short = opened(tmp_path / "a", 2).train()
    copy, append = shutil.copyfile, logs.append_rows

    def no_checkpoint(source: Path, target: Path) -> None:
        if Path(source).name == "state.pt":
            raise KeyboardInterrupt
        copy(source, target)

    def no_fourth(log: Path, rows: list[dict[str, Any]]) -> None:
        if rows[0]["epoch"] == 4:
            raise KeyboardInterrupt
        append(log, rows)

    for place, hindered in (
        ("seqae.runs.going_on.shutil.copyfile", no_checkpoint),
        ("seqae.runs.logs.append_rows", no_fourth),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, hindered)
            with pytest.raises(KeyboardInterrupt):
                opened(tmp_path / "a", 4).train()
        assert opened(tmp_path / "a", 4).status == "interrupted"
    run = opened(tmp_path / "a", 4).train()
    assert (run.record()["went_on"]["run"], len(run.record()["resumed"])) == (short.name, 1)
    same(run, unbroken)


def test_the_finished_run_does_not_change_while_it_is_copied(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)
    short, copy, refused = opened(tmp_path, 1).train(), shutil.copyfile, []

    def changed(source: Path, target: Path) -> None:
        with pytest.raises(filelock.Timeout), filelock.FileLock(short.folder / ".lock", timeout=0):
            pass
        refused.append(Path(source).name)
        copy(source, target)

    monkeypatch.setattr("seqae.runs.going_on.shutil.copyfile", changed)
    opened(tmp_path, 2).train()
    assert {"metrics.csv", "state.pt"} <= {*refused}


def test_plans_say_it(tmp_path, monkeypatch) -> None:
    project = make_project(tmp_path, {"fam": []}, {"fam/a": {"keep_checkpoint": True}})
    monkeypatch.chdir(project)
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / "reports"))
    short = opened(tmp_path / "reports", 2).train()
    items = plan([Path("params/fam")], scale="tiny", given=[{"epochs": 3}, {"epochs": 3, "schedule": "LinearLR"}])
    assert items[0].reason_to_execute() == f"new, goes on from {short.name}, after epoch 2 of 3"
    assert items[1].reason_to_execute() == "new"
    monkeypatch.setattr(cost_estimate, "estimate_cost", lambda p: SimpleNamespace(seconds=100.0))  # it times updates
    result = CliRunner().invoke(app, ["run", "params/fam", "--scale", "tiny", "--dry-run", "-p", "epochs=200"])
    assert f": new, goes on from {short.name}, after epoch 2 of 200, about 0:01:39 of" in result.output


@pytest.mark.soak
def test_in_a_store_elsewhere_it_is_fetched(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    url = f"local://{tmp_path / 'store'}"
    short = open_run("fam", DEFAULTS, KEPT | {"store": url}).train()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    run = open_run("fam", DEFAULTS, KEPT | {"epochs": 4, "store": url}).train()
    assert run.record()["went_on"]["run"] == short.name
    same(run, opened(tmp_path / "b", 4).train())
