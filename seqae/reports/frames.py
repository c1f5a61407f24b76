"""TODO"""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure
from PIL import Image

from seqae.runs import Strips, difference, pairs, tile

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True
)


def strip_figure(strips: Strips, *, sequences: Sequence[int] = (0,)) -> Figure:
    """One row a strip, one column a frame, of one sequence after another; black 0 to white 255. Titles stand to the
    left.
    """
    rows = [(title, frames[i : i + 1]) for i in sequences for title, frames in strips]
    columns = max(frames.shape[1] for _, frames in strips)
    figure, axes = plt.subplots(len(rows), 1, figsize=(0.62 * columns + 2, 0.66 * len(rows)), squeeze=False)
    for axis, (title, frames) in zip(axes[:, 0], rows, strict=True):
        axis.imshow(tile(frames), cmap="gray", vmin=0, vmax=255)
        axis.text(-0.01, 0.5, title, transform=axis.transAxes, ha="right", va="center", fontsize=9)
        axis.axis("off")
    figure.subplots_adjust(left=2 / figure.get_figwidth(), right=1, top=1, bottom=0, hspace=0.05)
    return figure


def player(strips: Strips, *, frames_in: int, sequences: int = 3, milliseconds: int = 200) -> Any:
    """Truth | output | difference of the first `sequences`, a row each, in true time order, with play, pause, step and
    the frame's number: HTML to display, which loads nothing.

    strips: as `sample_strips` gives them. frames_in: how many frames were seen; the future begins after them.
    """
    from IPython.display import HTML

    shown = []
    for truth, output in pairs(strips):
        first = 1 if truth[0] == "seen" else frames_in + 1
        columns = [frames[:sequences] for frames in (truth[1], output[1], difference(truth, output))]
        for t in range(truth[1].shape[1]):
            picture = np.hstack([tile(frames[:, t][:, None]) for frames in columns])
            shown.append((first + t, (truth[0], output[0], "difference"), _data_uri(picture)))
    return HTML(_TEMPLATES.get_template("player.html.j2").render(shown=shown, milliseconds=milliseconds))


def _data_uri(picture: np.ndarray) -> str:
    Image.fromarray(picture).save(buffer := BytesIO(), "png", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
