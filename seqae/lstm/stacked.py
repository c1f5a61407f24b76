"""All steps of a stack of dense layers on a CPU in one call of C, as one function of autograd.

`layers` uses it for weights that are not large, see `runs_in_c`. Sequences lie one after the other: T steps of B
sequences, D inputs and H hidden features of a layer, P features of the output.
"""

import ctypes
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from seqae.lstm.compiled import STEP_SOURCE, TILE, step_library
from seqae.lstm.unrolled import LayerTensors, Unrolling, no_second_order
from seqae.tasks import ACTIVATIONS

BUFFERS = ("hidden", "cell", "gates", "g")  # of a layer, filled forward, read backward; shapes: `struct layer`
# The names of the fields of `struct stack` and of its `struct layer` in step.c, in their order.
STRUCTS = re.findall(r"struct (\w+) \{(.*?)\n\};", STEP_SOURCE, re.DOTALL)
FIELDS = {name: re.findall(r"(\w+)[,;]", re.sub(r"/\*.*?\*/", "", body)) for name, body in STRUCTS}


def is_recorded() -> bool:
    """Whether torch.export or torch.jit.trace records the operations: those of torch.lstm it can, ours it cannot."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def runs_in_c(layers: Sequence[LayerTensors], batch: int) -> bool:
    """Whether C makes all steps of these layers: float32 matrices on a CPU, of at most `largest` in step.c a layer.

    Not where torch wants to see every operation: in a dispatch mode, as torch.export has, and in torch.jit.trace.
    """
    fits = all(w.dim() == 2 and w.dtype == torch.float32 and w.device.type == "cpu" for own in layers for w in own[:2])
    if not fits or is_in_torch_dispatch_mode() or is_recorded() or (library := step_library()) is None:
        return False
    return max(own.weight_ih.numel() + own.weight_hh.numel() for own in layers) <= library.largest(batch)


class Stacked(torch.autograd.Function):
    """Layers over T steps → top h (T, B, H), and the last h and c of every layer, each (B, H).

    The first layer reads x (T, B, D), or zeros where x is None. With feedback the layers read zeros at the first step,
    then activation(z) of the step before, and their output z (T, B, P) is returned in place of the top h: z = gain · h,
    or W h + b with `weight` W (P, H) and `bias` b (P, 1).
    """

    @staticmethod
    def forward(ctx: Any, how: Unrolling, x: Any, weight: Any, bias: Any, *own: Any) -> tuple[Tensor, ...]:
        """own: the `LayerTensors` of every layer, one after the other. Other shapes: see the class."""
        layers, empty = _layers(own), own[0].new_empty
        given = [_given(layer) for layer in layers]
        for layer, fields in zip(layers, given, strict=True):
            lengths = (how.steps, how.steps + 1, 4 * how.steps, how.steps)  # gates: (T, B, 4, H), as many numbers
            fields |= zip(BUFFERS, (empty(n, how.columns, fields["H"]) for n in lengths), strict=True)
            fields["cell"][0] = 0 if layer.c is None else layer.c.t()
            fields |= {"packed_ih": _tiles(layer.weight_ih.t()), "packed_hh": _tiles(layer.weight_hh.t())}
        out = empty(how.steps, how.columns, given[0]["D"]) if how.feeds_back else given[-1]["hidden"]
        read = out if how.activation == "none" else torch.empty_like(out)  # what is fed back, activation(out)
        packed = None if weight is None else _tiles(weight.t())
        stack = {"x": x, "weight": weight, "bias": bias, "packed": packed, "out": out, "read": read}
        _call("forward_stack", how, stack, given)
        ctx.how = how
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, read, *own, *(fields[name] for fields in given for name in BUFFERS))
        return out.clone(), *(fields[name][-1].clone() for fields in given for name in ("hidden", "cell"))

    @staticmethod
    def backward(ctx: Any, d_out: Any, *d_states: Tensor | None) -> tuple[Any, ...]:
        """The gradients of forward's arguments from those of its results, d_out (T, B, H or P) and d_states (B, H)."""
        no_second_order()
        how: Unrolling = ctx.how
        x, weight, read, *rest = ctx.saved_tensors
        needs, count = ctx.needs_input_grad[1:], len(rest) // 10
        layers, buffers = _layers(rest[: 6 * count]), rest[6 * count :]
        given = [_given(own) | dict(zip(BUFFERS, buffers[4 * n :][:4], strict=True)) for n, own in enumerate(layers)]
        seen, empty = read if how.feeds_back and how.steps > 1 else x, read.new_empty
        for n, (layer, fields) in enumerate(zip(layers, given, strict=True)):
            hidden = fields["hidden"]
            fields |= {"packed_ih": _tiles(layer.weight_ih), "packed_hh": _tiles(layer.weight_hh)}
            fields |= {"packed_read": _tiles(seen), "packed_h": _tiles(hidden)}
            fields["d_z"] = empty(how.steps, how.columns, len(layer.bias))
            fields["d_h"], fields["d_c"] = (_own(d, hidden[0]) for d in d_states[2 * n : 2 * n + 2])
            fields["d_weight_ih"] = empty(layer.weight_ih.shape) if needs[3 + 6 * n] and seen is not None else None
            fields["d_weight_hh"] = empty(layer.weight_hh.shape) if needs[4 + 6 * n] else None
            seen = hidden
        d_x, d_weight = (empty(of.shape) if need else None for of, need in zip((x, weight), needs, strict=False))
        d_out = _own(d_out, read) if d_out is not None or how.feeds_back else None
        stack = {"x": x, "weight": weight, "read": read, "d_out": d_out, "d_x": d_x, "d_weight": d_weight}
        stack |= {} if weight is None else {"packed": _tiles(weight), "packed_read": _tiles(seen)}
        _call("backward_stack", how, stack, given)
        grads: list[Any] = []
        for n, (layer, fields) in enumerate(zip(layers, given, strict=True)):
            d_z, d_c, d_hh = fields["d_z"], fields["d_c"], fields["d_weight_hh"]
            d_bias = d_z.sum((0, 1)).unsqueeze(1) if needs[5 + 6 * n] else None
            d_peepholes = None if layer.peepholes is None else _peephole_gradient(d_z, fields["cell"])
            if d_hh is not None and layer.h is not None:
                d_hh.addmm_(d_z[0].t(), layer.h.t())
            d_h = (d_z[0] @ layer.weight_hh).t() if needs[7 + 6 * n] else None
            grads += [fields["d_weight_ih"], d_hh, d_bias, d_peepholes, d_h, d_c.t() if needs[8 + 6 * n] else None]
        return None, d_x, d_weight, d_out.sum((0, 1)).unsqueeze(1) if needs[2] else None, *grads


def _layers(own: Sequence[Any]) -> list[LayerTensors]:
    return [LayerTensors(*own[n : n + 6]) for n in range(0, len(own), 6)]


def _given(own: LayerTensors) -> dict[str, Any]:
    # Fields of `struct layer`, by name; step.c uses no others of these.
    sizes = {"D": own.weight_ih.shape[1], "H": own.weight_hh.shape[1]}
    return own._asdict() | sizes | {"p": own.peepholes, "h": None if own.h is None else own.h.t()}


def _tiles(matrix: Tensor | None) -> Tensor | None:
    # Memory for a matrix (…, n), packed: n becomes a multiple of TILE.
    return None if matrix is None else matrix.new_empty(*matrix.shape[:-1], -(-matrix.shape[-1] // TILE) * TILE)


def _own(gradient: Tensor | None, like: Tensor) -> Tensor:
    # To be changed in place.
    return torch.zeros_like(like) if gradient is None else torch.empty_like(like).copy_(gradient)


def _peephole_gradient(d_z: Tensor, cell: Tensor) -> Tensor:
    """(3, H, 1), of gates i and f, which see c of the step before, and o. d_z (T, B, 4 H), cell (T + 1, B, H)."""
    d_i, d_f, _, d_o = d_z.unflatten(2, (4, -1)).unbind(2)
    seen = ((d_i, cell[:-1]), (d_f, cell[:-1]), (d_o, cell[1:]))
    return torch.stack([(d * c).sum((0, 1)) for d, c in seen]).unsqueeze(-1)


def _call(function: str, how: Unrolling, stack: Mapping[str, Any], given: Sequence[Mapping[str, Any]]) -> None:
    """Call a function of step.c with its `struct stack`: numbers, and addresses of float32 data without gaps, or 0.

    stack, given: fields of the stack and of each of its layers, by name; those that are missing are 0.
    """
    known = {"count": len(given), "T": how.steps, "B": how.columns, "P": stack["read"].shape[2], **stack}
    known |= {"feeds_back": how.feeds_back, "activation": [*ACTIVATIONS].index(how.activation)}
    fields = [known.get(n) for n in FIELDS["stack"]] + [layer.get(n) for layer in given for n in FIELDS["layer"]]
    kept = [field.contiguous() if isinstance(field, Tensor) else int(field or 0) for field in fields]
    numbers = (field.data_ptr() if isinstance(field, Tensor) else field for field in kept)
    getattr(step_library(), function)((ctypes.c_long * len(kept))(*numbers), ctypes.c_float(how.gain))
