"""LSTM stacks over whole sequences: the recurrent part of every model.

The result is that of a plain loop over `torch.nn.LSTMCell`, with a backward pass written by hand (`unrolled`), and
inputs that are zero are never multiplied. With a kernel size the products are convolutions over maps of features
(ConvLSTM; Shi et al., 2015, §3.1).

The steps are made by the first of these that fits:

- `stacked`, all steps of all layers in C: float32 matrices on a CPU, a layer's weights no more than `largest` in step.c
- torch's own LSTM, layer by layer (cuDNN; on a CPU oneDNN, in float32, recurrent weights fewer than `LARGE`): matrices
  without peepholes, whose output is not fed back
- `recurrence`: for float32 on a CPU the pointwise half of a step in C, and products of 3×3 kernels for which that is
  faster, see `winograd`; all else by torch
"""

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqae.lstm.linear import LARGE, ONEDNN_LINEAR
from seqae.lstm.recurrence import Recurrence
from seqae.lstm.stacked import Stacked, is_recorded, runs_in_c
from seqae.lstm.unrolled import LayerTensors, Unrolling
from seqae.tasks import ACTIVATIONS, Size, check_choice

# cuDNN says at every call that it copies our weights into its own order: they are parameters of their own names.
warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")


class LSTMState(NamedTuple):
    """h and c of one layer, each (B, H); None is zero."""

    h: Tensor | None
    c: Tensor | None


InitialStates = Sequence[LSTMState | None] | None  # one for each layer; None is zero


@dataclass(frozen=True, eq=False)
class Feedback:
    """What a decoder reads at its next step, given its top h (B, H): `activation(gain * (weight @ h + bias))`."""

    weight: Tensor | None = None  # (P, H); None: activation(gain * h) is read
    bias: Tensor | None = None  # (P,), only with a weight
    gain: float = 1.0
    activation: str = "none"

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ACTIVATIONS)
        if self.bias is not None and self.weight is None:
            raise ValueError(f"feedback bias of shape {tuple(self.bias.shape)} needs a weight; not None")


class LSTMLayer(nn.Module):
    """The parameters of one layer, gates in torch's order i, f, g, o.

    weight_ih: (4 H, D · k²), weight_hh: (4 H, H · k²), where kernel_sizes are the k of each, or None: 1. bias: (4 H,),
    the sum of torch's two. peephole_i, peephole_f, peephole_o: (H,), or None. With kernels D and H are channels.
    """

    def __init__(self, input_size: int, hidden_size: int, *, peepholes: bool = False, kernel_sizes: Any = None) -> None:
        super().__init__()
        # Kernels are kept as a matrix whose rows are gates, for optimizers that take matrices only.
        self.kernel_sizes, (read, kept) = kernel_sizes, kernel_sizes or (1, 1)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size * read**2))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size * kept**2))
        self.bias, bound = nn.Parameter(torch.empty(4 * hidden_size)), (hidden_size * kept**2) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        for gate in "ifo":
            peephole = nn.Parameter(torch.zeros(hidden_size)) if peepholes else None
            self.register_parameter(f"peephole_{gate}", peephole)

    def tensors(self, state: LSTMState, dtype: torch.dtype, positions: int) -> LayerTensors:
        """What the layer computes with: its weights in `dtype`, its state (B, H · positions) as (H, B · positions)."""
        gates: Any = [self.peephole_i, self.peephole_f, self.peephole_o]
        peepholes = None if self.peephole_i is None else torch.stack(gates).unsqueeze(-1)  # (3, H, 1)
        h, c = (None if s is None else _features_first(s, positions).to(self.bias.dtype) for s in state)
        weights: Any = self.weight_ih.to(dtype), self.weight_hh.to(dtype)
        if self.kernel_sizes:
            kernels = (weight.unflatten(1, (-1, k, k)) for weight, k in zip(weights, self.kernel_sizes, strict=True))
            weights = (kernel.contiguous(memory_format=torch.channels_last) for kernel in kernels)
        weight_ih, weight_hh = weights
        return LayerTensors(weight_ih, weight_hh, self.bias.unsqueeze(1), peepholes, h, c)


class LSTMStack(nn.Module):
    """LSTM layers of any widths, each reading the h of the one below. Sequences are (T, B, D), not batch first.

    Peepholes are those of Graves (2013) and Srivastava et al. (2015, §2.1): gates i and f see c of the step before,
    gate o sees the new c, through diagonal weights. Under autocast, matrix products are made in its dtype. States and
    pointwise operations stay in the parameters' dtype, except where cuDNN runs a whole layer.

    With kernel_size (odd) the matrices become convolutions, padded with zeros, those of inputs with input_kernel_size
    where that is given. Inputs and h are then maps of map_size (H, W), which has to be given, flattened channel by
    channel; input_size and hidden_sizes are channels · H · W; a peephole belongs to a channel. Raises ValueError for
    sizes that do not fit together.

    torch.export and torch.jit.trace take `forward` of stacks without peepholes and kernels. A backward pass with
    create_graph=True raises RuntimeError, except where torch has the whole layer.
    """

    def __init__(
        self, input_size: int, hidden_sizes: Sequence[int], *, peepholes: bool = False,
        kernel_size: int | None = None, input_kernel_size: int | None = None, map_size: Size | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = [input_size, *hidden_sizes] if hasattr(hidden_sizes, "__iter__") else []  # refused below
        self.map_size = map_size or (1, 1)
        self.positions = self.map_size[0] * self.map_size[1]
        if len(sizes) < 2 or any(not hasattr(n, "__index__") or n < 1 for n in (*sizes, *self.map_size)):
            given = f"input_size {input_size}, hidden_sizes {hidden_sizes}, map_size {map_size}"
            raise ValueError(f"{given}: whole numbers, 1 or more each, hidden_sizes a list with one for each layer")
        kernels: Any = kernel_size and (kernel_size if input_kernel_size is None else input_kernel_size, kernel_size)
        sound = kernels and map_size and all(k > 0 and k % 2 for k in kernels)
        if (self.positions > 1 or input_kernel_size is not None) if kernel_size is None else not sound:
            given = f"kernel_size (={kernel_size}), and input_kernel_size (={input_kernel_size}) beside it,"
            raise ValueError(f"{given} must be odd, with a map_size (={map_size}), or all None")
        if any(size % self.positions for size in sizes):
            wanted = "channels · {} · {}".format(*self.map_size)
            raise ValueError(f"input_size (={input_size}) and hidden_sizes (={sizes[1:]}) must be {wanted}")
        self.input_size, self.hidden_sizes = input_size, tuple(hidden_sizes)
        channels = itertools.pairwise(size // self.positions for size in sizes)  # read, and put out
        self.layers: Any = nn.ModuleList(LSTMLayer(*n, peepholes=peepholes, kernel_sizes=kernels) for n in channels)

    def forward(
        self, inputs: Tensor | None, states: InitialStates = None, *, steps: int | None = None
    ) -> tuple[Tensor, list[LSTMState]]:
        """Read inputs (T, B, D); return the top h of every step (T, B, H) and the last state of every layer.

        states: the initial one of every layer; None is zero. With inputs None the stack reads zeros for `steps` steps,
        and states tell B. The first weight_ih then gets no gradient (None, not zeros, so that optimizers skip it).
        Raises ValueError where shapes or devices do not fit.
        """
        batch = None
        if inputs is not None:
            _check("inputs", inputs, self.layers[0].bias.device, steps, None, self.input_size)
            steps, batch = inputs.shape[:2]
        tensors, batch = self._tensors(states, steps, batch)
        positions, top, final = self.positions, inputs, []
        if runs_in_c(tensors, batch):
            x = None if inputs is None else inputs.to(tensors[0].bias.dtype)
            top, *flat = Stacked.apply(Unrolling(steps or 0, batch), x, None, None, *itertools.chain(*tensors))
            return top, [LSTMState(*state) for state in zip(flat[::2], flat[1::2], strict=True)]
        for own in tensors:
            if _torch_is_faster(own):
                top, *last = _torch_lstm(top, own, steps or 0, batch)
            else:
                x = None if top is None else _features_first(top.flatten(0, 1), positions).to(own.bias.dtype)
                how = Unrolling(steps or 0, batch * positions, self.map_size)
                top, *last = (_batch_first(s, batch) for s in Recurrence.apply(how, x, None, None, *own))
            final.append(LSTMState(*last))
        assert top is not None
        return top, final

    def unroll(self, states: InitialStates, feedback: Feedback, *, steps: int) -> Tensor:
        """Read zeros at the first step, then what `feedback` makes of the top h of the step before.

        Returns gain * (weight @ h + bias) of every step, (T, B, D): the values before their activation. states: as for
        `forward`. Raises ValueError where shapes or devices do not fit.
        """
        weight, bias, gain = feedback.weight, feedback.bias, feedback.gain
        top, read = self.hidden_sizes[-1], self.input_size
        if weight is not None and self.positions > 1:
            raise ValueError(f"maps (of {self.map_size}) can feed back h itself only: the feedback weight must be None")
        if weight is None and top != read:
            raise ValueError(f"without a feedback weight h (={top} wide) must be as wide as inputs (={read})")
        tensors, batch = self._tensors(states, steps, None)
        if weight is not None:
            _check("feedback weight", weight, tensors[0].bias.device, read, top)
            # In what makes the steps, `how.gain` is that of h alone.
            weight = (weight if gain == 1 else weight * gain).to(tensors[0].weight_ih.dtype)
        if bias is not None:
            _check("feedback bias", bias, tensors[0].bias.device, read)
            bias = (bias * gain).unsqueeze(1).to(tensors[0].bias.dtype)  # step.c reads float32
        how = Unrolling(steps, batch * self.positions, self.map_size, True, gain, feedback.activation)
        function = Stacked if runs_in_c(tensors, batch) else Recurrence
        z, *_ = function.apply(how, None, weight, bias, *itertools.chain(*tensors))
        return z if function is Stacked else _batch_first(z, batch)

    def _tensors(self, states: InitialStates, steps: int | None, batch: int | None) -> tuple[list[LayerTensors], int]:
        """The tensors of every layer, and the number of sequences B, from states (B, H) where `batch` is None."""
        dtype, device = self.layers[0].bias.dtype, self.layers[0].bias.device
        if any(isinstance(state, Tensor) for state in (() if states is None else states)):
            raise ValueError("states must be one LSTMState per layer: of torch.nn.LSTM's h, c [*map(LSTMState, h, c)]")
        known = [state or LSTMState(None, None) for state in states or [None] * len(self.layers)]
        if steps is None or steps < 1:
            raise ValueError(f"steps (={steps}) must be 1 or more")
        if len(known) != len(self.layers):
            raise ValueError(f"states (of {len(known)} layers) must be one per layer, {len(self.layers)}")
        for number, state in enumerate(known):
            for name, tensor in zip("hc", state, strict=True):
                if tensor is not None:
                    _check(f"{name} of layer {number}", tensor, device, batch, self.hidden_sizes[number])
                    batch = len(tensor)
        if batch is None:
            raise ValueError("inputs or states must tell the number of sequences; not None for both")
        if device.type != "meta" and dtype != torch.float64 and torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        return [own.tensors(state, dtype, self.positions) for own, state in zip(self.layers, known, strict=True)], batch


def _torch_is_faster(own: LayerTensors) -> bool:
    """Whether cuDNN, or oneDNN on a CPU, has the whole layer, and runs it faster than `Recurrence`.

    Both know no peepholes. Torch's kernels are also what torch.export and torch.jit.trace can record. Of layers that
    `Stacked` leaves, oneDNN was up to 1.2 times as fast as `Recurrence` in those of up to 1,024 features on two cores
    of a Zen 4, but half as fast in those of 4,096.
    """
    weight, bias = own.weight_hh, own.bias
    small = bias.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() < LARGE
    has = bias.is_cuda or is_recorded() or (small and ONEDNN_LINEAR is not None and bool(torch.backends.mkldnn.enabled))
    return has and own.peepholes is None and weight.dim() == 2


def _torch_lstm(x: Tensor | None, own: LayerTensors, steps: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """One layer by `torch.lstm`: x (T, B, D), None for zeros → every h (T, B, H), last h and c (B, H)."""
    weight_ih, weight_hh, bias, _, h, c = own
    if x is None:  # one feature of zeros, since torch has no LSTM without inputs
        x, weight_ih = bias.new_zeros(steps, batch, 1), weight_hh.new_zeros(len(bias), 1)
    zeros = bias.new_zeros(batch, weight_hh.shape[1])
    state = [(zeros if s is None else s.t()).to(weight_hh.dtype).unsqueeze(0).contiguous() for s in (h, c)]
    own_bias = bias.squeeze(1).to(weight_hh.dtype)  # torch has two for each gate, this is their sum
    weights = [weight_ih, weight_hh, own_bias, torch.zeros_like(own_bias)]
    # Left to itself, autocast would make cuDNN compute in float16, whatever dtype it is set to.
    with torch.autocast(bias.device.type, enabled=False):
        every, h, c = torch.lstm(x.to(weight_hh.dtype), state, weights, True, 1, 0.0, True, False, False)
    return every.to(bias.dtype), h[0].to(bias.dtype), c[0].to(bias.dtype)


def _check(name: str, tensor: Tensor, device: torch.device, *shape: int | None) -> None:
    """Raise ValueError unless the tensor is floating point, not empty, on the device, and of this shape, where None is
    any size.
    """
    # step.c reads addresses: those of another device would end the process, or read nothing without a word.
    fits = tensor.ndim == len(shape) and 0 not in tensor.shape and tensor.is_floating_point()
    if not fits or tensor.device != device or any(s not in (None, n) for n, s in zip(tensor.shape, shape, strict=True)):
        wanted, got = str(shape).replace("None", "any"), f"{tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
        raise ValueError(f"{name} must be floating point, on {device}, not empty, of shape {wanted}; not {got}")


def _features_first(x: Tensor, positions: int) -> Tensor:
    """(N, features · positions) → (features, N · positions), one column after the other in memory"""
    return x.unflatten(1, (-1, positions)).transpose(1, 2).flatten(0, 1).t()


def _batch_first(x: Tensor, batch: int) -> Tensor:
    """(…, features, B · positions) → (…, B, features · positions), a copy, so that callers may change it in place."""
    return x.unflatten(-1, (batch, -1)).transpose(-3, -2).clone(memory_format=torch.contiguous_format).flatten(-2)
