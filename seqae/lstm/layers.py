"""The recurrent core of every model: a stack of LSTM layers run over whole sequences.

Exact to a plain loop over `torch.nn.LSTMCell`, with the backward pass written by hand: each weight's gradient
is one matrix product over all steps, not one accumulation per step (`tape`). Inputs that are zero are never multiplied.
With a kernel size the products are convolutions over maps of features (ConvLSTM; Shi et al., 2015, §3.1).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqae.lstm.matmul import LARGE, LINEAR
from seqae.lstm.steps import Recurrence
from seqae.tasks import ACTIVATIONS

State = tuple[Tensor | None, Tensor | None]  # h and c of one layer, each (B, H); None is zero
States = Sequence[State | None] | None  # of every layer


@dataclass(frozen=True, eq=False)
class Feedback:
    """What a decoder reads at its next step, given its top h: `activation(gain * (weight @ h + bias))`."""

    weight: Tensor | None = None  # (P, H); None reads h itself
    bias: Tensor | None = None  # (P,), only with a weight
    gain: float = 1.0
    activation: str = "none"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; not {self.activation!r}")
        if self.bias is not None and self.weight is None:
            raise ValueError(f"feedback bias of shape {tuple(self.bias.shape)} needs a weight; not None")


class LSTMLayer(nn.Module):
    """The parameters of one layer, gates in torch's order i, f, g, o; `bias` is the sum of torch's two."""

    def __init__(self, input_size: int, hidden_size: int, *, peepholes: bool = False, kernel_size: int | None = None):
        super().__init__()
        # A kernel's weights as a matrix, too, whose rows are gates, for optimizers that take matrices.
        square, self.kernel_size = (kernel_size or 1) ** 2, kernel_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size * square))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size * square))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        bound = (hidden_size * square) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        for gate in "ifo":
            peephole = nn.Parameter(torch.zeros(hidden_size)) if peepholes else None
            self.register_parameter(f"peephole_{gate}", peephole)

    def arguments(self, state: State, dtype: torch.dtype, positions: int) -> list[Any]:
        """What a `Tape` reads, its matrices in the dtype that products are made in."""
        gates: Any = [self.peephole_i, self.peephole_f, self.peephole_o]
        peepholes = None if self.peephole_i is None else torch.stack(gates).unsqueeze(-1)  # (3, H, 1)
        h, c = (None if s is None else _features_first(s, positions).to(self.bias.dtype) for s in state)
        weights = [self.weight_ih.to(dtype), self.weight_hh.to(dtype)]
        if self.kernel_size is not None:
            weights = [weight.unflatten(1, (-1, self.kernel_size, self.kernel_size)) for weight in weights]
        return [*weights, self.bias.unsqueeze(1), peepholes, h, c]


class LSTMStack(nn.Module):
    """Layers of any widths, each reading the h of the one below.

    Peepholes are those of Graves (2013) and Srivastava et al. (2015, §2.1): i and f see c of the step before,
    o sees the new c, through diagonal weights. Under autocast, matrix products are made in its dtype; states and
    pointwise maths stay in the parameters', but where cuDNN runs a whole layer.

    kernel_size: odd, of convolutions that take the matrices' place, padded with zeros; inputs and h are then maps of `side`
    by `side`, flattened channel by channel, sizes are channels · side², and there is a peephole a channel.
    """

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int],
        *,
        peepholes: bool = False,
        kernel_size: int | None = None,
        side: int = 1,
    ):
        super().__init__()
        sizes = [input_size, *hidden_sizes]
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"input_size (={input_size}) and hidden_sizes (={sizes[1:]}) must be 1 or more")
        if (kernel_size is None and side > 1) or (
            kernel_size is not None and (kernel_size < 1 or kernel_size % 2 == 0)
        ):
            raise ValueError(f"kernel_size (={kernel_size}) must be odd, or None with side (={side}) 1")
        if any(size % side**2 for size in sizes):
            raise ValueError(f"input_size (={input_size}) and hidden_sizes (={sizes[1:]}) must be channels · {side}²")
        self.input_size, self.hidden_sizes, self.side = input_size, tuple(hidden_sizes), side
        channels = itertools.pairwise(size // side**2 for size in sizes)
        layers = (LSTMLayer(d, h, peepholes=peepholes, kernel_size=kernel_size) for d, h in channels)
        self.layers: Any = nn.ModuleList(layers)

    def forward(
        self, inputs: Tensor | None, states: States = None, *, steps: int | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Read inputs (T, B, D); return the top h of every step (T, B, H) and the last (h, c) of every layer.

        None, which goes with states, reads zeros for `steps` steps: the first weight_ih then gets no gradient (None,
        not zeros, so that optimizers skip it).
        """
        batch = None
        if inputs is not None:
            _check("inputs", inputs, steps, None, self.input_size)
            steps, batch = inputs.shape[:2]
        arguments, batch = self._arguments(states, steps, batch)
        positions, top, final = self.side**2, inputs, []
        for own in arguments:
            if _has_whole_lstm(own):
                top, *last = _whole_lstm(top, own, steps or 0, batch)
            else:
                x = None if top is None else _features_first(top.flatten(0, 1), positions).to(own[2].dtype)
                how = (steps, batch * positions, None, self.side)
                top, *last = (_batch_first(s, batch) for s in Recurrence.apply(how, x, None, None, *own))
            final.append((last[0], last[1]))
        assert top is not None
        return top, final

    def unroll(self, states: States, feedback: Feedback, *, steps: int) -> Tensor:
        """Read zeros, then, step by step, what `feedback` makes of the top h.

        Returns gain * (weight @ h + bias) of every step, (T, B, D): the values before their activation.
        """
        weight, bias, gain = feedback.weight, feedback.bias, feedback.gain
        if weight is not None and self.side > 1:
            raise ValueError(f"feedback of maps (side {self.side}) is h itself: its weight must be None")
        if weight is None and self.hidden_sizes[-1] != self.input_size:
            raise ValueError(f"h (={self.hidden_sizes[-1]} wide) must be as wide as inputs (={self.input_size})")
        arguments, batch = self._arguments(states, steps, None)
        if weight is not None:
            _check("feedback weight", weight, self.input_size, self.hidden_sizes[-1])
            weight = (weight if gain == 1 else weight * gain).to(arguments[0][0].dtype)
        if bias is not None:
            _check("feedback bias", bias, self.input_size)
            bias = (bias * gain).unsqueeze(1)
        how = (steps, batch * self.side**2, (gain, feedback.activation), self.side)
        z, _, _ = Recurrence.apply(how, None, weight, bias, *itertools.chain(*arguments))
        return _batch_first(z, batch)

    def _arguments(self, states: States, steps: int | None, batch: int | None) -> tuple[list[list[Any]], int]:
        """Check, and return what every layer's `Tape` reads, and the batch size."""
        pairs: list[State] = [state or (None, None) for state in states or [None] * len(self.layers)]
        if steps is None or steps < 1:
            raise ValueError(f"steps (={steps}) must be 1 or more")
        if len(pairs) != len(self.layers):
            raise ValueError(f"states (of {len(pairs)} layers) must be one per layer, {len(self.layers)}")
        for number, pair in enumerate(pairs):
            for name, tensor in zip("hc", pair, strict=True):
                if tensor is not None:
                    _check(f"{name} of layer {number}", tensor, batch, self.hidden_sizes[number])
                    batch = len(tensor)
        if batch is None:
            raise ValueError("how many sequences there are has to be told by inputs or by states; not None for both")
        dtype, device = self.layers[0].bias.dtype, self.layers[0].bias.device.type
        if device != "meta" and dtype != torch.float64 and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        own = zip(self.layers, pairs, strict=True)
        return [layer.arguments(pair, dtype, self.side**2) for layer, pair in own], batch


def _has_whole_lstm(own: Sequence[Any]) -> bool:
    # cuDNN, and on a CPU oneDNN, fuse a layer's steps, and know no peepholes. On two cores of a Zen 4 oneDNN's was up
    # to 1.2 times as fast as the tape in layers of up to 1,024, but half as fast in layers of 4,096.
    _, weight, bias, peepholes, _, _ = own
    small = bias.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() < LARGE
    has = bias.is_cuda or (small and LINEAR is not None and bool(torch.backends.mkldnn.enabled))
    return has and peepholes is None and weight.dim() == 2


def _whole_lstm(x: Tensor | None, own: Sequence[Any], steps: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """One layer by `torch.lstm`: x (T, B, D), None for zeros -> every h (T, B, H), last h and c (B, H)."""
    weight_ih, weight_hh, bias, _, h, c = own
    if x is None:  # one feature of zeros, since an LSTM without inputs there is not
        x, weight_ih = bias.new_zeros(steps, batch, 1), weight_hh.new_zeros(len(bias), 1)
    zeros = bias.new_zeros(batch, weight_hh.shape[1])
    state = [(zeros if s is None else s.t()).to(weight_hh.dtype).unsqueeze(0).contiguous() for s in (h, c)]
    own_bias = bias.squeeze(1).to(weight_hh.dtype)  # torch has two a gate, ours is their sum
    weights = [weight_ih, weight_hh, own_bias, torch.zeros_like(own_bias)]
    read = torch.lstm(x.to(weight_hh.dtype), state, weights, True, 1, 0.0, True, False, False)
    hidden, last_h, last_c = (s.to(bias.dtype) for s in read)
    return hidden, last_h[0], last_c[0]


def _check(name: str, tensor: Tensor, *shape: int | None) -> None:
    fits = tensor.ndim == len(shape) and 0 not in tensor.shape and tensor.is_floating_point()
    if not fits or any(s not in (None, n) for n, s in zip(tensor.shape, shape, strict=True)):
        wanted, got = str(shape).replace("None", "any"), f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise ValueError(f"{name} must be floating point, not empty, of shape {wanted}; not {got}")


def _features_first(x: Tensor, positions: int) -> Tensor:
    """(N, features · positions) → (features, N · positions)"""
    return x.unflatten(1, (-1, positions)).transpose(0, 1).flatten(1)


def _batch_first(x: Tensor, batch: int) -> Tensor:
    """(…, features, B · positions) → (…, B, features · positions), a copy, so that callers may change it in place."""
    maps = x.unflatten(-1, (batch, -1)).transpose(-3, -2)
    return maps.clone(memory_format=torch.contiguous_format).flatten(-2)
