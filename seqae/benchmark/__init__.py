"""What an update costs: estimated before a run, timed beside other implementations, and tables and figures of that.

cost_estimate: a run's cost before it runs; update_timing: a benchmark, itself a run; peers, peers_convolutional,
peers_keras: the same update elsewhere; dispatch_counter, machine_rates: what both count and measure; machine_lock: one
at a time; figures, tables: of all that; gpu_check: whether seqae is right and how fast on this machine's GPU, a command
of its own. Nothing that trains or opens a run imports this room: the command line and notebooks do.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
