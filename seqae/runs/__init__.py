"""A run: one notebook executed with one set of parameters, and the folder that keeps what became of it.

    notebook_cells, merging, identity, naming  a notebook's parameters, those that define a run, its hash and name
    digits, clips, experiment, run, assignment, ranks, live  data, model, training, alone or assigned by a sweep
    folder, records, locks, logs             what its folder says, and who may change it
    provenance, git, finding, gather         what code made it; runs found in stores; stores merged
    trained, clip_outputs                    what its model makes of frames of one's own, and of clips in a file
    explanation, facts, units, pictures      what is told of it: why it can learn, metrics with their units, its frames

The training loop and the verdict's words are in the core, figures in `reports`, kernels in `sweeps`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
