"""What comes from outside runs nothing here: no file is unpickled, nothing in it is executed.

Between its own processes the package does pickle, as Dask does: `runs/ranks.py`, over a socket that nobody else has.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

import seqae

ROOT = Path(__file__).parents[1]
PACKAGE = Path(seqae.__file__).parent
SOURCES = sorted({*PACKAGE.rglob("*.py")} - {PACKAGE / "runs" / "ranks.py"})
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
SAFE = {"yaml.SafeLoader", "getattr(yaml, 'CSafeLoader', yaml.SafeLoader)"}


def makes_nothing(tree: ast.Module) -> bool:
    """Whether pickle is only the base of a class that puts one class of this module in the place of every name."""
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    readers = [c for c in classes.values() if [*map(ast.unparse, c.bases)] == ["pickle.Unpickler"]]
    uses = sum(isinstance(node, ast.Name) and node.id == "pickle" for node in ast.walk(tree))
    found = [[m for m in c.body if isinstance(m, ast.FunctionDef) and m.name == "find_class"] for c in readers]
    replaced = [ast.unparse(m.body[0]) for methods in found for m in methods if len(m.body) == 1]
    return bool(readers) and uses == len(readers) == len([r for r in replaced if r.removeprefix("return ") in classes])


def faults(code: str) -> Iterator[str]:
    """What in this code would run what a file holds."""
    tree = ast.parse(code)
    allowed = {"pickle"} if makes_nothing(tree) else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name for name in names if name.split(".")[0] in UNPICKLERS - allowed)
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        last = called.rsplit(".", 1)[-1]
        if called == "torch.load" and given.get("weights_only") != "True":
            yield called
        if called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
            yield called
        if last in ("load", "load_all") and called.startswith("yaml.") and given.get("Loader") not in SAFE:
            yield called
        if last in ("unsafe_load", "full_load", "unsafe_load_all", "full_load_all", "read_pickle"):
            yield called
        if called in ("eval", "exec"):
            yield called


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_unpickles(path: Path) -> None:
    assert [*faults(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT / "notebooks")))
def test_no_notebook_unpickles(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert [fault for cell in cells if cell.cell_type == "code" for fault in faults(cell.source)] == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle\nclass A(pickle.Unpickler):\n    pass\nA(f).load()",
        "import pickle\nclass A(pickle.Unpickler):\n    def find_class(self, module, name):\n        return eval(name)",
        "import pickle\nclass A(pickle.Unpickler):\n    def find_class(self, m, n):\n        return A\npickle.load(f)",
        "from joblib import load",
        "import cloudpickle.compat as c",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f, Loader=yaml.Loader)",
        "yaml.load(f)",
        "yaml.unsafe_load(f)",
        "pd.read_pickle(f)",
        "eval(text)",
    ],
)
def test_this_test_sees_what_unpickles(code: str) -> None:
    assert [*faults(code)]


def test_a_record_that_asks_for_an_object_is_refused(tmp_path: Path) -> None:
    """In a run folder, and in a parameter file, that someone else sent."""
    from seqae.parameters import ParameterError
    from seqae.runs.run import Run, RunError
    from seqae.sweeps.parameter_files import read_yaml

    (tmp_path / "run.yaml").write_text("family: !!python/object/apply:os.system ['touch ran']\n")
    with pytest.raises(RunError, match="damaged"):
        Run.load(tmp_path)
    with pytest.raises(ParameterError, match="is not YAML"):
        read_yaml(tmp_path / "run.yaml")
