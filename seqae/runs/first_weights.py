"""The weights that a run's parameters let a built-in model begin with."""

import torch
from torch import Tensor, nn

from seqae.lstm import LSTMLayer
from seqae.models import SequenceAutoencoder


def initialise(
    model: SequenceAutoencoder,
    *,
    init: str = "default",
    init_range: float = 0.01,
    bias_init: str = "default",
    forget_bias: float | None = None,
    readout_bias: float | None = None,
    peephole_range: float = 0.0,
    device: torch.device | str = "cpu",
) -> None:
    """Overwrite a new model's weights in place. `default` and None leave what torch's layers begin with,
    and of an LSTM, which has one bias where torch has the sum of two, one such bias.

    init: orthogonal (the LSTMs' weight matrices; Saxe et al., 2014) or uniform (every weight matrix,
    U(-init_range, init_range)). bias_init: zero or normal, for the LSTMs. forget_bias: for the LSTMs' forget gates
    (Jozefowicz et al., 2015). readout_bias: for the last layer. peephole_range: peepholes are drawn from
    U(-peephole_range, peephole_range). device: where matrices are made orthogonal, which takes a CPU half a minute at
    16384×4096; the weights are the same, to rounding. Raises ValueError for a readout_bias where the frame is h itself,
    and for a peephole_range without peepholes.
    """
    if readout_bias is not None and model.row.readout == "h":
        raise ValueError(f"readout_bias {readout_bias:g} needs a readout, and this frame is h itself: leave it out")
    layers = [module for module in model.modules() if isinstance(module, LSTMLayer)]
    if peephole_range and all(layer.peephole_i is None for layer in layers):
        raise ValueError(f"peephole_range {peephole_range:g} needs peepholes: set peepholes: true, or leave it out")
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if init == "uniform" and weight.dim() > 1:
                nn.init.uniform_(weight, -init_range, init_range)
            elif init == "orthogonal" and name in ("weight_ih", "weight_hh"):
                _make_orthogonal(weight, device)
            elif peephole_range and name.startswith("peephole_"):
                nn.init.uniform_(weight, -peephole_range, peephole_range)
    for readout in model.readouts.values():
        if readout_bias is not None:
            nn.init.constant_([bias for name, bias in readout.named_parameters() if "bias" in name][-1], readout_bias)
    for layer in layers:
        if bias_init == "zero":
            nn.init.zeros_(layer.bias)
        elif bias_init == "normal":
            nn.init.normal_(layer.bias, std=2**0.5)  # the sum of torch's two biases of a gate, each N(0, 1)
        if forget_bias is not None:
            nn.init.constant_(layer.bias.data.chunk(4)[1], forget_bias)  # gates i, f, g, o


@torch.no_grad()
def _make_orthogonal(weight: Tensor, device: torch.device | str) -> None:
    # As nn.init.orthogonal_, of the same random numbers, drawn where the weight is and decomposed on the device.
    drawn = torch.empty_like(weight).normal_()
    wide = len(weight) < weight.shape[1]
    q, r = torch.linalg.qr((drawn.t() if wide else drawn).to(device))
    q *= r.diagonal().sign()
    weight.copy_(q.t() if wide else q)
