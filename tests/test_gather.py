"""Merging the runs of several machines loses nothing, overwrites nothing and never shows half a folder."""

import shutil
from pathlib import Path

import filelock
import fsspec
import pytest
from test_cli import call
from test_sweep import DEFAULTS, TINY, snapshot

from seqae import open_run
from seqae.runs import gather, logs
from seqae.runs.identity import short_hash
from seqae.runs.run import Run
from seqae.stores import mirror


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three stores with the same run of 4 epochs: finished, interrupted after epoch 1, and after epoch 3."""
    root = tmp_path_factory.mktemp("trained")
    given = TINY | {"epochs": 4}
    open_run("fam", DEFAULTS, given | {"store": str(root / "done")}).train()
    append = logs.append_rows
    for last in (1, 3):

        def stopping(log, rows, last=last):
            if log.name == "metrics.csv" and rows[0]["epoch"] > last:
                raise KeyboardInterrupt
            append(log, rows)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(logs, "append_rows", stopping)
            with pytest.raises(KeyboardInterrupt):
                open_run("fam", DEFAULTS, given | {"store": str(root / f"at-{last}")}).train()
    return root


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A function that copies a store of `trained`, by name, and returns the path of the copy."""
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()

    def make(name: str, as_: str) -> Path:
        shutil.copytree(trained / name, tmp_path / as_)
        return tmp_path / as_

    return make


def the_run(store: Path) -> Run:
    (file,) = store.glob("fam/*/run.yaml")
    return Run.load(file.parent)


def held(run: Run) -> dict[str, bytes]:
    files = [file for file in run.folder.rglob("*") if file.is_file() and file.name != ".lock"]
    return {file.relative_to(run.folder).as_posix(): file.read_bytes() for file in files}


def test_what_only_src_has_is_copied_and_told(place, tmp_path):
    source, target = place("done", "src"), tmp_path / "dst"
    expected = held(the_run(source))
    for name in ("model.tmp", ".lock", ".token"):  # left by a process
        (the_run(source).folder / name).touch()
    output = call("gather", str(source), str(target))
    run = the_run(target)
    assert f"fam/{run.name}" in output
    assert "copied" in output
    assert held(run) == expected
    assert not (run.folder / ".lock").exists()
    assert f"fam/{run.name}/run.yaml" in (target / "index.html").read_text()
    assert {file.name for file in target.iterdir() if file.name[0] != "."} == {"fam", "index.html"}

    before = snapshot(run)
    assert "1 runs looked at, 1 the same in both" in call("gather", str(source), str(target))
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [("done", "at-1", "src"), ("at-3", "at-1", "src"), ("at-1", "at-3", "dst"), ("at-3", "done", "dst")],
)
def test_what_is_further_is_kept_whole(place, source, target, kept):
    src, dst = place(source, "src"), place(target, "dst")
    expected = held(the_run(src if kept == "src" else dst))
    output = call("gather", str(src), str(dst))
    assert ("further along in SRC" in output) == (kept == "src")
    assert ("further along in DST" in output) == (kept == "dst")
    assert held(the_run(dst)) == expected
    assert (the_run(dst).folder / "checkpoint").exists() == ("done" not in (source, target))


@pytest.mark.parametrize("elsewhere", ["src", "dst"])
@pytest.mark.parametrize(("source", "target"), [("at-3", "at-1"), ("at-1", "at-3"), ("done", "at-3"), ("at-3", "done")])
def test_what_is_further_is_kept_whole_of_stores_elsewhere(place, tmp_path, monkeypatch, source, target, elsewhere):
    src, dst = place(source, "src"), place(target, "dst")
    url, further = "memory://runs", "SRC" if source == "done" or (source, target) == ("at-3", "at-1") else "DST"
    expected = held(the_run(src if further == "SRC" else dst))
    call("gather", str(src if elsewhere == "src" else dst), url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of another machine"))
    output = call("gather", *([url, str(dst)] if elsewhere == "src" else [str(src), url]))
    assert f"further along in {further}" in output
    if elsewhere == "src":
        assert held(the_run(dst)) == expected
    else:
        fs = fsspec.filesystem("memory")
        assert {name: fs.cat_file(f"/runs/fam/{the_run(src).name}/{name}") for name in expected} == expected
    assert ("checkpoint/state.pt" in expected) == ("done" not in (source, target))


@pytest.mark.parametrize(("source", "kept"), [("at-1", "at-3"), ("done", "done")])
def test_a_run_that_was_called_otherwise_is_the_same(place, trained, source, kept):
    source, target = place(source, "src"), place("at-3", "dst")
    run = the_run(source)
    run.folder.rename(run.folder.with_name(f"other-words-{short_hash(run.parameters)}"))
    assert f", as {run.name}" in call("gather", str(source), str(target))
    assert the_run(target).name == run.name
    assert held(the_run(target)) == held(the_run(trained / kept))
    again = open_run("fam", DEFAULTS, TINY | {"epochs": 4, "store": str(source)})
    assert again.name.startswith("other-words-")


def test_twins_of_one_source_both_come(place, tmp_path):
    run = the_run(place("done", "src"))
    twin = shutil.copytree(run.folder, run.folder.with_name(f"other-words-{short_hash(run.parameters)}"))
    (twin / "test.csv").write_text("of another machine")
    output = call("gather", str(tmp_path / "src"), str(tmp_path / "dst"))
    assert "2 runs looked at, 0 the same" in output
    assert {folder.name for folder in (tmp_path / "dst" / "fam").iterdir()} == {run.name, twin.name}


def test_a_run_of_another_version_is_copied_too(place, tmp_path):
    file = the_run(place("done", "src")).folder / "run.yaml"
    file.write_text(file.read_text().replace("parameters:\n", "parameters:\n  of_tomorrow: 1\n"))
    assert "  copied  " in call("gather", str(tmp_path / "src"), str(tmp_path / "dst"))
    assert (tmp_path / "dst" / "fam" / file.parent.name / "run.yaml").read_bytes() == file.read_bytes()


def test_a_run_taken_half_trained_goes_on(place, trained):
    src, dst = place("at-3", "src"), place("at-1", "dst")
    call("gather", str(src), str(dst))
    run = open_run("fam", DEFAULTS, TINY | {"epochs": 4, "store": str(dst)}).train()
    assert (run.folder / "test.csv").read_bytes() == (the_run(trained / "done").folder / "test.csv").read_bytes()


def test_finished_with_other_results_both_stay_and_it_is_told(place, tmp_path):
    src, other, dst = place("done", "src"), place("done", "other"), place("done", "dst")
    file = the_run(other).folder / "metrics.csv"
    head, row, *rest = file.read_text().splitlines(keepends=True)
    epoch, step, _, *columns = row.split(",")
    file.write_text("".join([head, ",".join([epoch, step, "99", *columns]), *rest]))  # another time is no difference
    assert "2 the same in both" in call("gather", str(src), str(other), str(dst))
    (the_run(src).folder / "test.csv").write_text("branch,frame,metric,value,unit,sequences\n")
    before = [snapshot(the_run(store)) for store in (src, dst)]
    output = call("gather", str(src), str(other), str(dst), code=1)
    assert output.count("differs under one hash: DST keeps its own") == 1
    assert [snapshot(the_run(store)) for store in (src, dst)] == before


def test_other_parameters_under_one_hash_are_told(place):
    src, dst = place("at-3", "src"), place("at-1", "dst")
    file = the_run(dst).folder / "run.yaml"
    file.write_text(file.read_text().replace("seed: 6", "seed: 7"))
    before = snapshot(the_run(dst))
    assert "differs under one hash" in call("gather", str(src), str(dst), code=1)
    assert snapshot(the_run(dst)) == before


@pytest.mark.parametrize("side", ["src", "dst"])
def test_what_is_being_trained_is_left_alone(place, side):
    stores_of = {"src": place("at-3", "src"), "dst": place("at-1", "dst")}
    before = held(the_run(stores_of["dst"]))
    with filelock.FileLock(the_run(stores_of[side]).folder / ".lock"):
        output = call("gather", *map(str, stores_of.values()))
    assert f"is being trained in {side.upper()}: left alone" in output
    assert held(the_run(stores_of["dst"])) == before


@pytest.mark.parametrize("before", [None, "at-1"])
def test_no_half_folder_is_ever_seen(place, tmp_path, monkeypatch, before):
    """While files are copied, and wherever copying breaks off, DST has the old run or none."""
    src, dst = place("done", "src"), place(before, "dst") if before else tmp_path / "dst"
    size = len(held(the_run(src)))
    left, seen, copytree = iter(range(size - 1)), [], shutil.copytree

    def copy(*arguments, **options):
        shutil.copy2(*arguments, **options)
        seen.append([Run.load(file.parent).status for file in dst.glob("*/*/run.yaml")])
        if next(left, None) is None:  # that was the last
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", lambda a, b, ignore: copytree(a, b, ignore=ignore, copy_function=copy))
        call("gather", str(src), str(dst), code=130)
    assert seen == [["interrupted"] if before else []] * size
    assert not [*dst.glob(".gather*")]
    call("gather", str(src), str(dst))
    assert the_run(dst).status == "done"


def test_into_a_store_elsewhere_and_out_of_it(place, tmp_path, monkeypatch):
    fs, run = fsspec.filesystem("memory"), the_run(place("at-3", "half"))
    call("gather", str(tmp_path / "half"), "memory://runs")
    assert {"run.yaml", "metrics.csv", "checkpoint/state.pt"} <= names(fs, run)
    assert "further along in SRC" in call("gather", str(place("done", "src")), "memory://runs")
    assert {"run.yaml", "test.csv", "model.safetensors"} <= names(fs, run)
    assert "checkpoint/state.pt" not in names(fs, run)
    assert f"fam/{run.name}" in fs.cat_file("/runs/index.html").decode()
    assert not mirror.unpublished(mirror.mirror_folder("memory://runs") / "fam" / run.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of another machine"))
    call("gather", "memory://runs", str(tmp_path / "dst"))
    assert the_run(tmp_path / "dst").model()


def names(fs, run: Run) -> set[str]:
    return {name.removeprefix(f"/runs/fam/{run.name}/") for name in fs.find(f"/runs/fam/{run.name}")}


def test_what_could_not_be_published_is_with_the_next_gather(place, monkeypatch):
    fs, source = fsspec.filesystem("memory"), place("done", "src")
    with monkeypatch.context() as patched:

        def cut_off(folder):
            raise mirror.StoreError("cut off")

        patched.setattr(gather, "publish_run_folder", cut_off)
        assert "failed: cut off" in call("gather", str(source), "memory://runs", code=1)
    assert not names(fs, the_run(source))
    assert "1 the same in both" in call("gather", str(source), "memory://runs")
    assert "run.yaml" in names(fs, the_run(source))


def test_a_damaged_run_hinders_no_other(place):
    src, dst = place("done", "src"), place("at-1", "dst")
    (src / "fam" / "torn").mkdir()
    (src / "fam" / "torn" / "run.yaml").write_text("{torn: ")
    output = call("gather", str(src), str(dst), code=1)
    assert "fam/torn" in output
    assert "damaged" in output
    assert the_run(dst).status == "done"


@pytest.mark.parametrize("arguments", [["dst"], ["missing", "dst"], ["src/fam", "dst"], ["src", "missing", "dst"]])
def test_a_source_without_runs_is_an_error_before_anything_is_copied(place, tmp_path, monkeypatch, arguments):
    place("done", "src")
    monkeypatch.chdir(tmp_path)
    output = call("gather", *arguments, code=2)
    assert output.startswith("seqae: ")
    assert "SRC, folders or URLs" in output or "holds no run" in output
    assert not (tmp_path / "dst").exists()
