"""Activations and losses of the last layer. No reductions over the batch: the caller averages."""

import torch
from torch import Tensor
from torch.nn import functional as F


def activate(z: Tensor, activation: str) -> Tensor:
    """Output frames, in the model's pixel range, from the pre-activations z of any shape."""
    match activation:
        case "none":
            return z
        case "tanh":
            return torch.tanh(z)
        case "sigmoid":
            return torch.sigmoid(z)
    raise ValueError(f"activation must be one of none, tanh, sigmoid; not {activation!r}")


def squared_error(z: Tensor, target: Tensor, *, activation: str) -> Tensor:
    """Mean squared error of each sequence, in squared units of the training range.

    z: (B, T, H, W) pre-activations; target: (B, T, H, W) in the training range. Returns (B,).
    On (-1, 1) the value is 4 times that on (0, 1): metrics, unlike this training loss, are always on [0, 1].
    """
    return (activate(z, activation) - target).square().flatten(1).mean(1)


def binary_cross_entropy(z: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(z) for each sequence, in nats per pixel; computed from the logits z.

    z, target: (B, T, H, W), target in [0, 1]. Returns (B,). Srivastava et al. (2015), §3.2, report its sum
    over a frame: × 4096 at 64×64.
    """
    return F.binary_cross_entropy_with_logits(z, target, reduction="none").flatten(1).mean(1)


def training_loss(z: Tensor, target: Tensor, *, kind: str, activation: str) -> Tensor:
    """The loss that trains, one value a sequence (B,): `squared_error` (mse) or `binary_cross_entropy` (bce)."""
    match kind:
        case "mse":
            return squared_error(z, target, activation=activation)
        case "bce":
            return binary_cross_entropy(z, target)
    raise ValueError(f"training_loss must be one of mse, bce; not {kind!r}")
