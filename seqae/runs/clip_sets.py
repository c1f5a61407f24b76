"""The clips that parameters name: read, split, known by their digest; and the sequences of each split."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqae.parameters import Parameters
from seqae.runs.assignment import current_assignment
from seqae.runs.clips import Clip, Windows, common_size, read_clips, set_digest, split_clips
from seqae.stores import project_path, project_root

CLIP_PATHS = ("clips", "clips_val", "clips_test")
# What the clips decide of a run's parameters, see `with_clips`.
DECIDED_BY_CLIPS = ("clips_digest", "frame_size", "train_sequences", "val_sequences", "test_sequences")
RESIDENT = 2**30  # bytes: so much of a split's frames is held in memory, and of more only what a batch needs


def with_clips(p: Parameters) -> Parameters:
    """The parameters with what the clips decide: their digest, the size of their frames where none is given, and how
    many sequences a split has, if fewer than asked for.

    Parameters without clips are returned as they are. So are those that state all of it, where the clips are not at
    hand: a machine that only plans needs the digest alone. Raises ValueError for clips that cannot be read, that are
    others than a stated digest says, or too few for the sequences stated beside it, for uint8 that holds 0 and 1 alone,
    and for an empty path.
    """
    if p.clips is None:
        return p
    for name in CLIP_PATHS:
        if not all(path.strip() for path in _each(() if getattr(p, name) is None else getattr(p, name))):
            raise ValueError(
                f"{name} is an empty path, which would mean the whole project: give a path, or leave it out"
            )
    _splits.cache_clear()  # files may have changed since
    try:
        splits = clip_splits(p)
    except FileNotFoundError as error:
        if p.clips_digest and p.frame_size is not None:
            return p
        raise ValueError(f"{error}; to plan without them, state clips_digest and frame_size") from None
    every = [clip for of in splits.values() for clip in of]
    height, width = p.frame_shape if p.frame_size is not None else common_size(every)
    changed: dict[str, Any] = {"clips_digest": set_digest(splits)}
    changed["frame_size"] = height if height == width else (height, width)
    sized = p.model_copy(update=changed)
    Windows(every, frames=p.frames_in + p.frames_out, size=sized.frame_shape)  # names what is too short in any split
    for split in splits:
        name, there = f"{split}_sequences", len(windows(sized, split))
        if p.clips_digest and getattr(p, name) > there:
            raise ValueError(f"{name} {getattr(p, name):,} is more than these clips have: set {name}: {there}")
        changed[name] = min(getattr(p, name), there)
    if windows(sized, "train")[:64].max() == 1:
        raise ValueError(
            f"pixels of clips {p.clips} are 0 and 1, nearly black: multiply by 255, or save floats in [0, 1]"
        )
    return p.model_copy(update=changed)


def decided_alike(usual: Parameters, p: Parameters, given: Mapping[str, Any]) -> Parameters:
    """A family's defaults with what the clips of a run decide, where these are the family's own clips.

    p: as `with_clips` returned it. given: what the run sets beside the defaults.
    """
    if p.clips is None or usual.clips != p.clips:
        return usual
    return usual.model_copy(update={name: getattr(p, name) for name in DECIDED_BY_CLIPS if name not in given})


def clip_splits(p: Parameters) -> dict[str, list[Clip]]:
    """The clips of train, val and test. Raises FileNotFoundError and ValueError as `read_clips` and `split_clips`, and
    ValueError for others than the digest says.
    """
    if p.clips is None:
        raise ValueError(f"the clips with the digest {p.clips_digest} are not known here: give their path, clips")
    splits = _splits(*(_located(paths) for paths in (p.clips, p.clips_val, p.clips_test)))
    if p.clips_digest not in (None, digest := set_digest(splits)):
        raise ValueError(
            f"clips {p.clips} have the digest {digest}, and clips_digest is {p.clips_digest}: these are other clips; "
            "leave clips_digest out, or give the clips that it is of"
        )
    return splits


def other_clips(p: Parameters) -> str:
    """Why the clips on this machine are not those of a planned run: they are not there, cannot be read, or are others.
    Empty where they are the same, or where no path says where they should be.
    """
    if p.clips is None:
        return ""
    _splits.cache_clear()  # files may have changed since
    try:
        clip_splits(p)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def located_clips(values: Mapping[str, Any], root: Path | None = None) -> dict[str, str | list[str]]:
    """Of parameters those that say where clips are, as paths found from any folder of this machine.

    root: the project that relative paths are relative to, by default the one here.
    """

    def full(paths: str | Sequence[str]) -> str | list[str]:
        return str(project_path(paths, root)) if isinstance(paths, str) else [str(project_path(p, root)) for p in paths]

    return {name: full(values[name]) for name in CLIP_PATHS if values.get(name)}


def as_recorded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A run's parameters as its record has them: paths of clips in the project are relative to it.

    In a sweep's kernel it is the project that planned the run, which this machine may lack. Outside of projects paths
    are recorded as they are given.
    """
    assignment, here = current_assignment(), project_root()
    is_project = (here / "notebooks").is_dir() and (here / "params").is_dir()
    root = assignment.project if assignment and assignment.project else here if is_project else None

    def short(path: str) -> str:
        if root is None or not (full := project_path(path, root)).is_relative_to(root):
            return path
        return full.relative_to(root).as_posix()

    paths = {name: value for name in CLIP_PATHS if (value := parameters.get(name))}
    told = {name: short(v) if isinstance(v, str) else [short(path) for path in v] for name, v in paths.items()}
    return {**parameters, **told}


def windows(p: Parameters, split: str) -> Windows:
    """All sequences that the clips of a split have. Raises ValueError for clips shorter than a sequence."""
    clips = clip_splits(p)[split]
    return Windows(clips, frames=p.frames_in + p.frames_out, stride=p.clip_stride, size=p.frame_shape)


def epoch_of_clips(p: Parameters, block: int) -> Windows | torch.Tensor:
    """The training sequences of an epoch, block 0, 1, …: held in memory where they fit, else read as they are indexed.

    Each block is the next train_sequences of all, which begin again after the last.
    """
    every = windows(p, "train")
    some = every.part((block * p.train_sequences + np.arange(p.train_sequences)) % len(every))
    return some[:] if some.bytes <= RESIDENT else some


def clip_facts(p: Parameters) -> dict[str, Any]:
    """What the record says of the clips: how many each split has, and what was done with colours and sizes."""
    splits = clip_splits(p)
    every = [clip for of in splits.values() for clip in of]
    sizes = sorted({"{}×{}".format(*clip.size) for clip in every})
    coloured = sum(clip.coloured for clip in every)
    return {
        "splits": {split: len(of) for split, of in splits.items()},
        "sequences": {split: len(windows(p, split)) for split in splits},
        "frames": sum(clip.frames for clip in every),
        "grey": f"{coloured} of {len(every)} had colours, made grey by Rec. 601" if coloured else "as they are",
        "resized": "no" if sizes == ["{}×{}".format(*p.frame_shape)] else f"by area, from {', '.join(sizes[:5])}",
    }


def told_of_clips(facts: Mapping[str, Any]) -> str:
    """What `clip_facts` found, in words: clips of each split, colours and sizes that were changed. Empty for {}."""
    told = [f"{count:,} for {split}" for split, count in facts.get("splits", {}).items()]
    if "Rec. 601" in facts.get("grey", ""):
        told.append(facts["grey"])
    if facts.get("resized", "no") != "no":
        told.append(f"resized {facts['resized']}")
    return ", ".join(told)


def _located(paths: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if paths is None else tuple(str(project_path(path)) for path in _each(paths))


def _each(paths: str | tuple[str, ...]) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else paths


@lru_cache(maxsize=1)
def _splits(clips: tuple[str, ...], val: tuple[str, ...] | None, test: tuple[str, ...] | None) -> dict[str, list[Clip]]:
    given = {name: read_clips(paths) for name, paths in (("val", val), ("test", test)) if paths}
    return split_clips(read_clips(clips), val=given.get("val"), test=given.get("test"))
