"""Figures: data frames in, matplotlib figures out, units on every axis. Curves by epoch and frame step; grids and bars.

Colours, names of axes and the lines of reference levels are in `style`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
