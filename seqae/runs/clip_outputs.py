"""Clips of a file through a trained model, and what it makes of them into files: arrays and an animation."""

import glob
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from seqae.files import whole
from seqae.runs.clip_files import grey, time_first
from seqae.runs.clips import ARRAYS, read_clips, resized
from seqae.runs.folder import RunFolder
from seqae.runs.pictures import Strip, Strips, difference, save_columns
from seqae.tasks import BRANCHES, Size

OUTPUT_FILES = (".npz", ".gif")


def save_clip_outputs(
    run: RunFolder, clips_file: Path, files: Sequence[Path], *, steps: int | None = None, device: str = "auto"
) -> list[str]:
    """Write what a run's model makes of the clips of a file; a line on each file written.

    The model sees the first frames_in frames of each clip, resized as in training where they are uint8 of another size.
    `pred`, for `steps` frames, and `recon`, in the order of time, whichever the run has, are float32 on [0, 1] in an
    .npz file, and the first 4 clips move in a .gif. Raises ValueError for files of other kinds, for clips and steps
    that do not fit the run, and as `clips_of`; RunError where nothing is trained yet.
    """
    if wrong := [file for file in files if file.suffix.lower() not in OUTPUT_FILES]:
        raise ValueError(f"{wrong[0]} must end in {' or '.join(OUTPUT_FILES)}")
    if clips_file.resolve() in [file.resolve() for file in files]:
        raise ValueError(f"{clips_file} holds the clips, which would be overwritten: choose another file to write")
    if lost := [file.parent for file in files if not file.parent.is_dir()]:
        raise ValueError(f"there is no folder {lost[0]}: make it, or choose another file to write")
    run.model_file()  # what has no model is told before large files are read
    p, given = run.parameters, clips_of(clips_file)
    clips = _of_size(given, p.frame_shape)
    if clips.ndim == 4 and 0 < clips.shape[1] < p.frames_in:
        raise ValueError(
            f"{clips_file} is read as {len(clips)} clips of {clips.shape[1]} frames (time is the axis along which "
            f"neighbouring frames differ less), and this run's model reads {p.frames_in} (frames_in): give as many"
        )
    seen = clips if clips.ndim < 3 else clips[..., : p.frames_in, :, :]  # `run` refuses others
    outputs: dict[str, np.ndarray] = {}
    if "recon" in BRANCHES[p.task]:
        outputs["recon"] = run.reconstruct(seen, device=device)
    if "pred" in BRANCHES[p.task] or steps is not None:  # a run that predicts nothing refuses steps
        outputs["pred"] = run.predict(seen, steps, device=device)
    for file in files:
        with whole(file) as target:
            if file.suffix.lower() == ".gif":
                save_columns(_columns(clips, outputs, frames_in=p.frames_in), target)
            else:
                with target.open("wb") as stream:
                    np.savez(stream, allow_pickle=False, **outputs)
    told = ", ".join(f"{branch} {array.shape}" for branch, array in outputs.items())
    if clips is not given:
        told += ", resized from {}×{} to {}×{}".format(*given.shape[-2:], *p.frame_shape)
    return [f"{file}: {told}, from frames 1 to {p.frames_in} of {clips.shape[-3]}" for file in files]


def clips_of(file: Path) -> np.ndarray:
    """The clips of a file: the array of a .npy file, mapped into memory, or of a .npz file that holds one, or one named
    `frames`, as it is; of a video, a GIF or a folder of pictures its frames, uint8 (T, H, W).

    Runs no code of the file. Raises FileNotFoundError if it is not there, ValueError as `clips.read_clips`, and for an
    array that is damaged or holds other things than numbers.
    """
    if file.suffix.lower() not in ARRAYS:
        clips = read_clips([glob.escape(str(file))])
        if len(clips) > 1:
            raise ValueError(f"{file} holds {len(clips)} clips: give one of them, or all as an array (numpy.save)")
        return clips[0].read(0, clips[0].frames)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file: give an .npy or .npz file, a video, or a folder of pictures")
    try:
        if file.suffix.lower() == ".npy":
            return _clips_first(np.lib.format.open_memmap(file, mode="r"), file)  # never unpickles
        with np.load(file, allow_pickle=False) as arrays:
            names = arrays.files if len(arrays.files) == 1 else [name for name in arrays.files if name == "frames"]
            if names:
                return _clips_first(arrays[names[0]], file)
            held = ", ".join(arrays.files) or "nothing"
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} is not a whole {file.suffix} file of numbers: {error}") from error
    raise ValueError(f"{file} holds {held}: give a file with one array, or with one that is named frames")


def _clips_first(array: np.ndarray, file: Path) -> np.ndarray:
    # By the rules of `clips`: colours become grey, and the official test file, for example, has time first. Of
    # four axes the second may be three frames as well as three colours: training takes it for colours, this for frames.
    if array.ndim == 5 and array.shape[2] in (1, 3) and array.shape[-1] not in (1, 3):
        array = np.moveaxis(array, 2, -1)
    if array.ndim in (4, 5) and array.shape[-1] in (1, 3) and array.size and array.dtype.kind in "uf":
        array = grey(array.reshape(-1, *array.shape[-3:]), file).reshape(array.shape[:-1])
    return array.swapaxes(0, 1) if array.ndim == 4 and array.dtype.kind in "uif" and time_first(array) else array


def _of_size(clips: np.ndarray, size: Size) -> np.ndarray:
    # What is not grey frames of 0-255 stays as it is: `run` says what it needs.
    if clips.dtype != np.uint8 or clips.ndim not in (3, 4) or 0 in clips.shape or clips.shape[-2:] == size:
        return clips
    one_by_one = clips if clips.ndim == 4 else clips[None]
    frames = np.stack([resized(torch.from_numpy(np.array(clip)), size).numpy() for clip in one_by_one])
    return frames if clips.ndim == 4 else frames[0]


def _columns(clips: np.ndarray, outputs: Mapping[str, np.ndarray], *, frames_in: int) -> Strips:
    # Beside each output what is true, where the clips have it, and the difference; else what the model saw.
    shown = {"seen": clips[..., :frames_in, :, :]}
    if "pred" in outputs:
        shown["future"] = clips[..., frames_in : frames_in + outputs["pred"].shape[-3], :, :]
    strips = {name: Strip(name, _picture(frames)) for name, frames in shown.items()}
    columns: Strips = []
    for branch, true, title in (("recon", "seen", "reconstruction"), ("pred", "future", "prediction")):
        if branch in outputs:
            output = Strip(title, _picture(outputs[branch]))
            if strips[true].frames.shape == output.frames.shape:
                columns += [strips[true], output, Strip("difference", difference(strips[true], output))]
            else:
                columns += [output] if columns else [strips["seen"], output]
    return columns


def _picture(frames: np.ndarray) -> np.ndarray:
    # The first 4 clips, uint8 (N, T, H, W).
    some = frames[:4] if frames.ndim == 4 else frames[None]
    return np.asarray(some) if some.dtype == np.uint8 else np.round(255 * some).astype(np.uint8)
