"""A peer: the training update of a run in Keras 3 on JAX, see `peers`."""

import os
import time
from typing import Any

from torch import Tensor

from seqae.benchmark.peers import CLIP_NORM, LEARNING_RATE, Update, check_buildable
from seqae.models import SequenceAutoencoder


def keras_update(model: SequenceAutoencoder, frames: Tensor, targets: dict[str, Tensor]) -> Update:
    """The update of a network like `model` with weights of its own, compiled as a whole, with the mse of its outputs.

    frames: (B, frames_in, H, W); targets: (B, T, H, W) by branch. Raises ImportError where Keras or JAX is not
    installed or Keras runs on another backend, ValueError for a model that this cannot build.
    """
    check_buildable(model)
    if (model.gain, model.activation) != (1, "none"):
        raise ValueError(f"in Keras a frame is h itself: no gain {model.gain:g}, no activation {model.activation}")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # as its peers
    import jax
    import keras

    if keras.backend.backend() != "jax":
        raise ImportError(f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=jax")
    if jax.default_backend() != "cpu":
        raise ImportError(f"JAX computes on {jax.default_backend()}, the others on the CPU: set JAX_PLATFORMS=cpu")
    inputs = frames.flatten(2)  # (B, T, H·W)
    return _compiled_update(
        _network(model, inputs.shape),
        jax.numpy.asarray(inputs.numpy()),
        [jax.numpy.asarray(targets[branch].flatten(2).numpy()) for branch in model.decoders],
    )


def _network(model: SequenceAutoencoder, shape: tuple[int, ...]) -> Any:
    """A keras.Model of frames (B, T, D), all of them `shape`, with an output (B, T, D) for each branch."""
    import keras
    from keras import layers, ops

    batch, steps, pixels = shape
    x = read = layers.Input((steps, pixels), batch_size=batch)
    for width in model.encoder.hidden_sizes:
        x = layers.LSTM(width, return_sequences=True)(x)
    outputs, top = [], x[:, -1]
    for branch, decoder in model.decoders.items():
        widths: Any = decoder.hidden_sizes
        if model.decoder_input == "output":
            x = _own_output_decoder([*widths], model.steps[branch])(top)
        else:
            states: Any = [top, ops.zeros_like(top)]
            x = ops.zeros((batch, model.steps[branch], pixels))
            for width in widths:
                x, states = layers.LSTM(width, return_sequences=True)(x, initial_state=states), None
        outputs.append(x)
    return keras.Model(read, outputs)


def _own_output_decoder(widths: list[int], steps: int) -> Any:
    """A layer that reads its own output, top h (B, H) → (B, steps, widths[-1]); no layer of Keras does that."""
    from keras import layers, ops

    class OwnOutputDecoder(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.cells = [layers.LSTMCell(width) for width in widths]

        def build(self, shape: Any) -> None:
            for cell, before in zip(self.cells, [widths[-1], *widths], strict=False):
                cell.build((None, before))

        def call(self, top: Any) -> Any:
            states = [[ops.zeros((len(top), width))] * 2 for width in widths]
            states[0][0], outputs, x = top, [], ops.zeros((len(top), widths[-1]))
            for _ in range(steps):
                for n, cell in enumerate(self.cells):
                    x, states[n] = cell(x, states[n])
                outputs.append(x)
            return ops.stack(outputs, 1)

    return OwnOutputDecoder()


def _compiled_update(net: Any, inputs: Any, wanted: list[Any]) -> Update:
    """Forward, backward, clipping and Adam, compiled by JAX. inputs, and each of wanted: (B, T, D)."""
    import jax
    import keras

    optimizer = keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM)
    optimizer.build(net.trainable_variables)
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
