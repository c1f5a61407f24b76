"""Remote stores: a real S3 server on loopback, machines that die, and two that want the same run."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

import fsspec
import matplotlib
import pandas as pd
import psutil
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import ONE_THREAD
from test_cli import call
from test_sweep import DEFAULTS, SEQAE, TINY, TRAIN, after_epoch, make_project, values

from seqae import find_runs, open_run
from seqae.commands.terminal import SweepView
from seqae.runs import assignment
from seqae.runs.run import Run
from seqae.stores import BusyError, leases, mirror, public_url, states, store_folder, transfer
from seqae.stores.location import without_credentials
from seqae.stores.transfer import StoreError
from seqae.sweeps import execution, planning

QUICK = {"PUBLISH_SECONDS": 0.3, "BEAT_SECONDS": 0.5, "LEASE_SECONDS": 8.0, "SETTLE_SECONDS": 1.0}


@pytest.fixture(scope="module")
def server():
    """An S3 server with an empty bucket; yields the environment variable by which fsspec finds it."""
    from moto.server import ThreadedMotoServer  # what that imports takes a second

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    found = {"endpoint_url": f"http://{address}:{port}", "key": "any", "secret": "any"}
    fsspec.filesystem("s3", **found).mkdir("bucket")
    yield {"FSSPEC_S3": json.dumps(found)}
    server.stop()


@pytest.fixture
def s3(server, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", json.loads(server["FSSPEC_S3"]))
    return fsspec.filesystem("s3")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes this process a machine of the given name, with a cache of its own."""
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # else it lists all fonts again

    def become(name: str) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return tmp_path / name

    become("a")
    return become


@pytest.fixture(autouse=True)
def numbers_for_checkpoints(monkeypatch):
    """The checkpoints that `live` writes are a number, the updates that were made."""
    read = states._updates

    def updates(checkpoint):
        with checkpoint() as file:
            text = file.read(9)
        return int(text) if text.isdigit() else read(checkpoint)

    monkeypatch.setattr(states, "_updates", updates)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in QUICK.items():
        monkeypatch.setattr(mirror if name == "PUBLISH_SECONDS" else leases, name, seconds)
    fsspec.filesystem("memory").store.clear()


def contents(fs, run: str) -> dict[str, str]:
    return {name.removeprefix(f"{run}/"): fs.cat_file(name).decode(errors="replace") for name in fs.find(run)}


def test_a_new_label_of_a_finished_run_is_published(machine):
    given = TINY | {"store": "memory://runs"}
    name = open_run("fam", DEFAULTS, given).train().name
    open_run("fam", DEFAULTS, given | {"label": "the best"}).train()
    machine("b")
    (seen,) = find_runs("memory://runs")
    assert (seen.name, seen.parameters.label) == (name, "the best")


def test_the_model_of_a_run_that_was_only_looked_at_is_fetched_when_it_is_used(machine):
    trained = open_run("fam", DEFAULTS, TINY | {"store": "memory://runs"}).train()
    machine("b")
    (seen,) = find_runs("memory://runs")
    assert not (seen.folder / "model.safetensors").exists()
    frames = trained.samples()["frames"][:, :10]
    assert (seen.reconstruct(frames) == trained.reconstruct(frames)).all()
    assert seen.folder != trained.folder


def test_a_run_that_a_sweep_assigned_is_published_by_its_worker_alone(machine, monkeypatch):
    given, fs = TINY | {"store": "memory://runs"}, fsspec.filesystem("memory")
    monkeypatch.setattr(assignment, "_current", assignment.Assignment(open_run("fam", DEFAULTS, given).name))
    run = open_run("fam", DEFAULTS, given)
    with mirror.working(run.folder):  # as the worker does; it holds the lease
        assert run.train().status == "done"
        assert run.train().status == "done"
    assert f"/runs/fam/{run.name}/test.csv" in fs.find("/runs")
    fs.store.clear()
    replace(run, parameters=run.parameters.model_copy(update={"label": "another"})).train()
    assert fs.find("/runs") == []


# --- where the mirror is ---


def test_a_url_has_a_mirror_in_the_cache_and_a_folder_has_none(machine, tmp_path):
    urls = ("s3://bucket/runs", "s3://bucket/runs/", "s3://bucket/other", "gs://bucket/runs")
    folders = {store_folder(url) for url in urls}
    assert len(folders) == 3
    assert len({store_folder(f"s3://bucket/runs{part}") for part in ("", "#1", "#2")}) == 3
    assert {folder.parent for folder in folders} == {tmp_path / "a" / "seqae" / "stores"}
    assert "secret" not in str(store_folder("ssh://me:secret@host/runs"))
    repositories = ("github://org:one@main/runs", "github://org:two@main/runs", "github://org:two@next/runs")
    assert len({store_folder(url) for url in repositories}) == 3
    assert mirror.fetch(str(tmp_path / "plain")) == tmp_path / "plain"
    with mirror.working(tmp_path / "plain" / "fam" / "run"):
        pass
    assert not (tmp_path / "plain").exists()


# --- what is published, wherever it breaks off ---


SECRET = "hush/4+hush"
WITH_SECRETS = [
    f"memory://me:{SECRET}@runs", f"memory://runs?token={SECRET}", "memory://me:hush%2F4+hush@runs",
    "memory://runs/x;token=hush+hush",
]  # fmt: skip


def holding(folder: Path, *words: str) -> set[str]:
    """Files whose name or content has one of the words."""
    files = {file: file.read_bytes() if file.is_file() else b"" for file in folder.rglob("*")}
    return {file.name for file, content in files.items() for w in words if w in file.name or w.encode() in content}


@pytest.mark.parametrize("url", WITH_SECRETS)
def test_credentials_in_a_url_reach_the_store_and_no_file(machine, tmp_path, url, monkeypatch):
    run = open_run("fam", DEFAULTS, TINY | {"store": url}).train()
    assert holding(tmp_path, "hush") == set()
    assert "hush" not in f"{run!r} {run.parameters!r} {run._repr_html_()}"
    machine("b")
    (seen,) = find_runs(url)
    assert seen.status == "done"
    mirror._given.clear()  # another process, which finds the credentials in its environment
    monkeypatch.setenv("SEQAE_STORE", url)
    assert mirror._url(seen.folder.parents[1]) == url
    mirror.mirror_folder(mirror._mark(seen.folder.parents[1]))  # a cell gave it without them
    assert mirror._url(seen.folder.parents[1]) == url
    monkeypatch.setenv("SEQAE_STORE", "memory://other")
    assert "hush" not in mirror._url(seen.folder.parents[1])


@pytest.mark.parametrize(
    "url",
    [
        f"memory://me:{SECRET}@runs", f"http://127.0.0.1:1/runs?token={SECRET}", f"http://me:{SECRET}@127.0.0.1:1/runs",
        f"http://127.0.0.1:1/runs#{SECRET}", f"http://127.0.0.1:1/runs;token={SECRET}",
        f"none://me:{SECRET}@host/runs", f"s3://AKIAhush:{SECRET}@bucket/runs", f"ftp://me:{SECRET}@127.0.0.1:1/runs",
    ],
)  # fmt: skip
def test_credentials_in_a_url_are_in_no_message(machine, monkeypatch, url):
    def broken(fs, path):
        raise ConnectionError(f"{url}: no route to {path}, {SECRET}, {quote(SECRET)}")

    monkeypatch.setattr(mirror, "listing", broken)
    for act in (lambda: find_runs(url), lambda: mirror.working(mirror.mirror_folder(url) / "fam" / "run").__enter__()):
        with pytest.raises(StoreError) as caught:
            act()
        assert "hush" not in "".join(traceback.format_exception(caught.value)).replace(__file__, "")
    output = call("status", "--store", url, code=2) + call("gather", url, "here", code=2)
    assert "hush" not in output
    assert "127.0.0.1" in output or "runs" in output


@pytest.mark.parametrize(("url", "shown"), [
    ("HTTPS://hush@host/x", "HTTPS://host/x"), ("S3://hush:hush@bucket/x", "S3://bucket/x"),
    ("oss://hush:hush@bucket/x", "oss://bucket/x"), ("filecache::https://hush@host/x", "filecache::https://host/x"),
    ("zip://a::ftp://me:hush@host/x.zip", "zip://a::ftp://me@host/x.zip"), ("https://me:hu?sh@host/x", "https://host/x"),
    ("sftp://me@host:22/x", "sftp://me@host:22/x"), ("github://org:repo@main/x", "github://org:repo@main/x"),
    ("https://host/x#hush", "https://host/x"), ("https://host/x;token=hush/a=b", "https://host/x"),
    ("https://host/x#a=hush", "https://host/x"), ("s3://bucket/a;b/c", "s3://bucket/a;b/c"),
    ("https://host/x;sid=hush#hush?hush", "https://host/x"), ("https://host/a;b;c=hush/d", "https://host/a;b"),
    ("abfs://c@account.dfs.core.windows.net/x?sig=hush", "abfs://c@account.dfs.core.windows.net/x"),
])  # fmt: skip
def test_a_url_is_shown_without_its_credentials_and_is_still_that_place(url, shown):
    assert public_url(url) == shown


def test_a_url_that_lacks_a_slash_is_no_folder(machine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for store in ("s3:/bucket/runs", "sftp:/me:hush@host/x", r"s3:\\me:hush@host\x"):
        with pytest.raises(ValueError, match=r"^\w+:[/\\]… lacks a slash: a URL has \w+://") as caught:
            open_run("fam", DEFAULTS, TINY | {"store": store})
        assert "hush" not in str(caught.value)
    assert store_folder("./s3:/runs") == tmp_path / "s3:" / "runs"


@pytest.mark.parametrize("url", ["ftp://me:pa$hush@host/x", "ftp://me:pa${hush}@host/$hush", "$HIDDEN"])
def test_a_password_with_a_dollar_in_it_is_in_no_message(machine, monkeypatch, url):
    monkeypatch.setenv("HIDDEN", "ftp://me:pa$hush@host/x")
    said = call("gather", "here", url, code=2) + call("gather", url, "here", code=2)
    if "://" in url:
        said += call("status", "--store", url, code=2)
        monkeypatch.setenv("SEQAE_STORE", url)
        with pytest.raises(ValueError, match="goes into fsspec's configuration") as caught:
            store_folder()
        said += "".join(traceback.format_exception(caught.value)).replace(__file__, "")
    assert "pa$" not in said
    assert "hush" not in said.replace("host/$hush", "")  # of a path it is no secret


def test_credentials_with_a_line_end_in_them_are_in_no_message_either():
    url = "s3://me:hu\nsh4hush@bucket/x"
    for told in ("hu\nsh4hush", "hu sh4hush", r"hu\nsh4hush"):
        assert "sh4hush" not in without_credentials(f'Invalid bucket name "me:{told}@bucket"', url)


def test_credentials_that_a_store_says_by_itself_are_in_no_message(machine):
    """The path in the store has them where it is not fsspec but the bucket's name that the user's part becomes."""
    url = f"memory://me:{SECRET}@runs"
    folder = mirror.mirror_folder(url) / "fam" / "run"
    work = mirror.working(folder)
    work.__enter__()
    live(folder, 5)
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    with pytest.raises(StoreError, match=r"another machine took .*runs/fam/run over") as caught:
        work.__exit__(None, None, None)
    assert "hush" not in str(caught.value)


def test_a_mirror_that_was_named_by_its_credentials_is_taken_over(machine, tmp_path):
    url = f"memory://me:{SECRET}@runs"
    older = tmp_path / "a" / "seqae" / "stores" / "runs-0123abcd"
    (older / "fam").mkdir(parents=True)
    (older / mirror.MARK).write_text(url)
    folder = mirror.mirror_folder(url)
    assert (folder / "fam").exists()
    assert not older.exists()
    assert holding(tmp_path, "hush") == set()


def test_credentials_are_in_no_line_of_gather_and_status(machine, tmp_path):
    url, empty = f"memory://me:{SECRET}@runs", f"memory://me:{SECRET}@nothing"
    open_run("fam", DEFAULTS, TINY | {"store": url}).train()
    said = call("gather", url, str(tmp_path / "all")), call("gather", empty, str(tmp_path / "all"), code=2)
    assert "memory://me@runs" in said[0]
    assert "memory://me@nothing holds no run" in said[1]
    said += call("status", "--store", url), call("status", "--store", empty)
    assert "there is no run in memory://me@nothing" in said[3]
    assert "hush" not in "".join(said)


def test_credentials_are_in_no_notebook_and_no_line_of_a_plan(machine, tmp_path, monkeypatch):
    url, other = f"memory://me:{SECRET}@runs", "memory://you:hush-hush@others"
    project, told = make_project(tmp_path / "project", {"fam": []}, {"fam/a": {}}), []
    file = project / "notebooks" / "fam.ipynb"
    file.write_text(file.read_text().replace("width = 0.01", f"width = 0.01\\nstore = '{url}'"))
    for store in (None, other):
        (item,) = planning.plan([project / "params" / "fam"], scale="tiny", store=store, tell=told.append)
        assert item.store == (store or url)
        assert "hush" not in f"{item!r} {item.notebook} {item.given}"
        assert store_folder(item.given["store"]) == store_folder(item.store)
        assert execution._store_of(item) == (store or url)  # its kernel's: other runs that a notebook opens need them
    monkeypatch.setattr(
        planning, "family_notebook", lambda file: ('{"cells": []}', DEFAULTS, {"store": other, "epochs": 2})
    )
    (item,) = planning.plan([project / "params" / "fam"], tell=told.append)
    assert item.store == other
    assert "hush" not in f"{item!r} {told}"


def write(folder: Path, name: str, text: str) -> None:
    # As runs write their files: replaced at once, or appended to.
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if name == "metrics.csv":
        with (folder / name).open("a") as file:
            file.write(text)
        return
    (folder / f"{name}.tmp").write_text(text)
    (folder / f"{name}.tmp").replace(folder / name)


def life(folder: Path, epochs: int = 4):
    """Write what a trainer writes, in its order, one step at a time. A checkpoint holds its epoch."""
    (folder / "metrics.csv").unlink(missing_ok=True)
    write(folder, "metrics.csv", "epoch,seconds,value\n")
    write(folder, "run.yaml", yaml.safe_dump({"parameters": {"seed": 1}, "status": "running"}))
    yield
    for epoch in range(1, epochs + 1):
        write(folder, "metrics.csv", f"{epoch},{time.time()},0.5\n")
        yield
        write(folder, "checkpoint/state.pt", str(epoch))
        yield
    write(folder, "test.csv", "mse,1\n")
    yield
    write(folder, "model.safetensors", "weights" * 9)
    yield
    write(folder, "run.yaml", yaml.safe_dump({"parameters": {"seed": 1}, "status": "done", "results": {}}))
    yield
    (folder / "checkpoint" / "state.pt").unlink()
    (folder / "checkpoint").rmdir()
    yield


DONE = len([*range(1 + 2 * 4 + 4)])  # steps of a whole life


def live(folder: Path, steps: int) -> None:
    for _, _ in zip(range(steps), life(folder), strict=False):
        pass


def lease_of(fs, run: str) -> str:
    fs.pipe_file(f"{run}/.lease-x", b"")
    return f"{run}/.lease-x"


def check_true(files: dict[str, str]) -> None:
    """Another machine can resume the run that a store holds, and its status is true."""
    if (checkpoint := files.get("checkpoint/state.pt")) is not None:
        logged = [int(line.split(",")[0]) for line in files["metrics.csv"].splitlines()[1:]]
        assert logged[: int(checkpoint)] == list(range(1, int(checkpoint) + 1))
        assert "run.yaml" in files
    if "status: done" in files.get("run.yaml", ""):
        assert {"test.csv", "model.safetensors"} <= files.keys()
    assert [name for name in files if name.endswith(".tmp") or name[0] == "."] == [".lease-x"]


def refuse(*paths):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 60), st.booleans())
def test_what_is_in_the_store_is_true_at_every_instant(tmp_path_factory, steps, breaks_off, links):
    """The trainer writes between any two files that are sent. Sending breaks off anywhere, with hard links or not."""
    folder, fs, run = tmp_path_factory.mktemp("run"), fsspec.filesystem("memory"), "/runs/fam/run"
    fs.store.clear()
    mine, trainer, todo, sent, put = lease_of(fs, run), life(folder), iter(steps), 0, transfer.put

    def advance() -> None:
        for _ in range(next(todo, 0)):
            next(trainer, None)

    def slow(fs, file, path):
        nonlocal sent
        advance()
        if (sent := sent + 1) == breaks_off:
            raise ConnectionError
        put(fs, file, path)
        check_true(contents(fs, run))
        advance()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transfer, "put", slow)
        if not links:
            patched.setattr("os.link", refuse)
        for _ in steps:
            advance()
            with suppress(ConnectionError):
                transfer.publish_run(fs, run, folder, mine)
            check_true(contents(fs, run))
    for _ in trainer:
        pass
    transfer.publish_run(fs, run, folder, mine)
    here = {name: (folder / name).read_text() for name in ("run.yaml", "metrics.csv", "test.csv", "model.safetensors")}
    assert contents(fs, run) == here | {".lease-x": ""}


@pytest.mark.parametrize("links", [True, False])
def test_only_what_changed_is_sent_again(tmp_path, monkeypatch, links):
    fs, put, sent = fsspec.filesystem("memory"), transfer.put, []
    if not links:
        monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr(transfer, "put", lambda fs, file, path: (sent.append(Path(path).name), put(fs, file, path)))
    live(tmp_path, 5)
    for name in ("model.tmp", ".lock", ".notebook.ipynb.1", "tracker/.cache/x"):  # another process is writing these
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    mine = lease_of(fs, "/runs/fam/run")
    transfer.publish_run(fs, "/runs/fam/run", tmp_path, mine)
    assert sent == ["metrics.csv", "run.yaml", "state.pt"]
    transfer.publish_run(fs, "/runs/fam/run", tmp_path, mine)
    write(tmp_path, "metrics.csv", "3,0,0.5\n")
    write(tmp_path, "checkpoint/state.pt", "3")
    transfer.publish_run(fs, "/runs/fam/run", tmp_path, mine)
    assert sent[3:] == ["metrics.csv", "state.pt"]


def test_what_a_publisher_that_died_left_behind_is_no_harm(tmp_path):
    fs = fsspec.filesystem("memory")
    live(tmp_path, 5)
    write(tmp_path, ".publish/checkpoint/state.pt", "1")
    transfer.publish_run(fs, "/runs/fam/run", tmp_path, lease_of(fs, "/runs/fam/run"))
    assert contents(fs, "/runs/fam/run")["checkpoint/state.pt"] == "2"


# --- what is fetched ---


def published(machine, name: str, steps: int, store: str = "memory://runs") -> Path:
    machine(name)
    folder = mirror.mirror_folder(store) / "fam" / "run"
    with mirror.working(folder):
        live(folder, steps)
    return folder


def test_another_machine_gets_a_run_whole_and_goes_on(machine):
    first = published(machine, "a", 7)
    machine("b")
    folder = mirror.fetch("memory://runs") / "fam" / "run"
    assert {file.name for file in folder.iterdir() if file.name[0] != "."} == {"run.yaml", "metrics.csv"}
    with mirror.working(folder):
        assert (folder / "checkpoint" / "state.pt").read_text() == "3"
        assert (folder / "metrics.csv").read_bytes() == (first / "metrics.csv").read_bytes()


def test_who_only_looked_at_a_run_is_not_further_than_its_checkpoint(machine):
    """Logs are cut back when a run resumes, so a machine that fetched only the logs has nothing to resume from."""
    folder = published(machine, "a", 9)
    machine("b")
    seen = mirror.fetch("memory://runs") / "fam" / "run"
    machine("a")
    with mirror.working(folder):
        live(folder, 7)
    machine("b")
    with mirror.working(seen):
        assert (seen / "checkpoint" / "state.pt").read_text() == "3"


@pytest.mark.parametrize(
    ("there", "here", "kept"), [(9, 5, "there"), (5, 9, "here"), (DONE, 5, "there"), (5, DONE, "here")]
)
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_further_is_never_replaced(machine, there, here, kept, whole):
    published(machine, "a", there)
    machine("b")
    folder = mirror.mirror_folder("memory://runs") / "fam" / "run"
    live(folder, here)
    os.utime(folder / "metrics.csv", (0, 0))  # how old it is does not matter
    before = (folder / "metrics.csv").read_text()
    mirror.fetch("memory://runs", whole=whole)
    assert ((folder / "metrics.csv").read_text() == before) == (kept == "here")
    steps = {"here": here, "there": there}[kept]
    assert yaml.safe_load((folder / "run.yaml").read_text())["status"] == ("done" if steps == DONE else "running")
    if steps < DONE and (whole or kept == "here"):
        assert (folder / "checkpoint" / "state.pt").read_text() == str((steps - 1) // 2)
    else:  # no checkpoint that is older than the logs
        assert not (folder / "checkpoint").exists()


def test_finished_in_both_with_other_results_neither_is_replaced(machine):
    there = published(machine, "a", DONE)
    machine("b")
    folder = mirror.mirror_folder("memory://runs") / "fam" / "run"
    live(folder, DONE)
    (folder / "test.csv").write_text("mse,2\n")
    mirror.fetch("memory://runs", whole=True)
    with pytest.raises(StoreError, match="other results"), mirror.working(folder):
        pass
    assert (folder / "test.csv").read_text() == "mse,2\n"
    assert contents(fsspec.filesystem("memory"), "/runs/fam/run")["test.csv"] == (there / "test.csv").read_text()


def test_finished_in_both_with_the_same_results_is_no_conflict(machine):
    published(machine, "a", DONE)
    machine("b")
    folder = mirror.mirror_folder("memory://runs") / "fam" / "run"
    live(folder, DONE)  # with other times
    with mirror.working(folder):
        pass


def test_a_fetch_that_breaks_off_is_done_again(machine, monkeypatch):
    published(machine, "a", 9)
    machine("b")
    fs, left = fsspec.filesystem("memory"), iter(range(3))
    get = type(fs).get_file
    live(mirror.mirror_folder("memory://runs") / "fam" / "run", 3)

    def breaking(self, *paths):
        if next(left, None) == 2:
            raise ConnectionError("gone")
        get(self, *paths)

    monkeypatch.setattr(type(fs), "get_file", breaking)
    with pytest.raises(StoreError, match="memory://runs cannot be reached: gone; nothing is lost"):
        mirror.fetch("memory://runs", whole=True)
    folder = mirror.fetch("memory://runs", whole=True) / "fam" / "run"
    assert (folder / "checkpoint" / "state.pt").read_text() == "4"


def test_one_family_or_run_is_fetched_alone(machine):
    fs, runs = fsspec.filesystem("memory"), {"f/one-1", "f/one-1-2", "f/two-2", "g/one-1"}
    for name in runs:
        fs.pipe_file(f"/runs/{name}/run.yaml", b"parameters: {}")
    fs.pipe_file("/runs/f/compare.html", b"page")
    fs.pipe_file("/runs/index.html", b"page")

    def fetched(name: str, under: str) -> set[str]:
        machine(name)
        root = mirror.fetch("memory://runs", under)
        files = [file.relative_to(root).as_posix() for file in root.rglob("[!.]*") if file.is_file()]
        return {name.removesuffix("/run.yaml") for name in files}

    assert fetched("a", "f/one-1") == {"f/one-1", "f/one-1-2"}
    assert fetched("b", "g") == {"g/one-1"}
    assert fetched("c", "") == runs | {"f/compare.html"}


ESCAPES = ["f/r/../../../../out", "f/../../out", "f/r//{}/out", "/out/out", "f/r/./../../../../out", "../../out"]


@pytest.mark.parametrize("key", ESCAPES)
@pytest.mark.parametrize("whole", [True, False])
def test_a_key_that_leads_out_of_the_mirror_is_left_out_and_named(machine, tmp_path, key, whole):
    fs, key = fsspec.filesystem("memory"), f"/runs/{key.format(tmp_path)}/run.yaml"
    fs.pipe_file("/runs/f/r/run.yaml", b"parameters: {}")
    fs.store[key] = type(fs.store["/runs/f/r/run.yaml"])(fs, key, b"parameters: {}")
    before = {file for file in tmp_path.rglob("*") if "seqae" not in file.parts}
    with pytest.warns(UserWarning, match=r"left out of .*run\.yaml' is no path in a folder; rename or remove it"):
        root = mirror.fetch("memory://runs", whole=whole)
    assert {file for file in tmp_path.rglob("*") if "seqae" not in file.parts} - before <= {tmp_path / "a"}
    assert [file.relative_to(root).as_posix() for file in root.rglob("run.yaml")] == ["f/r/run.yaml"]


def test_what_marks_a_folder_and_what_is_hidden_is_no_run(machine):
    fs = fsspec.filesystem("memory")
    for name in ("f/r/run.yaml", ".seqae-store/r/run.yaml", "f/.publishing/run.yaml"):
        fs.pipe_file(f"/runs/{name}", b"parameters: {}")
    fs.store["/runs/f/"] = type(fs.store["/runs/f/r/run.yaml"])(fs, "/runs/f/", b"")
    root = mirror.fetch("memory://runs", whole=True)
    assert [file.relative_to(root).as_posix() for file in root.rglob("run.yaml")] == ["f/r/run.yaml"]
    assert (root / mirror.MARK).read_text() == "memory://runs"


# --- leases ---


def test_of_many_that_want_a_run_at_once_exactly_one_gets_it(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    fs, barrier = fsspec.filesystem("memory"), threading.Barrier(4)
    holding, most, reasons, over = set(), [], [], threading.Event()

    def want(name: str) -> None:
        barrier.wait()
        try:
            with leases.lease(fs, "/runs/fam/run", tmp_path / name):
                holding.add(name)
                most.append(len(holding))
                over.wait(20)
                holding.remove(name)
        except StoreError as error:
            reasons.append(str(error))
            if len(reasons) == 3:
                over.set()

    threads = [threading.Thread(target=want, args=(f"token{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(reasons) == 3
    assert all(f"(process {os.getpid()}) trains it" in reason for reason in reasons)
    assert fs.find("/runs") == []


def test_the_lease_of_a_machine_that_died_is_waited_out(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/runs/fam/run/.lease-0", json.dumps({"machine": "dead", "pid": 1, "holds": True}).encode())
    with leases.lease(fs, "/runs/fam/run", tmp_path / "token") as mine:
        assert fs.find("/runs") == [mine]


def listing_without(fs, monkeypatch, times: int) -> None:
    """Have another machine remove each lease between its writing and its listing, so many times."""
    listed, left = fs.ls, iter(range(times))

    def ls(path, **options):
        if next(left, None) is not None:
            fs.rm_file(fs.find("/runs")[0])
        return listed(path, **options)

    monkeypatch.setattr(fs, "ls", ls)


def test_a_machine_whose_lease_expired_before_it_looked_writes_it_again(tmp_path, monkeypatch):
    fs = fsspec.filesystem("memory")
    listing_without(fs, monkeypatch, leases.WRITES - 1)
    with leases.lease(fs, "/runs/fam/run", tmp_path / "token") as mine:
        assert fs.find("/runs") == [mine]


def test_a_store_that_does_not_list_what_was_written_is_told(tmp_path, monkeypatch):
    fs = fsspec.filesystem("memory")
    listing_without(fs, monkeypatch, leases.WRITES)
    with pytest.raises(StoreError, match="does not list what was just written"):
        leases.lease(fs, "/runs/fam/run", tmp_path / "token").__enter__()


@pytest.mark.parametrize("content", [b"{}", b"[]", b"3", b"null", b'{"holds": true}', b"[" * 10**5, b"\xff", b""])
def test_a_lease_of_another_version_is_somebodys(content):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/runs/fam/x/.lease-a", content)
    assert leases._holder(fs, "/runs/fam/x/.lease-a") in (None, "another machine")


def test_of_two_at_the_same_instant_the_second_by_name_gives_way_at_once(tmp_path, monkeypatch):
    fs, slept = fsspec.filesystem("memory"), []
    (tmp_path / "token").write_text("b")
    fs.pipe_file("/runs/fam/run/.lease-a", json.dumps({"machine": "a", "pid": 1, "holds": False}).encode())

    def sleep(seconds):
        slept.append((seconds, fs.find("/runs")))
        fs.rm_file("/runs/fam/run/.lease-a")

    monkeypatch.setattr(leases.time, "sleep", sleep)
    with leases.lease(fs, "/runs/fam/run", tmp_path / "token"):
        assert slept == [(1.2 * leases.BEAT_SECONDS, ["/runs/fam/run/.lease-a"])]


def test_what_died_here_does_not_keep_this_machine_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "_holder", None)  # nobody asks who holds the lease
    monkeypatch.setattr(leases.time, "sleep", None)
    fs = fsspec.filesystem("memory")
    (tmp_path / "token").write_text("ours")
    fs.pipe_file("/runs/fam/run/.lease-ours", json.dumps({"machine": "here", "pid": 1, "holds": True}).encode())
    with leases.lease(fs, "/runs/fam/run", tmp_path / "token"):
        pass


def test_who_lost_the_lease_publishes_no_more_and_keeps_what_it_has(machine):
    fs = fsspec.filesystem("memory")
    folder = mirror.mirror_folder("memory://runs") / "fam" / "run"
    work = mirror.working(folder)
    work.__enter__()
    live(folder, 5)
    (lease,) = (name for name in fs.find("/runs") if ".lease-" in name)
    fs.rm_file(lease)  # as another machine does when the lease has expired
    live(folder, 7)
    time.sleep(3 * leases.BEAT_SECONDS)  # it does not write a new lease either
    assert not [name for name in fs.find("/runs") if ".lease-" in name]
    with pytest.raises(StoreError, match="another machine took"):
        work.__exit__(None, None, None)
    assert mirror.unpublished(folder)
    assert (folder / "checkpoint" / "state.pt").read_text() == "3"
    with mirror.working(folder):
        pass
    assert contents(fs, "/runs/fam/run")["checkpoint/state.pt"] == "3"
    assert not mirror.unpublished(folder)


def test_who_sleeps_while_it_publishes_overwrites_nothing_of_who_took_the_run_over(tmp_path, monkeypatch):
    fs, run, put = fsspec.filesystem("memory"), "/runs/fam/run", transfer.put
    live(tmp_path, 5)
    (tmp_path / "report.html").write_text("of this machine")
    mine = lease_of(fs, run)

    def sleeps(fs, file, path):
        put(fs, file, path)
        fs.rm_file(mine)  # the other machine found it expired
        fs.pipe({f"{run}/{name}": b"theirs" for name in ("run.yaml", "checkpoint/state.pt", "report.html")})

    monkeypatch.setattr(transfer, "put", sleeps)
    with pytest.raises(StoreError, match="another machine took /runs/fam/run over"):
        transfer.publish_run(fs, run, tmp_path, mine)
    now = contents(fs, run)
    assert {now[name] for name in ("run.yaml", "checkpoint/state.pt", "report.html")} == {"theirs"}


def test_who_sleeps_before_it_removes_a_report_leaves_the_one_of_who_took_the_run_over(tmp_path, monkeypatch):
    fs, run, listing = fsspec.filesystem("memory"), "/runs/fam/run", transfer.listing
    live(tmp_path, 5)
    (tmp_path / "report.html").write_text("old")
    transfer.publish_run(fs, run, tmp_path, mine := lease_of(fs, run))
    (tmp_path / "report.html").unlink()
    monkeypatch.setattr(transfer, "listing", lambda fs, run: (listing(fs, run), fs.rm_file(mine))[0])
    with pytest.raises(StoreError, match="another machine took /runs/fam/run over"):
        transfer.publish_run(fs, run, tmp_path, mine)
    assert "report.html" in contents(fs, run)


def test_a_finished_run_is_shown_while_another_process_publishes_it(machine):
    run = open_run("fam", DEFAULTS, TINY | {"store": "memory://runs"}).train()
    (run.folder / mirror.UNPUBLISHED_MARK).touch()
    with mirror.mirror_lock(run.folder):
        assert run.train().status == "done"
    assert mirror.unpublished(run.folder)
    run.train()
    assert not mirror.unpublished(run.folder)


def test_one_process_of_a_machine_works_on_a_run_and_nothing_is_fetched_under_it(machine):
    folder = published(machine, "a", 5)
    published(machine, "b", 9)  # goes on
    machine("a")
    with mirror.mirror_lock(folder):  # as another process
        with pytest.raises(BusyError, match="another process here trains it"), mirror.working(folder):
            pass
        before = (folder / "metrics.csv").read_bytes()
        mirror.fetch("memory://runs")
        assert (folder / "metrics.csv").read_bytes() == before
    mirror.fetch("memory://runs")
    assert (folder / "metrics.csv").read_bytes() != before


def test_another_machine_sees_that_a_run_is_trained(machine):
    folder = mirror.mirror_folder("memory://runs") / "fam" / "run"
    with mirror.working(folder):
        live(folder, 5)
        mirror.fetch("memory://runs")
        assert not mirror.leased_elsewhere(folder)  # this machine holds the lease itself
        machine("b")
        other = mirror.fetch("memory://runs") / "fam" / "run"
        assert mirror.leased_elsewhere(other)
    mirror.fetch("memory://runs")
    assert not mirror.leased_elsewhere(other)


def test_what_died_here_is_not_running(machine):
    fs = fsspec.filesystem("memory")
    folder = published(machine, "a", 5)
    fs.pipe_file(f"/runs/fam/run/.lease-{(folder / '.token').read_text()}", b"")
    mirror.fetch("memory://runs")
    assert not mirror.leased_elsewhere(folder)


# --- errors ---


def test_a_store_that_cannot_be_written_ends_with_a_reason_and_is_published_later(machine, monkeypatch):
    fs = fsspec.filesystem("memory")
    folder = mirror.mirror_folder("memory://runs") / "fam" / "run"

    def broken(fs, file, path):
        raise ConnectionError("no route")

    with monkeypatch.context() as patched:
        patched.setattr(transfer, "put", broken)
        patched.setattr(mirror.time, "sleep", lambda seconds: None)
        with pytest.raises(StoreError, match="no route; nothing is lost"), mirror.working(folder):
            live(folder, DONE)
    assert mirror.unpublished(folder)
    assert fs.find("/runs") == []
    with mirror.working(folder):
        pass
    assert "status: done" in contents(fs, "/runs/fam/run")["run.yaml"]


NO_BUCKET = "s3://no-such-bucket/runs cannot be reached: The specified bucket does not exist"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        pytest.param("s3://no-such-bucket/runs", NO_BUCKET, marks=pytest.mark.soak),
        ("gs://bucket/runs", "gs://bucket/runs: Please install gcsfs to access Google Storage; pip install gcsfs"),
        ("nonsense://x", "nonsense://x cannot be reached: Protocol not known: nonsense"),
    ],
)
@pytest.mark.processes  # `compare` prepares a kernel before it looks for the store
def test_a_store_that_is_not_there_is_one_line_and_exit_code_2(machine, request, tmp_path, monkeypatch, place, message):
    if place.startswith("s3:"):
        request.getfixturevalue("s3")
    monkeypatch.chdir(make_project(tmp_path, {"fam": []}, {"fam/a": {}, "fam/b": {"seed": 1}}))
    for command in ("run params/fam", "run params/fam --dry-run", "status", "status params/fam", "compare fam"):
        output = call(*command.split(), "--store", place, code=2)
        assert output.startswith(f"seqae: {message}")
        assert len(output.splitlines()) == 1


# --- on disks and SSH servers ---


def test_on_a_disk_nothing_is_seen_before_it_is_whole(machine, tmp_path, monkeypatch):
    fs, seen, store = fsspec.filesystem("file"), [], f"file://{tmp_path}/store"
    put = type(fs).put_file
    monkeypatch.setattr(type(fs), "put_file", lambda self, a, b: (seen.append(Path(b).name), put(self, a, b))[1])
    published(machine, "a", DONE, store)
    assert {".run.yaml.tmp", ".test.csv.tmp", ".model.safetensors.tmp", ".metrics.csv.tmp"} <= {*seen}
    assert all(name.startswith(".") and name.endswith(".tmp") for name in seen)
    names = {file.name for file in (tmp_path / "store" / "fam" / "run").rglob("*") if file.is_file()}
    assert names == {"run.yaml", "test.csv", "model.safetensors", "metrics.csv"}
    machine("b")
    folder = mirror.fetch(store, whole=True) / "fam" / "run"
    assert (folder / "model.safetensors").read_text() == "weights" * 9


SFTP_SERVER = """
import asyncio, asyncssh, functools, sys
class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False  # no password
async def serve(key):
    root = functools.partial(asyncssh.SFTPServer, chroot=sys.argv[1])
    server = await asyncssh.listen("127.0.0.1", 0, server_factory=Server, server_host_keys=[key], sftp_factory=root)
    print(server.get_port(), key.export_public_key().decode().strip(), flush=True)
    await asyncio.Event().wait()
asyncio.run(serve(asyncssh.generate_private_key("ssh-ed25519")))
"""


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """The URL of a store on an SFTP server whose root is tmp_path."""
    with subprocess.Popen([sys.executable, "-c", SFTP_SERVER, tmp_path], stdout=subprocess.PIPE, text=True) as server:
        port, key = server.stdout.readline().strip().split(" ", 1)
        import asyncssh  # here: no other test needs it

        known = asyncssh.import_known_hosts(f"[127.0.0.1]:{port} {key}")
        monkeypatch.setitem(fsspec.config.conf, "ssh", {"known_hosts": known, "client_keys": None})
        yield f"ssh://me@127.0.0.1:{port}/store"
        server.kill()


@pytest.mark.soak
def test_on_an_ssh_server_it_is_the_same(machine, ssh, tmp_path):
    first = published(machine, "a", 7, ssh)
    names = {file.name for file in (tmp_path / "store" / "fam" / "run").rglob("*") if file.is_file()}
    assert names == {"run.yaml", "metrics.csv", "state.pt"}
    machine("b")
    folder = mirror.fetch(ssh) / "fam" / "run"
    with mirror.working(folder):
        assert (folder / "checkpoint" / "state.pt").read_text() == "3"
        assert (folder / "metrics.csv").read_bytes() == (first / "metrics.csv").read_bytes()


# --- runs ---


def test_a_run_opened_in_jupyter_on_another_machine_is_there(machine, monkeypatch):
    given = TINY | {"store": "memory://runs"}
    run = open_run("fam", DEFAULTS, given).train()
    machine("b")
    monkeypatch.setattr("seqae.runs.experiment.train_model", None)
    other = open_run("fam", DEFAULTS, given)
    assert other.folder != run.folder
    assert other.train().status == "done"
    assert (other.verdict, other.facts()) == (run.verdict, run.facts())
    pd.testing.assert_frame_equal(values(other), values(run))
    assert other.model().state_dict().keys() == run.model().state_dict().keys()
    assert "test.csv" in contents(fsspec.filesystem("memory"), f"/runs/fam/{run.name}")


def test_what_jupyter_could_not_publish_it_publishes_when_the_notebook_runs_again(machine, monkeypatch):
    given = TINY | {"store": "memory://runs"}
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "put", None)
        patched.setattr(mirror.time, "sleep", lambda seconds: None)
        with pytest.raises(StoreError, match="nothing is lost"):
            open_run("fam", DEFAULTS, given).train()
    monkeypatch.setattr("seqae.runs.experiment.train_model", None)
    run = open_run("fam", DEFAULTS, given).train()
    assert run.status == "done"
    assert {"run.yaml", "test.csv"} <= contents(fsspec.filesystem("memory"), f"/runs/fam/{run.name}").keys()


@pytest.mark.processes
def test_a_worker_on_another_machine_has_a_mirror_of_its_own(machine, tmp_path):
    project = make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}})
    (item,) = planning.plan([project / "params" / "fam"], scale="tiny", store="memory://runs")
    machine("b")
    outcome = execution.execute(item)
    assert outcome.reason is None
    assert outcome.run == item.run
    assert not item.run.folder.exists()
    assert Run.load(store_folder("memory://runs") / "fam" / item.run.name).status == "done"
    files = contents(fsspec.filesystem("memory"), f"/runs/fam/{item.run.name}")
    assert {"run.yaml", "report.html", "model.safetensors"} <= files.keys()
    assert str(tmp_path) not in files["notebook.ipynb"]
    executed = files["notebook.ipynb"]
    assert execution.execute(item).reason is None  # it is done, so it is not executed again
    assert contents(fsspec.filesystem("memory"), f"/runs/fam/{item.run.name}")["notebook.ipynb"] == executed
    machine("a")
    mirror.fetch("memory://runs")
    assert item.reason_to_execute() is None


WAITS = """
import time
deadline = time.monotonic() + 60
while not Path({go!r}).exists() and time.monotonic() < deadline:
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    stops, waits = after_epoch(3, "time.sleep(600)", once=root / "marker"), WAITS.format(go=str(root / "go"))
    where = {name: "mirror" if name == "PUBLISH_SECONDS" else "leases" for name in QUICK}
    constants = "\n".join(f"{where[name]}.{name} = {seconds}" for name, seconds in QUICK.items())
    (root / "site").mkdir()  # every process of a sweep imports it
    (root / "site" / "sitecustomize.py").write_text(f"from seqae.stores import BusyError, leases, mirror\n{constants}")
    return make_project(root, {"fam": [ONE_THREAD, stops, TRAIN.format("fam"), waits]}, {"fam/a": {"epochs": 5}})


@pytest.fixture(scope="module")
def of_three(project, server, tmp_path_factory):
    """A machine dies during a run, then two others want to resume it.

    What the first left in the store; what each other said (stderr, stdout), its exit code and cache: last that which
    waited for the other.
    """
    paths = os.pathsep.join([str(project / "site"), str(Path(mirror.__file__).parents[2])])
    environment = os.environ | server | {"SEQAE_STORE": "s3://bucket/three", "PYTHONPATH": paths}
    environment["PYTHONUNBUFFERED"] = "1"
    caches = [tmp_path_factory.mktemp(name) for name in ("first", "second", "third")]
    start = partial(
        subprocess.Popen,
        [*SEQAE, "run", "params/fam", "--scale", "tiny"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first, *others = (partial(start, env=environment | {"XDG_CACHE_HOME": str(cache)}) for cache in caches)
    fs = fsspec.filesystem("s3", **json.loads(server["FSSPEC_S3"]))
    with first() as dying:
        # Until it sleeps after epoch 3, which it does only once: another machine would sleep in its place.
        while not ((found := fs.glob("bucket/three/fam/*/checkpoint/state.pt")) and (project / "marker").exists()):
            assert dying.poll() is None, dying.communicate()
            fs.invalidate_cache()
            time.sleep(0.2)
        for process in [*psutil.Process(dying.pid).children(recursive=True), dying]:
            process.send_signal(signal.SIGKILL)
    left = contents(fs, found[0].removesuffix("/checkpoint/state.pt"))
    told = [cache / "told" for cache in caches[1:]]
    running = []
    for other, file in zip(others, told, strict=True):
        with file.open("w") as stream:
            running.append(other(stdout=stream))
    while not any("waiting for that one" in file.read_text() for file in told):
        assert None in [process.poll() for process in running], [file.read_text() for file in told]
        time.sleep(0.2)
    (project / "go").touch()
    ends = [
        ((process.communicate()[1], file.read_text()), process.returncode, cache)
        for process, file, cache in zip(running, told, caches[1:], strict=True)
    ]
    return left, *sorted(ends, key=lambda end: "waiting for that one" in end[0][1])


@pytest.mark.soak
def test_a_machine_that_dies_leaves_its_checkpoint(of_three):
    left, *_ = of_three
    assert yaml.safe_load(left["run.yaml"])["status"] == "running"
    assert "\n1,2," in left["metrics.csv"]


@pytest.mark.soak
def test_exactly_one_of_two_machines_goes_on_with_a_run_and_the_other_waits(of_three, s3):
    _, (one, code, cache), (other, other_code, other_cache) = of_three
    assert (code, other_code) == (0, 0), "\n".join([*one, "the other:", *other])  # whole, unlike a tuple
    assert "waiting for that one" in other[1], "and so may the one have waited, for the machine that died"
    assert "1 of 1 runs done" in one[1]
    assert "1 of 1 runs done" in other[1]
    assert "Traceback" not in one[0] + other[0]
    executed, fetched = (next(folder.rglob("notebook.ipynb")) for folder in (cache, other_cache))
    assert fetched.read_bytes() == executed.read_bytes()  # the other only fetched what was made


@pytest.mark.soak
def test_it_ends_as_an_unbroken_run_and_all_of_it_is_in_the_store(of_three, s3, tmp_path):
    (file,) = s3.glob("bucket/three/fam/*/run.yaml")
    unbroken = open_run("fam", DEFAULTS, TINY | {"epochs": 5, "store": str(tmp_path)}).train()
    s3.get(file.removesuffix("/run.yaml"), str(tmp_path / "gotten"), recursive=True)
    run = Run.load(tmp_path / "gotten")
    assert run.status == "done"
    assert len(run.record()["resumed"]) == 1
    pd.testing.assert_frame_equal(values(run), values(unbroken))
    for name in ("test.csv", "baselines.csv"):
        assert (run.folder / name).read_bytes() == (unbroken.folder / name).read_bytes()
    ours, theirs = (each.model().state_dict() for each in (run, unbroken))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    names = {file.relative_to(run.folder).as_posix() for file in run.folder.rglob("*")}
    assert names - {file.name for file in unbroken.folder.iterdir()} == {"notebook.ipynb", "report.html"}
    assert f"fam/{unbroken.name}/report.html" in s3.cat_file("bucket/three/index.html").decode()


@pytest.mark.soak
def test_other_commands_work_on_what_is_there(of_three, s3, project, monkeypatch, machine):
    *_, (_, _, cache) = of_three
    monkeypatch.chdir(project)
    monkeypatch.setenv("SEQAE_STORE", "s3://bucket/three")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))  # of the machine that waited
    assert "1 of 1 runs done" in call("run", "params/fam", "--scale", "tiny")
    machine("new")
    assert " done " in call("status")
    assert "valid, done" in call("check", "params/fam/a.yaml", "--scale", "tiny")
    (file,) = s3.glob("bucket/three/fam/*/run.yaml")
    machine("newer")  # the runs, and the model, are there; the notebooks of pages come with the package
    assert call("compare", "fam").strip().endswith("/fam/compare.html")
    assert call("demo", "/".join(file.split("/")[2:4])).strip().endswith("/demo.html")


def test_a_sweeps_bars_follow_what_workers_elsewhere_publish(machine):
    machine("b")
    run = open_run("fam", DEFAULTS, {"store": "memory://runs"})
    view = SweepView(1, done=0, stores={run.folder.parents[1]})
    for epoch in (1, 2):
        machine("a")
        folder = mirror.mirror_folder("memory://runs") / "fam" / run.name
        with mirror.working(folder):
            record = {"family": "fam", "parameters": {}, "differs": {}, "status": "running"}
            write(folder, "run.yaml", yaml.safe_dump(record))
            head = "epoch,step,seconds,split,branch,metric,value\n" if epoch == 1 else ""
            write(folder, "metrics.csv", f"{head}{epoch},{epoch},1.0,val,all,objective,0.5\n")
        machine("b")
        view.next_refresh = 0.0
        view.tick([run])
        assert view.bar.tasks[-1].completed == epoch
