"""Layers over all time steps as one function of autograd, with or without their output fed back.

`layers` uses it where neither `stacked` makes all steps nor torch has a kernel for a whole layer. `unrolled` has the
single layer, and defines the sizes T, B, D and H.
"""

from typing import Any

import torch
from torch import Tensor

from seqae.lstm.linear import apply_weight, weight_gradient
from seqae.lstm.unrolled import ACTIVATION_BACKWARD, LayerTensors, UnrolledLayer, Unrolling, as_columns, no_second_order


class Recurrence(torch.autograd.Function):
    """Layers over T steps → top h (T, H, B), and the top layer's last h and c, each (H, B).

    Without feedback there is one layer, which reads x (D, T·B), or zeros where x is None. With feedback the layers read
    zeros at the first step, then activation(z) of the step before. Their output z (T, D, B) is returned in place of the
    top h: z = gain · h, or W h + b with `weight` W (D, H) and `bias` b (D, 1).
    """

    @staticmethod
    def forward(ctx: Any, how: Unrolling, x: Any, weight: Any, bias: Any, *own: Any) -> tuple[Tensor, Tensor, Tensor]:
        """own: the `LayerTensors` of every layer, one after the other. Other shapes: see the class."""
        layers = [UnrolledLayer.allocate(LayerTensors(*own[n : n + 6]), how) for n in range(0, len(own), 6)]
        first, last = layers[0], layers[-1]
        known: Any = [None] * how.steps
        fed = None
        if x is not None:
            known = apply_weight(first.weight_ih, x, first.bias, size=how.map_size).chunk(how.steps, 1)
        out = last.hidden[1:]
        if how.feeds_back:
            out = torch.empty_like(out) if weight is None else out.new_empty(how.steps, len(weight), how.columns)
        read = out if how.activation == "none" else torch.empty_like(out)  # what is fed back, activation(out)
        for t in range(how.steps):
            h = first.forward_step(t, fed, known[t])
            for layer in layers[1:]:
                h = layer.forward_step(t, h)
            if how.feeds_back and weight is None:
                fed = torch.mul(h, how.gain, out=out[t])
            elif how.feeds_back:
                fed = apply_weight(weight, h, bias, out=out[t])
            if how.activation != "none":
                fed = getattr(torch, how.activation)(fed, out=read[t])
        ctx.how = how
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, read, *own, *(buffer for layer in layers for buffer in layer.buffers))
        return out, last.hidden[-1].clone(), last.cell[-1].clone()

    @staticmethod
    def backward(ctx: Any, d_out: Any, d_h: Tensor | None, d_c: Tensor | None) -> tuple[Any, ...]:
        """The gradients of forward's arguments from those of its results, d_out (T, H or D, B), d_h and d_c (H, B)."""
        no_second_order()
        how: Unrolling = ctx.how
        if how.feeds_back and d_out is None:
            return (None,) * len(ctx.needs_input_grad)
        x, weight, read, *rest = ctx.saved_tensors
        needs, count = ctx.needs_input_grad[1:], len(rest) // 10
        tensors = [LayerTensors(*rest[6 * n : 6 * n + 6]) for n in range(count)]
        layers = [UnrolledLayer(own, rest[6 * count + 4 * n :][:4], how.map_size) for n, own in enumerate(tensors)]
        for layer in layers:
            layer.start_backward(*((d_h, d_c) if layer is layers[-1] else ()))
        d_out = None if d_out is None else torch.empty_like(read).copy_(d_out)
        for t in reversed(range(len(read))):
            outer: Any = None if d_out is None else d_out[t]
            if how.feeds_back:
                if t + 1 < len(read):
                    fed = apply_weight(layers[0].weight_ih, layers[0].d_z_steps[t + 1], size=how.map_size, back=True)
                    if how.activation != "none":
                        ACTIVATION_BACKWARD[how.activation](fed, read[t], grad_input=fed)
                    outer.add_(fed)
                outer = outer * how.gain if weight is None else apply_weight(weight, outer, back=True)
            for n in reversed(range(count)):
                d_z = layers[n].backward_step(t, outer)
                outer = apply_weight(layers[n].weight_ih, d_z, size=how.map_size, back=True) if n else None
        inputs, grads = as_columns(read[:-1]) if how.feeds_back and how.steps > 1 else x, []
        for n, layer in enumerate(layers):
            grads += layer.gradients(inputs, needs[3 + 6 * n :])
            inputs = as_columns(layer.hidden[1:])
        d_x = apply_weight(layers[0].weight_ih, layers[0].d_z, size=how.map_size, back=True) if needs[0] else None
        d_weight = weight_gradient(as_columns(d_out), inputs, weight) if needs[1] else None
        return None, d_x, d_weight, d_out.sum((0, 2)).unsqueeze(1) if needs[2] else None, *grads
