"""The house: a core that knows no room, rooms with a door in one order, and sizes that one can read."""

import ast
import io
import json
import os
import pydoc
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import seqae

FOLDER = Path(seqae.__file__).parent
PROJECT = Path(__file__).parents[1]
# Each may use those before it.
ORDER = ["stores", "runs", "representations", "reports", "benchmark", "sweeps", "commands"]
ROOMS = {*ORDER}
NOBODYS = {"benchmark"}  # rooms that only the command line and notebooks use
FILES = sorted(FOLDER.rglob("*.py"))
CORE = [file for file in FILES if file.relative_to(FOLDER).parts[0] not in ROOMS]
# What a core that is taken elsewhere cannot count on; yaml and filelock come with accelerate.
BLOCKED = [
    *("papermill", "dask", "distributed", "nbconvert", "nbformat", "jupyter_client", "ipykernel", "IPython", "jinja2"),
    *("typer", "rich", "fsspec", "seaborn", "matplotlib", "pooch", "PIL", "bs4"),
]
WITHOUT = """
import sys
sys.modules |= dict.fromkeys({blocked!r})  # as if none were installed
"""
TRAINS = """
import warnings, pkgutil, importlib, torch
import seqae, seqae.lstm
for package, prefix in ((seqae, "seqae."), (seqae.lstm, "seqae.lstm.")):
    for module in pkgutil.iter_modules(package.__path__, prefix):
        if not module.ispkg: importlib.import_module(module.name)
from seqae import MovingMNIST, SequenceAutoencoder, fit
from seqae.evaluation import evaluate
from seqae.objective import Objective
from seqae.updates import UpdateRule
import numpy as np
digits = np.full((4, 28, 28), 255, np.uint8)
frames = {s: torch.from_numpy(MovingMNIST(digits, seed=1, split=s, frame_size=16, frames=6).sequences(range(8)))
          for s in ("train", "val", "test")}
model = SequenceAutoencoder(architecture="srivastava", task="both", decoder_input="output", activation="sigmoid",
                            hidden=8, frame_size=16, frames_in=3, frames_out=3)
objective = Objective(task="both", frames_in=3, loss="bce", activation="sigmoid")
rows = []
fitted = fit(model, lambda epoch: frames["train"], frames["val"], objective=objective, epochs=2, batch_size=4,
             rule=UpdateRule(lambda weights: torch.optim.Adam(weights, lr=0.01)), device="cpu",
             record=lambda table, found: rows.extend(found))
found = evaluate(model, frames["test"], 4, objective)
print(fitted.epochs, sorted(found.errors), sorted(found.errors["pred"]), len(rows) > 20)
print(*{name for name in sys.modules} & ROOMS)
"""


def module_of(file: Path) -> str:
    return ".".join(["seqae", *file.relative_to(FOLDER).with_suffix("").parts]).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "seqae" and len(parts) > 1 and parts[1] in ROOMS else None


def imports(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """(module, name) of everything imported anywhere in a source, inside functions too; name None: `import module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def functions(file: Path) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(parsed(file)) if isinstance(node, ast.FunctionDef))


def test_the_core_knows_no_room() -> None:
    found = {
        (module_of(file), module)
        for file in CORE
        if file != FOLDER / "__init__.py"
        for module, name in imports(parsed(file))
        if room_of(module) or (module == "seqae" and room_of(f"seqae.{name}"))
    }
    assert found == set()


def test_rooms_stand_in_one_order() -> None:
    wrong = set()
    for file in FILES:
        own = room_of(module_of(file))
        for module, name in imports(parsed(file)) if own else ():
            other = room_of(module) or (room_of(f"seqae.{name}") if module == "seqae" else None)
            if other and other != own:
                upward = ORDER.index(other) > ORDER.index(own)
                if upward or (other in NOBODYS and own != "commands"):
                    wrong.add((module_of(file), module))
    assert wrong == set()


def public_names(room: str) -> set[str]:
    return {*import_module(f"seqae.{room}").__all__}


def test_rooms_are_entered_by_their_doors() -> None:
    wrong = set()
    for file in FILES:
        own = room_of(module_of(file))
        for module, name in imports(parsed(file)):
            other = room_of(module)
            if other and other != own and (module != f"seqae.{other}" or name not in public_names(other)):
                wrong.add((module_of(file), module, name))
    assert wrong == set()


def test_notebooks_import_the_core_and_the_doors() -> None:
    wrong, seen = set(), 0
    for notebook in PROJECT.glob("notebooks/**/*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            for module, name in imports(ast.parse("".join(cell["source"]))):
                if module.split(".")[0] != "seqae":
                    continue
                seen += 1
                room = room_of(module)
                allowed = public_names(room) if room and module == f"seqae.{room}" else set()
                allowed |= {*dir(seqae)} - ROOMS if module == "seqae" else set()
                if (room or module == "seqae") and name not in allowed:
                    wrong.add((notebook.name, module, name))
    assert wrong == set()
    assert seen > 20


@pytest.mark.parametrize("room", [*ORDER, "lstm"])
def test_a_door_says_in_ten_lines_what_is_behind_it_and_every_name_is_there(room: str) -> None:
    door = import_module(f"seqae.{room}")
    assert 1 <= len((door.__doc__ or "").strip().splitlines()) <= 10
    assert all(getattr(door, name) is not None for name in door.__all__)
    assert not [name for name in door.__all__ if name.startswith("_")]


def code_lines(file: Path) -> int:
    """Lines of code: no docstrings, comments or blank lines."""
    text = file.read_text(encoding="utf-8")
    described: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            described |= {*range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in nothing]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - described)


def test_the_core_is_read_in_an_hour() -> None:
    sizes = {module_of(file): code_lines(file) for file in CORE}
    assert sum(sizes.values()) <= 2000, sizes


def test_no_file_and_no_function_is_long() -> None:
    assert [file.name for file in FILES if len(file.read_text(encoding="utf-8").splitlines()) > 300] == []
    long = {f"{module_of(f)}.{n.name}" for f in FILES for n in functions(f) if (n.end_lineno or 0) - n.lineno >= 60}
    assert long - {"seqae.training.fit"} == set()


def test_no_function_takes_more_than_twelve_arguments() -> None:
    many = set()
    for file in FILES:
        for node in functions(file):
            taken = [a for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs] if a.arg != "self"]
            many |= {f"{module_of(file)}.{node.name}"} if len(taken) > 12 and node.name != "__init__" else set()
    assert many == set()


def defined(file: Path) -> Iterator[str]:
    for node in parsed(file).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_each_door_names_what_lives_behind_it() -> None:
    unnamed = {}
    for door in (file for file in FILES if file.name == "__init__.py" and file.parent != FOLDER):
        named = {*re.findall(r"\w+", ast.get_docstring(parsed(door)) or "")}
        behind = {file.stem for file in door.parent.glob("*.py")} - {"__init__", "__main__"}
        unnamed |= {module_of(door): sorted(behind - named)} if behind - named else {}
    assert unnamed == {}


def test_no_public_name_means_two_things() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for file in FILES:
        for name in {name for name in defined(file) if not name.startswith("_")}:
            homes[name].append(module_of(file))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_no_hidden_switch_is_read_from_the_environment() -> None:
    """What is read is documented: where the store and MNIST are, and whether a step is to be compiled."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in FILES)
    assert {*re.findall(r"\bSEQAE_[A-Z_]+\b", text)} == {"SEQAE_STORE", "SEQAE_MNIST_URL", "SEQAE_FUSED"}


@pytest.mark.processes("a Python in which packages cannot be imported")
def test_the_core_trains_where_the_rooms_packages_are_not_installed() -> None:
    rooms = {f"seqae.{room}" for room in ORDER}
    code = WITHOUT.format(blocked=BLOCKED) + TRAINS.replace("& ROOMS", f"& {rooms!r}")
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == ["2 ['pred', 'recon'] ['bce', 'mse'] True", ""]


@pytest.mark.processes("a Python that has imported nothing yet")
def test_what_needs_no_torch_imports_none() -> None:
    """So that commands which only look start at once."""
    names = "seqae.runs.pictures, seqae.reports.figures.curves, seqae.runs.records, seqae.reports.page"
    code = f"import sys, {names}, seqae.commands.terminal; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "seqae.parameters" in loaded
    assert {"torch", "accelerate", "torchmetrics"} & {*loaded} == set()


@pytest.mark.processes("a Python that has imported nothing yet")
def test_what_draws_nothing_imports_no_figures() -> None:
    """Commands and workers import these, some of them thousands of times a day."""
    code = "import sys, seqae.sweeps.planning, seqae.sweeps.execution, seqae.sweeps.dispatch; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert {"seaborn", "matplotlib", "scipy", "papermill", "nbformat", "jsonschema"} & {*loaded} == set()


def test_this_test_sees_what_is_imported() -> None:
    found = {*imports(parsed(FOLDER / "runs" / "run.py"))}
    assert ("seqae.runs.merging", "resolve") in found
    assert ("filelock", None) in found
    assert code_lines(FOLDER / "training.py") > 80


def test_the_package_says_what_it_offers() -> None:
    assert {*seqae.__all__} <= {*dir(seqae)}
    assert [name for name in seqae.__all__ if name not in (seqae.__doc__ or "")] == []
    assert all(getattr(seqae, name) is not None for name in [*seqae.__all__, "Parameters", "SequenceAutoencoder"])
    inherited = {"named_parameters", "model_validate_json"}  # of torch and pydantic, hundreds of lines each
    assert not [name for name in inherited if name in pydoc.render_doc(seqae)]
    assert (FOLDER / "py.typed").exists()


@pytest.mark.processes("a Python that has imported nothing yet")
def test_what_help_names_is_there_where_nothing_is_imported_yet() -> None:
    told = [
        seqae.__doc__,
        *(pydoc.render_doc(getattr(seqae, name)) for name in ("fit", "Fitted", "Objective", "UpdateRule")),
    ]
    named = {*re.findall(r"\bseqae\.\w+(?:\.\w+)*", "\n".join(map(str, told)))} - {"seqae.training"}
    assert {"seqae.contract", "seqae.metrics.UNITS", "seqae.tasks.BRANCHES", "seqae.lstm"} <= named
    code = f"import pydoc, seqae; [eval(name) for name in {sorted(named)}]; help(seqae.contract)"
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert (said.returncode, "A model is a `torch.nn.Module`" in said.stdout) == (0, True), said.stderr


@pytest.mark.processes("a Python that has imported nothing yet")
@pytest.mark.parametrize(
    ("given", "then"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_soon_sleep_unless_it_is_said_otherwise(given: dict[str, str], then: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"} | given
    code = "import seqae, os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [then, "False"]  # torch reads it when it is imported


@pytest.mark.processes("a Python whose platform lacks things")
def test_all_can_be_imported_on_other_platforms() -> None:
    """Where torch has no oneDNN, as on Apple's processors; and where there are no signals of POSIX."""
    lacks = "import types, torch, signal, os; torch.ops.mkldnn = types.SimpleNamespace(); del signal.SIGHUP; "
    lacks += "del signal.pthread_sigmask; del os.fork; "
    code = "import pkgutil, importlib, seqae\nfor m in pkgutil.walk_packages(seqae.__path__, 'seqae.'): "
    code += "importlib.import_module(m.name)"
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", lacks + code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
