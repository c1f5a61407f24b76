"""A peer: the network of the architectures `convlstm` as a plain loop over `conv2d`, see `peers`."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from seqae.models import SequenceAutoencoder


class PlainConvLSTM(nn.Module):
    """The network and weights of a `convlstm` or `convlstm_pointwise` model in torch's own layers: one `Conv2d` of
    (x, h) a step and layer.

    So it is written everywhere, and it reads zeros as if they were maps. Raises ValueError for a model that such a loop
    cannot build.
    """

    def __init__(self, model: SequenceAutoencoder) -> None:
        super().__init__()
        if model.row.lstm_kernel_size is None or model.encoder.layers[0].peephole_i is not None:
            raise ValueError("this loop has convolutions inside the LSTM, and no peepholes: choose convlstm")
        if model.decoder_input not in ("zero", "output"):
            raise ValueError(f"decoder_input {model.decoder_input} cannot be run by this loop: choose zero")
        self.steps, self.gain, self.map_size = model.steps, model.gain, model.encoder.map_size
        self.feeds_back = model.decoder_input == "output"
        self.embedding, self.readouts = deepcopy(model.embedding), deepcopy(model.readouts)
        self.cells = nn.ModuleDict()
        stack: Any
        for name, stack in (("encoder", model.encoder), *model.decoders.items()):
            self.cells[name] = nn.ModuleList(_convolution(layer) for layer in stack.layers)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Frames (B, frames_in, H, W) → pre-activations (B, T, H, W) of each branch, as `SequenceAutoencoder`."""
        seen, outputs = frames.transpose(0, 1), {}
        embedded = self.embedding(seen.flatten(2).flatten(0, 1)).unflatten(1, (-1, *self.map_size))
        encoder: Any = self.cells["encoder"]
        states: Any = [None] * len(encoder)
        for x in embedded.unflatten(0, seen.shape[:2]):
            states = _step(encoder, x, states)
        for branch, readout in self.readouts.items():
            decoder: Any = self.cells[branch]
            hidden, own, fed = [], states, torch.zeros_like(states[-1][0])
            for _ in range(self.steps[branch]):
                own = _step(decoder, fed, own)
                hidden.append(own[-1][0])
                fed = hidden[-1] if self.feeds_back else fed
            z = self.gain * readout(torch.cat(hidden).flatten(1))
            outputs[branch] = z.unflatten(0, (len(hidden), -1)).unflatten(2, frames.shape[2:]).transpose(0, 1)
        return outputs


def _convolution(layer: Any) -> nn.Conv2d:
    """The weights of an `LSTMLayer` with kernels as one convolution of (x, h), of zeros around smaller kernels."""
    k, gates = max(layer.kernel_sizes), len(layer.bias)
    sized = zip((layer.weight_ih, layer.weight_hh), layer.kernel_sizes, strict=True)
    kernels = torch.cat([pad(w.detach().view(gates, -1, n, n), [(k - n) // 2] * 4) for w, n in sized], dim=1)
    convolution = nn.Conv2d(kernels.shape[1], gates, k, padding="same")
    convolution.load_state_dict({"weight": kernels, "bias": layer.bias})
    return convolution


def _step(layers: Any, x: Tensor, states: list[Any]) -> list[Any]:
    """One step of all layers: x (B, D, H, W) and each layer's (h, c), or None for zeros → each layer's new (h, c)."""
    new = []
    for convolution, state in zip(layers, states, strict=True):
        h, c = state or (x.new_zeros(len(x), convolution.out_channels // 4, *x.shape[2:]),) * 2
        i, f, g, o = convolution(torch.cat([x, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        x = o.sigmoid() * c.tanh()
        new.append((x, c))
    return new
