"""States of sequences as a map in a page: a point for each sequence, whose frames are shown where one points at it."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from seqae.reports.frames import data_uri_of
from seqae.reports.rendering import render
from seqae.runs import frame_rows

if TYPE_CHECKING:
    from IPython.display import HTML

MOST_POINTS = 300  # points: their frames are in the page
WIDTH, HEIGHT = 480, 360  # of the map, in its own units
CLASS_HUES = [f"hsl({36 * digit} 70% {45 if digit % 2 else 60}%)" for digit in range(10)]


def in_two_dimensions(states: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """States (N, units) as points (N, 2) on their two principal components, and what these axes are."""
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=0).fit(states)
    shares = 100 * pca.explained_variance_ratio_
    return pca.transform(states), [f"component {n} ({share:.0f} % of variance)" for n, share in enumerate(shares, 1)]


def pointed_map(states: np.ndarray, drawn: pd.DataFrame, frames: np.ndarray) -> "HTML":
    """A map of states to display, coloured by the direction or by the class of the first digit; the frames of the
    sequence that one points at, or chooses with the arrow keys, stand below. It loads nothing.

    states: (N, units), as `encode`'s flat. drawn: as `RunFolder.drawn`, of the same N. frames: uint8 (N, T, H, W). The
    first 300 are shown.
    """
    from IPython.display import HTML

    points, axes = in_two_dimensions(states)
    points, drawn, frames = points[:MOST_POINTS], drawn.head(MOST_POINTS), frames[:MOST_POINTS]
    low, high = points.min(0), points.max(0)
    places = (points - low) / np.where(high > low, high - low, 1) * [WIDTH - 20, 20 - HEIGHT] + [10, HEIGHT - 10]
    angles = np.degrees(np.arctan2(drawn.v_y_1, drawn.v_x_1)) % 360
    digits = [name for name in drawn.columns if name.startswith("digit_")]
    shown = [
        {"x": round(x, 1), "y": round(y, 1), "direction": f"hsl({angle:.0f} 70% 50%)", "digit": CLASS_HUES[row.digit_1],
         "told": f"sequence {row.sequence}: digits {', '.join(str(getattr(row, name)) for name in digits)}; the first "
                 f"moves at {angle:.0f}°"}
        for (x, y), angle, row in zip(places.tolist(), angles, drawn.itertuples(), strict=True)
    ]  # fmt: skip
    rows = frame_rows(frames)
    size = {"width": WIDTH, "height": HEIGHT, "row": rows.shape[0] // len(frames), "across": rows.shape[1]}
    return HTML(render("map.html.j2", shown=shown, axes=axes, picture=data_uri_of(rows), **size))
