"""What parameter files define: runs to execute, and why each has to be."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from seqae.files import project_root
from seqae.parameters import LOSS_FIELDS, merge, read_yaml
from seqae.runs import Run, cells_hash, family_notebook, open_run, progress
from seqae.stores import fetch, unpublished

BUSY = "another process trains it"
UNPUBLISHED = "not all of it is in the store yet"
_hash = cache(cells_hash)  # all runs of a family have one


@dataclass(frozen=True)
class Planned:
    """A run that a parameter file defines, and all that a worker needs to execute it."""

    run: Run
    notebook: str  # JSON text: a worker elsewhere needs the package alone
    given: Mapping[str, Any]
    store: str = ""  # where its runs are, as given: the folder of a URL's mirror is another on each machine
    edits: Mapping[str, Any] = field(default_factory=dict)  # of the notebook's own cell, not committed

    def why(self) -> str | None:
        """Why it has to be executed; None when it is done and has its report."""
        report = self.run.folder / "report.html"
        match status := self.run.status:  # read once: it may change meanwhile
            case "interrupted":
                logged = progress(self.run.folder)
                return f"interrupted after epoch {logged[0]}" if logged else "interrupted"
            case "failed":
                return f"failed: {self.run.record().get('reason')}"
            case "done" if not report.exists():
                return "has no report yet"
            case "done" if (cells := self.run.record().get("cells")) != self.cells:
                return "its notebook was edited" if cells else "its report is of an older version"
            case "done":
                return UNPUBLISHED if unpublished(self.run.folder) else None
        return {"waiting": "new", "running": BUSY}[status]

    @property
    def cells(self) -> str:
        """What run.yaml says of the notebook when a report is made of it: one of other cells is made again."""
        return _hash(self.notebook)


def plan(
    files: Iterable[Path],
    *,
    scale: str | None = None,
    given: Mapping[str, Any] | None = None,
    store: str | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> list[Planned]:
    """The runs that parameter files, or all below folders, define; two files that define the same run count once.

    scale: a name in params/scale (and in scale/ of the folders below it, which win), or a file. given: what the
    command line says. Later ones win: notebook < scale < file < given, key by key, as `config.merge` has it. store:
    where runs are kept, else what the parameters, $SEQAE_STORE or the files' project say. tell: called with a line for
    each family whose notebook's parameters are edited, if that reaches a run. Raises ValueError with the faults of all
    files at once, and for a scale or parameters of no files, StoreError where a store elsewhere cannot be reached.
    """
    files = list(files)
    if not files and (scale or given):
        raise ValueError("--scale and -p are for parameter files: name some, as params/losses")
    folder_of, notebook_of = cache(fetch), cache(family_notebook)  # once for all that are in it
    faults: dict[str, list[Path]] = {}
    planned: dict[Path, Planned] = {}
    for named in files:
        for file in _parameter_files(named):
            try:
                item = _planned(file, scale, given or {}, store, folder_of, notebook_of)
                planned.setdefault(item.run.folder, item)
            except (ValueError, OSError) as error:
                faults.setdefault(str(error), []).append(file)
    if faults:
        more = {message: f" and {len(where) - 1} more" if len(where) > 1 else "" for message, where in faults.items()}
        lines = (f"{where[0]}{more[message]}: {message}" for message, where in faults.items())
        raise ValueError("\n".join(line.replace("\n", "\n  ") for line in lines))
    for line in _told_edits(planned.values()):
        tell(line)
    return list(planned.values())


def _told_edits(planned: Iterable[Planned]) -> Iterable[str]:
    reached: dict[str, dict[str, Any]] = {}
    for item in planned:
        p = item.run.parameters
        edits = {k: v for k, v in item.edits.items() if item.given.get(k) == v or getattr(p, k) == v}
        reached.setdefault(item.run.family, {}).update(edits)
    for family, edits in reached.items():
        if edits:
            told = ", ".join(f"{key} {value}" for key, value in edits.items())
            yield f"seqae: {family}.ipynb is edited, for all runs whose scale or file does not say otherwise: {told}"


def _parameter_files(named: Path) -> list[Path]:
    if not named.is_dir():
        return [named]
    return [file for file in sorted(named.rglob("*.yaml")) if file.parent.name != "scale"] or [named]


def _scale_files(file: Path, scale: str | None, root: Path) -> list[Path]:
    # params/scale/NAME.yaml, and over it those beside the file: a family of large frames has a quick scale of its own.
    if scale is None:
        return []
    if scale.endswith(".yaml"):
        return [Path(scale)]
    params = root / "params"
    folders = [folder for folder in file.resolve().parents if folder == params or params in folder.parents]
    found = [path for folder in folders[::-1] if (path := folder / "scale" / f"{scale}.yaml").exists()]
    return found or [params / "scale" / f"{scale}.yaml"]


def _planned(
    file: Path,
    scale: str | None,
    given: Mapping[str, Any],
    store: str | None,
    folder_of: Callable[[str], Path],
    notebook_of: Callable[[Path], tuple[str, dict[str, Any], dict[str, Any]]],
) -> Planned:
    if file.is_dir():
        raise ValueError("no *.yaml in this folder")
    root = project_root(file.parent)
    try:
        family = file.resolve().relative_to(root / "params").parts[:-1][0]
    except (ValueError, IndexError):
        raise ValueError("must lie in params/FAMILY/ of a project that has notebooks/FAMILY.ipynb") from None
    source = root / "notebooks" / f"{family}.ipynb"
    if not source.exists():
        raise ValueError(f"family {family} has no notebook {source}")
    notebook, defaults, edits = notebook_of(source)
    layers = [edits, *map(read_yaml, _scale_files(file, scale, root)), read_yaml(file), given]
    merged = {key: value for layer in layers for key, value in layer.items()}
    if "loss" in merged and not merged.keys().isdisjoint(LOSS_FIELDS):  # a layer changes one of what another's loss is
        merged = merge(*layers)
    usual = (defaults | edits).get("store")
    stores = (store, merged.pop("store", None), usual, os.environ.get("SEQAE_STORE"), root / "reports")
    where = str(next(place for place in stores if place))
    if defaults.get("store"):  # the kernel has it from $SEQAE_STORE, unless its own cell says another
        merged["store"] = where
    run = open_run(family, defaults, merged | {"store": str(folder_of(where))})
    return Planned(run, notebook, merged, where, edits)
