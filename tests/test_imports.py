"""Imports point one way: what each module of the package may import of the others."""

import ast
import os
import pydoc
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

import seqae

FOLDER = Path(seqae.__file__).parent
ALLOWED: dict[str, set[str]] = {
    "config": {"losses"},
    "naming": {"config"},
    "cells": {"config", "naming"},
    "transfer": {"config"},
    "leases": {"transfer"},
    "stores": {"leases", "naming", "transfer"},
    "records": {"config", "logs", "stores"},
    "data": set(),
    "fused": set(),
    "stopping": set(),
    "products": set(),
    "tape": {"fused", "products"},
    "recurrent": {"products", "tape"},
    "losses": set(),
    "metrics": {"losses"},
    "optimizers": set(),
    "parallel": set(),
    "pictures": set(),
    "live": {"plots"},
    "plots": {"losses", "metrics"},
    "report": {"metrics"},
    "forkserver": {"compare", "provenance", "runs"},
    "kernels": {"forkserver"},
    "cluster": {"config", "machines", "stopping"},
    "machines": set(),
    "diagnose": {"losses"},
    "models": {"losses", "recurrent"},
    "initial": {"models", "recurrent"},
    "device": set(),
    "logs": set(),
    "provenance": {"device"},
    "updates": {"data", "losses", "metrics", "models"},
    "evaluation": {"data", "losses", "models", "updates"},
    "train": {"device", "diagnose", "evaluation", "logs", "metrics", "models", "stopping", "updates"},
    "experiment": {"config", "data", "diagnose", "metrics", "models", "optimizers", "parallel", "train"},
    "cost": {"config", "device", "experiment", "models"},
    "peers": {"losses", "models"},
    "performance": {"config", "cost", "data", "experiment", "fused", "losses", "models", "peers"},
    "folder": {"config", "data", "device", "diagnose", "evaluation", "experiment", "logs", "metrics", "models"},
    "runs": {"config", "device", "diagnose", "experiment", "live", "logs", "models", "naming", "performance"},
    "compare": {"config", "diagnose", "logs", "metrics", "naming", "pictures", "records", "runs", "stores"},
    "index": {"folder", "records", "report", "runs"},
    "planning": {"cells", "config", "naming", "records", "runs", "stores"},
    "executing": {"cluster", "kernels", "naming", "planning", "records", "report", "runs", "stores", "transfer"},
    "sweep": {"executing", "kernels", "planning", "records", "runs", "stores", "transfer"},
}
ALLOWED["experiment"] |= {"device", "evaluation", "initial", "updates"}
ALLOWED["performance"] |= {"device", "products", "updates"}
ALLOWED["folder"] |= {"provenance", "records"}
ALLOWED["runs"] |= {"pictures", "folder", "provenance", "records", "stores", "train"}
ALLOWED["gather"] = {"naming", "records", "stores", "transfer"}
ALLOWED["demo"] = {"cells", "executing", "models", "naming", "records", "device", "runs", "stores"}
ALLOWED["rerun"] = {"config", "executing", "naming", "provenance", "records", "runs", "stopping"}
ALLOWED["charts"] = {"plots"}
ALLOWED["speed"] = {"compare", "plots", "runs"}
ALLOWED["index"] |= {"stores"}
ALLOWED["view"] = {"cost", "planning", "executing", "index", "records", "runs", "stores", "transfer"}
ALLOWED["cli"] = {*ALLOWED}
ALLOWED["__init__"] = {*ALLOWED} - {"cli", "__init__"}  # the names that users import
MODULES = sorted(path.stem for path in FOLDER.glob("*.py"))


def imported(module: str) -> set[str]:
    """Every name imported anywhere in the module, inside functions too: dotted, relative ones made absolute."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join(part for part in ("seqae" if node.level else "", node.module) if part)
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def of_package(module: str) -> set[str]:
    return {name.split(".")[1] for name in imported(module) if name.startswith("seqae.")} & {*ALLOWED, *MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    assert module in ALLOWED, f"seqae/{module}.py is new: say in ALLOWED what it may import"
    assert of_package(module) - ALLOWED[module] == set()


def test_the_table_has_no_circle() -> None:
    above, left = [], dict(ALLOWED)
    while left:
        ready = [module for module, below in left.items() if below <= {*above}]
        assert ready, f"these import each other: {sorted(left)}"
        above += ready
        for module in ready:
            del left[module]


def test_this_test_sees_what_is_imported() -> None:
    assert of_package("diagnose") == {"losses"}
    assert "metrics" in of_package("train")
    assert "torch" in imported("models")


def test_the_table_says_nothing_of_packages_outside() -> None:
    """`import seqae.x` in any spelling is caught; only the names users import are computed."""
    computed = [m for m in MODULES if m != "__init__" and {"importlib.import_module", "importlib"} & imported(m)]
    assert computed == []


def test_what_needs_no_torch_imports_none() -> None:
    """So that commands which only look start at once."""
    code = "import sys, seqae.runs.pictures, seqae.reports.figures.curves, seqae.runs.records, seqae.reports.page, seqae.commands.terminal; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "seqae.parameters" in loaded
    assert {"torch", "accelerate", "torchmetrics"} & {*loaded} == set()


def test_nothing_imports_a_test() -> None:
    assert not [name for name in chain(*map(imported, MODULES)) if name.split(".")[0] in ("tests", "pytest")]


def test_the_package_says_what_it_offers():
    assert {*seqae.__all__} <= {*dir(seqae)}
    assert [name for name in seqae.__all__ if name not in (seqae.__doc__ or "")] == []
    assert all(getattr(seqae, name) is not None for name in [*seqae.__all__, "Parameters", "SequenceAutoencoder"])
    inherited = {"named_parameters", "model_validate_json"}  # of torch and pydantic, hundreds of lines each
    assert not [name for name in inherited if name in pydoc.render_doc(seqae)]


@pytest.mark.parametrize(
    ("given", "then"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_soon_sleep_unless_it_is_said_otherwise(given, then):
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"} | given
    code = "import seqae, os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [then, "False"]  # torch reads it when it is imported


def test_all_can_be_imported_where_torch_has_no_onednn() -> None:
    """As on Apple's processors."""
    without = (
        "import types, torch; torch.ops.mkldnn = types.SimpleNamespace(); import seqae.runs.run, seqae.reports.compare"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", without], check=True)
