"""What people read, made from finished runs.

    page, mending, rendering   the page of a run; index: of a store
    groups, recipes, seeds     which runs are comparable, what they are called, the mean of seeds
    compare, stacking          many runs as tables; findings: in sentences; learned, maps: what states hold
    figures, frames            curves, grids and bars; strips and moving frames
    demo, reproduction         test sequences through a trained run; a run and the same made again
    published                  figures of others, and of the diary

Everything is made from run folders (`runs`). Nothing here trains a model or executes a notebook (`sweeps` does).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
