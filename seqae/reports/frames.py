"""Frames in a page: strips as a figure, and a player with controls."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from seqae.reports.rendering import render
from seqae.runs import Strips, bordered, branch_pairs, difference, frame_rows

if TYPE_CHECKING:
    from IPython.display import HTML

FRAME = 0.54  # width of a frame in a strip, inches
TITLE_SIZE, TITLE_LINE = 10.5, 0.2  # of a strip: points, inches
TITLE_LETTERS = 6  # of a title above each frame, before it goes on in a second line


def strip_figure(strips: Strips, *, sequences: Sequence[int] = (0,)) -> Figure:
    """A row for each strip and a column for each frame, of one sequence after another. Titles stand above the rows, so
    that long ones are whole and ten frames fit the screen of a phone.

    strips: as `sample_strips` returns them, uint8, 0 black to 255 white.
    """
    rows = [(title, frames[i : i + 1]) for i in sequences for title, frames in strips]
    columns = max(frames.shape[1] for _, frames in strips)
    height, width = strips[0].frames.shape[2:]
    titles = [wrap(title, max(24, round(TITLE_LETTERS * columns))) for title, _ in rows]
    heights = [TITLE_LINE * len(title) + FRAME * height / width + 0.06 for title in titles]
    figure = plt.figure(figsize=(FRAME * columns, sum(heights)))
    for row, (title, (_, frames)) in enumerate(zip(titles, rows, strict=True)):
        bottom, high = 1 - sum(heights[: row + 1]) / sum(heights), FRAME * height / width / sum(heights)
        axis = figure.add_axes((0, bottom, 1, high), anchor="W")
        axis.imshow(bordered(frame_rows(frames)), cmap="gray", vmin=0, vmax=255)
        axis.annotate("\n".join(title), (0, 1), xycoords="axes fraction", xytext=(0, 1.5), textcoords="offset points",
                      ha="left", va="bottom", fontsize=TITLE_SIZE)  # fmt: skip
        axis.axis("off")
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
