"""Parameter files: which ones a folder or the name of a scale stands for, and their values."""

from pathlib import Path
from typing import Any

import yaml

from seqae.parameters import ParameterError
from seqae.stores import UnfitYamlError, load_yaml


def read_yaml(path: Path) -> dict[str, Any]:
    """A parameter file as a dict. Raises `ParameterError` if it is missing, not YAML or not a mapping."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"no parameter file {path}") from None
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
    """A file, or the parameter files at any depth below a folder, without scales; the folder itself if it has none."""
    if not named.is_dir():
        return [named]
    return [file for file in sorted(named.rglob("*.yaml")) if file.parent.name != "scale"] or [named]


def scale_files(file: Path, scale: str | None, root: Path) -> list[Path]:
    """The files of a scale for a parameter file, in the order in which they are merged. None need exist.

    scale: a file, or a name: scale/NAME.yaml in params/ and in each folder from there down to `file`. So a family of
    large frames can have its own quick scale. root: the project.
    """
    if scale is None:
        return []
    if scale.endswith(".yaml"):
        return [Path(scale)]
    params = root / "params"
    folders = [folder for folder in file.resolve().parents if folder == params or params in folder.parents]
    found = [path for folder in folders[::-1] if (path := folder / "scale" / f"{scale}.yaml").exists()]
    return found or [params / "scale" / f"{scale}.yaml"]
