"""Merging the runs of several machines loses nothing, overwrites nothing and never shows half a folder."""

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import fsspec
import pytest
import torch
import yaml
from own import write_modules
from test_cli import call
from test_later_metrics import MORE
from test_sweep import DEFAULTS, TINY, snapshot

from seqae import open_run
from seqae.commands.terminal import status_rows
from seqae.runs import gather, locks, logs
from seqae.runs.finding import find_runs
from seqae.runs.identity import run_hash
from seqae.runs.records import RunError
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
    files = [file for file in run.folder.rglob("*") if file.is_file() and not file.name.endswith(".lock")]
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
    assert "1 run looked at, 1 the same in both" in call("gather", str(source), str(target))
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
    run.folder.rename(run.folder.with_name(f"other-words-{run_hash(run.parameters)}"))
    assert f", as {run.name}" in call("gather", str(source), str(target))
    assert the_run(target).name == run.name
    assert held(the_run(target)) == held(the_run(trained / kept))
    again = open_run("fam", DEFAULTS, TINY | {"epochs": 4, "store": str(source)})
    assert again.name.startswith("other-words-")


def test_twins_of_one_source_both_come(place, tmp_path):
    run = the_run(place("done", "src"))
    twin = shutil.copytree(run.folder, run.folder.with_name(f"other-words-{run_hash(run.parameters)}"))
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


def test_a_copy_that_was_asked_for_a_metric_later_is_further(place, tmp_path, monkeypatch):
    write_modules(tmp_path, more_metrics=MORE)
    monkeypatch.chdir(tmp_path)
    plain, src, dst = place("done", "plain"), place("done", "src"), place("done", "dst")

    def measure(store, metric):
        given = {"epochs": 4, "metrics": [metric], "store": str(store)}
        assert open_run("fam", DEFAULTS, TINY | given).train().folder == the_run(store).folder

    measure(src, "own_metrics:iou")
    assert "further along in DST" in call("gather", str(plain), str(src))
    assert "further along in SRC" in call("gather", str(src), str(dst))
    assert "recon iou" in the_run(dst).record()["results"]
    measure(dst, "more_metrics:bright")
    assert "further along in DST" in call("gather", str(src), str(dst))
    measure(plain, "more_metrics:bright")
    told = call("gather", str(plain), str(src), code=1)
    assert "differs under one hash" in told, "neither has all that the other has"


def test_other_parameters_under_one_hash_are_told(place):
    src, dst = place("at-3", "src"), place("at-1", "dst")
    file = the_run(dst).folder / "run.yaml"
    file.write_text(file.read_text().replace("seed: 6", "seed: 7"))
    before = snapshot(the_run(dst))
    assert "differs under one hash" in call("gather", str(src), str(dst), code=1)
    assert snapshot(the_run(dst)) == before


def saved_again(store: Path, **progress: object) -> None:
    """Another checkpoint of the same epoch: of another step, or as older versions wrote it, or torn."""
    file = the_run(store).folder / "checkpoint" / "state.pt"
    content = torch.load(file, weights_only=True)
    content["progress"] |= progress
    torch.save(content, file)


def as_a_tuple(store: Path) -> None:
    file = the_run(store).folder / "checkpoint" / "state.pt"
    content = torch.load(file, weights_only=True)
    progress = [value for name, value in content["progress"].items() if name != "settings"]  # of before there were any
    torch.save(content | {"progress": tuple(progress)}, file)


def torn(store: Path) -> None:
    file = the_run(store).folder / "checkpoint" / "state.pt"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("elsewhere", [None, "src", "dst"])
@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [
        (lambda src: saved_again(src, step=3), lambda dst: None, "src"),
        (lambda src: None, lambda dst: saved_again(dst, step=3), "dst"),
        (lambda src: saved_again(src, step=3), as_a_tuple, "src"),
        (as_a_tuple, torn, "src"),
        (lambda src: (the_run(src).folder / "checkpoint" / "state.pt").write_bytes(b""), lambda dst: None, "dst"),
        (lambda src: None, lambda dst: (the_run(dst).folder / "checkpoint" / "state.pt").unlink(), "src"),
    ],
)
def test_progress_is_what_a_resume_would_begin_from(place, tmp_path, monkeypatch, source, target, kept, elsewhere):
    src, dst = place("at-1", "src"), place("at-1", "dst")
    source(src)
    target(dst)
    expected = held(the_run(src if kept == "src" else dst))
    places = {"src": str(src), "dst": str(dst)}
    if elsewhere:
        call("gather", places[elsewhere], "memory://runs")
        places[elsewhere] = "memory://runs"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of another machine"))
    assert f"further along in {kept.upper()}" in call("gather", *places.values())
    if elsewhere == "dst":
        fs = fsspec.filesystem("memory")
        assert {name: fs.cat_file(f"/runs/fam/{the_run(src).name}/{name}") for name in expected} == expected
    else:
        assert held(the_run(dst)) == expected


def test_a_checkpoint_that_holds_code_runs_none(place):
    src, dst = place("at-1", "src"), place("at-1", "dst")

    class Evil:
        def __reduce__(self):
            return Path.touch, (src / "ran",)

    content = {"progress": {"step": 3}, "weights": Evil()}
    torch.save(content, the_run(src).folder / "checkpoint" / "state.pt")
    assert "further along in DST" in call("gather", str(src), str(dst))  # for torch does not load it
    assert not (src / "ran").exists()


def tried(store: Path) -> str:
    """What becomes of training the run of a store from a thread, which stands for another process."""

    def train() -> str:
        try:
            open_run("fam", DEFAULTS, TINY | {"epochs": 4, "store": str(store)}).train()
        except RunError as error:
            return str(error)
        return "trained"

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(train).result()


def test_nothing_is_trained_while_it_is_copied_or_replaced(place, monkeypatch):
    src, dst, copytree, said = place("at-3", "src"), place("at-1", "dst"), shutil.copytree, []
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)

    def copy(*arguments, **options):
        said.extend([tried(src), tried(dst)])
        return copytree(*arguments, **options)

    monkeypatch.setattr(shutil, "copytree", copy)
    expected = held(the_run(src))
    assert "further along in SRC" in call("gather", str(src), str(dst))
    assert len(said) >= 2
    assert all("is being trained by another process, or copied" in told for told in said)
    assert held(the_run(dst)) == expected
    assert tried(dst) == "trained"


def test_a_run_of_a_mirror_is_left_alone_while_another_process_publishes_it(place, tmp_path, monkeypatch):
    src, dst = place("done", "src"), tmp_path / "dst"
    call("gather", str(src), "memory://runs")
    folder = mirror.mirror_folder("memory://runs") / the_run(src).folder.relative_to(src)
    with filelock.FileLock(folder / ".publishing"):
        assert "is being trained in SRC: left alone" in call("gather", "memory://runs", str(dst))
    assert not [*dst.glob("*/*/run.yaml")]
    assert "  copied  " in call("gather", "memory://runs", str(dst))


def without(*names: str, **changes: object):
    """The record as a version writes it that has not these parameters, or others."""

    def change(store: Path) -> None:
        file = the_run(store).folder / "run.yaml"
        record = yaml.safe_load(file.read_text())
        kept = {name: value for name, value in record["parameters"].items() if name not in names}
        file.write_text(yaml.safe_dump(record | {"parameters": kept | changes}))

    return change


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (without("reduction", "readout_bias", "gain"), "1 the same in both"),  # these have their defaults
        (without(dropout=0.0), "1 the same in both"),  # of a version of tomorrow
        (without(gain=1, pixel_range=[0, 1]), "1 the same in both"),
        (without(label="another", device="cuda:1"), "1 the same in both"),
        (without("epochs"), "differs under one hash"),
        (without(reduction="sum"), "differs under one hash"),
    ],
)
def test_what_defines_a_run_is_compared(place, tmp_path, monkeypatch, change, outcome, elsewhere):
    src, dst = place("done", "src"), place("done", "dst")
    change(dst)
    if elsewhere:
        call("gather", str(src), "memory://runs")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of another machine"))
    places = ["memory://runs" if elsewhere else str(src), str(dst)]
    assert outcome in call("gather", *places, code=int("differs" in outcome))
    assert outcome in call("gather", *reversed(places), code=int("differs" in outcome))


def test_a_folder_of_a_newer_format_is_refused_and_not_replaced(place, tmp_path, monkeypatch):
    src, dst, newer = place("done", "src"), place("at-1", "dst"), place("at-1", "newer")
    file = the_run(newer).folder / "run.yaml"
    assert the_run(src).record()["format"] == 1
    record = yaml.safe_load(file.read_text()) | {"format": 2, "status": "of tomorrow", "results": 7}
    file.write_text(yaml.safe_dump(record))
    said = f"{file} was written by a newer seqae, in format 2; this one reads format 1: install the newer one"
    with pytest.raises(RunError) as error:
        Run.load(file.parent)
    assert str(error.value) == said
    with pytest.raises(RunError, match="written by a newer seqae"):
        open_run("fam", DEFAULTS, TINY | {"epochs": 4, "store": str(newer)}).train()
    with pytest.warns(UserWarning, match="left out: .*written by a newer seqae"):
        assert find_runs(newer) == []
    assert said in status_rows([str(newer)])[0][1]
    before = file.read_bytes()
    assert f"failed: {said}" in " ".join(call("gather", str(src), str(newer), code=1).split())
    assert f"failed: {said}" in " ".join(call("gather", str(newer), str(dst), code=1).split())
    assert file.read_bytes() == before

    run = f"/runs/fam/{file.parent.name}"
    fs = fsspec.filesystem("memory")
    call("gather", str(dst), "memory://runs")
    for _ in range(2):
        fs.pipe_file(f"{run}/run.yaml", fs.cat_file(f"{run}/run.yaml").replace(b"format: 1\n", b"format: 2\n") + b"\n")
        with pytest.warns(UserWarning, match="not fetched: .*written by a newer seqae"):
            status_rows(["memory://runs"])
    with pytest.raises(mirror.StoreError, match="written by a newer seqae"):
        mirror.publish_run_folder(mirror.mirror_folder("memory://runs") / "fam" / file.parent.name)
    assert b"format: 2" in fs.cat_file(f"{run}/run.yaml")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of another machine"))
    for _ in range(2):
        assert "written by a newer seqae" in status_rows(["memory://runs"])[0][1]
        fs.pipe_file(f"{run}/run.yaml", fs.cat_file(f"{run}/run.yaml") + b"\n")


@pytest.mark.parametrize("side", ["src", "dst"])
@pytest.mark.parametrize("lock", [".lock", ".execution.lock"])
def test_training_that_begins_before_it_is_copied_is_not_destroyed(place, monkeypatch, side, lock):
    stores_of, looked = {"src": place("at-3", "src"), "dst": place("at-1", "dst")}, gather._copied
    folder, before = the_run(stores_of[side]).folder, held(the_run(stores_of["dst"]))
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)

    def begins(*folders):
        with filelock.FileLock(folder / lock):
            return looked(*folders)

    monkeypatch.setattr(gather, "_copied", begins)
    assert f"is being trained in {side.upper()}: left alone" in call("gather", *map(str, stores_of.values()))
    assert held(the_run(stores_of["dst"])) == before


def test_what_ended_before_it_is_copied_is_compared_again(place, monkeypatch):
    src, dst, looked = place("at-3", "src"), place("at-1", "dst"), gather._copied
    monkeypatch.setattr(gather, "_copied", lambda *folders: tried(dst) and looked(*folders))
    assert "further along in DST" in call("gather", str(src), str(dst))
    assert the_run(dst).status == "done"


@pytest.mark.parametrize("target", ["at-1", None])
def test_somebody_who_makes_the_run_meanwhile_keeps_it(place, tmp_path, monkeypatch, target):
    src, dst, rename = place("at-3", "src"), tmp_path / "dst", Path.rename
    if target:
        place(target, "dst")

    def renamed(path, to):
        if path.parent.name == "new" and not [*dst.glob("fam/*/run.yaml")]:
            tried(dst)
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", renamed)
    told = call("gather", str(src), str(dst))
    assert "further along in DST" in told
    assert the_run(dst).status == "done"


@pytest.mark.parametrize("changes", [1, 9])
def test_a_source_that_cannot_be_held_is_copied_again_if_it_changed(place, monkeypatch, changes):
    src, dst, copytree, steps = place("at-1", "src"), place("at-1", "dst"), shutil.copytree, iter(range(4, 4 + changes))
    hold, source = gather._hold, the_run(src).folder
    saved_again(src, step=3)
    monkeypatch.setattr(gather, "_hold", lambda folder, locks, **how: folder != source and hold(folder, locks, **how))
    before = held(the_run(dst))

    def copy(*arguments, **options):
        copied = copytree(*arguments, **options)
        if (step := next(steps, None)) is not None:
            saved_again(src, step=step)
        return copied

    monkeypatch.setattr(shutil, "copytree", copy)
    told = call("gather", str(src), str(dst), code=0 if changes == 1 else 1)
    assert ("further along in SRC" in told) == (changes == 1)
    assert ("changed 3 times while it was copied" in told) == (changes == 9)
    assert held(the_run(dst)) == (held(the_run(src)) if changes == 1 else before)
    assert not [*dst.glob(".gather*")]


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


def test_two_copy_from_one_source_at_once(place, tmp_path, monkeypatch):
    src, copytree, inner = place("done", "src"), shutil.copytree, []

    def copy(*arguments, **options):
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "copytree", copytree)
            inner.extend(gather.merge_stores([str(src)], str(tmp_path / "other"))[1])
        return copytree(*arguments, **options)

    monkeypatch.setattr(shutil, "copytree", copy)
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.1)
    (outer,) = gather.merge_stores([str(src)], str(tmp_path / "dst"))[1]
    assert [outer.outcome, *(row.outcome for row in inner)] == ["copied", "copied"]


def test_a_copy_of_what_nobody_may_write_can_be_written(place, tmp_path):
    src, dst = place("done", "src"), tmp_path / "dst"
    folder = the_run(src).folder
    (folder / "code").mkdir()
    (folder / "code" / "mine.py").touch()
    everything = [folder, *folder.rglob("*")]
    for file in everything:
        file.chmod(0o555 if file.is_dir() else 0o444)
    call("gather", str(src), str(dst))
    for file in everything:
        file.chmod(0o755)  # so that it can be removed
    copied = [the_run(dst).folder, *the_run(dst).folder.rglob("*")]
    assert {file.stat().st_mode & 0o777 for file in copied if file.is_dir()} == {0o755}
    assert {file.stat().st_mode & 0o777 for file in copied if not file.name.startswith(".")} == {0o755, 0o644}


def test_a_damaged_run_hinders_no_other(place):
    src, dst = place("done", "src"), place("at-1", "dst")
    (src / "fam" / "torn").mkdir()
    (src / "fam" / "torn" / "run.yaml").write_text("{torn: ")
    output = call("gather", str(src), str(dst), code=1)
    assert "fam/torn" in output
    assert "damaged" in output
    assert the_run(dst).status == "done"


def test_a_file_that_cannot_be_copied_is_told_in_a_sentence(place, tmp_path):
    source = place("done", "src")
    os.mkfifo(the_run(source).folder / "pipe")
    output = call("gather", str(source), str(tmp_path / "dst"), code=1)
    assert re.search(r"failed: `\S+/pipe` is a named pipe", output), output
    assert list((tmp_path / "dst").glob("*/*/run.yaml")) == []


@pytest.mark.parametrize("target", ["/etc/hostname", "/etc", "nowhere", ".", "../..", "odd"])
def test_a_link_that_leads_out_of_a_run_copies_nothing_of_this_machine(place, tmp_path, target):
    """Who makes a run folder for others could have them copy, and publish, files of their own."""
    source, gathered = place("done", "src"), tmp_path / "dst"
    folder = the_run(source).folder
    (folder / "odd").symlink_to(target)
    output = call("gather", str(source), str(gathered), code=1)
    assert "odd is a link out of the run's folder, or to nothing" in output
    assert list(gathered.glob("*/*/run.yaml")) == []
    (folder / "odd").unlink()
    (folder / "same.yaml").symlink_to("run.yaml")  # one in the folder is copied as a file
    call("gather", str(source), str(gathered))
    assert (the_run(gathered).folder / "same.yaml").read_bytes() == (folder / "run.yaml").read_bytes()
    assert not (the_run(gathered).folder / "same.yaml").is_symlink()


def test_a_file_is_no_store(place, tmp_path, monkeypatch):
    place("done", "src")
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for arguments in (["src", "file"], ["file", "src"], ["file", "file"]):
        told = "seqae: file is a file: gather takes folders or URLs of runs, SRC… and then DST"
        assert call("gather", *arguments, code=2).splitlines() == [told]


@pytest.mark.parametrize("arguments", [["dst"], ["missing", "dst"], ["src/fam", "dst"], ["src", "missing", "dst"]])
def test_a_source_without_runs_is_an_error_before_anything_is_copied(place, tmp_path, monkeypatch, arguments):
    place("done", "src")
    monkeypatch.chdir(tmp_path)
    output = call("gather", *arguments, code=2)
    assert output.startswith("seqae: ")
    assert "SRC, folders or URLs" in output or "holds no run" in output
    assert not (tmp_path / "dst").exists()
