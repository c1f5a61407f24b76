"""A run's record says what code made it: what was imported, of which commit, and why git cannot tell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_sweep import DEFAULTS, TINY, make_project

import seqae
from seqae import open_run
from seqae.runs import provenance
from seqae.runs.git import git_trouble, run_git
from seqae.runs.provenance import CodeVersion, code_version, sources_hash
from seqae.sweeps import plan

PACKAGE = Path(seqae.__file__).parent
ASKED = """if True:
    import importlib, sys
    from seqae.runs.run import code_entries
    from seqae.runs.provenance import code_version
    for line in sys.stdin:
        act, _, name = line.strip().partition(" ")
        if act == "reload": importlib.reload(sys.modules[name])
        found = code_version()
        print(found.commit, found.dirty, found.sources, flush=True)
"""


def git(folder: Path, *arguments: str) -> None:
    done = run_git(folder, "-c", "user.name=a", "-c", "user.email=a@b", *arguments)
    assert done.returncode == 0, done.stderr


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--no-verify", "-m", "next")
    return run_git(folder, "rev-parse", "--short=12", "HEAD").stdout.strip()


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A git repository with a copy of the package, not committed yet."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    shutil.copytree(PACKAGE, tmp_path / "seqae", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "README").write_text("of another project")
    git(tmp_path, "init", "--quiet")
    return tmp_path


@pytest.fixture
def here(copied, monkeypatch):
    """That copy, taken for the package that was imported."""
    monkeypatch.setattr(provenance, "_PACKAGE", copied / "seqae")
    monkeypatch.setattr(provenance, "_BEGAN", "")
    monkeypatch.setattr(provenance, "_seen", {})
    return copied


def edit(folder: Path, name: str) -> None:
    file = folder / "seqae" / name
    comment = "/* edited */\n" if name.endswith(".c") else "# edited\n"
    file.write_text(file.read_text() + comment)


@pytest.mark.processes("a Python that goes on while its sources are edited")
def test_what_was_imported_is_told_and_not_what_lies_on_the_disk(copied):
    first, pipe = commit(copied), subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(copied)}
    process = subprocess.Popen(
        [sys.executable, "-c", ASKED], stdin=pipe, stdout=pipe, text=True, env=environment, cwd=copied
    )

    def said(asked: str = "") -> list[str]:
        process.stdin.write(f"{asked}\n")
        process.stdin.flush()
        return process.stdout.readline().split()

    began = said()
    assert began[:2] == [first, "False"]
    edit(copied, "losses.py")
    assert said() == began
    second = commit(copied)
    assert said() == began
    reloaded = said("reload seqae.losses")
    assert reloaded[:2] == [second, "False"]
    assert reloaded[2] != began[2]
    edit(copied, "lstm/step.c")
    third = commit(copied)
    assert said() == [first, "True", reloaded[2]]  # no commit that is known holds just that
    compiled = said("reload seqae.lstm.compiled")
    assert compiled[:2] == [third, "False"]
    assert compiled[2] not in (began[2], reloaded[2])
    edit(copied, "lstm/layers.py")
    assert said() == compiled
    assert said("reload seqae.lstm.layers")[:2] == [first, "True"]
    process.communicate()


def test_the_commit_is_named_of_what_it_tracks_and_dirty_is_what_differs(here):
    commit(here)
    made = code_version()
    assert made == CodeVersion(run_git(here, "rev-parse", "--short=12", "HEAD").stdout.strip(), False, sources_hash())
    for name in ("reports/templates/notes.md", "data.txt"):
        (here / "seqae" / name).write_text("no source")
    assert code_version() == made
    for file in (here / "seqae").rglob("*.py"):  # as git checks them out on Windows
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    provenance._seen.clear()
    assert code_version() == made
    (here / "seqae" / "losses.py").write_text("")
    provenance._seen.clear()
    edited = code_version()
    assert (edited.commit, edited.dirty) == (made.commit, True)
    assert edited.sources != made.sources
    git(here, "checkout", "--quiet", ".")
    provenance._seen.clear()
    assert code_version() == made
    for change in ((here / "seqae" / "mine.py").touch, (here / "seqae" / "losses.py").unlink):
        change()
        provenance._seen.clear()
        assert code_version().dirty
        commit(here)
        assert not code_version().dirty


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("https://name:secret@example.org/lab/seqae.git", "https://example.org/lab/seqae.git"),
        ("https://example.org/lab/seqae", "https://example.org/lab/seqae"),
        ("git@example.org:lab/seqae.git", "git@example.org:lab/seqae.git"),
        ("ssh://git@example.org:2222/lab/seqae.git", "ssh://git@example.org:2222/lab/seqae.git"),
        ("/srv/seqae", None),
        ("file:///srv/seqae", None),
    ],
)
def test_where_others_get_the_code_is_recorded_without_a_password_or_a_path_of_this_machine(here, given, told):
    assert "origin" not in provenance.code_entries()
    git(here, "remote", "add", "origin", given)
    assert "origin" not in provenance.code_entries()  # the repository is another's
    commit(here)
    assert provenance.code_entries().get("origin") == told


def test_a_repository_around_an_installed_package_is_not_its_own(here):
    git(here, "add", "README")
    git(here, "commit", "--quiet", "-m", "of another project")
    found = code_version()
    assert found == CodeVersion(f"seqae {seqae_version()}", False, found.sources, None)
    (here / ".gitignore").write_text("seqae")
    assert code_version() == found
    shutil.rmtree(here / ".git")
    assert code_version() == found


def seqae_version() -> str:
    from importlib.metadata import version

    return version("seqae")


def test_why_git_fails_is_recorded_and_told(here, monkeypatch, tmp_path_factory, caplog):
    commit(here)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as in a container that runs as another user
    found = code_version()
    assert found.commit == f"seqae {seqae_version()}"
    assert f"detected dubious ownership in repository at '{here}'" in found.git
    run = open_run("fam", DEFAULTS, TINY | {"store": str(tmp_path_factory.mktemp("store"))}).train()
    assert run.record()["git"] == found.git
    assert run.record()["sources"] == found.sources
    assert found.git in caplog.text
    assert "dubious ownership" in dict(run.facts())["made with code"]
    monkeypatch.setenv("PATH", "")
    assert "git cannot be run" in code_version().git
    shutil.rmtree(here / ".git")
    assert code_version().git is None


def test_a_hooks_repository_is_not_taken_for_the_one_around_a_folder(here, monkeypatch, tmp_path_factory):
    made, other = commit(here), tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    (other / "a").touch()
    commit(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert code_version().commit == made


def test_messages_are_in_english_whatever_the_users_language(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    assert "not a git repository" in run_git(tmp_path, "status").stderr
    assert git_trouble(tmp_path) is None
    assert git_trouble(tmp_path / "none") is None
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    assert "not a git repository: /nowhere" in git_trouble(tmp_path)


def test_edits_of_a_notebook_that_git_cannot_tell_are_said_to_be_defaults(tmp_path, monkeypatch):
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    make_project(tmp_path, {"fam": ["1"]}, {"fam/a": {}})
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    notebook = tmp_path / "notebooks" / "fam.ipynb"
    notebook.write_text(notebook.read_text().replace("batch_size = 4", "batch_size = 2"))
    (named,) = plan([tmp_path / "params" / "fam"], scale="tiny")
    assert named.run.differs["batch_size"] == 2
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.warns(UserWarning, match=r"what was edited in its parameters cell counts .*dubious ownership"):
        (unnamed,) = plan([tmp_path / "params" / "fam"], scale="tiny")
    assert unnamed.run.parameters == named.run.parameters.model_copy(update={"store": unnamed.run.parameters.store})
    shutil.rmtree(tmp_path / ".git")
    plan([tmp_path / "params" / "fam"], scale="tiny")


def test_what_jupyterlab_leaves_and_an_edit_of_what_nobody_imported_change_nothing(here):
    commit(here)
    before = code_version()
    checkpoints = here / "seqae" / ".ipynb_checkpoints"
    checkpoints.mkdir()
    (checkpoints / "models-checkpoint.py").write_text("1")
    edit(here, "commands/estimates.py")
    assert code_version() == before
    assert not before.dirty


@pytest.mark.parametrize(
    ("name", "before", "told"),
    [
        ("threads", 3, "goes on with 2 threads, before it had 3: it is not that of an unbroken one to the last bit"),
        ("processor", "old", "goes on with processor new, before it had old: it is not that of an unbroken one"),
        ("device", "old", "goes on with device new, before it had old: it is not that of an unbroken one"),
    ],
)
def test_a_run_that_goes_on_with_something_else_is_said_to_differ(name, before, told, caplog):
    made = dict.fromkeys(("commit", "dirty", "sources", "versions", "machine"), "as it is")
    made |= {"threads": 2, "processor": "new", "device": "new"}
    assert provenance.resumed_by(made, made)[name] == made[name]
    assert provenance.resumed_by(made, {}) == provenance.resumed_by(made, made), "an old record says none of them"
    assert not caplog.text
    provenance.resumed_by(made, made | {name: before})
    assert told in caplog.text
