"""Run folders of several machines merged into one store."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from seqae.runs.naming import known_as
from seqae.runs.records import RunError, read_record, run_status
from seqae.stores import (
    CHECKPOINT,
    MARK,
    UNPUBLISHED,
    Record,
    StoreError,
    compare_records,
    fetch,
    is_passing,
    publish_run_folder,
    record_of,
    refresh,
    unpublished,
)

PROBLEMS = ("differs", "failed")  # begin what is told of a run that could not be merged
WHAT = {
    "new": "copied",
    "one": "further along in SRC: taken from there",
    "other": "further along in DST, which keeps its own",
    "same": "the same in both",
    "different": "differs under one hash: DST keeps its own; look at both, and delete one",
}


def merge_stores(sources: Sequence[str], target: str) -> tuple[Path, list[tuple[str, str, str]]]:
    """Copy the runs of the stores `sources`, folders or URLs, into the store `target`; the folder of that one, and of
    each run its name, what became of it, and where it is from.

    Of a run that both have the one that is further is kept, whole. Where both finished it with other results, or its
    parameters differ, the target keeps its own, and what is told begins with one of `PROBLEMS`. What is being trained
    is left alone. A run is copied beside the others and takes its name when it is whole. Raises ValueError for a source
    that holds no run, before anything is copied, and StoreError where a store elsewhere cannot be reached.
    """
    if not sources:
        raise ValueError("gather takes one or more SRC, folders or URLs of runs, and then DST")
    found = {source: sorted(_folder(source).glob("*/*/run.yaml")) for source in sources}
    if empty := [source for source, files in found.items() if not files]:
        raise ValueError(f"{empty[0]} holds no run FAMILY/NAME-HASH: give the folder that families lie in, or its URL")
    root = _folder(target)
    rows = []
    for run, source in [(file.parent, source) for source, files in found.items() for file in files]:
        name = known_as(run.name, root / run.parent.name)
        if (run.parent / name).exists():  # SRC itself has it under both names, and DST may have them, too
            name = run.name
        renamed = "" if name == run.name else f", as {name}"
        rows.append((f"{run.parent.name}/{run.name}", _merge(run, root / run.parent.name / name) + renamed, source))
    return root, rows


def _folder(place: str) -> Path:
    return fetch(place) if "://" in place else Path(place).expanduser().resolve()  # as a shell completes it


def _merge(source: Path, target: Path) -> str:
    try:
        for side, folder in (("SRC", source), ("DST", target)):
            if run_status(folder, read_record(folder)) == "running":
                return f"is being trained in {side}: left alone"
        further = compare_records(_record(source), _record(target)) if (target / "run.yaml").exists() else "new"
        if further in ("one", "new"):
            refresh(source.parent.parent, f"{source.parent.name}/{source.name}", whole=True)
            _copy(source, target)
        if unpublished(target):
            publish_run_folder(target)
    except (RunError, StoreError, ValueError, OSError) as error:
        return f"failed: {error}"
    return WHAT[further]


def _record(folder: Path) -> Record:
    if read_record(folder).get("status") != "done":  # how far it is tells its checkpoint, too
        refresh(folder.parent.parent, f"{folder.parent.name}/{folder.name}", whole=True)
    return record_of(folder.joinpath, resumable=(folder / CHECKPOINT).exists())


def _copy(source: Path, target: Path) -> None:
    store = target.parent.parent
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=store, prefix=".gather-") as aside:
        new, old = Path(aside, "new", target.name), Path(aside, "old", target.name)  # deeper than runs lie
        shutil.copytree(source, new, ignore=lambda _, names: {*filter(is_passing, names)})
        if (store / MARK).exists():
            (new / UNPUBLISHED).touch()
        old.parent.mkdir()
        if target.exists():
            target.rename(old)
        new.rename(target)
