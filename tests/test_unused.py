"""What a combination does not use changes neither the run nor its name, and is refused where a run gives it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import yaml
from test_sweep import DEFAULTS, TINY, TRAIN, make_project
from typer.testing import CliRunner

from seqae.commands import main
from seqae.parameters import EXECUTION, Parameters
from seqae.runs import assignment, experiment
from seqae.runs.experiment import sequences
from seqae.runs.identity import USES, as_used, run_hash, unused
from seqae.runs.merging import resolve
from seqae.runs.notebook_cells import family_defaults
from seqae.runs.run import Run, open_run
from seqae.sweeps import planning
from seqae.sweeps.execution import execute
from seqae.sweeps.planning import Planned, plan

ROOT = Path(__file__).parents[1]
CYCLIC = {"schedule": "CyclicLR", "schedule_arguments": {"base_lr": 1e-4, "max_lr": 1e-3, "cycle_momentum": False}}
ONE_CYCLE = {"schedule": "OneCycleLR", "schedule_arguments": {"max_lr": 1e-3, "cycle_momentum": False}}
CLIPS = str(ROOT / "tests/data/clips.npy")  # 5 of 20 frames of 8×8 pixels
# (a combination, a parameter that it does not use, a value)
IDLE: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "recon_weight", 0.5),
    ({"task": "pred"}, "recon_weight", 0.5),
    ({}, "recon_truth", True),
    ({"task": "pred", "decoder_input": "truth"}, "recon_truth", True),
    ({"task": "pred", "frames_out": 1}, "decoder_input", "zero"),
    ({"task": "pred", "frames_out": 1, "architecture": "srivastava"}, "decoder_input", "zero"),
    ({}, "frames_out", 3),
    ({"task": "recon_ordered"}, "frames_out", 3),
    ({"architecture": "lstm"}, "width", 0.5),
    ({"architecture": "lstmcell"}, "width", 0.5),
    ({"architecture": "lstm"}, "hidden", 8),
    ({}, "data_folder", "/mine"),
    ({}, "momentum", 0.9),
    ({"optimizer": "SGD"} | ONE_CYCLE | {"schedule_arguments": {"max_lr": 1e-3}}, "momentum", 0.5),
    ({"optimizer": "SGD"} | CYCLIC | {"schedule_arguments": {"base_lr": 1e-4, "max_lr": 1e-3}}, "momentum", 0.5),
    ({"optimizer": "Rprop"}, "weight_decay", 0.1),
    ({}, "schedule_per", "update"),
    ({"schedule": "ReduceLROnPlateau"}, "schedule_per", "update"),
    ({}, "schedule_every", 1),
    ({"schedule": "ExponentialLR"}, "schedule_every", 1),
    ({}, "schedule_gamma", 0.1),
    ({"schedule": "CosineAnnealingLR"}, "schedule_gamma", 0.1),
    (CYCLIC, "schedule_gamma", 0.1),
    ({}, "schedule_arguments", {"eta_min": 0.1}),
    (ONE_CYCLE, "learning_rate", 0.5),
    (CYCLIC, "learning_rate", 0.5),
    ({}, "horizon_until", 0.5),
    ({"task": "pred", "frames_out": 1}, "horizon_until", 0.5),
    ({}, "init_range", 0.5),
    ({"init": "orthogonal"}, "init_range", 0.5),
    ({}, "readout_bias", -2),
    ({}, "peephole_range", 0.1),
    ({"architecture": "srivastava", "peepholes": False}, "peephole_range", 0.1),
    ({}, "repeats", 3),
    *(({}, name, value) for name, value in (("clips_val", CLIPS), ("clips_test", CLIPS), ("clip_stride", 3))),
    ({"clips": CLIPS}, "digits", "mnist"),
    ({"clips": CLIPS}, "data_seed", 2),
    ({"clips": CLIPS}, "digits_per_sequence", 3),
    ({"clips": CLIPS}, "digit_speed", 0.2),
    ({"clips": CLIPS}, "data_folder", "/mine"),
    ({"clips": CLIPS}, "test_data", "official"),
]
# (a combination, a parameter that it uses, a value)
BUSY: list[tuple[dict[str, Any], str, Any]] = [
    ({"task": "both"}, "recon_weight", 0.5),
    ({"task": "both"}, "horizon_until", 0.5),
    ({"task": "both", "decoder_input": "truth"}, "recon_truth", True),
    ({"task": "pred", "frames_out": 1}, "decoder_input", "truth"),
    ({"task": "both", "frames_out": 1}, "decoder_input", "zero"),
    ({"task": "both"}, "frames_out", 3),
    ({"task": "pred"}, "frames_out", 3),
    ({"clips": CLIPS}, "frames_out", 3),
    *(({"clips": CLIPS}, name, value) for name, value in (("clips_val", "v"), ("clips_test", "t"), ("clip_stride", 3))),
    *(
        ({}, name, value)
        for name, value in (("digits", "mnist"), ("data_seed", 2), ("digits_per_sequence", 3), ("digit_speed", 0.2))
    ),
    ({"frame_size": 64}, "test_data", "official"),
    *(({"architecture": name}, "width", 0.02) for name in ("lstm_copy", "fc_lstm", "srivastava")),
    ({"architecture": "fc_lstm"}, "hidden", 300),
    ({"digits": "mnist"}, "data_folder", "/mine"),
    ({"test_data": "official", "frame_size": 64}, "data_folder", "/mine"),
    ({"optimizer": "SGD"}, "momentum", 0.9),
    ({"optimizer": "SGD"} | ONE_CYCLE, "momentum", 0.5),
    ({}, "weight_decay", 0.1),
    ({"schedule": "StepLR", "schedule_every": 1}, "schedule_per", "update"),
    ({"schedule": "StepLR"}, "schedule_every", 1),
    ({"schedule": "StepLR", "schedule_every": 1}, "schedule_gamma", 0.1),
    ({"schedule": "ExponentialLR"}, "schedule_gamma", 0.1),
    ({"schedule": "CosineAnnealingLR"}, "schedule_arguments", {"eta_min": 0.1}),
    ({"schedule": "CosineAnnealingLR"}, "learning_rate", 0.5),
    ({"init": "uniform"}, "init_range", 0.5),
    ({"architecture": "srivastava"}, "readout_bias", -2),
    ({"architecture": "srivastava", "peepholes": True}, "peephole_range", 0.1),
]


def named(cases: list[tuple[dict[str, Any], str, Any]]) -> list[str]:
    return [f"{name}-{'-'.join(map(str, usual.values())) or 'usual'}" for usual, name, _ in cases]


def objectives(p: Parameters) -> list[float]:
    rows: list[dict[str, Any]] = []
    experiment.train_model(p, sequences(p, "val"), record=lambda table, found: rows.extend(found))
    return [row["value"] for row in rows if row.get("metric") == "objective"]


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main.app, [*arguments])
    assert result.exit_code == code, result.output
    return result.output


# Code of one's own decides on these: test_own_code.py.
OF_OWN_CODE = {"layers", "peepholes", "init", "bias_init", "forget_bias", "architecture_arguments", "code"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # else it lists all fonts again
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_cases_cover_the_table() -> None:
    assert {*USES} - OF_OWN_CODE == {name for _, name, _ in IDLE} - {"repeats"} == {name for _, name, _ in BUSY}


@pytest.mark.parametrize(("usual", "name", "value"), IDLE, ids=named(IDLE))
def test_what_is_not_used_changes_neither_the_run_nor_its_name(usual, name, value, tmp_path) -> None:
    given = TINY | usual | {"store": str(tmp_path)}
    plain, idle = (open_run("fam", DEFAULTS, given | more) for more in ({}, {name: value}))
    assert (idle.folder, idle.parameters, idle.differs) == (plain.folder, plain.parameters, plain.differs)
    in_cell = open_run("fam", DEFAULTS | {name: value}, given)
    assert (in_cell.folder, in_cell.parameters, in_cell.differs) == (plain.folder, plain.parameters, plain.differs)


WITHOUT = [case for case in IDLE if case[0].get("schedule") != "ReduceLROnPlateau"]  # which has no step per update


@pytest.mark.parametrize(("usual", "name", "value"), WITHOUT, ids=named(WITHOUT))
def test_it_has_no_effect_indeed(usual, name, value) -> None:
    """Where the core takes it at all: some it refuses by itself."""
    stated = resolve(DEFAULTS, TINY, usual, {name: value})
    used = as_used(stated, "fam")
    try:
        experiment.check_parameters(stated)
    except ValueError:
        experiment.check_parameters(used)
    else:
        assert objectives(stated) == pytest.approx(objectives(used), rel=1e-6), (
            "but for rounding: of two orders of sums"
        )


@pytest.mark.parametrize(("usual", "name", "value"), BUSY, ids=named(BUSY))
def test_what_is_used_defines_the_run(usual, name, value) -> None:
    before, after = (as_used(resolve(DEFAULTS, TINY, usual, more), "fam") for more in ({}, {name: value}))
    assert getattr(after, name) == getattr(resolve({name: value}), name)
    assert (run_hash(before) == run_hash(after)) == (name in EXECUTION)


def test_what_a_benchmark_uses_is_something_else() -> None:
    p = resolve()
    assert "repeats" not in unused(p, "performance")
    assert {"epochs", "schedule", "train_sequences"} <= unused(p, "performance").keys()
    assert not {"epochs", "schedule", "train_sequences"} & unused(p, "fam").keys()
    assert not {"device", "store", "fresh", "label", "hidden", "batch_size"} & unused(p, "performance").keys()
    assert as_used(resolve({"epochs": 3}), "performance") == as_used(p, "performance")


def test_the_rule_holds_for_what_it_gives_itself() -> None:
    for usual, name, value in [*IDLE, *BUSY]:
        p = as_used(resolve(usual, {name: value}), "fam")
        assert as_used(p, "fam") == p
        assert unused(p, "fam").keys() == unused(resolve(usual, {name: value}), "fam").keys()


# --- where it is refused ---


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, {"fam": [], "performance": []}, {}))
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / "reports"))
    return tmp_path


def run_file(project: Path, name: str = "fam/a", **content: Any) -> Path:
    file = project / "params" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return file


def planned(*files: Path, **options: Any) -> list[Planned]:
    return plan(files, scale="tiny", **options)


@pytest.mark.parametrize(("usual", "name", "value"), IDLE, ids=named(IDLE))
def test_a_run_file_that_gives_it_is_refused_in_a_sentence(usual, name, value, project) -> None:
    file = run_file(project, **usual, **{name: value})
    with pytest.raises(ValueError, match=rf"a\.yaml: {name} .* has no effect: it is used .*: leave it out$") as caught:
        planned(file)
    assert "\n" not in str(caught.value)
    run_file(project, **usual, **{name: Parameters.model_fields[name].default})
    assert len(planned(file)) == 1  # the default says nothing
    run_file(project, **usual)
    run_file(project, "scale/tiny", **TINY, **{name: value})
    (item,) = planned(file)  # a scale serves many runs
    with pytest.raises(ValueError, match=rf"^-p {name} .* has no effect"):
        planned(file, given={name: value})
    assert (
        item.run.parameters == open_run("fam", DEFAULTS, TINY | usual | {"store": str(project / "reports")}).parameters
    )


def test_the_command_line_may_give_what_one_of_its_runs_uses(project) -> None:
    files = [run_file(project, "fam/a", task="both"), run_file(project, "fam/b", task="recon")]
    both, recon = planned(*files, given={"recon_weight": 0.5})
    assert (both.run.parameters.recon_weight, recon.run.parameters.recon_weight) == (0.5, 1)
    run_file(project, "fam/a", task="pred")
    with pytest.raises(ValueError, match=r"^-p recon_weight 0\.5 has no effect: .* first of these 2 runs"):
        planned(*files, given={"recon_weight": "0.5"})
    assert len(planned(*files, given={"recon_weight": "1.0"})) == 2


def test_what_the_command_line_makes_of_a_run_decides(project) -> None:
    file = run_file(project, recon_weight=0.5)
    with pytest.raises(ValueError, match=r"recon_weight 0\.5 has no effect"):
        planned(file)
    assert planned(file, given={"task": "both"})[0].run.parameters.recon_weight == 0.5


def test_outputs_refuse_a_data_folder_that_is_not_read(tmp_path) -> None:
    run = open_run("fam", DEFAULTS, TINY | {"store": str(tmp_path)}).train()
    assert run.outputs("val", indices=[0])["frames"].shape[0] == 1
    with pytest.raises(ValueError, match=r"^data_folder /mine has no effect: it is used with digits mnist"):
        run.outputs("val", data_folder="/mine")


def test_every_command_that_plans_says_so_in_one_line(project) -> None:
    run_file(project, digits="mnist5k", data_folder="mine")
    for command in ("check", "status", "run"):
        said = call(command, "params/fam", "--scale", "tiny", code=2)
        assert said.startswith("seqae: params/fam/a.yaml: data_folder mine has no effect: it is used with digits mnist")
        assert said.count("\n") == 1
    run_file(project)
    assert "schedule_gamma 0.1 has no effect" in call("check", "params/fam", "-p", "schedule_gamma=0.1", code=2)


def test_a_benchmark_is_not_trained(project) -> None:
    file = run_file(project, "performance/a", repeats=3, epochs=5)
    with pytest.raises(ValueError, match=r"epochs 5 has no effect: .* performance times single updates"):
        planned(file)
    run_file(project, "performance/a", repeats=3)
    assert planned(file)[0].run.parameters.repeats == 3


def test_none_of_our_own_files_gives_what_it_does_not_use(tmp_path) -> None:
    families = [folder for folder in (ROOT / "params").iterdir() if folder.is_dir() and folder.name != "scale"]
    assert len(plan(families, scale="paper", store=str(tmp_path))) > 150


# --- earlier runs ---


def earlier(store: Path, name: str, given: dict[str, Any], **record: Any) -> Path:
    """A folder as versions made it that hashed all parameters."""
    stated = resolve(DEFAULTS, TINY, given)
    folder = store / "fam" / f"{name}-{run_hash(stated)}"
    folder.mkdir(parents=True)
    content = {"family": "fam", "parameters": stated.model_dump(mode="json"), "differs": {}} | record
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return folder


SIZED = {"architecture": "srivastava", "frames_in": 3, "frames_out": 3}
STATED = [{"hidden": 2048}, {"layers": 1}, {"peepholes": False}, {"hidden": 2048, "layers": 1, "peepholes": False}]


@pytest.mark.parametrize("sizes", STATED, ids=lambda sizes: "-".join(sizes))
def test_a_size_that_the_architecture_has_anyway_makes_no_other_run(sizes, tmp_path) -> None:
    plain, stated = (TINY | SIZED | more | {"store": str(tmp_path)} for more in ({}, sizes))
    run = open_run("fam", DEFAULTS, plain)
    same = open_run("fam", DEFAULTS, stated)
    assert (same.folder, same.parameters, same.differs) == (run.folder, run.parameters, run.differs)
    in_cell = open_run("fam", DEFAULTS | sizes, plain)
    assert (in_cell.folder, in_cell.differs) == (run.folder, run.differs)
    other = open_run("fam", DEFAULTS | sizes, plain | {"architecture": "fc_lstm"})
    assert not sizes.keys() & other.differs.keys()
    # A folder that an earlier version made of either is found, whichever is asked for now.
    before = tmp_path / "fam" / f"words-{run_hash(resolve(DEFAULTS, stated))}"
    record = {"family": "fam", "parameters": resolve(DEFAULTS, stated).model_dump(mode="json"), "differs": {}}
    before.mkdir(parents=True)
    (before / "run.yaml").write_text(yaml.safe_dump(record | {"status": "done", "results": {}, "ended": "2026-01-01"}))
    for given in (plain, stated):
        assert open_run("fam", DEFAULTS, given).folder == before
    assert run_hash(Run.load(before).parameters) == run_hash(run.parameters)
    run.folder.mkdir()
    (run.folder / "run.yaml").write_text(
        yaml.safe_dump(record | {"status": "done", "results": {}, "ended": "2026-01-02"})
    )
    for given in (plain, stated):
        assert open_run("fam", DEFAULTS, given).folder == run.folder  # finished last


OLD = {"recon_weight": 0.5, "schedule_gamma": 0.9}


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        ({"status": "done", "results": {}, "ended": "2026-01-01"}, True),
        ({"status": "running", "started": "2026-01-01"}, True),
        ({"status": "failed", "reason": "no"}, False),
        ({"status": "failed", "reason": "a full disk", "checkpoint": True}, True),
    ],
)
def test_finished_and_interrupted_runs_keep_their_folders(record, kept, tmp_path) -> None:
    checkpoint = record.pop("checkpoint", False)
    folder = earlier(tmp_path, "words", OLD, **record)
    if checkpoint:  # it goes on from there
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "state.pt").touch()
    run = open_run("fam", DEFAULTS, TINY | OLD | {"store": str(tmp_path)})
    assert (run.folder == folder) == kept
    loaded = Run.load(folder)
    assert run_hash(loaded.parameters) == run_hash(run.parameters)  # of one recipe in comparisons
    assert loaded.parameters.recon_weight == 1
    fresh = open_run("fam", DEFAULTS, TINY | OLD | {"store": str(tmp_path), "fresh": True})
    assert fresh.folder != folder


@pytest.mark.parametrize(
    ("old", "new", "meant"),
    [
        ({"status": "done", "ended": "2026-01-02"}, {"status": "done", "ended": "2026-01-01"}, "old"),
        ({"status": "done", "ended": "2026-01-01"}, {"status": "done", "ended": "2026-01-02"}, "new"),
        ({"status": "done", "ended": "2026-01-01"}, {"status": "running", "started": "2026-01-02"}, "old"),
        ({"status": "running", "started": "2026-01-02"}, {"status": "done", "ended": "2026-01-01"}, "new"),
        ({"status": "running", "started": "2026-01-01"}, {"status": "running", "started": "2026-01-02"}, "new"),
        ({"status": "failed", "ended": "2026-01-02"}, {"status": "failed", "ended": "2026-01-01"}, "new"),
    ],
)
def test_of_two_the_newest_that_is_done_is_meant(old, new, meant, tmp_path) -> None:
    folders = {"old": earlier(tmp_path, "words", OLD, **old), "new": earlier(tmp_path, "words", {}, **new)}
    assert open_run("fam", DEFAULTS, TINY | OLD | {"store": str(tmp_path)}).folder == folders[meant]
    assert open_run("fam", DEFAULTS, TINY | {"store": str(tmp_path)}).folder == folders["new"]


def test_a_damaged_earlier_folder_is_not_meant(tmp_path) -> None:
    folder = earlier(tmp_path, "words", OLD, status="done")
    (folder / "run.yaml").write_text("{torn: ")
    assert open_run("fam", DEFAULTS, TINY | OLD | {"store": str(tmp_path)}).folder != folder


def test_an_interrupted_earlier_run_goes_on_in_its_folder(tmp_path) -> None:
    given = TINY | OLD | {"store": str(tmp_path)}
    begun = open_run("fam", DEFAULTS, given)
    folder = earlier(tmp_path, "words", OLD, status="running")
    run = open_run("fam", DEFAULTS, given).train()
    assert (run.folder, run.status) == (folder, "done")
    assert run.record()["parameters"]["recon_weight"] == 0.5  # the record says what was said
    assert not begun.folder.exists()
    assert open_run("fam", DEFAULTS, given).folder == folder


def test_our_families_names_stay_free_of_what_is_not_used(tmp_path) -> None:
    """The cell of `models` has a width, which `lstm` does not use."""
    cell = family_defaults(ROOT / "notebooks" / "models.ipynb")
    run = open_run("models", cell, {"architecture": "lstm", "store": str(tmp_path)})
    assert run.name == f"0nm-recon-output-lstm-{run_hash(run.parameters)}"


def test_a_kernel_of_a_sweep_opens_the_folder_that_the_sweep_chose(tmp_path, monkeypatch) -> None:
    folder = earlier(tmp_path, "words", OLD, status="running")
    monkeypatch.setattr(assignment, "_current", None)
    assignment.assign(folder.name)
    run = open_run("fam", DEFAULTS, TINY | OLD | {"store": str(tmp_path)})
    assert (run.folder, run.assigned) == (folder, True)
    assert not open_run("fam", DEFAULTS, TINY | OLD | {"store": str(tmp_path), "seed": 1}).assigned


@pytest.mark.processes
def test_a_sweep_goes_on_with_an_earlier_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}, "scale/old": TINY | OLD}))
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / "reports"))
    folder = earlier(tmp_path / "reports", "words", OLD, status="running")
    (item,) = plan([Path("params/fam")], scale="old")
    assert item.reason_to_execute() == "interrupted"
    assert execute(item).reason is None
    assert [file.parent for file in (tmp_path / "reports").glob("fam/*/run.yaml")] == [folder]
    assert Run.load(folder).status == "done"
    assert (folder / "report.html").exists()
    (again,) = plan([Path("params/fam")], scale="old")
    assert again.reason_to_execute() is None


def test_an_edited_cell_that_no_run_uses_is_not_told(project) -> None:
    run_file(project)
    edited: Any = planned(project / "params/fam/a.yaml")[0]
    told = [*planning._edit_notes([replace(edited, edits={"recon_weight": 0.5, "epochs": TINY["epochs"]})])]
    assert len(told) == 1
    assert "epochs" in told[0]
    assert "recon_weight" not in told[0]


@pytest.mark.processes  # `demo` prepares a kernel before it looks at the run
def test_a_demo_refuses_a_data_folder_that_is_not_read(project) -> None:
    run = open_run("fam", DEFAULTS, TINY).train()
    said = call("demo", str(run.folder), "-p", "data_folder=mine", code=2)
    assert said.startswith("seqae: -p data_folder mine has no effect: it is used with digits mnist")
