"""A run's training update by other hands: what `performance` times it against.

All take the diary's networks, in which a frame is the last layer's h itself. An update returns the seconds of its
parts: `forward_backward`, and `step`, which is that, clipping and Adam together.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqae.losses import activate
from seqae.models import SequenceAutoencoder

Update = Callable[[], dict[str, float]]
LEARNING_RATE, CLIP_NORM = 0.001, 0.25  # no time depends on them


class PlainAutoencoder(nn.Module):
    """The network and weights of `model` in torch's own layers: `LSTMCell` in a Python loop over the steps, as the
    diary had it, or (`whole`) `LSTM`, which reads sequences known in advance, so no decoder's own output.

    Raises ValueError for a model that these cannot build.
    """

    def __init__(self, model: SequenceAutoencoder, *, whole: bool = False) -> None:
        super().__init__()
        _check(model)
        if model.decoder_input not in ("zero", "output")[: 1 if whole else 2]:
            raise ValueError(f"decoder_input {model.decoder_input} cannot be run by this loop: choose zero")
        self.steps, self.gain, self.activation = model.steps, model.gain, model.activation
        self.own_output = model.decoder_input == "output"
        self.stacks = nn.ModuleDict()
        for name, stack in (("encoder", model.encoder), *model.decoders.items()):
            self.stacks[name] = nn.ModuleList(_layer(own, whole) for own in stack.layers)  # type: ignore[union-attr]

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """As that of `SequenceAutoencoder`: (B, frames_in, H, W) to pre-activations (B, T, H, W) a branch."""
        seen, outputs = frames.transpose(0, 1).flatten(2), {}
        top = self._read(self.stacks["encoder"], None, seen)[-1]
        for branch, steps in self.steps.items():
            if branch in self.stacks:
                zeros = seen.new_zeros(steps, *seen.shape[1:])
                h = (self._unroll if self.own_output else self._read)(self.stacks[branch], top, zeros)
                outputs[branch] = (self.gain * h).unflatten(2, frames.shape[2:]).transpose(0, 1)
        return outputs

    def _read(self, layers: Any, h: Tensor | None, x: Tensor) -> Tensor:
        # Layer by layer; h is the first one's. x (T, B, D) -> the last one's h, (T, B, H).
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
        # Step by step, from x[0] on what the last step put out.
        states: list[Any] = [(h, torch.zeros_like(h)), *[None] * (len(layers) - 1)]
        fed, outputs = x[0], []
        for _ in x:
            for n, cell in enumerate(layers):
                states[n] = cell(fed, states[n])
                fed = states[n][0]
            outputs.append(fed)
            fed = activate(self.gain * fed, self.activation)
        return torch.stack(outputs)


def _check(model: SequenceAutoencoder) -> None:
    # What none of these peers builds.
    if model.row.readout != "h" or model.encoder.layers[0].peephole_i is not None:
        raise ValueError("peers have no peepholes, convolutions or readout: choose lstm_copy or lstmcell")


def _layer(own: Any, whole: bool) -> nn.Module:
    hidden, inputs = own.weight_hh.shape[1], own.weight_ih.shape[1]
    layer: nn.Module = nn.LSTM(inputs, hidden) if whole else nn.LSTMCell(inputs, hidden)
    weights = {"weight_ih": own.weight_ih, "weight_hh": own.weight_hh, "bias_ih": own.bias}
    weights["bias_hh"] = torch.zeros_like(own.bias)
    layer.load_state_dict({name + "_l0" * whole: weight for name, weight in weights.items()})
    return layer


def torch_update(net: nn.Module, frames: Tensor, targets: dict[str, Tensor], loss: Callable[..., Tensor]) -> Update:
    """As one writes it with torch's defaults: `clip_grad_norm_` and `Adam`. loss: of (z, target), a scalar."""
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)

    def update() -> dict[str, float]:
        began = time.perf_counter()
        optimizer.zero_grad()
        sum(loss(z, targets[branch]) for branch, z in net(frames).items()).backward()  # type: ignore[union-attr]
        middle = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        return {"forward_backward": middle - began, "step": time.perf_counter() - began}

    return update


def keras_update(model: SequenceAutoencoder, frames: Tensor, targets: dict[str, Tensor]) -> Update:
    """The same network in Keras 3 on JAX, compiled as a whole, with the mse of its outputs; weights of its own.

    Raises ImportError where Keras or JAX is not installed, ValueError for a model that this does not build.
    """
    _check(model)
    if (model.gain, model.activation) != (1, "none"):
        raise ValueError(f"in Keras frames are h alone: no gain {model.gain:g}, no activation {model.activation}")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import jax
    import keras
    from keras import layers, ops

    if keras.backend.backend() != "jax":
        raise ImportError(f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=jax")

    class Unrolled(layers.Layer):
        """A decoder that reads its own output, which no layer of Keras does."""

        def __init__(self, widths: list[int], steps: int) -> None:
            super().__init__()
            self.cells, self.widths, self.steps = [layers.LSTMCell(width) for width in widths], widths, steps

        def build(self, shape: Any) -> None:
            for cell, before in zip(self.cells, [self.widths[-1], *self.widths], strict=False):
                cell.build((None, before))

        def call(self, top: Any) -> Any:
            states = [[ops.zeros((len(top), width))] * 2 for width in self.widths]
            states[0][0], outputs, x = top, [], ops.zeros((len(top), self.widths[-1]))
            for _ in range(self.steps):
                for n, cell in enumerate(self.cells):
                    x, states[n] = cell(x, states[n])
                outputs.append(x)
            return ops.stack(outputs, 1)

    batch, steps, pixels = frames.flatten(2).shape
    x = read = layers.Input((steps, pixels), batch_size=batch)
    for width in model.encoder.hidden_sizes:
        x = layers.LSTM(width, return_sequences=True)(x)
    outputs, top = [], x[:, -1]
    for branch, decoder in model.decoders.items():
        widths: Any = decoder.hidden_sizes
        if model.decoder_input == "output":
            x = Unrolled([*widths], model.steps[branch])(top)
        else:
            states: Any = [top, ops.zeros_like(top)]
            x = ops.zeros((batch, model.steps[branch], pixels))
            for width in widths:
                x, states = layers.LSTM(width, return_sequences=True)(x, initial_state=states), None
        outputs.append(x)
    net = keras.Model(read, outputs)
    optimizer = keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM)
    optimizer.build(net.trainable_variables)
    inputs = jax.numpy.asarray(frames.flatten(2).numpy())
    wanted = [jax.numpy.asarray(targets[branch].flatten(2).numpy()) for branch in model.decoders]
    fixed = [v.value for v in net.non_trainable_variables]

    def loss(weights: Any) -> Any:
        found, _ = net.stateless_call(weights, fixed, inputs, training=True)
        found = found if isinstance(found, list) else [found]
        return sum(jax.numpy.mean((z - target) ** 2) for z, target in zip(found, wanted, strict=True))

    differentiate = jax.jit(jax.value_and_grad(loss))
    apply = jax.jit(
        lambda weights, state: optimizer.stateless_apply(state, jax.grad(loss)(weights), weights), donate_argnums=(0, 1)
    )
    now = [[v.value for v in net.trainable_variables], [v.value for v in optimizer.variables]]

    def update() -> dict[str, float]:
        began = time.perf_counter()
        jax.block_until_ready(differentiate(now[0]))
        middle = time.perf_counter()
        now[:] = jax.block_until_ready(apply(*now))
        return {"forward_backward": middle - began, "step": time.perf_counter() - middle}

    return update


def sequitur_update(model: SequenceAutoencoder, frames: Tensor) -> Update:
    """sequitur's LSTM_AE with this encoder's widths, trained as its `quick_train` does: sequence by sequence, on
    reconstruction alone, so a smaller task. Raises ImportError where it is not installed, ValueError for a model that
    it has no widths of.
    """
    _check(model)
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
