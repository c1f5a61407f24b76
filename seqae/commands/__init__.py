"""The command line, `seqae`. Commands parse options and print; the work is done in the other rooms.

main, options, messages    the command line put together; options and messages that commands share
run_commands               run, worker, scheduler
page_commands              compare, rerun, demo
model_commands             predict
new_command                new
record_commands            gather, status, check; clean_command: clean
terminal, estimates        bars and tables of runs; what a planned run costs and can reach
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
