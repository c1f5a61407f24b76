"""What is decoded, what a decoder reads and through which activation: the lists that parameters, models and figures
share, and what each branch of a task has to output.
"""

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # parameters are checked without torch
    from torch import Tensor

Task = Literal["recon", "recon_ordered", "pred", "both"]
Branch = Literal["recon", "pred"]
DecoderInput = Literal["zero", "output", "truth"]
Activation = Literal["none", "tanh", "sigmoid"]

BRANCHES: dict[str, tuple[Branch, ...]] = {  # of each task, in the order of its decoders
    "recon": ("recon",),
    "recon_ordered": ("recon",),
    "pred": ("pred",),
    "both": ("recon", "pred"),
}
DECODER_INPUTS: tuple[str, ...] = get_args(DecoderInput)
ACTIVATIONS: tuple[str, ...] = get_args(Activation)


def branch_targets(frames: "Tensor", *, task: str, frames_in: int) -> "dict[str, Tensor]":
    """What each branch has to output. frames: (B, frames_in + frames_out, H, W); returns (B, T, H, W) a branch.

    `recon` decodes the seen frames in reverse order (Srivastava et al., 2015, §2.2), `recon_ordered` in order.
    """
    seen, future = frames[:, :frames_in], frames[:, frames_in:]
    recon = seen if task == "recon_ordered" else seen.flip(1)
    return {branch: {"recon": recon, "pred": future}[branch] for branch in BRANCHES[task]}
