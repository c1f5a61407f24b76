"""What people read: the page of a run, the index of a store, comparisons of many runs, figures, moving frames.

Everything is made from run folders (`runs`). Nothing here trains a model or executes a notebook (`sweeps` does).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
