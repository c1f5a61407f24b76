"""Frames as pictures: strips in a PNG file, an animation in a GIF file. Nothing here needs torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GREY = 90  # 0-255, of the lines between frames
TITLE_BAND = 24  # pixels above the columns of an animation


class Strip(NamedTuple):
    """Frames of N sequences under one title. frames: uint8 (N, T, H, W), 0 black to 255 white."""

    title: str
    frames: np.ndarray


Strips = list[Strip]


class BranchPair(NamedTuple):
    """The strips of one branch, with the same times and sequences."""

    truth: Strip
    output: Strip


def sample_strips(samples: Mapping[str, np.ndarray], *, task: str, frames_in: int, with_seen: bool = False) -> Strips:
    """Truth and output of each branch, in the order of time. samples: as `Run.samples` returns them.

    with_seen: the frames that the model sees stand first where no branch reconstructs them, in no pair with an output.
    """
    seen, future = samples["frames"][:, :frames_in], samples["frames"][:, frames_in:]
    strips: Strips = [Strip("seen", seen)] if with_seen and "recon" not in samples else []
    if "recon" in samples:
        output = samples["recon"] if task == "recon_ordered" else samples["recon"][:, ::-1]
        strips += [Strip("seen", seen), Strip("reconstruction", output)]
    if "pred" in samples:
        strips += [Strip("future", future), Strip("prediction", samples["pred"])]
    return strips


def save_strips(strips: Strips, file: Path, *, sequences: int = 2) -> None:
    """Write a PNG: the strips of each of the first sequences, one below the other, with grey lines around frames."""
    count = min(sequences, len(strips[0].frames))
    rows = [frame_rows(frames[i : i + 1]) for i in range(count) for _, frames in strips]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((1, 0), (0, width - row.shape[1])), constant_values=GREY) for row in rows]
    Image.fromarray(bordered(np.vstack(padded)[1:])).save(file)


def save_gif(strips: Strips, file: Path, *, pixels: int = 112, milliseconds: int = 200) -> None:
    """`save_columns` of truth and output in turn, as `sample_strips` returns them; `difference` follows each pair."""
    columns: Strips = []
    for truth, output in branch_pairs(strips):
        columns += [truth, output, Strip("difference", difference(truth, output))]
    save_columns(columns, file, pixels=pixels, milliseconds=milliseconds)


def save_columns(columns: Strips, file: Path, *, pixels: int = 112, milliseconds: int = 200) -> None:
    """Write an endless animation: a row for each of at most 4 sequences, a column for each strip, with its title.

    A strip that ends before others stays at its last frame. pixels: the width of a frame in the animation, to the
    nearest multiple of its own. milliseconds: for each frame step.
    """
    scale = max(1, round(pixels / columns[0].frames.shape[3]))
    pictures = []
    for t in range(max(frames.shape[1] for _, frames in columns)):
        tiles = [frame_rows(frames[:4, min(t, frames.shape[1] - 1)][:, None]) for _, frames in columns]
        picture = bordered(np.hstack(tiles)).repeat(scale, 0).repeat(scale, 1)
        pictures.append(_titled(picture, [title for title, _ in columns]))
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)


def difference(truth: Strip, output: Strip) -> np.ndarray:
    """Output minus truth as uint8 (N, T, H, W): 128 for no difference, 255 where a black pixel became white.

    Lighter than 128 is too bright, darker is too dark; 0 is a white pixel that became black.
    """
    return (128 + (output.frames.astype(int) - truth.frames) / 2).round().clip(0, 255).astype(np.uint8)


def _titled(picture: np.ndarray, titles: Sequence[str]) -> Image.Image:
    # Titles in white on black above columns of equal width, as large as the longest title allows.
    width = picture.shape[1] // len(titles)
    longest = max(ImageFont.load_default(100).getlength(title) for title in titles)
    size = min(16, int(100 * 0.94 * width / longest))
    image = Image.fromarray(np.pad(picture, ((TITLE_BAND, 0), (0, 0))))
    for column, title in enumerate(titles):
        centre = ((column + 0.5) * width, TITLE_BAND / 2)
        ImageDraw.Draw(image).text(centre, title, fill=255, font=ImageFont.load_default(size), anchor="mm")
    return image


def branch_pairs(strips: Strips) -> list[BranchPair]:
    """The strips of each branch, truth and output. strips: as `sample_strips` returns them."""
    paired = strips[len(strips) % 2 :]  # without the frames seen that no branch reconstructs
    return [BranchPair(truth, output) for truth, output in zip(paired[::2], paired[1::2], strict=True)]


def frame_rows(frames: np.ndarray) -> np.ndarray:
    """One picture of frames (N, T, H, W): a row for each sequence, a grey line right of and below each frame.

    Several of them can stand side by side, with one line between two frames; `bordered` adds the lines at the edge.
    """
    padded = np.pad(frames, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=GREY)
    n, t, h, w = padded.shape
    return padded.transpose(0, 2, 1, 3).reshape(n * h, t * w)


def bordered(rows: np.ndarray) -> np.ndarray:
    """`frame_rows` with the grey line at the left and at the top, too, so that it has a line at every edge."""
    return np.pad(rows, ((1, 0), (1, 0)), constant_values=GREY)
