"""seqae: sequence autoencoders on video, for research in Jupyter.

In a notebook: `run = open_run("losses", *parameter_cells("losses")).train()`, then look at what it recorded, and use
what it trained: `run.predict(frames, steps=30)`, `run.reconstruct(frames)`, `run.encode(frames)`. On the command line:
`seqae --help`. `help(seqae.open_run)`, `help(run.predict)` and the like say more.

    parameter_cells      the values of this notebook's cell of parameters, and what papermill put beside them
    resolve              layers of parameters, merged and checked: Parameters; ParameterError names every fault
    open_run             the run of a family with these parameters: a Run, whose train() trains, resumes or does nothing
    find_runs            the runs of a store
    comparable_runs      those of a family at the same data and budget; RunError says what is wrong with a folder
    build_model          an untrained SequenceAutoencoder for parameters, of one of ARCHITECTURES
    load_model           a trained one, from a run's model.safetensors, on any device
    fit                  the training loop alone, for a model, data and a loss of your own: what is trained is an
                         Objective, how an UpdateRule, what it resumes from a Checkpointing, what comes out a Fitted;
                         predict makes frames
    load_digits          digit images, a dict by split; MovingMNIST makes sequences of those of one split

Modules with a help of their own: seqae.contract (what a model, a loss and a metric have to be), seqae.evaluation
(evaluate, seen_frames), seqae.metrics, seqae.losses, seqae.tasks, seqae.data, seqae.lstm (LSTMStack).
"""

import os
import pkgutil
import warnings

import lazy_loader

# How often torch's threads look for work before they sleep, 25 µs; read when torch is imported, after this. By default
# they look 7 ms: where two trainings shared two cores, an update took 400 times as long as alone, a run 5 times.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# accelerate's dependencies ask for ipywidgets, which no rendered report could show; our progress bars are plain.
warnings.filterwarnings("ignore", message="IProgress not found")

# Imported when asked for: torch and seaborn cost seconds that `seqae --help` need not pay.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
# What help(seqae) shows of the package: two classes have a help of their own, most of it inherited (torch, pydantic).
# Modules are there for help(seqae.contract) and the like.
_modules = {module.name for module in pkgutil.iter_modules(__path__)}
__all__ = [name for name in _names if name not in {"Parameters", "SequenceAutoencoder"} | _modules]
