"""Code of one's own through `seqae run`, the index, the comparison, the demo and a rerun."""

import shutil
import subprocess
from pathlib import Path

import pytest
from own import MODELS, write_modules
from test_sweep import TRAIN, make_project, one_run
from typer.testing import CliRunner

from seqae.commands.main import app
from seqae.runs.run import Run

pytestmark = [
    pytest.mark.soak,
    # papermill 2.7 opens kernels and files through libraries that warn; ours are errors.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
ROOT = Path(__file__).parents[1]
OWN = {"architecture": "own_models:Forecaster", "architecture_arguments": {"hidden": 6}, "task": "pred"}


def said(*arguments: str, code: int = 0) -> str:
    """What the command prints, without a process of its own: its kernels are forked of one server."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done.output


def test_a_sweep_a_comparison_a_demo_and_a_rerun(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = ["import own_models\nprint('cells import it as well', own_models.SIZE)", TRAIN.format("mine")]
    files = {
        "mine/own": OWN | {"metrics": ["own_metrics:iou"]},
        "mine/loss": {"task": "pred", "training_loss": "own_losses:absolute"},
        "mine/built-in": {"task": "pred", "architecture": "srivastava", "hidden": 300},
    }
    project = make_project(tmp_path, {"mine": cells}, files)
    for name in ("demo", "compare", "rerun"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", project / "notebooks")
    write_modules(project)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=project, check=True)

    assert "3 of 3 runs done" in said("run", "params/mine", "--scale", "tiny", "--jobs", "1")
    assert "3 of 3 runs done" in said("run", "params/mine", "--scale", "tiny")
    store = project / "reports"
    run = next(Run.load(f.parent) for f in store.glob("mine/*own_models*/run.yaml"))
    assert sorted(file.name for file in (run.folder / "code").iterdir()) == [
        "own_layers.py", "own_metrics.py", "own_models.py",
    ]  # fmt: skip
    assert "iou" in (store / "index.html").read_text()
    assert "own_models:Forecaster" in (run.folder / "report.html").read_text()
    said("compare", "mine")

    name = f"mine/{run.name}"
    assert "Identical to the last bit" in said("rerun", name, "--here")
    write_modules(project, own_models=MODELS.replace("dropout=0.2", "dropout=0.3"))
    assert "is not run: the project's own has hash" in said("demo", name, code=2)
    said("demo", name, "--trust-code")
    assert (run.folder / "demo.html").exists()
    assert "1 of 3 to run" in said("run", "params/mine", "--scale", "tiny", "--dry-run")
    for file in (project / "notebooks").glob("own_*.py"):
        file.unlink()
    refused = said("run", "params/mine/own.yaml", "--scale", "tiny", code=2)
    assert "there is no own_models.py in notebooks/" in refused


def test_a_run_that_fails_the_check_has_a_report_that_says_why(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = make_project(tmp_path, {"mine": [TRAIN.format("mine")]}, {
        "mine/a": OWN | {"architecture": "own_models:Misshapen"},
    })  # fmt: skip
    write_modules(project)
    said("run", "params/mine", "--scale", "tiny", code=1)
    run = one_run(project / "reports", "mine")
    assert run.status == "failed"
    assert "branch pred, returned" in run.record()["reason"]
    assert "it must be (B, T, H, W), here (4" not in run.record()["reason"]
    page = (run.folder / "report.html").read_text()
    assert "it must be (B, T, H, W)" in page
    assert "Fix the cause in own_models.py and run again: that makes a new run" in page
