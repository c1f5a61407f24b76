"""Figures: data frames in, matplotlib figures out, units on every axis.

Tables may have further columns, and rows of one's own beside ours; see `drawable` for what is refused.

Curves by epoch and by frame step are in `curves`, names at their ends in `ends`, losses in six ways in `ways`; grids,
bars, bands and histograms in `grids`; what was learned in `learned` and `weights`; colours, labels of axes and lines of
reference levels in `style`; how a figure is displayed in `shown`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
