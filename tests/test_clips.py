"""Clips of one's own: what is read, how it is split and cut, and runs on it."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from test_sweep import make_project

from seqae.data import MovingMNIST
from seqae.reports.groups import data_and_budget, groups
from seqae.runs import clip_files, clip_sets
from seqae.runs import clips as clip_reading
from seqae.runs.clip_files import decoded, grey, time_first
from seqae.runs.clips import Clip, Windows, read_clips, set_digest, split_clips
from seqae.runs.experiment import reference_levels, sequences, train_stream
from seqae.runs.folder import RunFolder
from seqae.runs.levels import baselines
from seqae.runs.run import Run, open_run
from seqae.sweeps.planning import plan

TINY: dict[str, Any] = {
    "loss": "0sb", "task": "both", "architecture": "srivastava", "hidden": 6, "frames_in": 3, "frames_out": 4,
    "batch_size": 4, "epochs": 2, "device": "cpu",
}  # fmt: skip


def moving(count: int, frames: int = 14, size: tuple[int, int] = (12, 20), seed: int = 0) -> list[np.ndarray]:
    """Clips uint8 (frames, H, W): a bright block on dim noise, each with its own speed; no two frames are equal."""
    random, clips = np.random.default_rng(seed), []
    for _ in range(count):
        still, (y, x), step = random.integers(0, 60, size), random.integers(0, 6, 2), random.choice([1, 2])
        clip = np.broadcast_to(still, (frames, *size)).astype(np.uint8)
        for t in range(frames):
            clip[t, y : y + 4, (x + step * t) % (size[1] - 3) :][:, :4] = 255 - t
        clips.append(clip)
    return clips


def write_video(path: Path, frames: np.ndarray, codec: str = "ffv1", pixels: str = "gray") -> Path:
    """frames: uint8 (T, H, W), or (T, H, W, 3) in colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="gray" if frame.ndim == 2 else "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def write_pictures(folder: Path, frames: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / f"frame{number}.png")
    return folder


def frames_of(clips: list[Clip]) -> list[np.ndarray]:
    return [clip.read(0, clip.frames) for clip in clips]


def same(found: list[Clip], made: list[np.ndarray]) -> bool:
    return sorted(f.tobytes() for f in frames_of(found)) == sorted(f.tobytes() for f in made)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, a project, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for folder in ("project/notebooks", "project/params"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


# ---- what is read ----

MADE = moving(4)
ALL = np.stack(MADE)  # (4, 14, 12, 20)
COLOURS = np.repeat(ALL[..., None], 3, -1)
ARRAYS = {
    "clips first": ALL, "time first": ALL.swapaxes(0, 1), "one channel": ALL[..., None], "colours": COLOURS,
    "channels before H": np.moveaxis(COLOURS, -1, 2), "time first, colours": COLOURS.swapaxes(0, 1),
    "floats": ALL / 255, "float32": (ALL / 255).astype(np.float32), "Fortran": np.asfortranarray(ALL),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_one_array_of_clips(name: str, place: Path) -> None:
    np.save(place / "all.npy", ARRAYS[name])
    np.savez_compressed(place / "all.npz", ARRAYS[name])
    known = read_clips([place / "all.npy"])
    assert same(known, MADE)
    assert {clip.file.name for clip in known} == {"all.npy"}, "it is mapped where it lies"
    assert [clip.digest for clip in read_clips([place / "all.npz"])] == [clip.digest for clip in known]


@pytest.mark.parametrize("shape", [(14, 12, 20), (14, 12, 20, 1), (14, 1, 12, 20), (14, 12, 20, 3), (14, 3, 12, 20)])
def test_an_array_of_one_clip(shape: tuple[int, ...], place: Path) -> None:
    channel_axis = 1 if shape[1] < 4 else -1
    channels = np.repeat(np.expand_dims(MADE[0], channel_axis), 3 if 3 in shape else 1, channel_axis)
    np.save(place / "one.npy", channels.reshape(shape))
    (clip,) = read_clips([place / "one.npy"])
    assert np.array_equal(clip.read(2, 9), MADE[0][2:9])


def test_files_in_any_container_are_the_same_clips(place: Path) -> None:
    for number, clip in enumerate(MADE):
        (place / "npy").mkdir(exist_ok=True)
        np.save(place / f"npy/{number}.npy", clip)
        write_video(place / f"avi/deep/{9 - number}.avi", clip)
        write_video(place / f"gif/{number}.gif", clip, "gif")
        write_video(place / f"mkv/{number}.mkv", np.repeat(clip[..., None], 3, -1), "ffv1", "bgr0")
        write_pictures(place / f"png/{number}", clip)
    (place / "avi/notes.txt").write_text("person01 walks")
    ways = [["avi"], ["gif/*.gif"], ["mkv"], ["png"], ["png/*"], ["png/*/*.png"], ["avi/**/[89].avi", "npy/[23].npy"]]
    known = [clip.digest for clip in read_clips([place / "npy"])]
    for paths in ways:
        found = read_clips(paths)
        assert [clip.digest for clip in found] == known, paths
        assert same(found, MADE)
        assert not any(clip.coloured for clip in found)


def test_colours_become_grey_by_rec_601(place: Path) -> None:
    red, green, blue = np.eye(3, dtype=np.uint8)[:, None, None] * 200
    frames = np.stack([np.broadcast_to(c, (6, 8, 3)) for c in (red, green, blue)])
    write_video(place / "a.avi", frames, "ffv1", "bgr0")
    np.save(place / "a.npy", frames)
    Image.fromarray(frames[1]).save(place / "a.png")
    by_video, by_array = read_clips(["a.avi", "a.npy"])
    assert by_video.coloured
    assert by_array.coloured
    assert by_video.digest == by_array.digest
    assert by_array.read(0, 3)[:, 0, 0].tolist() == [60, 117, 23]  # 0.299, 0.587, 0.114 of 200
    assert read_clips(["*.png"])[0].read(0, 1)[0, 0, 0] == 117
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(grey(np.repeat(every.reshape(1, 16, 16, 1), 3, -1), Path("x")).ravel(), every)


def test_kth_as_it_is_downloaded(place: Path) -> None:
    """Folders of classes, DivX in AVI, a list of sequences beside them."""
    made = moving(6, frames=30, size=(24, 32))
    names = [
        f"{kind}/person{person:02}_{kind}_d1_uncomp.avi" for kind in ("boxing", "walking") for person in (1, 11, 21)
    ]
    for name, clip in zip(names, made, strict=True):
        write_video(place / "kth" / name, clip, "mpeg4", "yuv420p")
    (place / "kth/00sequences.txt").write_text("person01_boxing_d1 frames 1-95")
    found = read_clips(["kth"])
    assert [clip.frames for clip in found] == [30] * 6
    assert not any(clip.coloured for clip in found)
    closest = [np.argmin([np.abs(f.astype(int) - m).mean() for m in made]) for f in frames_of(found)]
    assert sorted(closest) == [0, 1, 2, 3, 4, 5], "lossy, but each its own"
    p = {"clips": "kth", "clips_val": "kth/*/person11*", "clips_test": ["kth/*/person2*"], "frame_size": 16}
    splits = clip_sets.clip_splits(open_run("fam", TINY | {"frame_size": 16}, p).parameters)
    assert {split: len(of) for split, of in splits.items()} == {"train": 2, "val": 2, "test": 2}


@pytest.mark.parametrize(("clips", "frames"), [(3, 40), (40, 3), (20, 20), (9, 2)])
def test_time_is_found_by_the_frames_themselves(clips: int, frames: int) -> None:
    digits = np.random.default_rng(0).integers(0, 256, (9, 28, 28)).astype(np.uint8)
    made = MovingMNIST(digits, seed=1, split="train", frame_size=32, frames=frames).sequences(range(clips))
    assert not time_first(made)
    assert time_first(made.swapaxes(0, 1))
    assert not time_first(np.zeros((4, 5, 2, 2), np.uint8)), "where nothing tells, clips are first"


def test_what_was_read_is_remembered_until_the_file_changes(place: Path) -> None:
    file = write_video(place / "a.avi", MADE[0])
    (first,) = read_clips([file])
    stored = first.file.stat().st_mtime_ns
    assert read_clips([file]) == [first]
    assert first.file.stat().st_mtime_ns == stored, "not decoded again"
    shutil.copy2(file, place / "b.avi")
    assert {clip.digest for clip in read_clips([place / "*.avi"])} == {first.digest}
    write_video(file, MADE[1][:-1])
    assert read_clips([file])[0].digest != first.digest


def test_an_array_that_is_overwritten_where_it_lies_is_not_taken_for_the_one_before(place: Path) -> None:
    np.save(place / "a.npy", ALL)
    windows = Windows(read_clips([place / "a.npy"]), frames=7)
    before = windows[:]
    later(place / "a.npy")
    assert torch.equal(windows[:], before), "it was touched, and is the same"
    np.save(place / "a.npy", 255 - ALL)
    later(place / "a.npy", 2)
    with pytest.raises(ValueError, match=r"a\.npy was deleted, moved or changed after its clips were read: bring it"):
        windows[:]
    np.save(place / "a.npy", ALL[::-1])
    later(place / "a.npy", 3)
    assert torch.equal(windows[:], before), "the same clips, in other places"


def later(file: Path, seconds: int = 1) -> None:
    """Say that a file was changed later: the clock of a file system may stand for a moment."""
    changed = file.stat().st_mtime_ns + seconds * 10**9
    os.utime(file, ns=(changed, changed))


def test_brackets_in_the_name_of_a_folder_that_is_there_are_none_of_a_glob(place: Path) -> None:
    folder = place / "take [2]" / "deep"
    write_pictures(folder / "a", MADE[0])
    np.save(folder / "b.npy", MADE[1])
    (one,), (other,) = read_clips([folder / "*.npy"]), read_clips([folder / "a" / "frame[0-9]*.png"])
    assert same([one, other], MADE[:2])
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        read_clips([folder / "none"])


def test_numbers_in_names_are_those_that_can_be_read(place: Path) -> None:
    folder = write_pictures(place / "a", MADE[0])
    (folder / "frame9.png").rename(folder / "frame8².png")
    (clip,) = read_clips([folder])
    assert np.array_equal(clip.read(0, 14), MADE[0])


def test_what_a_video_says_of_itself_may_be_in_any_encoding(place: Path) -> None:
    file = write_video(place / "a.mkv", MADE[0])
    assert file.read_bytes().count(b"Lavf") > 1
    file.write_bytes(file.read_bytes().replace(b"Lavf", b"\xe9avf"))
    (clip,) = read_clips([file])
    assert np.array_equal(clip.read(0, 14), MADE[0])


# ---- what is wrong with it, in a sentence ----


def cut(file: Path, share: float = 0.6) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])


def broken(place: Path) -> dict[str, tuple[Callable[[], Any], str]]:
    def save(name: str, array: Any, **more: Any) -> Callable[[], Any]:
        return lambda: np.save(place / name, array, **more)

    def truncated(name: str, *how: str) -> Callable[[], Any]:
        return lambda: cut(write_video(place / name, MADE[0], *how))

    def of_several(file: Path, **how: Any) -> None:
        first, *others = (Image.fromarray(frame) for frame in MADE[0])
        first.save(file, save_all=True, append_images=others, **how)

    def damaged(file: Path) -> None:
        np.savez_compressed(file, ALL)
        whole = file.read_bytes()
        start = 30 + sum(whole[26:30:2]) + 256 * sum(whole[27:30:2])  # of what is compressed, behind two names' lengths
        file.write_bytes(whole[:start] + b"\7" + whole[start + 1 :])  # a kind of block that there is not

    return {
        "a.npy": (save("a.npy", np.array([{}, {}]), allow_pickle=True), "not a whole npy file of numbers"),
        "b.npy": (lambda: (save("b.npy", ALL)(), cut(place / "b.npy")), "not a whole npy file"),
        "c.npy": (save("c.npy", ALL.astype(np.int64)), "holds int64: clips are uint8, or floats"),
        "d.npy": (save("d.npy", ALL * 1.0), "holds values from 0 to 255: clips are uint8, or floats in"),
        "e.npy": (save("e.npy", ALL / 255 - 0.1), "holds values from -0.1 to"),
        "f.npy": (save("f.npy", np.full((4, 3, 3), np.nan)), "holds values from nan to nan"),
        "g.npy": (save("g.npy", ALL[:0]), "is empty: it has shape"),
        "h.npy": (save("h.npy", ALL[0, 0]), "has shape .12, 20.: clips are"),
        "i.npz": (lambda: np.savez(place / "i.npz", ALL, ALL), "holds 2 arrays, and one is wanted"),
        "j.npz": (lambda: (place / "j.npz").write_bytes(b"no"), "is no whole npz file"),
        "k.avi": (truncated("k.avi"), "is truncated: it has . of 14 frames|cannot be decoded"),
        "l.mkv": (truncated("l.mkv"), "is truncated|cannot be decoded"),
        "m.gif": (truncated("m.gif", "gif"), "is truncated after"),
        "n.mp4": (truncated("n.mp4", "mpeg4", "yuv420p"), "cannot be decoded .*truncated, damaged or no video"),
        "o.avi": (lambda: (place / "o.avi").touch(), "cannot be decoded after 0 frames"),
        "p.avi": (
            lambda: (place / "p.avi").write_bytes(
                write_video(place / "q.avi", MADE[0]).read_bytes().replace(b"FFV1", b"ZQZQ")
            ),
            "has a codec that is not known",
        ),
        "r": (lambda: cut(write_pictures(place / "r", MADE[0]) / "frame3.png"), "frame3.png is no whole picture"),
        "s": (
            lambda: Image.fromarray(MADE[0][0, :5]).save(write_pictures(place / "s", MADE[0]) / "frame4.png"),
            "frame4.png has a frame of .5, 20. pixels",
        ),
        "t/*.avi": (lambda: None, "nothing matches: check the path"),
        "u": (lambda: None, "there is no such file or folder"),
        "v": (lambda: (place / "v").mkdir(), "it holds no arrays"),
        "x.tiff": (lambda: of_several(place / "x.tiff"), "x.tiff holds 14 pictures: save each as a f"),
        "y.webp": (lambda: of_several(place / "y.webp", lossless=True), "y.webp holds 14 pictures"),
        "z.npz": (lambda: damaged(place / "z.npz"), "z.npz is no whole npz file .*invalid block type"),
        "w.wav": (lambda: (place / "w.wav").write_bytes(b"RIFF" + bytes(99)), "cannot be decoded"),
    }


@pytest.mark.parametrize("name", sorted(broken(Path())))
def test_what_cannot_be_read_is_named_in_a_sentence(name: str, place: Path) -> None:
    make, message = broken(place)[name]
    make()
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_clips([place / name])
    assert "\n" not in str(caught.value)
    assert str(place / name.partition("*")[0]).rstrip("/") in str(caught.value)


def test_all_files_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", np.zeros((9, 4, 4), np.uint8))
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.full((9, 4, 4), 25.0))
    with pytest.raises(ValueError, match="move it elsewhere or begin its name with a dot") as caught:
        read_clips([tmp_path])
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [str(tmp_path / f"{n}.npy") for n in "ab"]
    for name in "ab":
        (tmp_path / f"{name}.npy").rename(tmp_path / f".{name}.npy")
    assert len(read_clips([tmp_path])) == 1
    for number in range(20):
        np.save(tmp_path / f"{number}.npy", np.full((9, 4, 4), 25.0))
    with pytest.raises(ValueError, match="the files after these have not been read yet; to leave") as caught:
        read_clips([tmp_path])
    assert str(caught.value).count("holds values") == 10


def test_clips_that_are_too_short_are_named_at_once_whatever_their_splits(place: Path) -> None:
    for name, clip in zip("abcdefghi", moving(9, frames=14), strict=True):
        np.save(place / f"{name}.npy", clip[: 14 if name < "e" else 6])
    given = {"clips": "*.npy", "clips_val": ["a.npy", "e.npy"], "clips_test": ["b.npy", "f.npy"], "frame_size": None}
    with pytest.raises(ValueError, match="fewer frames than a window of 7") as caught:
        open_run("fam", TINY, given)
    assert all(f"{name}.npy (6)" in str(caught.value) for name in "efghi"), "of train, val and test"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"frames_out": 12},
            "clips with fewer frames than a window of 15 .*: [^,]*clips.npy .14.: set either lower; to leave",
        ),
        ({"clips": ["clips.npy", "other.npy"]}, "frames of 12×20 and .* frames of 12×22: set frame_size"),
        ({"clips": "two.npy"}, "2 clips are too few for train, val and test, train has none"),
        ({"clips": "masks.npy"}, "pixels of clips masks.npy are 0 and 1, nearly black: multiply by 255"),
        ({"clips_val": "clips.npy"}, "too few .* train has none"),
        ({"clips_val": "two.npy", "clips_test": "two.npy"}, "in clips_val and in clips_test"),
        (
            {"clips": "", "frame_size": 16},
            "clips is an empty path, which would mean the whole project: give a path, or leave it out",
        ),
        ({"clips_test": ["two.npy", " "]}, "clips_test is an empty path"),
        ({"clips": "nowhere"}, "no such file or folder.*to plan without them, state clips_digest and frame_size"),
        ({"clips_digest": "0123"}, "have the digest [0-9a-f]{16}, and clips_digest is 0123: these are other clips"),
        ({"frame_size": [12, 20], "architecture": "cnn_v1"}, r"does not fit frame_size \[12, 20\].*use frame_size 64"),
        ({"clip_stride": 0}, "clip_stride: input should be greater"),
        ({"clips": None, "frame_size": [12, 20]}, "Moving MNIST has frames of 16, 32 or 64"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_written(given: Any, message: str, place: Path) -> None:
    for name, array in (
        ("clips", ALL),
        ("two", ALL[:2]),
        ("other", np.zeros((14, 12, 22), np.uint8)),
        ("masks", ALL % 2),
    ):
        np.save(place / f"{name}.npy", array)
    with pytest.raises(ValueError, match=message) as caught:
        open_run("fam", TINY, {"clips": "clips.npy", "frame_size": None} | given)
    assert "\n" not in str(caught.value)
    assert not (place / "reports").exists()


# ---- splits and sequences ----


def test_a_tenth_each_is_val_and_test_whatever_the_files(place: Path) -> None:
    np.save(place / "all.npy", np.stack(moving(30)))
    clips = read_clips(["all.npy"])
    splits = split_clips(clips)
    assert {split: len(of) for split, of in splits.items()} == {"train": 24, "val": 3, "test": 3}
    assert split_clips(clips[::1]) == splits
    assert {c.digest for of in splits.values() for c in of} == {c.digest for c in clips}
    given = split_clips(clips, val=clips[4:6], test=clips[6:9])
    assert (given["val"], given["test"], len(given["train"])) == (clips[4:6], clips[6:9], 25)
    some = split_clips(clips, test=clips[6:9])
    assert (some["test"], len(some["val"]), len(some["train"])) == (clips[6:9], 3, 24)
    assert set_digest(splits) == set_digest({k: v[::-1] for k, v in splits.items()}) != set_digest(given)


def test_copies_of_a_clip_are_in_one_split(place: Path) -> None:
    np.save(place / "all.npy", np.stack(MADE * 3))
    splits = split_clips(read_clips(["all.npy"]))
    known = [{clip.digest for clip in of} for of in splits.values()]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(known, 2))
    assert [len(of) for of in splits.values()] == [6, 3, 3]


def test_windows_are_where_the_stride_says(place: Path) -> None:
    np.save(place / "one.npy", MADE[0])
    np.save(place / "two.npy", MADE[1][:9])
    clips = read_clips(["one.npy", "two.npy"])
    for stride, starts in ((None, [0, 7]), (3, [0, 3, 6]), (20, [0])):
        windows = Windows(clips, frames=7, stride=stride)
        wanted = [MADE[0][s : s + 7] for s in starts] + [MADE[1][s : s + 7] for s in starts if s + 7 <= 9]
        found = windows[:]
        assert found.dtype == torch.uint8
        assert sorted(w.tobytes() for w in wanted) == sorted(w.numpy().tobytes() for w in found)
        assert torch.equal(windows[torch.tensor([0])], found[:1])
        assert torch.equal(windows.part(np.array([1, 0, 1]))[[2, 1]], found[[1, 0]])


def test_frames_are_resized_by_area(place: Path) -> None:
    np.save(place / "one.npy", MADE[0])
    windows = Windows(read_clips(["one.npy"]), frames=14, size=(6, 5))
    means = MADE[0].reshape(14, 6, 2, 5, 4).mean((2, 4))
    assert np.abs(windows[:].numpy()[0] - means).max() <= 0.5
    assert windows.bytes == 14 * 6 * 5


def test_epochs_take_what_is_asked_for_the_same_or_ever_new(place: Path) -> None:
    np.save(place / "all.npy", np.stack(moving(12)))  # 10 for training, of 2 sequences each
    given = {"clips": "all.npy", "frame_size": None, "train_sequences": 8, "val_sequences": 1}
    p = open_run("fam", TINY, given).parameters
    assert (p.train_sequences, p.val_sequences, p.test_sequences) == (8, 1, 2)
    train = train_stream(p)
    assert torch.equal(train(1)[:], train(2)[:])
    assert torch.equal(train(1)[:], sequences(p, "train"))
    train = train_stream(p.model_copy(update={"endless": True}))
    seen = [w.numpy().tobytes() for epoch in range(1, 6) for w in train(epoch)[:]]
    assert len(set(seen[:20])) == 20
    assert seen[20:] == seen[:20], "then they begin again"


# ---- runs ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict[str, Run]]:
    """The same clips as one array, GIFs and lossless AVI, trained in three stores."""
    root = tmp_path_factory.mktemp("runs")
    made = moving(10)
    np.save(root / "all.npy", np.stack(made))
    for number, clip in enumerate(made):
        write_video(root / f"gifs/{number}.gif", clip, "gif")
        write_video(root / f"avis/{20 - number}.avi", np.repeat(clip[..., None], 3, -1), "ffv1", "bgr0")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # else it lists all fonts again
        patched.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patched.chdir(root)
        given = {"frame_size": None, "keep_checkpoint": False}
        runs = {
            name: open_run("fam", TINY, given | {"clips": paths, "store": str(root / name)}).train()
            for name, paths in (("npy", "all.npy"), ("gif", str(root / "gifs" / "*.gif")), ("avi", "avis"))
        }
        # as a set that does not fit into memory
        patched.setattr(clip_sets, "RESIDENT", 0)
        runs["streamed"] = open_run("fam", TINY, given | {"clips": "all.npy", "store": str(root / "streamed")}).train()
    return root, runs


def test_the_same_clips_are_the_same_run(trained: Any) -> None:
    root, runs = trained
    first = runs["npy"]
    for run in runs.values():
        assert run.name == first.name
        assert run.differs == first.differs
        assert run.metrics().drop(columns="seconds").equals(first.metrics().drop(columns="seconds"))
        assert run.test().equals(first.test())
        assert run.baselines().equals(first.baselines())
    np.save(root / "others.npy", np.stack(moving(10, seed=1)))  # as many, of the same sizes
    for clips in ("others.npy", "gifs/[1-8].gif"):
        assert open_run("fam", TINY, {"clips": str(root / clips), "frame_size": None}).name != first.name


@pytest.mark.parametrize("path", ["all.npy", "~/all.npy", "$HOME/all.npy"])
def test_clips_and_labels_are_looked_for_from_the_project_wherever_it_runs(path, place, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    np.save(place / "all.npy", np.stack(moving(10)))
    (place / "labels.csv").write_text("file,index,kind\n" + "".join(f"all.npy,{i},{i % 2}\n" for i in range(10)))
    monkeypatch.chdir(place / "notebooks")
    run = open_run("fam", TINY, {"clips": path, "frame_size": None})
    assert sequences(run.parameters, "val").shape[1:] == (7, 12, 20)
    assert set(run.labels(path.replace("all.npy", "labels.csv"), "val").kind) <= {0, 1}
    written_out = open_run("fam", TINY, {"clips": str(place / "all.npy"), "frame_size": None})
    assert run.parameters.clips_digest == written_out.parameters.clips_digest


def test_baselines_floor_and_verdict_are_of_the_clips(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, runs = trained
    monkeypatch.chdir(root)
    run = runs["npy"]
    p = run.parameters
    train, val = sequences(p, "train").numpy(), sequences(p, "val")
    table = run.baselines().query("split == 'val'").set_index(["branch", "baseline", "metric"])["value"]
    mean = (train.sum((0, 1)) / 255 + 0.5) / (train.shape[0] * train.shape[1] + 1)
    errors = (val[:, 3:].numpy() / 255 - mean) ** 2
    assert table["pred", "mean_frame", "mse"] == pytest.approx(errors.mean())
    assert table["pred", "floor", "bce"] > 0
    assert "mean frame" in str(run.verdict)
    assert set(run.test().metric) == {"mse", "bce", "mae", "psnr", "ssim"}
    assert run.samples()["pred"].shape == (2, 4, 12, 20)
    chunks = baselines(iter(np.array_split(train, 3)), {"pred": val[:, 3:].numpy()}, val[:, 2].numpy())
    assert chunks.equals(baselines(train, {"pred": val[:, 3:].numpy()}, val[:, 2].numpy()))
    assert reference_levels(p, float("inf"))["value"].notna().all()


def test_the_record_says_which_clips_and_what_was_done_with_them(trained: Any) -> None:
    _, runs = trained
    record = runs["avi"].record()
    assert record["parameters"]["clips"] == "avis"
    assert record["clips"]["splits"] == {"train": 8, "val": 1, "test": 1}
    assert record["clips"]["sequences"] == {"train": 16, "val": 2, "test": 2}
    assert (record["clips"]["grey"], record["clips"]["resized"]) == ("as they are", "no")
    data = dict(runs["avi"].facts())["data"]
    assert f"clips avis ({runs['avi'].parameters.clips_digest}; 8 for train, 1 for val, 1 for test)" in data
    assert "12×20" in data
    assert "digits" not in data


def test_a_record_of_colours_says_so(place: Path) -> None:
    np.save(place / "all.npy", np.stack([ALL, ALL // 2, ALL], -1))
    facts = clip_sets.clip_facts(open_run("fam", TINY, {"clips": "all.npy", "frame_size": 16}).parameters)
    assert facts["grey"] == "4 of 4 had colours, made grey by Rec. 601"
    assert facts["resized"] == "by area, from 12×20"
    told = "2 for train, 1 for val, 1 for test, 4 of 4 had colours, made grey by Rec. 601, resized by area, from 12×20"
    assert clip_sets.told_of_clips(facts) == told


def test_which_clip_a_sequence_is_from_needs_no_labels(place: Path) -> None:
    for name, clip in zip("abcdef", moving(6), strict=True):
        np.save(place / f"{name}.npy", clip)
    run = open_run("fam", TINY, {"clips": "*.npy", "clips_val": "b.npy", "clips_test": ["c.npy"], "frame_size": None})
    table = run.labels(split="test")
    assert list(table.columns) == ["sequence", "clip", "index", "start"]
    assert set(table["clip"]) == {str(place / "c.npy")}
    assert set(run.labels(split="train")["clip"]) == {str(place / f"{name}.npy") for name in "adef"}
    for row, sequence in zip(table.itertuples(), run.sequences("test"), strict=True):
        assert (np.load(place / "c.npy")[row.start : row.start + 7] == sequence).all()


def test_a_run_is_read_without_its_clips(trained: Any, place: Path) -> None:
    _, runs = trained
    copy = shutil.copytree(runs["gif"].folder, place / "copy")
    run = RunFolder.load(copy)
    assert run.parameters.clips_digest == runs["npy"].parameters.clips_digest
    assert run.facts()
    assert run.explain()
    assert run.model().frame_shape == (12, 20)
    moved = RunFolder(copy, "fam", run.parameters.model_copy(update={"clips": "gone/*.gif"}), {})
    with pytest.raises(FileNotFoundError, match=r"clips .*gone/\*.gif: nothing matches"):
        moved.outputs()


def test_planned_elsewhere_it_is_the_same_run(trained: Any, place: Path) -> None:
    _, runs = trained
    p = runs["npy"].parameters
    decided = {name: getattr(p, name) for name in clip_sets.DECIDED_BY_CLIPS}
    assert open_run("fam", TINY, {"clips": "not/here", **decided}).name == runs["npy"].name


def test_a_plan_carries_where_the_clips_are_and_which(place: Path) -> None:
    content = TINY | {"clips": ["data/all.npy"], "frame_size": "none", "epochs": 2}
    make_project(place, {"fam": []}, {"fam/a": content})
    (place / "data").mkdir()
    np.save(place / "data/all.npy", np.stack(moving(10)))
    (item,) = plan([place / "params/fam/a.yaml"], store=str(place / "store"))
    decided = {name: item.given[name] for name in clip_sets.DECIDED_BY_CLIPS}
    assert item.given["clips"] == [str(place / "data/all.npy")]
    assert decided["frame_size"] == [12, 20]
    assert (decided["train_sequences"], decided["test_sequences"]) == (16, 2)
    assert clip_sets.as_recorded(item.run.parameters.model_dump(mode="json"))["clips"] == ["data/all.npy"]
    (place / "data/all.npy").unlink()
    (elsewhere,) = plan([place / "params/fam/a.yaml"], given=decided, store=str(place / "store"))
    assert elsewhere.run.name.rpartition("-")[2] == item.run.name.rpartition("-")[2]


def test_a_path_whose_clips_changed_is_not_taken_for_the_run(trained: Any, place: Path) -> None:
    np.save(place / "all.npy", np.stack(moving(10, seed=1)))
    p = trained[1]["npy"].parameters
    clip_sets._splits.cache_clear()
    with pytest.raises(ValueError, match="these are other clips"):
        sequences(p, "val")


def test_more_sequences_than_there_are_beside_a_digest_are_refused(trained: Any, monkeypatch: Any) -> None:
    root, runs = trained
    monkeypatch.chdir(root)
    given = {"clips": "all.npy", "frame_size": None, "clips_digest": runs["npy"].parameters.clips_digest}
    with pytest.raises(ValueError, match=r"train_sequences 9,000 is more than these clips have: set .*: 16"):
        open_run("fam", TINY, given)


def test_runs_on_other_clips_are_not_compared(trained: Any) -> None:
    _, runs = trained
    run = runs["npy"]
    other = RunFolder.load(run.folder)
    for change in ({"clips_digest": "0" * 16}, {"clip_stride": 2}, {"clips_digest": None, "frame_size": 16}):
        changed: Any = Run(other.folder, "fam", other.parameters.model_copy(update=change), {})
        assert len(groups([run, changed])) == 2
    words = data_and_budget(run.parameters)
    assert words.startswith(f"12×20 pixels, 3 frames seen, 4 to come, clips {run.parameters.clips_digest}, ")
    assert "digits" not in words
    assert "None" not in words
    assert "clips" not in data_and_budget(open_run("fam", {"frame_size": 16}).parameters)


def test_decoding_gives_frames_one_by_one(place: Path) -> None:
    file = write_video(place / "a.avi", MADE[0])
    first = next(decoded((file,)))
    assert np.array_equal(first.grey, MADE[0][0])


# ---- what else lies there, and what becomes of the cache ----


def test_hidden_files_and_folders_are_no_clips(place: Path) -> None:
    clips = moving(2)
    write_video(place / "a" / "one.avi", clips[0])
    write_pictures(place / "a" / "two", clips[1])
    before = read_clips([place / "a"])
    shutil.copytree(place / "a", place / "a" / ".ipynb_checkpoints")
    for name in ("._one.avi", ".DS_Store", "two/._frame1.png", "two/.DS_Store"):
        (place / "a" / name).write_bytes(b"\0\5\26\7")
    assert read_clips([place / "a"]) == before
    assert read_clips([place / "a" / "*"]) == before


@pytest.mark.parametrize("name", ["clips.NPZ", "clips.NPY", "clips.AVI", "clips.Gif"])
def test_the_case_of_a_suffix_makes_no_difference(name: str, place: Path) -> None:
    (clip,) = moving(1)
    small, large = place / name.lower(), place / "large" / name
    large.parent.mkdir()
    match small.suffix:
        case ".npz":
            np.savez(small, clip)
        case ".npy":
            np.save(small, clip)
        case ".avi":
            write_video(small, clip)
        case _:
            frames = [Image.fromarray(frame) for frame in clip]
            frames[0].save(small, save_all=True, append_images=frames[1:])
    shutil.copy(small, large)
    for where in (large, large.parent):
        assert [c.digest for c in read_clips([where])] == [c.digest for c in read_clips([small])]


def test_a_cache_that_is_deleted_while_it_is_read_is_made_again(place: Path) -> None:
    video, pictures = write_video(place / "a.avi", moving(1)[0]), write_pictures(place / "b", moving(2)[1])
    np.savez(place / "c.npz", moving(3)[2])
    clips = read_clips([video, pictures, place / "c.npz"])
    windows = Windows(clips, frames=7)
    before = windows[:]
    caches = {clip.file.parent for clip in clips}
    forget()
    for cache in caches:
        shutil.rmtree(cache)
    assert torch.equal(windows[:], before)
    forget()
    for cache in caches:
        shutil.rmtree(cache)
    write_video(video, moving(4)[3])
    with pytest.raises(ValueError, match=r"a\.avi was deleted, moved or changed after its clips were read: bring it"):
        windows[:]


def forget() -> None:
    """Close the files that are mapped, as happens where there are many."""
    clip_files.array_clips.cache_clear()
    clip_reading._mapped.cache_clear()


def test_what_was_read_of_a_file_does_not_stay_in_memory(place: Path) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc")

    def mapped() -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("RssFile"))

    np.save(place / "large.npy", np.broadcast_to(np.uint8(1), (40, 8, 512, 512)))  # 84 MB
    before = mapped()
    windows = Windows(read_clips([place / "large.npy"]), frames=8)
    assert int(windows[:20].sum()) == 20 * 8 * 512 * 512
    assert mapped() - before < 42_000
