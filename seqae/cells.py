"""The parameters cell of a notebook: read from its file, or from the kernel that executes it.

What git has of it are the family's defaults, from which runs are named; what was edited since is given, to each run.
"""

import ast
import json
import re
import subprocess
from os import environ
from pathlib import Path
from typing import Any

from seqae.config import ParameterError, merge
from seqae.naming import project_root


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
    return read_cell(_tagged(Path(notebook).read_text(encoding="utf-8"), notebook))


def family_notebook(notebook: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A notebook's JSON text with its cell of parameters as it is committed, what that assigns, and what the file's
    own says otherwise. The file as it is, and nothing else, where git knows none or a line was taken out of the cell.
    """
    text = notebook.read_text(encoding="utf-8")
    own = _tagged(text, notebook)
    committed = _committed(notebook)
    defaults, edits = _apart(committed, read_cell(own))
    if edits:
        content = json.loads(text)
        cell = next(cell for cell in content["cells"] if "".join(cell["source"]) == own)
        cell["source"] = committed
        text = json.dumps(content)
    return text, defaults, edits


def sources(text: str) -> list[str]:
    """The cells of a notebook's JSON text, but for the parameters that papermill injected."""
    cells = json.loads(text)["cells"]
    return ["".join(c["source"]) for c in cells if "injected-parameters" not in c["metadata"].get("tags", [])]


def parameter_cells() -> tuple[dict[str, Any], dict[str, Any]]:
    """The family's defaults, and what is given beside them: as executed so far in this kernel.

    The notebook's own cell is the last executed one that begins with `# Parameters of`, papermill's the last that
    begins with `# Parameters` alone. Reading the cells, not the variables, finds a mistyped name. Where the family's
    notebook is in git its defaults are the cell committed there, and what has been edited in it is given.
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
    family = re.match(r"# Parameters of .*?`?(\w+)`?\s*$", own.splitlines()[0])
    if family is None or "SEQAE_RUN" in environ:  # a sweep has told them apart already
        return values, injected
    defaults, edits = _apart(_committed(project_root() / "notebooks" / f"{family[1]}.ipynb"), values)
    return defaults, merge(edits, injected) if edits else injected


def _tagged(text: str, notebook: str | Path) -> str:
    # As JSON: nbformat costs more than a second to import, and every kernel imports this module.
    cells = json.loads(text)["cells"]
    tagged = [cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ParameterError(f"{notebook} must have one cell tagged 'parameters'; it has {len(tagged)}")
    return "".join(tagged[0])


def _committed(notebook: Path) -> str | None:
    command = ["git", "-C", str(notebook.parent), "cat-file", "blob", f"HEAD:./{notebook.name}"]
    try:
        return _tagged(subprocess.run(command, capture_output=True, check=True).stdout.decode(), notebook)
    except (OSError, subprocess.CalledProcessError, ValueError):  # no git, not in it, or no such cell then
        return None


def _apart(committed: str | None, own: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    # A default that is gone from the cell cannot be said in parameters: then the cell is taken as it is.
    merge(own)  # or it contradicts itself
    try:
        defaults = read_cell(committed or "")
    except ParameterError:
        return own, {}
    if not defaults or not defaults.keys() <= own.keys():
        return own, {}
    return defaults, {key: value for key, value in own.items() if key not in defaults or defaults[key] != value}
