"""The weights that training begins with."""

from torch import nn

from seqae.models import SequenceAutoencoder
from seqae.recurrent import LSTMLayer


def initialise(
    model: SequenceAutoencoder,
    *,
    init: str = "default",
    init_range: float = 0.01,
    bias_init: str = "default",
    forget_bias: float | None = None,
    readout_bias: float | None = None,
    peephole_range: float = 0.0,
) -> None:
    """Overwrite a new model's weights in place; `default` and None leave torch's.

    init: orthogonal (the LSTMs' weight matrices; Saxe et al., 2014) or uniform (every weight matrix,
    U(-init_range, init_range)). bias_init: zero or normal, of the LSTMs. forget_bias: the LSTMs' forget
    gates (Jozefowicz et al., 2015). readout_bias: the last layer's, where there is one (ValueError where the frame
    is h itself). peephole_range: peepholes are drawn from U(-peephole_range, peephole_range).
    """
    if readout_bias is not None and model.row.readout == "h":
        raise ValueError(f"readout_bias {readout_bias:g} needs a readout, and this frame is h itself: leave it out")
    layers = [module for module in model.modules() if isinstance(module, LSTMLayer)]
    if peephole_range and layers[0].peephole_i is None:
        raise ValueError(f"peephole_range {peephole_range:g} needs peepholes: set peepholes: true, or leave it out")
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if init == "uniform" and weight.dim() > 1:
                nn.init.uniform_(weight, -init_range, init_range)
            elif init == "orthogonal" and name in ("weight_ih", "weight_hh"):
                nn.init.orthogonal_(weight)
            elif peephole_range and name.startswith("peephole_"):
                nn.init.uniform_(weight, -peephole_range, peephole_range)
    for readout in model.readouts.values():
        if readout_bias is not None:
            nn.init.constant_([bias for name, bias in readout.named_parameters() if "bias" in name][-1], readout_bias)
    for layer in layers:
        if bias_init == "zero":
            nn.init.zeros_(layer.bias)
        elif bias_init == "normal":
            nn.init.normal_(layer.bias, std=2**0.5)  # of torch's two biases a gate, each N(0, 1), ours is the sum
        if forget_bias is not None:
            nn.init.constant_(layer.bias.data.chunk(4)[1], forget_bias)  # gates i, f, g, o
