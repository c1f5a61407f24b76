"""Clips of one's own: grey video of any length and size, from arrays, video files, GIFs and folders of pictures.

A clip is known by a hash of its decoded grey frames, so the same clip in another file or container is the same clip.
Arrays (.npy) are memory-mapped where they lie and never unpickled. Everything else is decoded once into the user's
cache and memory-mapped there. What was read is remembered by path, size and time of change; the folder `clips` of the
cache can be deleted at any time. Decoding is in `clip_files`.
"""

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from glob import escape, has_magic
from glob import glob as matches
from hashlib import sha256
from pathlib import Path
from shutil import copyfileobj
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqae.files import cache_folder, replace_text, whole
from seqae.runs.clip_files import (
    LEAVE_OUT,
    PICTURES,
    VIDEOS,
    Source,
    array_clips,
    decoded,
    grey,
    named_source,
    picture_clips,
    read_each,
    release,
)
from seqae.tasks import Size

ARRAYS = {".npy", ".npz"}
CACHE_FORMAT = 1  # of what the cache remembers, and of the hashes
READ_BYTES = 2**25  # bytes of frames read at a time


@dataclass(frozen=True)
class Clip:
    """One clip. digest: hash of its grey frames, 16 hex digits. frames: how many. size: height and width in pixels.
    coloured: whether its frames have colours, which become grey (Rec. 601). file, index: where its frames are: an .npy
    file and the clip's place in it, or a .raw file of the cache. changed: when that file was, in ns. source: what it
    was read from.
    """

    digest: str
    frames: int
    size: Size
    coloured: bool
    file: Path
    index: int
    changed: int
    source: Source

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames start to stop - 1, uint8 (stop - start, H, W), 0–255.

        Frames that were deleted from the cache are decoded again. Raises ValueError if the source is another by now.
        """
        part = self._opened()[start:stop]
        frames = np.array(grey(part, self.file))
        release(part)
        return frames

    def _opened(self) -> np.ndarray:
        try:
            return self._frames()
        except FileNotFoundError:
            what = f"{self.source[0]} was deleted, moved or changed after its clips were read"
            with suppress(FileNotFoundError):
                if again := next((clip for clip in _remembered(self.source) if clip.digest == self.digest), None):
                    return again._frames()
            raise ValueError(f"{what}: bring it back, or run this again with what is there now") from None

    def _frames(self) -> np.ndarray:
        if self.file.stat().st_mtime_ns != self.changed:
            raise FileNotFoundError(self.file)  # what is mapped may be other frames by now
        if self.file.suffix == ".raw":
            return _mapped(self.file, (self.frames, *self.size))
        return array_clips(self.file, self.changed)[self.index]


def read_clips(paths: Iterable[str | Path]) -> list[Clip]:
    """All clips at these paths, folders and globs, in the order of their digests.

    A path is an .npy or .npz file, a video file or a GIF, a folder, or a glob of these. A folder stands for all such
    files in it, at any depth, but for hidden ones, whose name or folder begins with a dot; a folder that holds pictures
    is a clip, its pictures in the order of the numbers in their names. An array is one clip, (T, H, W), or many,
    (N, T, H, W) or (T, N, H, W), each with or without an axis of 1 or 3 channels, at the end or before H; uint8, or
    floats in [0, 1]. Of two leading axes, time is the one along which neighbouring frames differ less. Four axes are
    one clip with channels if the second or the last is 1 or 3 long.

    Raises FileNotFoundError where nothing matches, ValueError, which names the files, for what cannot be read.
    """
    sources = dict.fromkeys(source for path in paths for source in _sources(str(path)))
    return sorted(read_each(sources, _remembered), key=lambda clip: clip.digest)


def split_clips(
    clips: Sequence[Clip], *, val: Sequence[Clip] | None = None, test: Sequence[Clip] | None = None
) -> dict[str, list[Clip]]:
    """The clips of train, val and test. No clip is in two of them.

    val, test: where given, these, and train has the others. Where not, a tenth of the clips each, at least one: those
    whose digests come first are test, the next val. Raises ValueError for a clip in both, and where a split is empty.
    """
    taken = {clip.digest for clip in [*(val or ()), *(test or ())]}
    left = [clip for clip in clips if clip.digest not in taken]
    share = max(1, round(len(left) / 10))
    found = {"val": list(val or ()), "test": list(test or ())}
    for split, given in (("test", test), ("val", val)):
        if given is None:
            names = dict.fromkeys(clip.digest for clip in left[:share])  # copies of a clip stay together
            found[split] = [clip for clip in left if clip.digest in names]
            left = [clip for clip in left if clip.digest not in names]
    splits = {"train": left, **found}
    if both := {clip.digest for clip in found["val"]} & {clip.digest for clip in found["test"]}:
        files = [str(clip.file) for clip in found["val"] if clip.digest in both]
        raise ValueError(f"{files[0]} is in clips_val and in clips_test: a clip belongs to one split")
    if empty := [split for split, of in splits.items() if not of]:
        raise ValueError(
            f"{len(clips)} clips are too few for train, val and test, {empty[0]} has none: give 3 or more, or "
            "clips_val and clips_test"
        )
    return splits


def set_digest(splits: Mapping[str, Sequence[Clip]]) -> str:
    """16 hex digits that tell sets of clips apart: a hash of the clips of each split, whatever their order."""
    known = [sorted(clip.digest for clip in splits[split]) for split in ("train", "val", "test")]
    return sha256(json.dumps([CACHE_FORMAT, *known]).encode()).hexdigest()[:16]


class Windows:
    """Sequences of equally many frames cut out of clips; they are read when they are indexed.

    frames: of a window. stride: frames between the starts of two windows of a clip; by default `frames`, so that they
    do not overlap. size: height and width that frames are resized to, by area. Windows have a fixed random order, a
    function of the clips, so that the first of them are of many clips. Raises ValueError for clips that are shorter
    than a window, or of another size where none is given.
    """

    def __init__(
        self, clips: Sequence[Clip], *, frames: int, stride: int | None = None, size: Size | None = None
    ) -> None:
        self.clips, self.frames, self.size = clips, frames, size or common_size(clips)
        if short := dict.fromkeys(f"{named_source(c.source)} ({c.frames})" for c in clips if c.frames < frames):
            raise ValueError(
                f"clips with fewer frames than a window of {frames} (frames_in + frames_out): "
                f"{', '.join([*short][:10])}{', …' * (len(short) > 10)}: set either lower{LEAVE_OUT}"
            )
        counts = [(clip.frames - frames) // (stride or frames) + 1 for clip in clips]
        places = np.repeat(np.arange(len(clips)), counts)
        starts = np.concatenate([np.arange(count) for count in counts]) * (stride or frames)
        # Philox's words are the same in every version of numpy, unlike Generator.permutation.
        order = np.argsort(np.random.Philox(key=0).random_raw(len(places)), kind="stable")
        self.places = np.stack([places, starts], 1)[order]  # (n, 2): clip, first frame

    def __len__(self) -> int:
        return len(self.places)

    @property
    def bytes(self) -> int:
        """What all windows take in memory."""
        return len(self) * self.frames * self.size[0] * self.size[1]

    def part(self, indices: np.ndarray) -> "Windows":
        """Some of the windows, in this order."""
        other = object.__new__(Windows)
        other.__dict__ |= self.__dict__ | {"places": self.places[indices]}
        return other

    def __getitem__(self, indices: slice | Sequence[int] | Tensor) -> Tensor:
        """uint8 (n, frames, H, W), 0–255, in the order of `indices`."""
        chosen = self.places[indices.numpy() if isinstance(indices, Tensor) else indices]
        out = torch.empty(len(chosen), self.frames, *self.size, dtype=torch.uint8)
        for window, (place, start) in zip(out, chosen.tolist(), strict=True):
            window.copy_(resized(torch.from_numpy(self.clips[place].read(start, start + self.frames)), self.size))
        return out


def resized(frames: Tensor, size: Size) -> Tensor:
    """Frames uint8 (T, H, W) → uint8 (T, *size): each pixel is the mean over the area that it covers."""
    if frames.shape[1:] == size:
        return frames
    return torch.nn.functional.interpolate(frames[None].float(), size, mode="area")[0].round_().to(torch.uint8)


def common_size(clips: Sequence[Clip]) -> Size:
    """Height and width of all these clips. Raises ValueError if they have several sizes."""
    first = clips[0]
    if other := next((clip for clip in clips if clip.size != first.size), None):
        sizes = [f"{named_source(clip.source)} has frames of {clip.size[0]}×{clip.size[1]}" for clip in (first, other)]
        raise ValueError(f"{sizes[0]} and {sizes[1]}: set frame_size, [height, width], to resize them")
    return first.size


def _sources(path: str) -> Iterator[Source]:
    path = str(Path(path).absolute())
    there = str(next(place for place in (Path(path), *Path(path).parents) if place.exists()))
    pattern = path.removeprefix(there)  # brackets in the name of a folder that is there are none of a glob
    matched = [Path(found) for found in sorted(matches(escape(there) + pattern, recursive=True))]  # noqa: PTH207 a path may be absolute
    if not matched:
        told = "nothing matches" if has_magic(pattern) else "there is no such file or folder"
        raise FileNotFoundError(f"clips {path}: {told}: check the path, in the project, and the same on every worker")
    found: list[Source] = []
    for folder in [each for each in matched if each.is_dir()]:
        below = sorted(file for file in folder.rglob("*") if not _hidden(file, folder) and file.is_file())
        found += [(file,) for file in below if file.suffix.lower() in ARRAYS | VIDEOS]
        found += picture_clips(below)
    found += [(file,) for file in matched if file.is_file() and file.suffix.lower() not in PICTURES]
    found += picture_clips(file for file in matched if file.is_file())
    if not found:
        raise FileNotFoundError(f"clips {path}: it holds no arrays (.npy, .npz), videos or pictures")
    yield from found


def _hidden(file: Path, folder: Path) -> bool:
    # JupyterLab's .ipynb_checkpoints, macOS' ._frame1.png
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _remembered(source: Source) -> list[Clip]:
    """The clips of a source, from what the cache knows, or read now."""
    stats = [(str(file), (known := file.stat()).st_size, known.st_mtime_ns) for file in source]
    key = sha256(json.dumps([CACHE_FORMAT, stats]).encode()).hexdigest()[:20]
    cache = cache_folder() / "clips"
    facts, stored = cache / f"{key}.json", cache / f"{key}{'.npy' if source[0].suffix.lower() == '.npz' else '.raw'}"
    file = source[0] if source[0].suffix.lower() == ".npy" else stored
    if not (facts.exists() and file.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        read = _read_array(source[0], file) if file.suffix.lower() == ".npy" else _read_video(source, file)
        replace_text(facts, json.dumps(read))
    changed = file.stat().st_mtime_ns
    known_clips = json.loads(facts.read_text(encoding="utf-8"))
    return [
        Clip(digest, frames, (height, width), coloured, file, index, changed, source)
        for index, (digest, frames, height, width, coloured) in enumerate(known_clips)
    ]


def _read_array(source: Path, file: Path) -> list[Any]:
    if source != file:
        try:
            with zipfile.ZipFile(source) as archive:
                if len(names := archive.namelist()) != 1:
                    raise ValueError(f"{source} holds {len(names)} arrays, and one is wanted: save them one by one")
                with archive.open(names[0]) as stream, whole(file) as temporary, temporary.open("wb") as out:
                    copyfileobj(stream, out)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{source} is no whole npz file ({error}): get it again") from None
    found = []
    for clip in array_clips(file, file.stat().st_mtime_ns):
        frames, height, width = clip.shape[:3]
        count = max(1, READ_BYTES // (height * width * clip.itemsize))
        parts = (clip[start : start + count] for start in range(0, frames, count))
        coloured, known = False, sha256(f"{frames},{height},{width}".encode())
        for part in parts:
            known.update(grey(part, source).tobytes())
            coloured = coloured or (part.ndim == 4 and bool((part != part[..., :1]).any()))
            release(part)
        found.append([known.hexdigest()[:16], frames, height, width, coloured])
    return found


def _read_video(source: Source, file: Path) -> list[Any]:
    frames, size, coloured = 0, (0, 0), False
    with whole(file) as temporary:
        with temporary.open("wb") as out:
            for frame in decoded(source):
                if frames and frame.grey.shape != size:
                    where = source[frames] if len(source) > 1 else source[0]
                    raise ValueError(
                        f"{where} has a frame of {frame.grey.shape} pixels after frames of {size}: clips have one"
                    )
                frames, size, coloured = frames + 1, frame.grey.shape, coloured or frame.coloured
                out.write(frame.grey.tobytes())
        if not frames:
            raise ValueError(f"{source[0]} is empty: it has no frames")
        known = sha256(f"{frames},{size[0]},{size[1]}".encode())
        with temporary.open("rb") as stream:
            while part := stream.read(READ_BYTES):
                known.update(part)
    return [[known.hexdigest()[:16], frames, *size, coloured]]


@lru_cache(maxsize=256)
def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.memmap(file, np.uint8, "r", shape=shape)
