"""The notebooks and parameter files in git: their form, and that each runs top to bottom from a fresh kernel."""

import ast
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from seqae.cells import family_defaults
from seqae.config import LOSSES, read_yaml, resolve
from seqae.runs import find_runs, open_run

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FAMILIES = sorted(folder for folder in (ROOT / "params").iterdir() if folder.is_dir() and folder.name != "scale")
FILES = [file for family in FAMILIES for file in sorted(family.rglob("*.yaml"))]


def tagged(cell):
    return "parameters" in cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
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


@pytest.mark.parametrize("family", FAMILIES, ids=lambda folder: folder.name)
def test_each_family_has_its_notebook(family):
    assert family_defaults(ROOT / "notebooks" / f"{family.name}.ipynb")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT / "params")))
@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
def test_each_parameter_file_is_sound_at_each_scale(file, scale):
    family = file.relative_to(ROOT / "params").parts[0]
    defaults = family_defaults(ROOT / "notebooks" / f"{family}.ipynb")
    run = open_run(family, defaults, read_yaml(ROOT / f"params/scale/{scale}.yaml") | read_yaml(file))
    assert run.parameters.learning_rate is not None


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


def test_the_notebooks_own_defaults_are_the_quick_scale():
    for family in FAMILIES:
        defaults = family_defaults(ROOT / "notebooks" / f"{family.name}.ipynb")
        quick = read_yaml(ROOT / "params/scale/quick.yaml")
        assert resolve(defaults, quick) == resolve(defaults)


@pytest.fixture(scope="module")
def smoke_store(tmp_path_factory):
    """Two runs of the losses family made by bare papermill at smoke scale."""
    folder = tmp_path_factory.mktemp("project")
    store = folder / "store"
    scale = yaml.safe_load((ROOT / "params/scale/smoke.yaml").read_text())
    for name in ("0nm-recon-output", "0nm-pred-zero", "0sb-both-zero", "0sm-recon-output", "fixes/gain10"):
        given = yaml.safe_load((ROOT / f"params/losses/{name}.yaml").read_text())
        out = folder / f"{name.replace('/', '-')}.ipynb"
        papermill.execute_notebook(
            ROOT / "notebooks/losses.ipynb",
            out,
            scale | given | {"store": str(store)},
            kernel_name="python3",
            progress_bar=False,
        )
    return store


pytestmark = [
    # papermill 2.7 opens kernels and files through libraries that warn; ours are errors.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def test_the_losses_notebook_runs_top_to_bottom(smoke_store):
    runs = find_runs(smoke_store, "losses")
    assert len(runs) == 5
    assert {run.status for run in runs} == {"done"}
    sigmoid = next(run for run in runs if run.parameters.loss == "0sb" and run.parameters.gain == 1)
    assert sigmoid.verdict.startswith("cannot learn: floor 0.0")
    assert set(sigmoid.test()["branch"]) == {"recon", "pred"}


def test_the_comparison_runs_top_to_bottom(smoke_store, tmp_path, monkeypatch):
    monkeypatch.setenv("SEQAE_STORE", str(smoke_store))
    out = tmp_path / "compare.ipynb"
    papermill.execute_notebook(
        ROOT / "notebooks/compare.ipynb", out, {"family": "losses"}, kernel_name="python3", progress_bar=False
    )
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    figures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(figures) == sum("plots.show(" in cell.source for cell in cells)
    assert all(output.metadata["image/png"]["alt"] for output in figures)
