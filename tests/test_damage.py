"""One damaged run is named and left out; it hides no other, here or in a remote store."""

import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save
from test_cli import call
from test_gather import trained  # noqa: F401
from test_sweep import DEFAULTS, TINY, make_project

from seqae import open_run, reports, sweeps
from seqae.commands.terminal import status_rows
from seqae.reports.compare import budgets, by_epoch, comparable_runs, describe, finals, gallery
from seqae.reports.index import update_index
from seqae.runs import logs, records
from seqae.runs.finding import find_runs
from seqae.runs.naming import existing_name
from seqae.runs.records import RunError, progress
from seqae.runs.run import Run
from seqae.sweeps import plan

GOOD, BAD = "good-11111111", "bad-22222222"


@pytest.fixture
def store(trained, tmp_path, monkeypatch):  # noqa: F811
    """A store with a finished run, and a copy of it to be damaged."""
    monkeypatch.setattr(records, "_known", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    (done,) = trained.glob("done/fam/*")
    for name in (GOOD, BAD):
        shutil.copytree(done, tmp_path / "store" / "fam" / name)
    return tmp_path / "store"


def entry(**changes):
    def damage(folder: Path) -> None:
        record = yaml.safe_load((folder / "run.yaml").read_text())
        (folder / "run.yaml").write_text(yaml.safe_dump(record | changes))

    return damage


def text(content: str | bytes, name: str = "run.yaml"):
    def damage(folder: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(data)

    return damage


def replaced(name: str, old: str, new: bytes):
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert old.encode() in content
        (folder / name).write_bytes(content.replace(old.encode(), new, 1))

    return damage


def headless(name: str):
    return lambda folder: text((folder / name).read_bytes().partition(b"\n")[2], name)(folder)


def rows_gone(name: str):
    return lambda folder: text((folder / name).read_bytes().partition(b"\n")[0] + b"\n", name)(folder)


def lines(name: str, keep):
    def damage(folder: Path) -> None:
        head, *rows = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join([head, *keep(rows)]))

    return damage


def bomb(folder: Path) -> None:
    with zipfile.ZipFile(folder / "samples.npz", "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("frames.npy", bytes(2**21))  # the test allows half as much


def a_folder(folder: Path) -> None:
    (folder / "run.yaml").unlink()
    (folder / "run.yaml").mkdir()


RECORDS = {
    "latin-1": (replaced("run.yaml", "verdict: ", b"verdict: M\xfcller "), "no text in UTF-8"),
    "empty": (text(""), "it holds null, not entries"),
    "a list": (text("[1]"), "it holds [1], not entries"),
    "torn": (text("{torn: "), "no YAML"),
    "a tag": (text("!!python/object:os.system {}"), "no YAML"),
    "a date of month 13": (text("started: 2026-13-45 10:00:00"), "no YAML: month must be in 1..12"),
    "nul": (text(b"status: \0"), "no YAML"),
    "deep": (text("[" * 20_000), "no YAML"),
    "a date that is none": (text("started: !!timestamp 3"), "no YAML: a value does not fit its tag"),
    "a truth that is none": (text("dirty: !!bool maybe"), "no YAML: a value does not fit its tag"),
    "a number without bound": (text("seconds: " + "9" * 5000), "no YAML: Exceeds the limit"),
    "results null": (entry(results=None), "results must be a mapping; not null"),
    "results of text": (entry(results={"pred mse": "low"}), "to a number; not 'pred mse' to 'low'"),
    "results of one word": (entry(results={"mse": 1.0}), "results must map BRANCH METRIC"),
    "results with a number as key": (entry(results={1: 1.0}), "results has the key 1"),
    "seconds null": (entry(seconds=None), "seconds must be a number; not null"),
    "seconds of text": (entry(seconds="long"), "seconds must be a number; not 'long'"),
    "seconds true": (entry(seconds=True), "seconds must be a number; not True"),
    "status of another": (entry(status="paused"), "status must be one of running, done, failed; not 'paused'"),
    "status a list": (entry(status=["done"]), "status must be one of"),
    "parameters null": (entry(parameters=None), "parameters must be a mapping"),
    "parameters a list": (entry(parameters=["seed"]), "parameters must be a mapping"),
    "differs a text": (entry(differs="nothing"), "differs must be a mapping"),
    "started a date": (replaced("run.yaml", "started: '", b"started: 2026-11-28 #'"), "started must be a text"),
    "verdict a list": (entry(verdict=[1]), "verdict must be a text or null"),
    "machine null": (entry(machine=None), "machine must be a text"),
    "resumed null": (entry(resumed=None), "resumed must be a list"),
    "resumed of texts": (entry(resumed=["a"]), "resumed must list commits"),
    "seconds nan": (entry(seconds=float("nan")), "seconds must be a number below 1e+13; not nan"),
    "seconds infinite": (entry(seconds=float("inf")), "seconds must be a number below 1e+13; not inf"),
    "more seconds than a time can be": (entry(seconds=1e300), "seconds must be a number below 1e+13"),
    "hidden of text": (entry(hidden="wide"), "hidden must be a number or null; not 'wide'"),
    "explained a number": (entry(explained=5), "explained must be a text; not 5"),
    "clips a list": (entry(clips=[1]), "clips must be a mapping; not [1]"),
    "clips with a list of splits": (entry(clips={"splits": ["train"]}), "splits of clips must be a mapping"),
    "planned from a file": (entry(planned_from="params/a.yaml"), "planned_from must be a mapping; not 'params/a.yaml'"),
    "planned from a scale of no name": (
        entry(planned_from={"scale": 3}),
        "scale of planned_from must be a text; not 3",
    ),
    "went on without a number": (entry(went_on={"without": [3]}), "without of went_on must be a list of texts"),
    "metrics of code null": (entry(code={"metrics": None}), "metrics of code must be a mapping; not null"),
    "metrics of code a list": (entry(code={"metrics": [1]}), "metrics of code must be a mapping; not [1]"),
    "a folder": (a_folder, "cannot be read: Is a directory"),
}


@pytest.mark.parametrize(("damage", "fault"), RECORDS.values(), ids=RECORDS)
def test_a_damaged_record_is_named_and_hides_no_other(store, damage, fault, recwarn):
    bad = store / "fam" / BAD
    damage(bad)
    for _ in range(2):  # parsed, and then remembered
        rows = {row[0]: row for row in status_rows([str(store)])}
        assert rows[f"fam/{GOOD}"][1] == "done"
        assert f"failed: {bad / 'run.yaml'}" in rows[f"fam/{BAD}"][1]
        assert fault in rows[f"fam/{BAD}"][1]
    recwarn.clear()
    with warnings.catch_warnings(record=True, action="always") as told:
        assert [run.name for run in find_runs(store)] == [run.name for run in comparable_runs("fam", store=str(store))]
    assert {GOOD} == {run.name for run in comparable_runs("fam", [GOOD], store=str(store))}
    assert all(BAD in str(warning.message) and fault in str(warning.message) for warning in told)
    assert len(told) == 2
    update_index(store)
    page = (store / "index.html").read_text()
    assert GOOD in page
    assert BAD in page
    with pytest.raises(RunError) as error:
        Run.load(bad)
    assert fault in str(error.value)


TABLES = {
    "metrics without header": (headless("metrics.csv"), "metrics.csv is damaged (its first line does not name epoch"),
    "metrics in latin-1": (replaced("metrics.csv", "objective", b"objekt\xefv"), "metrics.csv is damaged (no text"),
    "metrics of text": (
        replaced("metrics.csv", "\n1,", b"\none,"), "(line 2: epoch must be a whole number; not 'one')"
    ),
    "metrics of too few columns": (replaced("metrics.csv", "\n1,", b"\n1,1\n1,"), "(line 2 has 2 columns)"),
    "metrics with a nul": (replaced("metrics.csv", "\n1,", b"\n\x00,"), "epoch must be a whole number"),
    "test of text": (
        replaced("test.csv", ",mse,", b",mse,low,"), "columns)"
    ),
    "test without header": (headless("test.csv"), "test.csv is damaged"),
    "test empty": (text("", "test.csv"), "test.csv is damaged"),
    "baselines of another table": (text("a,b\n1,2\n", "baselines.csv"), "baselines.csv is damaged"),
    "metrics with a text without end": (
        replaced("metrics.csv", "\n1,", b"\n" + b"1" * 200_000 + b","), "metrics.csv is damaged"
    ),
    "metrics with a line end of old Macs": (replaced("metrics.csv", ",mse,", b",m\rse,"), "metrics.csv is damaged"),
    "metrics with half an epoch": (replaced("metrics.csv", "\n1,", b"\n1.5,"), "epoch must be a whole number; not '1"),
    "metrics without an epoch": (replaced("metrics.csv", "\n1,", b"\n,"), "(line 2 has no epoch)"),
    "test with half a frame": (replaced("test.csv", ",1,", b",1.5,"), "frame must be a whole number; not '1.5'"),
    "metrics twice": (
        lines("metrics.csv", lambda rows: [*rows, rows[0].replace(",0.", ",0.9")]), "says what another line says)"
    ),
    "test twice": (lines("test.csv", lambda rows: [*rows, *rows]), "says what another line says)"),
    "histograms in latin-1": (text(b"epoch,\xfc\n", "histograms.csv"), "histograms.csv is damaged (no text"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "fault"), TABLES.values(), ids=TABLES)
def test_a_damaged_table_is_named_and_hides_no_other(store, damage, fault):
    bad = store / "fam" / BAD
    damage(bad)
    for _ in range(2):
        with pytest.warns(UserWarning, match=BAD) as told:
            runs = comparable_runs("fam", store=str(store))
        assert fault in str(told[0].message)
        assert [run.name for run in runs] == [GOOD]
        assert len(by_epoch(runs))
        assert len(finals(runs))
    assert len(status_rows([str(store)])) == 2
    update_index(store)
    assert GOOD in (store / "index.html").read_text()
    run, said = Run.load(bad), []
    for read in (run.metrics, run.test, run.baselines, run.histograms):
        try:
            read()
        except RunError as error:
            said.append(str(error))
    assert len(said) == 1
    assert fault in said[0]


@pytest.mark.parametrize("name", ["run.yaml", "metrics.csv", "test.csv", "baselines.csv", "histograms.csv"])
@pytest.mark.parametrize("what", ["folder", "pipe"])
def test_what_is_no_file_is_named_and_hides_no_other(store, name, what, monkeypatch):
    file = store / "fam" / BAD / name
    file.unlink()
    if what == "pipe":
        os.mkfifo(file)
        opened = Path.open

        def guarded(path, *arguments, **named):
            assert not path.is_fifo(), "it would wait for a writer"
            return opened(path, *arguments, **named)

        monkeypatch.setattr(Path, "open", guarded)
    else:
        file.mkdir()
    assert progress(store / "fam" / BAD) is None or name != "metrics.csv"
    assert len(status_rows([str(store)])) == 2
    with pytest.warns(UserWarning, match=f"{BAD} left out: .*{name} cannot be read"):
        assert [run.name for run in comparable_runs("fam", store=str(store))] == [GOOD]
    update_index(store)
    assert GOOD in (store / "index.html").read_text()


@pytest.mark.parametrize("name", sorted(RECORDS.keys() - {"a folder"} | TABLES.keys()))
def test_a_look_at_a_remote_store_is_not_ended_by_a_damaged_run(store, tmp_path, name):
    (RECORDS | TABLES)[name][0](store / "fam" / BAD)
    fs = fsspec.filesystem("memory")
    for file in (file for file in store.rglob("*") if file.is_file()):
        fs.pipe_file(f"/runs/{file.relative_to(store).as_posix()}", file.read_bytes())
    for _ in range(2):  # the second has something to compare with
        rows = {row[0]: row for row in status_rows(["memory://runs"])}
        assert rows[f"fam/{GOOD}"][1] == "done"
        assert rows[f"fam/{BAD}"][1].startswith("failed" if name in RECORDS else "done")
        file = f"/runs/fam/{BAD}/run.yaml"
        fs.pipe_file(file, fs.cat_file(file) + b"\n")
    told = call("gather", "memory://runs", str(tmp_path / "all"), code=int(name in RECORDS))
    assert f"fam/{GOOD}" in told
    assert f"fam/{BAD}" in told
    assert "cannot be reached" not in told


EMPTY = {name: rows_gone(name) for name in ("metrics.csv", "test.csv", "baselines.csv")}
WITHOUT_VAL = lines("metrics.csv", lambda rows: [row for row in rows if ",val," not in row])
SAMPLES = {
    "torn": lambda folder: text((folder / "samples.npz").read_bytes()[:200], "samples.npz")(folder),
    "text": text("hello", "samples.npz"),
    "without frames": lambda folder: np.savez(folder / "samples.npz", pred=np.zeros((1, 2, 4, 4), np.uint8)),
    "of numbers": lambda folder: np.savez(folder / "samples.npz", frames=np.zeros((1, 2, 4, 4))),
    "of another shape": lambda folder: np.savez(folder / "samples.npz", frames=np.zeros(4, np.uint8)),
    "that grows without bound": bomb,
    "that are gone": lambda folder: (folder / "samples.npz").unlink(),
}


@pytest.mark.parametrize(("damage", "file"), [
    *((damage, name) for name, damage in EMPTY.items()), (WITHOUT_VAL, "metrics.csv"),
    *((damage, "samples.npz") for damage in SAMPLES.values())
], ids=[*EMPTY, "without val", *(f"samples {name}" for name in SAMPLES)])  # fmt: skip
def test_a_run_without_rows_or_samples_is_named_and_hides_no_other(store, damage, file, monkeypatch):
    monkeypatch.setattr(logs, "MOST_SAMPLES", 2**20)
    damage(store / "fam" / BAD)
    with pytest.warns(UserWarning, match=f"{BAD}.*{file}"):
        runs = comparable_runs("fam", store=str(store))
    assert [run.name for run in runs] == [GOOD]
    assert len(gallery(runs, "recon")) == 2
    update_index(store)
    assert BAD in (store / "index.html").read_text()
    run = Run.load(store / "fam" / BAD)
    if file == "samples.npz":
        with pytest.raises(RunError, match=r"samples\.npz is (damaged|missing)"):
            run.samples()
    if file == "baselines.csv":
        with pytest.raises(RunError, match="no mean frame on val"):
            run.prognosis()


@pytest.mark.parametrize("entry_", ["parameters", "seconds", "device", "ended", "commit", "dirty"])
def test_a_record_that_lacks_an_entry_hides_no_other(store, entry_):
    folder = store / "fam" / BAD
    record = yaml.safe_load((folder / "run.yaml").read_text())
    del record[entry_]
    record |= {"status": "running"} if entry_ == "parameters" else {}
    (folder / "run.yaml").write_text(yaml.safe_dump(record))
    assert {row[0]: row[1] for row in status_rows([str(store)])}[f"fam/{GOOD}"] == "done"
    update_index(store)
    with warnings.catch_warnings(action="ignore"):
        runs = comparable_runs("fam", store=str(store))
    assert GOOD in {run.name for run in runs}
    assert len(budgets(runs)) == len(runs)
    assert describe(runs)


def test_a_damaged_model_is_named(store):
    file = store / "fam" / BAD / "model.safetensors"
    with safe_open(file, "pt") as stored:
        whole, metadata = file.read_bytes(), stored.metadata()
    bare, weights = "has no parameters of a run in its metadata: .* call model.load_state_dict", torch.zeros(1)
    for content, fault in (
        (whole[:300], "is damaged"), (b"hello", "is damaged"), (save({"w": weights}), bare),
        (save({"w": weights}, metadata={}), bare), (save({"w": weights}, metadata={"parameters": "{"}), "is damaged"),
    ):  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(RunError, match=rf"{BAD}/model\.safetensors {fault}"):
            Run.load(file.parent).model()
    file.write_bytes(save({"weights": torch.zeros(1)}, metadata=metadata))
    with pytest.raises(RunError, match=r"does not hold the weights that its parameters describe: .*Missing key"):
        Run.load(file.parent).model()


def test_an_interrupted_run_with_a_damaged_log_says_so_when_it_is_resumed(trained, tmp_path):  # noqa: F811
    shutil.copytree(trained / "at-1", tmp_path / "store")
    ((folder),) = (tmp_path / "store").glob("fam/*")
    headless("metrics.csv")(folder)
    with pytest.raises(RunError, match=r"metrics\.csv is damaged .*first line does not name epoch"):
        open_run("fam", DEFAULTS, TINY | {"epochs": 4, "store": str(tmp_path / "store")}).train()


@pytest.mark.parametrize("content", ["[" * 10**5, '{"1": {"fam/x": ["", "{}", {}]}}', '{"1": 3}', "", "\xff"])
def test_a_damaged_cache_of_records_is_made_anew(store, content):
    update_index(store)
    kept = json.loads((store / ".records.json").read_text())["1"]
    for text_ in (
        content,
        json.dumps({"1": {name: [digest, "[" * 10**5, {"files": 1}] for name, (digest, *_) in kept.items()}}),
        json.dumps(
            {"1": {name: [digest, record, {"files": noted["files"]}] for name, (digest, record, noted) in kept.items()}}
        ),
    ):
        (store / ".records.json").write_text(text_, encoding="latin-1")
        records._known.clear()
        assert [row[1] for row in status_rows([str(store)])] == ["done", "done"]
        update_index(store)


def test_a_folder_that_holds_another_run_is_not_taken_for_this_one(trained, tmp_path):  # noqa: F811
    shutil.copytree(trained / "done", tmp_path / "store")
    ((folder),) = (tmp_path / "store").glob("fam/*")
    given = Run.load(folder).parameters.model_dump() | {"store": str(tmp_path / "store")}
    assert open_run("fam", DEFAULTS, given).folder == folder
    replaced("run.yaml", "data_seed: 1", b"data_seed: 7")(folder)
    with pytest.raises(RunError, match=rf"{folder.name} holds another run \(data_seed 7, not -\): move it elsewhere"):
        open_run("fam", DEFAULTS, given)


def test_names_with_stars_and_brackets_are_names(store):
    """Names come from folders, and are no patterns."""
    odd = store / "f[a]m*"
    (store / "fam").rename(odd)
    entry(family="f[a]m*")(odd / GOOD)
    entry(family="f[a]m*")(odd / BAD)
    shutil.copytree(odd, store / "fam")
    assert [run.name for run in find_runs(store, "f[a]m*")] == [BAD, GOOD]
    assert {run.folder.parent.name for run in find_runs(store, "f[a]m*")} == {"f[a]m*"}
    assert records.finished(odd) == {GOOD, BAD}
    assert existing_name("x-????????", odd) == "x-????????"


def test_a_checkpoint_of_another_run_is_named(trained, tmp_path):  # noqa: F811
    shutil.copytree(trained / "at-1", tmp_path / "store")
    ((folder),) = (tmp_path / "store").glob("fam/*")
    file = folder / "checkpoint" / "state.pt"
    content = torch.load(file, weights_only=True)
    for other in ({"progress": content["progress"]}, content | {"model": {}}, content | {"epoch": {"objektiv": 1}}):
        torch.save(other, file)
        with pytest.raises(ValueError, match=r"state\.pt is of another run \(.*\): name another file, or delete this"):
            open_run("fam", DEFAULTS, TINY | {"epochs": 4, "store": str(tmp_path / "store")}).train()


@pytest.mark.parametrize("line", [b"one,1,1,val,all,objective,0.5\n", b"1,1,1,val,all,objective,low\n"])
def test_progress_of_a_damaged_log_is_unknown(tmp_path, line):
    (tmp_path / "metrics.csv").write_bytes(b"\xfc" * 9000 + b"\n" + line)
    assert progress(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(50), b"no picture", None])
def test_a_damaged_picture_is_left_out(store, content):
    file = store / "fam" / BAD / "frames.png"
    file.write_bytes(file.read_bytes()[:200] if content is None else content)
    update_index(store)
    assert BAD in (store / "index.html").read_text()


@pytest.mark.parametrize("command", ["run --dry-run", "check", "status", "compare fam"])
def test_a_damaged_run_does_not_end_a_command_on_the_files_of_others(tmp_path, monkeypatch, command):
    monkeypatch.chdir(make_project(tmp_path, {"fam": []}, {"fam/a": {}, "fam/b": {"seed": 7}}))
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    page = sweeps.Page(tmp_path / "fam" / "compare.html", None)
    monkeypatch.setattr(sweeps, "start_fork_server", lambda **_: None)
    monkeypatch.setattr(sweeps, "comparison_page", lambda *_, **__: page)
    monkeypatch.setattr(reports, "publish_index", lambda *names: None)
    first, second = plan([Path("params/fam/a.yaml"), Path("params/fam/b.yaml")], scale="tiny")
    first.run.folder.mkdir(parents=True)
    (first.run.folder / "run.yaml").write_text("{torn: ")
    name, *options = command.split()
    said = call(name, *options, "params/fam", "--scale", "tiny", code=1)
    assert f"seqae: left out: {first.run.folder / 'run.yaml'} is damaged (no YAML" in said
    assert (name == "compare") != (second.run.name in said)
    said = call(name, *options, "params/fam/a.yaml", "--scale", "tiny", code=2)  # nothing else is left
    assert said.startswith(f"seqae: {first.run.folder / 'run.yaml'} is damaged")
    with pytest.raises(RunError, match="is damaged"):
        plan([Path("params/fam")], scale="tiny")
