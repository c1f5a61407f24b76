"""Frames in a page: strips as a figure, and a player with controls."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from seqae.reports.rendering import render
from seqae.runs import Strips, bordered, branch_pairs, difference, frame_rows

if TYPE_CHECKING:
    from IPython.display import HTML


def strip_figure(strips: Strips, *, sequences: Sequence[int] = (0,)) -> Figure:
    """A row for each strip and a column for each frame, of one sequence after another; titles are at the left.

    strips: as `sample_strips` returns them, uint8, 0 black to 255 white.
    """
    rows = [(title, frames[i : i + 1]) for i in sequences for title, frames in strips]
    columns = max(frames.shape[1] for _, frames in strips)
    height, width = strips[0].frames.shape[2:]
    size = (0.62 * columns + 2, (0.62 * height / width + 0.04) * len(rows))  # inches
    figure, axes = plt.subplots(len(rows), 1, figsize=size, squeeze=False)
    for axis, (title, frames) in zip(axes[:, 0], rows, strict=True):
        axis.imshow(bordered(frame_rows(frames)), cmap="gray", vmin=0, vmax=255)
        axis.text(-0.01, 0.5, title, transform=axis.transAxes, ha="right", va="center", fontsize=9)
        axis.axis("off")
    figure.subplots_adjust(left=2 / figure.get_figwidth(), right=1, top=1, bottom=0, hspace=0.05)
    return figure


def player(strips: Strips, *, frames_in: int, sequences: int = 3, milliseconds: int = 200) -> "HTML":
    """Truth, output and difference of the first `sequences`, a row each, in true time order: HTML to display.

    The player has play, pause, step and the frame's number, and loads nothing. strips: as `sample_strips` returns
    them. frames_in: number of seen frames; the future begins after them. milliseconds: time of one frame.
    """
    from IPython.display import HTML

    shown = []
    for truth, output in branch_pairs(strips):
        first = 1 if truth.title == "seen" else frames_in + 1
        columns = [frames[:sequences] for frames in (truth.frames, output.frames, difference(truth, output))]
        for t in range(truth.frames.shape[1]):
            picture = bordered(np.hstack([frame_rows(frames[:, t][:, None]) for frames in columns]))
            shown.append((first + t, (truth.title, output.title, "difference"), data_uri_of(picture)))
    return HTML(render("player.html.j2", shown=shown, milliseconds=milliseconds))


def data_uri_of(picture: np.ndarray) -> str:
    """A picture, uint8 (H, W), as the data URI of a PNG."""
    Image.fromarray(picture).save(buffer := BytesIO(), "png", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
