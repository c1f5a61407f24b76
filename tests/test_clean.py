"""`seqae clean`: what takes space is told, and only what is named, known and in nobody's hands is removed."""

from pathlib import Path

import filelock
import pytest
import yaml
from test_cli import call
from typer.testing import CliRunner

from seqae.commands.main import app
from seqae.runs import cleaning, locks
from seqae.stores import MARK, UNPUBLISHED_MARK, mirror_folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A store with a run in every state, and a cache with something of every kind; locks are soon given up."""
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / "reports"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.05)
    for status in ("done", "failed", "running"):
        a_run(tmp_path / "reports" / "fam" / status, status)
    a_run(tmp_path / "reports" / "other" / "bad", "failed")
    a_run(tmp_path / "reports" / "fam" / "shown", "failed", results={"recon mse": 0.1})  # only its notebook failed
    a_run(tmp_path / "reports" / "fam" / "linked-to", "failed").rename(tmp_path / "elsewhere")
    (tmp_path / "reports" / "fam" / "linked").symlink_to(tmp_path / "elsewhere")
    a_run(tmp_path / "reports" / "fam" / "torn", "failed")
    (tmp_path / "reports" / "fam" / "torn" / "run.yaml").write_text("{torn: ")
    cache = tmp_path / "cache" / "seqae"
    for name in ("clips/k.raw", "clips/k.json", "train-images-idx3-ubyte.gz", "lstm-1a.so", "mine.txt", "clips/.k.raw"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(bytes(1_000_000))
    return tmp_path


def a_run(folder: Path, status: str, **entries: object) -> Path:
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "state.pt").write_bytes(bytes(2_500_000))
    record = {"family": folder.parent.name, "parameters": {}, "differs": {}, "status": status, **entries}
    (folder / "run.yaml").write_text(yaml.safe_dump(record | ({"results": {}} if status == "done" else {})))
    return folder


def left(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_without_a_name_sizes_are_told_and_nothing_is_removed(place):
    before = left(place)
    rows = [line.split("  ") for line in call("clean").splitlines()]
    told = {row[0]: [cell.strip() for cell in row if cell.strip()][1:3] for row in rows}
    assert told == {
        "what": ["number", "size"],
        "failed": ["2", "5.0 MB"],
        "checkpoints": ["1", "2.5 MB"],
        "mirrors": ["0", "0 MB"],
        "clips": ["1", "2.0 MB"],
        "digits": ["1", "1.0 MB"],
        "compiled": ["1", "1.0 MB"],
    }
    assert left(place) - before <= {"reports/.records.json", "reports/.records.lock"}  # of any look


def test_many_decoded_clips_are_one_row_of_what_is_removed(place):
    (place / "cache" / "seqae" / "clips" / "l.raw").write_bytes(b"0" * 3_000_000)
    rows = [line.split() for line in call("clean", "clips", "digits", "--yes").splitlines()]
    assert ["clips", "(2)", "5.0", "MB"] in rows
    assert not any(row[0].startswith("clips/") for row in rows)
    assert not [name for name in left(place) if "/clips/" in name and "/.k" not in name]


def test_what_is_named_is_removed_and_nothing_else(place):
    before = left(place)
    output = call("clean", "failed/fam", "checkpoints", "clips/k", "--yes")
    assert ["failed/fam/failed", "2.5", "MB"] in [line.split() for line in output.splitlines()]
    gone = before - left(place)
    assert {name.rpartition("/")[0] for name in gone} == {
        *("reports/fam/failed", "reports/fam/failed/checkpoint", "reports/fam/done/checkpoint", "cache/seqae/clips")
    }
    assert "cache/seqae/clips/.k.raw" in left(place), "it may be in the making"
    assert not (place / "reports" / "fam" / "failed").exists()
    assert "there is nothing of that to remove" in call("clean", "checkpoints", "--yes")


def test_the_index_forgets_what_is_removed(place):
    from seqae.reports import update_index

    update_index(place / "reports")
    assert "other/bad/run.yaml" in (place / "reports" / "index.html").read_text()
    call("clean", "failed", "--yes")
    page = (place / "reports" / "index.html").read_text()
    assert "other/bad/run.yaml" not in page
    assert "fam/done/run.yaml" in page


NO, NOBODY = "seqae: nothing is removed", "--yes removes without asking"


@pytest.mark.parametrize(("answer", "code", "told"), [("n\n", 1, NO), ("\n", 1, NO), ("", 2, NOBODY)])
def test_it_asks_first(place, answer, code, told):
    before = left(place)
    result = CliRunner().invoke(app, ["clean", "failed"], input=answer)
    assert (result.exit_code, told in result.output) == (code, True), result.output
    assert "remove these, 5.0 MB?" in result.output
    assert before <= left(place)
    assert CliRunner().invoke(app, ["clean", "failed"], input="y\n").exit_code == 0
    assert not (place / "reports" / "other" / "bad").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("failed/fam/running", "failed/fam/shown", "failed/fam/torn", "failed/fam/linked", "failed/fa"),
        *("fam", "running", "mine.txt", "clips/../mine", "../reports"),
    ],
)
def test_what_it_does_not_know_is_refused(place, name):
    before = left(place)
    assert f"there is no {name.strip('/')} to remove: name one of failed, " in call("clean", name, "--yes", code=2)
    assert before <= left(place)


@pytest.mark.parametrize("lock", [".lock", ".execution.lock"])
@pytest.mark.parametrize("what", ["failed", "checkpoints"])
def test_what_another_process_works_on_stays(place, what, lock):
    folder = place / "reports" / "fam" / {"failed": "failed", "checkpoints": "done"}[what]
    with filelock.FileLock(folder / lock):  # as another process
        told = call("clean", f"{what}/fam", "--yes", code=1)
    assert "another process works on it" in told
    assert (folder / "checkpoint" / "state.pt").exists()


def test_what_began_anew_after_it_was_listed_stays(place):
    found = cleaning.removables(place / "reports")
    folder = place / "reports" / "fam" / "failed"
    (folder / "run.yaml").write_text((folder / "run.yaml").read_text().replace("failed", "running"))
    (item,) = [item for item in found if item.name == "failed/fam/failed"]
    assert item.remove() == "it is running now"
    assert (folder / "checkpoint" / "state.pt").exists()


def test_a_mirror_is_emptied_but_for_what_only_it_has(place):
    url = "memory://clean/runs"
    mirror = mirror_folder(url)
    for name in ("one", "two", "three"):
        a_run(mirror / "fam" / name, "done")
    (mirror / "fam" / "compare.html").touch()
    (mirror / "fam" / "two" / UNPUBLISHED_MARK).touch()
    with filelock.FileLock(mirror / "fam" / "three" / ".publishing"):
        told = call("clean", f"mirrors/{mirror.name}", "--yes", code=1)
    assert "2 of its runs stay: in work, or not published yet" in told
    assert {path.name for path in (mirror / "fam").iterdir()} == {"two", "three"}
    (mirror / "fam" / "two" / UNPUBLISHED_MARK).unlink()
    call("clean", "mirrors", "--yes")
    assert left(mirror) == {MARK}, "who has one of its runs open still finds the store"
    assert "mirrors      0 " in call("clean")


def test_runs_of_a_store_at_a_url_are_left_to_its_own_tools(place):
    mirror_folder("memory://clean/runs")
    told = call("clean", "failed", "--yes", "--store", "memory://clean/runs", code=2)
    assert "that store is at a URL" in told
