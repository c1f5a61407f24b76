"""Which gates of a trained encoder saturate, and what its weights look like as pictures."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from seqae.evaluation import seen_frames
from seqae.models import SequenceAutoencoder
from seqae.tasks import Size

if TYPE_CHECKING:
    import pandas as pd

    from seqae.runs import RunFolder

GATES = {"i": "input", "f": "forget", "g": "candidate", "o": "output"}  # in the order of the weights
SHUT, OPEN = 0.1, 0.9  # of a sigmoid; of tanh, on its own range
AT_ONCE = 100  # sequences; the gates of a whole test would take gigabytes


def gate_shares(run: "RunFolder") -> "pd.DataFrame":
    """How often each gate of the encoder is shut, open or between, over frames, units and the sequences of test.

    A row for each layer and gate: layer (1, 2, …), gate (input, forget, candidate, output), shut (the share below 0.1),
    open (above 0.9), between, mean, sequences. The candidate is a tanh: it is shut below -0.8 and open above 0.8, so
    that both are saturated. Raises RunError if nothing is trained yet, ValueError for a model of your own.
    """
    import pandas as pd

    p, model = run.parameters, _built_in(run)
    frames = torch.from_numpy(run.sequences("test")[:, : p.frames_in])
    parts = []
    with torch.inference_mode():
        for part in frames.split(AT_ONCE):
            seen = seen_frames(part, p.pixel_range)
            read = model.embedding(seen.transpose(0, 1).flatten(0, 1).flatten(1)).unflatten(0, (p.frames_in, len(part)))
            for number, layer in enumerate(model.encoder.layers, start=1):
                gates, read = _gates(layer, read, model.encoder.map_size)
                for gate, values in zip(GATES.values(), gates.unbind(2), strict=True):
                    unit = (values + 1) / 2 if gate == "candidate" else values
                    shares = [of.float().mean().item() for of in (unit < SHUT, unit > OPEN, values)]
                    parts.append((number, gate, *(len(part) * share for share in shares), len(part)))
    columns = ["layer", "gate", "shut", "open", "mean", "sequences"]
    table = pd.DataFrame(parts, columns=columns).groupby(["layer", "gate"], sort=False, as_index=False).sum()
    table[columns[2:5]] = table[columns[2:5]].div(table.sequences, axis=0)
    table.insert(4, "between", 1 - table["shut"] - table["open"])
    return table


def weight_pictures(run: "RunFolder", *, units: int = 12) -> dict[str, np.ndarray]:
    """The weights of a trained model as pictures, (n, H, W) by name, signed, as they are.

    Of a model whose first LSTM layer reads pixels: the input weights of each of its gates; if it has no other layer,
    and a readout that is linear, the output weights of each branch, too. They are of the `units` whose input weights
    are largest (norm over gates; the same units in all pictures). Of one with convolutions: the first kernels of its
    embedding. Raises RunError if nothing is trained yet, ValueError for a model of your own and for one that has
    neither.
    """
    model, (height, width) = _built_in(run), run.parameters.frame_shape
    with torch.no_grad():
        if model.row.channels:
            kernels = next(weight for weight in model.embedding.parameters() if weight.dim() == 4)
            return {"kernels of the embedding": kernels[:units, 0].numpy()}
        weights = model.encoder.layers[0].weight_ih
        if weights.shape[1] != height * width:
            raise ValueError(f"architecture {run.parameters.architecture} embeds frames: it has no weights of pixels")
        gates = weights.unflatten(0, (4, -1))  # (4, H, pixels)
        chosen = gates.square().sum((0, 2)).argsort(descending=True)[:units]
        found = {f"into the {name} gate": gates[n, chosen] for n, name in enumerate(GATES.values())}
        for branch, readout in model.readouts.items():
            if isinstance(readout, torch.nn.Linear) and len(model.encoder.layers) == 1:  # it reads the top layer
                found[f"out of {branch}"] = readout.weight.t()[chosen]
        return {name: of.unflatten(1, (height, width)).numpy() for name, of in found.items()}


def _built_in(run: "RunFolder") -> SequenceAutoencoder:
    if not isinstance(model := run.model(), SequenceAutoencoder):
        raise ValueError(f"architecture {run.parameters.architecture} is your own: its weights have no known places")
    return model


def _gates(layer: Any, read: Tensor, map_size: Size) -> tuple[Tensor, Tensor]:
    # The gates of every step, (T, B, 4, H), and h (T, B, H), of a layer that reads (T, B, D): an LSTM step by step.
    positions = map_size[0] * map_size[1]
    bias = layer.bias.repeat_interleave(positions)
    peepholes: Any = (layer.peephole_i, layer.peephole_f, layer.peephole_o)
    seen: list[Any] = [weight if weight is None else weight.repeat_interleave(positions) for weight in peepholes]
    h = c = torch.zeros(read.shape[1], len(bias) // 4)
    of_x, of_h = layer.kernel_sizes or (None, None)
    gates, hidden = [], []
    for x in read:
        z = _product(layer.weight_ih, x, of_x, map_size) + _product(layer.weight_hh, h, of_h, map_size) + bias
        i, f, g, o = z.chunk(4, dim=1)
        if seen[0] is not None:
            i, f = i + seen[0] * c, f + seen[1] * c
        i, f, g = i.sigmoid(), f.sigmoid(), g.tanh()
        c = f * c + i * g
        o = (o if seen[2] is None else o + seen[2] * c).sigmoid()
        h = o * c.tanh()
        gates.append(torch.stack([i, f, g, o], 1))
        hidden.append(h)
    return torch.stack(gates), torch.stack(hidden)


def _product(weight: Tensor, x: Tensor, k: int | None, map_size: Size) -> Tensor:
    # weight times x (B, features), or its convolution by kernels of k×k with the maps that x is.
    if k is None:
        return x @ weight.t()
    return conv2d(x.unflatten(1, (-1, *map_size)), weight.unflatten(1, (-1, k, k)), padding="same").flatten(1)
