"""pyproject.toml, constraints.txt, environment.yml and the Makefile agree; what git holds is clean."""

import itertools
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_environment_is_active(monkeypatch):
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().split()
    return dict(line.split("==") for line in lines)


def test_every_direct_dependency_is_pinned_and_nothing_else(project, pins):
    declared = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    assert {Requirement(line).name.lower() for line in declared} == {name.lower() for name in pins}


def test_the_environment_that_runs_the_tests_is_the_pinned_one(project, pins):
    installed = {name: version(name) for name in pins if name in project["dependencies"]}
    assert {name: v.split("+")[0] for name, v in installed.items()} == {name: pins[name] for name in installed}


def test_conda_environment_installs_the_package_with_the_same_pins(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert "-c constraints.txt" in pip
    extras = re.fullmatch(r"-e \.\[(.*)\]", next(line for line in pip if line.startswith("-e"))).group(1).split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    python = next(part for part in environment["dependencies"] if str(part).startswith("python"))
    assert python.split("=")[-1] in SpecifierSet(project["requires-python"])
    makefile = (ROOT / "Makefile").read_text()
    assert f"-e '.[{','.join(extras)}]'" in makefile  # make and conda install the same


@pytest.mark.processes
def test_jupyterlab_opens_at_the_projects_root():
    planned = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".venv/bin/jupyter lab" in planned.splitlines(), "without another folder: that of the Makefile"


def test_the_license_is_there_and_named(project):
    assert project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n"), "setuptools puts a file of this name into wheels"


@pytest.mark.processes
@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_make_uses_an_active_environment_that_has_seqae(variable, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, str(tmp_path))

    def planned(*targets):
        return subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert ".venv/bin/seqae run params/losses" in planned("reports"), "it has no seqae"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "seqae").touch()
    found = planned("reports", "families", "lab", "test", "soak", "lint", "gpu-check", "performance", "paper-cpu")
    assert f"{tmp_path}/bin/seqae run params/losses" in found
    assert ".venv" not in found.replace(str(tmp_path), ""), "nor is one made"
    monkeypatch.setenv(variable, str(ROOT / ".venv"))
    assert "\n.venv/bin/jupyter lab" in "\n" + planned("lab"), "the project's own is kept up to date"


@pytest.mark.processes
def test_the_environment_is_made_once():
    planned = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ready = (ROOT / ".venv" / ".ready").exists()
    assert ("pip install" in planned) is not ready


def test_ci_calls_the_readmes_test_commands():
    readme, run = ((ROOT / file).read_text() for file in ("README.md", ".ci/run"))
    for command in ("make test", "make soak"):
        assert command in readme
        assert command in run.splitlines()


@pytest.mark.processes
def test_the_tiers_are_all_tests_and_no_test_is_in_both():
    planned = [
        subprocess.run(["make", "-n", tier], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for tier in ("test", "soak")
    ]
    assert [re.findall('-m ("not soak"|soak) ', line) for line in planned] == [['"not soak"'], ["soak"]]


def test_links_of_the_pages_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))]
    ours = [(page, *link.partition("#")[::2]) for page, link in links if "://" not in link]
    assert len(ours) > 20
    assert [link for page, link, _ in ours if not (page.parent / link).exists()] == []
    for page, link, anchor in ours:
        headings = re.findall(r"^#+ (.*)", (page.parent / link).read_text(encoding="utf-8"), re.M) if anchor else []
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings], (page, link, anchor)


@pytest.mark.processes
def test_nothing_of_this_machine_is_in_git():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = {name: (ROOT / name).read_text(encoding="utf-8", errors="ignore") for name in listed}
    machine = re.compile(r"[\"' =]/(root|home|work|Users)/|--(extra-)?index[-]url")
    assert [name for name, text in texts.items() if machine.search(text)] == []
    ours = [name for name in listed if not name.startswith("tests/data/")]  # small run folders of earlier versions
    assert [name for name in ours if name.endswith((".npy", ".gz", "ubyte", ".safetensors", ".whl"))] == []
    assert [name for name in listed if (ROOT / name).stat().st_size > 500_000] == []


def test_the_tests_that_hold_the_promises_are_there():
    promised = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs" / "guarantees.md").read_text())
    assert len(promised) > 20
    assert [
        f"{file}::{name}" for file, name in promised if f"def {name}(" not in (ROOT / "tests" / file).read_text()
    ] == []
