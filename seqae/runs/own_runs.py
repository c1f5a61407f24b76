"""What a run of your own code needs beyond its parameters: the code, its hash among the parameters, its record."""

import ast
import sys
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

from seqae.parameters import ParameterError, Parameters
from seqae.runs.assignment import current_assignment
from seqae.runs.cell_classes import class_source, is_as_written
from seqae.runs.identity import as_used, spelled_hashes
from seqae.runs.own_code import CELL, CODE_FOLDER, OwnCode, OwnCodeError, code_for, own_names
from seqae.runs.own_models import OFFERED, default_of, own_metrics, taken_by
from seqae.runs.own_modules import path_among
from seqae.stores import store_folder


def with_code(
    stated: Parameters, family: str, model: type | None, project: Path | None
) -> tuple[Parameters, OwnCode | None, OwnCodeError | None]:
    """The parameters as a run uses them, with the hash of the code that they name, and that code; None if all is
    built in.

    In a sweep's kernel it is the copy that the sweep's worker has put into the run's folder; otherwise the project's.
    model: a class of a notebook's cell. project: a folder, by default the project here. Raises OwnCodeError; where the
    parameters give a hash, which a finished run can be shown by, the error is returned. Raises ParameterError for a
    parameter that the run does not use, but the constructor has an argument for, unless it is in
    `architecture_arguments`, too.
    """
    if model is not None:
        return _with_class(stated, family, model)
    p, assignment = as_used(stated, family), current_assignment()
    # Of the constructor, which says what is used, nothing is known yet.
    spelled = set().union(*(spelled_hashes(as_used(p, family, known)) for known in (None, ())))
    if assignment and any(map(assignment.is_of, spelled)):
        copies, trust = store_folder(p.store) / family / assignment.run / CODE_FOLDER, True
    else:
        copies, trust = Path.cwd() / CODE_FOLDER, False
    try:
        code = code_for(p, copies=copies, trust=trust, root=project)
    except OwnCodeError as error:
        if p.code is None and own_names(p, defining=True):
            raise
        return p, None, error  # metrics define no run: a finished one is shown without their code
    return _known(p, family, code, stated), code, None


def opened_with(family: str, model: str) -> str:
    """Why `seqae run` cannot train the runs of a family whose notebook gives `open_run` a class of a cell."""
    return (
        f"notebooks/{family}.ipynb opens its runs with model={model}, a class of a notebook's cell, which no other "
        "process can import: take model= out of that cell, and seqae run trains what the parameter files name; to "
        f"train {model} there, write it to notebooks/my_models.py and give architecture: my_models:{model}"
    )


def check_unedited(code: OwnCode | None, *, trained: bool) -> None:
    """Raise OwnCodeError where files or cells of this code were edited since it was read, but for comments and layout:
    what trains is what they say. trained: only warn, because the run has ended, and shows what is recorded of it. Says
    nothing in a sweep, which trains what it has planned.
    """
    if code is None or current_assignment():
        return
    edited = [path for path, text in code.texts.items() if _differs(path, text, code.folders)]
    for kind in code.live.values():  # its cell may have defined another since, and other cells what it uses
        now = getattr(sys.modules.get(kind.__module__), kind.__name__, kind)
        if isinstance(now, type) and _source(now) != code.texts[f"{CELL}.py"]:
            edited.append(f"class {kind.__name__} or what it uses")
    if edited:
        what = f"{', '.join(edited)} {'has' if len(edited) == 1 else 'have'} been edited since this run was opened"
        told = f"{what}: run the cell of open_run again, which opens the run of the code as it is now"
        if not trained:
            raise OwnCodeError(told)
        warnings.warn(told, stacklevel=3)


def _source(kind: type) -> str | None:
    try:
        return class_source(kind)
    except OwnCodeError:  # it uses now what has no source
        return None


def _differs(path: str, text: str, folders: Sequence[Path]) -> bool:
    file = next((folder / path for folder in folders if (folder / path).is_file()), None)
    if file is None or (now := file.read_text(encoding="utf-8", errors="replace")) == text:
        return False
    try:
        return ast.dump(ast.parse(now)) != ast.dump(ast.parse(text))
    except (SyntaxError, ValueError):
        return True


def takes(p: Parameters, code: OwnCode | None) -> list[str] | None:
    """The arguments of the constructor of an architecture of your own; None for a built-in one."""
    return taken_by(p, code) if code and ":" in p.architecture else None


def defining_files(p: Parameters, files: Collection[str]) -> list[str]:
    """Those of the files of your own that hold the architecture and the training loss: an edit makes another run."""
    paths = [path_among(files, name.partition(":")[0]) for name in own_names(p, defining=True)]
    return [path for path in dict.fromkeys(paths) if path]


def code_entry(p: Parameters, code: OwnCode) -> dict[str, Any]:
    """What run.yaml records of the code: its files, the packages they import, its metrics, each with its unit and a
    hash of what it needs of the code.
    """
    metrics = {
        name: {
            "unit": str(getattr(f, "unit", "1")),
            "more_is_better": bool(getattr(f, "more_is_better", False)),
            "code": code.part(full).digest,
        }
        for full, (name, f) in zip(p.metrics, own_metrics(p, code).items(), strict=True)
    }
    return {"files": sorted(code.texts), "packages": dict(code.packages), "metrics": metrics}


def _known(p: Parameters, family: str, code: OwnCode | None, stated: Parameters) -> Parameters:
    # stated: as given, which may be meant for the constructor where p and other runs do not use it.
    taken = takes(p, code)
    used = as_used(p.model_copy(update={"code": code and code.defining}), family, taken)
    for name in {*(taken or ())} & Parameters.model_fields.keys() - {*OFFERED, *p.architecture_arguments}:
        if (value := getattr(stated, name)) != getattr(used, name):
            text = "none" if value is None else value
            raise ParameterError(
                f"{name} {text} is for built-in architectures, and {p.architecture} has an argument of that name: give "
                f"its own in architecture_arguments, such as {{{name}: {default_of(name, p, code)}}}"
            )
    return used


def _with_class(stated: Parameters, family: str, model: type) -> tuple[Parameters, OwnCode, None]:
    if not isinstance(model, type | FunctionType):
        if isinstance(model, str):
            raise ParameterError(
                f"model must be a class, not {model!r}: name one of a module as architecture: module:name"
            )
        kind = type(model).__name__
        told = f"model must be a class, not an instance of {kind}: give model={kind}"
        raise ParameterError(f"{told}, and the arguments of its constructor in architecture_arguments")
    if model.__module__ != "__main__" and getattr(sys.modules.get(model.__module__), "__file__", None):
        raise OwnCodeError(
            f"model={model.__name__} is of the module {model.__module__}, not of a cell: leave model= out and give "
            f"architecture: {model.__module__}:{model.__name__}, or define a class in a cell that inherits from it"
        )
    name = f"{CELL}:{model.__name__}"
    what = f"{model.__name__} is a class of a notebook's cell, which no other process can import"
    instead = f"write it to notebooks/my_models.py and give architecture: my_models:{model.__name__}"
    if current_assignment():
        raise OwnCodeError(opened_with(family, model.__name__))
    if stated.devices > 1:
        raise ParameterError(f"devices {stated.devices}: {what}: {instead}")
    p = as_used(stated.model_copy(update={"architecture": name, "code": None}), family)
    code = code_for(p, texts={f"{CELL}.py": class_source(model)}, live={name: model})
    assert code is not None
    _check_imported(code.part(name))
    return _known(p, family, code, stated), code, None


def _check_imported(code: OwnCode) -> None:
    # A class of a cell uses modules as this process has imported them, and the run records their files.
    for path, text in code.texts.items():
        module = sys.modules.get(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        if module is not None and not is_as_written(module, text):
            raise OwnCodeError(
                f"{path} has been edited since it was imported, and the class of the cell still uses it as it was: "
                "restart the kernel and run the notebook again (%load_ext autoreload and %autoreload 2, before the "
                "imports, spare this)"
            )
