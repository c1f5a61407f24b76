"""From a frame to a vector and back: perceptrons, convolutions, and the same mirrored.

All modules take and return batches of flat vectors, (N, features). Frames are (N, H·W), grey and square.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def map_sides(kernel_sizes: Sequence[int], strides: Sequence[int], frame_size: int, *, architecture: str) -> list[int]:
    """Side lengths, in pixels, of the square feature maps before the first and after every convolution.

    Raises ValueError, which names the architecture, where kernels and strides do not cover the frame exactly.
    """
    sides = [frame_size]
    for i, (kernel_size, stride) in enumerate(zip(kernel_sizes, strides, strict=True), start=1):
        if sides[-1] < kernel_size or (sides[-1] - kernel_size) % stride:
            raise ValueError(
                f"architecture {architecture} does not fit frame_size {frame_size}: convolution {i} (kernel_size "
                f"{kernel_size}, stride {stride}) reads a {sides[-1]}×{sides[-1]} map; use frame_size 64, or an "
                "architecture without convolutions"
            )
        sides.append((sides[-1] - kernel_size) // stride + 1)
    return sides


def perceptron(widths: Sequence[int], *, relu_last: bool) -> nn.Sequential:
    """Linear layers, (N, widths[0]) → (N, widths[-1]), with a ReLU after each, or after all but the last one."""
    modules: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        modules += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*modules if relu_last else modules[:-1])


def convolutional(
    channels: Sequence[int], kernel_sizes: Sequence[int], strides: Sequence[int], *, side: int, relu_last: bool
) -> nn.Sequential:
    """Convolutions of a frame, flattened: (N, side²) → (N, channels[-1] · last side²), with ReLUs as in `perceptron`.

    channels: before the first and after every convolution, so one more than kernel_sizes and strides.
    """
    modules: list[nn.Module] = [nn.Unflatten(1, (channels[0], side, side))]
    for (n_in, n_out), kernel_size, stride in zip(pairwise(channels), kernel_sizes, strides, strict=True):
        modules += [nn.Conv2d(n_in, n_out, kernel_size, stride), nn.ReLU()]
    return nn.Sequential(*modules if relu_last else modules[:-1], nn.Flatten())


def mirrored_convolutional(
    channels: Sequence[int], kernel_sizes: Sequence[int], strides: Sequence[int], *, side: int
) -> nn.Sequential:
    """`convolutional` transposed, from its last maps back to a frame; no ReLU at the end.

    (N, channels[-1] · side²) → (N, H·W). side: of the last maps. The other arguments are those of `convolutional`.
    """
    modules: list[nn.Module] = [nn.Unflatten(1, (channels[-1], side, side))]
    for (n_out, n_in), kernel_size, stride in [*zip(pairwise(channels), kernel_sizes, strides, strict=True)][::-1]:
        if kernel_size == stride:  # no pixel is written twice: one product, eight times as fast, a bias for each pixel
            modules += [nn.Conv2d(n_in, n_out * kernel_size**2, 1), nn.PixelShuffle(kernel_size), nn.ReLU()]
        else:
            modules += [nn.ConvTranspose2d(n_in, n_out, kernel_size, stride), nn.ReLU()]
    return nn.Sequential(*modules[:-1], nn.Flatten())
