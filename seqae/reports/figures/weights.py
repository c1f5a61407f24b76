"""Weights as pictures, and how often gates saturate. Units are on every axis."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from seqae.reports.figures.style import drawable


def picture_grid(pictures: Mapping[str, np.ndarray]) -> Figure:
    """A row for each name, a column for each unit: signed weights, blue below 0, red above, white at 0.

    pictures: (n, H, W) by name, as `weight_pictures`. Each row has its own scale, the largest weight of the row, which
    stands behind its name.
    """
    columns = max(len(of) for of in pictures.values())
    figure, axes = plt.subplots(
        len(pictures), columns, figsize=(0.7 * columns + 2, 0.75 * len(pictures)), squeeze=False
    )
    for row, (name, of) in zip(axes, pictures.items(), strict=True):
        largest = float(np.abs(of).max())
        for axis, picture in zip(row, of, strict=False):
            axis.imshow(picture, cmap="RdBu_r", vmin=-largest, vmax=largest)
        row[0].text(
            -0.1, 0.5, f"{name}\n±{largest:.2g}", transform=row[0].transAxes, ha="right", va="center", fontsize=8
        )
    for axis in axes.flat:
        axis.axis("off")
    figure.subplots_adjust(left=2 / figure.get_figwidth(), right=1, top=1, bottom=0, hspace=0.08, wspace=0.08)
    return figure


def gate_bars(shares: pd.DataFrame) -> Figure:
    """A bar for each layer and gate: the shares that it is shut, between, and open. shares: as `gate_shares`."""
    data = drawable(shares, "shares", ["layer", "gate"], numbers=["shut", "between", "open"])
    names = [f"{row.gate}, layer {row.layer}" for row in data.itertuples()]
    figure, axis = plt.subplots(figsize=(6, 0.36 * len(data) + 1.2))
    left = np.zeros(len(data))
    for part, colour in (("shut", "0.25"), ("between", "0.8"), ("open", "tab:orange")):
        axis.barh(names, data[part], left=left, color=colour, label=part)
        left += data[part].to_numpy()
    axis.invert_yaxis()
    axis.set(xlabel="share of frames, units and sequences", ylabel="gate", xlim=(0, 1))
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=3, fontsize=8, frameon=False)
    figure.tight_layout()
    return figure
