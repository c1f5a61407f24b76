"""From a frame to a vector and back: perceptrons, convolutions, and the same mirrored.

All modules take and return batches of flat vectors, (N, features); frames are (N, H·W).
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

Convolutions = Sequence[tuple[int, int, int]]  # channels, kernel size, stride of each


def map_sides(convolutions: Convolutions, frame_size: int, *, architecture: str) -> list[int]:
    """Side lengths, in pixels, of the square feature maps before the first and after every convolution.

    Raises ValueError, which names the architecture, where the kernels and strides do not fit the frame exactly.
    """
    sides = [frame_size]
    for i, (_, kernel_size, stride) in enumerate(convolutions, start=1):
        if sides[-1] < kernel_size or (sides[-1] - kernel_size) % stride:
            raise ValueError(
                f"architecture {architecture} does not fit frame_size {frame_size}: convolution {i} (kernel "
                f"{kernel_size}, stride {stride}) meets a {sides[-1]}×{sides[-1]} map; use frame_size 64, or an "
                "architecture without convolutions"
            )
        sides.append((sides[-1] - kernel_size) // stride + 1)
    return sides


def perceptron(widths: Sequence[int], *, relu_last: bool) -> nn.Sequential:
    """Linear layers of these widths, with a ReLU after each, or after all but the last one."""
    modules: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        modules += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*modules if relu_last else modules[:-1])


def convolutional(
    convolutions: Convolutions, channels: Sequence[int], frame_size: int, *, relu_last: bool
) -> nn.Sequential:
    """Convolutions of a grey frame, flattened at the end; channels: before the first and after every convolution."""
    modules: list[nn.Module] = [nn.Unflatten(1, (1, frame_size, frame_size))]
    for (_, kernel_size, stride), (n_in, n_out) in zip(convolutions, pairwise(channels), strict=True):
        modules += [nn.Conv2d(n_in, n_out, kernel_size, stride), nn.ReLU()]
    return nn.Sequential(*modules if relu_last else modules[:-1], nn.Flatten())


def mirrored_convolutional(convolutions: Convolutions, channels: Sequence[int], sides: Sequence[int]) -> nn.Sequential:
    """The way back through `convolutional`, from the last feature map to a flat frame; no ReLU at the end."""
    modules: list[nn.Module] = [nn.Unflatten(1, (channels[-1], sides[-1], sides[-1]))]
    for (_, kernel_size, stride), (n_out, n_in) in [*zip(convolutions, pairwise(channels), strict=True)][::-1]:
        if kernel_size == stride:  # no pixel is written twice: one product, eight times as fast, a bias for each pixel
            modules += [nn.Conv2d(n_in, n_out * kernel_size**2, 1), nn.PixelShuffle(kernel_size), nn.ReLU()]
        else:
            modules += [nn.ConvTranspose2d(n_in, n_out, kernel_size, stride), nn.ReLU()]
    return nn.Sequential(*modules[:-1], nn.Flatten())
