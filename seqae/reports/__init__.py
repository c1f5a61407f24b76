"""What people read, made from finished runs. Nothing here trains a model or executes a notebook (`sweeps` does).

page, run_page, head, index (index_lines)      an executed notebook as a page; that of a run; that of a store
rendering, mending, media, formulas, screen    pages from templates, and what nbconvert leaves to be mended
groups, recipes, seeds     which runs are comparable, what they are called, the mean of seeds
compare, stacking          many runs as tables; unchanged: kept while their files are as they were
findings, outcomes, shares these in sentences; learned, maps: what states hold
figures, frames            curves, grids and bars; strips and moving frames
demo, reproduction         test sequences through a trained run; a run and the same made again
published                  figures of others, and of the diary
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
