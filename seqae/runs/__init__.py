"""A run: one notebook executed with one set of parameters, and the folder that keeps what became of it.

    cells, naming, assignment, experiment    from a notebook's parameters to a name, a model and its data
    run, ranks, live, trackers               training it, on one or several devices, and what is seen meanwhile
    folder, records, logs, provenance, git   what its folder says, and what code made it
    explanation, units, pictures             why it can learn, in words; metrics with their units; its frames
    gather                                   runs of several machines in one store

The training loop and the verdict's words are in the core; pages and figures are in `reports`, executing notebooks in
`sweeps`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
