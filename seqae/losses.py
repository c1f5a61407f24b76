"""Activations of the last layer and training losses. A loss has one value for each sequence; the caller averages.

To add a loss, write a function of z, target and activation, add it to TRAINING_LOSSES (and to NEEDS_PROBABILITY, if it
needs a probability), and a short name to LOSSES.
torch is imported inside the functions, so that parameters are checked without it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from seqae.tasks import ACTIVATIONS, check_choice

if TYPE_CHECKING:
    from torch import Tensor


class NamedLoss(NamedTuple):
    """What one short name of a loss stands for."""

    pixel_range: tuple[float, float]
    activation: str
    training_loss: str


LOSSES = {  # the diary's five; `architectures.Architecture.reach` says why 0sb and 0sm cannot learn on h itself
    "1tm": NamedLoss((-1.0, 1.0), "tanh", "mse"),
    "1nm": NamedLoss((-1.0, 1.0), "none", "mse"),
    "0sb": NamedLoss((0.0, 1.0), "sigmoid", "bce"),
    "0sm": NamedLoss((0.0, 1.0), "sigmoid", "mse"),
    "0nm": NamedLoss((0.0, 1.0), "none", "mse"),
}


def activate(z: "Tensor", activation: str) -> "Tensor":
    """Output frames in the model's pixel range, from pre-activations z of any shape; the same shape.

    Raises ValueError for an activation that is not in `tasks.ACTIVATIONS`.
    """
    check_choice("activation", activation, ACTIVATIONS)
    return z if activation == "none" else getattr(z, activation)()


def squared_error(z: "Tensor", target: "Tensor", *, activation: str) -> "Tensor":
    """Mean squared error of each sequence, in squared units of the training range.

    z: (B, T, H, W) pre-activations; target: (B, T, H, W) in the training range. Returns (B,). On (-1, 1) the value is
    4 times that on (0, 1); metrics, unlike this loss, are always on [0, 1].
    """
    return (activate(z, activation) - target).square().flatten(1).mean(1)


def binary_cross_entropy(z: "Tensor", target: "Tensor", *, activation: str = "sigmoid") -> "Tensor":
    """Binary cross-entropy of sigmoid(z) for each sequence, in nats per pixel, computed from the logits z.

    z, target: (B, T, H, W), target in [0, 1]. Returns (B,). Srivastava et al. (2015), §3.2, report its sum over a
    frame, which is 4096 times as much at 64×64. `training_loss` refuses another activation than sigmoid.
    """
    return pixel_cross_entropy(z, target).flatten(1).mean(1)


def pixel_cross_entropy(z: "Tensor", target: "Tensor") -> "Tensor":
    """Binary cross-entropy of sigmoid(z) for each pixel, in nats. z, target and result have one shape."""
    from torch.nn import functional as F

    return F.binary_cross_entropy_with_logits(z, target, reduction="none")


TRAINING_LOSSES: "dict[str, Callable[..., Tensor]]" = {"mse": squared_error, "bce": binary_cross_entropy}
NEEDS_PROBABILITY = ("bce",)  # losses of a sigmoid's output, with pixels in (0, 1)


def loss_fault(loss: object, activation: str, pixel_range: tuple[float, float] = (0.0, 1.0)) -> str:
    """What is wrong where a training loss needs a probability and the output is none, a sentence; "" if nothing is."""
    needs, pixels = getattr(loss, "needs_probability", loss in NEEDS_PROBABILITY), "({:g}, {:g})".format(*pixel_range)
    if not needs or (activation, *pixel_range) == ("sigmoid", 0, 1):
        return ""
    told = f"training_loss {getattr(loss, '__name__', loss)} needs a probability, which activation {activation} with"
    return f"{told} pixels in {pixels} does not give: choose activation: sigmoid and pixel_range: [0, 1], or mse"


def training_loss(z: "Tensor", target: "Tensor", *, kind: "str | Callable[..., Tensor]", activation: str) -> "Tensor":
    """The training loss of each sequence, (B,). kind: a key of TRAINING_LOSSES, or a function of your own.

    z: (B, T, H, W) pre-activations; target: (B, T, H, W) in the training range. The unit is that function's. Raises
    ValueError for an unknown kind, and for one that needs a probability with another activation than sigmoid.
    """
    if isinstance(kind, str):
        check_choice("training_loss", kind, TRAINING_LOSSES)
    if fault := loss_fault(kind, activation):
        raise ValueError(fault)
    return (TRAINING_LOSSES[kind] if isinstance(kind, str) else kind)(z, target, activation=activation)
