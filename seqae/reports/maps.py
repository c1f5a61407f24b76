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


def in_two_dimensions(states: np.ndarray, method: str = "PCA") -> tuple[np.ndarray, list[str]]:
    """States (N, units) as points (N, 2), and what their two axes are.

    method: PCA, or UMAP if that is installed (umap-learn). Raises ValueError for another method.
    """
    if method == "PCA":
        from sklearn.decomposition import PCA

        pca = PCA(2, random_state=0).fit(states)
        shares = 100 * pca.explained_variance_ratio_
        return pca.transform(states), [
            f"component {n} ({share:.0f} % of variance)" for n, share in enumerate(shares, 1)
        ]
    if method != "UMAP":
        raise ValueError(f"method must be PCA or UMAP; not {method!r}")
    try:
        from umap import UMAP
    except ImportError:
        raise ValueError("method UMAP needs the package umap-learn: install it, or use PCA") from None
    return UMAP(random_state=0).fit_transform(states), ["UMAP 1 (no unit)", "UMAP 2 (no unit)"]


def pointed_map(states: np.ndarray, drawn: pd.DataFrame, frames: np.ndarray, *, method: str = "PCA") -> "HTML":
    """A map of states to display, coloured by the direction or by the class of the first digit; the frames of the
    sequence that one points at, or chooses with the arrow keys, stand below. It loads nothing.

    states: (N, units), as `encode`'s flat. drawn: as `RunFolder.drawn`, of the same N. frames: uint8 (N, T, H, W). The
    first 300 are shown. method: as for `in_two_dimensions`, whose errors this raises.
    """
    from IPython.display import HTML

    points, axes = in_two_dimensions(states, method)
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
