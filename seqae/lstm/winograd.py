"""Convolutions by kernels of 3×3 in C: Winograd's minimal filtering F(4×4, 3×3) (Lavin & Gray, 2016, §4.3).

A tile of 4×4 outputs takes 36 products for each pair of channels, where plain sums take 144. Rounding errors are four
to twelve times those of plain sums: 2e-6 of the result, 4e-6 of the gradient of the input. A number that is not finite
makes every position of the tiles that see it so.
"""

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from seqae.lstm.compiled import TILE
from seqae.tasks import Size


class Kernels:
    """Kernels (outputs, inputs, 3, 3), channels last, over maps of `size`, each of so many tiles, and what `step.c`
    makes of them once for all steps.

    x and z are float32, (features, N) with N = batch · H · W.
    """

    def __init__(self, weight: Tensor, size: Size, tiles: int, library: Any):
        self.weight, self.size, self.tiles, self.library = weight, size, tiles, library
        self.packed: dict[bool, Tensor] = {}

    def convolve(self, x: Tensor, *, back: bool = False) -> Tensor:
        """z (outputs, N) from x (inputs, N); with `back` the gradient of x from that of z."""
        made, read = self.weight.shape[:2][:: -1 if back else 1]
        if back not in self.packed:
            self.packed[back] = self._points(read, made, TILE)
            self._call(self.library.pack_kernels, self.weight, self.packed[back], made, read, back)
        maps, count = x.t().contiguous(), x.shape[1] // math.prod(self.size)
        z, tiles = maps.new_empty(len(maps), made), self._points(count * self.tiles, read)
        self._call(self.library.convolve, maps, self.packed[back], z, tiles, count, *self.size, read, made, back)
        return z.t()

    def gradient(self, d_z: Tensor, x: Tensor) -> Tensor:
        """That of the kernels, from d_z (outputs, N) and x (inputs, N)."""
        count, d_weight = x.shape[1] // math.prod(self.size), torch.empty_like(self.weight)
        sizes = [(count * self.tiles, len(x)), (count * self.tiles, len(d_z), TILE), (len(x), len(d_z), TILE)]
        tensors = x.t().contiguous(), d_z.t().contiguous(), d_weight, *(self._points(*size) for size in sizes)
        self._call(self.library.kernel_gradient, *tensors, count, *self.size, len(x), len(d_z))
        return d_weight

    def _points(self, rows: int, features: int, whole: int = 1) -> Tensor:
        # Memory for (POINTS, rows, features), a multiple of `whole` features, and GAP behind each point, as in step.c.
        return self.weight.new_empty(36 * (rows * -(-features // whole) * whole + 48))

    def _call(self, function: Any, *given: Any) -> None:
        function(*(ctypes.c_long(x.data_ptr() if isinstance(x, Tensor) else x) for x in given))


def kernels_in_c(weight: Tensor, size: Size, library: Any) -> Any:
    """`Kernels` where C convolves float32 maps of `size` in less time by them, else the weight itself.

    A tile costs its 36 products wherever the map ends, so there have to be 8 positions of the map to each. With fewer
    than 16 inputs or 64 outputs, the most that C multiplies at a time, putting maps into tiles takes longest.
    """
    tiles = math.prod(-(-side // 4) for side in size)
    fits = weight.shape[2:] == (3, 3) and weight.dtype == torch.float32 and 8 * tiles <= math.prod(size)
    taken = fits and len(weight) >= 64 and weight.shape[1] >= 16 and library is not None
    return Kernels(weight.contiguous(memory_format=torch.channels_last), size, tiles, library) if taken else weight
