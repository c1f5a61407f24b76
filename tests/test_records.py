"""The cache of records and of what an index computes from them is never out of date and never needed."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from seqae.commands.terminal import status_rows
from seqae.runs import records
from seqae.runs.finding import find_runs
from seqae.runs.records import finished, notes, read_record, remembered


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Three finished runs, which this process has not read yet."""
    for name in ("a", "b", "c"):
        write(tmp_path / "family" / name, status="done", verdict=f"verdict of {name}", results={"pred mse": 0.25})
    monkeypatch.setattr(records, "_known", {})
    return tmp_path


def write(folder: Path, **record: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(yaml.safe_dump({"family": "family", "parameters": {}, "differs": {}} | record))


@pytest.fixture
def parsed(monkeypatch):
    """The texts that were parsed."""
    texts, load = [], records.parse_record
    monkeypatch.setattr(records, "parse_record", lambda text: texts.append(text) or load(text))
    return texts


def another_process(monkeypatch):
    monkeypatch.setattr(records, "_known", {})


def test_what_one_process_has_read_another_does_not_parse(store, parsed, monkeypatch):
    before = status_rows([str(store)])
    assert len(parsed) == 3
    another_process(monkeypatch)
    assert status_rows([str(store)]) == before
    assert len(parsed) == 3


def test_a_file_that_has_not_changed_for_seconds_is_read_once(store, monkeypatch):
    read, file = [], records.regular_text
    monkeypatch.setattr(records, "regular_text", lambda path: read.append(path) or file(path))
    folder = store / "family" / "a"
    for _ in range(3):
        assert read_record(folder)["verdict"] == "verdict of a"
    assert len(read) == 3, "it has just been written: another text may follow at the same time, of the same size"
    monkeypatch.setattr(records, "SETTLED_NS", 0)
    for _ in range(3):
        read_record(folder)["verdict"] = "a caller's own"
    assert read_record(folder)["verdict"] == "verdict of a"
    assert len(read) == 4
    write(folder, status="done", verdict="verdict of x")
    assert read_record(folder)["verdict"] == "verdict of x"


def test_a_record_that_changed_is_read_anew_whoever_changed_it(store, parsed, monkeypatch):
    status_rows([str(store)])
    another_process(monkeypatch)
    write(store / "family" / "b", status="failed", reason="it broke")
    assert [row[1] for row in status_rows([str(store)])] == ["done", "failed: it broke", "done"]
    assert len(parsed) == 4
    write(store / "family" / "b", status="done", verdict="mended")
    assert [row[2] for row in status_rows([str(store)])] == ["verdict of a", "mended", "verdict of c"]


def test_what_was_worked_out_from_a_record_goes_with_it(store, monkeypatch):
    folder = store / "family" / "a"
    with remembered(store):
        read_record(folder)
        notes(folder)["answer"] = 42
    another_process(monkeypatch)
    with remembered(store):
        read_record(folder)
        assert notes(folder) == {"answer": 42}
        write(folder, status="done", verdict="another")
        read_record(folder)
        assert notes(folder) == {}
    assert notes(store / "family" / "none") == {}


def test_a_caller_may_change_what_it_was_given(store):
    folder = store / "family" / "a"
    for _ in range(2):  # the first is parsed, the second comes from the cache
        record = read_record(folder)
        record["status"], record["results"]["pred mse"] = "changed", 0.0
    assert read_record(folder)["results"] == {"pred mse": 0.25}
    assert status_rows([str(store)])[0][1:4] == ["done", "verdict of a", "pred 0.2500"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '{"1": [1]}', '{"0": {}}', '{"1": {"family/a": ["x"]}}', "\x00"]
)
def test_a_file_that_holds_something_else_is_in_nobodys_way(store, text):
    (store / ".records.json").write_text(text)
    assert [row[1] for row in status_rows([str(store)])] == ["done"] * 3
    kept = json.loads((store / ".records.json").read_text())
    assert list(*kept.values()) == ["family/a", "family/b", "family/c"]


def test_a_store_that_cannot_be_written_is_read(store, monkeypatch):
    (store / ".records.json").mkdir()
    assert [row[1] for row in status_rows([str(store)])] == ["done"] * 3


def test_what_is_gone_is_forgotten(store):
    status_rows([str(store)])
    (store / "family" / "b" / "run.yaml").unlink()
    (store / "family" / "b").rmdir()
    write(store / "family" / "d", status="done")
    status_rows([str(store)])
    kept = json.loads((store / ".records.json").read_text())
    assert list(*kept.values()) == ["family/a", "family/c", "family/d"]


def test_a_record_that_json_cannot_hold_is_shown_all_the_same(store):
    (store / "family" / "a" / "run.yaml").write_text("family: family\nstatus: done\nwhen: 2026-11-27 10:00:00\n")
    assert [row[1] for row in status_rows([str(store)])] == ["done"] * 3


def test_the_others_are_kept_all_the_same(store):
    test_a_record_that_json_cannot_hold_is_shown_all_the_same(store)
    kept = json.loads((store / ".records.json").read_text())
    assert list(*kept.values()) == ["family/b", "family/c"]


def test_what_has_not_changed_is_not_written_again(store, monkeypatch):
    status_rows([str(store)])
    shutil.rmtree(store / "family" / "b")
    write(store / "family" / "d", status="done")
    status_rows([str(store)])
    mine = dict(records._known)
    write(store / "family" / "a", status="failed")
    another_process(monkeypatch)
    status_rows([str(store)])
    before = (store / ".records.json").stat().st_mtime_ns
    monkeypatch.setattr(records, "_known", mine)  # as in a process that read an older version of it
    for _ in range(3):
        assert status_rows([str(store)])[0][1] == "failed: None"
    assert (store / ".records.json").stat().st_mtime_ns == before


def test_it_is_one_store_whatever_it_is_called(store, parsed, monkeypatch):
    (link := store.with_name("link")).symlink_to(store)
    monkeypatch.chdir(store.parent)
    for called in (link, Path(store.name)):
        with remembered(called) as root:
            assert root == store
        find_runs(called)
    assert len(parsed) == 3


def test_threads_may_read_while_others_look(store):
    folders = [store / "family" / f"run-{number}" for number in range(2000)]
    for folder in folders:
        write(folder, status="done")

    def read():
        for folder in folders:
            read_record(folder)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        while not reading.done():
            with remembered(store):
                pass
        reading.result()


def test_damaged_and_unfinished_runs_are_not_finished(store):
    write(store / "family" / "d", status="failed")
    (store / "family" / "e").mkdir()
    (store / "family" / "e" / "run.yaml").write_text("{")
    assert finished(store / "family") == {"a", "b", "c"}
    assert finished(store / "none") == set()
