"""Activations and losses of the last layer. No reductions over the batch: the caller averages.

To add a loss: a function of z, target and activation, its line in TRAINING_LOSSES, and a short name in LOSSES; torch is
imported where it computes, so that parameters are checked without it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Loss = tuple[tuple[float, float], str, str]
LOSSES: dict[str, Loss] = {  # the diary's five: pixel range, output activation, training loss
    "1tm": ((-1.0, 1.0), "tanh", "mse"),
    "1nm": ((-1.0, 1.0), "none", "mse"),
    "0sb": ((0.0, 1.0), "sigmoid", "bce"),
    "0sm": ((0.0, 1.0), "sigmoid", "mse"),
    "0nm": ((0.0, 1.0), "none", "mse"),
}


def activate(z: "Tensor", activation: str) -> "Tensor":
    """Output frames, in the model's pixel range, from the pre-activations z of any shape."""
    if activation not in ("none", "tanh", "sigmoid"):
        raise ValueError(f"activation must be one of none, tanh, sigmoid; not {activation!r}")
    return z if activation == "none" else getattr(z, activation)()


def squared_error(z: "Tensor", target: "Tensor", *, activation: str) -> "Tensor":
    """Mean squared error of each sequence, in squared units of the training range.

    z: (B, T, H, W) pre-activations; target: (B, T, H, W) in the training range. Returns (B,).
    On (-1, 1) the value is 4 times that on (0, 1): metrics, unlike this training loss, are always on [0, 1].
    """
    return (activate(z, activation) - target).square().flatten(1).mean(1)


def binary_cross_entropy(z: "Tensor", target: "Tensor", *, activation: str = "sigmoid") -> "Tensor":
    """Binary cross-entropy of sigmoid(z) for each sequence, in nats per pixel; computed from the logits z.

    z, target: (B, T, H, W), target in [0, 1]. Returns (B,). Srivastava et al. (2015), §3.2, report its sum
    over a frame: × 4096 at 64×64. Raises ValueError for another activation.
    """
    if activation != "sigmoid":
        raise ValueError(f"bce needs a probability, from activation sigmoid; not {activation!r}")
    return cross_entropy(z, target).flatten(1).mean(1)


def cross_entropy(z: "Tensor", target: "Tensor") -> "Tensor":
    """That of sigmoid(z), of each pixel, in nats."""
    from torch.nn import functional as F

    return F.binary_cross_entropy_with_logits(z, target, reduction="none")


TRAINING_LOSSES: "dict[str, Callable[..., Tensor]]" = {
    "mse": squared_error,
    "bce": binary_cross_entropy,
}
NEEDS_PROBABILITY = ("bce",)  # of these losses, so an output of sigmoid, and pixels in (0, 1)


def training_loss(z: "Tensor", target: "Tensor", *, kind: str, activation: str) -> "Tensor":
    """The loss that trains, one value a sequence (B,): that of TRAINING_LOSSES."""
    if kind not in TRAINING_LOSSES:
        raise ValueError(f"training_loss must be one of {', '.join(TRAINING_LOSSES)}; not {kind!r}")
    return TRAINING_LOSSES[kind](z, target, activation=activation)
