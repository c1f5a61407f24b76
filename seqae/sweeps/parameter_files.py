"""Parameter files: which ones a folder or the name of a scale stands for, and their values.

A file's name ends in .yaml or .yml. Names that begin with a dot are copies and locks of editors and systems.
"""

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from seqae.files import expanded
from seqae.parameters import ParameterError
from seqae.stores import UnfitYamlError, load_yaml, project_root, unlinked

SUFFIXES = (".yaml", ".yml")
_SCALES = Path(__file__).with_name("shipped") / "scale"


class Place(NamedTuple):
    """Where a parameter file is: the project, and its path below params/, FAMILY/…/NAME.yaml."""

    root: Path
    path: Path


def read_yaml(path: Path) -> dict[str, Any]:
    """A parameter file as a dict. Raises `ParameterError` if it is missing, not YAML or not a mapping."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"no parameter file {path}{_what_there_is(path)}") from None
    except OSError as error:
        raise ParameterError(f"parameter file {path} cannot be read: {error.strerror}") from None
    except UnfitYamlError as error:
        raise ParameterError(f"{path} is not accepted: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict | None):
        raise ParameterError(
            f"{path} must hold a mapping (lines such as 'task: pred'), "
            f"not a {type(content).__name__}: {str(content)[:60]!r}"
        )
    return content or {}


def files_below(named: Path) -> list[Path]:
    """A file, or the parameter files at any depth below a folder, without scales; the folder itself if it has none.

    Linked files and folders count, and each folder once.
    """
    if not named.is_dir():
        return [named]
    return sorted(_walk(named, set())) or [named]


def parameter_files(project: Path, family: str) -> list[Path]:
    """The parameter files of a family."""
    folder = project / "params" / family
    return [file for file in files_below(folder) if file.is_file()]


def _walk(folder: Path, above: set[Path]) -> Iterator[Path]:
    # above: the real folders that this one is in: a link to one of them has no end.
    if folder.name == "scale" or (real := folder.resolve()) in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, above | {real})
        elif path.suffix.lower() in SUFFIXES:
            yield path


def place_of(file: Path) -> Place:
    """Where a parameter file is in its project, links not followed; or else where the file is that it is a link to.

    Raises ParameterError if there is no such file, if it is in no project's params/FAMILY/, or has a name that begins
    with a dot.
    """
    if not file.exists():
        raise ParameterError(f"no parameter file {file}{_what_there_is(file)}")
    for path in (unlinked(file), file.resolve()):
        root = project_root(path.parent)
        below = path.relative_to(root / "params") if path.is_relative_to(root / "params") else Path()
        if hidden := [part for part in below.parts if part.startswith(".")]:
            raise ParameterError(f"{hidden[0]} begins with a dot, so it holds no parameters: give it another name")
        if len(below.parts) > 1:
            return Place(root, below)
    raise ParameterError("must be in params/FAMILY/ of a project that has notebooks/FAMILY.ipynb")


def scale_files(place: Place, scale: str | None) -> list[Path]:
    """The files of a scale for a parameter file, in the order in which they are merged.

    scale: a file, or a name: scale/NAME.yaml in params/, or else the one that comes with the package, and in each
    folder from params/ down to the parameter file. So a family of large frames can have its own quick scale. Raises
    ParameterError if there is no scale of this name.
    """
    if scale is None:
        return []
    if scale.lower().endswith(SUFFIXES):
        return [Path(expanded(scale))]
    parts = place.path.parent.parts
    folders = [place.root.joinpath("params", *parts[:depth], "scale") for depth in range(len(parts) + 1)]
    found = [_named(folder, scale) for folder in folders]
    found[0] = found[0] or _named(_SCALES, scale)
    if not any(found):
        known = {file.stem for folder in [*folders, _SCALES] for file in _files_in(folder)}
        raise ParameterError(f"there is no scale {scale!r}{nearest(scale, known)}")
    return [file for file in found if file]


def nearest(name: str, known: Iterable[str], where: str = "") -> str:
    """What to say after a name that is not there: the nearest of those that are known, and all of them."""
    there = sorted(known)
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"; did you mean {near[0]}?" if near else ";"
    shown = ", ".join(there[:30]) + (f" and {len(there) - 30} more" if len(there) > 30 else "")
    return f"{hint} there {'are' if len(there) > 1 else 'is'}{where}: {shown}" if there else ""


def _named(folder: Path, scale: str) -> Path | None:
    files = [file for file in _files_in(folder) if file.stem == scale]
    if len(files) > 1:
        raise ParameterError(f"{folder} has {files[0].name} and {files[1].name}: keep one of them")
    return files[0] if files else None


def _files_in(folder: Path) -> list[Path]:
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in entries if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]


def _what_there_is(path: Path) -> str:
    # Instead of a path that does not exist: the one in params/, or the names in its nearest folder that does.
    if (meant := project_root() / "params" / path).exists():
        return f"; did you mean {os.path.relpath(meant)}?"
    path = unlinked(path)
    missing = next((p for p in [path, *path.parents] if p.parent.is_dir()), path)
    entries = [p for p in missing.parent.iterdir() if not p.name.startswith(".") and p.name != "scale"]
    known = [p.name for p in entries if p.is_dir() or p.suffix.lower() in SUFFIXES]
    return nearest(missing.name, known, f" in {os.path.relpath(missing.parent)}")
