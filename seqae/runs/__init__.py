"""A run: one notebook executed with one set of parameters, and the folder that keeps what became of it.

    notebook_cells, merging, identity, naming   a notebook's parameters, those that define a run, its hash and name
    digits, drawn, clips, own_code, building    its data, what is known of them; its model, built in or one's own
    experiment, run, assignment, ranks, live    training, alone or assigned by a sweep; going_on: for more epochs
    folder, records, locks, logs, results       what its folder says, and who may change it; page_file: its page
    provenance, git, finding, gather, cleaning  what code made it; runs found in stores; stores merged; what can go
    trained, clip_outputs, later_metrics        what its model makes of frames; explanation, facts, units: what is told

verdicts has the verdict's words. The training loop is in the core, figures in `reports`, kernels in `sweeps`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
