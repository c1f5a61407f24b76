"""seqae.benchmark: all implementations make the same update, and a benchmark is a run like any other."""

import importlib.util
import os
import runpy
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seqae.benchmark import figures, machine_lock, machine_rates, tables, update_timing
from seqae.benchmark.dispatch_counter import DispatchCounter
from seqae.benchmark.peers import PlainAutoencoder, sequitur_update, torch_update
from seqae.benchmark.peers_convolutional import PlainConvLSTM
from seqae.benchmark.peers_keras import keras_update
from seqae.data import to_range
from seqae.runs import experiment
from seqae.runs.finding import find_runs
from seqae.runs.merging import resolve
from seqae.runs.run import open_run
from seqae.tasks import branch_targets

TINY = {
    "loss": "0nm", "task": "both", "frame_size": 16, "hidden": 8, "batch_size": 3, "frames_in": 4, "frames_out": 3,
    "repeats": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    # `time_update` takes all cores: tests beside each other would each take the other's.
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tiny(**given):
    p = resolve(TINY, given)
    frames = to_range(experiment.sequences(p.model_copy(update={"train_sequences": 3}), "train"), p.pixel_range)
    return p, experiment.new_model(p), frames


@pytest.mark.parametrize("architecture", ["lstm_copy", "lstmcell"])
@pytest.mark.parametrize(("decoder_input", "whole"), [("zero", False), ("zero", True), ("output", False)])
def test_the_plain_network_is_the_same_network(architecture, decoder_input, whole):
    given = {"architecture": architecture, "hidden": None if architecture == "lstmcell" else 8}
    _p, model, frames = tiny(decoder_input=decoder_input, gain=2, loss="0sm", **given)
    plain, seen = PlainAutoencoder(model, whole=whole), frames[:, :4]
    for branch, z in plain(seen).items():
        torch.testing.assert_close(z, model(seen)[branch])
    ours = sum(w.numel() for w in model.parameters())
    biases = sum(w.numel() for name, w in model.named_parameters() if name.endswith("bias"))
    assert sum(w.numel() for w in plain.parameters()) == ours + biases  # torch has two a gate


@pytest.mark.parametrize("decoder_input", ["zero", "output"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_plain_loop_with_inputs_read_pointwise_is_the_same_network(decoder_input, layers):
    _p, model, frames = tiny(architecture="convlstm_pointwise", decoder_input=decoder_input, layers=layers)
    for branch, z in PlainConvLSTM(model)(frames[:, :4]).items():
        torch.testing.assert_close(z, model(frames[:, :4])[branch])


@pytest.mark.parametrize("decoder_input", ["zero", "output"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_plain_loop_of_convolutions_is_the_same_network(decoder_input, layers):
    _p, model, frames = tiny(architecture="convlstm", decoder_input=decoder_input, layers=layers, gain=2)
    plain, seen = PlainConvLSTM(model), frames[:, :4]
    for branch, z in plain(seen).items():
        torch.testing.assert_close(z, model(seen)[branch])
    assert sum(w.numel() for w in plain.parameters()) == sum(w.numel() for w in model.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"architecture": "lstm_copy"}, "choose convlstm"),
        ({"architecture": "convlstm", "peepholes": True}, "no peepholes"),
        ({"architecture": "convlstm", "decoder_input": "truth"}, "decoder_input truth cannot"),
    ],
)
def test_what_a_loop_of_convolutions_cannot_build_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        PlainConvLSTM(tiny(**given)[1])


@pytest.mark.parametrize("architecture", ["lstm_copy", "convlstm"])
def test_in_bf16_peers_are_timed_in_it_too(architecture):
    p, _model, _frames = tiny(architecture=architecture, precision="bf16", decoder_input="zero")
    table, facts = update_timing.time_update(p)
    loop = "conv2d_loop" if architecture == "convlstm" else "lstmcell_loop"
    assert {"seqae", loop, "gemm_floor"} <= {*table.implementation}
    assert "float32 alone" in facts["left_out"]["keras_jax"]


@pytest.mark.parametrize(("seconds", "sizes"), [(0.5, [256]), (1e-4, [256, 2048])])
def test_what_a_processor_multiplies_slowly_is_timed_small(monkeypatch, seconds, sizes):
    """At half a second for 256 a product of 2,048 would take four minutes."""
    seen, random = [], torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, **given: seen.append(shape[0]) or random(2, 2, **given))
    monkeypatch.setattr(machine_rates.timeit, "repeat", lambda *_, **given: [2 * seconds, seconds])
    assert machine_rates.matmul_rate(device="cpu", precision="bf16") == 2 * sizes[-1] ** 3 / seconds
    assert seen == sizes


def test_a_peers_network_computes_in_the_precision_and_its_loss_in_float32():
    _p, model, frames = tiny(architecture="convlstm", decoder_input="zero")
    net, dtypes = PlainConvLSTM(model), []
    net.cells["encoder"][0].register_forward_hook(lambda module, args, z: dtypes.append(z.dtype))

    def loss(z, target):
        dtypes.append(z.dtype)
        return (z - target).square().mean()

    targets = branch_targets(frames, task="both", frames_in=4)
    torch_update(net, frames[:, :4], targets, loss, precision="bf16")()
    assert dtypes == [torch.bfloat16] * 4 + [torch.float32] * 2


@pytest.mark.parametrize(
    ("given", "whole", "message"),
    [
        ({"architecture": "srivastava"}, False, "peepholes, convolutions or readout"),
        ({"peepholes": True}, False, "no peepholes"),
        ({"decoder_input": "output"}, True, "decoder_input output cannot"),
        ({"decoder_input": "truth"}, False, "decoder_input truth cannot"),
    ],
)
def test_what_torchs_layers_cannot_build_is_refused(given, whole, message):
    with pytest.raises(ValueError, match=message):
        PlainAutoencoder(tiny(**given)[1], whole=whole)


def test_the_loops_update_learns_and_step_is_the_whole():
    _p, model, frames = tiny(decoder_input="output")
    net, targets = PlainAutoencoder(model), branch_targets(frames, task="both", frames_in=4)
    losses = []

    def loss(z, target):
        losses.append((z - target).square().mean())
        return losses[-1]

    update = torch_update(net, frames[:, :4], targets, loss, precision="none")
    for _ in range(5):
        parts = update()
        assert parts["step"] > parts["forward_backward"] > 0
    assert losses[-1] < losses[1]


def test_launches_operations_and_bytes_by_hand():
    a, b = torch.ones(2, 3), torch.ones(3, 5)
    with DispatchCounter(keep_products=True) as counter:
        torch.empty(4)  # an allocation
        (a @ b).t().relu()  # a product, a view and a launch
    assert counter.launches == 2
    assert counter.operations == 2 * 2 * 3 * 5
    assert counter.bytes == 4 * (2 * 3 + 3 * 5 + 2 * 5)
    [product] = counter.products
    assert torch.equal(product(), a @ b)
    with DispatchCounter() as counter:
        a @ b
    assert counter.products == []


@pytest.mark.parametrize("given", [{}, {"architecture": "srivastava", "hidden": None, "width": 0.005}])
def test_the_floor_is_of_every_product_of_the_update(given):
    p, model, frames = tiny(decoder_input="output", **given)
    # oneDNN's whole layers have no products to see.
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None), FlopCounterMode(display=False) as counted:
        sum(z.square().mean() for z in model(frames[:, :4]).values()).backward()
    table, facts = update_timing.time_update(p)
    assert facts["operations"] == counted.get_total_flops() > 0
    assert {*table[table.implementation == "gemm_floor"].part} == {"forward_backward"}
    assert {*table.H} == {*model.encoder.hidden_sizes}


@pytest.mark.parametrize("given", [{"precision": "tf32"}, {"precision": "fp16"}, {"device": "cuda"}])
def test_what_is_not_timed_is_refused(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"^{name} .* is not timed"):
        update_timing.time_update(resolve(TINY, given))


@pytest.mark.processes  # Keras, where it is installed, asks `uname` for the processor
@pytest.mark.parametrize(
    ("given", "update", "message"),
    [
        ({"architecture": "srivastava"}, "keras", "no peepholes, convolutions or readout"),
        ({"peepholes": True}, "keras", "no peepholes, convolutions or readout"),
        ({"gain": 2}, "keras", "no gain 2"),
        ({"loss": "0sm"}, "keras", "no activation sigmoid"),
        ({"architecture": "srivastava"}, "sequitur", "no peepholes, convolutions or readout"),
    ],
)
def test_what_other_packages_do_not_build_is_refused(given, update, message):
    pytest.importorskip(update)
    _p, model, frames = tiny(**given)
    with pytest.raises(ValueError, match=message):
        keras_update(model, frames, {}) if update == "keras" else sequitur_update(model, frames)


@pytest.mark.processes  # as above
@pytest.mark.parametrize("decoder_input", ["zero", "output"])
@pytest.mark.parametrize("package", ["keras", "sequitur"])
def test_a_peer_that_is_installed_trains_and_another_says_so(package, decoder_input):
    _p, model, frames = tiny(decoder_input=decoder_input)
    targets = branch_targets(frames, task="both", frames_in=4)

    def make():
        if package == "keras":
            return keras_update(model, frames[:, :4], targets)
        return sequitur_update(model, frames[:, :4])

    if importlib.util.find_spec(package) is None:
        with pytest.raises(ImportError):
            make()
        return
    parts = make()()
    assert parts["step"] > 0 < parts["forward_backward"]


def test_a_benchmark_is_a_run_like_any_other(tmp_path, monkeypatch):
    run = open_run("performance", {**TINY, "store": str(tmp_path)}, {"decoder_input": "output"})
    run = update_timing.run_benchmark(run)
    table = run.performance()
    assert [*table] == update_timing.TIMING_COLUMNS
    assert {"seqae", "lstmcell_loop", "gemm_floor"} <= {*table.implementation}
    assert "nn_lstm" not in {*table.implementation}
    assert "choose zero" in run.record()["benchmark"]["left_out"]["nn_lstm"]
    assert (table.median_ms >= table.min_ms).all()
    assert (table.min_ms > 0).all()
    assert (table.repeats >= 2).all()
    assert {*table.D} == {256}
    assert {*table.H} == {8}
    assert {*table.B} == {3}
    assert run.status == "done"
    assert "times as fast as the LSTMCell loop" in run.verdict
    before = (run.folder / "performance.csv").read_bytes()
    assert update_timing.run_benchmark(run).folder == run.folder
    assert (run.folder / "performance.csv").read_bytes() == before
    [found] = find_runs(tmp_path, "performance")
    row = tables.speedup_table([found]).iloc[0]
    step = table[table.part == "step"].set_index("implementation").median_ms
    assert row["× lstmcell_loop"] == pytest.approx(step.lstmcell_loop / step.seqae)
    figure = figures.roofline(tables.benchmark_table([found]))
    assert "FLOP/byte" in figure.axes[0].get_xlabel()
    # The command that writes README's table.
    copy, root = tmp_path / "project", Path(__file__).parents[1]
    (copy / "docs").mkdir(parents=True)
    for file in ("README.md", "docs/speed.py", "docs/results.py"):
        shutil.copy(root / file, copy / file)
    monkeypatch.setattr("sys.argv", ["speed.py", str(tmp_path)])
    monkeypatch.syspath_prepend(copy / "docs")
    runpy.run_path(str(copy / "docs/speed.py"), run_name="__main__")
    assert f"| 256, 8, 3 | {step.seqae:.0f} | " in (copy / "README.md").read_text()


AS_NOBODY = """
import fcntl, os, sys, tempfile
from seqae.benchmark import machine_lock
os.umask(0o077)
os.setgid(65534); os.setuid(65534)
tempfile.tempdir = sys.argv[1]
print("asks", flush=True)
with machine_lock.machine_alone():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def shared_folder(monkeypatch):
    """A folder for temporary files in which all users write, as /tmp."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.mark.processes("another user")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_benchmarks_of_two_users_wait_for_each_other_whoever_comes_first(shared_folder):
    command, ours, pipe = [sys.executable, "-c", AS_NOBODY, str(shared_folder)], [], subprocess.PIPE
    for _ in range(2):  # nobody first, then both in turn
        other = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert [other.stdout.readline() for _ in "12"] == ["asks\n", "held\n"], other.stderr.read()
        thread = Thread(target=lambda: ours.append(_hold()))
        thread.start()
        thread.join(0.3)
        assert ours == []
        other.communicate("go on\n")
        thread.join()
        assert ours.pop() is True
    (shared_folder / machine_lock.BENCHMARK_LOCK).unlink()
    before = os.umask(0o077)
    try:
        with machine_lock.machine_alone():  # now of root
            other = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
            assert other.stdout.readline() == "asks\n", other.stderr.read()
            assert select.select([other.stdout], [], [], 0.5)[0] == [], "it waits"
    finally:
        os.umask(before)
    assert other.communicate("go on\n")[0] == "held\n"


def _hold() -> bool:
    with machine_lock.machine_alone():
        return True


@pytest.mark.parametrize("make", [Path.mkdir, lambda file: file.symlink_to("elsewhere"), lambda file: os.mkfifo(file)])
def test_what_else_lies_in_the_locks_place_keeps_nobody_from_working(shared_folder, make):
    make(shared_folder / machine_lock.BENCHMARK_LOCK)
    assert _hold()
