"""The smallest project, `seqae new`, and that an installed package needs no clone: all works from a wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import test_notebooks
from conftest import AT_START
from test_cli import call

from seqae.runs.notebook_cells import family_defaults
from seqae.runs.run import Run
from seqae.sweeps.pages import comparison_page
from seqae.sweeps.planning import plan
from seqae.sweeps.shipped_files import SHIPPED, page_notebook

ROOT = Path(__file__).parents[1]
FILES = {"notebooks/mine.ipynb", "params/mine/prediction.yaml"}
SEQAE = "from seqae.commands import app; app()"
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQAE_STORE", "")
    told = "seqae run params (or open notebooks/mine.ipynb in Jupyter)\n"
    assert call("new", "walking") == f"next: cd walking && {told}"
    return tmp_path / "walking"


def test_it_is_a_notebook_and_a_parameter_file_that_plan(project) -> None:
    assert files(project) == FILES
    (item,) = plan([project / "params"])
    assert (item.reason_to_execute(), item.run.family, item.run.name[:13]) == ("new", "mine", "0nm-pred-zero")
    assert item.run.folder.parents[1] == project / "reports"
    assert dict(item.run.differs) == {"task": "pred"}
    (smoke,) = plan([project / "params"], scale="smoke")  # no file of the project
    assert (smoke.run.parameters.epochs, smoke.run.parameters.train_sequences) == (2, 32)
    assert files(project) == FILES


def test_its_notebook_has_the_form_of_ours() -> None:
    notebook = SHIPPED / "new/notebooks/mine.ipynb"
    test_notebooks.test_form(notebook)
    test_notebooks.test_what_a_notebook_asks_of_the_library_is_there(notebook)
    assert family_defaults(notebook)["epochs"] <= 10


@pytest.mark.parametrize("there", ["notebooks/other.ipynb", "params/fam/deep/a.yml"])
def test_a_folder_that_holds_such_files_stays_as_it_is(there, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / there).parent.mkdir(parents=True)
    (tmp_path / there).write_text("{}")
    (tmp_path / "notes.txt").touch()
    assert call("new", ".", code=2) == f"seqae: {there} is there already: name another folder\n"
    assert call("new", "notes.txt", code=2) == "seqae: notes.txt is no folder: name another one\n"
    assert files(tmp_path) == {there, "notes.txt"}
    (tmp_path / there).unlink()
    assert call("new", ".").startswith("next: seqae run params ")
    assert files(tmp_path) == FILES | {"notes.txt"}


def test_what_comes_with_the_package_is_what_the_repository_has() -> None:
    for name in ("compare", "demo", "rerun"):
        assert page_notebook(ROOT, f"{name}.ipynb") == ROOT / f"notebooks/{name}.ipynb"
        assert page_notebook(Path("/nowhere"), f"{name}.ipynb").samefile(ROOT / f"notebooks/{name}.ipynb")
    assert {file.name for file in (SHIPPED / "scale").iterdir()} == {f.name for f in (ROOT / "params/scale").iterdir()}
    assert all(file.samefile(ROOT / "params/scale" / file.name) for file in (SHIPPED / "scale").iterdir())


def test_a_projects_own_files_come_first(project, monkeypatch) -> None:
    scale = project / "params/scale/smoke.yaml"
    scale.parent.mkdir()
    scale.write_text("epochs: 3\n")
    (item,) = plan([project / "params"], scale="smoke")
    assert (item.run.parameters.epochs, item.run.parameters.train_sequences) == (3, 512)
    shutil.copyfile(ROOT / "notebooks/demo.ipynb", project / "notebooks/demo.ipynb")
    assert page_notebook(project, "demo.ipynb") == project / "notebooks/demo.ipynb"
    with pytest.raises(ValueError, match="no run of family 'mine'"):
        comparison_page("mine", [])


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of a wheel's content, as pip would lay it into site-packages."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("seqae", "notebooks", "params"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    made = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=copy, check=True, capture_output=True, text=True
    ).stdout
    zipfile.ZipFile(out / made.splitlines()[-1]).extractall(out / "site")
    return out / "site"


@pytest.mark.soak
def test_all_works_from_a_wheel_in_an_empty_folder(installed, tmp_path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "SEQAE_STORE"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(AT_START), str(installed)])}
    cwd = tmp_path

    def seqae(*arguments: str) -> str:
        said = subprocess.run(
            [sys.executable, "-c", SEQAE, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
        )
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    assert "MIT License" in next(installed.glob("*.dist-info/licenses/LICENSE")).read_text()
    there, command = seqae("new", "walking").removeprefix("next: cd ").split(" (")[0].split(" && seqae ")
    cwd, command = tmp_path / there, command.split()
    assert "1 of 1 runs done" in seqae(*command)  # at its own size, in seconds
    (file,) = (reports := tmp_path / "walking/reports").glob("mine/*/run.yaml")
    run = Run.load(file.parent)
    assert run.verdict.startswith("learned")
    assert (run.record()["commit"], run.record()["dirty"]) == ("seqae 0.1.0", False)
    assert "learned" in (run.folder / "report.html").read_text()
    assert "1 of 1 runs done" in seqae(*command, "--scale", "smoke")
    (small,) = {file.parent for file in reports.glob("mine/*/run.yaml")} - {run.folder}
    assert seqae("compare", "mine").strip() == str(reports / "mine/compare.html")
    assert "<h1>" in (reports / "mine/compare.html").read_text()
    assert seqae("demo", str(small)).strip() == str(small / "demo.html")
    cwd = tmp_path
    said = seqae("rerun", str(small), "--trust-code")  # by the package that made it; its project is not where we are
    assert "Identical to the last bit" in said
    assert said.splitlines()[-1].endswith("/rerun.html")
    assert {name for name in files(tmp_path / "walking") if not name.startswith("reports/")} == FILES
