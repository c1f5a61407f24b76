"""seqae.lstm.compiled: the steps in C equal those in torch; where they cannot be compiled, torch makes them, logged."""

import gc
import logging
import weakref

import pytest
import torch

from seqae.lstm import compiled, unrolled
from seqae.lstm.layers import Feedback, LSTMStack


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


@pytest.mark.parametrize("batch", [1, 3, 300, 2000])  # more than C takes of a row at once; than one thread is given
@pytest.mark.parametrize("peepholes", [False, True])
def test_steps_in_c_are_those_in_torch(monkeypatch, peepholes, batch):
    if compiled.step_library() is None:
        pytest.skip("no C compiler here")
    in_c = read_and_unroll(peepholes=peepholes, batch=batch)
    compiled.step_library.cache_clear()
    monkeypatch.setenv("SEQAE_FUSED", "0")
    assert compiled.step_library() is None
    for ours, plain in zip(in_c, read_and_unroll(peepholes=peepholes, batch=batch), strict=True):
        assert (ours - plain).norm() <= 1e-5 * plain.norm()


def test_without_a_compiler_torch_and_one_line_of_log(monkeypatch, caplog):
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.INFO, "seqae"):
        read_and_unroll(peepholes=False)
        read_and_unroll(peepholes=True)
    [record] = caplog.records
    assert "no-such-compiler" in record.getMessage()


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


def test_a_weight_of_other_strides_is_read_right():
    stack, narrow = LSTMStack(3, [1024], peepholes=True), torch.randn(3, 8, 3)
    plain, _ = stack(narrow)
    weight = stack.layers[0].weight_hh
    weight.data = weight.data.t().contiguous().t()
    assert (stack(narrow)[0] - plain).abs().max() < 1e-5


@pytest.mark.parametrize("in_c", ["0", "1"])
def test_nothing_outlives_the_backward_pass(monkeypatch, in_c):
    monkeypatch.setenv("SEQAE_FUSED", in_c)
    kept: list[weakref.ref] = []
    allocate = unrolled.UnrolledLayer.allocate
    keep = lambda *given: kept.append(weakref.ref(layer := allocate(*given))) or layer  # noqa: E731
    monkeypatch.setattr(unrolled.UnrolledLayer, "allocate", keep)
    gc.disable()
    try:
        read_and_unroll(peepholes=True)
        assert len(kept) == 4
        assert [layer() for layer in kept] == [None] * 4
    finally:
        gc.enable()
