"""Peers: the training update of a run in other implementations, to time ours against; Keras is in `peers_keras`, the
loop over convolutions in `peers_convolutional`.

All build the diary's networks, in which a frame is the last layer's h itself. An update returns the seconds of its
parts: `forward_backward`, and `step`, which is that, clipping and Adam together.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqae.device import mixed_precision
from seqae.losses import activate
from seqae.models import SequenceAutoencoder

Update = Callable[[], dict[str, float]]
LEARNING_RATE, CLIP_NORM = 0.001, 0.25  # the time does not depend on them


class PlainAutoencoder(nn.Module):
    """The network and weights of `model` in torch's own layers.

    They are `LSTMCell` in a Python loop over the steps, as in the diary, or, if `whole`, `LSTM`, which reads sequences
    known in advance, so never its own output. Raises ValueError for a model that these layers cannot build.
    """

    def __init__(self, model: SequenceAutoencoder, *, whole: bool = False) -> None:
        super().__init__()
        check_buildable(model)
        if model.decoder_input not in ("zero", "output")[: 1 if whole else 2]:
            raise ValueError(f"decoder_input {model.decoder_input} cannot be run by this loop: choose zero")
        self.steps, self.gain, self.activation = model.steps, model.gain, model.activation
        self.own_output = model.decoder_input == "output"
        self.stacks = nn.ModuleDict()
        stack: Any
        for name, stack in (("encoder", model.encoder), *model.decoders.items()):
            self.stacks[name] = nn.ModuleList(_layer(own, whole) for own in stack.layers)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Frames (B, frames_in, H, W) → pre-activations (B, T, H, W) of each branch, as `SequenceAutoencoder`."""
        seen, outputs = frames.transpose(0, 1).flatten(2), {}
        top = self._read(self.stacks["encoder"], None, seen)[-1]
        for branch, steps in self.steps.items():
            if branch in self.stacks:
                zeros = seen.new_zeros(steps, *seen.shape[1:])
                h = (self._unroll if self.own_output else self._read)(self.stacks[branch], top, zeros)
                outputs[branch] = (self.gain * h).unflatten(2, frames.shape[2:]).transpose(0, 1)
        return outputs

    def _read(self, layers: Any, h: Tensor | None, x: Tensor) -> Tensor:
        """Layer by layer, x (T, B, D) → the last layer's h (T, B, H). h: (B, H), the initial one of the first layer."""
        for layer in layers:
            state = None if h is None else (h, torch.zeros_like(h))
            if isinstance(layer, nn.LSTM):
                x = layer(x, state and (state[0][None], state[1][None]))[0]
            else:
                outputs = []
                for frame in x:
                    state = layer(frame, state)
                    outputs.append(state[0])
                x = torch.stack(outputs)
            h = None
        return x

    def _unroll(self, layers: Any, h: Tensor, x: Tensor) -> Tensor:
        """Step by step: x[0] (B, D), then the output of the step before. h: as for `_read`. Returns h (T, B, H)."""
        states: list[Any] = [(h, torch.zeros_like(h)), *[None] * (len(layers) - 1)]
        fed, outputs = x[0], []
        for _ in x:
            for n, cell in enumerate(layers):
                states[n] = cell(fed, states[n])
                fed = states[n][0]
            outputs.append(fed)
            fed = activate(self.gain * fed, self.activation)
        return torch.stack(outputs)


def check_buildable(model: SequenceAutoencoder) -> None:
    """Raise ValueError for a model that none of the peers can build."""
    if model.row.readout != "h" or model.encoder.layers[0].peephole_i is not None:
        raise ValueError("peers have no peepholes, convolutions or readout: choose lstm_copy or lstmcell")


def _layer(own: Any, whole: bool) -> nn.Module:
    """torch's layer with the weights of `own`, an `LSTMLayer`."""
    hidden, inputs = own.weight_hh.shape[1], own.weight_ih.shape[1]
    layer: nn.Module = nn.LSTM(inputs, hidden) if whole else nn.LSTMCell(inputs, hidden)
    weights = {"weight_ih": own.weight_ih, "weight_hh": own.weight_hh, "bias_ih": own.bias}
    weights["bias_hh"] = torch.zeros_like(own.bias)
    layer.load_state_dict({name + "_l0" * whole: weight for name, weight in weights.items()})
    return layer


def torch_update(
    net: nn.Module,
    frames: Tensor,
    targets: dict[str, Tensor],
    loss: Callable[..., Tensor],
    *,
    precision: str,
) -> Update:
    """An update by torch's defaults, `clip_grad_norm_` and `Adam`, the network in autocast of the precision.

    frames: (B, frames_in, H, W) and targets: (B, T, H, W) by branch, in the training range. loss: of z and target, both
    (B, T, H, W), in float32, a scalar. precision: see `device.mixed_precision`.
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    autocast, _ = mixed_precision(frames.device, precision)

    def update() -> dict[str, float]:
        began = time.perf_counter()
        optimizer.zero_grad()
        with autocast:
            outputs = net(frames)
        sum(loss(z.float(), targets[branch]) for branch, z in outputs.items()).backward()  # type: ignore[union-attr]
        middle = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        return {"forward_backward": middle - began, "step": time.perf_counter() - began}

    return update


def sequitur_update(model: SequenceAutoencoder, frames: Tensor) -> Update:
    """sequitur's LSTM_AE with the widths of this encoder, trained as its `quick_train` does.

    It takes one sequence at a time and only reconstructs, so its task is smaller. frames: (B, frames_in, H, W). Raises
    ImportError where sequitur is not installed, ValueError for a model that it cannot build.
    """
    check_buildable(model)
    from sequitur.models import LSTM_AE

    *hidden, code = model.encoder.hidden_sizes
    net = LSTM_AE(frames.flatten(2).shape[2], code, h_dims=hidden)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    criterion = nn.MSELoss(reduction="sum")

    def update() -> dict[str, float]:
        parts = {"forward_backward": 0.0, "step": 0.0}
        for x in frames.flatten(2):
            began = time.perf_counter()
            optimizer.zero_grad()
            criterion(net(x), x).backward()
            parts["forward_backward"] += time.perf_counter() - began
            optimizer.step()
            parts["step"] += time.perf_counter() - began
        return parts

    return update
