"""seqae.lstm: steps in C, all of a stack's or one by one, equal torch's, which makes them where C cannot, logged."""

import gc
import logging
import os
import subprocess
import sys
import weakref
from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seqae import files
from seqae.lstm import compiled, layers, unrolled, winograd
from seqae.lstm.layers import Feedback, LSTMStack, LSTMState


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    compiled.step_library.cache_clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(3)  # of which none gets as many rows as the others
    yield
    torch.set_num_threads(threads)
    monkeypatch.undo()
    compiled.step_library.cache_clear()


def read_and_unroll(*, peepholes: bool, batch: int = 3) -> list[torch.Tensor]:
    """What two stacks put out, and every gradient of it."""
    torch.manual_seed(3)
    encoder, decoder = LSTMStack(5, [7, 6], peepholes=peepholes), LSTMStack(9, [6, 9], peepholes=peepholes)
    weights = [*encoder.parameters(), *decoder.parameters()]
    with torch.no_grad():
        for weight in weights:
            weight.copy_(torch.randn(weight.shape))
    x = torch.randn(4, batch, 5, requires_grad=True)
    top, states = encoder(x)
    out = decoder.unroll([states[-1], None], Feedback(gain=2.0, activation="sigmoid"), steps=5)
    (top.square().sum() + out.sin().sum()).backward()
    return [top, out, x.grad, *(weight.grad for weight in weights)]


def in_c_and_in_torch(monkeypatch, compute):
    """What `compute` returns with the library and without it."""
    if compiled.step_library() is None:
        pytest.skip("no C compiler here")
    in_c = compute()
    compiled.step_library.cache_clear()
    monkeypatch.setenv("SEQAE_FUSED", "0")
    assert compiled.step_library() is None
    return zip(in_c, compute(), strict=True)


@pytest.mark.processes("a locale of its own")
def test_the_source_reaches_the_compiler_whatever_the_locale(tmp_path):
    if compiled.step_library() is None:
        pytest.skip("no C compiler here")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "from seqae.lstm import compiled; print(compiled.step_library())"]
    said = subprocess.run(command, env=os.environ | ascii_only, capture_output=True, text=True)
    assert said.stdout.startswith("<CDLL"), said.stderr


@pytest.mark.parametrize("batch", [1, 3, 300, 2000])  # more than C takes of a row at once; than one thread is given
@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("steps", ["all", "single"])
def test_steps_in_c_are_those_in_torch(monkeypatch, peepholes, batch, steps):
    if steps == "single":
        monkeypatch.setattr(layers, "runs_in_c", lambda own, batch: False)
    for ours, plain in in_c_and_in_torch(monkeypatch, lambda: read_and_unroll(peepholes=peepholes, batch=batch)):
        assert (ours - plain).norm() <= 1e-5 * plain.norm()


def fed_back(*, features: int, hidden: int, activation: str, weight: bool, bias: bool) -> list[torch.Tensor]:
    """What a stack of two layers that reads its own output puts out, and the gradients of all that it knows."""
    torch.manual_seed(5)
    stack = LSTMStack(features, [hidden, hidden if weight else features])
    readout = [torch.randn(features, hidden).div(4).requires_grad_(), torch.randn(features).requires_grad_()]
    states = [LSTMState(*torch.randn(2, 7, size, requires_grad=True)) for size in stack.hidden_sizes]
    known = [state.requires_grad_() for pair in states for state in pair if state.retain_grad() is None]
    feedback = Feedback(*(t if used else None for t, used in zip(readout, (weight, weight and bias), strict=True)),
                        gain=1.5, activation=activation)  # fmt: skip
    z = stack.unroll(states, feedback, steps=3)
    (z.sin() * torch.arange(z.numel()).view_as(z).cos()).sum().backward()
    made = [*stack.parameters(), *known, *readout[: weight + (weight and bias)]]
    return [z, *(tensor.grad for tensor in made)]


@pytest.mark.parametrize("activation", ["none", "tanh", "sigmoid"])
@pytest.mark.parametrize(("weight", "bias"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("features", "hidden"), [(1, 1), (16, 64), (65, 17), (130, 70)])  # tiles whole and not
def test_feedback_in_c_is_that_in_torch(monkeypatch, features, hidden, activation, weight, bias):
    given = {"features": features, "hidden": hidden, "activation": activation, "weight": weight, "bias": bias}
    for ours, plain in in_c_and_in_torch(monkeypatch, lambda: fed_back(**given)):
        assert (ours - plain).norm() <= 1e-5 * plain.norm()


def over_maps(*, channels: int, hidden: int, size: tuple[int, int], batch: int) -> list[torch.Tensor]:
    """What ConvLSTMs that read maps, and their own output, put out, and every gradient of it."""
    torch.manual_seed(11)
    pixels, given = size[0] * size[1], {"kernel_size": 3, "map_size": size}
    encoder = LSTMStack(channels * pixels, [hidden * pixels, 16 * pixels], peepholes=True, **given)
    decoder = LSTMStack(16 * pixels, [16 * pixels], **given)
    x = torch.randn(3, batch, channels * pixels, requires_grad=True)
    top, states = encoder(x)
    out = decoder.unroll([states[-1]], Feedback(gain=1.5, activation="tanh"), steps=3)
    (top.square().sum() + out.sin().sum()).backward()
    return [top, out, x.grad, *(weight.grad for stack in (encoder, decoder) for weight in stack.parameters())]


@pytest.fixture
def convolutions(monkeypatch) -> list[str]:
    """The functions of step.c that convolve, as they are called."""
    if compiled.step_library() is None:
        pytest.skip("no C compiler here")
    called, call = [], winograd.Kernels._call

    def noted(self, function, *given):
        called.append(function.__name__)
        call(self, function, *given)

    monkeypatch.setattr(winograd.Kernels, "_call", noted)
    return called


@pytest.mark.parametrize(("channels", "hidden", "size", "batch"), [
    (1, 16, (4, 4), 3), (20, 67, (8, 8), 5), (64, 16, (3, 3), 70), (17, 33, (10, 13), 4), (16, 16, (8, 8), 1),
])  # fmt: skip
def test_convolutions_in_c_are_those_in_torch(monkeypatch, convolutions, channels, hidden, size, batch):
    """Channels that fill vectors and tiles, and that do not; maps beyond a tile; fewer maps than threads, and many."""
    given = {"channels": channels, "hidden": hidden, "size": size, "batch": batch}
    for ours, plain in in_c_and_in_torch(monkeypatch, lambda: over_maps(**given)):
        assert (ours - plain).norm() <= 2e-5 * plain.norm()
    # Three layers, each with two kernels, of which that of x may have too few inputs.
    assert Counter(convolutions)["kernel_gradient"] == 5 + (channels >= 16)


def test_what_lies_in_new_memory_has_no_effect_on_convolutions_in_c(monkeypatch, convolutions):
    plain = over_maps(channels=20, hidden=17, size=(6, 7), batch=3)
    new = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *size, **k: new(*size, **k).fill_(float("nan")))
    monkeypatch.setattr(torch, "empty_like", lambda x, **k: torch.full_like(x, float("nan"), **k))
    again = over_maps(channels=20, hidden=17, size=(6, 7), batch=3)
    assert all(torch.equal(*pair) for pair in zip(again, plain, strict=True))


@pytest.mark.parametrize(("channels", "hidden", "size"), [(20, 17, (6, 7)), (64, 16, (4, 4)), (17, 33, (10, 13))])
def test_convolutions_in_c_write_no_further_than_their_memory(monkeypatch, convolutions, channels, hidden, size):
    behind, points = [], winograd.Kernels._points

    def longer(*given):
        memory = torch.full((points(*given).numel() + 4096,), 7.0)
        behind.append(memory[-4096:])
        return memory[:-4096]

    monkeypatch.setattr(winograd.Kernels, "_points", longer)
    over_maps(channels=channels, hidden=hidden, size=size, batch=5)
    assert convolutions
    assert all((memory == 7).all() for memory in behind)


def test_torch_sees_convolutions_in_a_dispatch_mode(convolutions):
    stack = LSTMStack(16 * 64, [16 * 64], kernel_size=3, map_size=(8, 8))
    with FlopCounterMode(display=False) as counter:
        stack(torch.randn(2, 3, 16 * 64))
    of_a_step = 2 * 3 * 64 * (4 * 16) * 16 * 9
    assert counter.get_total_flops() == 3 * of_a_step  # the first step has no h
    assert convolutions == []


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("used", ["top", "states", "both"])
def test_gradients_through_states_and_of_frozen_weights_in_c_are_those_in_torch(monkeypatch, used, steps):
    def compute() -> list[torch.Tensor]:
        torch.manual_seed(7)
        stack = LSTMStack(70, [40, 20, 65])
        stack.layers[1].weight_ih.requires_grad_(False)
        stack.layers[2].bias.requires_grad_(False)
        x, h = torch.randn(steps, 5, 70, requires_grad=True), torch.randn(5, 20, requires_grad=True)
        top, states = stack(x, [None, LSTMState(h, None), None])
        parts = [top] * (used != "states") + [s for state in states for s in state] * (used != "top")
        for _ in range(2):  # a graph that is kept can be gone through again
            sum(part.sin().sum() for part in parts).backward(retain_graph=True)
        return [*parts, x.grad, h.grad, *(weight.grad for weight in stack.parameters() if weight.requires_grad)]

    for ours, plain in in_c_and_in_torch(monkeypatch, compute):
        assert (ours - plain).norm() <= 1e-5 * plain.norm()


def test_zeros_are_read_in_c_as_in_torch_and_their_weights_have_no_gradient(monkeypatch):
    def compute() -> list[torch.Tensor]:
        torch.manual_seed(9)
        stack = LSTMStack(6, [20, 33])
        top, _ = stack(None, [LSTMState(*torch.randn(2, 4, 20)), None], steps=5)
        top.sin().sum().backward()
        assert stack.layers[0].weight_ih.grad is None
        return [top, *(weight.grad for weight in stack.parameters() if weight.grad is not None)]

    for ours, plain in in_c_and_in_torch(monkeypatch, compute):
        assert (ours - plain).norm() <= 1e-5 * plain.norm()


@pytest.mark.parametrize("of", ["matrices", "maps"])
def test_the_same_numbers_with_any_number_of_threads(of, convolutions):
    def compute(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        if of == "maps":
            return over_maps(channels=16, hidden=20, size=(8, 8), batch=7)
        return read_and_unroll(peepholes=True, batch=64)

    for one, other in zip(compute(1), compute(2), strict=True):
        assert (one - other).norm() <= 1e-6 * one.norm()
    assert bool(convolutions) == (of == "maps")


def test_without_a_compiler_torch_and_one_line_of_log(monkeypatch, caplog):
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.INFO, "seqae"):
        read_and_unroll(peepholes=False)
        read_and_unroll(peepholes=True)
    [record] = caplog.records
    assert "no-such-compiler" in record.getMessage()


@pytest.mark.parametrize("given", ["", "cc -g0"])  # as for make: nothing is the usual one; options may follow
def test_the_compiler_may_be_empty_or_have_options(monkeypatch, tmp_path, given):
    if compiled.step_library() is None:
        pytest.skip("no C compiler here")
    compiled.step_library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", given)
    assert compiled.step_library() is not None


def test_a_compiler_that_fails_is_no_failure(monkeypatch, caplog, tmp_path):
    (tmp_path / "cc").write_text("#!/bin/sh\necho cannot >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    assert compiled.step_library() is None
    assert "cannot" in caplog.text


def test_without_a_cache_torch_and_one_line_of_log(monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert compiled.step_library() is None
    [record] = caplog.records
    assert "/proc/none" in record.getMessage()


def test_what_is_compiled_once_is_kept(monkeypatch, tmp_path):
    if compiled.step_library() is None:
        pytest.skip("no C compiler here")
    compiled.step_library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.step_library() is not None
    [built] = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = built.stat().st_mtime_ns
    compiled.step_library.cache_clear()
    assert compiled.step_library() is not None
    assert built.stat().st_mtime_ns == before


def test_what_is_compiled_is_on_the_disk_before_it_has_its_name(monkeypatch, tmp_path):
    """After a crash of the machine, half a library of this name would end every process that loads it."""
    if compiled.step_library() is None:
        pytest.skip("no C compiler here")
    compiled.step_library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    named: list[list[str]] = []
    monkeypatch.setattr(files, "fsync", lambda descriptor: named.append([p.name for p in tmp_path.rglob("lstm-*.so")]))
    assert compiled.step_library() is not None
    assert named == [[]]
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".so"]


def test_a_weight_of_other_strides_is_read_right():
    stack, narrow = LSTMStack(3, [1024], peepholes=True), torch.randn(3, 8, 3)
    plain, _ = stack(narrow)
    weight = stack.layers[0].weight_hh
    weight.data = weight.data.t().contiguous().t()
    assert (stack(narrow)[0] - plain).abs().max() < 1e-5


@pytest.mark.parametrize("in_c", ["0", "1"])
def test_nothing_outlives_the_backward_pass(monkeypatch, in_c):
    monkeypatch.setenv("SEQAE_FUSED", in_c)
    monkeypatch.setattr(layers, "runs_in_c", lambda own, batch: False)
    kept: list[weakref.ref] = []
    make = unrolled.UnrolledLayer.__init__
    noted = lambda layer, *given: kept.append(weakref.ref(layer)) or make(layer, *given)  # noqa: E731
    monkeypatch.setattr(unrolled.UnrolledLayer, "__init__", noted)
    gc.disable()
    try:
        read_and_unroll(peepholes=True)
        assert len(kept) == 8  # four layers, each made once for the forward pass and once for the backward pass
        assert [layer() for layer in kept] == [None] * 8
    finally:
        gc.enable()
