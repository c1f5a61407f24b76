"""The clips of `params/own/clips`: a digit that turns, grows and shrinks while it crosses a frame of 48×80 pixels.

They are in `own_clips.npz`, which this makes again: python notebooks/own_clips.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

from seqae import load_digits

FILE = Path(__file__).with_suffix(".npz")
HEIGHT, WIDTH = 48, 80
FRAMES = 30


def turning_digits(count: int, seed: int = 0) -> np.ndarray:
    """Clips uint8 (count, 30, 48, 80), 0–255. Clip i is a function of (seed, i) alone."""
    digits = load_digits()["train"]
    return np.stack([_clip(digits, np.random.Generator(np.random.Philox(key=seed, counter=i))) for i in range(count)])


def _clip(digits: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    image = Image.fromarray(digits[dice.integers(len(digits))])
    angle, turn = dice.uniform(0, 360), dice.uniform(-12, 12)  # degrees, and degrees a frame
    phase, pulse = dice.uniform(0, 2 * np.pi), dice.uniform(0.1, 0.4)  # radians, and radians a frame
    start, end = dice.uniform((14, 14), (HEIGHT - 14, WIDTH - 14), size=(2, 2))  # of the digit's centre, (y, x)
    frames = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for t, frame in enumerate(frames):
        side = round(28 * (0.85 + 0.3 * np.sin(phase + pulse * t)))  # pixels
        y, x = start + (end - start) * t / (FRAMES - 1)
        shown = Image.new("L", (WIDTH, HEIGHT))
        turned = image.rotate(angle + turn * t, Image.Resampling.BILINEAR).resize(
            (side, side), Image.Resampling.BILINEAR
        )
        shown.paste(turned, (round(x - side / 2), round(y - side / 2)))
        frame[:] = np.asarray(shown) & 0xF0  # 16 shades, which compress well
    return frames


if __name__ == "__main__":
    np.savez_compressed(FILE, clips=turning_digits(96))
