"""seqae.lstm.compiled: the steps in C equal those in torch; where they cannot be compiled, torch makes them, logged."""

import gc
import logging
import weakref

import pytest
import torch

from seqae.benchmark.dispatch_counter import DispatchCounter
from seqae.lstm import compiled, recurrence, unrolled
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
    initial, readout, bias = [states[-1], None], torch.randn(9, 9, requires_grad=True), torch.randn(9)
    out = decoder.unroll(initial, Feedback(gain=2.0, activation="sigmoid"), steps=5)
    read_out = decoder.unroll(initial, Feedback(readout / 9, bias, activation="tanh"), steps=3)
    of_zeros, ends = decoder(None, initial, steps=4)
    results = [top, out, read_out, of_zeros, *ends[0], *ends[1]]
    sum(result.sin().sum() for result in results).backward()
    return [*results, x.grad, readout.grad, *(weight.grad for weight in weights)]


@pytest.mark.parametrize(
    "batch", [1, 3, 15, 47, 300, 2000]
)  # more than C takes of a row at once; than one thread is given
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


def test_c_makes_all_steps_only_of_what_it_can():
    if compiled.step_library() is None:
        pytest.skip("no C compiler here")
    dense, maps = LSTMStack(3, [4, 2]), LSTMStack(8, [8], kernel_size=3, map_size=(2, 2))

    def in_c(stack: LSTMStack, dtype: torch.dtype = torch.float32, columns: int = 1) -> bool:
        return recurrence.runs_in_c(
            stack._tensors([LSTMState(torch.ones(1, n).to(dtype), None) for n in stack.hidden_sizes], 1, 1)[0], columns
        )

    assert in_c(dense)
    most = recurrence.IN_C // (16 * (3 + 4))  # the first layer has more weights than the second
    assert in_c(dense, columns=most)
    assert not in_c(dense, columns=most + 1)
    assert not in_c(maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert not in_c(dense)
    # It sees every product, but for those of oneDNN's whole layers.
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None), DispatchCounter() as counter:
        assert not in_c(dense)
        dense(torch.ones(1, 1, 3))
    assert counter.operations == 2 * (16 * 3 + 8 * 4)
    assert not in_c(dense.double(), torch.float64)


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
        assert len(kept) == 8
        assert [layer() for layer in kept] == [None] * 8
    finally:
        gc.enable()
