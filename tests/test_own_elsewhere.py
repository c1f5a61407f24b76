"""Code of one's own away from its project: on workers, in other folders, with other packages; and whom it trusts."""

import importlib
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from own import MODELS, write_modules
from test_clips import moving
from test_own_code import OWN, SMALL, opened
from test_own_code import project as project
from test_sweep import DEFAULTS, TINY, TRAIN, make_project

from seqae.reports import demo
from seqae.runs import assignment, clip_sets
from seqae.runs.experiment import load_model
from seqae.runs.own_code import CODE_FOLDER, OwnCodeError
from seqae.runs.records import RunError
from seqae.runs.run import Run, open_run
from seqae.sweeps import execution, pages, plan, reproduce
from seqae.sweeps.planning import Planned
from seqae.sweeps.shipped_files import SHIPPED

# ---- other versions of packages ----


class Package:
    """An installed package, fancy, that own code imports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "fancy.py").write_text("SIZE = 3\n")

    def install(self, version: str, name: str = "fancy") -> None:
        for old in self.folder.glob(f"{name}-*.dist-info"):
            shutil.rmtree(old)
        info = self.folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        importlib.invalidate_caches()


@pytest.fixture
def fancy(project, tmp_path_factory, monkeypatch) -> Package:
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(str(folder))
    write_modules(project, own_models=MODELS.replace("import torch\n", "import torch\nimport fancy\n", 1))
    package = Package(folder)
    package.install("1.0")
    return package


OTHER = r"code \w{12} of own_models:Forecaster was recorded with fancy 1\.0 \(here 2\.0\): "


def test_a_newer_package_is_a_warning_and_no_damage(project, fancy) -> None:
    run = opened(metrics=["own_metrics:iou"]).train()
    assert run.record()["code"]["packages"] == {"fancy": "1.0"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Run.load(run.folder).model()
    fancy.install("2.0")
    with pytest.warns(UserWarning, match=OTHER) as told:
        assert isinstance(Run.load(run.folder).model(), torch.nn.Module)
    assert "\n" not in str(told[0].message)
    with pytest.warns(UserWarning, match=OTHER):
        load_model(run.folder / "model.safetensors")
    assert opened().folder != run.folder  # a new run is of what is installed now
    shutil.rmtree(project / "notebooks")
    with pytest.raises(OwnCodeError, match="is not run"):
        Run.load(run.folder).model()
    with pytest.warns(UserWarning, match=OTHER):
        Run.load(run.folder, trust_code=True).model()
    (run.folder / CODE_FOLDER / "own_models.py").write_text("import fancy\nraise SystemExit")
    with pytest.raises(OwnCodeError, match="is damaged: its hash is"):
        Run.load(run.folder, trust_code=True).model()


def test_a_package_that_is_gone_is_told_too(project, fancy) -> None:
    write_modules(project, own_models=MODELS + "\ntry:\n    import fancy\nexcept ImportError:\n    pass\n")
    run = opened().train()
    for old in fancy.folder.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    importlib.invalidate_caches()
    with pytest.warns(UserWarning, match=r"recorded with fancy 1\.0 \(here none\): "):
        Run.load(run.folder).model()


def test_a_package_that_was_not_there_is_told_too(project, fancy) -> None:
    write_modules(project, own_models=MODELS + "\ntry:\n    import later\nexcept ImportError:\n    pass\n")
    run = opened().train()
    (fancy.folder / "later.py").write_text("")
    fancy.install("1.0", name="later")
    with pytest.warns(UserWarning, match=r"recorded with later none \(here 1\.0\): "):
        Run.load(run.folder).model()


def test_a_module_beside_it_is_no_package(project) -> None:
    write_modules(project, own_models=MODELS.replace("from own_layers", "from . import own_layers\nfrom .own_layers"))
    code = opened().train().own_code()
    assert code is not None
    assert (sorted(code.texts), code.packages) == (["own_layers.py", "own_models.py"], {})


def test_what_a_record_says_of_packages_lets_no_other_code_run(project, fancy) -> None:
    run = opened().train()
    record = run.record()
    for packages in (None, "fancy", {"fancy": ["1.0"]}, {1: 2}):
        record["code"]["packages"] = packages
        (run.folder / "run.yaml").write_text(yaml.safe_dump(record))
        if not isinstance(packages, dict):
            with pytest.raises(RunError, match="packages of code must be a mapping"):
                Run.load(run.folder)
            continue
        assert isinstance(Run.load(run.folder).model(), torch.nn.Module)  # its hash is that of the project's own
        (run.folder / CODE_FOLDER / "own_models.py").write_text("raise SystemExit")
        fancy.install("2.0")
        with pytest.raises(OwnCodeError, match=r"is damaged|is not run"):
            Run.load(run.folder).model()
        fancy.install("1.0")


# ---- the kernel of a worker that has nothing of the project ----


def planned(project: Path, scale: dict[str, Any], **own: Any) -> Planned:
    make_project(project, {"mine": [TRAIN.format("mine")]}, {"scale/other": TINY | scale, "mine/a": own})
    (item,) = plan([project / "params/mine/a.yaml"], scale="other", store=str(project / "store"))
    return item


def as_on_a_worker(item: Planned, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What `open_run` returns in the kernel of a worker elsewhere, as `sweeps.execution` starts it."""
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("SEQAE_STORE", item.store)
    if item.run.code:
        item.run.code.write(item.run.folder / CODE_FOLDER)
    given = (item.run.name, str(item.run.folder / CODE_FOLDER), str(item.folder.parent))
    monkeypatch.setattr(assignment, "_current", None)
    assignment.assign(*given)
    return open_run("mine", DEFAULTS, item.given)


@pytest.fixture
def elsewhere(tmp_path_factory, monkeypatch) -> Path:
    monkeypatch.setattr("sys.path", [*sys.path])
    return tmp_path_factory.mktemp("worker")


OWN_PRED = OWN | {"task": "pred"}
FAMILY = {"frame_size": 16, "frames_in": 3, "frames_out": 2, "task": "pred"}
MIXED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"decoder_input": "zero"}, FAMILY | OWN),
    ({"decoder_input": "zero"}, FAMILY | {"architecture": "own_models:AsksForInput"}),
    ({"activation": "tanh", "decoder_input": "truth"}, FAMILY | OWN | {"pixel_range": [-1, 1]}),
    ({"width": 0.5, "hidden": 7, "init_range": 0.5, "init": "uniform"}, FAMILY | OWN),
    ({}, FAMILY | {"architecture": "srivastava", "hidden": 9, "training_loss": "own_losses:absolute"}),
    ({}, FAMILY | {"architecture": "srivastava", "hidden": 9, "metrics": ["own_metrics:iou"]}),
]


@pytest.mark.parametrize(("scale", "own"), MIXED)
def test_a_worker_elsewhere_has_the_run_that_was_planned(project, elsewhere, monkeypatch, scale, own) -> None:
    item = planned(project, scale, **own)
    run = as_on_a_worker(item, elsewhere, monkeypatch)
    assert (run.folder, run.assigned) == (item.run.folder, True)
    assert values_of(run) == values_of(item.run)
    assert run.train().status == "done"
    assert values_of(Run.load(run.folder)) == values_of(run)


CELLS = [
    "%matplotlib inline\nthere = !true\nfrom helpers import (\n    half,\n)",
    TRAIN.format("mine"),
    "print('drawn', half(6))",
]
HELPERS = {
    "helpers": "from parts import two\nimport numpy\n\ndef half(n):\n    return n / two.TWO",
    "parts/two": "TWO = 2",
    "plots": "",
    "unread": "raise SystemExit",
}


def with_helpers(project: Path) -> Planned:
    for name, text in HELPERS.items():
        (project / "notebooks" / name).parent.mkdir(exist_ok=True)
        (project / f"notebooks/{name}.py").write_text(text)
    make_project(project, {"mine": CELLS}, {"mine/a": {}})
    (item,) = plan([project / "params/mine/a.yaml"], scale="tiny", store=str(project / "store"))
    return item


def test_modules_that_only_cells_import_travel_and_define_no_run(project) -> None:
    item = with_helpers(project)
    assert sorted(item.modules) == ["helpers.py", "parts/two.py"]
    (project / "notebooks/helpers.py").write_text("def half(n): return 0")
    assert with_helpers(project).run.name == item.run.name
    (project / "notebooks/helpers.py").write_text("def half(n) return 0")
    with pytest.raises(ValueError, match=r"mine/a.yaml: helpers.py is not Python: SyntaxError: .*, line 1"):
        plan([project / "params/mine/a.yaml"], scale="tiny", store=str(project / "store"))


@pytest.mark.soak
@pytest.mark.processes
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of papermill
def test_cells_import_them_where_there_is_no_project(project, elsewhere, monkeypatch) -> None:
    item = with_helpers(project)
    shutil.rmtree(project / "notebooks")
    monkeypatch.chdir(elsewhere)
    assert execution.execute(item).reason is None
    assert "drawn 3.0" in (item.run.folder / "notebook.ipynb").read_text()
    assert not (item.run.folder / CODE_FOLDER).exists()


def values_of(run: Run) -> dict[str, Any]:
    return run.parameters.model_dump(exclude={"store", "checkpoint_seconds"})  # no record has them


@pytest.mark.parametrize("clips", ["data/all.npy", ["data/all.npy"]])
@pytest.mark.parametrize("around", [True, False])
def test_a_worker_elsewhere_records_clips_as_the_project_has_them(project, elsewhere, monkeypatch, clips, around):
    (project / "data").mkdir()
    np.save(project / "data/all.npy", np.stack(moving(10)))
    item = planned(project, {}, clips=clips, frame_size="none", frames_in=3, frames_out=2, batch_size=4, **OWN_PRED)
    run = as_on_a_worker(item, project.parent if around else elsewhere, monkeypatch)
    assert run.train().record()["parameters"]["clips"] == clips
    assert run.name == item.run.name


def test_outside_of_projects_a_path_is_recorded_as_it_was_given(elsewhere, monkeypatch) -> None:
    monkeypatch.chdir(elsewhere)
    for path in ("data/all.npy", str(elsewhere / "data/all.npy"), "~/all.npy"):
        assert clip_sets.as_recorded({"clips": path, "seed": 1}) == {"clips": path, "seed": 1}


# ---- whom it trusts ----


def test_outside_of_its_project_it_is_told_where_a_run_has_its_code(project, elsewhere, monkeypatch) -> None:
    run = opened().train()
    monkeypatch.chdir(elsewhere)
    for look in (Run.load(run.folder).model, lambda: load_model(run.folder / "model.safetensors")):
        with pytest.raises(OwnCodeError, match=r"is not run: .*; the project around it has it") as refused:
            look()
        assert f"do this in {project}, or, if you trust that code, say --trust-code" in str(refused.value)
    write_modules(project, own_models=MODELS.replace("dropout=0.2", "dropout=0.3"))
    with pytest.raises(OwnCodeError, match=r"; read its copy, .*/code, and, if you trust it, say --trust-code"):
        Run.load(run.folder).model()
    monkeypatch.chdir(project)
    with pytest.raises(OwnCodeError, match="is not run: the project's own has hash"):
        Run.load(run.folder).model()


@pytest.mark.parametrize("inside", ["", "code", "code/deeper", "evil", "evil/notebooks"])
def test_nothing_below_a_run_folder_is_a_project(project, elsewhere, monkeypatch, inside: str) -> None:
    run = opened().train()
    foreign = Path(shutil.copytree(run.folder, elsewhere / "fam" / run.name))
    (foreign / "evil/params").mkdir(parents=True)
    (foreign / "code/deeper").mkdir()
    shutil.copytree(foreign / "code", foreign / "evil/notebooks")
    monkeypatch.chdir(foreign / inside)
    with pytest.raises(OwnCodeError, match=r"is not run: .*; read its copy"):
        Run.load(foreign).model()
    (foreign / "evil/notebooks/demo.ipynb").write_text("not to be executed")
    monkeypatch.setattr(pages, "execute_page", lambda source, *_, **__: source)
    assert pages.demo_page(foreign, trust_code=True) == SHIPPED / "notebooks/demo.ipynb"
    for folder in (foreign, foreign / "evil/reports/fam/run"):
        assert pages.project_around(folder) == elsewhere / "fam"
    assert isinstance(Run.load(foreign, trust_code=True).model(), torch.nn.Module)


def test_whoever_does_not_trust_a_run_gets_nothing_that_a_trusted_one_made(project, elsewhere, monkeypatch) -> None:
    run = opened().train()
    frames = run.samples()["frames"][:, :3]
    monkeypatch.chdir(elsewhere)
    trusted, other = Run.load(run.folder, trust_code=True), Run.load(run.folder)
    assert trusted == other
    assert trusted.predict(frames).shape[1] == 2
    with pytest.raises(OwnCodeError, match="is not run"):
        other.predict(frames)


def test_the_newest_run_is_trusted_as_asked(project, elsewhere, monkeypatch) -> None:
    run = opened().train()
    monkeypatch.setenv("SEQAE_STORE", str(project / "reports"))
    monkeypatch.chdir(elsewhere)
    for trusted in (demo.shown_run("", trust_code=True), demo.shown_run(f"mine/{run.name}", trust_code=True)):
        assert (trusted.folder, trusted.trusted) == (run.folder, True)
        assert isinstance(trusted.model(), torch.nn.Module)
    with pytest.raises(OwnCodeError, match="is not run"):
        demo.shown_run().model()


BUILT_IN: dict[str, Any] = SMALL | {"architecture": "srivastava", "hidden": 8}


def test_a_built_in_model_needs_no_code_of_its_loss_and_metrics(project, elsewhere, monkeypatch) -> None:
    given = {"training_loss": "own_losses:absolute", "metrics": ["own_metrics:iou"]}
    runs = [open_run("mine", BUILT_IN, TINY | given).train()]
    runs += [open_run("mine", BUILT_IN, TINY | {"metrics": ["own_metrics:iou"]}).train()]
    monkeypatch.chdir(elsewhere)
    for run in runs:
        found = Run.load(run.folder)
        assert isinstance(found.model(), torch.nn.Module)
        assert found.predict(run.samples()["frames"][:, :3], steps=5).shape[1] == 5
        assert found.reach == float("inf")
    with pytest.raises(OwnCodeError, match=r"is not run: .*there is no own_"):
        Run.load(runs[0].folder).own_code()
    assert Run.load(runs[1].folder).own_code() is None  # metrics do not define a run


def test_a_file_that_is_no_text_is_named(project) -> None:
    (project / "notebooks/own_layers.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(OwnCodeError, match=r"own_layers.py is not text in UTF-8"):
        opened()


# ---- made again ----


def test_a_rerun_has_the_code_of_the_run_whatever_packages_are_here(project, fancy, elsewhere) -> None:
    run = opened().train()
    fancy.install("2.0")
    write_modules(project)  # edited since
    made_again = elsewhere / "made again"
    with pytest.raises(OwnCodeError, match="is not run: the project's own has hash"):
        reproduce._put_code(run, made_again, project, here=False, trust=False)
    with pytest.warns(UserWarning, match=OTHER):
        code = reproduce._put_code(run, made_again, project, here=False, trust=True)
    assert code is not None
    assert code.other_packages() == "fancy 1.0 (here 2.0)"
    assert "import fancy" in (made_again / "notebooks/own_models.py").read_text()
    today = reproduce._put_code(run, elsewhere / "today", project, here=True, trust=False)
    assert today is not None
    assert (today.packages, today.other_packages()) == ({}, "")


def test_a_rerun_with_other_code_of_today_is_another(project) -> None:
    run, notebook = opened().train(), project / "notebook.ipynb"
    notebook.write_text("{}")
    before = reproduce._today(notebook, reproduce._own_today(run, project))
    assert before == reproduce._today(notebook, reproduce._own_today(run, project))
    write_modules(project, own_models=MODELS.replace("dropout=0.2", "dropout=0.3"))
    assert before != reproduce._today(notebook, reproduce._own_today(run, project))
