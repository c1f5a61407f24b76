"""Code of your own, named module:name in parameters: where it is found, its hash, its copy in a run folder.

Modules are found in notebooks/ and in the project's folder. A run records the hash of the modules that define it, and
keeps a copy of them. Nothing from a run folder is executed unless its hash is that of the project's own files, or
the user says so (`trust_code`). `seqae.contract` says what such code has to be, `own_models` builds it.
"""

import ast
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

from seqae.files import replace_text
from seqae.parameters import Parameters
from seqae.runs.own_frames import place
from seqae.runs.own_modules import import_text, imported_modules, module_files, path_among, similar
from seqae.runs.records import outside_runs, read_record
from seqae.stores import project_root

CELL = "cell"  # the module of a class of a notebook's cell, in parameters cell:NAME
CODE_FOLDER = "code"  # the folder of the copies, in a run folder
# Not part of the hash: a built-in model does not depend on their versions either. run.yaml records them.
_RECORDED = {"torch", "numpy", "accelerate", "seqae"}
_distributions = cache(packages_distributions)  # half a second


class OwnCodeError(ValueError):
    """Code of one's own is missing, is not what it has to be, or may not run; the message says what to do."""


@dataclass(frozen=True)
class OwnCode:
    """Modules of one's own, as texts.

    texts: by path, with those that they import. packages: versions of the installed packages that they import. live: a
    class of a notebook's cell by its module:name, used instead of its text; it stays in this process. defining: the
    hash of what defines a run, so without metrics; None if only metrics are one's own. folders: where its files lie.
    """

    texts: Mapping[str, str]
    packages: Mapping[str, str]
    live: Mapping[str, Any] = field(default_factory=dict, compare=False)
    defining: str | None = None
    folders: Sequence[Path] = field(default=(), compare=False)

    def __getstate__(self) -> dict[str, Any]:  # what travels to other processes
        return {"texts": self.texts, "packages": self.packages, "live": {}, "defining": self.defining}

    @cached_property
    def digest(self) -> str:
        """12 hex digits of a hash of the syntax trees, without comments and layout, and of the packages' versions."""
        parts = [f"{path}\n{ast.unparse(_parsed(text, path))}" for path, text in sorted(self.texts.items())]
        parts += [f"{name} {number}" for name, number in sorted(self.packages.items())]
        return sha256("\0".join(parts).encode()).hexdigest()[:12]

    def load(self, name: str) -> Any:
        """What module:name names. Raises OwnCodeError if the module cannot be imported or lacks the name."""
        if name in self.live:
            return self.live[name]
        module, _, attribute = name.partition(":")
        text = sha256(repr(sorted(self.texts.items())).encode()).hexdigest()[:12]
        try:
            found = import_text(f"seqae_own_{text}", self.texts, module)
        except Exception as error:  # of any type: it is raised in code that is not ours
            raise OwnCodeError(f"{name}: module {module} cannot be imported: {told(error)}") from error
        if not hasattr(found, attribute):
            known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise OwnCodeError(f"{name}: module {module} has no {attribute}{similar(attribute, known)}")
        value = getattr(found, attribute)
        # A record of somebody else must not choose among all that a module has imported.
        home = getattr(value, "__module__", None) or ""
        if isinstance(value, type | FunctionType | BuiltinFunctionType) and home.split(".")[0] != f"seqae_own_{text}":
            raise OwnCodeError(f"{name} is of {home}, not of your own: define a class or a function around it")
        return value

    def other_packages(self, where: str = "here") -> str:
        """Imported packages with another version here than `packages` has, as text: a 1.0 (here 1.1); or empty."""
        here = _packages(self.texts, _version)
        return ", ".join(
            f"{name} {self.packages.get(name, 'none')} ({where} {here.get(name, 'none')})"
            for name in sorted(self.packages.keys() | here.keys())
            if self.packages.get(name) != here.get(name)
        )

    def part(self, name: str) -> "OwnCode":
        """What module:name needs of this code: its module, and what that imports."""
        texts, packages, wanted = dict[str, str](), dict[str, str](), [name.partition(":")[0]]
        while wanted:
            parts = wanted.pop().split(".")
            around = ["/".join([*parts[:n], "__init__.py"]) for n in range(1, len(parts) + 1)]
            for path in [*around, "/".join(parts) + ".py"]:
                if path in self.texts and path not in texts:
                    texts[path] = self.texts[path]
                    wanted += imported_modules(_parsed(texts[path], path), path)
            packages |= {package: number for package, number in self.packages.items() if package == parts[0]}
        return OwnCode(texts, packages)

    def write(self, folder: Path, *, beside: bool = False) -> None:
        """Make `folder` hold these texts and nothing else, or beside what is there."""
        if not beside:
            shutil.rmtree(folder, ignore_errors=True)
        for path, text in self.texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            replace_text(folder / path, text)


def told(error: BaseException) -> str:
    """An error of code that is not ours, in one line, with the place in the user's own files."""
    where = f", line {error.lineno}" if isinstance(error, SyntaxError) else place(error)
    reason = error.msg if isinstance(error, SyntaxError) else str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}{f': {reason}' if reason else ''}{where}"


def own_names(p: Parameters, *, defining: bool = False) -> list[str]:
    """The module:name of each parameter that has one; defining: without metrics, which do not define a run."""
    names = [p.architecture, p.training_loss, *(() if defining else p.metrics)]
    return [name for name in names if ":" in name]


def code_for(
    p: Parameters,
    *,
    copies: Path | None = None,
    trust: bool = False,
    root: Path | None = None,
    texts: Mapping[str, str] | None = None,
    live: Mapping[str, Any] | None = None,
    packages: Mapping[str, str] | None = None,
) -> OwnCode | None:
    """The code that parameters name; None if all is built in.

    It is the project's own if p.code is None or its hash. Otherwise it is that of the folder `copies`, if trust is True
    and its hash is p.code. root: the project, by default the one here. texts: modules that lie in no file; live: as for
    `OwnCode`. packages: versions that a record has; a hash may be of these, too, and a warning then tells of versions
    that are others here. Raises OwnCodeError.
    """
    if not own_names(p):
        return None
    root, missing, own = root or project_root(), None, None
    try:
        found = _found(p, _places(root), texts or {}, packages)
        if p.code in (None, own := found.defining):
            return replace(_told(p, found), live=live or {}, folders=_places(root))
    except OwnCodeError as error:
        if copies is None or (p.code is None and not copies.is_dir()):
            raise
        missing = error
    why = missing or f"the project's own has hash {own}"
    if copies is None or not copies.is_dir():
        raise OwnCodeError(f"code {p.code} is not that of this project ({why}): give the files that it is of")
    if not trust:
        told = f"code {p.code or own_names(p)[0]} of {copies.parent.name} is not run: {why}"
        if edited := None if missing else _edited(found, copies, root):
            raise OwnCodeError(
                f"{told}. Of a run of yours, you have edited {edited} since: --trust-code (in Python: Run.load(folder, "
                f"trust_code=True)) runs the copy that made it. Of a run of somebody else, read that first: {copies}"
            )
        around = _around(p, copies.parent, packages)
        read = f"read its copy, {copies}, and, if you trust it"
        there = around and f"the project around it has it: do this in {around}, or, if you trust that code"
        raise OwnCodeError(f"{told}; {there or read}, say --trust-code (in Python: Run.load(folder, trust_code=True))")
    if (found := _found(p, [copies], {}, packages)).defining != p.code:
        raise OwnCodeError(f"{copies} is damaged: its hash is {found.defining}, and the run was made with {p.code}")
    return _told(p, found)


def recorded_code(p: Parameters, folder: Path, *, trust: bool) -> OwnCode | None:
    """The code of a run that is recorded in a folder, as `code_for`; a record that names code has to have its hash."""
    if p.code is None and own_names(p, defining=True):
        raise OwnCodeError(
            f"{folder.name} has no hash of its code, {own_names(p)[0]}: it is damaged, or not to be trusted"
        )
    packages = recorded_packages(folder) if own_names(p) else None
    return code_for(p, copies=folder / CODE_FOLDER, trust=trust, packages=packages)


def recorded_packages(folder: Path) -> dict[str, str] | None:
    """The versions of the packages that a run's own code imports, as recorded in its folder; None if none are."""
    packages = read_record(folder).get("code", {}).get("packages")
    return {str(name): str(number) for name, number in packages.items()} if isinstance(packages, Mapping) else None


def _places(root: Path) -> list[Path]:
    # Where a project's modules are.
    return [root / "notebooks", root] if outside_runs(root) == root else []


def _around(p: Parameters, run: Path, packages: Mapping[str, str] | None) -> Path | None:
    # The project that a run's folder lies in, if it has the run's code. That does not make it trusted: it may have come
    # with the run. Its modules are read here, and not executed.
    root = project_root(outside_runs(run))
    with suppress(OwnCodeError, OSError):
        return root if _found(p, _places(root), {}, packages).defining == p.code else None
    return None


def _edited(found: OwnCode, copies: Path, root: Path) -> str:
    # The files of the project here, which the run's folder lies in, that differ from the run's copies of them.
    if project_root(outside_runs(copies.parent)) != root:
        return ""
    there = {path: _read(copies / path) for path in found.texts if (copies / path).is_file()}
    return ", ".join(path for path, text in there.items() if text != found.texts[path])


def _told(p: Parameters, code: OwnCode) -> OwnCode:
    if others := code.other_packages():
        recorded = f"code {p.code} of {own_names(p)[0]} was recorded with {others}"
        warnings.warn(f"{recorded}: what it computes may differ from what is recorded", stacklevel=3)
    return code


def _found(
    p: Parameters, folders: Sequence[Path], texts: Mapping[str, str], recorded: Mapping[str, str] | None
) -> OwnCode:
    # With the packages that are installed, or else those recorded, if only these give the hash p.code.
    def of(packages: Mapping[str, str] | None) -> OwnCode:
        names = own_names(p, defining=True)
        defining = find_code(names, folders, texts, packages).digest if names else None
        return replace(find_code(own_names(p), folders, texts, packages), defining=defining)

    today = of(None)
    differs = recorded is not None and p.code not in (None, today.defining)
    return then if differs and (then := of(recorded)).defining == p.code else today


def find_code(
    names: Iterable[str], folders: Sequence[Path], given: Mapping[str, str], recorded: Mapping[str, str] | None = None
) -> OwnCode:
    """The modules of these module:name and all that they import from the same folders.

    given: the texts of modules that lie in no file, by path. recorded: the versions of packages; by default those that
    are installed. Raises OwnCodeError.
    """
    texts, wanted = dict[str, str](), list[str]()
    for name in names:
        module = name.partition(":")[0]
        if module == CELL and f"{CELL}.py" not in given and not module_files(module, folders):
            raise OwnCodeError(f"{name} was a class of a notebook's cell: give it, open_run(..., model={name[5:]})")
        if f"{module}.py" in given:
            texts[f"{module}.py"] = given[f"{module}.py"]
            wanted += imported_modules(_parsed(given[f"{module}.py"], f"{module}.py"), f"{module}.py")
            continue
        if not module_files(module, folders):
            known = {file.stem for folder in folders for file in folder.glob("[!.]*.py")}
            where = " or in ".join(
                f"the project's folder ({folder})" if n else f"{folder.name}/" for n, folder in enumerate(folders)
            )
            raise OwnCodeError(f"{name}: there is no {module.replace('.', '/')}.py in {where}{similar(module, known)}")
        wanted.append(module)
    while wanted:
        module = wanted.pop()
        files = module_files(module, folders)
        for path, file in files.items():
            if path not in texts:
                texts[path] = _read(file)
                wanted += imported_modules(_parsed(texts[path], path), path)
    return OwnCode(texts, _packages(texts, _version if recorded is None else recorded.get))


def _packages(texts: Mapping[str, str], version_of: Callable[[str], str | None]) -> dict[str, str]:
    # The versions of what these texts import and do not hold.
    names = {
        module.partition(".")[0]
        for path, text in texts.items()
        for module in imported_modules(_parsed(text, path), path)
    }
    versions = {name: version_of(name) for name in sorted(names) if name and path_among(texts, name) is None}
    return {name: number for name, number in versions.items() if number}


def _version(package: str) -> str | None:
    if package in sys.stdlib_module_names or package in _RECORDED:
        return None
    try:
        return version(package)
    except PackageNotFoundError:  # it may be of a distribution with another name
        return next((version(name) for name in _distributions().get(package, [])), None)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OwnCodeError(f"{file.name} is not text in UTF-8: {error.reason} at byte {error.start:,}") from None


def _parsed(text: str, path: str) -> ast.Module:
    try:
        return ast.parse(text, path)
    except SyntaxError as error:
        raise OwnCodeError(f"{path} is not Python: {told(error)}") from None
