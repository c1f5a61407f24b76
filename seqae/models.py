"""`SequenceAutoencoder`: an encoder and one or two decoders, built from a row of `ARCHITECTURES`.

One class serves every architecture; a row says how a frame becomes a vector and back, how wide and deep the
LSTMs are, what is handed to the decoders and what they read. The recurrent core is in `recurrent`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqae.losses import activate
from seqae.recurrent import ACTIVATIONS, Feedback, LSTMStack

BRANCHES = {"recon": ("recon",), "recon_ordered": ("recon",), "pred": ("pred",), "both": ("recon", "pred")}
DECODER_INPUTS = ("zero", "output", "truth")
PIXELS = -1  # as wide as the frame has pixels
HIDDEN = -2  # as wide as the LSTM layers
States = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Architecture:
    """One row of the table: sizes at 64×64 and width 1.

    linear: widths of the frame's embedding, ReLU after each. convolutions: (channels, kernel, stride) of it, no
    padding. readout: the frame is the top layer's h itself (that layer is then PIXELS wide), a Linear of it, or the
    embedding mirrored. hand_over: the encoder's top h alone, as the h of the decoder's first layer, or every layer's
    h and c. feedback: what `decoder_input: output` returns to the decoder. kernel: of the LSTMs' own convolutions over
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
    kernel: int | None = None


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
        kernel=3,
    ),
}


def branch_targets(frames: Tensor, *, task: str, frames_in: int) -> dict[str, Tensor]:
    """What each branch has to output. frames: (B, frames_in + frames_out, H, W); returns (B, T, H, W) a branch.

    `recon` decodes the seen frames in reverse order (Srivastava et al., 2015, §2.2), `recon_ordered` in order.
    """
    seen, future = frames[:, :frames_in], frames[:, frames_in:]
    recon = seen if task == "recon_ordered" else seen.flip(1)
    return {branch: {"recon": recon, "pred": future}[branch] for branch in BRANCHES[task]}


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
        channels, sides = _feature_maps(architecture, row, frame_size=frame_size, hidden=top, width=width)
        if row.convolutions:
            top = channels[-1] * sides[-1] ** 2
        if row.readout == "h" and depth == 1 and top != pixels:
            raise ValueError(
                f"architecture {architecture} with 1 layer would hand the encoder's h, {top} wide, to a decoder "
                f"as wide as the frame has pixels, {pixels}: use layers 2 or more, or the architecture lstmcell"
            )
        linear = [top if n == HIDDEN else _scaled(n, width) for n in row.linear]
        cells: Any = {"peepholes": row.peepholes if peepholes is None else peepholes}
        if row.kernel is not None:
            cells |= {"kernel": row.kernel, "side": sides[-1]}

        widths = [pixels, *linear]
        self.embedding = _embedding(row, channels, sides, widths)
        embedded = top if row.convolutions or row.linear else pixels
        self.encoder = LSTMStack(embedded, [top] * depth, **cells)

        self.decoders, self.readouts = nn.ModuleDict(), nn.ModuleDict()
        hidden_sizes = [*[top] * (depth - 1), pixels if row.readout == "h" else top]
        for branch in BRANCHES[task]:
            self.decoders[branch] = LSTMStack(top if row.feedback == "top_h" else pixels, hidden_sizes, **cells)
            self.readouts[branch] = _readout(row, channels, sides, widths, top)

    @property
    def reach(self) -> float:
        """Largest |pre-activation| any weights can give: gain where the frame is h itself, in (-1, 1); else inf."""
        return self.gain if self.row.readout == "h" else float("inf")

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


def _feature_maps(
    name: str, row: Architecture, *, frame_size: int, hidden: int, width: float
) -> tuple[list[int], list[int]]:
    # Channels and side length before the first and after every convolution.
    channels, sides = [1], [frame_size]
    for i, (_, kernel, stride) in enumerate(row.convolutions, start=1):
        if sides[-1] < kernel or (sides[-1] - kernel) % stride:
            raise ValueError(
                f"architecture {name} does not fit frame_size {frame_size}: convolution {i} (kernel {kernel}, "
                f"stride {stride}) meets a {sides[-1]}×{sides[-1]} map; use frame_size 64, or an architecture "
                "without convolutions"
            )
        sides.append((sides[-1] - kernel) // stride + 1)
    for n, _, _ in row.convolutions:
        channels.append(max(1, hidden // (1 if row.kernel else sides[-1] ** 2)) if n == HIDDEN else _scaled(n, width))
    return channels, sides


def _embedding(row: Architecture, channels: list[int], sides: list[int], widths: list[int]) -> nn.Module:
    if row.convolutions:
        return _convolutions(row, channels, sides[0])
    return _perceptron(widths, relu_last=row.relu_last) if row.linear else nn.Identity()


def _readout(row: Architecture, channels: list[int], sides: list[int], widths: list[int], top: int) -> nn.Module:
    if row.readout == "linear":
        return nn.Linear(top, widths[0])
    if row.convolutions:
        return _mirrored_convolutions(row, channels, sides)
    return _perceptron(widths[::-1], relu_last=False) if row.readout == "mirror" else nn.Identity()


def _perceptron(widths: list[int], *, relu_last: bool) -> nn.Sequential:
    modules: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        modules += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*modules if relu_last else modules[:-1])


def _convolutions(row: Architecture, channels: list[int], frame_size: int) -> nn.Sequential:
    modules: list[nn.Module] = [nn.Unflatten(1, (1, frame_size, frame_size))]
    for (_, kernel, stride), (n_in, n_out) in zip(row.convolutions, pairwise(channels), strict=True):
        modules += [nn.Conv2d(n_in, n_out, kernel, stride), nn.ReLU()]
    return nn.Sequential(*modules if row.relu_last else modules[:-1], nn.Flatten())


def _mirrored_convolutions(row: Architecture, channels: list[int], sides: list[int]) -> nn.Sequential:
    modules: list[nn.Module] = [nn.Unflatten(1, (channels[-1], sides[-1], sides[-1]))]
    for (_, kernel, stride), (n_out, n_in) in [*zip(row.convolutions, pairwise(channels), strict=True)][::-1]:
        if kernel == stride:  # no pixel is written twice: a product, eight times as fast, with a bias for each pixel
            modules += [nn.Conv2d(n_in, n_out * kernel**2, 1), nn.PixelShuffle(kernel), nn.ReLU()]
        else:
            modules += [nn.ConvTranspose2d(n_in, n_out, kernel, stride), nn.ReLU()]
    return nn.Sequential(*modules[:-1], nn.Flatten())
