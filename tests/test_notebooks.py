"""The notebooks and parameter files in git: their form, and that each runs top to bottom from a fresh kernel."""

import ast
import html
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
import torch
import yaml
from conftest import barriers, fits
from typer.testing import CliRunner

from seqae.architectures import ARCHITECTURES
from seqae.commands.main import app
from seqae.losses import LOSSES
from seqae.reports.head import Facts
from seqae.reports.index import update_index
from seqae.reports.page import render_notebook
from seqae.runs.finding import find_runs
from seqae.runs.merging import resolve
from seqae.runs.notebook_cells import family_defaults
from seqae.runs.optimizers import UNFIT
from seqae.runs.run import Run, open_run
from seqae.runs.units import counted
from seqae.sweeps import execution
from seqae.sweeps.notebooks import execute_notebook
from seqae.sweeps.parameter_files import read_yaml
from seqae.sweeps.planning import plan

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
FAMILIES = sorted(folder for folder in (ROOT / "params").iterdir() if folder.is_dir() and folder.name != "scale")
FILES = [file for file in sorted((ROOT / "params").rglob("*.yaml")) if file.parent.name != "scale"]


def tagged(cell):
    return "parameters" in cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT / "notebooks")))
def test_form(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].source.startswith("# ")
    assert "**The question.**" in notebook.cells[0].source
    assert sum(map(tagged, code)) == 1
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        tree = ast.parse(cell.source)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        if tagged(cell):
            assert cell.source.startswith("# Parameters of ")
            assert all(isinstance(node, ast.AnnAssign) for node in tree.body), "every parameter has a type"
        else:
            assert len(cell.source.splitlines()) <= 8
    kinds = [cell.cell_type for cell in notebook.cells]
    after_parameters = kinds[kinds.index("code") :]
    assert "markdown" in after_parameters
    assert notebook.cells[-2].source.startswith("##") or notebook.cells[-3].source.startswith("##")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT / "notebooks")))
def test_a_notebooks_links_lead_to_files_and_its_parameters_are_decoded(path):
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", prose) if "://" not in link]
    assert [link for link in links if not (path.parent / link.partition("#")[0]).is_file()] == []
    for line in next(cell.source for cell in notebook.cells if tagged(cell)).splitlines():
        if line.startswith("loss:"):
            assert all(f"{name} " in line.replace(":", " ") for name in LOSSES), "the five codes"
            assert all(part in line for part in ("1 (-1, 1), 0 (0, 1)", "t tanh", "s sigmoid", "m mse, b bce"))


def test_the_notebook_models_names_every_architecture():
    notebook = nbformat.read(ROOT / "notebooks/models.ipynb", as_version=4)
    texts = {kind: "".join(c.source for c in notebook.cells if c.cell_type == kind) for kind in ("markdown", "code")}
    for kind, text in texts.items():
        assert {*ARCHITECTURES} - {*re.findall(r"\w+", text)} == set(), kind


def lacks(code: str) -> list[str]:
    """What code asks of the library that is not there: imported names; attributes, arguments of them and of runs."""
    nodes, missing = [*ast.walk(ast.parse(code))], []
    known = dict.fromkeys(("run", "original", "again", "shown"), Run(Path(), "f", resolve(), {}))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "seqae":
            module = importlib.import_module(node.module)
            missing += [f"{node.module}.{alias.name}" for alias in node.names if not hasattr(module, alias.name)]
            known |= {alias.asname or alias.name: getattr(module, alias.name, None) for alias in node.names}
    for node in nodes:
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in known:
                called = known[name]
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attribute)) if name in known:
                called = getattr(known[name], attribute, None)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in known:
                missing += [f"{name}.{attribute}"] if attribute not in dir(known[name]) else []
                continue
            case _:
                continue
        if callable(called) and not any(isinstance(given, ast.Starred) for given in node.args):
            try:
                named = dict.fromkeys(given.arg for given in node.keywords if given.arg)
                inspect.signature(called).bind_partial(*node.args, **named)
            except TypeError as error:
                missing.append(f"{ast.unparse(node)}: {error}")
    return missing


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT / "notebooks")))
def test_what_a_notebook_asks_of_the_library_is_there(path):
    code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert lacks("\n".join(code)) == []


@pytest.mark.parametrize(
    "code",
    [
        "from seqae.reports import nothing",
        "from seqae.reports import compare\ncompare.nothing(run)",
        "from seqae.reports import compare\ncompare.table([], colour=3)",
        "from seqae import open_run\nopen_run('a', {}, {}, 4)",
        "run.nothing",
        "run.outputs(nothing=1)",
    ],
)
def test_this_test_sees_what_is_not_there(code):
    assert len(lacks(code)) == 1


@pytest.mark.parametrize("family", FAMILIES, ids=lambda folder: folder.name)
def test_each_family_has_its_notebook_its_comparison_and_parameter_files(family):
    assert family_defaults(ROOT / "notebooks" / f"{family.name}.ipynb")
    assert family_defaults(ROOT / "notebooks" / "compare" / f"{family.name}.ipynb")["family"] == family.name
    assert any(family in file.parents for file in FILES)


@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
def test_each_parameter_file_is_sound_at_each_scale_and_defines_a_run_of_its_own(scale, tmp_path):
    planned = plan([ROOT / "params"], scale=scale, store=str(tmp_path))  # raises with every fault of every file
    assert len({item.run.folder for item in planned}) == len(FILES)
    assert Counter(item.run.family for item in planned) == Counter(
        file.relative_to(ROOT / "params").parts[0] for file in FILES
    )


def test_files_begin_by_saying_what_they_are_for():
    assert [file for file in (ROOT / "params").rglob("*.yaml") if not file.read_text().startswith("# ")] == []


def test_the_families_hold_what_they_promise():
    """Every architecture in every order, every dense optimizer of torch, every precision, every version."""
    given = {file.relative_to(ROOT / "params").as_posix(): read_yaml(file) for file in FILES}
    models = {(v["architecture"], v["task"]) for k, v in given.items() if k.startswith("models/") and "loss" not in v}
    assert models >= {(a, t) for a in ARCHITECTURES for t in ("recon", "recon_ordered", "pred")}
    boxed = {v["optimizer"]: v for k, v in given.items() if k.startswith("optimizers/out-of-the-box/")}
    torchs = {n for n, k in vars(torch.optim).items() if isinstance(k, type) and issubclass(k, torch.optim.Optimizer)}
    assert {*boxed} == torchs - {"Optimizer"} - {*UNFIT}
    its_defaults = {name: {"learning_rate": "none", "label": f"{name}, its defaults"} for name in boxed}
    assert boxed == {name: {"optimizer": name, **rest} for name, rest in its_defaults.items()}
    assert {v["precision"] for k, v in given.items() if k.startswith("precision/")} == {"none", "bf16", "fp16"}
    versions = sorted(Path(k).stem for k in given if k.startswith("versions/"))
    assert versions == [f"v000{n}" for n in range(4, 10)]
    assert {v["gain"] for k, v in given.items() if k.startswith("saturation/") and "gain" in v} >= {10, 100}


def test_the_thirty_are_the_five_losses_in_the_six_ways():
    found = {tuple(read_yaml(file).values()) for file in (ROOT / "params/losses").glob("*.yaml")}
    assert found == {(n, t, d) for n in LOSSES for t in ("recon", "pred", "both") for d in ("zero", "output")}
    for file in (ROOT / "params/losses").glob("*.yaml"):
        assert file.stem == "-".join(read_yaml(file).values())


def test_run_names_are_told_apart_and_hold_what_differs():
    defaults = family_defaults(ROOT / "notebooks/losses.ipynb")
    names = [open_run("losses", defaults, read_yaml(file)).name for file in FILES if "losses" in file.parts]
    assert len(set(names)) == len(names)
    assert {"0sm-pred-zero", "0nm-recon-output", "0sb-recon-output-gain10"} <= {n.rsplit("-", 1)[0] for n in names}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda folder: folder.name)
def test_the_notebooks_own_defaults_are_the_quick_scale(family):
    defaults = family_defaults(ROOT / "notebooks" / f"{family.name}.ipynb")
    quick = [ROOT / "params/scale/quick.yaml", family / "scale/quick.yaml"]
    assert resolve(defaults, *(read_yaml(file) for file in quick if file.exists())) == resolve(defaults)


# One or more files of each family: executed once, at smoke scale, as a user would.
SMOKE = {
    "losses": ["0nm-recon-output", "0nm-pred-zero", "0sb-both-zero", "0sm-recon-output", "fixes/gain10"],
    "models": ["srivastava-recon_ordered", "cnn/cnn_v1-recon", "ranges/lstm_copy-half-tanh"],
    "optimizers": ["base", "out-of-the-box/muon", "one-at-a-time/decay-cosine"],
    "paper": ["composite-conditional-recon-truth", "own/composite-conditional-2-layers"],
    "saturation": ["0sb-gain1", "0sb-readout"],
    "precision": ["srivastava-float32", "srivastava-fp16"],
    "cnn": ["cnn_flatten"],
    "best": ["recipe", "without/reconstruction"],
    "versions": ["v0004", "v0007"],
    "own": ["gru", "gru-focal", "clips/srivastava"],
    "representations": ["recon", "pred", "both"],
}


EVIL = "<script>alert(1)</script>"
UNUSUAL = [  # parameters that a family's notebook was not written for
    ("params/saturation/0sb-readout.yaml", "loss=0nm", "optimizer=SGD", "learning_rate=1e30", "clip_norm=none"),
    ("params/paper/composite.yaml", "loss=0nm", "patience=1", "epochs=4", "learning_rate=1e-7"),
]


@pytest.fixture(scope="module")
def smoke_store(tmp_path_factory):
    """Runs of every family made by `seqae run` at smoke scale."""
    store = tmp_path_factory.mktemp("project") / "store"
    files = [str(ROOT / f"params/{family}/{name}.yaml") for family, names in SMOKE.items() for name in names]
    told = CliRunner().invoke(app, ["run", *files, "--scale", "smoke", "--store", str(store)])
    assert told.exit_code == 0, told.output
    for file, *given in UNUSUAL:
        values = dict(pair.split("=") for pair in given)
        (item,) = plan([ROOT / file], scale="smoke", given=values, store=str(store))
        assert execution.execute(item).reason is None
    for file in store.glob("*/*/run.yaml"):  # a label is shown as text everywhere
        record = yaml.safe_load(file.read_text())
        record["parameters"]["label"] = f"{EVIL} {file.parent.name}"
        file.write_text(yaml.safe_dump(record))
    return store


def executed(notebook: Path, out: Path, parameters: dict, **environment: str) -> None:
    """In a forked kernel, which starts in a second."""
    text = notebook.read_text(encoding="utf-8")
    assert execute_notebook(text, out, name="x", parameters=parameters, environment=environment) is None


pytestmark = [
    # papermill 2.7 opens kernels and files through libraries that warn; ours are errors.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.mark.parametrize("family", [*SMOKE])
@pytest.mark.soak
def test_the_notebook_runs_top_to_bottom(smoke_store, family):
    runs = find_runs(smoke_store, family)
    assert len(runs) == len(SMOKE[family]) + sum(f"params/{family}/" in file for file, *_ in UNUSUAL)
    assert {run.status for run in runs} == {"done"}
    for run in runs:
        cells = [cell for cell in nbformat.read(run.folder / "notebook.ipynb", 4).cells if cell.cell_type == "code"]
        drawn = [cell.outputs for cell in cells if "figures.show(" in cell.source and "if " not in cell.source]
        assert drawn
        assert all(drawn)
        assert run.verdict.split()[0] in (run.folder / "report.html").read_text()
        assert (run.folder / "report.html").stat().st_size < 3_000_000


@pytest.mark.soak
def test_the_verdict_tells_what_cannot_learn(smoke_store):
    runs = find_runs(smoke_store, "losses")
    sigmoid = next(run for run in runs if run.parameters.loss == "0sb" and run.parameters.gain == 1)
    assert sigmoid.verdict.startswith("cannot learn: floor 0.0")
    assert set(sigmoid.test()["branch"]) == {"recon", "pred"}


@pytest.mark.soak
def test_unusual_runs_end_with_a_verdict(smoke_store):
    verdicts = [run.verdict for family in ("saturation", "paper") for run in find_runs(smoke_store, family)]
    assert "diverged at epoch 1" in verdicts
    assert any(verdict.endswith("stopped at epoch 2") for verdict in verdicts)


@pytest.mark.soak
def test_bare_papermill_makes_the_same_run(smoke_store, tmp_path):
    """The same notebook and parameters, without `seqae run`: the same folder name, the same numbers."""
    given = read_yaml(ROOT / "params/scale/smoke.yaml") | read_yaml(ROOT / "params/losses/0nm-pred-zero.yaml")
    papermill.execute_notebook(
        ROOT / "notebooks/losses.ipynb",
        tmp_path / "out.ipynb",
        given | {"store": str(tmp_path / "store")},
        kernel_name="python3",
        progress_bar=False,
    )
    [run] = find_runs(str(tmp_path / "store"))  # the store as a string
    [swept] = [other for other in find_runs(smoke_store, "losses") if other.name == run.name]
    columns = ["epoch", "split", "branch", "metric", "value"]
    # Not to the last bit: this kernel has as many threads as there are cores, those of a sweep share them. Muon, where
    # it computes in bfloat16, makes more of a last bit.
    pd.testing.assert_frame_equal(run.metrics()[columns], swept.metrics()[columns], rtol=5e-3, atol=1e-4)


@pytest.mark.soak
def test_the_diarys_minibatches_see_few_sequences(tmp_path):
    """24 sequences in batches of 4 are 6 batches: 4 sequences in the first and one new one in each of the others."""
    small = {"width": 0.01, "train_sequences": 24, "val_sequences": 8, "batch_size": 4, "epochs": 2}
    executed(ROOT / "notebooks/diary.ipynb", tmp_path / "out.ipynb", small)
    cells = [cell for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells if cell.cell_type == "code"]
    told = [output.data.get("text/markdown", "") for cell in cells for output in cell.outputs if "data" in output]
    assert any("sees 24 sequences, one of *sliding* **9** of them" in text for text in told)
    assert "for 9 instead of 24 sequences an epoch" in told[-1]


@pytest.mark.parametrize("notebook", [*SMOKE, "compare"])
@pytest.mark.soak
def test_the_comparison_runs_top_to_bottom(smoke_store, tmp_path, notebook):
    family, out = ("losses" if notebook == "compare" else notebook), tmp_path / "compare.ipynb"
    source = ROOT / "notebooks" / ("compare.ipynb" if notebook == "compare" else f"compare/{notebook}.ipynb")
    names = [run.name for run in find_runs(smoke_store, family)] if notebook == "compare" else []
    parameters = {"family": family, "runs": names}  # without names, the notebook chooses all
    executed(source, out, parameters, SEQAE_STORE=str(smoke_store))
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    figures = [output for cell in cells for output in cell.outputs if "image/svg+xml" in output.get("data", {})]
    assert len(figures) >= 2
    assert all(output.metadata["image/svg+xml"]["alt"] for output in figures)
    assert cells[-1].outputs, "the conclusion says something"
    text = "".join(output.get("data", {}).get("text/markdown", "") for cell in cells for output in cell.outputs)
    assert f"**{counted(len(find_runs(smoke_store, family)), 'run')}**" in text
    assert "left out" not in text
    pages = [output.get("data", {}).get("text/html", "") for cell in cells for output in cell.outputs]
    assert EVIL not in "".join(pages)
    assert html.escape(EVIL) in "".join(pages)
    render_notebook(out, tmp_path / "compare.html", Facts("the comparison", "done", None))
    page = (tmp_path / "compare.html").read_text()
    assert EVIL not in page, "in Markdown code is as it was written, and escaped where it is shown"
    assert html.escape(html.escape(EVIL)) not in page


# The last test here: papermill, in this process, and a browser do not go together.
@pytest.mark.soak
def test_real_reports_ask_for_nothing_and_say_what_they_show(smoke_store, visit):
    update_index(smoke_store)
    pages, families = [*sorted(smoke_store.glob("*/*/report.html")), smoke_store / "index.html"], set()
    for file in pages:
        wide = [] if file.parents[1].name in families else [(1440, "light")]  # of a family they are alike
        families.add(file.parents[1].name)
        for width, scheme in ((390, "dark"), *wide):
            page = visit(file, width, scheme)
            assert fits(page), file
            assert page.locator("img:not([alt]), img[alt='']").count() == 0
            assert page.locator("details.code[open]").count() == 0
            assert page.locator("h1").count() == 1
            assert barriers(page) == [], file
            assert file.name == "index.html" or page.locator(".contents a").count() > 3
            page.close()
