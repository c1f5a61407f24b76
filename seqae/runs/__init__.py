"""A run: one notebook executed with one set of parameters, and the folder that keeps what became of it.

    notebook_cells, identity, naming         from a notebook's parameters to those that define a run, its hash and name
    experiment, run, ranks, live, trackers   model and data of its parameters; training on one or several devices
    folder, records, locks, logs             what its folder says, and who may change it
    provenance, git, assignment              what code made it; which run a kernel executes
    explanation, units, pictures, gather     why it can learn; metrics with their units; frames; stores merged

The training loop and the verdict's words are in the core; pages and figures are in `reports`, executing notebooks in
`sweeps`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
