"""Layers over all time steps as one function of autograd, with or without their output fed back.

`layers` uses it where cuDNN does not run a whole layer. On a CPU, C makes all steps of dense layers that are not
large. `unrolled` has the single layer, and defines the sizes T, B, D and H.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from seqae.lstm.compiled import step_library
from seqae.lstm.linear import apply_weight, input_gradient, weight_gradient
from seqae.lstm.unrolled import ACTIVATION_BACKWARD, LayerTensors, UnrolledLayer, Unrolling, as_columns, fields_in_c

IN_C = 2**27  # multiplications of a layer's step; where it has more, the products of torch's libraries are faster


def runs_in_c(layers: Sequence[LayerTensors], columns: int) -> bool:
    """Whether C makes all steps of these layers in one call: matrices of float32 on a CPU, and at most IN_C a step.

    Not where a dispatch mode of torch wants to see every operation. On two cores of a Zen without AVX-512, C took 0.4
    of the time at 256 pixels, 64 hidden, 4 sequences, 0.7 to 1 at 32 sequences, and up to 1.6 at 1024, 256, 64.
    """
    weights = [weight for own in layers for weight in own[:2]]
    fits = all(w.dim() == 2 and w.dtype == torch.float32 and w.is_contiguous() for w in weights)
    fits = fits and all((own.weight_ih.numel() + own.weight_hh.numel()) * columns <= IN_C for own in layers)
    return fits and weights[0].device.type == "cpu" and not is_in_torch_dispatch_mode() and step_library() is not None


def _all_steps_in_c(function: str, how: Unrolling, layers: Sequence[UnrolledLayer], *tensors: Any) -> None:
    """Call C for all steps, forward or backward. tensors: as `fields_in_c` takes them."""
    library, fields = step_library(), fields_in_c(layers, how, *tensors)
    memory = layers[0].hidden.new_empty(library.prepare(fields, None))
    library.prepare(fields, memory.data_ptr())
    getattr(library, function)(fields, how.gain)


class Recurrence(torch.autograd.Function):
    """Layers over T steps → top h (T, H, B), and the last h and c of every layer, each (H, B).

    Without feedback the first layer reads x (D, T·B), or zeros where x is None. With feedback the layers read zeros at
    the first step, then activation(z) of the step before. Their output z (T, D, B) is returned in place of the
    top h: z = gain · h, or W h + b with `weight` W (D, H) and `bias` b (D, 1).
    """

    @staticmethod
    def forward(ctx: Any, how: Unrolling, x: Any, weight: Any, bias: Any, *own: Any) -> tuple[Tensor, ...]:
        """own: the `LayerTensors` of every layer, one after the other. Other shapes: see the class."""
        layers = [UnrolledLayer.allocate(LayerTensors(*own[n : n + 6]), how) for n in range(0, len(own), 6)]
        first, last = layers[0], layers[-1]
        known: Any = [None] * how.steps
        fed = None
        if x is not None and not how.in_c:
            known = apply_weight(first.weight_ih, x, first.bias, size=how.map_size)
            known = known.unflatten(1, (how.steps, how.columns)).unbind(1)
        out = last.hidden.new_empty(how.steps, first.weight_ih.shape[1], how.columns) if how.feeds_back else last.hidden
        read = out if how.activation == "none" else torch.empty_like(out)
        if how.in_c:
            _all_steps_in_c("forward_stack", how, layers, x, weight, bias, out, read, None)
        for t in range(0 if how.in_c else how.steps):
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
        return out, *(state[-1].clone() for layer in layers for state in (layer.hidden, layer.cell))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Any, *d_states: Tensor | None) -> tuple[Any, ...]:
        """The gradients of forward's arguments from those of its results, d_out (T, H or D, B) and d_states (H, B)."""
        how: Unrolling = ctx.how
        if how.feeds_back and d_out is None:
            return (None,) * len(ctx.needs_input_grad)
        x, weight, read, *rest = ctx.saved_tensors
        needs, count = ctx.needs_input_grad[1:], len(rest) // 10
        tensors = [LayerTensors(*rest[6 * n : 6 * n + 6]) for n in range(count)]
        layers = [UnrolledLayer(own, rest[6 * count + 4 * n :][:4], how.map_size) for n, own in enumerate(tensors)]
        for n, layer in enumerate(layers):
            layer.start_backward(*d_states[2 * n : 2 * n + 2])
            layer.made = [torch.empty_like(own) for own in tensors[n][:3]] if how.in_c else []
        if d_out is not None:
            d_out = d_out.clone(memory_format=torch.contiguous_format)
        if how.in_c:
            _all_steps_in_c("backward_stack", how, layers, x, weight, None, read, read, d_out)
        for t in reversed(range(0 if how.in_c else how.steps)):
            # A view of d_out. What is added to it below makes d_out whole, for d_weight and d_bias.
            outer: Any = None if d_out is None else d_out[t]
            if how.feeds_back:
                if t + 1 < how.steps:
                    fed = input_gradient(layers[0].weight_ih, layers[0].d_z_steps[t + 1], size=how.map_size)
                    if how.activation != "none":
                        ACTIVATION_BACKWARD[how.activation](fed, read[t], grad_input=fed)
                    outer.add_(fed)
                outer = outer * how.gain if weight is None else input_gradient(weight, outer)
            for n in reversed(range(count)):
                d_z = layers[n].backward_step(t, outer)
                outer = input_gradient(layers[n].weight_ih, d_z, size=how.map_size) if n else None
        inputs, grads = read[:-1] if how.feeds_back else x, []
        for n, layer in enumerate(layers):
            grads += layer.gradients(inputs, needs[3 + 6 * n :])
            inputs = layer.hidden
        d_x = input_gradient(layers[0].weight_ih, layers[0].d_z, size=how.map_size) if needs[0] else None
        d_weight = weight_gradient(as_columns(d_out), as_columns(layers[-1].hidden), weight) if needs[1] else None
        d_bias = d_out.sum((0, 2)).unsqueeze(1) if needs[2] else None
        return None, d_x, d_weight, d_bias, *grads
