"""Merges the run folders of several machines into one store."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from seqae.runs.naming import known_as
from seqae.runs.records import RunError, read_record, run_status
from seqae.stores import (
    CHECKPOINT,
    MARK,
    UNPUBLISHED_MARK,
    RunState,
    StoreError,
    compare_run_states,
    fetch,
    is_passing,
    public_url,
    publish_run_folder,
    read_run_state,
    refresh,
    unpublished,
)

PROBLEMS = ("differs", "failed")  # the outcome of a run that could not be merged begins with one of these
OUTCOMES = {  # in words; by the result of `compare_run_states`, or `new`
    "new": "copied",
    "one": "further along in SRC: taken from there",
    "other": "further along in DST, which keeps its own",
    "same": "the same in both",
    "different": "differs under one hash: DST keeps its own; look at both, and delete one",
}


class Gathered(NamedTuple):
    """What became of one run. run: FAMILY/NAME in its source. outcome: one of `OUTCOMES`, or a problem in words."""

    run: str
    outcome: str
    source: str


def merge_stores(sources: Sequence[str], target: str) -> tuple[Path, list[Gathered]]:
    """Copy the runs of the stores `sources`, folders or URLs, into the store `target`. Returns its folder and a list.

    Of a run that both have, the copy that is further along is kept, whole. If both finished it with other results, or
    its parameters differ, the target keeps its own, and the outcome begins with one of `PROBLEMS`. Runs that are being
    trained are left alone. A run is copied beside the others and gets its name once it is whole. Raises ValueError for
    a source without runs, before anything is copied, and StoreError if a remote store cannot be reached.
    """
    if not sources:
        raise ValueError("gather takes one or more SRC, folders or URLs of runs, and then DST")
    found = {source: sorted(_folder(source).glob("*/*/run.yaml")) for source in sources}
    if empty := [source for source, files in found.items() if not files]:
        raise ValueError(
            f"{public_url(empty[0])} holds no run FAMILY/NAME-HASH: give the folder that families lie in, or its URL"
        )
    root = _folder(target)
    rows = []
    for run, source in [(file.parent, source) for source, files in found.items() for file in files]:
        name = known_as(run.name, root / run.parent.name)
        if (run.parent / name).exists():  # SRC has runs under both names, so DST may get both
            name = run.name
        renamed = "" if name == run.name else f", as {name}"
        outcome = _merge(run, root / run.parent.name / name) + renamed
        rows.append(Gathered(f"{run.parent.name}/{run.name}", outcome, public_url(source)))
    return root, rows


def _folder(place: str) -> Path:
    # A relative path is relative to the working directory, not to the project: a shell completes it like that.
    return fetch(place) if "://" in place else Path(place).expanduser().resolve()


def _merge(source: Path, target: Path) -> str:
    try:
        for side, folder in (("SRC", source), ("DST", target)):
            if run_status(folder, read_record(folder)) == "running":
                return f"is being trained in {side}: left alone"
        further = compare_run_states(_state(source), _state(target)) if (target / "run.yaml").exists() else "new"
        if further in ("one", "new"):
            refresh(source.parent.parent, f"{source.parent.name}/{source.name}", whole=True)
            _copy(source, target)
        if unpublished(target):
            publish_run_folder(target)
    except (RunError, StoreError, ValueError, OSError) as error:
        return f"failed: {error}"
    return OUTCOMES[further]


def _state(folder: Path) -> RunState:
    if read_record(folder).get("status") != "done":  # then its checkpoint matters, too
        refresh(folder.parent.parent, f"{folder.parent.name}/{folder.name}", whole=True)
    return read_run_state(folder.joinpath, resumable=(folder / CHECKPOINT).exists())


def _copy(source: Path, target: Path) -> None:
    store = target.parent.parent
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=store, prefix=".gather-") as aside:
        new, old = Path(aside, "new", target.name), Path(aside, "old", target.name)  # too deep to be found as runs
        shutil.copytree(source, new, ignore=lambda _, names: {*filter(is_passing, names)})
        if (store / MARK).exists():
            (new / UNPUBLISHED_MARK).touch()
        old.parent.mkdir()
        if target.exists():
            target.rename(old)
        new.rename(target)
