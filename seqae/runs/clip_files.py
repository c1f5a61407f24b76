"""What is in the files of clips: arrays, and the grey frames of videos, GIFs and pictures by PyAV and Pillow."""

import mmap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp"}
VIDEOS = {".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".ts", ".gif"}
REC_601 = (299, 587, 114)  # thousandths of red, green and blue in luma
LUMA = np.clip((np.arange(256) - 16) * 255 / 219, 0, 255).round().astype(np.uint8)  # studio range 16–235 → 0–255

MOST_FAULTS = 10
LEAVE_OUT = "; to leave a file out, move it elsewhere or begin its name with a dot"
NEIGHBOURS = 2**21  # bytes: pages around the one that is read are mapped as well
Source = tuple[Path, ...]  # one file, or the pictures of one clip in order


class Frame(NamedTuple):
    """One frame: grey, uint8 (H, W), 0–255, and whether it had colours."""

    grey: np.ndarray
    coloured: bool


def grey(frames: np.ndarray, file: Path) -> np.ndarray:
    """Frames (T, H, W), or (T, H, W, C) with 1 or 3 channels, uint8 or floats in [0, 1] → uint8 (T, H, W), 0–255.

    Colours become grey by Rec. 601, in integers, so that what was grey stays as it is. Raises ValueError, which names
    the file, for floats outside [0, 1].
    """
    if frames.dtype != np.uint8:
        low, high = frames.min(), frames.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{file} holds values from {low:g} to {high:g}: clips are uint8, or floats in [0, 1]")
        frames = np.rint(frames.astype(np.float32) * 255).astype(np.uint8)
    if frames.ndim == 3:
        return np.ascontiguousarray(frames)
    if frames.shape[-1] == 1:
        return np.ascontiguousarray(frames[..., 0])
    weighted: Any = sum(frames[..., c].astype(np.uint32) * share for c, share in enumerate(REC_601))
    return ((weighted + 500) // 1000).astype(np.uint8)


@lru_cache(maxsize=256)
def array_clips(file: Path, changed: int) -> np.ndarray:
    """An .npy file as (N, T, H, W), or with channels as (N, T, H, W, C): a view of the file on disk.

    changed: when it was, in ns: a file that changes is opened again. Raises ValueError for what is no clips, and
    FileNotFoundError.
    """
    try:
        array = np.lib.format.open_memmap(file, mode="r")  # never unpickles
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError) as error:  # no npy file, or one of objects, truncated or empty
        raise ValueError(f"{file} is not a whole npy file of numbers ({error}): save it again, as uint8") from None
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ValueError(f"{file} holds {array.dtype}: clips are uint8, or floats in [0, 1]")
    if array.size == 0:
        raise ValueError(f"{file} is empty: it has shape {array.shape}")
    shape = array.shape
    if array.ndim in (4, 5) and shape[-1] not in (1, 3) and shape[array.ndim - 3] in (1, 3):
        array = np.moveaxis(array, array.ndim - 3, -1)
    channels = array.ndim > 3 and array.shape[-1] in (1, 3)
    if array.ndim - channels not in (3, 4):
        known = "(T, H, W), (N, T, H, W) or (T, N, H, W), each with or without 1 or 3 channels"
        raise ValueError(f"{file} has shape {shape}: clips are {known}")
    if array.ndim - channels == 3:
        return array[None]
    return array.swapaxes(0, 1) if time_first(array) else array


def release(part: np.ndarray) -> None:
    """Give back the memory of a part of a mapped file that was read; the system reads it again where it is needed.

    Else a process seems to take as much memory as it has ever read of its files.
    """
    mapped: Any = part
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        begin = np.frombuffer(mapped, np.uint8).ctypes.data
        low, high = (address - begin for address in np.lib.array_utils.byte_bounds(part))
        start = low // NEIGHBOURS * NEIGHBOURS
        mapped.madvise(mmap.MADV_DONTNEED, start, min(-(-high // NEIGHBOURS) * NEIGHBOURS, len(mapped)) - start)


def time_first(pictures: np.ndarray) -> bool:
    """Whether time is the first of the two leading axes: neighbouring frames differ less along it than along the other.

    pictures: (A, B, ...), of which 64 pairs are looked at. Where both differ equally, time is the second axis.
    """
    if min(pictures.shape[:2]) < 2:
        return pictures.shape[1] == 1 < pictures.shape[0]
    places = [(i, j) for i in _spread(len(pictures) - 1) for j in _spread(pictures.shape[1] - 1)]

    def change(down: int, across: int) -> float:
        pairs = ((pictures[i, j], pictures[i + down, j + across]) for i, j in places)
        return float(sum(np.abs(a.astype(np.float32) - b).mean(dtype=np.float64) for a, b in pairs))

    return change(1, 0) < change(0, 1)


def _spread(count: int) -> list[int]:
    return sorted({int(place) for place in np.linspace(0, count - 1, 8)})


def decoded(source: Sequence[Path]) -> Iterator[Frame]:
    """The frames of a video file or GIF, or of a clip's pictures. Raises ValueError, which names the file, for one that
    is no video, truncated or damaged, or has a codec that is not known.
    """
    return _of_pictures(source) if source[0].suffix.lower() in PICTURES else _of_video(source[0])


def read_each(sources: Collection[Source], read: Callable[[Source], list[Any]]) -> list[Any]:
    """What `read` returns for each source, in one list. Raises one ValueError, which tells of all that cannot be read,
    a line each; after `MOST_FAULTS` of them no more are tried.
    """
    found, faults = list[Any](), list[str]()
    for source in sources:
        try:
            found += read(source)
        except ValueError as error:
            faults.append(str(error))
        if len(faults) == MOST_FAULTS:
            faults.append("the files after these have not been read yet")
            break
    if faults:
        raise ValueError("\n".join(faults) + LEAVE_OUT * (len(sources) > 1))
    return found


def picture_clips(files: Iterable[Path]) -> list[Source]:
    """The folders of these files that hold pictures, each a clip, its pictures in the order of their numbers."""
    folders: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix.lower() in PICTURES:
            folders.setdefault(file.parent, []).append(file)
    return [tuple(sorted(of, key=_numbers)) for of in folders.values()]


def _numbers(file: Path) -> list[Any]:
    # frame9 before frame10: texts and numbers in turn
    parts = "".join(c if c.isdecimal() else f"\0{c}\0" for c in file.stem).replace("\0\0", "").split("\0")
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def named_source(source: Sequence[Path]) -> Path:
    """What a clip was read from, as a person names it: its file, or the folder of its pictures."""
    return source[0].parent if len(source) > 1 else source[0]


def _of_pictures(files: Sequence[Path]) -> Iterator[Frame]:
    from PIL import Image

    for file in files:
        try:
            with Image.open(file) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"{file} has pixels of more than 8 bits ({image.mode}): save it with 8 bits")
                # The second picture in what a camera writes (MPO) is a preview of the first.
                if (count := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                    raise ValueError(f"{file} holds {count} pictures: save each as a file, or all as a video")
                yield _of_rgb(np.asarray(image.convert("RGB")), file)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{file} is no whole picture ({error}): get it again") from None


def _of_rgb(pixels: np.ndarray, file: Path) -> Frame:
    return Frame(grey(pixels[None], file)[0], bool((pixels != pixels[..., :1]).any()))


def _of_video(file: Path) -> Iterator[Frame]:
    import av

    count, last = 0, 0.0
    try:
        with av.open(str(file), metadata_errors="replace") as container:
            if not container.streams.video:
                raise ValueError(f"{file} cannot be decoded (no video in it): it is truncated, damaged or no video")
            stream = container.streams.video[0]
            if (codec := stream.codec_context) is None:
                raise ValueError(f"{file} has a codec that is not known: convert it, to lossless FFV1 for example")
            codec.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield _of_frame(frame, file)
                count, last = count + 1, frame.time or 0.0
            told, alone = stream.frames, len(container.streams) == 1
            if not told and alone and container.duration and stream.average_rate:  # Matroska tells seconds only
                told = count + int((container.duration / av.time_base - last) * stream.average_rate) - 1
    except av.FFmpegError as error:
        why = f"after {count} frames ({error.strerror})"
        raise ValueError(f"{file} cannot be decoded {why}: it is truncated, damaged or no video") from None
    if file.suffix.lower() == ".gif":
        with file.open("rb") as stream_of_bytes:
            stream_of_bytes.seek(-1, 2)
            if stream_of_bytes.read() != b";":
                raise ValueError(f"{file} is truncated after {count} frames: get it again")
    if count < told - 2 - told // 50:  # some encoders count frames that they left out
        raise ValueError(f"{file} is truncated: it has {count} of {told} frames: get it again")


def _of_frame(frame: Any, file: Path) -> Frame:
    # The luma of YUV is Rec. 601's already. Read here, because a library's conversion differs between processors.
    name = frame.format.name
    if frame.format.components[0].bits != 8 or not name.startswith(("gray", "yuv4", "yuvj4")):
        return _of_rgb(frame.to_ndarray(format="rgb24"), file)
    luma, *chroma = (_plane(plane) for plane in frame.planes)
    full = name.startswith("yuvj") or frame.color_range == 2 or (name.startswith("gray") and frame.color_range != 1)
    coloured = any(bool((np.abs(plane.astype(np.int16) - 128) > 2).any()) for plane in chroma)
    return Frame(np.ascontiguousarray(luma) if full else LUMA[luma], coloured)


def _plane(plane: Any) -> np.ndarray:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
