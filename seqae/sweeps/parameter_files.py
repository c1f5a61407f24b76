"""Parameter files: YAML that holds a mapping."""

from pathlib import Path
from typing import Any

import yaml

from seqae.files import load_yaml
from seqae.parameters import ParameterError


def read_yaml(path: Path) -> dict[str, Any]:
    """A parameter file as a dict. Raises `ParameterError` if it is missing, not YAML or not a mapping."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"no parameter file {path}") from None
    except OSError as error:
        raise ParameterError(f"parameter file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict | None):
        raise ParameterError(
            f"{path} must hold a mapping (lines such as 'task: pred'), "
            f"not a {type(content).__name__}: {str(content)[:60]!r}"
        )
    return content or {}
