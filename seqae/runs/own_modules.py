"""Modules made of texts, whichever files there are: what `own_code` has read is what runs, on any machine.

Each set of texts is a package with a name of its own, so that two versions of one file never mix in a process. Imports
of one text by another are written to that package when they are compiled.
"""

import ast
import difflib
import importlib
import linecache
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from threading import Lock
from types import CodeType, ModuleType
from typing import Any

_packages: dict[str, Mapping[str, str]] = {}  # by the name of the package: its texts
_lock = Lock()


def import_text(package: str, texts: Mapping[str, str], module: str) -> ModuleType:
    """A module of a package of texts. texts: by path, such as my_models.py or models/gru.py. Raises what it raises."""
    with _lock:
        if _packages.setdefault(package, dict(texts)) != texts:
            raise RuntimeError(f"package {package} has other texts already")
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.append(_Finder())
        root = sys.modules.setdefault(package, ModuleType(package))
        root.__path__ = []
    return importlib.import_module(f"{package}.{module}")


def path_among(paths: Collection[str], module: str) -> str | None:
    """The path of a module's text: a file, a package's __init__.py, or a folder; None if it is none of them."""
    base = module.replace(".", "/")
    known = [path for path in (f"{base}.py", f"{base}/__init__.py") if path in paths]
    return known[0] if known else base if any(path.startswith(f"{base}/") for path in paths) else None


def module_files(module: str, folders: Sequence[Path]) -> dict[str, Path]:
    """The file of a module and the __init__.py of packages around it, by path below the first folder that has it."""
    parts = module.split(".")
    if parts[0] == "seqae":
        return {}
    for folder in folders:
        base = "/".join(parts)
        own = [path for path in (f"{base}.py", f"{base}/__init__.py") if (folder / path).is_file()]
        if own:
            around = ["/".join([*parts[:n], "__init__.py"]) for n in range(1, len(parts))]
            return {path: folder / path for path in [*around, own[0]] if (folder / path).is_file()}
    return {}


def imported_modules(tree: ast.Module, path: str) -> Iterator[str]:
    """The modules that a text imports, and the names that it imports from modules, which may be modules themselves."""
    package = path.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*around, *filter(None, [node.module])])
            yield from [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]


def similar(name: str, known: Iterable[str]) -> str:
    """What to say after a name that is not known: the most similar one that is, or all."""
    there = sorted(known)
    near = difflib.get_close_matches(name, there, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there is {', '.join(there[:30])}" if there else ""


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        package, _, module = fullname.partition(".")
        found = path_among(_packages.get(package, {}), module) if module else None
        if found is None:
            return None
        spec = spec_from_loader(fullname, _Loader(package, found), origin=found, is_package=not found.endswith(".py"))
        if spec is not None and found.endswith("__init__.py"):
            spec.submodule_search_locations = []
        return spec


class _Loader(InspectLoader):
    def __init__(self, package: str, path: str) -> None:
        self.package, self.path = package, path

    def get_source(self, fullname: str) -> str:
        return _packages[self.package].get(self.path, "")  # a folder without __init__.py has none

    def is_package(self, fullname: str) -> bool:
        return not self.path.endswith(".py") or self.path.endswith("__init__.py")

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_source(fullname)
        # Tracebacks show the lines that were compiled, whatever the file has become.
        linecache.cache[self.path] = (len(source), None, source.splitlines(keepends=True), self.path)
        own = {path.partition("/")[0].removesuffix(".py") for path in _packages[self.package]}
        tree = _Renamed(self.package, own).visit(ast.parse(source, self.path))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


class _Renamed(ast.NodeTransformer):
    # Imports of modules of `package`, whose first names are `own`, become imports from it.
    def __init__(self, package: str, own: set[str]) -> None:
        self.package, self.own = package, own

    def visit_Import(self, node: ast.Import) -> Any:
        made: list[ast.stmt] = []
        for alias in node.names:
            first, _, rest = alias.name.partition(".")
            if first not in self.own:
                made.append(ast.Import([alias]))
                continue
            name = f"{self.package}.{alias.name}"
            if alias.asname or not rest:
                made.append(ast.Import([ast.alias(name, alias.asname or alias.name)]))
            else:  # `import a.b` imports a.b and binds a
                made += [ast.Import([ast.alias(name)]), ast.ImportFrom(self.package, [ast.alias(first)], 0)]
        return [ast.copy_location(statement, node) for statement in made]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if not node.level and (node.module or "").partition(".")[0] in self.own:
            node.module = f"{self.package}.{node.module}"
        return node
