"""seqae.models against sizes counted by hand, and plain loops over torch.nn.LSTMCell."""

import json
import math
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqae.architectures import ARCHITECTURES, HIDDEN, Architecture
from seqae.data import to_range
from seqae.losses import LOSSES, activate, training_loss
from seqae.models import SequenceAutoencoder
from seqae.runs.first_weights import initialise
from seqae.tasks import BRANCHES, branch_targets

SEEN, FUTURE = 3, 5
TASKS = ("recon", "recon_ordered", "pred", "both")
DECODER_INPUTS = ("zero", "output", "truth")
CNNS = ("cnn_v1", "cnn_v2", "cnn_v3", "cnn_flatten")
CONVLSTMS = ("convlstm", "convlstm_pointwise")
CHECKED = ("lstm_copy", "fc_lstm", "srivastava", *CONVLSTMS)
OF_H = ("lstm", "lstmcell", "lstm_copy")  # the frame is h itself
STRIDES = {"cnn_v1": (2, 2, 2, 1, 1), "cnn_v2": (2, 2, 1), "cnn_v3": (2, 2, 1), "cnn_flatten": (2, 2, 1)}


def tiny(architecture: str, task: str = "both", decoder_input: str = "output", **given: Any) -> SequenceAutoencoder:
    torch.manual_seed(6)
    sizes: dict[str, Any] = {"frame_size": 64 if architecture in CNNS else 16, "width": 0.01}
    usual = {"activation": "sigmoid", "frames_in": SEEN, "frames_out": FUTURE}
    return SequenceAutoencoder(
        architecture=architecture, task=task, decoder_input=decoder_input, **sizes | usual | given
    )


def sequences(model: SequenceAutoencoder, batch: int = 2, seed: int = 0) -> Tensor:
    """uint8, (B, 3 + 5, H, W)"""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, SEEN + FUTURE, *model.frame_shape), generator=generator, dtype=torch.uint8)


def run(model: SequenceAutoencoder, frames: Tensor, task: str) -> dict[str, Tensor]:
    return model(frames[:, :SEEN], branch_targets(frames, task=task, frames_in=SEEN))


# ---- rows that would build another network than they say ----


@pytest.mark.parametrize("row", [
    {"channels": (8, HIDDEN), "kernel_sizes": (4, 2), "strides": (4, 2)},
    {"readout": "mirror"},
])  # fmt: skip
def test_a_row_of_parts_that_do_not_go_together_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a mirror needs channels or linear, channels need a mirror"):
        Architecture(hidden=8, layers=1, **row)


MAPS: dict[str, Any] = {"kernel_sizes": (4, 2), "strides": (4, 2), "readout": "mirror"}


@pytest.mark.parametrize("row", [
    MAPS | {"channels": (8, HIDDEN), "linear": (1024, HIDDEN)},
    MAPS | {"channels": (8, 16)},
    {"linear": (1024, 8), "readout": "mirror"},
    {"lstm_kernel_size": 3},
    {"lstm_kernel_size": 3, "linear": (1024, HIDDEN), "readout": "mirror"},
])  # fmt: skip
def test_a_row_of_which_a_part_would_be_left_out_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give channels, which lstm_kernel_size needs, or linear; the last is HIDDEN"):
        Architecture(hidden=8, layers=1, **row)


# ---- every architecture in every way with every loss ----


def test_the_table_holds_every_architecture() -> None:
    assert {*ARCHITECTURES} == {"lstm", "lstmcell", *CHECKED, *CNNS}
    assert {*BRANCHES} == {*TASKS}


@pytest.mark.parametrize(("architecture", "task", "decoder_input"), [*product(ARCHITECTURES, TASKS, DECODER_INPUTS)])
def test_every_combination_trains_a_step(architecture: str, task: str, decoder_input: str) -> None:
    """Each architecture with every loss: its twelve combinations take the five losses in turn."""
    turn = TASKS.index(task) * len(DECODER_INPUTS) + DECODER_INPUTS.index(decoder_input)
    pixel_range, activation, kind = [*LOSSES.values()][turn % len(LOSSES)]
    model = tiny(architecture, task, decoder_input, activation=activation).double()
    frames = to_range(sequences(model, batch=1), pixel_range).double()  # so that a small step shows
    targets = branch_targets(frames, task=task, frames_in=SEEN)
    outputs = run(model, frames, task)
    assert {b: o.shape for b, o in outputs.items()} == {b: t.shape for b, t in targets.items()}
    losses = [training_loss(z, targets[b], kind=kind, activation=activation) for b, z in outputs.items()]
    loss = torch.cat(losses).mean()
    loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert without == unused(model)
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    with torch.no_grad():
        again = run(model, frames, task)
    after = [training_loss(z, targets[b], kind=kind, activation=activation) for b, z in again.items()]
    assert torch.cat(after).mean() < loss


@pytest.mark.parametrize(("task", "shapes"), [
    ("recon", {"recon": SEEN}), ("recon_ordered", {"recon": SEEN}), ("pred", {"pred": FUTURE}),
    ("both", {"recon": SEEN, "pred": FUTURE}),
])  # fmt: skip
def test_a_branch_has_its_own_length(task: str, shapes: dict[str, int]) -> None:
    model = tiny("lstm_copy", task)
    outputs = run(model, to_range(sequences(model), (0, 1)), task)
    assert {branch: tuple(z.shape) for branch, z in outputs.items()} == {b: (2, t, 16, 16) for b, t in shapes.items()}


@pytest.mark.parametrize("decoder_input", DECODER_INPUTS)
@pytest.mark.parametrize("architecture", CHECKED)
def test_in_training_as_many_frames_are_decoded_as_truth_has(architecture: str, decoder_input: str) -> None:
    model = tiny(architecture, "both", decoder_input)
    frames = to_range(sequences(model), (0, 1))
    truth = branch_targets(frames, task="both", frames_in=SEEN)
    fewer = {"recon": truth["recon"], "pred": truth["pred"][:, :2]}
    whole, part = (model(frames[:, :SEEN], of) for of in (truth, fewer))
    assert (whole["pred"].shape[1], part["pred"].shape[1]) == (FUTURE, 2)
    torch.testing.assert_close(part["pred"], whole["pred"][:, :2])
    torch.testing.assert_close(part["recon"], whole["recon"])
    assert model.eval()(frames[:, :SEEN], fewer)["pred"].shape[1] == FUTURE


# ---- sizes, counted by hand ----


def lstm(inputs: int, *widths: int, peepholes: bool = False) -> int:
    """4 gates of h rows, each row with a weight for every input, every h and one bias; 3 peepholes a cell."""
    return sum(4 * h * (d + h + 1) + 3 * h * peepholes for d, h in pairwise([inputs, *widths]))


ENCODER, DECODER = lstm(4096, 2048, 2048, 2048), lstm(4096, 2048, 2048, 4096)
READOUT = 2048 * 4096 + 4096
DOUBLE = lstm(4096, 2048, 2048, peepholes=True)
FC = 4096 * 1024 + 1024 + 1024 * 256 + 256, 256 * 1024 + 1024 + 1024 * 4096 + 4096  # embedding, readout
# cnn_v1: (channels in × channels out × kernel² + channels out) of every convolution; mirrored, the biases differ
V1 = (1 * 128 * 16, 128 * 256 * 25, 256 * 256 * 16, 256 * 256 * 16, 256 * 512 * 9)
V1_IN, V1_OUT = sum(V1) + 128 + 256 + 256 + 256 + 512, sum(V1) + 256 + 256 + 256 + 128 + 1
V2 = 1 * 128 * 100 + 128 * 512 * 100 + 512 * 1024 * 100
V3 = 1 * 64 * 100 + 64 * 64 * 100 + 64 * 128 * 100
FLAT = 1 * 128 * 100 + 128 * 512 * 100 + 512 * 16 * 9  # 16 channels of 8×8 are 1024 numbers


@pytest.mark.parametrize(("architecture", "task", "given", "by_hand", "count"), [
    # 4·2048·(4096+2048+1) + 2·4·2048·(2048+2048+1) = 117,465,088;
    # 4·2048·(4096+2048+1) + 4·2048·(2048+2048+1) + 4·4096·(2048+4096+1) = 184,582,144
    ("lstm_copy", "recon", {}, ENCODER + DECODER, 302_047_232),
    ("lstm_copy", "both", {}, ENCODER + 2 * DECODER, 486_629_376),
    # twice 4·4096·(4096+4096+1)
    ("lstm", "recon", {}, 2 * lstm(4096, 4096), 268_468_224),
    ("lstmcell", "recon_ordered", {}, 2 * lstm(4096, 4096), 268_468_224),
    # three times 4·2048·(4096+2048+1) = 50,339,840, twice 2048·4096 + 4096
    ("srivastava", "both", {}, 3 * lstm(4096, 2048) + 2 * READOUT, 167_804_928),
    # beside those three times 4·2048·(2048+2048+1) = 33,562,624 and 6 layers of 3·2048 peepholes
    ("srivastava", "both", {"layers": 2, "peepholes": True, "decoder_input": "truth"}, 3 * DOUBLE + 2 * READOUT,
     268_529_664),
    # the decoder reads h, 256 wide
    ("fc_lstm", "pred", {}, FC[0] + 2 * lstm(256, 256, 256, 256) + FC[1], 12_071_168),
    ("fc_lstm", "both", {"hidden": 512}, FC[0] + 256 * 1024 + 256 + 3 * lstm(512, 512, 512, 512)
     + 2 * (FC[1] + 256 * 1024), 33_060_352),
    ("cnn_v1", "pred", {}, V1_IN + 2 * lstm(512, 512, 512, 512) + V1_OUT, 20_793_601),
    ("cnn_v2", "recon", {}, V2 + 1664 + 2 * lstm(1024, 1024, 1024, 1024) + V2 + 512 + 128 + 1, 168_348_929),
    ("cnn_v3", "recon", {}, V3 + 256 + 2 * lstm(128, 128, 128, 128) + V3 + 129, 3_260_289),
    # 4·64·(64·9 + 64·9 + 1) = 295,168 a stack of 3; patches of 4×4, then 2×2, in, and out of either decoder
    ("convlstm", "both", {}, 3 * 256 * (2 * 64 * 9 + 1) + 16 * 32 + 32 + 32 * 4 * 64 + 64
     + 2 * (64 * 32 * 4 + 32 * 4 + 32 * 16 + 16), 912_000),
    ("convlstm_pointwise", "pred", {}, 2 * 256 * (64 + 64 * 9 + 1) + 16 * 32 + 32 + 32 * 4 * 64 + 64
     + 64 * 32 * 4 + 32 * 4 + 32 * 16 + 16, 345_840),
    ("cnn_flatten", "recon", {}, FLAT + 656 + 2 * lstm(1024, 1024, 1024, 1024) + FLAT + 641, 63_637_777),
])  # fmt: skip
def test_sizes_at_full_size(architecture: str, task: str, given: dict[str, Any], by_hand: int, count: int) -> None:
    usual = {"decoder_input": "output"}
    with torch.device("meta"):
        model = SequenceAutoencoder(architecture=architecture, task=task, activation="none", **usual | given)
    assert sum(p.numel() for p in model.parameters()) == by_hand == count


@pytest.mark.parametrize(("architecture", "task", "given", "millions"), [
    ("lstm_copy", "both", {}, 487), ("lstm_copy", "recon", {}, 302), ("lstm", "recon", {}, 268.5),
    ("srivastava", "both", {}, 167.8), ("srivastava", "both", {"layers": 2, "peepholes": True}, 268.5),
])  # fmt: skip
def test_sizes_are_the_published(architecture: str, task: str, given: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        model = SequenceAutoencoder(
            architecture=architecture, task=task, activation="none", decoder_input="truth", **given
        )
    digits = 1 if millions % 1 else 0
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, digits) == millions


def widths(model: SequenceAutoencoder) -> tuple[list[int], list[int]]:
    return tuple(  # type: ignore[return-value]
        [len(layer.bias) // 4 for layer in stack.layers] for stack in (model.encoder, model.decoders["pred"])
    )


@pytest.mark.parametrize("name", ["hidden", "layers", "frames_in", "frames_out"])
def test_a_size_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number, 1 or more; not 0"):
        tiny("srivastava", **{name: 0})


def test_width_shrinks_hidden_sizes_and_channels_alone() -> None:
    with torch.device("meta"):
        assert widths(tiny("lstm_copy", width=0.25, frame_size=64)) == ([512] * 3, [512, 512, 4096])
        assert widths(tiny("srivastava", width=0.5, frame_size=64)) == ([1024], [1024])
        assert widths(tiny("srivastava", hidden=100, width=0.5, layers=2)) == ([50, 50], [50, 50])
        assert widths(tiny("lstm", width=0.01)) == ([256], [256])  # as wide as the frame has pixels
        assert widths(tiny("cnn_v3", width=0.25)) == ([32] * 3, [32] * 3)
        assert widths(tiny("convlstm", width=0.25, frame_size=64)) == ([16], [16])  # channels
        assert widths(tiny("cnn_flatten", width=0.25)) == ([256] * 3, [256] * 3)  # 4 channels of 8×8
        fc = tiny("fc_lstm", width=0.25, frame_size=64)
    assert [m.out_features for m in fc.embedding.modules() if isinstance(m, nn.Linear)] == [256, 64]
    assert [m.out_features for m in fc.readouts["pred"].modules() if isinstance(m, nn.Linear)] == [256, 4096]


def test_each_branch_has_its_own_decoder() -> None:
    model = tiny("fc_lstm")
    own = [{id(p) for part in (model.decoders, model.readouts) for p in part[b].parameters()} for b in model.decoders]
    assert len(own) == 2
    assert not own[0] & own[1]


# ---- forward and gradients against a plain loop ----


class Plain:
    """Design §4 in its plainest form: one LSTMCell a layer, one Python step a frame; weights copied from a model."""

    def __init__(self, model: SequenceAutoencoder, architecture: str) -> None:
        self.model, self.architecture = model, architecture
        self.weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}

    def layers(self, stack: str) -> list[str]:
        names = [name for name in self.weights if name.startswith(f"{stack}.") and name.endswith("weight_ih")]
        return [name.removesuffix(".weight_ih") for name in names]

    def cell(self, layer: str, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        of_layer = {name.rpartition(".")[2]: w for name, w in self.weights.items() if name.startswith(f"{layer}.")}
        weight_ih, weight_hh, bias = (of_layer[name] for name in ("weight_ih", "weight_hh", "bias"))
        if self.architecture in CONVLSTMS:
            return self.convolutional_cell(of_layer, x, state)
        if "peephole_i" not in of_layer:
            cell = nn.LSTMCell(weight_ih.shape[1], weight_hh.shape[1], dtype=torch.float64)
            own = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
            return torch.func.functional_call(cell, own, (x, state))
        h, c = state  # Srivastava et al. (2015), §2.1
        i, f, g, o = (x @ weight_ih.t() + h @ weight_hh.t() + bias).chunk(4, 1)
        i, f = torch.sigmoid(i + of_layer["peephole_i"] * c), torch.sigmoid(f + of_layer["peephole_f"] * c)
        c = f * c + i * torch.tanh(g)
        return torch.sigmoid(o + of_layer["peephole_o"] * c) * torch.tanh(c), c

    def convolutional_cell(self, of_layer: Any, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Shi et al. (2015), §3.1, on patches of 8×8 pixels; a peephole a channel."""
        size, peepholes = [side // 8 for side in self.model.frame_shape], torch.zeros(3, 1, 1, 1, dtype=torch.float64)
        x, h, c = (maps.unflatten(1, (-1, *size)) for maps in (x, *state))
        if "peephole_i" in of_layer:
            peepholes = torch.stack([of_layer[f"peephole_{gate}"] for gate in "ifo"])[:, :, None, None]
        read = 1 if self.architecture == "convlstm_pointwise" else 3
        w_x = of_layer["weight_ih"].unflatten(1, (-1, read, read))
        w_h = of_layer["weight_hh"].unflatten(1, (-1, 3, 3))
        z = nn.functional.conv2d(x, w_x, of_layer["bias"], padding="same") + nn.functional.conv2d(h, w_h, padding=1)
        i, f, g, o = z.chunk(4, 1)
        i, f = torch.sigmoid(i + peepholes[0] * c), torch.sigmoid(f + peepholes[1] * c)
        c = f * c + i * torch.tanh(g)
        return (torch.sigmoid(o + peepholes[2] * c) * torch.tanh(c)).flatten(1), c.flatten(1)

    def zeros(self, stack: str, batch: int) -> list[tuple[Tensor, Tensor]]:
        positions = math.prod(self.model.frame_shape) // 64 if self.architecture in CONVLSTMS else 1
        widths = [self.weights[f"{layer}.bias"].shape[0] // 4 * positions for layer in self.layers(stack)]
        return [(torch.zeros(batch, n, dtype=torch.float64),) * 2 for n in widths]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].t() + self.weights[f"{name}.bias"]

    def embed(self, frame: Tensor) -> Tensor:
        if self.architecture == "fc_lstm":
            return self.linear("embedding.2", self.linear("embedding.0", frame).relu()).relu()
        if self.architecture in CONVLSTMS:
            x = frame.reshape(-1, 1, *self.model.frame_shape)
            w_4, b_4, w_2, b_2 = (self.weights[f"embedding.{n}.{kind}"] for n in (1, 3) for kind in ("weight", "bias"))
            return nn.functional.conv2d(nn.functional.conv2d(x, w_4, b_4, 4).relu(), w_2, b_2, 2).flatten(1)
        if self.architecture not in CNNS:
            return frame
        x, strides = frame.reshape(-1, 1, *self.model.frame_shape), STRIDES[self.architecture]
        for n, stride in enumerate(strides):
            weight, bias = self.weights[f"embedding.{2 * n + 1}.weight"], self.weights[f"embedding.{2 * n + 1}.bias"]
            x = nn.functional.conv2d(x, weight, bias, stride)
            if n + 1 < len(strides) or self.architecture != "cnn_v1":  # that one has ReLU between, not after each
                x = x.relu()
        return x.flatten(1)

    def patches(self, name: str, x: Tensor, size: int) -> Tensor:
        """(B, channels, H, W) to (B, n, size · H, size · W), a bias for every pixel of a patch."""
        weight, bias = self.weights[f"{name}.weight"][:, :, 0, 0], self.weights[f"{name}.bias"]
        patches = torch.einsum("bchw,pc->bphw", x, weight) + bias[:, None, None]
        rows = patches.unflatten(1, (-1, size, size)).permute(0, 1, 4, 2, 5, 3)  # (B, n, H, size, W, size)
        return rows.flatten(4, 5).flatten(2, 3)

    def last_map(self) -> tuple[int, int]:
        height, width = self.model.frame_shape
        for n, stride in enumerate(STRIDES[self.architecture]):
            kernel = self.weights[f"embedding.{2 * n + 1}.weight"].shape[2]
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        return height, width

    def read(self, branch: str, h: Tensor) -> Tensor:
        name = f"readouts.{branch}"
        if self.architecture in OF_H:
            return h
        if self.architecture == "srivastava":
            return self.linear(name, h)
        if self.architecture == "fc_lstm":
            return self.linear(f"{name}.2", self.linear(f"{name}.0", h).relu())
        if self.architecture in CONVLSTMS:  # of every position a patch of 2×2, and of each of these one of 4×4
            size = [side // 8 for side in self.model.frame_shape]
            x = self.patches(f"{name}.1", h.unflatten(1, (-1, *size)), 2).relu()
            return self.patches(f"{name}.4", x, 4).flatten(1)
        x: Any = None
        for n, stride in enumerate(STRIDES[self.architecture][::-1]):
            weight, bias = self.weights[f"{name}.{2 * n + 1}.weight"], self.weights[f"{name}.{2 * n + 1}.bias"]
            if n == 0:  # channels of a map each
                x = h.reshape(len(h), weight.shape[0], *self.last_map())
            x = nn.functional.conv_transpose2d(x if n == 0 else x.relu(), weight, bias, stride)
        return x.flatten(1)

    def step(self, stack: str, x: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        after = []
        for layer, state in zip(self.layers(stack), states, strict=True):
            x, c = self.cell(layer, x, state)
            after.append((x, c))
        return x, after

    def __call__(self, frames: Tensor, truth: dict[str, Tensor], *, training: bool) -> dict[str, Tensor]:
        model, flat, outputs = self.model, frames.flatten(2), {}
        states: list[Any] = self.zeros("encoder", len(frames))
        for t in range(flat.shape[1]):
            _, states = self.step("encoder", self.embed(flat[:, t]), states)
        for branch in model.decoders:
            stack, z, h = f"decoders.{branch}", [], torch.zeros(0)
            if self.architecture in ("srivastava", *CONVLSTMS):
                own = list(states)  # every layer's h and c
            else:  # the top h alone
                own = self.zeros(stack, len(frames))
                own[0] = (states[-1][0], own[0][1])
            follows = training or (branch == "recon" and model.recon_truth)
            before = flat[:, -1] if branch == "pred" else torch.zeros_like(flat[:, 0])
            for t in range(truth[branch].shape[1]):
                width = self.model.decoders[branch].input_size  # type: ignore[union-attr]
                x = torch.zeros(len(frames), width, dtype=torch.float64)
                if model.decoder_input == "truth":
                    if t > 0:
                        true = truth[branch].flatten(2)[:, t - 1]
                        before = true if follows else activate(z[-1], model.activation)
                    x = self.embed(before)
                elif model.decoder_input == "output" and t > 0:
                    top_h = self.architecture in ("fc_lstm", *CONVLSTMS, *CNNS)
                    x = h if top_h else activate(z[-1], model.activation)
                h, own = self.step(stack, x, own)
                z.append(model.gain * self.read(branch, h))
            outputs[branch] = torch.stack(z, 1).unflatten(2, frames.shape[2:])
        return outputs


def unused(model: SequenceAutoencoder) -> set[str]:
    """A decoder that reads zeros never uses its first input weights, and no gradient reaches them."""
    reads_zeros = model.decoder_input == "zero"
    return {f"decoders.{branch}.layers.0.weight_ih" for branch in model.decoders} if reads_zeros else set()


def compare(model: SequenceAutoencoder, architecture: str, task: str, *, training: bool) -> None:
    """Outputs and gradients with a plain loop's."""
    initialise(model.double().train(training), bias_init="normal")
    plain, frames = Plain(model, architecture), to_range(sequences(model), (0, 1)).double()
    truth = branch_targets(frames, task=task, frames_in=SEEN)
    ours, theirs = model(frames[:, :SEEN], truth), plain(frames[:, :SEEN], truth, training=training)
    assert {*ours} == {*BRANCHES[task]}
    for branch in ours:
        assert torch.allclose(ours[branch], theirs[branch], rtol=0, atol=1e-5)
    for outputs in (ours, theirs):
        losses = [training_loss(z, truth[b], kind="mse", activation=model.activation).sum() for b, z in outputs.items()]
        torch.stack(losses).sum().backward()
    for name, parameter in model.named_parameters():
        reference = plain.weights[name].grad
        reference = torch.zeros_like(parameter) if reference is None else reference
        mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(mine, reference, rtol=1e-5, atol=1e-8), name
        # no ReLU is dead, which would leave little to compare
        assert bool(reference.any()) != (name in unused(model)), name


FEW: dict[str, dict[str, Any]] = {  # weights; more where there are ReLUs
    "lstm_copy": {"width": 0.003, "frame_size": 8}, "fc_lstm": {"width": 0.02}, "srivastava": {"width": 0.003},
    **{name: {"width": 0.05, "frame_size": (16, 24)} for name in CONVLSTMS},
}  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["none", "tanh", "sigmoid"])
@pytest.mark.parametrize(("architecture", "decoder_input"), [*product(CHECKED, DECODER_INPUTS)])
def test_forward_and_gradients_are_those_of_a_plain_loop(
    architecture: str, decoder_input: str, activation: str, training: bool
) -> None:
    layers = 2 if architecture in ("srivastava", *CONVLSTMS) else 3
    model = tiny(architecture, "both", decoder_input, activation=activation, gain=3, layers=layers, **FEW[architecture])
    compare(model, architecture, "both", training=training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("architecture", "decoder_input"), [*product(["lstm", "lstmcell", *CNNS], DECODER_INPUTS)])
def test_the_other_architectures_are_plain_loops_as_well(architecture: str, decoder_input: str, training: bool) -> None:
    sizes = {"cnn_v1": (64, 72), "cnn_v2": (64, 68), "cnn_v3": (64, 64), "cnn_flatten": (36, 44)}
    given: dict[str, Any] = {"frame_size": sizes.get(architecture, (8, 6)), "width": 0.02}
    model = tiny(architecture, "both", decoder_input, activation="tanh", gain=3, **given)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.bias, 0.2)  # type: ignore[arg-type]  # so few channels would else be dead
    compare(model, architecture, "both", training=training)


@pytest.mark.parametrize("recon_truth", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("architecture", "task"), [*product(CHECKED, TASKS)])
def test_every_task_is_a_plain_loop_with_the_truth_as_with_peepholes(
    architecture: str, task: str, training: bool, recon_truth: bool
) -> None:
    given: dict[str, Any] = {"layers": 2, "peepholes": True, "recon_truth": recon_truth}
    model = tiny(architecture, task, "truth", gain=3, **given, **FEW[architecture])
    initialise(model, peephole_range=1.0)
    compare(model, architecture, task, training=training)


# ---- what is handed over, what is read ----


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Callable[[SequenceAutoencoder], tuple[Any, Any]]:
    """The encoder's final states (h, c) of every layer, and the states that a decoder begins with."""

    def observe(model: SequenceAutoencoder) -> tuple[Any, Any]:
        seen: dict[str, Any] = {}
        encode, decode = model.encoder.forward, model.decoders["pred"].forward

        def encoder(*arguments: Any, **others: Any) -> Any:
            result = encode(*arguments, **others)
            seen["encoder"] = result[1]
            return result

        def decoder(inputs: Any, states: Any, **others: Any) -> Any:
            seen["decoder"] = states
            return decode(inputs, states, **others)

        monkeypatch.setattr(model.encoder, "forward", encoder)
        monkeypatch.setattr(model.decoders["pred"], "forward", decoder)
        run(model, to_range(sequences(model), (0, 1)), "pred")
        return seen["encoder"], seen["decoder"]

    return observe


def zero(state: Tensor | None) -> bool:
    return state is None or bool((state == 0).all())


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a not in ("srivastava", *CONVLSTMS)])
def test_only_the_top_h_is_handed_over(architecture: str, handed: Any) -> None:
    encoder, (first, *others) = handed(tiny(architecture, "pred", "zero"))
    assert torch.equal(first[0], encoder[-1][0])
    assert not zero(first[0])
    assert zero(first[1])
    assert all(state is None or (zero(state[0]) and zero(state[1])) for state in others)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("architecture", ["srivastava", *CONVLSTMS])
def test_every_h_and_c_is_handed_over(architecture: str, layers: int, handed: Any) -> None:
    encoder, decoder = handed(tiny(architecture, "pred", "zero", layers=layers, peepholes=True))
    assert len(encoder) == len(decoder) == layers
    for (h, c), (our_h, our_c) in zip(encoder, decoder, strict=True):
        assert torch.equal(h, our_h)
        assert torch.equal(c, our_c)
        assert not zero(h)
        assert not zero(c)


def test_recon_is_reversed_and_recon_ordered_is_not() -> None:
    frames = torch.arange(SEEN + FUTURE).reshape(1, -1, 1, 1).expand(2, -1, 4, 4)
    found = {task: branch_targets(frames, task=task, frames_in=SEEN) for task in TASKS}
    firsts = {task: {b: t[0, :, 0, 0].tolist() for b, t in targets.items()} for task, targets in found.items()}
    assert firsts == {
        "recon": {"recon": [2, 1, 0]},
        "recon_ordered": {"recon": [0, 1, 2]},
        "pred": {"pred": [3, 4, 5, 6, 7]},
        "both": {"recon": [2, 1, 0], "pred": [3, 4, 5, 6, 7]},
    }


@pytest.mark.parametrize(("architecture", "decoder_input"), [*product(["lstm", *CHECKED, "cnn_v1"], DECODER_INPUTS)])
@pytest.mark.parametrize("training", [True, False])
def test_future_frames_influence_nothing_that_should_not_see_them(
    architecture: str, decoder_input: str, training: bool
) -> None:
    model = tiny(architecture, "both", decoder_input).train(training)
    one = to_range(sequences(model), (0, 1))
    two = one.clone()
    two[:, SEEN:] = 1 - two[:, SEEN:]
    ours, others = run(model, one, "both"), run(model, two, "both")
    assert torch.equal(ours["recon"], others["recon"])
    reads_the_future = training and decoder_input == "truth"
    assert torch.equal(ours["pred"], others["pred"]) != reads_the_future
    if not training:  # nor is there any truth to read when a model is used
        assert torch.equal(ours["pred"], model(one[:, :SEEN])["pred"])


@pytest.mark.parametrize(("architecture", "branch"), [*product(CHECKED, ["recon", "pred"])])
def test_output_t_does_not_depend_on_truth_from_t_on(architecture: str, branch: str) -> None:
    model = tiny(architecture, "both", "truth").train()
    frames = to_range(sequences(model), (0, 1))
    targets = branch_targets(frames, task="both", frames_in=SEEN)
    usual = model(frames[:, :SEEN], targets)[branch]
    steps = usual.shape[1]
    for t in range(steps):
        changed = {b: target.clone() for b, target in targets.items()}
        changed[branch][:, t:] = 1 - changed[branch][:, t:]
        output = model(frames[:, :SEEN], changed)[branch]
        assert torch.equal(output[:, : t + 1], usual[:, : t + 1])
        if t + 1 < steps:  # but the next one does
            assert not torch.equal(output[:, t + 1], usual[:, t + 1])


@pytest.mark.parametrize("architecture", CHECKED)
def test_a_truth_decoder_reads_its_own_frames_when_evaluated(architecture: str) -> None:
    model = tiny(architecture, "pred", "truth", gain=5).eval()
    frames = to_range(sequences(model), (0, 1))
    with torch.no_grad():
        own = model(frames[:, :SEEN])["pred"]
        fed = {"pred": activate(own, "sigmoid")}  # in training it would read what it is told is true
        told = model.train()(frames[:, :SEEN], fed)["pred"]
    assert torch.allclose(own, told, atol=1e-6)
    assert not torch.allclose(own, run(model, frames, "pred")["pred"], atol=1e-6)


TRUTHFUL = [*product([*CHECKED, "lstm"], ["recon", "recon_ordered", "both"])]


def with_and_without(architecture: str, task: str, decoder_input: str = "truth") -> list[SequenceAutoencoder]:
    """The same weights, with recon_truth and without."""
    return [tiny(architecture, task, decoder_input, gain=5, recon_truth=value) for value in (True, False)]


@pytest.mark.parametrize(("architecture", "task"), TRUTHFUL)
def test_with_recon_truth_recon_reads_the_true_frames_when_evaluated(architecture: str, task: str) -> None:
    with_truth, without = with_and_without(architecture, task)
    frames = to_range(sequences(without), (0, 1))
    seen = frames[:, :SEEN]
    with torch.no_grad():
        trained = run(without.train(), frames, task)["recon"]  # what a decoder makes of the true frames, in their order
        own = without.eval()(seen)["recon"]
        assert not torch.allclose(trained[:, 1:], own[:, 1:], atol=1e-4)
        assert torch.equal(run(with_truth.train(), frames, task)["recon"], trained)
        for evaluated in (with_truth.eval()(seen), run(with_truth, frames, task)):  # with no truth told, and with it
            assert torch.equal(evaluated["recon"], trained)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("architecture", [*CHECKED, "cnn_v3"])
def test_recon_truth_leaves_pred_alone_and_lets_no_future_leak(architecture: str, training: bool) -> None:
    with_truth, without = (model.train(training) for model in with_and_without(architecture, "both"))
    frames = to_range(sequences(with_truth), (0, 1))
    other = frames.clone()
    other[:, SEEN:] = 1 - other[:, SEEN:]
    with torch.no_grad():
        ours, theirs, perturbed = (
            run(model, batch, "both")
            for model, batch in ((with_truth, frames), (without, frames), (with_truth, other))
        )  # fmt: skip
    assert torch.equal(ours["pred"], theirs["pred"])
    assert torch.equal(ours["recon"], perturbed["recon"])
    assert torch.equal(ours["pred"], perturbed["pred"]) != training  # which is told the truth in training alone


@pytest.mark.parametrize("decoder_input", ["zero", "output"])
def test_recon_truth_is_nothing_to_a_decoder_that_reads_no_truth(decoder_input: str) -> None:
    for training in (True, False):
        with_truth, without = (m.train(training) for m in with_and_without("srivastava", "both", decoder_input))
        frames = to_range(sequences(with_truth), (0, 1))
        ours, theirs = run(with_truth, frames, "both"), run(without, frames, "both")
        assert all(torch.equal(ours[branch], theirs[branch]) for branch in ("recon", "pred"))


def test_the_decoders_inputs_differ() -> None:
    outputs = []
    for decoder_input in DECODER_INPUTS:
        model = tiny("lstm_copy", "pred", decoder_input)
        outputs.append(run(model, to_range(sequences(model), (0, 1)), "pred")["pred"])
    assert torch.allclose(outputs[0][:, 0], outputs[1][:, 0], atol=1e-6)  # nothing has been put out yet
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(outputs[one][:, 1:], outputs[two][:, 1:])


# ---- gain and reach ----


@pytest.mark.parametrize("architecture", ["lstm", *CHECKED, "cnn_v3"])
def test_gain_is_a_factor_on_the_last_layer(architecture: str) -> None:
    plain, times_ten = (tiny(architecture, "both", "zero", gain=gain) for gain in (1, 10))
    frames = to_range(sequences(plain), (0, 1))
    one, ten = run(plain, frames, "both"), run(times_ten, frames, "both")
    assert all(torch.allclose(10 * one[branch], ten[branch], rtol=1e-5) for branch in one)


def test_reach_is_the_gain_where_the_frame_is_h_itself() -> None:
    for architecture in ARCHITECTURES:
        of_h = architecture in ("lstm", "lstmcell", "lstm_copy")
        assert tiny(architecture, gain=10).reach == (10 if of_h else float("inf"))
    model = tiny("lstm_copy", gain=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1000)  # however large the weights
        outputs = run(model, to_range(sequences(model), (0, 1)), "both")
    assert max(z.abs().max() for z in outputs.values()) <= model.reach


# ---- initial weights ----


def stacks(model: SequenceAutoencoder) -> Iterator[tuple[str, nn.Module]]:
    for stack in (model.encoder, *model.decoders.values()):
        for n, layer in enumerate(stack.layers):  # type: ignore[union-attr, arg-type]
            yield f"{n}", layer


def initialised(architecture: str = "fc_lstm", **given: Any) -> tuple[SequenceAutoencoder, SequenceAutoencoder]:
    """Before and after."""
    before, after = tiny(architecture, width=0.1), tiny(architecture, width=0.1)
    initialise(after, **given)
    return before, after


def changed(before: SequenceAutoencoder, after: SequenceAutoencoder) -> set[str]:
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    return {name for (name, p), q in pairs if not torch.equal(p, q)}


def of_lstms(model: SequenceAutoencoder, *kinds: str) -> set[str]:
    return {n for n, _ in model.named_parameters() if ".layers." in n and n.endswith(kinds)}


def test_default_changes_nothing() -> None:
    assert changed(*initialised()) == set()


def test_orthogonal_weights_are_orthogonal() -> None:
    before, after = initialised(init="orthogonal")
    assert changed(before, after) == of_lstms(after, "weight_ih", "weight_hh")
    for _, layer in stacks(after):
        for weight in (layer.weight_ih, layer.weight_hh):
            assert isinstance(weight, Tensor)
            square = weight.t() @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.t()
            assert torch.allclose(square, torch.eye(len(square)), atol=1e-4)


def test_uniform_weights_lie_in_their_range() -> None:
    before, after = initialised("srivastava", init="uniform", init_range=0.02)
    matrices = {name: p for name, p in after.named_parameters() if p.dim() > 1}
    assert changed(before, after) == {*matrices}
    for weight in matrices.values():
        assert weight.abs().max() <= 0.02
        assert weight.abs().max() > 0.019
        assert weight.std().item() == pytest.approx(0.02 / 3**0.5, rel=0.05)


def test_biases() -> None:
    before, after = initialised(bias_init="zero")
    assert changed(before, after) == of_lstms(after, "bias")
    assert all(zero(layer.bias) for _, layer in stacks(after))  # type: ignore[arg-type]
    before, after = initialised(bias_init="normal")
    assert changed(before, after) == of_lstms(after, "bias")
    biases = torch.cat([layer.bias for _, layer in stacks(after)])  # type: ignore[misc]
    assert len(biases) > 500
    assert biases.mean().item() == pytest.approx(0, abs=0.2)
    assert biases.std().item() == pytest.approx(2**0.5, abs=0.2)  # the sum of two N(0, 1)


def test_the_forget_bias_is_at_the_forget_gate() -> None:
    before, after = initialised(forget_bias=5.0)
    assert changed(before, after) == of_lstms(after, "bias")
    for (_, layer), (_, old) in zip(stacks(after), stacks(before), strict=True):
        hidden = layer.weight_hh.shape[1]  # type: ignore[union-attr]
        gates = layer.bias.reshape(4, hidden)  # type: ignore[operator, union-attr]  # i, f, g, o
        assert (gates[1] == 5).all()
        assert torch.equal(gates[[0, 2, 3]], old.bias.reshape(4, hidden)[[0, 2, 3]])  # type: ignore[operator, union-attr]
    # and it makes the cell remember: with no weights at all, c stays what it was
    layer, cell = next(stacks(after))[1], torch.randn(1, hidden := after.encoder.hidden_sizes[0])
    plain = nn.LSTMCell(layer.weight_ih.shape[1], hidden)  # type: ignore[union-attr, arg-type]
    nn.init.zeros_(plain.weight_ih), nn.init.zeros_(plain.weight_hh), nn.init.zeros_(plain.bias_hh)
    plain.bias_ih.data = torch.where(layer.bias == 5, 100.0, 0.0)  # type: ignore[arg-type]
    _, after_one = plain(torch.zeros(1, plain.input_size), (torch.zeros(1, hidden), cell))
    assert torch.allclose(after_one, cell)


# the last layer's bias: of a Linear, of the last of two, of the last of three ConvTranspose2d
LAST = {"srivastava": "bias", "fc_lstm": "2.bias", "cnn_v3": "5.bias", "cnn_v1": "9.bias"}


@pytest.mark.parametrize("value", [-2.5, 0.0])
@pytest.mark.parametrize("architecture", LAST)
def test_the_readout_bias_is_that_of_the_last_layer_of_each_branch(architecture: str, value: float) -> None:
    before, after = initialised(architecture, readout_bias=value)
    names = {f"readouts.{branch}.{LAST[architecture]}" for branch in ("recon", "pred")}
    assert changed(before, after) == names
    weights = dict(after.named_parameters())
    assert all((weights[name] == value).all() for name in names)
    # it is what stands between the output and that of no bias at all
    initialise(before, readout_bias=0.0)
    frames = to_range(sequences(before), (0, 1))
    for model in (before, after):
        model.decoder_input, model.gain = "zero", 3.0  # so that nothing is fed back
    with torch.no_grad():
        none, some = run(before, frames, "both"), run(after, frames, "both")
    assert all(torch.allclose(some[b] - none[b], torch.tensor(3 * value), atol=1e-5) for b in ("recon", "pred"))


@pytest.mark.parametrize("value", [-2.5, 0.0])
@pytest.mark.parametrize("architecture", OF_H)
def test_a_readout_bias_needs_a_readout(architecture: str, value: float) -> None:
    model = tiny(architecture)
    with pytest.raises(ValueError, match=rf"readout_bias {value:g} needs a readout, and this frame is h itself"):
        initialise(model, readout_bias=value)
    assert changed(tiny(architecture), model) == set()


@pytest.mark.parametrize("init", ["default", "uniform", "orthogonal"])
@pytest.mark.parametrize(("architecture", "layers"), [("srivastava", 1), ("srivastava", 2), ("lstm_copy", 3)])
def test_peepholes_begin_in_their_range(architecture: str, layers: int, init: str) -> None:
    given: dict[str, Any] = {"peepholes": True, "layers": layers, "width": 0.05}
    before, after = tiny(architecture, **given), tiny(architecture, **given)
    initialise(after, init=init, peephole_range=0.1)
    peepholes = of_lstms(after, *(f"peephole_{gate}" for gate in "ifo"))
    assert len(peepholes) == 3 * 3 * layers  # gates, stacks, layers
    others = set() if init == "default" else {n for n, p in after.named_parameters() if p.dim() > 1}
    assert changed(before, after) - others == peepholes
    for name, weight in after.named_parameters():
        if name in peepholes:
            assert 0.08 < weight.abs().max() <= 0.1
            assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.2)
            assert not any(torch.equal(weight, w) for n, w in after.named_parameters() if n in peepholes - {name})
    assert all(zero(weight) for name, weight in before.named_parameters() if name in peepholes)  # without a range


def test_a_peephole_range_needs_peepholes() -> None:
    for model in (tiny("srivastava"), tiny("lstm_copy", peepholes=False)):
        with pytest.raises(ValueError, match=r"peephole_range 0.1 needs peepholes: set peepholes: true"):
            initialise(model, peephole_range=0.1)
        initialise(model, peephole_range=0.0)


def test_a_seed_makes_the_same_weights() -> None:
    one, two = (initialised(init="orthogonal", bias_init="normal", forget_bias=1.0)[1] for _ in range(2))
    assert changed(one, two) == set()


# ---- what does not fit is told ----


@pytest.mark.parametrize(("architecture", "frame_size"), [*product(CNNS, [16, 32])])
def test_a_cnn_that_does_not_fit_the_frame_says_so(architecture: str, frame_size: int) -> None:
    with pytest.raises(ValueError, match=f"{architecture} does not fit frame_size {frame_size}") as caught:
        tiny(architecture, frame_size=frame_size)
    assert "kernel" in str(caught.value)
    assert "Moving MNIST: 64" in str(caught.value)


@pytest.mark.parametrize(("architecture", "asked", "nearest"), [
    ("cnn_v1", 16, "64"), ("cnn_v1", (72, 73), "72 or [72, 80]"), ("cnn_v2", (80, 120), None),
    ("cnn_v2", (81, 120), "[80, 120] or [84, 120]"), ("cnn_v3", (40, 66), "64 or [64, 68]"),
    ("convlstm", (45, 80), "[40, 80] or [48, 80]"), ("cnn_flatten", (5, 5), "36"),
])  # fmt: skip
def test_the_nearest_sizes_that_fit_are_told_and_fit(architecture: str, asked: Any, nearest: str | None) -> None:
    if nearest is None:
        assert tiny(architecture, frame_size=asked).frame_shape == asked
        return
    with pytest.raises(ValueError, match=r"does not fit frame_size.*use frame_size (.*) \(Moving MNIST") as caught:
        tiny(architecture, frame_size=asked)
    assert f"use frame_size {nearest} (" in str(caught.value)
    for fitting in map(json.loads, nearest.split(" or ")):
        assert tiny(architecture, frame_size=fitting)


@pytest.mark.parametrize("architecture", ["lstm", "lstmcell"])
def test_hidden_does_not_go_with_a_layer_as_wide_as_the_frame(architecture: str) -> None:
    with pytest.raises(ValueError, match=f"architecture {architecture} cannot have; .* or leave hidden out"):
        tiny(architecture, hidden=8)


@pytest.mark.parametrize(("hidden", "built"), [(1000, 960), (50, 64), (31, 64)])
def test_hidden_that_maps_cannot_have_is_refused_with_one_that_they_can(hidden: int, built: int) -> None:
    usual: dict[str, Any] = {"task": "pred", "decoder_input": "zero", "activation": "none"}
    with pytest.raises(ValueError, match=f"hidden {hidden} at width 1 .* it would have {built}: set hidden: {built},"):
        SequenceAutoencoder(architecture="cnn_flatten", hidden=hidden, **usual)
    assert SequenceAutoencoder(architecture="cnn_flatten", hidden=built, **usual).hidden == built


def test_a_number_that_is_refused_is_not_what_is_advised() -> None:
    usual: dict[str, Any] = {"task": "pred", "decoder_input": "zero", "activation": "none", "frame_size": 16}
    with pytest.raises(ValueError, match=r"is 255 units, .* it would have 256: leave hidden out"):
        SequenceAutoencoder(architecture="lstmcell", hidden=85, width=3, **usual)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("architecture", "lstm_copy, fc_lstm"),
        ("task", "recon, recon_ordered, pred, both"),
        ("decoder_input", "zero, output, truth"),
        ("activation", "none, tanh, sigmoid"),
    ],
)
def test_an_unknown_name_lists_the_known(name: str, known: str) -> None:
    names = {"architecture": "lstm_copy", "task": "both", "decoder_input": "zero", "activation": "none"}
    with pytest.raises(ValueError, match=f"{name} must be one of .*{known}.*; not 'outptu'"):
        SequenceAutoencoder(**names | {name: "outptu"})


@pytest.mark.parametrize("shape", [(2, 4, 16, 16), (2, 3, 16, 15), (2, 3, 256), (3, 16, 16), (2, 3, 1, 16, 16)])
def test_frames_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"this model reads floats \(batch, 3, 16, 16\)") as caught:
        tiny("lstm_copy")(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_frames_that_are_not_scaled_are_refused() -> None:
    model = tiny("convlstm")
    for reads in (model, model.encode):
        with pytest.raises(ValueError, match=r"of torch.uint8; .*: seqae.evaluation.seen_frames scales those of uint8"):
            reads(sequences(model)[:, :SEEN])
