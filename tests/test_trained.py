"""What was trained, used: frames of one's own predicted, reconstructed and encoded."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqae.device import make_accelerator
from seqae.metrics import frame_errors
from seqae.runs import trained
from seqae.runs.experiment import new_model, sequences
from seqae.runs.finding import find_runs
from seqae.runs.merging import resolve
from seqae.runs.records import RunError
from seqae.runs.run import Run, open_run

SMALL = {
    "loss": "0sb", "task": "both", "architecture": "srivastava", "hidden": 12, "layers": 2, "peepholes": False,
    "decoder_input": "zero", "frame_size": 16, "frames_in": 5, "frames_out": 10, "train_sequences": 16,
    "val_sequences": 4, "test_sequences": 10, "batch_size": 4, "epochs": 2, "learning_rate": 0.02,
}  # fmt: skip
SEEN, FUTURE = 5, 10


def maker(store: Path, defaults: dict):
    """A function that opens and trains a run that differs from `defaults` by what is given; each is trained once."""
    runs = {}

    def make(**given) -> Run:
        key = str(given)
        if key not in runs:
            runs[key] = open_run("own", defaults, given | {"store": str(store)}).train()
        return runs[key]

    return make


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return maker(tmp_path_factory.mktemp("store"), SMALL)


@pytest.fixture
def run(made):
    return made()


@pytest.fixture
def clips(run) -> np.ndarray:
    """The test sequences, uint8 (10, 15, 16, 16)."""
    return sequences(run.parameters, "test").numpy()


# --- exactly what was measured ---


def test_as_many_frames_as_trained_are_those_that_were_evaluated(run, clips) -> None:
    seen, future = clips[:, :SEEN], torch.from_numpy(clips[:, SEEN:]) / 255
    for branch, output, target in [
        ("pred", run.predict(seen), future),
        ("recon", run.reconstruct(seen)[:, ::-1].copy(), torch.from_numpy(seen).flip(1) / 255),
    ]:
        mse = frame_errors(torch.from_numpy(output), target, None)["mse"].double().mean(0)
        table = run.test().query(f"metric == 'mse' and branch == '{branch}'").dropna(subset="frame")
        np.testing.assert_allclose(table.value, mse, rtol=1e-6)


def cells(model: nn.Module, name: str) -> list[nn.LSTMCell]:
    """torch's own cells, with the weights of a stack."""
    found = []
    for layer in model.get_submodule(name).layers:
        hidden, inputs = layer.weight_hh.shape[1], layer.weight_ih.shape[1]
        found.append(cell := nn.LSTMCell(inputs, hidden))
        cell.weight_ih.data, cell.weight_hh.data = layer.weight_ih.detach(), layer.weight_hh.detach()
        cell.bias_ih.data, cell.bias_hh.data = layer.bias.detach(), torch.zeros(4 * hidden)
    return found


@torch.no_grad()
def looped(run: Run, clips: np.ndarray, steps: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """The encoder's states and the predictions (B, steps, H, W) by a plain loop over torch's own cells."""
    model = run.model()
    frames, readout = torch.from_numpy(clips[:, :SEEN]).flatten(2) / 255, model.readouts["pred"]
    states = [(torch.zeros(len(clips), 12), torch.zeros(len(clips), 12)) for _ in range(2)]

    def step(stack: list[nn.LSTMCell], x: Tensor) -> Tensor:
        for n, cell in enumerate(stack):
            states[n] = cell(x, states[n])
            x = states[n][0]
        return x

    for t in range(SEEN):
        step(cells(model, "encoder"), frames[:, t])
    encoded, read, outputs = list(states), torch.zeros(len(clips), 256), []
    for _ in range(steps):
        outputs.append(torch.sigmoid(readout(step(cells(model, "decoders.pred"), read))))
        read = outputs[-1] if run.parameters.decoder_input == "output" else read
    return encoded, torch.stack(outputs, 1).unflatten(2, (16, 16))


@pytest.mark.parametrize("reads", ["zero", "output"])
def test_beyond_the_trained_horizon_the_decoder_goes_on(made, clips, reads: str) -> None:
    run = made(decoder_input=reads)
    far = run.predict(clips[:, :SEEN], steps=30)
    assert far.shape == (10, 30, 16, 16)
    np.testing.assert_allclose(far[:, :10], run.predict(clips[:, :SEEN], 10), atol=1e-6)
    np.testing.assert_allclose(far, looped(run, clips, 30)[1], atol=1e-5)
    np.testing.assert_allclose(run.predict(clips[:, :SEEN], 1), far[:, :1], atol=1e-6)
    assert run.model().steps == {"recon": 5, "pred": 10}
    assert run.predict(clips[:, :SEEN]).shape[1] == 10


def test_an_encoding_is_the_state_of_every_layer(run, clips) -> None:
    encoded = run.encode(clips[:, :SEEN])
    assert [*encoded] == ["h1", "c1", "h2", "c2", "flat"]
    states, _ = looped(run, clips, 1)
    for name, tensor in zip(("h1", "c1", "h2", "c2"), [s for state in states for s in state], strict=True):
        np.testing.assert_allclose(encoded[name], tensor, atol=1e-6)
    np.testing.assert_array_equal(encoded["flat"], np.hstack([*encoded.values()][:4]))


@pytest.mark.parametrize(
    ("given", "units"),
    [
        ({"architecture": "lstm_copy", "hidden": 3, "layers": None}, [3, 3, 3]),
        ({"architecture": "convlstm", "hidden": 4, "layers": 1, "frame_size": 16}, [16]),  # 4 channels of 2×2
        ({"architecture": "srivastava", "peepholes": True}, [12, 12]),
    ],
)
def test_every_architecture_encodes(given, units) -> None:
    p = resolve(SMALL, given)
    encoded = new_model(p).encode(torch.rand(3, SEEN, 16, 16))
    expected = {f"{name}{n}": (3, h) for n, h in enumerate(units, start=1) for name in "hc"}
    assert {name: tuple(t.shape) for name, t in encoded.items()} == expected | {"flat": (3, 2 * sum(units))}


@pytest.mark.parametrize("task", ["recon", "recon_ordered"])
def test_a_reconstruction_is_in_the_order_in_which_frames_were_seen(made, clips, task: str) -> None:
    run = made(task=task, epochs=1)
    outputs = run.outputs(indices=range(10))["recon"]
    in_time = outputs if task == "recon_ordered" else outputs[:, ::-1]
    np.testing.assert_allclose(run.reconstruct(clips[:, :SEEN]), in_time / 255, atol=0.51 / 255)


# --- what is taken, and what comes back ---


def test_numpy_and_torch_uint8_and_floats_give_the_same(run, clips) -> None:
    seen = clips[:, :SEEN]
    expected = run.predict(seen)
    assert (type(expected), expected.dtype) == (np.ndarray, np.float32)
    assert 0 <= expected.min() <= expected.max() <= 1
    for other in (
        seen / 255, (seen / 255).astype(">f4"), seen[:, ::-1].copy()[:, ::-1], np.asfortranarray(seen),
        torch.from_numpy(seen.copy()), torch.from_numpy(seen / 255), torch.from_numpy(seen / 255).requires_grad_(),
    ):  # fmt: skip
        got = run.predict(other)
        assert type(got) is type(other)
        np.testing.assert_allclose(got, expected, atol=1e-6)
    read_only = seen.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(run.predict(read_only), expected)
    rough = run.predict(torch.from_numpy(seen / 255).half())
    assert rough.dtype == torch.float32
    np.testing.assert_allclose(rough, expected, atol=1e-2)


def test_one_sequence_comes_back_as_one(run, clips) -> None:
    one, all_of_it = clips[3, :SEEN], clips[:, :SEEN]
    np.testing.assert_allclose(run.predict(one, 12), run.predict(all_of_it, 12)[3], atol=1e-6)
    assert run.reconstruct(torch.from_numpy(one)).shape == (5, 16, 16)
    assert {name: array.shape for name, array in run.encode(one).items()} == {
        **dict.fromkeys(("h1", "c1", "h2", "c2"), (12,)), "flat": (48,),
    }  # fmt: skip


def test_what_comes_back_may_take_part_in_a_training(run, clips) -> None:
    flat = run.encode(torch.from_numpy(clips[:, :SEEN]))["flat"]
    probe = nn.Linear(flat.shape[1], 1)
    probe(flat).sum().backward()
    assert probe.weight.grad is not None
    frames = run.predict(torch.from_numpy(clips[:4, :SEEN]))  # a single batch
    assert not frames.is_inference()
    frames.mul_(0.5)


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (np.zeros((2, 4, 16, 16), np.uint8), "have 4 frames a sequence, and this run's model reads 5"),
        (np.zeros((2, 9, 16, 16), np.uint8), r"have 9 frames a sequence, .* such as frames\[\.\.\., -5:, :, :\]"),
        (np.zeros((2, 5, 16, 20), np.uint8), "have 16×20 pixels, and this run's model reads 16×16: resize them"),
        (np.zeros((2, 5, 16, 16, 3), np.uint8), r"have shape \(2, 5, 16, 16, 3\); this run's model reads grey frames"),
        (np.zeros((0, 5, 16, 16), np.uint8), r"have shape \(0, 5, 16, 16\)"),
        (np.zeros((2, 5, 16, 16), np.int64), "are int64: give uint8, 0–255, or floating point in"),
        (torch.zeros(2, 5, 16, 16, dtype=torch.bool), "are bool: give uint8"),
        (np.zeros((2, 5, 16, 16), object), "are object: give uint8"),
        (np.full((2, 5, 16, 16), 255.0), r"go from 255 to 255: floating point must lie in \[0, 1\]"),
        (torch.full((2, 5, 16, 16), -1.0), "go from -1 to -1: floating point"),
        (np.full((2, 5, 16, 16), np.nan), "go from nan to nan: floating point"),
        (np.eye(16, dtype=np.uint8) + np.zeros((2, 5, 1, 1), np.uint8), "are uint8 of 0 and 1 alone, .*multiply"),
        ([[[0.0]]], "must be a numpy array or a torch tensor; not list"),
    ],
)
def test_other_frames_are_refused_and_it_is_said_what_they_are(run, frames, told: str) -> None:
    for what in (run.predict, run.reconstruct, run.encode):
        with pytest.raises(ValueError, match=f"^frames {told}"):
            what(frames)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "10"])
def test_steps_are_a_number(run, clips, steps) -> None:
    with pytest.raises(ValueError, match=f"steps must be a whole number, 1 or more; not {steps!r}"):
        run.predict(clips[:, :SEEN], steps=steps)


def test_a_run_does_what_it_was_trained_for(made, clips, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"task recon of this run has no branch pred: .* with task pred or both"):
        made(task="recon", epochs=1).predict(clips[:, :SEEN])
    with pytest.raises(ValueError, match=r"no branch recon: choose a run with task recon or recon_ordered or both"):
        made(task="pred", epochs=1).reconstruct(clips[:, :SEEN])
    assert "h1" in made(task="pred", epochs=1).encode(clips[:, :SEEN])
    with pytest.raises(RunError, match="has no trained model, it is waiting: finish it with seqae run first"):
        open_run("own", SMALL, {"store": str(tmp_path)}).predict(clips[:, :SEEN])
    with pytest.raises(ValueError, match="device must be auto, cpu"):
        made().predict(clips[:, :SEEN], device="gpu")


# --- weights ---


def test_weights_are_loaded_once_and_kept_as_long_as_the_run(run, clips, monkeypatch) -> None:
    (found,) = (each for each in find_runs(run.folder.parents[1]) if each.name == run.name)
    calls: list[object] = []
    monkeypatch.setattr(trained, "_kept", weakref.WeakKeyDictionary())
    load = trained.load_model
    monkeypatch.setattr(trained, "load_model", lambda *given, **named: calls.append(given) or load(*given, **named))
    seen = clips[:, :SEEN]
    expected = run.predict(seen)
    trained._kept.clear(), calls.clear()
    for each in (found, Run.load(found.folder), found):
        np.testing.assert_array_equal(each.predict(seen), expected)
        _ = each.predict(seen, 30), each.reconstruct(seen), each.encode(seen)
    assert len(calls) == 1, "equal runs share them"
    (kept,) = trained._kept.values()
    models = [model for model, _ in kept.values()]
    shared = [{w.data_ptr() for w in model.parameters()} for model in models]
    assert len(models) == 2
    assert shared[0] == shared[1], "another horizon has the same weights, no copy"
    assert run.model().encoder.layers[0].bias.data_ptr() not in shared[0], "a model that one takes away is another"
    del found, each, kept, models
    gc.collect()
    assert not trained._kept


def test_weights_of_one_horizon_are_refused_in_a_sentence(run, clips, monkeypatch) -> None:
    class Head(nn.Module):  # has a row of weights for each frame to come
        def __init__(self, frames_out: int) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.zeros(frames_out, 256))

    monkeypatch.setattr(trained, "build_model", lambda p, code: Head(p.frames_out))
    with pytest.raises(ValueError, match=r"fit frames_out 10, as trained, and not 30: .* train it with frames_out 30$"):
        trained.with_horizon(Head(10), run.parameters, 30)


def test_a_model_is_wherever_it_is_asked_for(run) -> None:
    assert {weight.device.type for weight in run.model("auto").parameters()} == {make_accelerator().device.type}
    for device, told in (("gpu", "device must be auto, cpu, .*; not 'gpu'"), ("cuda:99", "cuda:99 is not available")):
        with pytest.raises(ValueError, match=told):
            run.model(device)


# --- models of one's own ---


class Own(nn.Module):
    def __init__(self, encode) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        if encode:
            self.encode = encode


@pytest.fixture
def own(run, monkeypatch):
    """The encodings of a model whose encode(frames) is as given."""
    monkeypatch.setattr(trained, "_kept", weakref.WeakKeyDictionary())
    return lambda encode, frames: (
        trained._kept.clear(),
        monkeypatch.setattr(trained, "load_model", lambda *given, **named: (Own(encode), run.parameters)),
        run.encode(frames),
    )[-1]


def test_a_model_of_ones_own_encodes_as_it_likes(own, clips) -> None:
    seen = clips[:, :SEEN]
    assert own(lambda frames: frames.mean((2, 3)), seen)["flat"].shape == (10, 5)
    first = own(lambda frames: frames[:, 0].flatten(1), seen)["flat"]
    np.testing.assert_allclose(first, seen[:, 0].reshape(10, 256) / 255, atol=1e-6)
    named = own(lambda frames: {"mean": frames.mean((2, 3)), "last": frames[:, -1, 0]}, torch.from_numpy(seen))
    assert {name: tuple(t.shape) for name, t in named.items()} == {"mean": (10, 5), "last": (10, 16), "flat": (10, 21)}
    assert torch.equal(named["flat"], torch.cat([named["mean"], named["last"]], 1)), "side by side"
    assert [*own(lambda frames: {"flat": frames.mean((2, 3))}, seen)] == ["flat"]


@pytest.mark.parametrize(
    ("encode", "told"),
    [
        (None, "architecture srivastava has no method encode"),
        (lambda frames: [frames], r"encode\(frames\) of architecture srivastava must return .* it returned list"),
        (lambda frames: {}, "it returned dict"),
        (lambda frames: frames.mean(), r"for 4 sequences it returned \{'flat': \(\)\}"),
        (lambda frames: frames.flatten(2), r"must return a tensor \(B, units\), .* returned \{'flat': \(4, 5, 256\)\}"),
        (lambda frames: {"h": frames.transpose(0, 1)}, r"it returned \{'h': \(5, 4, 16, 16\)\}"),
    ],
)
def test_an_encode_that_does_not_fit_is_told_in_a_sentence(own, clips, encode, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        own(encode, clips[:, :SEEN])
