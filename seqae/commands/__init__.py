"""The command line, `seqae`: its commands, and what a terminal shows of runs.

What the commands do is in the other rooms; no other room imports this one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
