"""Moving MNIST: the paper's endless sequences, made of digit images; pixel ranges.

The paper is Srivastava, Mansimov, Salakhutdinov, *Unsupervised Learning of Video Representations using LSTMs*, 2015.
Its generator is the class BouncingMNISTDataHandler of the authors' `data_handler.py`.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from seqae.tasks import FRAME_SIZES, check_choice, check_positive

SPLITS = ("train", "val", "test")
STEP = 0.1  # the paper's speed of a digit: the share of the free canvas, frame minus digit, that it crosses in a frame
CHUNK = 32  # sequences drawn at a time: 2.6 MB at 64×64, which stays in the processor's cache
BACK = "scale those in [0, 1] back, (255 * frames).round().to(torch.uint8), others to [0, 1] first"
FAR = 100  # indices further apart than this get a generator each: cheaper than the random numbers between them


class Frames(Protocol):
    """Sequences that are held or read when they are indexed: `frames[indices]` is uint8 (n, frames, H, W), 0–255."""

    def __len__(self) -> int: ...
    def __getitem__(self, indices: Any, /) -> torch.Tensor: ...


def scale_digits(digits: np.ndarray, frame_size: int) -> np.ndarray:
    """Digits uint8 (n, 28, 28) → uint8 (n, s, s), s = 28, 14, 7 for frames of 64, 32, 16 pixels: means of blocks.

    Frame and digit scale together, so motion and share of white are those of the paper. Raises ValueError for another
    frame_size.
    """
    check_choice("frame_size", frame_size, FRAME_SIZES)
    block = 64 // frame_size
    shifts = [digits[:, y::block, x::block] for y in range(block) for x in range(block)]
    total = sum(shifts, start=np.zeros(1, np.uint16))  # at most 16 × 255
    return ((total + block**2 // 2) // block**2).astype(np.uint8)  # in integers, half rounded up, so exact


def trajectories(start: np.ndarray, angle: np.ndarray, frames: int, speed: float = STEP) -> np.ndarray:
    """Positions (frames, 2, …) in [0, 1], shares of the free canvas, y before x.

    start: the position before the first frame, (2, …). angle: the direction in radians, (…). speed: of a step, in units
    of positions. Implements the paper's GetRandomTrajectory: the step comes before the frame, so `start` is not seen;
    beyond a wall the digit is put on the wall, not reflected, and that component of its velocity changes sign.
    """
    position = start.astype(np.float64)  # a copy
    velocity, path = np.stack([np.sin(angle), np.cos(angle)]) * speed, np.empty((frames, *start.shape))
    for t in range(frames):
        position += velocity
        velocity[(position <= 0) | (position >= 1)] *= -1
        path[t] = np.clip(position, 0, 1, out=position)
    return path


class MovingMNIST:
    """Endless Moving MNIST by the paper's rules: sequence i is a function of (digits, seed, split, i) alone.

    digits: uint8 (n, 28, 28), those of the split; a sequence draws from them with replacement. frame_size: 64, 32 or 16
    pixels. digits_per_sequence: how many move in a sequence. digit_speed: the share of the free canvas, frame minus
    digit, that a digit crosses in a frame, 0 to 1. The random numbers are Philox's, keyed by (seed, split) and counted
    by (i, digit), so a sequence does not depend on which others are made, or when. Raises ValueError for an argument
    out of range.
    """

    def __init__(
        self, digits: np.ndarray, *, seed: int, split: str, frame_size: int = 64, frames: int = 20,
        digits_per_sequence: int = 2, digit_speed: float = STEP,
    ) -> None:  # fmt: skip
        if not isinstance(digits, np.ndarray):
            raise ValueError(f"digits must be an array, such as load_digits()['train']; not a {type(digits).__name__}")
        if digits.dtype != np.uint8 or digits.shape[1:] != (28, 28) or len(digits) == 0:
            raise ValueError(f"digits must be uint8 (n, 28, 28), n >= 1; not {digits.dtype} {digits.shape}")
        check_choice("split", split, SPLITS)
        if not hasattr(seed, "__index__") or not 0 <= int(seed) < 2**64:
            raise ValueError(f"seed must be a whole number from 0 to 2**64 - 1; not {seed!r}")
        check_positive(frames=frames, digits_per_sequence=digits_per_sequence)
        if not 0 <= digit_speed <= 1:
            raise ValueError(f"digit_speed must be in [0, 1]; not {digit_speed!r}")
        self.digits = scale_digits(digits, frame_size)
        self.frame_size, self.frames = frame_size, frames
        self.digits_per_sequence, self.digit_speed = digits_per_sequence, digit_speed
        self._key = int(seed) + (SPLITS.index(split) << 64)

    def sequences(self, indices: Iterable[int] | np.ndarray) -> np.ndarray:
        """Sequences uint8 (len(indices), frames, frame_size, frame_size), 0–255, in the order of `indices`.

        Raises ValueError unless `indices` is one-dimensional, of integers >= 0.
        """
        which, _, path = self.motion(indices)
        out = np.zeros((len(which), self.frames, self.frame_size, self.frame_size), np.uint8)
        size = self.digits.shape[1]
        y, x = ((self.frame_size - size) * path).astype(np.int64).swapaxes(0, 1)  # each (frames, n, digits)
        # windows[i, t, y, x] is the view (size, size) of frame t of sequence i with its corner at (y, x), so one
        # statement puts a digit into all frames of a chunk, 10 times as fast as a loop over frames.
        windows = sliding_window_view(out, (size, size), axis=(2, 3), writeable=True)
        t = np.arange(self.frames)[:, None]
        for begin in range(0, len(out), CHUNK):
            i = np.arange(begin, min(begin + CHUNK, len(out)))
            for d in range(self.digits_per_sequence):
                place = (i, t, y[:, i, d], x[:, i, d])  # broadcasts to (frames, chunk)
                windows[place] = np.maximum(windows[place], self.digits[which[i, d]])
        return out

    def motion(self, indices: Iterable[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What was drawn for sequences: which image of `digits` each digit is, (n, digits); the angle of its direction
        before the first frame, in radians, y = sin, (n, digits); its positions by `trajectories`, (frames, 2, n,
        digits). Raises ValueError as `sequences`.
        """
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or (wanted.size and (wanted.dtype.kind not in "iu" or wanted.min() < 0)):
            raise ValueError(f"indices must be one-dimensional, of integers >= 0; not {indices!r}")
        draws = self._draws(wanted)
        which, angle = (draws[..., 0] * len(self.digits)).astype(np.int64), draws[..., 3] * 2 * np.pi
        return which, angle, trajectories(draws[..., 1:3].transpose(2, 0, 1), angle, self.frames, self.digit_speed)

    def _draws(self, indices: np.ndarray) -> np.ndarray:
        """Uniform numbers in [0, 1), (n, digits, 4): which digit, y, x, angle. Each digit has one Philox block."""
        unique, inverse = np.unique(indices, return_inverse=True)
        parts = [np.empty((0, self.digits_per_sequence, 4), np.uint64)]
        for run in filter(len, np.split(unique, np.flatnonzero(np.diff(unique) > FAR) + 1)):
            philox = np.random.Philox(key=self._key, counter=int(run[0]) * self.digits_per_sequence)
            words = philox.random_raw(int(run[-1] - run[0] + 1) * self.digits_per_sequence * 4)
            parts.append(words.reshape(-1, self.digits_per_sequence, 4)[run - run[0]])
        return (np.concatenate(parts)[inverse] >> np.uint64(11)) * 2.0**-53


def check_sequences(name: str, frames: Any, shape: tuple[int, ...] | None = None) -> None:
    """Raise ValueError unless `frames`, of an argument of this name, are a uint8 tensor (N, T, H, W), N >= 1.

    shape: (T, H, W), if it is known.
    """
    fits = isinstance(frames, torch.Tensor) and frames.dtype == torch.uint8 and frames.ndim == 4 and len(frames) > 0
    if not fits or shape not in (None, frames.shape[1:]):
        wanted = ", ".join(map(str, ("N", *(shape or ("frames_in + frames_out", "H", "W")))))
        seen = f"{tuple(frames.shape)} of {frames.dtype}" if hasattr(frames, "dtype") else f"a {type(frames).__name__}"
        array, several = isinstance(frames, np.ndarray), hasattr(frames, "__iter__") and not hasattr(frames, "dtype")
        remedy = ": torch.cat or torch.stack of them makes one" if several else ": torch.from_numpy makes one" * array
        remedy = f": {'torch.from_numpy(frames), then ' * array}{BACK}" if "float" in seen else remedy
        raise ValueError(f"{name} must be a torch.uint8 tensor ({wanted}), 0–255, N >= 1; not {seen}{remedy}")


def first_and_last(name: str, frames: Any) -> torch.Tensor:
    """Two of the sequences of a tensor or of `Frames`, uint8 (2, T, H, W). Raises ValueError as `check_sequences`, and
    for what cannot be indexed by a tensor.
    """
    kind, plain = type(frames), isinstance(frames, torch.Tensor | np.ndarray | list | tuple)
    if plain or not hasattr(frames, "__getitem__") or not len(frames):
        check_sequences(name, frames)
    try:
        found = frames[torch.tensor([0, len(frames) - 1], device="cpu")]
    except Exception as error:  # of any type: it is raised in code that is not ours
        told = f"{name}, a {kind.__name__}, cannot be indexed by a tensor"
        raise ValueError(f"{told} ({error}): torch.stack([*{name}]) makes one of it, see help(seqae.fit)") from error
    check_sequences(name if kind is torch.Tensor else f"a batch of {name}, a {kind.__name__},", found)
    return found


def to_range(frames_uint8: torch.Tensor, pixel_range: tuple[float, float]) -> torch.Tensor:
    """Frames uint8 0–255 → float32 in [low, high], same shape, same device.

    Raises TypeError for another dtype: frames that are scaled already would become almost black.
    """
    if frames_uint8.dtype != torch.uint8:
        raise TypeError(f"frames must be torch.uint8, 0–255; not {frames_uint8.dtype}: {BACK}")
    low, high = pixel_range
    # CUDA turns a division by 255 into × 1/255; written as such, the CPU does the same. 255 still becomes exactly 1.
    return frames_uint8.to(torch.float32).mul_(1 / 255).mul_(high - low).add_(low)


def to_unit(x: torch.Tensor, pixel_range: tuple[float, float]) -> torch.Tensor:
    """Pixels in [low, high] → float32 in [0, 1], same shape. Not clipped: values outside stay outside."""
    low, high = pixel_range
    return (x.to(torch.float32) - low) / (high - low)
