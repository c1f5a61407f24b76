"""A run: one notebook executed with one set of parameters, and the folder that keeps what became of it.

notebook_cells, merging, identity, naming      a notebook's parameters, those that define a run; its hash and name
digits, drawn, levels, clips (clip_files, clip_sets)    its data, and errors that need no training
building, first_weights, optimizers, horizon   its model, and what that begins with; its optimizer and schedules
own_code (own_modules, own_models, own_runs, own_frames, cell_classes)   code of one's own, and where it failed
experiment, run, assignment, ranks, live, memory, trackers    training, alone or for a sweep; going_on: for longer
folder, records, locks, logs, results, kept, old_checkpoints  what its folder says, who may change it; page_file
provenance, git, run_command, finding, gather, cleaning  what made it; runs found in stores, merged; what can go
trained, clip_outputs, later_metrics, pictures what its model makes of frames; verdicts, explanation, facts, units
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
