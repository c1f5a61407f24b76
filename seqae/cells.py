"""The parameters cell of a notebook: read from its file, or from the kernel that executes it."""

import ast
import json
import re
from pathlib import Path
from typing import Any

from seqae.config import ParameterError


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
    # As JSON: nbformat costs more than a second to import, and every kernel imports this module.
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = [cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ParameterError(f"{notebook} must have one cell tagged 'parameters'; it has {len(tagged)}")
    return read_cell("".join(tagged[0]))


def parameter_cells() -> tuple[dict[str, Any], dict[str, Any]]:
    """The notebook's own parameters cell and the one papermill injected, as executed so far in this kernel.

    The first is the last executed cell that begins with `# Parameters of`, the second one that begins with
    `# Parameters` alone, papermill's mark. Reading the cells, not the variables, finds a mistyped name.
    """
    from IPython import get_ipython  # only a notebook needs it

    shell = get_ipython()
    if shell is None:
        raise ParameterError("parameter_cells() reads a notebook's cells; outside one, give open_run a mapping")
    own: dict[str, Any] = {}
    injected: dict[str, Any] = {}
    for source in shell.user_ns["In"]:
        if source.startswith("# Parameters of"):
            own = read_cell(source)
        elif re.match(r"# Parameters\s*\n", source):
            injected = read_cell(source)
    if not own:
        raise ParameterError("no parameters: first run the cell that begins with '# Parameters of'")
    return own, injected
