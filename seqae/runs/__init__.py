"""A run: one notebook executed with one set of parameters, and the folder that keeps what became of it.

    notebook_cells, identity, naming         from a notebook's parameters to those that define a run, its hash and name
    experiment, run, ranks, live, trackers   model and data of its parameters; training on one or several devices
    folder, records, logs, provenance, git   what its folder says, and what code made it
    explanation, units, pictures             why it can learn, in words; metrics with their units; its frames
    gather, assignment                       runs of several machines in one store; which run a kernel executes

The training loop and the verdict's words are in the core; pages and figures are in `reports`, executing notebooks in
`sweeps`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
