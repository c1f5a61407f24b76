"""seqae: sequence autoencoders on video, for research in Jupyter.

In a notebook: `run = open_run("losses", *parameter_cells()).train()`, then look at what it recorded. On the command
line: `seqae --help`. The models alone: `SequenceAutoencoder`; trained ones: `load_model`.
"""

import warnings
from importlib import import_module
from typing import Any

# accelerate's dependencies ask for ipywidgets, which no rendered report could show; our progress bars are plain.
warnings.filterwarnings("ignore", message="IProgress not found")

_HOMES = {
    "ARCHITECTURES": "models",
    "MovingMNIST": "data",
    "ParameterError": "config",
    "Parameters": "config",
    "Run": "runs",
    "RunError": "records",
    "SequenceAutoencoder": "models",
    "build_model": "experiment",
    "comparable_runs": "compare",
    "find_runs": "runs",
    "fit": "train",
    "load_digits": "data",
    "load_model": "experiment",
    "open_run": "runs",
    "parameter_cells": "cells",
    "resolve": "config",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # Imported when asked for: torch and seaborn cost seconds that `seqae --help` need not pay.
    if name in _HOMES:
        return getattr(import_module(f"seqae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'seqae' has no attribute {name!r}")
