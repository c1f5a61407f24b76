"""What paths in parameters mean, what counts as a parameter file, and what is said of names that are not there."""

from pathlib import Path

import pytest
import yaml
from test_sweep import DEFAULTS, TINY, make_project
from typer.testing import CliRunner

from seqae.commands import main
from seqae.files import expanded
from seqae.reports.demo import shown_run
from seqae.runs import load_digits
from seqae.runs.finding import find_runs, recorded_run
from seqae.runs.run import Run, open_run
from seqae.stores import store_folder, store_location
from seqae.stores.project import project_path
from seqae.sweeps.parameter_files import files_below
from seqae.sweeps.planning import plan


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(make_project(tmp_path / "project", {"fam": []}, {"fam/a": {}, "fam/b": {"seed": 1}}))
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    return tmp_path / "project"


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main.app, [*arguments])
    assert result.exit_code == code, result.output
    return result.output


# --- paths ---


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.delenv("NOPE", raising=False)
    return tmp_path / "home"


def test_paths_are_expanded(home, project, monkeypatch) -> None:
    scratch = home.parent / "scratch"
    for text, path in {"~/a": home / "a", "$HOME/a": home / "a", "${SCRATCH}/b": scratch / "b", "c": project / "c",
                       "/d": Path("/d"), "x$HOME": project / f"x{home}"}.items():  # fmt: skip
        assert project_path(text) == path
        assert Path(store_location(text)) == path
        assert store_folder(text) == path.resolve()
        monkeypatch.setenv("SEQAE_STORE", text)
        assert store_folder() == path.resolve()
    assert expanded("s3://$SCRATCH/runs") == f"s3://{scratch}/runs"
    monkeypatch.setenv("XDG_CACHE_HOME", "$SCRATCH/cache")
    assert store_folder("memory://x").is_relative_to(scratch / "cache")


@pytest.mark.parametrize("text", ["$NOPE/a", "${NOPE}", "~nobody-here/a", "s3://bucket/$NOPE"])
def test_what_cannot_be_expanded_is_refused(text, home, project) -> None:
    for read in (expanded, project_path, store_location, store_folder):
        with pytest.raises(ValueError, match="is not known on this machine"):
            read(text)
    for given in (f"data_folder={text}", f"store={text}"):
        said = call("check", "params/fam/a.yaml", "-p", given, "-p", "digits=mnist", code=2)
        assert "is not known on this machine" in said
        url = "store s3://bucket/$NOPE: it has a $"  # of a URL no variable is named
        assert said.startswith(("seqae: params/fam/a.yaml: path ", f"seqae: params/fam/a.yaml: {url}"))


def test_a_path_with_a_nul_is_named(home, project) -> None:
    for given in (r'data_folder="a\0b"', r'store="a\0b"'):
        said = call("check", "params/fam/a.yaml", "-p", given, "-p", "digits=mnist", code=2)
        assert said.startswith("seqae: params/fam/a.yaml: path 'a\\x00b': no path has a NUL")


def test_relative_paths_are_from_the_projects_root(project, home, tmp_path, monkeypatch) -> None:
    content = {"digits": "mnist", "data_folder": "digits", "store": "mine"}
    (project / "params/fam/a.yaml").write_text(yaml.safe_dump(content))
    for folder in (project, project / "notebooks", project / "params/fam", tmp_path):
        monkeypatch.chdir(folder)
        (item,) = plan([project / "params/fam/a.yaml"], scale="tiny")
        assert item.run.parameters.data_folder == item.given["data_folder"] == str(project / "digits")
        assert item.store == str(project / "mine")
        assert item.run.folder.parents[1] == project / "mine"
    (item,) = plan([project / "params/fam/a.yaml"], scale="tiny", given={"data_folder": "~/digits"})
    assert item.given["data_folder"] == "~/digits"  # the home of the machine that executes it


def test_the_digits_are_looked_for_there(project, home, monkeypatch) -> None:
    monkeypatch.chdir(project / "notebooks")
    for text, path in {"digits": project / "digits", "~/digits": home / "digits"}.items():
        with pytest.raises(OSError, match=str(path)):
            open_run("fam", DEFAULTS, TINY | {"digits": "mnist", "data_folder": text}).train()
        official = {"test_data": "official", "frame_size": 64, "data_folder": text, "architecture": "fc_lstm"}
        with pytest.raises(OSError, match=str(path / "mnist_test_seq.npy")):
            open_run("fam", DEFAULTS, TINY | official).train()


def test_paths_in_python_are_expanded_too(home, project, monkeypatch) -> None:
    run = open_run("fam", DEFAULTS, TINY | {"store": "$HOME/runs"})
    run.folder.mkdir(parents=True)
    run.fail("no luck")
    assert run.folder.parents[1] == (home / "runs").resolve()
    monkeypatch.setenv("SEQAE_STORE", "~/runs")
    name = f"fam/{run.name}"
    found = [Run.load(f"~/runs/{name}"), recorded_run(f"$HOME/runs/{name}"), recorded_run(name), shown_run(name)]
    found += [shown_run(f"~/runs/{name}"), *find_runs("~/runs"), *find_runs(Path("~/runs")), *find_runs()]
    assert [other.folder for other in found] == [run.folder] * 8
    monkeypatch.chdir(project / "notebooks")
    (project / "here").symlink_to(home / "runs")
    assert len(find_runs("here")) == len(find_runs(Path("here"))) == 1
    with pytest.raises(FileNotFoundError, match=f"{home}/mnist holds neither"):
        load_digits("mnist", "~/mnist")
    with pytest.raises(FileNotFoundError, match=f"{home}/mnist holds neither"):
        load_digits("mnist", "$HOME/mnist")


def test_paths_of_the_command_line_are_expanded_too(home, project) -> None:
    (home / "runs" / "fam" / "x-12345678").mkdir(parents=True)
    (home / "runs" / "fam" / "x-12345678" / "run.yaml").write_text("{torn: ")
    assert "is damaged" in call("status", "--store=~/runs")
    assert f"{home}/all/index.html: 1 run" in call("gather", "$HOME/runs", "~/all", code=1)
    (home / "p").symlink_to(project / "params")
    assert "valid, new" in call("check", "~/p/fam/a.yaml", "--scale", "~/p/scale/tiny.yaml")
    assert f"{home}/hosts" in call("run", "params/fam/a.yaml", "--cluster", "ssh:~/hosts", code=2)
    assert f"{home}/jobs.yaml" in call("run", "params/fam/a.yaml", "--cluster", "slurm:~/jobs.yaml", code=2)


# --- which files there are ---


def names(*files: Path) -> list[str]:
    return [item.relative_to(Path("params")).as_posix() for named in files for item in files_below(named)]


def test_yml_counts(project) -> None:
    for name in ("c.yml", "d.YAML", "e.Yml", "README.md", "f.yaml.bak", "g.yaml~", "#h.yaml#"):
        (project / "params/fam" / name).write_text("seed: 5\n")
    assert names(Path("params")) == [f"fam/{name}" for name in ("a.yaml", "b.yaml", "c.yml", "d.YAML", "e.Yml")]
    assert names(Path("params/fam/c.yml")) == ["fam/c.yml"]
    (project / "params/scale/other.yml").write_text(yaml.safe_dump(TINY | {"epochs": 7}))
    (item,) = plan([Path("params/fam/a.yaml")], scale="other")
    assert item.run.parameters.epochs == 7
    (item,) = plan([Path("params/fam/a.yaml")], scale="params/scale/other.yml")
    assert item.run.parameters.epochs == 7
    (project / "params/scale/other.yaml").write_text("epochs: 3\n")
    with pytest.raises(ValueError, match=r"has other\.yaml and other\.yml: keep one of them"):
        plan([Path("params/fam/a.yaml")], scale="other")


def test_names_that_begin_with_a_dot_are_never_parameters(project) -> None:
    fam = project / "params/fam"
    (fam / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/a-checkpoint.yaml", "._a.yaml", ".hidden.yml", ".a.yaml.swp"):
        (fam / name).write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    (fam / ".#a.yaml").symlink_to("me@machine.123:456")
    (project / "params/.hidden").mkdir()
    (project / "params/.hidden/a.yaml").write_text("seed: 5\n")
    (project / "params/scale/.tiny.yaml").write_text("epochs: 5\n")
    assert names(Path("params")) == ["fam/a.yaml", "fam/b.yaml"]
    with pytest.raises(ValueError, match=r"scale '\.tiny'; did you mean tiny\? there are: paper, quick, smoke, tiny$"):
        plan([Path("params/fam/a.yaml")], scale=".tiny")
    for file in ("params/fam/._a.yaml", "params/fam/.ipynb_checkpoints/a-checkpoint.yaml", "params/.hidden/a.yaml"):
        with pytest.raises(ValueError, match="begins with a dot, so it holds no parameters"):
            plan([Path(file)], scale="tiny")
    assert len(plan([Path(), Path("./params"), Path("params/fam/../fam")], scale="tiny")) == 2


def test_links_count(project, tmp_path, monkeypatch) -> None:
    shared = tmp_path / "shared"
    (shared / "deep/scale").mkdir(parents=True)
    (shared / "c.yaml").write_text("seed: 3\n")
    (shared / "deep/d.yaml").write_text("seed: 4\n")
    (shared / "deep/scale/tiny.yaml").write_text("epochs: 4\n")
    (project / "params/fam/linked").symlink_to(shared)
    (project / "params/fam/e.yaml").symlink_to(shared / "c.yaml")
    (shared / "back").symlink_to(project / "params/fam")  # without end
    found = ["a.yaml", "b.yaml", "e.yaml", "linked/c.yaml", "linked/deep/d.yaml"]
    assert names(Path("params/fam")) == [f"fam/{name}" for name in found]
    runs = {item.run.parameters.seed: item.run for item in plan([Path("params")], scale="tiny")}
    assert runs.keys() == {6, 1, 3, 4}
    assert {run.family for run in runs.values()} == {"fam"}
    assert runs[4].parameters.epochs == 4  # by the scale beside it
    (project / "params/family2").symlink_to(shared / "deep")
    (project / "notebooks/family2.ipynb").symlink_to(project / "notebooks/fam.ipynb")
    (item,) = plan([Path("params/family2")], scale="tiny")
    assert (item.run.family, item.run.parameters.epochs) == ("family2", 4)
    (tmp_path / "alias").symlink_to(project)
    (tmp_path / "one").symlink_to(project / "params/fam/a.yaml")
    monkeypatch.chdir(tmp_path)
    by_link = [plan([Path(path)], scale="tiny")[0].run for path in ("alias/params/fam/a.yaml", "one")]
    assert {run.folder for run in by_link} == {runs[6].folder}


def test_a_dangling_link_is_told(project) -> None:
    (project / "params/fam/gone.yaml").symlink_to("nowhere.yaml")
    with pytest.raises(ValueError, match=r"no parameter file params/fam/gone\.yaml"):
        plan([Path("params/fam")], scale="tiny")


# --- what there is ---


def test_a_name_that_is_not_there_is_answered_with_those_that_are(project) -> None:
    (project / "params/scale/smoke.yaml").write_text("epochs: 1\n")
    (project / "params/fam/scale").mkdir()
    (project / "params/fam/scale/paper.yaml").write_text("epochs: 1\n")
    there = "there is no scale 'smok'; did you mean smoke? there are: paper, quick, smoke, tiny"
    assert there in call("check", "params/fam/a.yaml", "--scale", "smok", code=2)
    assert "there is no scale 'huge'; there are: paper, quick, smoke, tiny" in call(
        "run", "params/fam", "--scale", "huge", code=2
    )
    said = call("check", "params/fma", code=2)
    assert said == "seqae: params/fma: no parameter file params/fma; did you mean fam? there is in params: fam\n"
    assert call("check", "fam", code=2) == "seqae: fam: no parameter file fam; did you mean params/fam?\n"
    assert "did you mean params/fam/a.yaml?" in call("check", "fam/a.yaml", code=2)
    said = call("status", "params/fam/aa.yaml", code=2)
    assert "did you mean a.yaml? there are in params/fam: a.yaml, b.yaml" in said
    assert "there are in params/fam: a.yaml, b.yaml" in call("check", "params/fam/deep/er/x.yaml", code=2)
    assert "there is in params: fam" in call("check", "params/x", "--scale", "tiny", code=2)


@pytest.mark.processes  # `compare` prepares a kernel before it looks for the family
def test_a_family_without_runs_is_answered_with_those_that_have_some(project) -> None:
    for family in ("losses", "models"):
        (project / "reports" / family / "x-12345678").mkdir(parents=True)
        (project / "reports" / family / "x-12345678" / "run.yaml").touch()
    assert "did you mean losses? there are: losses, models" in call("compare", "loses", code=2)
