"""The parameters cell of a notebook, read from the notebook's file or from the kernel that executes it.

The cell as committed in git holds the family's defaults, from which runs are named. Values edited since then count as
given to each run.
"""

import ast
import json
import re
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from seqae.parameters import ParameterError
from seqae.runs.assignment import current_assignment
from seqae.runs.git import git_trouble, run_git
from seqae.runs.merging import merge, resolve
from seqae.runs.own_code import find_code
from seqae.runs.own_modules import imported_modules, module_files
from seqae.stores import project_root


class FamilyNotebook(NamedTuple):
    """A family's notebook, its parameters cell split into what is committed and what was edited since.

    text: the notebook's JSON, with the parameters cell as committed. defaults: the values of that cell. edits: the
    values of the cell in the file that differ from the defaults.
    """

    text: str
    defaults: dict[str, Any]
    edits: dict[str, Any]


def read_cell(source: str) -> dict[str, Any]:
    """The values that a parameters cell assigns, by name. Raises ParameterError for all but literal assignments."""
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
    """The values that the cell tagged `parameters` of a notebook file assigns. Raises ParameterError."""
    return read_cell("".join(_tagged(json.loads(Path(notebook).read_text(encoding="utf-8")), notebook)["source"]))


def family_notebook(notebook: Path) -> FamilyNotebook:
    """Read a family's notebook and separate its committed defaults from later edits.

    If git has no sound committed cell, the file's own cell holds the defaults and there are no edits. Raises
    ParameterError if the cell in the file is not sound.
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
    defaults, edits = _separated(committed, own)
    if edits:
        cell["source"] = committed
        text = json.dumps(content)
    return FamilyNotebook(text, defaults, edits)


def cells_hash(text: str) -> str:
    """8 hex digits of the cells of a notebook's JSON text, without the cell of parameters that papermill injected."""
    cells = [c for c in json.loads(text)["cells"] if "injected-parameters" not in c["metadata"].get("tags", [])]
    return sha256("\0".join("".join(cell["source"]) for cell in cells).encode()).hexdigest()[:8]


def modules_of_cells(text: str, folder: Path) -> dict[str, str]:
    """The modules of the notebook's folder that its cells import, and those that these import: their texts, by path.

    text: the notebook's JSON. Raises OwnCodeError for a module that is no Python.
    """
    names = {module for cell in json.loads(text)["cells"] if cell["cell_type"] == "code" for module in _imports(cell)}
    return dict(find_code(sorted(name for name in names if module_files(name, [folder])), [folder], {}).texts)


def model_of_cells(text: str) -> str | None:
    """What the notebook's cells give `open_run` as `model`, as it is written there; None if nothing.

    text: the notebook's JSON.
    """
    trees = (_tree(cell) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    of_runs = (call for call in calls if ast.unparse(call.func).rpartition(".")[2] == "open_run")
    given = (word.value for call in of_runs for word in call.keywords if word.arg == "model")
    return next((ast.unparse(value) for value in given if not isinstance(value, ast.Constant)), None)


def _imports(cell: dict[str, Any]) -> list[str]:
    return [name for name in imported_modules(_tree(cell), "") if name]


def _tree(cell: dict[str, Any]) -> ast.Module:
    source = "".join(cell["source"])
    try:
        return ast.parse(source)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager  # here, because few cells need it: %magic, !shell

        try:
            return ast.parse(TransformerManager().transform_cell(source))
        except SyntaxError:  # it fails when it is executed, and says so there
            return ast.parse("")


def parameter_cells(family: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The defaults of this notebook's family and the values given beside them, both as mappings for `open_run`.

    family: the name of the family, to find its notebook in git. Its defaults are then those of the committed cell, and
    values edited since are given, so that they appear in the run's name. Without `family`, and in a sweep's kernel,
    whose sweep has separated the edits, the executed cell holds the defaults.

    The values come from the cells executed so far in this kernel: the last one that begins with `# Parameters of`, and
    the last one that begins with `# Parameters` alone, which papermill injects. Cells are read instead of variables
    because that finds mistyped names. Raises ParameterError outside a notebook, before the cell was executed, and for
    anything but literal assignments.
    """
    from IPython import get_ipython  # here, because only notebooks need it

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
        own = f"; in a notebook of your own, copy that cell from notebooks/{family or 'FAMILY'}.ipynb"
        raise ParameterError(f"no parameters: first run the cell that begins with '# Parameters of'{own}")
    if family is None or current_assignment():
        return values, injected
    defaults, edits = _separated(_committed(project_root() / "notebooks" / f"{family}.ipynb"), values)
    return defaults, merge(edits, injected, below=defaults) if edits else injected


def _tagged(content: Any, notebook: str | Path) -> dict[str, Any]:
    # From JSON, because every kernel imports this module and nbformat takes more than a second to import.
    try:
        tagged = [cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    except (KeyError, TypeError, AttributeError):
        raise ParameterError(f"{notebook} is no notebook: it has no cells, or not nbformat's") from None
    if len(tagged) != 1:
        raise ParameterError(f"{notebook} must have one cell tagged 'parameters'; it has {len(tagged)}")
    return tagged[0]


def _committed(notebook: Path) -> str | None:
    # The source of the committed parameters cell; None without git, outside it, or if no such cell was committed.
    try:
        found = run_git(notebook.parent, "cat-file", "blob", f"HEAD:./{notebook.name}")
        if found.returncode and (trouble := git_trouble(notebook.parent)):
            what = "what was edited in its parameters cell counts as the family's defaults"
            warnings.warn(f"git cannot read what was committed of {notebook}, so {what}: {trouble}", stacklevel=3)
        return None if found.returncode else "".join(_tagged(json.loads(found.stdout), notebook)["source"])
    except (ValueError, KeyError):
        return None


def _separated(committed: str | None, own: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    # Defaults and edits. A parameter that was deleted from the cell is edited to the library's default.
    spelled = merge(own)  # raises ParameterError where the cell contradicts itself
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
