"""A run: one notebook executed with one set of parameters, and the folder that keeps what became of it.

    notebook_cells, identity, naming         from a notebook's parameters to those that define a run, its hash and name
    digits, experiment, run, assignment, ranks, live  data, model, training (trackers), alone or assigned by a sweep
    folder, trained, records, locks, logs    what its folder says, what its model makes of frames, who may change it
    provenance, git, finding, gather         what code made it; runs found in stores; stores merged
    explanation, facts, units, pictures      what is told of it: why it can learn, metrics with their units, its frames

The training loop and the verdict's words are in the core; pages and figures are in `reports`, executing notebooks in
`sweeps`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
