"""LSTM layers over time, forward and back, by hand: what `recurrent` runs where torch has no kernel for all steps.

Each weight's gradient is one matrix product over all steps, not one accumulation per step; inputs known in advance
are multiplied by their weights before the loop over time. A step is a contiguous (features, batch) matrix: on two
cores, `W @ h` is up to 1.5 times as fast as `h @ W.t()` at small batches. How a product is made is in `products`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqae.lstm.compiled import step_library
from seqae.lstm.matmul import gradient, product, product_back

_tanh_backward = torch.ops.aten.tanh_backward.grad_input  # (a, t) → a · (1 - t²)
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input  # (a, s) → a · s · (1 - s)
_BACKWARD = {"tanh": _tanh_backward, "sigmoid": _sigmoid_backward}


def _columns(x: Tensor, first: Tensor | None = None) -> Tensor:
    """(T, features, B) → (features, T·B), preceded by `first` (features, B)."""
    columns = x.transpose(0, 1).flatten(1)
    return columns if first is None else torch.cat([first, columns], 1)


def _steps(*tensors: Any) -> list[tuple[Tensor, ...]]:
    return list(zip(*(t.unbind() if isinstance(t, Tensor) else t for t in tensors), strict=True))


class Tape:
    """One layer over T steps: the buffers that forward fills, and the walk back over them.

    `hidden` is (T, H, B); `cell` (T + 1, H, B) begins with the initial c; `gates` (T, 4, H, B) ends as i, f,
    tanh(c), o: g moves to `candidate` (T, H, B), so that one sigmoid can run over all four.
    """

    hs: Sequence[Tensor]  # h of each step, a view of hidden
    pointwise: Callable[..., Any]  # of a step, the half of it that is no matrix product

    def __init__(self, own: Sequence[Any], buffers: Sequence[Tensor], side: int):
        self.side = side  # of the maps, where weights are kernels
        self.weight_ih, self.weight_hh, self.bias, self.peepholes, self.h, self.c = own
        self.hidden, self.cell, self.gates, self.candidate = self.buffers = buffers
        fits = self.hidden.device.type == "cpu" and self.hidden.dtype == torch.float32
        self.library = step_library() if fits else None

    @classmethod
    def begin(cls, steps: int, batch: int, own: Sequence[Any], side: int) -> "Tape":
        """With buffers for so many steps of so many columns; own: as `LSTMLayer.arguments` gives them."""
        shapes, features = [(steps,), (steps + 1,), (steps, 4), (steps,)], own[1].shape[1]
        tape = cls(own, [own[2].new_empty(*shape, features, batch) for shape in shapes], side)
        tape.cell[0] = 0 if tape.c is None else tape.c
        tape.hs = tape.hidden.unbind()
        tape.pointwise = tape._in_torch() if tape.library is None else tape._in_c(tape.library)
        return tape

    def step(self, t: int, x: Tensor | None, known: Tensor | None = None) -> Tensor:
        """h of step t, from x (D, B), or from `known`, which is W_ih x + b already, or from nothing: zeros."""
        h_before = self.hs[t - 1] if t else self.h
        if known is None:
            known = self.bias if x is None else product(self.weight_ih, x, self.bias, side=self.side)
        self.pointwise(t, None if h_before is None else product(self.weight_hh, h_before, side=self.side), known)
        return self.hs[t]

    def _in_torch(self) -> Callable[..., Any]:
        z, cells = self.gates.flatten(1, 2), (self.cell[:-1], self.cell[1:])
        steps = _steps(z, *self.gates.unbind(1), self.candidate, *cells, self.hidden)
        peepholes, gates = self.peepholes, self.gates  # not the tape itself: a cycle would outlive the backward pass

        def pointwise(t: int, product: Tensor | None, known: Tensor) -> None:
            z, i, f, third, o, g, before, c, h = steps[t]
            z.copy_(known) if product is None else torch.add(product, known, out=z)
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

    def _in_c(self, library: Any) -> Callable[..., Any]:
        z, g, cell, h, p, size, features, batch = self._addresses()
        flat = batch == 1 and p is None  # one row, which C can take many of at once
        shape = (1, features) if flat else (features, batch)

        def pointwise(t: int, product: Tensor | None, known: Tensor) -> None:
            row, column = known.stride(0), known.stride(1) if known.shape[1] > 1 else 0
            add = known.data_ptr(), row * features if flat else row, row if flat else column
            at = size * t
            if product is not None:
                product = product.contiguous()
            made = None if product is None else product.data_ptr()
            library.forward(made, *add, z + 4 * at, g + at, cell + at, cell + at + size, h + at, p, *shape)

        return pointwise

    def _addresses(self) -> list[Any]:
        # Of gates, candidate, cell, hidden and peepholes; bytes of a step's h; features and batch.
        starts = [buffer.data_ptr() for buffer in (self.gates, self.candidate, self.cell, self.hidden)]
        peepholes = None if self.peepholes is None else self.peepholes.data_ptr()
        return [*starts, peepholes, 4 * self.hidden[0].numel(), *self.hidden.shape[1:]]

    def rewind(self, d_h: Tensor | None = None, d_c: Tensor | None = None) -> None:
        """Prepare the walk back from the gradients of the last h and c."""
        steps, _, features, batch = self.gates.shape
        self.d_columns = self.gates.new_empty(4 * features, steps * batch)  # d_z of all steps
        self.slopes = self.d_columns.view(4, features, steps, batch).permute(2, 0, 1, 3)  # what becomes d_z
        self.d_z = self.slopes.flatten(1, 2).unbind()
        self.d_h, self.d_c = torch.zeros(2, *self.hidden.shape[1:], dtype=self.hidden.dtype, device=self.hidden.device)
        for own, given in ((self.d_h, d_h), (self.d_c, d_c)):
            if given is not None:
                own.copy_(given)
        self.pointwise = self._back_in_torch() if self.library is None else self._back_in_c(self.library)

    def _back_in_torch(self) -> Callable[[int], Any]:
        # All factors of all steps at once. At each step d_c += d_h · `through`; then d_z is `slopes` · d_c (for i, f,
        # g) or · d_h (for o), and d_c of the step before is d_c · `keep`.
        (i, f, tanh_c, o), g = self.gates.unbind(1), self.candidate
        through, keep = torch.empty_like(g), f
        s_i, s_f, s_g, s_o = self.slopes.unbind(1)
        _sigmoid_backward(g, i, grad_input=s_i)
        _sigmoid_backward(self.cell[:-1], f, grad_input=s_f)
        _tanh_backward(i, g, grad_input=s_g)
        _sigmoid_backward(tanh_c, o, grad_input=s_o)
        _tanh_backward(o, tanh_c, grad_input=through)
        if self.peepholes is not None:
            p_i, p_f, p_o = self.peepholes
            through.addcmul_(s_o, p_o)
            keep = torch.addcmul(f, s_i, p_i).addcmul_(s_f, p_f)
        factors, d_h, d_c = _steps(self.slopes[:, :3], s_o, through, keep), self.d_h, self.d_c

        def pointwise(t: int) -> None:
            s_ifg, s_o, through, keep = factors[t]
            d_c.addcmul_(d_h, through)
            s_ifg.mul_(d_c)
            s_o.mul_(d_h)
            d_c.mul_(keep)

        return pointwise

    def _back_in_c(self, library: Any) -> Callable[[int], Any]:
        z, g, cell, _, p, size, *shape = self._addresses()
        d_h, d_c, d = (tensor.data_ptr() for tensor in (self.d_h, self.d_c, self.d_columns))
        row, step = self.d_columns.shape[1], 4 * shape[1]

        def pointwise(t: int) -> None:
            at = size * t
            library.backward(z + 4 * at, g + at, cell + at, cell + at + size, d_h, d_c, d + t * step, row, p, *shape)

        return pointwise

    def back(self, t: int, outer: Tensor | None) -> Tensor:
        """d_z of step t, where `outer` is what d_h gets from elsewhere than the layer's own next step."""
        if t + 1 < len(self.d_z):
            product_back(self.weight_hh, self.d_z[t + 1], outer, out=self.d_h, side=self.side)
        elif outer is not None:
            self.d_h.add_(outer)
        self.pointwise(t)
        return self.d_z[t]

    def gradients(self, x: Tensor | None, needs: Sequence[bool]) -> list[Tensor | None]:
        """Those of the layer's own six arguments, where x (D, n · B) was read at the last n steps."""
        diagonals, side = None, self.side
        if self.peepholes is not None:
            seen = torch.stack([self.cell[:-1], self.cell[:-1], self.cell[1:]], 1)
            diagonals = (self.slopes[:, [0, 1, 3]] * seen).sum((0, 3)).unsqueeze(-1)
        return [
            gradient(self.d_columns, x, self.weight_ih, side=side) if needs[0] and x is not None else None,
            gradient(self.d_columns, _columns(self.hidden[:-1], self.h), self.weight_hh, side=side)
            if needs[1]
            else None,
            self.d_columns.sum(1, keepdim=True),
            diagonals,
            product_back(self.weight_hh, self.d_z[0], side=side) if needs[4] else None,
            self.d_c if needs[5] else None,
        ]


class Recurrence(torch.autograd.Function):
    """Layers over T steps → top h (T, H, B), its last h, its last c (H, B).

    Without feedback, one layer reads x (D, T·B), or zeros. With feedback, a (gain, activation), the layers read zeros,
    and then their own output z = gain · h or W h + b, (T, D, B), which replaces the top h.
    """

    @staticmethod
    def forward(ctx: Any, how: Any, x: Any, weight: Any, bias: Any, *own: Any) -> tuple[Tensor, Tensor, Tensor]:
        steps, batch, feedback, side = how
        gain, activation = feedback or (1.0, "none")
        tapes = [Tape.begin(steps, batch, own[n : n + 6], side) for n in range(0, len(own), 6)]
        first, last = tapes[0], tapes[-1]
        known, fed = [None] * steps, None
        if x is not None:
            known = product(first.weight_ih, x, first.bias, side=side).unflatten(1, (steps, batch)).unbind(1)
        out = last.hidden.new_empty(steps, first.weight_ih.shape[1], batch) if feedback else last.hidden
        read = out if activation == "none" else torch.empty_like(out)
        for t in range(steps):
            h = first.step(t, fed, known[t])
            for tape in tapes[1:]:
                h = tape.step(t, h)
            if feedback:
                fed = torch.mul(h, gain, out=out[t]) if weight is None else product(weight, h, bias, out=out[t])
                if activation != "none":
                    fed = getattr(torch, activation)(fed, out=read[t])
        ctx.feedback, ctx.side = feedback, side
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, read, *own, *(buffer for tape in tapes for buffer in tape.buffers))
        return out, last.hidden[-1].clone(), last.cell[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Any, d_h: Tensor | None, d_c: Tensor | None) -> tuple[Any, ...]:
        if ctx.feedback and d_out is None:
            return (None,) * len(ctx.needs_input_grad)
        x, weight, read, *rest = ctx.saved_tensors
        needs, count = ctx.needs_input_grad[1:], len(rest) // 10
        tapes = [Tape(rest[6 * n : 6 * n + 6], rest[6 * count + 4 * n :][:4], ctx.side) for n in range(count)]
        for tape in tapes:
            tape.rewind(*((d_h, d_c) if tape is tapes[-1] else ()))
        if d_out is not None:
            d_out = d_out.clone(memory_format=torch.contiguous_format)
        for t in reversed(range(len(read))):
            outer: Any = None if d_out is None else d_out[t]
            if ctx.feedback:
                gain, activation = ctx.feedback
                if t + 1 < len(read):
                    fed = product_back(tapes[0].weight_ih, tapes[0].d_z[t + 1], side=ctx.side)
                    if activation != "none":
                        _BACKWARD[activation](fed, read[t], grad_input=fed)
                    outer.add_(fed)
                outer = outer * gain if weight is None else product_back(weight, outer)
            for n in reversed(range(count)):
                d_z = tapes[n].back(t, outer)
                outer = product_back(tapes[n].weight_ih, d_z, side=ctx.side) if n else None
        inputs, grads = _columns(read[:-1]) if ctx.feedback else x, []
        for n, tape in enumerate(tapes):
            grads += tape.gradients(inputs, needs[3 + 6 * n :])
            inputs = _columns(tape.hidden)
        d_x = product_back(tapes[0].weight_ih, tapes[0].d_columns, side=ctx.side) if needs[0] else None
        d_weight = gradient(_columns(d_out), inputs, weight) if needs[1] else None
        d_bias = d_out.sum((0, 2)).unsqueeze(1) if needs[2] else None
        return None, d_x, d_weight, d_bias, *grads
