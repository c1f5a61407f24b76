"""From a frame to a vector and back: perceptrons, convolutions, and the same mirrored.

All modules take and return batches of flat vectors, (N, features). Frames are (N, H·W), grey.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from seqae.tasks import Size


def map_sizes(kernel_sizes: Sequence[int], strides: Sequence[int], frame: Size, *, architecture: str) -> list[Size]:
    """Heights and widths, in pixels, of the feature maps before the first and after every convolution.

    frame: height and width. Raises ValueError, which names the architecture and the nearest sizes that fit, where
    kernels and strides do not cover the frame exactly.
    """
    least, step, sizes = 1, 1, [frame]  # sides of least, least + step, least + 2 · step, … pixels are covered
    for kernel_size, stride in zip(reversed(kernel_sizes), reversed(strides), strict=True):
        least, step = (least - 1) * stride + kernel_size, step * stride
    near = [tuple(least + step * max(0, (side - least + up) // step) for side in frame) for up in (0, step - 1)]
    if frame != near[0]:
        asked, *fit = (shape[0] if shape[0] == shape[1] else [*shape] for shape in (frame, *near))
        told = f"architecture {architecture} does not fit frame_size {asked}: its kernels and strides cover sides of"
        use = f"use frame_size {' or '.join(dict.fromkeys(map(str, fit)))} (Moving MNIST: 64)"
        raise ValueError(f"{told} {least} + n · {step} pixels; {use}, or an architecture without convolutions")
    for kernel_size, stride in zip(kernel_sizes, strides, strict=True):
        height, width = ((side - kernel_size) // stride + 1 for side in sizes[-1])
        sizes.append((height, width))
    return sizes


def perceptron(widths: Sequence[int], *, relu_last: bool) -> nn.Sequential:
    """Linear layers, (N, widths[0]) → (N, widths[-1]), with a ReLU after each, or after all but the last one."""
    modules = [module for n_in, n_out in pairwise(widths) for module in (nn.Linear(n_in, n_out), nn.ReLU())]
    return nn.Sequential(*modules if relu_last else modules[:-1])


def convolutional(
    channels: Sequence[int], kernel_sizes: Sequence[int], strides: Sequence[int], *, size: Size, relu_last: bool
) -> nn.Sequential:
    """Convolutions of a frame, flattened: (N, H·W) → (N, channels[-1] · positions of a map), ReLUs as in `perceptron`.

    channels: before the first and after every convolution, so one more than kernel_sizes and strides. size: of frames.
    """
    modules: list[nn.Module] = [nn.Unflatten(1, (channels[0], *size))]
    for (n_in, n_out), kernel_size, stride in zip(pairwise(channels), kernel_sizes, strides, strict=True):
        modules += [nn.Conv2d(n_in, n_out, kernel_size, stride), nn.ReLU()]
    return nn.Sequential(*modules if relu_last else modules[:-1], nn.Flatten())


def mirrored_convolutional(
    channels: Sequence[int], kernel_sizes: Sequence[int], strides: Sequence[int], *, size: Size
) -> nn.Sequential:
    """`convolutional` transposed, from its last maps back to a frame; no ReLU at the end.

    (N, channels[-1] · positions) → (N, H·W). size: of the last maps. Other arguments: as for `convolutional`.
    """
    modules: list[nn.Module] = [nn.Unflatten(1, (channels[-1], *size))]
    for (n_out, n_in), kernel_size, stride in [*zip(pairwise(channels), kernel_sizes, strides, strict=True)][::-1]:
        if kernel_size == stride:  # no pixel is written twice: one product, eight times as fast, a bias for each pixel
            modules += [nn.Conv2d(n_in, n_out * kernel_size**2, 1), nn.PixelShuffle(kernel_size), nn.ReLU()]
        else:
            modules += [nn.ConvTranspose2d(n_in, n_out, kernel_size, stride), nn.ReLU()]
    return nn.Sequential(*modules[:-1], nn.Flatten())
