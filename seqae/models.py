"""`SequenceAutoencoder`: an encoder and one or two decoders, built from a row of `ARCHITECTURES`.

One class serves every architecture. A row says how a frame becomes a vector and back, how wide and deep the LSTMs are,
what is handed to the decoders and what they read. The LSTMs themselves are in `lstm`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqae.architectures import ARCHITECTURES, HIDDEN, PIXELS, Architecture
from seqae.embeddings import convolutional, map_sizes, mirrored_convolutional, perceptron
from seqae.losses import activate
from seqae.lstm import Feedback, LSTMState
from seqae.tasks import ACTIVATIONS, BRANCHES, DECODER_INPUTS, branch_targets, check_choice, check_positive, frame_shape

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")  # of a torch module


class SequenceAutoencoder(nn.Module):
    """LSTM encoder-decoder on video: it reconstructs the frames seen, predicts the frames to come, or both.

    architecture: a key of `ARCHITECTURES`. task: which frames are decoded, see `tasks.branch_targets`. decoder_input:
    what a decoder reads at each step. zero: nothing, its input weights get no gradient. output: zeros first, then what
    it put out the step before, its frame, or its top h where frames are embedded. truth: the true frame before, in
    training; its own in evaluation. activation: none, tanh or sigmoid, which the caller applies to what comes out.
    frame_size: pixels on a side, or height and width. frames_in, frames_out: frames seen and to come. gain: factor on
    the last layer, before the activation. width: factor on hidden sizes and channels. hidden (at width 1), layers: in
    place of the architecture's own; where feature maps are kept, as in cnn_flatten, hidden is a multiple of a map's
    positions. peepholes: whether the LSTMs have them. recon_truth: the recon decoder reads the true frames in
    evaluation as well, which are those seen, as in the paper's code (Srivastava et al., 2015). Raises ValueError for
    values that do not go together, naming values that do.
    """

    def __init__(
        self, *, architecture: str, task: str, decoder_input: str, activation: str,
        frame_size: int | tuple[int, int] = 64, frames_in: int = 10, frames_out: int = 10, gain: float = 1.0,
        width: float = 1.0, hidden: int | None = None, layers: int | None = None, peepholes: bool | None = None,
        recon_truth: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_choice("architecture", architecture, ARCHITECTURES)
        check_choice("task", task, BRANCHES)
        check_choice("decoder_input", decoder_input, DECODER_INPUTS)
        check_choice("activation", activation, ACTIVATIONS)
        check_positive(hidden=hidden, layers=layers, frames_in=frames_in, frames_out=frames_out)
        check_positive(float, gain=gain, width=width)
        row = ARCHITECTURES[architecture]
        self.row, self.activation, self.gain, self.decoder_input = row, activation, gain, decoder_input
        self.task, self.recon_truth = task, recon_truth
        # What the weights' shapes do not tell: training does not go on from a checkpoint of others.
        self.checkpoint_settings = {
            "architecture": architecture, "decoder_input": decoder_input, "gain": gain, "recon_truth": recon_truth
        }  # fmt: skip
        self.frame_shape, self.steps = frame_shape(frame_size), {"recon": frames_in, "pred": frames_out}
        pixels, depth = math.prod(self.frame_shape), layers or row.layers
        # The units asked for, in a ConvLSTM channels; `top`, below, is the width of h. With convolutions that is the
        # last feature map, flattened, `deepest` channels at each of its positions. Other rows do not use `deepest`.
        # cnn_flatten at 64×64, hidden 1024: maps of 8×8 positions, 64 of them, so 16 channels, and top 1024. convlstm:
        # maps of 8×8 positions with 64 channels, deepest 64; its LSTM is as deep, and keeps the positions.
        units = pixels if row.hidden == PIXELS else _scaled(hidden or row.hidden, width)
        sizes = map_sizes(row.kernel_sizes, row.strides, self.frame_shape, architecture=architecture)
        positions = math.prod(sizes[-1])
        deepest = units if row.lstm_kernel_size else max(1, units // positions)
        channels = [1, *(deepest if n == HIDDEN else _scaled(n, width) for n in row.channels)]
        top = channels[-1] * positions if row.channels else units
        self.hidden = deepest if row.lstm_kernel_size else top  # LSTM units, or channels, as built
        if hidden is not None and self.hidden != (asked := _scaled(hidden, width)):
            told = f"hidden {hidden} at width {width:g} is {asked} units, which architecture {architecture} cannot have"
            use = "" if (near := round(self.hidden / width)) == hidden else f"set hidden: {near}, or "
            raise ValueError(f"{told}; it would have {self.hidden}: {use}leave hidden out")
        if row.readout == "h" and depth == 1 and top != pixels:
            told = f"with 1 layer would hand h, {top} wide, to a decoder as wide as the frame has pixels, {pixels}"
            raise ValueError(f"architecture {architecture} {told}: use layers 2 or more, or the architecture lstmcell")
        widths = [pixels, *(top if n == HIDDEN else _scaled(n, width) for n in row.linear)]
        kernel_size, map_size = row.lstm_kernel_size, sizes[-1] if row.lstm_kernel_size else None
        cells: Any = {"peepholes": bool(peepholes), "kernel_size": kernel_size, "map_size": map_size}
        cells |= {"input_kernel_size": row.lstm_input_kernel_size} if row.lstm_input_kernel_size else {}

        self.embedding = _embedding(row, channels, sizes, widths)
        self.encoder = row.stack(top if row.embeds else pixels, [top] * depth, **cells)
        self.decoders, self.readouts = nn.ModuleDict(), nn.ModuleDict()
        hidden_sizes = [*[top] * (depth - 1), pixels if row.readout == "h" else top]
        for branch in BRANCHES[task]:
            self.decoders[branch] = row.stack(top if row.embeds else pixels, hidden_sizes, **cells)
            self.readouts[branch] = _readout(row, channels, sizes, widths, top)

    @property
    def reach(self) -> float:
        """The largest |pre-activation| that any weights can give, see `Architecture.reach`."""
        return self.row.reach(self.gain)

    @property
    def capturable(self) -> bool:
        """What `capture.can_capture` reads: False with hooks, and of a subclass that does not say capturable = True."""
        return type(self) is SequenceAutoencoder and not any(vars(m)[n] for m in self.modules() for n in HOOKS)

    def forward(self, frames: Tensor, truth: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Pre-activations z (B, T, H, W) of each branch; `activate(z, activation)` are the output frames.

        frames: (B, frames_in, H, W) in the training range. truth: for each branch what it should output, (B, T, H, W);
        in training mode as many frames are decoded. Decoders with `decoder_input: truth` read it in training mode. In
        evaluation mode they read their own output; with recon_truth the recon decoder reads the frames seen. Raises
        ValueError for frames of another shape.
        """
        seen, states = self._encode(frames)
        follow = dict(truth or {}) if self.training else {}
        if self.recon_truth and "recon" in self.decoders:
            task = "recon" if self.task == "both" else self.task  # the frames to come, which `both` needs, are not here
            follow["recon"] = branch_targets(frames, task=task, frames_in=frames.shape[1])["recon"]
        return self.decode(states, seen[-1], follow)

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        """The encoder's state after the last frame, by name: h1, c1 of the first layer, h2, c2, …; each (B, units).

        `flat`, (B, sum of all units), is these side by side. frames: as for `forward`, whose errors this raises. Units
        of an LSTM with convolutions are those of its maps, channel by channel.
        """
        of_layers = enumerate(self._encode(frames)[1], start=1)
        named: Any = {f"{name}{n}": s for n, state in of_layers for name, s in zip("hc", state, strict=True)}
        return named | {"flat": torch.cat([*named.values()], dim=1)}

    def decode(self, states: list[LSTMState], last: Tensor, truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pre-activations z (B, T, H, W) of each branch, from the last states of all layers of the encoder.

        last: (B, H·W), the last frame seen, in the training range. truth: for each branch the frames (B, T, H, W) that
        its decoder reads with `decoder_input: truth`, as many as are decoded, or none, and it reads its own output.
        """
        states = [LSTMState(states[-1].h, None)] if self.row.hand_over == "top" else states
        outputs = {}
        for branch in self.decoders:
            # A decoder that reads frames (`truth`) begins with the one before its first: of a prediction the last one
            # seen, of a reconstruction none, which is zeros.
            before = last if branch == "pred" else torch.zeros_like(last)
            z = self._decode_branch(branch, states, before, truth.get(branch))  # (T, B, H·W)
            outputs[branch] = z.unflatten(2, self.frame_shape).transpose(0, 1)
        return outputs

    def _encode(self, frames: Tensor) -> tuple[Tensor, list[LSTMState]]:
        """The frames as (T, B, H·W), and the last states of all layers of the encoder."""
        wanted = (self.steps["recon"], *self.frame_shape)
        if frames.shape[1:] != wanted or not frames.is_floating_point():
            reads = "this model reads floats (batch, {}, {}, {})".format(*wanted)
            scales = ": seqae.evaluation.seen_frames scales those of uint8" * (frames.dtype == torch.uint8)
            raise ValueError(f"frames have shape {tuple(frames.shape)} of {frames.dtype}; {reads}{scales}")
        seen = frames.transpose(0, 1).flatten(2)
        return seen, self.encoder(self._embed(seen))[1]

    def _embed(self, frames: Tensor) -> Tensor:
        """(T, B, H·W) → (T, B, D), all frames of all sequences in one batch"""
        return self.embedding(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def _read(self, branch: str, h: Tensor) -> Tensor:
        """h (T, B, hidden) → pre-activations (T, B, H·W)"""
        return self.gain * self.readouts[branch](h.flatten(0, 1)).unflatten(0, h.shape[:2])

    def _decode_branch(self, branch: str, states: list[LSTMState], before: Tensor, truth: Tensor | None) -> Tensor:
        """Pre-activations (T, B, H·W) of a branch. states: of its first layers, the others begin at zero. before:
        (B, H·W), the frame before the first; truth: (B, T, H, W), read with `decoder_input: truth`.
        """
        decoder: Any = self.decoders[branch]
        readout, steps = self.readouts[branch], self.steps[branch] if truth is None else truth.shape[1]
        initial = [*states, *[None] * (len(decoder.layers) - len(states))]
        if self.decoder_input == "zero":
            return self._read(branch, decoder(None, initial, steps=steps)[0])
        if self.decoder_input == "truth":
            if truth is not None:
                followed = truth.transpose(0, 1).flatten(2)[:-1]  # no step reads the last true frame
                return self._read(branch, decoder(self._embed(torch.cat([before[None], followed])), initial)[0])
            return self._decode_own_frames(branch, initial, before)
        if self.row.embeds:
            return self._read(branch, decoder.unroll(initial, Feedback(), steps=steps))
        weight, bias = (readout.weight, readout.bias) if isinstance(readout, nn.Linear) else (None, None)
        return decoder.unroll(initial, Feedback(weight, bias, self.gain, self.activation), steps=steps)

    def _decode_own_frames(self, branch: str, states: Sequence[LSTMState | None], frame: Tensor) -> Tensor:
        """As `_decode_branch`, without true frames: it reads its own output frames, embedded as true ones were."""
        decoder, outputs = self.decoders[branch], []
        for _ in range(self.steps[branch]):
            h, states = decoder(self._embed(frame[None]), states)
            outputs.append(self._read(branch, h)[0])
            frame = activate(outputs[-1], self.activation)
        return torch.stack(outputs)


def activations(model: nn.Module) -> tuple[str, ...]:
    """Those that may be applied to what a model puts out: a `SequenceAutoencoder` is made for one."""
    return (model.activation,) if isinstance(model, SequenceAutoencoder) else ACTIVATIONS


def _scaled(size: int, width: float) -> int:
    return max(1, round(size * width))


def _embedding(row: Architecture, channels: list[int], sizes: list[tuple[int, int]], widths: list[int]) -> nn.Module:
    """(N, H·W) → (N, D). channels and sizes: before the first and after every convolution. widths: the same, linear."""
    if row.channels:
        return convolutional(channels, row.kernel_sizes, row.strides, size=sizes[0], relu_last=row.relu_last)
    return perceptron(widths, relu_last=row.relu_last) if row.linear else nn.Identity()


def _readout(
    row: Architecture, channels: list[int], sizes: list[tuple[int, int]], widths: list[int], top: int
) -> nn.Module:
    """h (N, top) → (N, H·W). The other arguments are those of `_embedding`."""
    if row.readout == "linear":
        return nn.Linear(top, widths[0])
    if row.channels:
        return mirrored_convolutional(channels, row.kernel_sizes, row.strides, size=sizes[-1])
    return perceptron(widths[::-1], relu_last=False) if row.readout == "mirror" else nn.Identity()
