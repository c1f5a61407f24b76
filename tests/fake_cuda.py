"""Run by test_cuda.py in a process of its own: models on fake CUDA tensors, and what a GPU would be asked to do.

Fake tensors have shapes, dtypes and devices, but no numbers. Prints one JSON object. Arguments: the compiled
cuda_guard.cpp, which has to be loaded before torch, and precisions. Decoders that read
true frames are evaluated as well: that pass differs from the one in training.
"""

import ctypes
import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

ctypes.CDLL(sys.argv[1])

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

torch.set_num_threads(1)
named: Any = torch.cuda
named.is_available = lambda: True
named.is_bf16_supported = lambda **given: True
named.mem_get_info = lambda device: (80 * 2**30, 80 * 2**30)
named.memory_reserved = named.memory_allocated = lambda device: 0

import seqae.contract  # noqa: E402
import seqae.evaluation  # noqa: E402
import seqae.lstm.layers  # noqa: E402
from seqae import training  # noqa: E402
from seqae.architectures import ARCHITECTURES  # noqa: E402
from seqae.device import DTYPES  # noqa: E402
from seqae.evaluation import evaluate  # noqa: E402
from seqae.runs import experiment, resolve  # noqa: E402
from seqae.runs.optimizers import optimizer_factory  # noqa: E402
from seqae.updates import UpdateRule, clip_gradients, gradients  # noqa: E402

for module in (seqae.contract, seqae.evaluation):
    module.seeded = lambda seed: nullcontext()  # type: ignore[attr-defined]  # there is no generator
DEVICE = SimpleNamespace(
    device=torch.device("cuda:0"), num_processes=1, process_index=0, is_main_process=True, prepare_model=lambda m: m
)
LSTM_KERNELS = 2  # what cuDNN's layer is counted as, forward and backward alike


class CudnnLSTM(torch.autograd.Function):
    """Stands for cuDNN's layer, which a torch without CUDA does not have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x, h, c, *weights)
        watch.see_lstm(x, h, c, *weights)
        return x.new_empty(*x.shape[:2], h.shape[2]), h.new_empty(h.shape), c.new_empty(c.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        watch.launches += LSTM_KERNELS
        pairs = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        return tuple(torch.empty_like(tensor) if needed else None for tensor, needed in pairs)


class Torch:
    """torch, with cuDNN's LSTM."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def lstm(x: Tensor, state: Any, weights: Any, *rest: Any) -> Any:
        return CudnnLSTM.apply(x, *state, *weights)


seqae.lstm.layers.torch = Torch()  # type: ignore[assignment]


class Watch(TorchDispatchMode):
    """Counts launches; notes where the host waits for the device or copies to it, and what a GPU would refuse.

    waits: where in seqae numbers are read back, or tensors with axes go from host to device or back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0
        self.waits: list[str] = []
        self.faults: set[str] = set()
        self.dtypes: set[str] = set()

    def see_lstm(self, *tensors: Tensor) -> None:
        self.launches += LSTM_KERNELS
        self.dtypes |= {str(tensor.dtype) for tensor in tensors}
        if torch.is_autocast_enabled("cuda"):
            self.faults.add("cuDNN's layer is called under autocast, which makes it float16")
        if len({tensor.dtype for tensor in tensors}) > 1:
            self.faults.add("cuDNN's layer is given tensors of several dtypes")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func)
        if name == "aten._local_scalar_dense.default":
            if args[0].is_cuda:
                self.waits.append(f"a number read at {place()}")
            return 0.5
        result = func(*args, **kwargs)
        given, made = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in ((args, kwargs), result))
        devices = {tensor.device.type for tensor in given + made if tensor.dim()}
        if len(devices) > 1 and not name.startswith("prim"):
            copied = "copy" in name or name.startswith("aten.to.")
            (self.waits.append if copied else self.faults.add)(f"{name} at {place()}")
        if name == "aten.nonzero.default":
            self.waits.append(f"{name} at {place()}")
        self.dtypes |= {str(tensor.dtype) for tensor in made}
        if "convolution" in name and "lstm/linear" in place():
            flat = [t for t in given if t.dim() == 4 and not t.is_contiguous(memory_format=torch.channels_last)]
            self.faults |= {f"{name} at {place()} has a tensor that is not channels_last" for _ in flat}
        self.launches += not (func.is_view or "empty" in name or name.startswith(("prim", "aten.detach", "aten.sym")))
        return result


def place() -> str:
    """Where in seqae this is called from."""
    frame: Any = sys._getframe(1)
    while frame is not None and "/seqae/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return "?" if frame is None else f"{frame.f_code.co_filename.split('/seqae/')[-1]}:{frame.f_lineno}"


watch = Watch()


def parameters(architecture: str, **given: Any) -> Any:
    row = ARCHITECTURES[architecture]
    size: Any = {"frame_size": 64, "width": 1 / 16} if row.channels else {"frame_size": 16, "width": 0.05}
    usual = {"loss": "0sb", "task": "both", "batch_size": 3, "frames_in": 3, "frames_out": 2}
    return resolve(usual | size | {"architecture": architecture} | given)


def one_update(p: Any) -> dict[str, Any]:
    """An update's forward and backward pass and clipping, and an evaluation of two batches."""
    global watch
    with torch.device("cuda"):
        model = experiment.build_model(p).train()
    shape = 2 * p.batch_size, p.frames_in + p.frames_out, *p.frame_shape
    frames, objective = torch.empty(shape, dtype=torch.uint8, device="cuda"), experiment.objective_of(p)
    optimizer = optimizer_factory("Adam", learning_rate=0.001)(list(model.parameters()))
    autocast = torch.autocast("cuda", dtype=DTYPES[p.precision], enabled=DTYPES[p.precision] is not None)
    scaler: Any = SimpleNamespace(scale=lambda loss: loss, is_enabled=lambda: False)
    with Watch() as watch:
        given: Any = {"objective": objective, "optimizer": optimizer, "autocast": autocast, "scaler": scaler}
        found = gradients(model, frames[:3], **given)
        norm = clip_gradients(list(model.parameters()), 1.0)
    update = watch
    results = [norm, found.objective, *tree_leaves(found.errors), *(w.grad for w in model.parameters())]
    wrong = {f"{t.dtype} on {t.device}" for t in results if t is not None} - {"torch.float32 on cuda:0"}
    evaluated: list[str] = []
    if p.decoder_input == "truth":
        with Watch() as watch:
            evaluate(model, frames, 3, objective, statistics=True)
        evaluated = watch.waits
    return {
        "launches": update.launches, "waits": update.waits, "dtypes": sorted(update.dtypes),
        "faults": sorted(update.faults | watch.faults | wrong), "evaluated": evaluated,
    }  # fmt: skip


def a_training(p: Any, batches: int) -> list[str]:
    """Where `fit` waits in an epoch of so many batches."""
    global watch
    training.make_accelerator = lambda **given: DEVICE  # type: ignore[assignment]
    training.can_capture = lambda *given: False
    autocast = torch.autocast("cuda", dtype=DTYPES[p.precision], enabled=DTYPES[p.precision] is not None)
    training.mixed_precision = lambda *given: (autocast, torch.amp.GradScaler("cuda", enabled=False))
    with torch.device("cuda"):
        model = experiment.build_model(p)
    shape = batches * p.batch_size - 1, p.frames_in + p.frames_out, *p.frame_shape
    frames = torch.empty(shape, dtype=torch.uint8)
    with Watch() as watch:
        training.fit(
            model, lambda epoch: frames, frames, objective=experiment.objective_of(p), epochs=1,
            batch_size=p.batch_size, record=lambda table, rows: None,
            rule=UpdateRule(optimizer_factory("Adam", learning_rate=0.001), clip_norm=1.0, precision=p.precision),
        )  # fmt: skip
    return watch.waits + sorted(watch.faults)


found: dict[str, Any] = {"updates": {}}
with FakeTensorMode(allow_non_fake_inputs=True):
    p = parameters("srivastava", peepholes=True, precision=sys.argv[2])
    found["trainings"] = [a_training(p, batches) for batches in (2, 3)]
    for architecture in ARCHITECTURES:
        for reads in ("zero", "output", "truth"):
            for peepholes in (False, True) if architecture in ("srivastava", "convlstm") else (None,):
                for precision in sys.argv[2:]:
                    p = parameters(architecture, decoder_input=reads, peepholes=peepholes, precision=precision)
                    case = f"{architecture} {reads}{' peepholes' * bool(peepholes)} {precision}"
                    found["updates"][case] = one_update(p)
sys.stdout.write(json.dumps(found))
