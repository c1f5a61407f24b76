"""Plan: which runs parameter files define, and whether and why each has to be executed (again)."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from seqae.files import expanded
from seqae.parameters import EXECUTION
from seqae.runs import (
    DECIDED_BY_CLIPS,
    Run,
    RunError,
    RunFolder,
    Shorter,
    cells_hash,
    family_notebook,
    finished_by_recipe,
    has_page,
    located_clips,
    merge,
    model_of_cells,
    modules_of_cells,
    open_run,
    opened_with,
    planned_from,
    progress,
    resolve,
    shorter_run,
    sources_hash,
    takes,
    unmeasured,
    unused,
    without_effect,
)
from seqae.stores import fetch, project_path, public_url, store_location, unpublished
from seqae.sweeps.parameter_files import files_below, place_of, read_yaml, scale_files

BUSY = "another process trains it"
NOT_PUBLISHED = "not all of it is in the store yet"
_hash = cache(cells_hash)  # all runs of a family have the same notebook


@dataclass(frozen=True)
class Planned:
    """A run that a parameter file defines, with all that a worker needs to execute it."""

    run: Run
    notebook: str  # the family's notebook as JSON text: workers on other machines have the package only
    given: Mapping[str, Any]  # the parameters that papermill injects
    folder: Path = Path()  # the notebook's own, on the machine that plans
    # Where runs are kept, as given: the mirror of a URL is in another folder on each machine. This and `edits` may hold
    # credentials, so the repr, which Dask logs with an error, is without them.
    store: str = field(default="", repr=False)
    edits: Mapping[str, Any] = field(default_factory=dict, repr=False)  # uncommitted, of the notebook's parameters cell
    sources: str = field(default_factory=sources_hash)  # of the command's code; a worker of other code refuses the run
    modules: Mapping[str, str] = field(default_factory=dict, repr=False)  # that the cells import: their texts, by path
    planned_from: Mapping[str, Any] = field(default_factory=dict)  # for run.yaml, see `runs.planned_from`
    shorter: Shorter | None = None  # of a new run: what it goes on from, or why it does not

    def reason_to_execute(self) -> str | None:
        """Why the run is not finished; None if it is done, its report up to date and its store has it.

        BUSY: another process trains it, so wait for that one. NOT_PUBLISHED: only its store lacks it. All other reasons
        mean that it has to be executed, or executed again.
        """
        match status := self.run.status:  # read once, because another process may change it
            case "interrupted":
                logged = progress(self.run.folder)
                return f"interrupted after epoch {logged[0]}" if logged else "interrupted"
            case "failed":
                return f"failed: {self.run.record().get('reason')}"
            case "done" if lacking := unmeasured(self.run):
                return f"lacks {', '.join(lacking)}"
            case "done" if not has_page(self.run.folder):
                return "has no report yet"
            case "done" if (cells := self.run.record().get("cells")) != self.cells:
                return "its notebook was edited" if cells else "its report is of an older version"
            case "done":
                return NOT_PUBLISHED if unpublished(self.run.folder) else None
        new = f"new, {self.shorter.told(self.run.parameters.epochs)}" if self.shorter else "new"
        return {"waiting": new, "running": BUSY}[status]

    @property
    def cells(self) -> str:
        """The hash of the notebook's cells. run.yaml records it with a report; other cells need a new report."""
        return _hash(self.notebook)


class _Once(NamedTuple):
    # What a plan reads once, however many runs it has: stores, notebooks, the modules these import, the command's code.
    folder_of: Callable[[str], Path]
    notebook_of: Callable[[Path], tuple[str, dict[str, Any], dict[str, Any]]]
    modules_of: Callable[[str, Path], Mapping[str, str]]
    sources: Callable[[], str]


def plan(
    files: Iterable[Path],
    *,
    scale: str | None = None,
    given: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    store: str | None = None,
    tell: Callable[[str], None] = lambda message: None,
    damaged: list[str] | None = None,
) -> list[Planned]:
    """The runs that parameter files define. Files, and combinations of a grid, that define the same run give one.

    files: parameter files, or folders: all parameter files below them. scale: a file, or a name: the files of that name
    in params/scale/ and in scale/ of each folder from params/ down to the file, of which later ones win. given: the
    command line's parameters, or several such, a grid: each file is planned with each. Layers are merged by
    `merging.merge`: notebook < scale < file < given. store: where runs are kept; by default what the parameters,
    $SEQAE_STORE or the files' project say. tell: called with a line for each family whose parameters cell has
    uncommitted edits that apply to a run, or whose notebook has a model in a cell, for a run with two labels, and where
    a grid gives the same run twice. damaged: gets what is wrong with each run whose folder is damaged; these are left
    out. Without it the first raises RunError.

    Raises ValueError with the faults of all files, among them parameters that a file gives and its run does not use;
    for a value of `given` that none of the runs uses; for several values of a parameter that does not define a run; or
    if scale or parameters are given without files. Raises StoreError if a remote store cannot be reached.
    """
    files, combinations = list(files), [given] if isinstance(given, Mapping) else [*given] or [{}]
    _check_grid(combinations)
    if not files and (scale or any(combinations)):
        raise ValueError("--scale and -p apply to parameter files: name some, such as params/losses")
    once = _Once(cache(fetch), cache(family_notebook), cache(modules_of_cells), cache(sources_hash))
    faults: dict[str, list[Path]] = {}
    planned: dict[Path, Planned] = {}
    runs: list[tuple[Mapping[str, Any], Run]] = []  # each with the combination that it was planned with
    for file, combination in product([file for named in files for file in files_below(named)], combinations):
        try:
            item = _planned(file, scale, combination, store, once)
            _add(planned, item, tell)
            runs.append((combination, item.run))
        except (ValueError, OSError) as error:
            if file not in (where := faults.setdefault(str(error), [])):
                where.append(file)
        except RunError as error:
            if damaged is None:
                raise
            damaged += {str(error)} - {*damaged}
    _raise(faults)
    _check_given(runs)
    if len(combinations) > 1 and len(runs) > len(planned):
        tell(f"seqae: {len(runs)} combinations of files and -p define {len(planned)} runs: some are the same run")
    for line in [*_edit_notes(planned.values()), *_model_notes(planned.values())]:
        tell(line)
    finished = cache(finished_by_recipe)
    return [_with_shorter(item, finished) for item in planned.values()]


def _raise(faults: Mapping[str, Sequence[Path]]) -> None:
    # faults: by message, the files that have it.
    if faults:
        more = {message: f" and {len(where) - 1} more" if len(where) > 1 else "" for message, where in faults.items()}
        lines = (f"{where[0]}{more[message]}: {message}" for message, where in faults.items())
        raise ValueError("\n".join(line.replace("\n", "\n  ") for line in lines))


def _add(planned: dict[Path, Planned], item: Planned, tell: Callable[[str], None]) -> None:
    # Of files that define the same run, the first that gives a label names it.
    first = planned.setdefault(item.run.folder, item)
    kept, label = first.run.parameters.label, item.run.parameters.label
    if kept is None and label is not None:
        planned[item.run.folder] = item
    elif label not in (kept, None):
        name = f"{item.run.family}/{item.run.name}"
        tell(f"seqae: {name} has the labels {kept!r} and {label!r} in two files: it gets the first")


def _check_grid(combinations: Sequence[Mapping[str, Any]]) -> None:
    # Of several values that define one run, all but the first would have no effect.
    for name in EXECUTION & combinations[0].keys():
        if any(other.get(name) != combinations[0][name] for other in combinations):
            raise ValueError(f"-p {name} has several values, but it does not say which run is meant: give one value")


def _check_given(runs: Sequence[tuple[Mapping[str, Any], Run]]) -> None:
    # A value of the command line has to have an effect on one of its runs. runs: each with what was given for it.
    whys: dict[tuple[str, str], dict[Path, str | None]] = defaultdict(dict)  # by value, for each run: why it is idle
    for given, run in runs:
        idle = without_effect(run.parameters, run.family, given, takes(run.parameters, run.code))
        for name, value in given.items():
            whys[name, repr(value)][run.folder] = idle.get(name)
    faults = []
    for of_runs in whys.values():
        if all(of_runs.values()):
            which = f", in the first of these {len(of_runs)} runs, and no other uses it" if len(of_runs) > 1 else ""
            faults.append(f"-p {next(iter(of_runs.values()))}{which}: leave it out")
    if faults:
        raise ValueError("\n".join(faults))


def _with_shorter(item: Planned, finished: Callable[[Path], Mapping[str, Sequence[RunFolder]]]) -> Planned:
    if item.run.status != "waiting":
        return item
    return replace(item, shorter=shorter_run(item.run, finished(item.run.folder.parent)))


def _edit_notes(planned: Iterable[Planned]) -> Iterable[str]:
    edited, reached = defaultdict[str, dict[str, Any]](dict), defaultdict[str, set[str]](set)
    for item in planned:
        p, family = item.run.parameters, item.run.family
        idle = unused(p, family)
        used = {k: v for k, v in item.edits.items() if k not in idle}
        edited[family] |= used
        reached[family] |= {k for k, v in used.items() if item.given.get(k) == v or getattr(p, k) == v}
    for family, edits in edited.items():
        told = {key: f"{key} {public_url(str(value))}" for key, value in edits.items()}
        if listed := ", ".join(text for key, text in told.items() if key in reached[family]):
            yield f"seqae: {family}.ipynb is edited; all runs whose scale or file sets no other value have: {listed}"
        if listed := ", ".join(text for key, text in told.items() if key not in reached[family]):
            yield f"seqae: {family}.ipynb is edited, but no run here has {listed}: scale, file or -p set another value"


def _model_notes(planned: Iterable[Planned]) -> Iterable[str]:
    notebooks = {item.run.family: item.notebook for item in planned}
    for family, notebook in notebooks.items():
        if model := model_of_cells(notebook):
            yield f"seqae: {opened_with(family, model)}"


def _planned(
    file: Path,
    scale: str | None,
    given: Mapping[str, Any],
    store: str | None,
    once: _Once,
) -> Planned:
    if file.is_dir():
        raise ValueError("no *.yaml or *.yml in this folder")
    place = place_of(file)
    root, family = place.root, place.path.parts[0]
    source = root / "notebooks" / f"{family}.ipynb"
    if not source.exists():
        known = {file.stem for file in source.parent.glob("*.ipynb")}
        other = min(known & {"own", "mine"} or known, default="own")
        how = f"copy one, such as {other}.ipynb, and write {family} for {other} in its cells"
        raise ValueError(f"family {family} has no notebook {source}: {how}")
    notebook, defaults, edits = once.notebook_of(source)
    own = read_yaml(file)
    merged = merge(edits, *map(read_yaml, scale_files(place, scale)), own, given, below=defaults)
    usual = (defaults | edits).get("store")
    where = store_location(store, merged.pop("store", None), usual, root=root)
    if defaults.get("store"):  # else the kernel reads $SEQAE_STORE
        merged["store"] = public_url(where)  # the executed notebook shows it
        notebook = notebook.replace(defaults["store"], public_url(defaults["store"]))
    run = open_run(family, defaults, merged | {"store": str(once.folder_of(where))}, project=root)
    merged |= {"code": run.parameters.code} if run.parameters.code else {}
    if folder := run.parameters.data_folder:  # on other machines `~` and variables are others, the project is not there
        located = folder if folder[0] in "~$" else str(project_path(folder, root))
        expanded(folder)  # raises ValueError where it cannot be
        merged["data_folder"] = located
        run = replace(run, parameters=run.parameters.model_copy(update={"data_folder": located}))
    if run.parameters.clips:  # a worker reads the same clips, or refuses others
        p = run.parameters
        paths = located_clips(p.model_dump(mode="json"), root)
        merged |= p.model_dump(mode="json", include=set(DECIDED_BY_CLIPS)) | paths
        run = replace(run, parameters=resolve(p.model_dump(), paths))
    stated = {name: value for name, value in own.items() if name not in given}
    if idle := without_effect(run.parameters, family, stated, takes(run.parameters, run.code)):
        raise ValueError("\n".join(f"{why}: leave it out" for why in idle.values()))
    modules = once.modules_of(notebook, source.parent)
    origin = planned_from(f"params/{place.path.as_posix()}", scale, given)
    return Planned(run, notebook, merged, source.parent, where, edits, once.sources(), modules, origin)
