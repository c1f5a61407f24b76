"""`SequenceAutoencoder`: an encoder and one or two decoders, built from a row of `ARCHITECTURES`.

One class serves every architecture; a row says how a frame becomes a vector and back, how wide and deep the
LSTMs are, what is handed to the decoders and what they read. The recurrent core is in `lstm`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqae.embeddings import convolutional, map_sides, mirrored_convolutional, perceptron
from seqae.losses import activate
from seqae.lstm import Feedback, LSTMLayer, LSTMStack
from seqae.tasks import ACTIVATIONS, BRANCHES, DECODER_INPUTS, branch_targets

PIXELS = -1  # as wide as the frame has pixels
HIDDEN = -2  # as wide as the LSTM layers
States = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Architecture:
    """One row of the table: sizes at 64×64 and width 1.

    linear: widths of the frame's embedding, ReLU after each. convolutions: (channels, kernel size, stride) of it, no
    padding. readout: the frame is the top layer's h itself (that layer is then PIXELS wide), a Linear of it, or the
    embedding mirrored. hand_over: the encoder's top h alone, as the h of the decoder's first layer, or every layer's
    h and c. feedback: what `decoder_input: output` returns to the decoder. kernel_size: of the LSTMs' own convolutions over
    the last feature map, which is then HIDDEN channels deep (ConvLSTM); none: they are fully connected.
    """

    hidden: int
    layers: int
    linear: tuple[int, ...] = ()
    convolutions: tuple[tuple[int, int, int], ...] = ()
    relu_last: bool = True
    readout: Literal["h", "linear", "mirror"] = "h"
    hand_over: Literal["top", "all"] = "top"
    feedback: Literal["frame", "top_h"] = "frame"
    peepholes: bool = False
    kernel_size: int | None = None

    def reach(self, gain: float) -> float:
        """The largest |pre-activation| that any weights can give: gain where the frame is h itself, which lies in
        (-1, 1); else infinity.
        """
        return gain if self.readout == "h" else float("inf")


_CNN = Architecture(hidden=1024, layers=3, readout="mirror", feedback="top_h")
ARCHITECTURES = {
    "lstm": Architecture(hidden=PIXELS, layers=1),  # the diary built this one on torch.nn.LSTM,
    "lstmcell": Architecture(hidden=PIXELS, layers=1),  # and this one, the same network, on LSTMCell
    "lstm_copy": Architecture(hidden=2048, layers=3),
    "fc_lstm": Architecture(hidden=256, layers=3, linear=(1024, HIDDEN), readout="mirror", feedback="top_h"),
    "cnn_v1": replace(
        _CNN,
        hidden=512,
        convolutions=((128, 4, 2), (256, 5, 2), (256, 4, 2), (256, 4, 1), (HIDDEN, 3, 1)),
        relu_last=False,
    ),
    "cnn_v2": replace(_CNN, convolutions=((128, 10, 2), (512, 10, 2), (HIDDEN, 10, 1))),
    "cnn_v3": replace(_CNN, hidden=128, convolutions=((64, 10, 2), (64, 10, 2), (HIDDEN, 10, 1))),
    "cnn_flatten": replace(_CNN, convolutions=((128, 10, 2), (512, 10, 2), (HIDDEN, 3, 1))),
    # Srivastava et al. (2015), §2.2-2.4; two layers and peepholes by parameter.
    "srivastava": Architecture(hidden=2048, layers=1, readout="linear", hand_over="all"),
    # Shi et al. (2015), on patches of 8×8 pixels; one layer of 64 channels where theirs are three of 128, 64 and 64.
    "convlstm": replace(
        _CNN,
        hidden=64,
        layers=1,
        convolutions=((32, 4, 4), (HIDDEN, 2, 2)),
        relu_last=False,
        hand_over="all",
        kernel_size=3,
    ),
}


class SequenceAutoencoder(nn.Module):
    """LSTM encoder-decoder on video: reconstructs the frames seen, predicts those to come, or both.

    Raises ValueError where the values do not go together, naming what would.
    """

    def __init__(
        self,
        *,
        architecture: str,
        task: str,
        decoder_input: str,
        activation: str,
        frame_size: int = 64,
        frames_in: int = 10,
        frames_out: int = 10,
        gain: float = 1.0,
        width: float = 1.0,
        hidden: int | None = None,
        layers: int | None = None,
        peepholes: bool | None = None,
        recon_truth: bool = False,
    ) -> None:
        super().__init__()
        for what, value, known in (
            ("architecture", architecture, ARCHITECTURES),
            ("task", task, BRANCHES),
            ("decoder_input", decoder_input, DECODER_INPUTS),
            ("activation", activation, ACTIVATIONS),
        ):
            if value not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}; not {value!r}")
        row = ARCHITECTURES[architecture]
        if hidden is not None and row.hidden == PIXELS:
            raise ValueError(
                f"hidden {hidden} does not go with architecture {architecture}, whose LSTM is as wide as the frame "
                "has pixels: leave hidden out, or choose lstm_copy or srivastava"
            )
        self.row, self.activation, self.gain, self.decoder_input = row, activation, gain, decoder_input
        self.task, self.recon_truth = task, recon_truth
        self.frame_size, self.steps = frame_size, {"recon": frames_in, "pred": frames_out}
        pixels, depth = frame_size**2, layers or row.layers
        top = pixels if row.hidden == PIXELS else _scaled(hidden or row.hidden, width)
        sides = map_sides(row.convolutions, frame_size, architecture=architecture)
        deepest = top if row.kernel_size else max(1, top // sides[-1] ** 2)
        channels = [1, *(deepest if n == HIDDEN else _scaled(n, width) for n, _, _ in row.convolutions)]
        if row.convolutions:
            top = channels[-1] * sides[-1] ** 2
        if row.readout == "h" and depth == 1 and top != pixels:
            raise ValueError(
                f"architecture {architecture} with 1 layer would hand the encoder's h, {top} wide, to a decoder "
                f"as wide as the frame has pixels, {pixels}: use layers 2 or more, or the architecture lstmcell"
            )
        linear = [top if n == HIDDEN else _scaled(n, width) for n in row.linear]
        cells: Any = {"peepholes": row.peepholes if peepholes is None else peepholes}
        if row.kernel_size is not None:
            cells |= {"kernel_size": row.kernel_size, "side": sides[-1]}

        widths = [pixels, *linear]
        self.embedding = _embedding(row, channels, widths, frame_size)
        embedded = top if row.convolutions or row.linear else pixels
        self.encoder = LSTMStack(embedded, [top] * depth, **cells)

        self.decoders, self.readouts = nn.ModuleDict(), nn.ModuleDict()
        hidden_sizes = [*[top] * (depth - 1), pixels if row.readout == "h" else top]
        for branch in BRANCHES[task]:
            self.decoders[branch] = LSTMStack(top if row.feedback == "top_h" else pixels, hidden_sizes, **cells)
            self.readouts[branch] = _readout(row, channels, sides, widths, top)

    @property
    def reach(self) -> float:
        """The largest |pre-activation| that any weights can give, see `Architecture.reach`."""
        return self.row.reach(self.gain)

    def forward(self, frames: Tensor, truth: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Pre-activations z of each branch, (B, T, H, W); `activate(z, activation)` are the output frames.

        frames: (B, frames_in, H, W) in the training range. truth: (B, T, H, W) a branch, what it should output;
        read by decoders with `decoder_input: truth` in training mode only, otherwise they read their own output.
        With `recon_truth` the recon decoder always reads the true frames, which are those seen: so the paper's code.
        """
        if frames.shape[1:] != (self.steps["recon"], self.frame_size, self.frame_size):
            raise ValueError(
                f"frames have shape {tuple(frames.shape)}; this model reads (batch, {self.steps['recon']}, "
                f"{self.frame_size}, {self.frame_size})"
            )
        seen = frames.transpose(0, 1).flatten(2)  # (T, B, H·W)
        encoded, states = self.encoder(self._embed(seen))
        if self.row.hand_over == "top":
            top = encoded[-1]
            states = [(top, torch.zeros_like(top))]
        outputs = {}
        for branch in self.decoders:
            follow = truth[branch] if truth is not None and self.training else None
            if branch == "recon" and self.recon_truth:
                follow = branch_targets(frames, task=self.task, frames_in=frames.shape[1])["recon"]
            # The frame before the first one to predict has been seen; before the first reconstruction stands none.
            before = seen[-1] if branch == "pred" else torch.zeros_like(seen[-1])
            z = self._decode(branch, states, before, follow)  # (T, B, H·W)
            outputs[branch] = z.unflatten(2, frames.shape[2:]).transpose(0, 1)
        return outputs

    def _embed(self, frames: Tensor) -> Tensor:
        # (T, B, H·W) -> (T, B, D), all frames of all sequences in one batch
        return self.embedding(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def _read(self, branch: str, h: Tensor) -> Tensor:
        # (T, B, H) -> (T, B, H·W)
        return self.gain * self.readouts[branch](h.flatten(0, 1)).unflatten(0, h.shape[:2])

    def _decode(self, branch: str, states: States, before: Tensor, truth: Tensor | None) -> Tensor:
        decoder, readout, steps = self.decoders[branch], self.readouts[branch], self.steps[branch]
        assert isinstance(decoder, LSTMStack)
        initial = [*states, *[None] * (len(decoder.layers) - len(states))]
        if self.decoder_input == "zero":
            return self._read(branch, decoder(None, initial, steps=steps)[0])
        if self.decoder_input == "truth":
            if truth is not None:
                followed = truth.transpose(0, 1).flatten(2)[:-1]  # the last true frame is read by nobody
                return self._read(branch, decoder(self._embed(torch.cat([before[None], followed])), initial)[0])
            return self._decode_own_frames(branch, initial, before)
        if self.row.feedback == "top_h":
            return self._read(branch, decoder.unroll(initial, Feedback(), steps=steps))
        weight, bias = (readout.weight, readout.bias) if isinstance(readout, nn.Linear) else (None, None)
        feedback = Feedback(weight, bias, self.gain, self.activation)
        return decoder.unroll(initial, feedback, steps=steps)

    def _decode_own_frames(self, branch: str, initial: list, frame: Tensor) -> Tensor:
        # A decoder trained on true frames reads its own ones when there are none: embedded as those were.
        decoder, outputs, states = self.decoders[branch], [], initial
        for _ in range(self.steps[branch]):
            h, states = decoder(self._embed(frame[None]), states)
            outputs.append(self._read(branch, h)[0])
            frame = activate(outputs[-1], self.activation)
        return torch.stack(outputs)


def _scaled(size: int, width: float) -> int:
    return max(1, round(size * width))


def _embedding(row: Architecture, channels: list[int], widths: list[int], frame_size: int) -> nn.Module:
    if row.convolutions:
        return convolutional(row.convolutions, channels, frame_size, relu_last=row.relu_last)
    return perceptron(widths, relu_last=row.relu_last) if row.linear else nn.Identity()


def _readout(row: Architecture, channels: list[int], sides: list[int], widths: list[int], top: int) -> nn.Module:
    if row.readout == "linear":
        return nn.Linear(top, widths[0])
    if row.convolutions:
        return mirrored_convolutional(row.convolutions, channels, sides)
    return perceptron(widths[::-1], relu_last=False) if row.readout == "mirror" else nn.Identity()


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
