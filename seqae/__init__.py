# ruff: noqa: E402 (the filter must stand before the imports it is for)
"""seqae: sequence autoencoders on video, for research in Jupyter.

In a notebook: `run = open_run("losses", *parameter_cells()).train()`, then look at what it recorded. On the command
line: `seqae --help`. The models alone: `SequenceAutoencoder`; trained ones: `load_model`.
"""

import warnings

# accelerate's dependencies ask for ipywidgets, which no rendered report could show; our progress bars are plain.
warnings.filterwarnings("ignore", message="IProgress not found")

from seqae.compare import comparable_runs
from seqae.config import ParameterError, Parameters, resolve
from seqae.data import MovingMNIST, load_digits
from seqae.experiment import load_model
from seqae.models import ARCHITECTURES, SequenceAutoencoder
from seqae.runs import Run, RunError, find_runs, open_run, parameter_cells
from seqae.train import fit

__all__ = [
    "ARCHITECTURES",
    "MovingMNIST",
    "ParameterError",
    "Parameters",
    "Run",
    "RunError",
    "SequenceAutoencoder",
    "comparable_runs",
    "find_runs",
    "fit",
    "load_digits",
    "load_model",
    "open_run",
    "parameter_cells",
    "resolve",
]
