"""What people read: a run's page, comparisons of many as tables and figures, moving frames, the index of a store.

All is read from run folders (`runs`); nothing here trains or executes a notebook (`sweeps`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
