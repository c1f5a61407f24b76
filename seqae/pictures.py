"""Frames as pictures: strips side by side, an animation as a GIF file or with controls in a page; no torch here."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

GREY = 90  # between the frames of a strip
TITLE_BAND = 24  # pixels above the columns of an animation
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True
)
Strips = list[tuple[str, np.ndarray]]  # (title, uint8 (N, T, H, W), 0-255)


def sample_strips(samples: Mapping[str, np.ndarray], *, task: str, frames_in: int) -> Strips:
    """Truth and output of each branch in true time order. samples: as `Run.samples` gives them."""
    seen, future = samples["frames"][:, :frames_in], samples["frames"][:, frames_in:]
    strips: Strips = []
    if "recon" in samples:
        output = samples["recon"] if task == "recon_ordered" else samples["recon"][:, ::-1]
        strips += [("seen", seen), ("reconstruction", output)]
    if "pred" in samples:
        strips += [("future", future), ("prediction", samples["pred"])]
    return strips


def strip_figure(strips: Strips, *, sequences: Sequence[int] = (0,)) -> Figure:
    """One row a strip, one column a frame, of one sequence after another; black 0 to white 255. Titles stand to the
    left.
    """
    rows = [(title, frames[i : i + 1]) for i in sequences for title, frames in strips]
    columns = max(frames.shape[1] for _, frames in strips)
    figure, axes = plt.subplots(len(rows), 1, figsize=(0.62 * columns + 2, 0.66 * len(rows)), squeeze=False)
    for axis, (title, frames) in zip(axes[:, 0], rows, strict=True):
        axis.imshow(_tile(frames), cmap="gray", vmin=0, vmax=255)
        axis.text(-0.01, 0.5, title, transform=axis.transAxes, ha="right", va="center", fontsize=9)
        axis.axis("off")
    figure.subplots_adjust(left=2 / figure.get_figwidth(), right=1, top=1, bottom=0, hspace=0.05)
    return figure


def save_strips(strips: Strips, file: Path, *, sequences: int = 2) -> None:
    """A PNG: for each of the first sequences its strips above each other, a grey line between the frames."""
    rows = [_tile(frames[i : i + 1]) for i in range(min(sequences, len(strips[0][1]))) for _, frames in strips]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 1), (0, width - row.shape[1])), constant_values=GREY) for row in rows]
    Image.fromarray(np.vstack(padded)).save(file)


def save_gif(strips: Strips, file: Path, *, pixels: int = 112, milliseconds: int = 200) -> None:
    """An endless animation: one row a sequence (at most 4), one picture a frame step, titles above the columns.

    strips: truth and output in turn, as `sample_strips` gives them; after each pair stands its `difference`. pixels: a
    frame's side in the animation, about.
    """
    columns = [column for pair in _pairs(strips) for column in (*pair, ("difference", difference(*pair)))]
    scale = max(1, round(pixels / strips[0][1].shape[3]))
    pictures = []
    for t in range(max(frames.shape[1] for _, frames in columns)):
        tiles = [_tile(frames[:4, min(t, frames.shape[1] - 1)][:, None]) for _, frames in columns]
        pictures.append(_titled(np.hstack(tiles).repeat(scale, 0).repeat(scale, 1), [title for title, _ in columns]))
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)


def player(strips: Strips, *, frames_in: int, sequences: int = 3, milliseconds: int = 200) -> Any:
    """Truth | output | difference of the first `sequences`, a row each, in true time order, with play, pause, step and
    the frame's number: HTML to display, which loads nothing.

    strips: as `sample_strips` gives them. frames_in: how many frames were seen; the future begins after them.
    """
    from IPython.display import HTML

    shown = []
    for truth, output in _pairs(strips):
        first = 1 if truth[0] == "seen" else frames_in + 1
        columns = [frames[:sequences] for frames in (truth[1], output[1], difference(truth, output))]
        for t in range(truth[1].shape[1]):
            picture = np.hstack([_tile(frames[:, t][:, None]) for frames in columns])
            shown.append((first + t, (truth[0], output[0], "difference"), _data_uri(picture)))
    return HTML(_TEMPLATES.get_template("player.html.j2").render(shown=shown, milliseconds=milliseconds))


def difference(truth: tuple[str, np.ndarray], output: tuple[str, np.ndarray]) -> np.ndarray:
    """Output minus truth, of two strips, as uint8: mid-grey 128 where there is none, lighter where the output is too
    bright, darker where it is too dark, white and black at ±1 of the unit range.
    """
    return (128 + (output[1].astype(int) - truth[1]) / 2).round().clip(0, 255).astype(np.uint8)


def _pairs(strips: Strips) -> list[tuple[tuple[str, np.ndarray], tuple[str, np.ndarray]]]:
    return list(zip(strips[::2], strips[1::2], strict=True))


def _data_uri(picture: np.ndarray) -> str:
    Image.fromarray(picture).save(buffer := BytesIO(), "png", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def _titled(picture: np.ndarray, titles: Sequence[str]) -> Image.Image:
    # White on black above columns of equal width, as large as the longest title allows.
    width = picture.shape[1] // len(titles)
    longest = max(ImageFont.load_default(100).getlength(title) for title in titles)
    size = min(16, int(100 * 0.94 * width / longest))
    image = Image.fromarray(np.pad(picture, ((TITLE_BAND, 0), (0, 0))))
    for column, title in enumerate(titles):
        centre = ((column + 0.5) * width, TITLE_BAND / 2)
        ImageDraw.Draw(image).text(centre, title, fill=255, font=ImageFont.load_default(size), anchor="mm")
    return image


def _tile(frames: np.ndarray) -> np.ndarray:
    # (N, T, H, W) -> one row of frames a sequence, a line of grey right of and below each
    padded = np.pad(frames, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=GREY)
    n, t, h, w = padded.shape
    return padded.transpose(0, 2, 1, 3).reshape(n * h, t * w)
