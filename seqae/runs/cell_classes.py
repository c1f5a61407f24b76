"""The source of a class that was defined in a notebook's cell, with what it uses of other cells."""

import ast
import linecache
import math
import symtable
import types
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from seqae.runs.own_code import OwnCodeError

LITERALS = (int, float, str, bool, bytes, tuple, list, dict, set, frozenset, type(None))


def class_source(kind: type) -> str:
    """A module's source that defines the class and what it uses of the notebook: classes, functions, imports, values.

    Raises OwnCodeError if that cannot be found.
    """
    names = vars(import_module(kind.__module__))
    done: dict[str, str] = {}
    _add(kind.__name__, names | {kind.__name__: kind}, done)
    return "\n\n".join(done.values()) + "\n"


def is_as_written(module: types.ModuleType, text: str) -> bool:
    """Whether functions, methods and constants of a module that was imported are those of this text, which its file has
    now. Constants are names that get a number, a text or a tuple of such once; of other values it says nothing.
    """
    written: dict[str, list[Any]] = {}
    wanted = [compile(text, "", "exec", dont_inherit=True)]
    for code in wanted:
        wanted += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
        written.setdefault(code.co_qualname, []).append(_instructions(code))
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    functions = [f for value in own if isinstance(value, type) for f in _functions(value)]
    codes = [f.__code__ for f in [*own, *functions] if isinstance(f, types.FunctionType)]
    changed = [name for name, value in _constants(text) if repr(vars(module).get(name, value)) != repr(value)]
    known = (_instructions(code) in written.get(code.co_qualname, [_instructions(code)]) for code in codes)
    return not changed and all(known)


def _constants(text: str) -> Iterator[tuple[str, Any]]:
    tree = ast.parse(text)
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    stored = Counter(name.id for name in names)
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        with suppress(ValueError):  # it is computed
            value = ast.literal_eval(node.value)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                # Lists and dicts may have been filled since.
                if isinstance(target, ast.Name) and stored[target.id] == 1 and isinstance(value, Hashable):
                    yield target.id, value


def _instructions(code: types.CodeType) -> tuple[Any, ...]:
    # What a function does, wherever its lines stand.
    values = [_instructions(c) if isinstance(c, types.CodeType) else (type(c), c) for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, values


def _add(name: str, names: Mapping[str, Any], done: dict[str, str]) -> None:
    # Adds the source that gives `name` its value, after that of the names which it uses.
    if name in done or name not in names:
        return
    value: Any = names[name]
    done[name] = ""  # on the way: what uses itself does not begin again
    home, called = getattr(value, "__module__", None), getattr(value, "__name__", "")
    if isinstance(value, types.ModuleType):
        source = f"import {value.__name__} as {name}"
    elif isinstance(value, type | types.FunctionType) and home == names.get("__name__"):
        node = _definition(value)
        text = ast.unparse(node)
        for used in sorted(_outer(symtable.symtable(text, called, "exec"))):
            _add(used, names, done)
        source = text + (f"\n{name} = {called}" if name != called else "")
    elif home and getattr(import_module(home), called, None) is value:
        source = f"from {home} import {called} as {name}"
    elif isinstance(value, LITERALS):
        source = f"{name} = {_literal(value, name)}"
    else:
        raise OwnCodeError(f"{name} is a {type(value).__name__}, which has no source: make it inside the class")
    del done[name]
    done[name] = source  # after what it uses


def _literal(value: Any, name: str) -> str:
    # An expression that gives this value anywhere: repr() of NaN, of numpy's numbers and of what is not plain does not,
    # and that of a set has another order in another process.
    try:
        match value:
            case float() if type(value) is float and not math.isfinite(value):
                return f"float('{value}')"
            case dict() if type(value) is dict:
                return f"{{{', '.join(f'{_literal(k, name)}: {_literal(v, name)}' for k, v in value.items())}}}"
            case set() | frozenset() if type(value) in (set, frozenset):
                return f"{type(value).__name__}([{', '.join(sorted(_literal(item, name) for item in value))}])"
            case list() | tuple() if type(value) in (list, tuple):
                items = ", ".join(_literal(item, name) for item in value)
                return f"[{items}]" if type(value) is list else f"({items},)" if items else "()"
            case _ if type(value) in LITERALS:
                return repr(value)
    except RecursionError:
        raise OwnCodeError(f"{name} contains itself, or is too deep to be copied: make it inside the class") from None
    raise OwnCodeError(f"{name} is or holds a {type(value).__name__}, which has no source: make it inside the class")


def _outer(scope: symtable.SymbolTable) -> set[str]:
    # The names that a definition reads from outside of itself. Variables and arguments of its functions are none of
    # them, though the notebook may have the same name: IPython's is _ for what was shown last.
    inside = scope.get_type() == "function"
    found = {name.get_name() for name in scope.get_symbols() if (name.is_global() if inside else name.is_referenced())}
    return found.union(*(_outer(inner) for inner in scope.get_children()))


def _definition(value: Any) -> ast.stmt:
    # A class has no line numbers of its own in this version of Python; its methods know the cell.
    functions = [value] if isinstance(value, types.FunctionType) else [*_functions(value)]
    for function in functions:
        lines = linecache.getlines(function.__code__.co_filename)
        for node in reversed(ast.parse("".join(lines)).body if lines else []):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == value.__name__:
                return node
    raise OwnCodeError(f"the source of {value.__name__} is in no cell of this notebook")


def _functions(kind: type) -> Iterator[types.FunctionType]:
    for member in vars(kind).values():
        function = getattr(member, "fget", member)
        if isinstance(function, types.FunctionType):
            yield function
