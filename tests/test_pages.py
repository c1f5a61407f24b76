"""Every command of README and docs: run as it is written there, in a small copy of the project, or by a named test."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = re.compile(r"(?:    )?((?:seqae|make|python3?|papermill|pip|jupyter|conda|openssl|printf|git|export)\s.*)")

# What is not run here, by how it begins, and the test or script that runs it, or why nothing does.
ELSEWHERE = {
    "make test": ".ci/run",
    "make reports": "tests/test_notebooks.py",
    "make paper-cpu": "tests/test_notebooks.py",
    "make lab": "tests/test_setup.py",
    "jupyter lab notebooks/mine.ipynb": "tests/test_jupyter.py",
    "make gpu-check": "tests/test_gpu_check.py",
    "python -m seqae.benchmark.gpu_check": "tests/test_gpu_check.py",
    "python -m pip": "tests/test_gpu_check.py",
    "python docs/gpu.py": "tests/test_gpu_check.py",
    "python docs/results.py": "tests/test_compare.py",
    "python3 -m": "on another machine",
    "git rev-parse": "on another machine",
    "export PYTHONPATH": "on another machine",
    "pip wheel": "tests/test_new.py",
    "pip install": "tests/test_new.py",
    "seqae new walking": "tests/test_new.py",
    "seqae run params  ": "tests/test_new.py",
    "seqae compare mine": "tests/test_new.py",
    "seqae scheduler": "tests/test_cluster.py",
    "seqae worker": "tests/test_cluster.py",
    "seqae run params/losses --scale smoke --cluster tcp": "tests/test_cluster.py",
    "seqae run params/losses --scale paper --cluster": "tests/test_cluster.py",
    "openssl": "tests/test_cluster.py",
    "printf": "tests/test_cluster.py",
    "export FSSPEC_S3": "tests/test_stores.py",
    "seqae run params/losses --scale quick --store s3": "tests/test_stores.py",
    "seqae gather reports s3": "tests/test_stores.py",
    "seqae rerun": "tests/test_rerun.py",
}


def commands(page: Path) -> list[str]:
    """The commands of a page: lines of its blocks, and what its tables have as code."""
    lines = page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    found = [match[1] for line in lines if line.startswith("    ") and (match := SHELL.fullmatch(line))]
    cells = [cell for line in lines if line.startswith("| ") for cell in re.findall("`([^`]+)`", line)]
    return found + [cell for cell in cells if SHELL.fullmatch(cell) and len(cell.split()) > 2]


def elsewhere(command: str) -> str | None:
    return next((where for begins, where in ELSEWHERE.items() if command.startswith(begins)), None)


def test_every_command_is_run_here_or_there():
    every = [command for page in PAGES for command in commands(page)]
    assert len(every) > 35
    assert [begins for begins in ELSEWHERE if not any(c.startswith(begins) for c in every)] == []
    there = {where for where in ELSEWHERE.values() if where.startswith(("tests/", "."))}
    assert [where for where in there if not (ROOT / where).exists()] == []
    assert {command.split()[0] for command in every if elsewhere(command) is None} == {"seqae", "papermill"}


@pytest.fixture
def project(tmp_path):
    """A copy of the project with a few files a family, every scale and the notebooks' own defaults tiny."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copytree(ROOT / "params" / "scale", tmp_path / "params" / "scale")
    smoke = yaml.safe_load((ROOT / "params/scale/smoke.yaml").read_text())
    for scale in ("quick", "paper"):
        (tmp_path / f"params/scale/{scale}.yaml").write_text(yaml.safe_dump(smoke))
    for name in ("0sb-pred-zero", "0nm-both-output", "0nm-recon-output", "0sm-pred-zero"):
        copied(tmp_path, f"losses/{name}")
    copied(tmp_path, "own/gru")
    losses = tmp_path / "notebooks" / "losses.ipynb"
    text = losses.read_text()
    for name, value in smoke.items():
        text, count = re.subn(rf"({name}: \w+ = )[\d.]+", rf"\g<1>{value}", text)
        assert count == 1, name
    losses.write_text(text)
    return tmp_path


def copied(project: Path, name: str) -> None:
    (project / f"params/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / f"params/{name}.yaml", project / f"params/{name}.yaml")


@pytest.mark.soak
def test_the_commands_do_what_the_pages_say(project):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SEQAE_STORE": ""}
    environment["XDG_CACHE_HOME"] = str(project / "cache")  # what `seqae clean` removes
    np.save(project / "clips.npy", np.zeros((2, 20, 16, 16), np.uint8))
    every = [command for page in PAGES for command in commands(page) if elsewhere(command) is None]
    # What is shown has to be trained.
    every.sort(key=lambda command: not command.startswith("seqae run"))
    said = {}
    for command in dict.fromkeys(every):
        found = next(project.glob("reports/losses/0nm-recon-output-*"), None)
        text = command.replace("reports/losses/0nm-recon-output-…", str(found)).replace(" RUN ", f" {found} ")
        if command.startswith("seqae gather"):
            for machine in ("laptop", "gpu"):
                shutil.copytree(project / "reports", project / machine / "reports")
        if "--watch" in command:
            text = f"timeout --signal=INT 20 {text}"  # it goes on until it is stopped
        ended = subprocess.run(["bash", "-c", text], cwd=project, env=environment, capture_output=True, text=True)
        said[command] = ended.stdout + ended.stderr
        assert ended.returncode in ((0, 130, 124) if "--watch" in command else (0,)), f"{command}\n{said[command]}"
    assert "6 of 6 runs done" in next(told for command, told in said.items() if "a grid: six runs" in command)
    assert (project / "out.npz").exists()
    assert (project / "out.gif").exists()
    assert [*project.glob("reports/*/compare.html")]
    assert len([*project.glob("all/losses/*/run.yaml")]) == len([*project.glob("reports/losses/*/run.yaml")]) > 8
