"""Linear maps z = W x of an LSTM step, and their gradients, by whichever of torch's kernels, or `winograd`, is fastest.

A weight with two axes, (outputs, inputs), is a matrix. A weight with four axes, (outputs, inputs, k, k), holds the
kernels of a convolution padded with zeros: its features are channels, and every position of every map, of `size`
(H, W), is one column of x. Products are made in the weight's dtype, which under autocast is not the dtype of x and z.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqae.lstm.winograd import Kernels
from seqae.tasks import Size

# oneDNN's x @ weight.t(), which torch keeps for compiled models. On two cores of a Zen 4 it was 1.2-3 times as fast as
# MKL's product for LARGE or more multiplications, and slower for fewer. (`layers` compares those of one sequence.)
ONEDNN_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # None where torch has no oneDNN
LARGE = 2**24


def apply_weight(
    weight: Any, x: Tensor, add: Tensor | None = None, out: Tensor | None = None, *, size: Size = (1, 1),
    back: bool = False,
) -> Tensor:  # fmt: skip
    """z = W x + add, in the dtype of x, written to `out` where that is given; with `back` Wᵀ x + add, where x is the
    gradient of z, and Wᵀ x that of what W was applied to.

    weight: (outputs, inputs), or (outputs, inputs, k, k) with N = batch · H · W, or `Kernels` made of such. x: (inputs,
    N), with `back` (outputs, N). add: broadcasts to the result, (outputs, N), with `back` (inputs, N).
    """
    if isinstance(weight, Kernels):
        return _plus(weight.convolve(x, back=back), add, out)
    if weight.dim() == 2:
        return _matrix_product(weight.t() if back else weight, x, add, out)
    maps = _as_maps(x, size, weight.dtype)
    made = _convolution_backward(maps, weight) if back else F.conv2d(maps, weight, padding="same")
    return _plus(_as_columns(made, x.dtype), add, out)


def weight_gradient(d_z: Tensor, x: Tensor, weight: Any, *, size: Size = (1, 1)) -> Tensor:
    """The gradient of W in z = W x, summed over the columns, in the shape and dtype of `weight`.

    d_z: (outputs, N). x: (inputs, M) with M ≤ N, the inputs of the last M columns; the columns before had none.
    """
    d_z = d_z[:, d_z.shape[1] - x.shape[1] :]
    if isinstance(weight, Kernels):
        return weight.gradient(d_z, x)
    if weight.dim() == 2:
        d_z, x = d_z.to(weight.dtype), x.to(weight.dtype)
        return ONEDNN_LINEAR(d_z, x, None, "none", [], "") if _is_large(d_z, len(x)) else d_z @ x.t()
    d_maps, maps = (_as_maps(columns, size, weight.dtype) for columns in (d_z, x))
    return _convolution_backward(d_maps, weight, maps)


def _matrix_product(weight: Tensor, x: Tensor, add: Tensor | None, out: Tensor | None) -> Tensor:
    """weight (outputs, inputs) @ x (inputs, N) + add → (outputs, N)"""
    if weight.dtype != x.dtype:
        z = (weight @ x.to(weight.dtype)).to(x.dtype)
    elif weight.is_contiguous() and _is_large(weight, x.shape[1]):
        z = ONEDNN_LINEAR(weight, x.t(), None, "none", [], "")
    elif _is_large(weight, x.shape[1]) and x.shape[1] < 256:
        z = ONEDNN_LINEAR(x.t().contiguous(), weight, None, "none", [], "").t()
    else:
        return torch.mm(weight, x, out=out) if add is None else torch.addmm(add, weight, x, out=out)
    return _plus(z, add, out)


def _plus(z: Tensor, add: Tensor | None, out: Tensor | None) -> Tensor:
    """z (outputs, N) + add, a tensor that broadcasts to that shape → (outputs, N)"""
    return z if add is None and out is None else torch.add(z, 0 if add is None else add, out=out)


def _is_large(left: Tensor, columns: int) -> bool:
    """Whether oneDNN multiplies `left` (outputs, inputs) by (inputs, columns) faster."""
    fits = ONEDNN_LINEAR is not None and left.dtype == torch.float32 and left.device.type == "cpu"
    return fits and left.numel() * columns >= LARGE


def _as_maps(x: Tensor, size: Size, dtype: torch.dtype) -> Tensor:
    """(channels, batch · H · W), one column after the other in memory → (batch, channels, H, W), channels last"""
    return x.unflatten(1, (-1, *size)).transpose(0, 1).to(dtype, memory_format=torch.channels_last)


def _as_columns(maps: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `_as_maps`."""
    return maps.permute(0, 2, 3, 1).to(dtype, memory_format=torch.contiguous_format).flatten(0, 2).t()


def _convolution_backward(d_z: Tensor, weight: Tensor, x: Tensor | None = None) -> Tensor:
    """The gradient of weight (outputs, inputs, k, k) from d_z (batch, outputs, H, W) and x (batch, inputs, H, W), or,
    without x, that of x.
    """
    shape_of_x = d_z[:, :1].expand(-1, weight.shape[1], -1, -1)
    like = torch.empty_like(shape_of_x, memory_format=torch.channels_last) if x is None else x
    options: Any = ([1, 1], [weight.shape[-1] // 2] * 2, [1, 1], False, [0, 0], 1, [x is None, x is not None, False])
    return torch.ops.aten.convolution_backward(d_z, like, weight, None, *options)[int(x is not None)]
