"""One LSTM layer unrolled over all time steps, with its backward pass written by hand (backpropagation through time).

Each weight's gradient is one matrix product over all steps, not one accumulation a step. Inputs that are known in
advance are multiplied by their weights before the loop over time. A step is a (features, columns) matrix. It lies row
by row in memory: on two cores, `W @ h` is up to 1.5 times as fast as `h @ W.t()` at small batches. With kernels it lies
column by column, which is a map's order with channels last: convolutions are fastest there, and nothing is copied.

In the shapes below T is the number of steps, B the number of columns (sequences; with kernels, positions of the maps of
all sequences), D the number of inputs and H the number of hidden features of a layer.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from seqae.lstm.compiled import step_library
from seqae.lstm.linear import apply_weight, weight_gradient
from seqae.lstm.winograd import kernels_in_c
from seqae.tasks import Size

_tanh_backward: Any = torch.ops.aten.tanh_backward.grad_input  # (a, t) → a · (1 - t²)
_sigmoid_backward: Any = torch.ops.aten.sigmoid_backward.grad_input  # (a, s) → a · s · (1 - s)
ACTIVATION_BACKWARD = {"tanh": _tanh_backward, "sigmoid": _sigmoid_backward}


class LayerTensors(NamedTuple):
    """What a layer computes with: its weights, in the dtype that products are made in, and its initial state.

    The gates' order is i, f, g, o. Peepholes belong to i, f and o.
    """

    weight_ih: Tensor  # (4 H, D), or with kernels (4 H, D, k, k)
    weight_hh: Tensor  # (4 H, H), or with kernels (4 H, H, k, k)
    bias: Tensor  # (4 H, 1)
    peepholes: Tensor | None  # (3, H, 1)
    h: Tensor | None  # (H, B); None is zero
    c: Tensor | None  # (H, B); None is zero


class Unrolling(NamedTuple):
    """How layers are unrolled: T steps of B columns, on maps of map_size (H, W) where the weights are kernels.

    With feeds_back the layers read activation(z) of the step before, where z = gain · h or W h + b is their output.
    """

    steps: int
    columns: int
    map_size: Size = (1, 1)
    feeds_back: bool = False
    gain: float = 1.0
    activation: str = "none"


def no_second_order() -> None:
    """Raise RuntimeError in a backward pass with create_graph=True, whose second derivatives would be zeros."""
    if torch.is_grad_enabled():
        raise RuntimeError("LSTMStack has no second derivatives: leave create_graph out, or use torch.nn.LSTM")


def as_columns(x: Tensor) -> Tensor:
    """(T, features, B) → (features, T·B)"""
    return x.transpose(0, 1).flatten(1)


def _steps(*tensors: Any) -> list[tuple[Tensor, ...]]:
    """Tensors (T, …) or sequences of T tensors → for each step a tuple of one tensor (…) of each."""
    return list(zip(*(t.unbind() if isinstance(t, Tensor) else t for t in tensors), strict=True))


class UnrolledLayer:
    """One layer over T steps: the buffers that its forward pass fills and its backward pass reads.

    `hidden` and `cell` (T + 1, H, B) begin with the initial h and c. `gates` (T, 4, H, B) ends as i, f, tanh(c), o: g
    moves to `candidate` (T, H, B), so that one sigmoid can run over all four.
    """

    hidden_steps: Sequence[Tensor]  # T + 1 views (H, B) of hidden
    # The part of a step that is no matrix product, forward or backward. It must not hold the layer: in a cycle the
    # buffers would stay in memory until Python's next look for garbage, some updates later.
    pointwise: Callable[..., Any]

    def __init__(self, tensors: LayerTensors, buffers: Sequence[Tensor], map_size: Size):
        """buffers: hidden, cell, gates and candidate, in the shapes that the class describes."""
        self.map_size, self.maps = map_size, tensors.weight_hh.dim() == 4
        *weights, self.bias, self.peepholes, self.h, self.c = tensors
        if self.maps:  # column by column, as they were allocated: hooks on saved tensors (save_on_cpu) lose that order
            buffers = [buffer.movedim(-1, 1).contiguous().movedim(1, -1) for buffer in buffers]
        self.hidden, self.cell, self.gates, self.candidate = self.buffers = buffers
        fits = type(self.hidden) is Tensor and self.hidden.device.type == "cpu" and self.hidden.dtype == torch.float32
        self.library = step_library() if fits and not is_in_torch_dispatch_mode() else None
        self.weight_ih, self.weight_hh = (kernels_in_c(weight, map_size, self.library) for weight in weights)

    @classmethod
    def allocate(cls, tensors: LayerTensors, how: Unrolling) -> "UnrolledLayer":
        """A layer with new buffers, ready for its first forward step."""
        steps, features, empty = how.steps, tensors.weight_hh.shape[1], tensors.bias.new_empty
        shapes = [(steps + 1, features), (steps + 1, features), (steps, 4, features), (steps, features)]
        maps, n = tensors.weight_hh.dim() == 4, how.columns
        buffers = [empty(t, n, *rest).movedim(1, -1) if maps else empty(t, *rest, n) for t, *rest in shapes]
        layer = cls(tensors, buffers, how.map_size)
        layer.cell[0] = 0 if layer.c is None else layer.c
        if layer.h is not None:
            layer.hidden[0] = layer.h
        layer.hidden_steps = layer.hidden.unbind()
        layer.pointwise = layer._forward_in_torch() if layer.library is None else layer._forward_in_c(layer.library)
        return layer

    def forward_step(self, t: int, x: Tensor | None, known: Tensor | None = None) -> Tensor:
        """h (H, B) of step t. The layer reads x (D, B), or `known` (4 H, B), which is W_ih x + b already, or zeros."""
        if known is None:
            known = self.bias if x is None else apply_weight(self.weight_ih, x, self.bias, size=self.map_size)
        first = t == 0 and self.h is None
        recurrent = None if first else apply_weight(self.weight_hh, self.hidden_steps[t], size=self.map_size)
        self.pointwise(t, recurrent, known)
        return self.hidden_steps[t + 1]

    def _forward_in_torch(self) -> Callable[..., Any]:
        """A function that fills the buffers of step t from W_hh h (4 H, B), or None, and W_ih x + b (4 H, B or 1)."""
        z, cells = self.gates.flatten(1, 2), (self.cell[:-1], self.cell[1:])
        steps = _steps(z, *self.gates.unbind(1), self.candidate, *cells, self.hidden[1:])
        peepholes, gates = self.peepholes, self.gates

        def pointwise(t: int, recurrent: Tensor | None, known: Tensor) -> None:
            z, i, f, third, o, g, before, c, h = steps[t]
            z.copy_(known) if recurrent is None else torch.add(recurrent, known, out=z)
            torch.tanh(third, out=g)
            if peepholes is None:
                z.sigmoid_()
            else:
                gates[t, :2].addcmul_(peepholes[:2], before).sigmoid_()
            torch.mul(f, before, out=c).addcmul_(i, g)
            if peepholes is not None:
                o.addcmul_(peepholes[2], c).sigmoid_()
            torch.tanh(c, out=third)
            torch.mul(o, third, out=h)

        return pointwise

    def _forward_in_c(self, library: Any) -> Callable[..., Any]:
        """The same function as `_forward_in_torch` makes, in C."""
        z, g, cell, h, p, size, *shape, maps = self._addresses()

        def pointwise(t: int, recurrent: Tensor | None, known: Tensor) -> None:
            add = known.data_ptr(), known.stride(0), known.stride(1) if known.shape[1] > 1 else 0
            at, c = size * t, cell + size * t
            own = None if recurrent is None else (recurrent.t() if maps else recurrent).contiguous()
            product = None if own is None else own.data_ptr()
            library.forward(product, *add, z + 4 * at, g + at, c, c + size, h + at + size, p, *shape, maps)

        return pointwise

    def _addresses(self) -> list[Any]:
        """Addresses of gates, candidate, cell, hidden and peepholes (or None); bytes of one (H, B) matrix; H; B;
        whether such a matrix lies column by column, as a single column does.
        """
        starts = [buffer.data_ptr() for buffer in (self.gates, self.candidate, self.cell, self.hidden)]
        peepholes, shape = None if self.peepholes is None else self.peepholes.data_ptr(), self.hidden.shape[1:]
        return [*starts, peepholes, 4 * self.hidden[0].numel(), *shape, self.maps or shape[1] == 1]

    def start_backward(self, d_h: Tensor | None = None, d_c: Tensor | None = None) -> None:
        """Prepare the backward steps from the gradients of the last h and c, each (H, B); None is zero."""
        steps, _, features, columns = self.gates.shape
        rows = 4, features, steps, columns
        self.d_gates = torch.empty_like(self.gates) if self.maps else self.gates.new_empty(rows).permute(2, 0, 1, 3)
        # The gradient of z = W_ih x + W_hh h + b: the same memory as (4 H, T·B) and as T views (4 H, B).
        self.d_z, self.d_z_steps = as_columns(self.d_gates.flatten(1, 2)), self.d_gates.flatten(1, 2).unbind()
        self.d_h, self.d_c = torch.zeros_like(self.cell[:2])
        for own, given in ((self.d_h, d_h), (self.d_c, d_c)):
            if given is not None:
                own.copy_(given)
        self.pointwise = self._backward_in_torch() if self.library is None else self._backward_in_c(self.library)

    def _backward_in_torch(self) -> Callable[[int], Any]:
        """A function of t that makes d_z of step t, and d_c of the step before, from d_h and d_c of step t.

        All factors of all steps are computed at once, those of z in the memory of d_z. At each step d_c grows by
        d_h · `through`; d_z is then its factor times d_c (i, f, g) or d_h (o), and d_c of the step before is d_c ·
        `keep`.
        """
        (i, f, tanh_c, o), g = self.gates.unbind(1), self.candidate
        through, keep = torch.empty_like(g), f
        s_i, s_f, s_g, s_o = self.d_gates.unbind(1)
        _sigmoid_backward(g, i, grad_input=s_i)
        _sigmoid_backward(self.cell[:-1], f, grad_input=s_f)
        _tanh_backward(i, g, grad_input=s_g)
        _sigmoid_backward(tanh_c, o, grad_input=s_o)
        _tanh_backward(o, tanh_c, grad_input=through)
        if self.peepholes is not None:
            p_i, p_f, p_o = self.peepholes
            through.addcmul_(s_o, p_o)
            keep = torch.addcmul(f, s_i, p_i).addcmul_(s_f, p_f)
        factors, d_h, d_c = _steps(self.d_gates[:, :3], s_o, through, keep), self.d_h, self.d_c

        def pointwise(t: int) -> None:
            s_ifg, s_o, through, keep = factors[t]
            d_c.addcmul_(d_h, through)
            s_ifg.mul_(d_c)
            s_o.mul_(d_h)
            d_c.mul_(keep)

        return pointwise

    def _backward_in_c(self, library: Any) -> Callable[[int], Any]:
        """The same function as `_backward_in_torch` makes, in C."""
        z, g, cell, _, p, size, *shape, _ = self._addresses()
        d_h, d_c, d = (tensor.data_ptr() for tensor in (self.d_h, self.d_c, self.d_z))
        step, line, maps = 4 * self.d_gates.stride(0), self.d_gates.stride(3 if self.maps else 2), self.maps

        def pointwise(t: int) -> None:
            at, c = size * t, cell + size * t
            library.backward(z + 4 * at, g + at, c, c + size, d_h, d_c, d + t * step, line, p, *shape, maps)

        return pointwise

    def backward_step(self, t: int, outer: Tensor | None) -> Tensor:
        """d_z (4 H, B) of step t. outer: (H, B), the gradient of h from all but the layer's own next step."""
        if t + 1 < len(self.d_z_steps):
            apply_weight(self.weight_hh, self.d_z_steps[t + 1], outer, out=self.d_h, size=self.map_size, back=True)
        elif outer is not None:
            self.d_h.add_(outer)
        self.pointwise(t)
        return self.d_z_steps[t]

    def gradients(self, x: Tensor | None, needs: Sequence[bool]) -> list[Tensor | None]:
        """The gradients of the six `LayerTensors`, in their shapes. x: (D, n · B), what the last n steps have read."""
        d_peepholes, size = None, self.map_size
        if self.peepholes is not None:
            seen = torch.stack([self.cell[:-1], self.cell[:-1], self.cell[1:]], 1)
            # Not indexed with a list, which would be copied from the host while a device waits. (H, 3, T, B)
            ifo = torch.stack([self.d_gates[:, n].transpose(0, 1) for n in (0, 1, 3)], 1)
            d_peepholes = (ifo.permute(2, 1, 0, 3) * seen).sum((0, 3)).unsqueeze(-1)
        before = self.hidden[1 if self.h is None else 0 : -1]  # what the steps have read
        return [
            weight_gradient(self.d_z, x, self.weight_ih, size=size) if needs[0] and x is not None else None,
            weight_gradient(self.d_z, as_columns(before), self.weight_hh, size=size) if needs[1] else None,
            self.d_z.sum(1, keepdim=True),
            d_peepholes,
            apply_weight(self.weight_hh, self.d_z_steps[0], size=size, back=True) if needs[4] else None,
            self.d_c if needs[5] else None,
        ]
