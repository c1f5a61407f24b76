"""Files are replaced at once by any number of writers, and where runs are kept is decided in one place."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import pooch
import pytest
import torch
from safetensors.torch import save_file

from seqae.files import cache_folder, replace_text, whole
from seqae.runs.git import run_git
from seqae.runs.locks import remove_leftovers
from seqae.stores import public_url, store_folder, store_location


def test_several_threads_write_one_file_and_each_writes_a_whole_one(tmp_path):
    file, barrier = tmp_path / "run.yaml", Barrier(4)
    texts = [str(n) * 1000 for n in range(4)]

    def write(text):
        with whole(file) as temporary:
            temporary.write_text(text)
            barrier.wait()  # all temporary files are there at once
        return temporary

    with ThreadPoolExecutor(4) as pool:
        temporaries = {*pool.map(write, texts)}
    assert len(temporaries) == 4
    assert all(path.name.startswith(".run.yaml.") and path.suffix == ".yaml" for path in temporaries)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
    assert file.read_text() in texts


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path):
    replace_text(tmp_path / "a.csv", "old")
    with suppress(ValueError), whole(tmp_path / "a.csv") as temporary:
        temporary.write_text("half")
        raise ValueError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077])
def test_a_file_has_the_mode_that_the_umask_gives_whatever_writes_it(tmp_path, umask):
    def saved(file):
        save_file({"a": torch.zeros(2)}, file)

    def private(file):
        file.unlink(missing_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(umask)
    try:
        for number, write in enumerate([saved, private, lambda file: torch.save({"a": 1}, file), Path.touch]):
            for _ in range(2):  # the second replaces a file
                with whole(tmp_path / f"{number}.bin") as temporary:
                    write(temporary)
    finally:
        os.umask(before)
    assert [oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()] == [oct(0o666 & ~umask)] * 4


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    kept = {"state.pt", ".other.pt.1-2.pt", ".lock", "x.state.pt.1"}
    for name in (*kept, ".state.pt", ".state.pt.1-2.pt", ".state.pt.99"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "state.pt", tmp_path / "none" / "file")
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_the_store_is_the_first_given_else_the_environment_else_the_projects_reports(tmp_path, monkeypatch):
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert store_location() == str(tmp_path / "reports")
    assert store_location(None, "", root=tmp_path / "other") == str(tmp_path / "other" / "reports")
    monkeypatch.setenv("SEQAE_STORE", " ")
    assert store_location(" ") == str(tmp_path / "reports"), "no folder by the name of a blank"
    monkeypatch.setenv("SEQAE_STORE", "s3://bucket/runs")
    assert store_location(None) == "s3://bucket/runs"
    assert store_location(None, "first", "second") == str(tmp_path / "first")


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("s3://key:secret@bucket/runs", "s3://bucket/runs"),
        ("s3://AKIA:ab/c+d=@bucket/me@x", "s3://bucket/me@x"),
        ("https://token@host/runs", "https://host/runs"),
        ("http://host:8080/runs?token=ab/cd", "http://host:8080/runs"),
        ("https://u:se?c#ret@host/runs", "https://host/runs"),
        ("s3://bucket/runs#token=1", "s3://bucket/runs"),
        ("sftp://me:secret@host:22/home/me@work", "sftp://me@host:22/home/me@work"),
        ("sftp://me@firm.com:secret@host/runs", "sftp://me@firm.com@host/runs"),
        ("sftp://me:p@ss%40@host/runs", "sftp://me@host/runs"),
        ("sftp://:secret@host/runs", "sftp://@host/runs"),
        ("simplecache::ftp://me:secret@host/runs", "simplecache::ftp://me@host/runs"),
        *((same, same) for same in ("s3://bucket/runs#1", "ssh://me@host/runs", "sftp://host:22/home/me@work")),
        *((same, same) for same in ("abfs://box@name.dfs.core.windows.net/x", "/a:b@c/d?e=f", "C:/a@b", "reports")),
    ],
)
def test_a_url_is_shown_without_what_lets_others_in(url, public):
    assert public_url(url) == public
    assert public_url(public) == public


def test_the_cache_is_that_of_pooch_which_need_not_be_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "seqae"  # the same wherever a process works
    for value in (str(tmp_path), " ", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == pooch.os_cache("seqae")
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert store_folder("s3://bucket/runs").parent == (cache_folder() / "stores").resolve()


def test_git_that_is_missing_or_finds_nothing_is_an_exit_code(tmp_path, monkeypatch):
    assert run_git(tmp_path, "rev-parse", "HEAD").returncode == 128
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = run_git(tmp_path, "--version")
    assert missing.returncode == 127
    assert missing.stderr.startswith("git cannot be run: ")
