"""The parameters cell of a notebook: read from its file, or from the kernel that executes it.

What git has of it are the family's defaults, from which runs are named; what was edited since is given, to each run.
"""

import ast
import json
import re
import subprocess
from hashlib import sha256
from os import environ
from pathlib import Path
from typing import Any

from seqae.files import project_root
from seqae.parameters import ParameterError, merge, resolve


def read_cell(source: str) -> dict[str, Any]:
    """The literal assignments of a parameters cell. Raises `ParameterError` on anything but a literal."""
    values = {}
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"the parameters cell is not Python: {error.msg}, line {error.lineno}") from None
    for statement in statements:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                try:
                    values[name] = ast.literal_eval(value)
                except (ValueError, TypeError):
                    raise ParameterError(
                        f"{name} = {ast.unparse(value)}: the parameters cell takes literals only; "
                        "derive values in a later cell"
                    ) from None
            case _:
                raise ParameterError(
                    f"the parameters cell takes assignments of literals only, not: {ast.unparse(statement)}"
                )
    return values


def family_defaults(notebook: str | Path) -> dict[str, Any]:
    """What the cell tagged `parameters` of a notebook file assigns."""
    return read_cell("".join(_tagged(json.loads(Path(notebook).read_text(encoding="utf-8")), notebook)["source"]))


def family_notebook(notebook: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A notebook's JSON text with its cell of parameters as it is committed, what that assigns, and what the file's
    own says otherwise. The file as it is, and nothing else, where git knows no sound one. Raises ParameterError where
    the file's own is not sound.
    """
    text = notebook.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ParameterError(f"{notebook} is no notebook: {error}") from None
    cell, committed = _tagged(content, notebook), _committed(notebook)
    try:
        own = read_cell("".join(cell["source"]))
        resolve(own)
    except ParameterError as error:
        raise ParameterError(f"the cell of parameters of {notebook.name}: {error}") from None
    defaults, edits = _apart(committed, own)
    if edits:
        cell["source"] = committed
        text = json.dumps(content)
    return text, defaults, edits


def cells_hash(text: str) -> str:
    """8 hex digits of the cells of a notebook's JSON text, but for the parameters that papermill injected."""
    cells = [c for c in json.loads(text)["cells"] if "injected-parameters" not in c["metadata"].get("tags", [])]
    return sha256("\0".join("".join(cell["source"]) for cell in cells).encode()).hexdigest()[:8]


def parameter_cells(family: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """A family's defaults, and what is given beside them: as executed so far in this kernel.

    The notebook's own cell is the last executed one that begins with `# Parameters of`, papermill's the last that
    begins with `# Parameters` alone. Reading the cells, not the variables, finds a mistyped name. family: whose
    notebook this is. Where git knows it, its defaults are those of the cell committed there, and what this one says
    otherwise is given, so that it stands in a run's name.
    """
    from IPython import get_ipython  # only a notebook needs it

    shell = get_ipython()
    if shell is None:
        raise ParameterError("parameter_cells() reads a notebook's cells; outside one, give open_run a mapping")
    own, injected = "", dict[str, Any]()
    for source in shell.user_ns["In"]:
        if source.startswith("# Parameters of"):
            own = source
        elif re.match(r"# Parameters\s*\n", source):
            injected = read_cell(source)
    if not (values := read_cell(own)):
        raise ParameterError("no parameters: first run the cell that begins with '# Parameters of'")
    if family is None or "SEQAE_RUN" in environ:  # a sweep has told them apart already
        return values, injected
    defaults, edits = _apart(_committed(project_root() / "notebooks" / f"{family}.ipynb"), values)
    return defaults, merge(edits, injected) if edits else injected


def _tagged(content: Any, notebook: str | Path) -> dict[str, Any]:
    # Of JSON: nbformat costs more than a second to import, and every kernel imports this module.
    try:
        tagged = [cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    except (KeyError, TypeError, AttributeError):
        raise ParameterError(f"{notebook} is no notebook: it has no cells, or not nbformat's") from None
    if len(tagged) != 1:
        raise ParameterError(f"{notebook} must have one cell tagged 'parameters'; it has {len(tagged)}")
    return tagged[0]


def _committed(notebook: Path) -> str | None:
    command = ["git", "-C", str(notebook.parent), "cat-file", "blob", f"HEAD:./{notebook.name}"]
    try:
        content = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return "".join(_tagged(content, notebook)["source"])
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError):  # no git, not in it, or no such cell then
        return None


def _apart(committed: str | None, own: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    # What is gone from the cell is the library's default again.
    spelled = merge(own)  # raises where it contradicts itself
    try:
        resolve(defaults := read_cell(committed or ""))
    except ParameterError:
        defaults = {}
    if not defaults:
        return own, {}
    edits = {key: value for key, value in own.items() if key not in defaults or defaults[key] != value}
    if gone := merge(defaults).keys() - spelled.keys():
        edits |= resolve({}).model_dump(mode="json", include=gone)
    return defaults, edits
