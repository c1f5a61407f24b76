"""Sweeps: many runs, planned from parameter files and executed as notebooks, on this machine or on many.

    planning, parameter_files      which runs files define, which of them have to be executed (again), and why
    dispatch, cluster, machines    runs are given to the workers of this machine, of others, or of a batch queue
    execution, gpus                a worker executes one run; GPUs are given out
    notebooks, fork_server         a notebook is executed in a Jupyter kernel, which is forked and stopped
    pages, reproduce               notebooks about finished runs; a finished run reproduced by the code that made it
    shipped_files, interrupts      notebooks and scales that come with the package; Ctrl-C and SIGTERM

A run's training and its record are in `runs`; what a terminal shows is in `commands`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
