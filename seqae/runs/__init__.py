"""A run: the cells and name that define it, its folder and record, its life from training to test, and gathering.

How a model trains is in the core; pages and figures are in `reports`, executing notebooks in `sweeps`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
