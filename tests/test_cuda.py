"""What a GPU is asked to do, on fake CUDA tensors (`fake_cuda.py`), and what of it can be tried on a CPU."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from seqae import device as devices
from seqae import training
from seqae.checkpoint import Checkpointing, Stateful, TrainingState, load_checkpoint, save_checkpoint
from seqae.device import make_accelerator, resident
from seqae.files import cache_folder
from seqae.lstm import layers
from seqae.models import SequenceAutoencoder
from seqae.objective import Objective
from seqae.runs import first_weights
from seqae.runs.optimizers import optimizer_factory
from seqae.sweeps import fork_server
from seqae.training import fit
from seqae.updates import UpdateRule

HERE = Path(__file__).parent
CUDNN = "RNN module weights are not part of single contiguous chunk of memory. This means they need to be compacted at "
CUDNN += "every call, possibly greatly increasing memory usage. To compact weights again call flatten_parameters()."

# Operations that an update launches at three frames seen and two to come, in bf16; the others launch fewer.
LAUNCHES = {
    "lstm zero": 141, "lstm output": 279, "lstm truth": 141,
    "lstmcell zero": 141, "lstmcell output": 279, "lstmcell truth": 141,
    "lstm_copy zero": 273, "lstm_copy output": 633, "lstm_copy truth": 273,
    "fc_lstm zero": 336, "fc_lstm output": 692, "fc_lstm truth": 366,
    "cnn_v1 zero": 395, "cnn_v1 output": 751, "cnn_v1 truth": 451,
    "cnn_v2 zero": 349, "cnn_v2 output": 705, "cnn_v2 truth": 385,
    "cnn_v3 zero": 349, "cnn_v3 output": 705, "cnn_v3 truth": 385,
    "cnn_flatten zero": 349, "cnn_flatten output": 705, "cnn_flatten truth": 385,
    "srivastava zero": 169, "srivastava zero peepholes": 366, "srivastava output": 326,
    "srivastava output peepholes": 431, "srivastava truth": 169, "srivastava truth peepholes": 384,
    "convlstm zero": 380, "convlstm zero peepholes": 428, "convlstm output": 418,
    "convlstm output peepholes": 466, "convlstm truth": 438, "convlstm truth peepholes": 486,
    "convlstm_pointwise zero": 377, "convlstm_pointwise output": 415, "convlstm_pointwise truth": 435,
}  # fmt: skip


@pytest.fixture(scope="session")
def guard() -> Path:
    """cuda_guard.cpp, compiled for the installed torch and kept in the cache."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or sys.platform != "linux":
        pytest.skip("a C++ compiler on Linux makes torch believe in a GPU; here is none")
    source, where = HERE / "cuda_guard.cpp", Path(importlib.util.find_spec("torch").origin).parent  # type: ignore[union-attr,arg-type]
    # The path is part of it: the library finds torch where it lay when it was compiled.
    digest = hashlib.sha256(f"{source.read_text()}{torch.__version__}{where}{compiler}".encode()).hexdigest()[:16]
    built = cache_folder() / f"cuda-guard-{digest}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        part, include = built.with_suffix(f".{os.getpid()}"), where / "include"
        options = ["-shared", "-fPIC", "-std=c++20", "-O0", f"-I{include}", f"-I{include}/torch/csrc/api/include"]
        libraries = [f"-L{where}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{where}/lib"]
        command = [compiler, *options, str(source), "-o", str(part), *libraries]
        said = subprocess.run(command, capture_output=True, text=True)
        if said.returncode:
            pytest.skip(f"{compiler} does not compile what makes torch believe in a GPU: {said.stderr[-300:]}")
        part.replace(built)
    return built


def faked(guard: Path, *precisions: str) -> Any:
    """What `fake_cuda.py` finds."""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", HERE / "fake_cuda.py", guard, *precisions],
        capture_output=True, text=True, cwd=HERE.parent,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-3000:]
    return json.loads(said.stdout)


def check(found: Any, **half: set[str]) -> None:
    """half: by precision, the dtypes of 16 bits that may occur."""
    updates = found["updates"]
    assert len(updates) == len(LAUNCHES) * len(half)
    assert {case: of["faults"] for case, of in updates.items() if of["faults"]} == {}, "wrong device, dtype or layout"
    assert {case: of["waits"] for case, of in updates.items() if of["waits"]} == {}
    # The ten means of an evaluation are read at its end, whatever the number of batches.
    assert {len(of["evaluated"]) for of in updates.values()} == {0, 10}
    for case, of in updates.items():
        assert {*of["dtypes"]} & {"torch.float16", "torch.bfloat16"} == half[case.rsplit(" ", 1)[1]], case
    most = {case: LAUNCHES[case.rsplit(" ", 1)[0]] for case in updates}
    assert {case: of["launches"] for case, of in updates.items() if of["launches"] > most[case]} == {}, "more launches"
    few, many = found["trainings"]  # of two and three batches
    assert len(few) == len(many), "an update waits: for frames that do not lie on the device, or for a number"
    assert 0 < len(few) < 60
    assert [where for where in few if "aten.index" in where] == []


# ---- on fake CUDA tensors ----


@pytest.mark.soak
def test_every_model_on_a_gpu(guard: Path) -> None:
    """Every architecture and decoder input: forward, backward, clipping, evaluation; a training waits once an epoch.
    The number of launches may not grow.
    """
    check(faked(guard, "bf16"), bf16={"torch.bfloat16"})


@pytest.mark.soak
def test_every_model_on_a_gpu_in_other_precisions(guard: Path) -> None:
    """tf32 differs from none in a setting of the process alone."""
    check(faked(guard, "none", "fp16"), none=set(), fp16={"torch.float16"})


# ---- on a CPU ----


def test_cudnn_is_given_the_dtype_that_was_asked_for() -> None:
    """Under autocast `torch.lstm` would choose a dtype of its own."""
    torch.manual_seed(0)
    layer, x = layers.LSTMLayer(5, 4), torch.randn(6, 2, 5)
    own = layer.tensors(layers.LSTMState(None, None), torch.bfloat16, 1)
    expected = layers._torch_lstm(x, own, 6, 2)
    with torch.autocast("cpu", dtype=torch.float16):
        found = layers._torch_lstm(x, own, 6, 2)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    whole = layers._torch_lstm(x, layer.tensors(layers.LSTMState(None, None), torch.float16, 1), 6, 2)
    assert not torch.equal(whole[0], expected[0])  # the dtypes differ in their numbers


@pytest.mark.processes("a Python with its own filters of warnings")
def test_cudnns_warning_of_our_weights_is_not_shown() -> None:
    code = f"import warnings, seqae.lstm.layers; warnings.warn({CUDNN!r}); warnings.warn('another')"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert "another" in said
    assert "RNN module" not in said


def test_a_checkpoint_of_a_gpu_is_loaded_to_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    parts = Stateful(model, torch.optim.Adam(model.parameters()), None, scaler)
    model(torch.ones(1, 2)).sum().backward()
    parts.optimizer.step()
    with monkeypatch.context() as there:
        there.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        save_checkpoint(tmp_path / "state.pt", TrainingState(best=dict(model.state_dict())), parts)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "state.pt", weights_only=True)  # it does say that it was made on one
    state = load_checkpoint(tmp_path / "state.pt", parts)
    assert {weight.device.type for weight in state.best.values()} == {"cpu"}
    assert parts.optimizer.state[model.weight]["step"].device.type == "cpu"


def test_auto_does_not_pass_over_a_gpu_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "NVIDIA_GPU", str(tmp_path / "nvidia0"))
    assert make_accelerator(device="auto").device.type in ("cpu", "mps")  # there is none
    (tmp_path / "nvidia0").touch()

    def refuse() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update it.")

    monkeypatch.setattr(torch.cuda, "init", refuse)
    told = r"device auto: torch .* cannot use this machine's NVIDIA GPU \(The NVIDIA driver on your system is too old"
    with pytest.raises(ValueError, match=told + r" \(found version 11040\)\): install a torch .* or set device: cpu"):
        make_accelerator(device="auto")
    assert make_accelerator(device="cpu").device.type == "cpu"
    for hidden in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert make_accelerator(device="auto").device.type in ("cpu", "mps")


def test_saving_takes_a_twentieth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch takes 10 s here, and a save 30."""
    clock, saves = [0.0], []

    def save(*given: Any) -> None:
        saves.append(clock[0])
        clock[0] += 30

    def record(table: str, rows: Any) -> None:
        clock[0] += 10 * (table == "metrics")

    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(training, "save_checkpoint", save)
    small(epochs=80, record=record, checkpoint=Checkpointing(tmp_path / "state.pt", seconds=25))
    assert saves == [
        30,
        660,
    ]  # 25 s are over after the third epoch; then 600 s, 20 saves, pass from the end of the save
    assert Checkpointing(tmp_path, seconds=25).pause(0.1) == 25
    assert Checkpointing(tmp_path, seconds=0).pause(30) == 0  # every epoch, as asked


def small(**given: Any) -> Any:
    torch.manual_seed(6)
    frames = torch.arange(4 * 3 * 64).reshape(4, 3, 8, 8).to(torch.uint8)
    usual: dict[str, Any] = {
        "objective": Objective("recon", 2, "mse", "none"), "batch_size": 4, "device": "cpu", "val": frames,
        "rule": UpdateRule(optimizer_factory("SGD", learning_rate=0.1)), "train": lambda epoch: frames,
        "record": lambda table, rows: None,
    }  # fmt: skip
    return fit(small_model(), **usual | given)


def test_an_epoch_lies_on_the_device_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, free = torch.zeros(10, 4, 8, 8, dtype=torch.uint8), [0]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 10**9))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)
    moved: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *given: moved.append(given) or self)
    cuda = torch.device("cuda")
    for free[0], moves in ((4 * 2560 - 1, 0), (4 * 2560, 1)):
        assert resident(frames, cuda) is frames
        assert len(moved) == moves
    assert resident(frames, torch.device("cpu")) is frames
    assert resident([frames], cuda) == [frames]  # clips that are read when they are indexed
    assert len(moved) == 1


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (16, 16)])
def test_orthogonal_weights_are_torchs_own(shape: tuple[int, int]) -> None:
    expected, found = torch.empty(shape), torch.empty(shape)
    torch.manual_seed(3)
    torch.nn.init.orthogonal_(expected)
    torch.manual_seed(3)
    first_weights._make_orthogonal(found, "cpu")
    assert torch.equal(found, expected)


def test_orthogonal_weights_are_decomposed_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model, where = small_model(), []
    monkeypatch.setattr(first_weights, "_make_orthogonal", lambda weight, device: where.append(device))
    first_weights.initialise(model, init="orthogonal", device="cuda")
    assert where == ["cuda"] * 4  # two LSTMs


def small_model() -> SequenceAutoencoder:
    return SequenceAutoencoder(
        architecture="srivastava", task="recon", decoder_input="zero", activation="none", hidden=2, frame_size=8,
        frames_in=2, frames_out=1,
    )  # fmt: skip


@pytest.mark.soak
def test_the_fork_server_imports_without_a_call_of_cuda() -> None:
    """A process that has asked CUDA how many devices there are cannot fork children that use them."""
    names = [*fork_server.IMPORTS, *fork_server.TRAINING_IMPORTS]
    code = f"""
import traceback, torch
def seen(name):
    def call(*given, **named):
        raise SystemExit(name + " is called: " + "".join(traceback.format_stack()[-4:]))
    return call
for name in ("is_available", "device_count", "init", "_lazy_init", "is_bf16_supported", "current_device"):
    setattr(torch.cuda, name, seen(name))
for name in {names!r}: __import__(name)
"""
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")
