"""Frames as pictures: strips side by side, an animation as a GIF file or with controls in a page; no torch here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GREY = 90  # between the frames of a strip
TITLE_BAND = 24  # pixels above the columns of an animation
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


def save_strips(strips: Strips, file: Path, *, sequences: int = 2) -> None:
    """A PNG: for each of the first sequences its strips above each other, a grey line between the frames."""
    rows = [tile(frames[i : i + 1]) for i in range(min(sequences, len(strips[0][1]))) for _, frames in strips]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 1), (0, width - row.shape[1])), constant_values=GREY) for row in rows]
    Image.fromarray(np.vstack(padded)).save(file)


def save_gif(strips: Strips, file: Path, *, pixels: int = 112, milliseconds: int = 200) -> None:
    """An endless animation: one row a sequence (at most 4), one picture a frame step, titles above the columns.

    strips: truth and output in turn, as `sample_strips` gives them; after each pair stands its `difference`. pixels: a
    frame's side in the animation, about.
    """
    columns = [column for pair in pairs(strips) for column in (*pair, ("difference", difference(*pair)))]
    scale = max(1, round(pixels / strips[0][1].shape[3]))
    pictures = []
    for t in range(max(frames.shape[1] for _, frames in columns)):
        tiles = [tile(frames[:4, min(t, frames.shape[1] - 1)][:, None]) for _, frames in columns]
        pictures.append(_titled(np.hstack(tiles).repeat(scale, 0).repeat(scale, 1), [title for title, _ in columns]))
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)


def difference(truth: tuple[str, np.ndarray], output: tuple[str, np.ndarray]) -> np.ndarray:
    """Output minus truth, of two strips, as uint8: mid-grey 128 where there is none, lighter where the output is too
    bright, darker where it is too dark, white and black at ±1 of the unit range.
    """
    return (128 + (output[1].astype(int) - truth[1]) / 2).round().clip(0, 255).astype(np.uint8)


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


def pairs(strips: Strips) -> list[tuple[tuple[str, np.ndarray], tuple[str, np.ndarray]]]:
    return list(zip(strips[::2], strips[1::2], strict=True))


def tile(frames: np.ndarray) -> np.ndarray:
    # (N, T, H, W) -> one row of frames a sequence, a line of grey right of and below each
    padded = np.pad(frames, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=GREY)
    n, t, h, w = padded.shape
    return padded.transpose(0, 2, 1, 3).reshape(n * h, t * w)
