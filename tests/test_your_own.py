"""docs/your-own.md does what it says; a class of a notebook's cell is a model, too."""

import importlib
import json
import linecache
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_own_code import SMALL
from test_sweep import TINY, TRAIN, make_project

import seqae
from seqae.parameters import ParameterError
from seqae.runs import assignment
from seqae.runs.cell_classes import class_source
from seqae.runs.notebook_cells import family_defaults
from seqae.runs.own_code import OwnCodeError
from seqae.runs.run import Run, open_run
from seqae.sweeps.planning import plan
from seqae.sweeps.shipped_files import SHIPPED

PAGE = (Path(__file__).parents[1] / "docs" / "your-own.md").read_text(encoding="utf-8")
MODULES = dict(re.findall(r"`notebooks/(\w+)\.py`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
PARAMETERS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
CELLS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def project(tmp_path, monkeypatch):
    for folder in ("notebooks", "params"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_does_what_it_says(project) -> None:
    assert sorted(MODULES) == ["my_losses", "my_metrics", "my_models"]
    for name, text in MODULES.items():
        (project / "notebooks" / f"{name}.py").write_text(text)
    given = {key: value for part in PARAMETERS for key, value in part.items()}
    assert set(given) == {
        "architecture", "architecture_arguments", "task", "label", "training_loss", "activation", "metrics",
    }  # fmt: skip
    run = open_run("mine", SMALL, TINY | given).train()
    assert (run.status, run.parameters.label) == ("done", "GRU")
    assert {"mse", "bce", "iou"} <= set(run.test().metric)
    assert isinstance(run.model(), torch.nn.Module)


def test_the_training_loop_stands_alone_as_the_page_says(project) -> None:
    (alone,) = [cell for cell in CELLS if "seqae.fit(" in cell]
    names: dict[str, Any] = {}
    exec(alone, names)
    assert names["frames"].shape == (40, 6, 16, 16)
    assert {row["epoch"] for row in names["rows"]["metrics"]} == {1, 2, 3}
    first = names["fitted"].weights
    exec(alone, names)  # from its checkpoint: nothing is left to train
    assert {row["epoch"] for row in names["rows"]["metrics"]} == set()
    assert all(torch.equal(first[name], weight) for name, weight in names["fitted"].weights.items())
    slower = alone.replace("lr=1e-3", "lr=1e-4")
    with pytest.raises(ValueError, match=r"lr 0.001, not 0.0001: name another file"):
        exec(slower, names)
    (again,) = [cell for cell in CELLS if "slower.pt" in cell]
    exec(again, names)
    assert all(torch.equal(names["weights"][name], weight) for name, weight in names["model"].state_dict().items())
    exec(slower.replace('seqae.Checkpointing(Path("state.pt"))', "again"), names)
    assert Path("slower.pt").exists()


def test_rows_in_a_file_outlive_the_process_as_the_page_says(project) -> None:
    (alone,) = [cell for cell in CELLS if "seqae.fit(" in cell]
    (kept,) = [cell for cell in CELLS if "resume=resume" in cell]
    alone = alone.replace('checkpoint=seqae.Checkpointing(Path("state.pt"))', "checkpoint=checkpoint")
    alone = alone.replace("record=lambda table, new: rows[table].extend(new)", "record=record")
    first, again = (
        f"import seqae\nfrom pathlib import Path\n{kept}{alone}".replace("epochs=3", n)
        for n in ("epochs=2", "epochs=4")
    )
    exec(first, {})
    with Path("metrics.jsonl").open("a") as file:  # as if it had been killed after it recorded an epoch
        file.write(json.dumps({"epoch": 3, "metric": "mse"}) + "\n")
    exec(again, {})
    rows = [json.loads(line) for line in Path("metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if (row["split"], row["metric"]) == ("val", "objective")] == [1, 2, 3, 4]


def test_what_the_page_says_of_moving_mnist_and_of_figures_of_test_works(project) -> None:
    names: dict[str, Any] = {}
    alone, made, figures = (cell for cell in CELLS if re.search(r"seqae\.(fit|load_digits)\b|import evaluate", cell))
    exec(alone, names)
    exec(made + figures, names)
    encoded, stacks = (cell for cell in CELLS if re.search(r"import seen_frames|import Feedback", cell))
    exec(encoded + stacks, names)
    assert names["state"].shape == (40, 2 * 64)
    assert names["z"].shape == (6, 40, 256)
    assert names["train"](2).shape == names["val"].shape == names["train"](1).shape == (40, 12, 16, 16)
    assert not torch.equal(names["train"](1), names["train"](2))
    assert {name: tuple(values.shape) for name, values in names["errors"].items()} == dict.fromkeys(
        ("mse", "bce", "mae", "psnr", "ssim"), (6,)
    )
    for told in re.findall(r"seqae\.\w+(?:\.\w+)*", PAGE.split("## The training loop alone")[1]):
        assert eval(told, {"seqae": seqae}) is not None


@pytest.mark.processes("a Python in which packages cannot be imported")
def test_the_training_loop_needs_the_packages_that_the_page_says(project) -> None:
    (alone,) = [cell for cell in CELLS if "seqae.fit(" in cell]
    (needed,) = re.findall(r"    pip install -c PATH/constraints.txt (torch .*?)  ", PAGE)
    allowed = {*needed.replace("-", "_").split(), "seqae", "safetensors", "pyyaml"}  # the last are accelerate's own
    metadata = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    others = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in metadata} - allowed  # type: ignore[index]
    spelled = {"beautifulsoup4": "bs4", "ipython": "IPython", "pillow": "PIL", "scikit_learn": "sklearn"}
    needless = {spelled.get(name, name) for name in others} - {"filelock", "fsspec", "jinja2", "markupsafe"}  # torch's
    assert {"pydantic", "torchmetrics", "mlxtend", "pandas"} <= needless
    blocked = f"import sys; sys.modules |= dict.fromkeys({sorted(needless)})\n"
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", blocked + alone], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


def test_what_readme_does_with_a_run_works(project, monkeypatch) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(from seqae import open_run.*?)```", readme, re.DOTALL)
    monkeypatch.setattr(seqae, "parameter_cells", lambda family: (SMALL, TINY | {"task": "recon"}))
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["run"].status == "done"
    assert names["frames"].shape[1] == names["run"].parameters.frames_in


class Notebook:
    """Cells that were executed, as a kernel's __main__: names, and sources where Python looks for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = types.ModuleType("notebook_main")
        monkeypatch.setitem(sys.modules, "notebook_main", self.module)
        self.count = 0

    def run_cell(self, source: str) -> Any:
        self.count += 1
        name = f"<cell {self.count}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), vars(self.module))
        return self.module


@pytest.fixture
def notebook(monkeypatch) -> Notebook:
    return Notebook(monkeypatch)


def test_a_class_of_a_cell_trains_with_what_it_uses_of_other_cells(project, notebook) -> None:
    notebook.run_cell("import torch.nn.functional as F\nfrom torch import Tensor\nSLOPE = 0.1\nunused = object()")
    notebook.run_cell("def bent(x: Tensor) -> Tensor:\n    return F.leaky_relu(x, SLOPE)")
    text = MODULES["my_models"].replace("self.encode(frames)", "bent(self.encode(frames))")
    kind = notebook.run_cell(text).GRUForecaster
    given = TINY | {"task": "pred"}
    run = open_run("mine", SMALL, given, model=kind).train()
    assert isinstance(run.model(), kind)
    assert run.parameters.architecture == "cell:GRUForecaster"
    copy = (run.folder / "code" / "cell.py").read_text()
    assert all(
        part in copy for part in ("SLOPE = 0.1", "def bent", "class GRUForecaster", "import torch.nn.functional")
    )
    assert "unused" not in copy
    same = notebook.run_cell("# again\n" + text).GRUForecaster
    assert open_run("mine", SMALL, given, model=same).folder == run.folder
    other = notebook.run_cell(text.replace("hidden=64", "hidden=8")).GRUForecaster
    assert open_run("mine", SMALL, given, model=other).folder != run.folder
    with pytest.raises(OwnCodeError, match="trust_code"):
        Run.load(run.folder).model()
    assert type(Run.load(run.folder, trust_code=True).model()).__name__ == "GRUForecaster"


def test_a_class_of_a_cell_stays_in_its_notebook(project, notebook, monkeypatch) -> None:
    kind = notebook.run_cell(MODULES["my_models"]).GRUForecaster
    with pytest.raises(ParameterError, match="devices 2: GRUForecaster is a class of a notebook's cell"):
        open_run("mine", SMALL, TINY | {"devices": 2, "task": "pred"}, model=kind)
    monkeypatch.setattr(assignment, "_current", assignment.Assignment("0nm-pred-output-01234567"))
    told = r"^notebooks/mine.ipynb opens its runs with model=GRUForecaster, .*: take model= out of .* my_models:GRU"
    with pytest.raises(OwnCodeError, match=told):
        open_run("mine", SMALL, TINY | {"task": "pred"}, model=kind)


def test_the_cell_of_the_page_trains_in_a_new_project(project, notebook, monkeypatch) -> None:
    defaults = family_defaults(SHIPPED / "new/notebooks/mine.ipynb")
    assert defaults["task"] != "pred"
    monkeypatch.setattr(seqae, "parameter_cells", lambda family: (defaults, TINY | {"frame_size": 16}))
    notebook.run_cell("from seqae import open_run, parameter_cells\n" + MODULES["my_models"])
    (cell,) = [cell for cell in CELLS if "model=GRUForecaster" in cell]
    assert notebook.run_cell(cell).run.status == "done"


def test_a_class_that_was_edited_since_a_run_was_opened_is_not_trained_as_it_was(project, notebook) -> None:
    runs = [
        open_run("mine", SMALL, TINY | {"task": "pred", "seed": seed}, model=notebook.run_cell(cell).GRUForecaster)
        for seed, cell in enumerate([MODULES["my_models"], "# again\n" + MODULES["my_models"]])
    ]
    assert runs[0].train().status == "done", "the cell was executed again, and not edited"
    notebook.run_cell(MODULES["my_models"].replace("hidden=64", "hidden=8"))
    told = r"^class GRUForecaster or what it uses has been edited since this run was opened: run the"
    with pytest.raises(OwnCodeError, match=told):
        runs[1].train()


@pytest.mark.parametrize("edited", ["SLOPE = 0.2", "def bent(x):\n    return 2 * x", "SLOPE = object()"])
def test_nor_is_one_that_uses_what_another_cell_has_changed_since(edited: str, project, notebook) -> None:
    notebook.run_cell("SLOPE = 0.1\ndef bent(x):\n    return SLOPE * x")
    kind = notebook.run_cell(MODULES["my_models"].replace("self.encode(frames)", "bent(self.encode(frames))"))
    run, other = (
        open_run("mine", SMALL, TINY | {"task": "pred", "seed": seed}, model=kind.GRUForecaster) for seed in (0, 1)
    )
    assert run.train().status == "done"
    notebook.run_cell(edited)
    told = r"^class GRUForecaster or what it uses has been edited since this run was opened"
    with pytest.raises(OwnCodeError, match=told):
        other.train()
    with pytest.warns(UserWarning, match=told):
        run.train()


@pytest.fixture
def imports(project, monkeypatch):
    monkeypatch.syspath_prepend(project / "notebooks")
    yield
    sys.modules.pop("my_layers", None)


def test_a_class_of_a_module_is_not_taken_for_one_of_a_cell(project, imports) -> None:
    (project / "notebooks" / "my_layers.py").write_text(MODULES["my_models"])
    kind = importlib.import_module("my_layers").GRUForecaster
    told = r"^model=GRUForecaster is of the module my_layers, .* give architecture: my_layers:GRUForecaster, or"
    with pytest.raises(OwnCodeError, match=told):
        open_run("mine", SMALL, TINY | {"task": "pred"}, model=kind)


def test_a_class_of_a_cell_is_not_recorded_with_an_edit_that_it_does_not_use(project, notebook, imports) -> None:
    def opened():
        kind = notebook.run_cell("from my_layers import SCALE\n" + cell).GRUForecaster
        return open_run("mine", SMALL, TINY | {"task": "pred"}, model=kind)

    layers = project / "notebooks" / "my_layers.py"
    cell = MODULES["my_models"].replace("self.out(", "SCALE() * self.out(")
    layers.write_text("def SCALE():\n    return 1\n")
    first = opened()
    layers.write_text("def SCALE():  # a comment\n    return 1\n")
    assert opened().name == first.name
    layers.write_text("def SCALE():\n    return 0.125\n")
    with pytest.raises(
        OwnCodeError, match=r"^my_layers.py has been edited since it was imported, .* restart the kernel"
    ):
        opened()
    importlib.reload(sys.modules["my_layers"])
    assert opened().name != first.name


@pytest.mark.parametrize(("before", "after"), [("1", "0.125"), ("'a'", "'b'"), ("(1, 2)", "(1, 3)"), ("True", "1")])
def test_nor_with_an_edited_constant_of_a_module_that_it_uses(before, after, project, notebook, imports) -> None:
    layers = project / "notebooks" / "my_layers.py"
    cell = "import my_layers\n" + MODULES["my_models"].replace("self.out(", "my_layers.scale() * self.out(")
    module = "import math\n{}\nROOT = math.sqrt(2)\nUSED = []\ndef scale():\n    return 1\n"
    layers.write_text(module.format(f"FACTOR = {before}"))
    kind = notebook.run_cell(cell).GRUForecaster
    importlib.import_module("my_layers").USED.append(kind)
    open_run("mine", SMALL, TINY | {"task": "pred"}, model=kind)
    layers.write_text(module.format(f"\nFACTOR = {after}  # edited"))
    with pytest.raises(OwnCodeError, match=r"^my_layers.py has been edited since it was imported"):
        open_run("mine", SMALL, TINY | {"task": "pred"}, model=kind)
    importlib.reload(sys.modules["my_layers"])
    open_run("mine", SMALL, TINY | {"task": "pred"}, model=kind)


def test_an_instance_in_the_place_of_a_class_is_named(project, notebook) -> None:
    model = notebook.run_cell(MODULES["my_models"]).GRUForecaster((16, 16), 2)
    told = (
        "^model must be a class, not an instance of GRUForecaster: give model=GRUForecaster, .* architecture_arguments$"
    )
    with pytest.raises(ParameterError, match=told):
        open_run("mine", SMALL, TINY | {"task": "pred"}, model=model)
    told = "^model must be a class, not 'GRUForecaster': name one of a module as architecture: module:name$"
    with pytest.raises(ParameterError, match=told):
        open_run("mine", SMALL, TINY | {"task": "pred"}, model="GRUForecaster")


def test_a_plan_says_that_a_notebook_opens_its_runs_with_a_class_of_a_cell(project) -> None:
    cell = TRAIN.format("mine").replace(").train()", ", model=GRUForecaster).train()")
    for family, source in {
        "mine": cell,
        "fam": TRAIN.format("fam"),
        "none": cell.replace("=GRUForecaster", "=None"),
    }.items():
        make_project(project, {family: ["%matplotlib inline\n" + source]}, {f"{family}/a": {}})
    told: list[str] = []
    plan([project / "params"], tell=told.append)
    (line,) = told
    assert line.startswith("seqae: notebooks/mine.ipynb opens its runs with model=GRUForecaster, ")
    assert ": take model= out of that cell" in line


def test_what_has_no_source_is_named(project, notebook) -> None:
    notebook.run_cell("table = object()")
    kind = notebook.run_cell(
        MODULES["my_models"].replace("self.encode(frames)", "self.encode(frames)[:, table]")
    ).GRUForecaster
    with pytest.raises(OwnCodeError, match="table is a object, which has no source"):
        open_run("mine", SMALL, TINY | {"task": "pred"}, model=kind)


def test_variables_of_a_class_are_not_those_of_the_notebook(project, notebook) -> None:
    cell = """
class Net:
    def forward(self, frames, size=SIZE):
        return [t for t in range(size) for _ in [frames]], [(lambda h: h + t)(h) for h, t in [(1, 2)]]
"""
    source = class_source(notebook.run_cell(f"SIZE = 3\n{cell}").Net)
    module = notebook.run_cell(f"_ = frames = h = forward = object()\nt = 3\n{cell}")
    assert class_source(module.Net) == source
    assert "SIZE = 3" in source


@pytest.mark.parametrize(
    "value",
    [
        "float('nan')", "float('-inf')", "[1, [float('inf'), {'a': (1,)}], ()]", """'it\\'s "quoted"\\n'""", "set()",
        "{'b', 'a', 'c'}", "{1: None, 'x': b'\\x00', 2.5: frozenset({1})}",
    ],
)  # fmt: skip
def test_any_plain_value_is_written_as_it_is(project, notebook, value: str) -> None:
    module = notebook.run_cell(f"LEVELS = {value}\nclass Net:\n    def forward(self):\n        return LEVELS")
    source = class_source(module.Net)
    names: dict[str, Any] = {}
    exec(source, names)
    assert repr(names["LEVELS"]) == repr(eval(value)) or names["LEVELS"] == eval(value)
    if value.startswith("{'b'"):
        assert "set(['a', 'b', 'c'])" in source  # in one order in every process


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[1, object()]", "LEVELS is or holds a object, which has no source"),
        ("__import__('numpy').float64(1)", "LEVELS is or holds a float64"),
        ("{'a': __import__('torch').zeros(2)}", "LEVELS is or holds a Tensor"),
        ("[]; LEVELS.append(LEVELS)", "LEVELS contains itself"),
    ],
)
def test_a_value_that_cannot_be_written_is_named(project, notebook, value: str, told: str) -> None:
    module = notebook.run_cell(f"LEVELS = {value}\nclass Net:\n    def forward(self):\n        return LEVELS")
    with pytest.raises(OwnCodeError, match=told):
        class_source(module.Net)


def test_the_cell_of_the_page_names_what_the_package_offers() -> None:
    assert {"open_run", "parameter_cells"} <= set(dir(seqae))
    (cell,) = [cell for cell in CELLS if "model=GRUForecaster" in cell]
    compile(cell, "cell", "exec")
