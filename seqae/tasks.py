"""Tasks, branches, decoder inputs and activations: the one list of each, and the targets of each branch; sizes."""

from collections.abc import Collection
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:  # parameters are checked without importing torch
    from torch import Tensor

Task = Literal["recon", "recon_ordered", "pred", "both"]
Branch = Literal["recon", "pred"]
# What a decoder reads at each step, see `models.SequenceAutoencoder`.
DecoderInput = Literal["zero", "output", "truth"]
Activation = Literal["none", "tanh", "sigmoid"]
Size = tuple[int, int]  # height and width, of frames in pixels
FRAME_SIZES = (64, 32, 16)  # of Moving MNIST, pixels a side; the digits are 28, 14, 7

BRANCHES: dict[str, tuple[Branch, ...]] = {  # of each task, in the order of its decoders
    "recon": ("recon",), "recon_ordered": ("recon",), "pred": ("pred",), "both": ("recon", "pred"),
}  # fmt: skip
DECODER_INPUTS: tuple[str, ...] = get_args(DecoderInput)
ACTIVATIONS: tuple[str, ...] = get_args(Activation)


def check_choice(name: str, value: object, known: Collection[object]) -> None:
    """Raise ValueError unless the value, of an argument of this name, is one of those known."""
    if value not in [*known]:  # to ask a dict for a list is an error of its own
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}; not {value!r}")


def check_positive(kind: type = int, /, **named: Any) -> None:
    """Raise ValueError unless each of these arguments is None or a number above 0, whole where `kind` is int."""
    number: Any = Integral if kind is int else Real
    for name, value in named.items():
        if value is not None and not (isinstance(value, number) and value > 0):
            allowed = "a whole number, 1 or more" if kind is int else "a number above 0"
            raise ValueError(f"{name} must be {allowed}; not {value!r}")


def out_of_reach(pixel_range: tuple[float, float], activation: str) -> str:
    """What is wrong with an empty range, or one outside what an activation can output, a sentence; "" if nothing is."""
    (low, high), (least, most) = pixel_range, {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}.get(activation, pixel_range)
    if not low < high:
        return f"pixel_range ({low:g}, {high:g}) is empty: give [low, high] with low < high"
    told = f"pixel_range ({low:g}, {high:g}) lies outside what {activation} can output, ({least:g}, {most:g}): "
    return "" if least <= low and high <= most else told + "choose a range inside it, or activation: none"


def frame_shape(frame_size: Any) -> Size:
    """Height and width of frames. frame_size: both, or one number for square frames. Raises ValueError for others."""
    sides = [frame_size, frame_size] if isinstance(frame_size, int) else frame_size
    if not isinstance(sides, list | tuple) or [isinstance(n, int) and n > 0 for n in sides] != [True, True]:
        raise ValueError(f"frame_size must be pixels on a side, or [height, width]; not {frame_size!r}")
    return sides[0], sides[1]


def branch_targets(frames: "Tensor", *, task: str, frames_in: int) -> "dict[str, Tensor]":
    """The frames that each branch has to output, (B, T, H, W) by branch, in the units of `frames`.

    frames: (B, frames_in + frames_out, H, W). task: a key of BRANCHES. The recon branch decodes the frames seen in
    reverse order (Srivastava et al., 2015, §2.2), except in `recon_ordered`. Raises ValueError for sequences that have
    too few frames.
    """
    least = frames_in + ("pred" in BRANCHES[task])
    if (length := frames.shape[1]) < least:
        raise ValueError(f"task {task} after {frames_in} frames needs sequences of {least} or more; not of {length}")
    seen, future = frames[:, :frames_in], frames[:, frames_in:]
    recon = seen.clone() if task == "recon_ordered" else seen.flip(1)  # not the memory that the model reads
    return {branch: {"recon": recon, "pred": future}[branch] for branch in BRANCHES[task]}
