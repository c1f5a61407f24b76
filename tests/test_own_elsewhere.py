"""Code of one's own away from its project: on workers, in other folders, with other packages; and whom it trusts."""

import importlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from own import MODELS, write_modules
from test_own_code import OWN, SMALL, opened
from test_own_code import project as project
from test_sweep import TINY, TRAIN, make_project

from seqae.reports import demo
from seqae.runs import assignment, clip_sets, recorded_run
from seqae.runs.experiment import load_model
from seqae.runs.own_code import CODE_FOLDER, OwnCodeError
from seqae.runs.run import Run, open_run
from seqae.sweeps import plan
from seqae.sweeps.planning import Planned

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
    for packages in (None, "fancy", {"fancy": ["1.0"]}, {1: 2}):
        record = run.record()
        record["code"]["packages"] = packages
        (run.folder / "run.yaml").write_text(yaml.safe_dump(record))
        assert isinstance(Run.load(run.folder).model(), torch.nn.Module)  # its hash is that of the project's own
        (run.folder / CODE_FOLDER / "own_models.py").write_text("raise SystemExit")
        fancy.install("2.0")
        with pytest.raises(OwnCodeError, match="is damaged|is not run"):
            Run.load(run.folder, trust_code=packages is None).model()
        fancy.install("1.0")
