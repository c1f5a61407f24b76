"""What this machine computes on: its devices and their precisions.

Devices are Accelerate's; mixed precision and gradient scaling are torch's.
"""

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from seqae.tasks import check_choice

# The name of a variable by which a launcher, such as srun or mpirun, tells a process that it is one of several.
LAUNCHER = re.compile("(LOCAL_)?(RANK|WORLD_SIZE)$|(MASTER|ACCELERATE|FSDP|FORK|OMPI|PMI|MV2|MPI)_").match
NVIDIA_GPU = "/dev/nvidia0"  # what a process opens that may use the first GPU
DTYPES = {"none": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_accelerator(*, device: str = "auto", devices: int = 1) -> Accelerator:
    """The accelerator of the first device, or, in a rank of `runs.ranks.launch`, of its own.

    device: auto, cpu, cuda, cuda:N or mps. Raises ValueError where this machine lacks the device, or `devices` of them,
    and for `auto` where it has an NVIDIA GPU that torch cannot use: it never falls back silently.
    """
    kind, _, index = device.partition(":")
    count = {"auto": 1, "cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in count or (":" in device and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps; not {device!r}")
    if int(index or 0) >= count[kind]:
        raise ValueError(f"device {device} is not available on this machine: use device: auto, or cpu")
    if kind == "auto":
        _refuse_unusable_gpu()
    there = 1 if index or kind == "mps" else torch.cuda.device_count()
    if devices > max(there, 1) and kind != "cpu":
        told = f"devices {devices} are more than the GPUs of this machine for device {device}, {there}"
        raise ValueError(f"{told}: use devices: {max(there, 1)}, or device: cpu, whose cores {devices} processes share")
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may train one run after another
    if index:
        torch.cuda.set_device(int(index))
    # A decoder that reads zeros has weights that read nothing. Without a gradient they stay as they are.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Only `launch` makes a process one of several. Told so by others, Accelerate would wait for what they have started.
    alone = not torch.distributed.is_initialized()
    launched = {name: os.environ.pop(name) for name in [*os.environ] if alone and LAUNCHER(name)}
    try:
        return Accelerator(cpu=kind == "cpu", mixed_precision="no", kwargs_handlers=[unused])
    finally:
        os.environ.update(launched)


def _refuse_unusable_gpu() -> None:
    # One that is hidden, or that this process may not open (a container, a job without GPUs), is not meant.
    if torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"):
        return
    with suppress(OSError):
        os.close(os.open(NVIDIA_GPU, os.O_RDWR))
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            told = f"cannot use this machine's NVIDIA GPU ({str(error).partition('. ')[0]})"
            remedy = "install a torch that fits its driver, or set device: cpu"
            raise ValueError(f"device auto: torch {torch.__version__} {told}: {remedy}") from None


def resident(frames: Any, device: torch.device) -> Any:
    """A tensor on a CUDA device, where it takes at most a quarter of the memory that is free there, or as it is; other
    `data.Frames` as they are.

    Batches that are indexed on the device need no copy, and nothing waits for one.
    """
    if device.type != "cuda" or not isinstance(frames, torch.Tensor):
        return frames
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return frames.to(device) if 4 * frames.nbytes <= torch.cuda.mem_get_info(device)[0] + cached else frames


def mixed_precision(device: torch.device, precision: str) -> tuple[torch.autocast, torch.amp.GradScaler]:
    """The context of the forward pass and the scaler of its loss (Micikevicius et al., 2018, §3.2).

    For `none` and `tf32` both do nothing. tf32 is float32 whose products have 10 bits of mantissa on NVIDIA's tensor
    cores; this function switches it on or off for the whole process. (Accelerate would train fp16 on a CPU in float32.)

    Raises ValueError where the device cannot compute in it: never falls back silently.
    """
    check_choice("precision", precision, DTYPES)
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"{torch.cuda.get_device_name(device)} has no bf16: use precision: fp16, or none")
    if precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        raise ValueError(f"{device.type} has no tf32, NVIDIA GPUs since Ampere do: use precision: none, or bf16")
    if device.type == "cuda":  # convolutions and cuDNN's LSTM would take tf32 unasked
        backends: Any = torch.backends
        # Set as well, the older settings can still be read and set, by inductor for one.
        backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = precision == "tf32"
        for backend in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    autocast = torch.autocast(device.type, dtype=DTYPES[precision], enabled=DTYPES[precision] is not None)
    return autocast, torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def seed_draws(seed: int) -> None:
    """Seed torch's random numbers on all devices as `torch.manual_seed` does, in a hundredth of its 0.2 ms."""
    for generator in (torch.default_generator, *torch.cuda.default_generators):
        generator.manual_seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """In the block, torch's random numbers are those of the seed, on all devices; afterwards they go on as if none had
    been drawn, but on MPS.
    """
    # `manual_seed` seeds every CUDA device, whichever the model is on.
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        torch.manual_seed(seed)
        yield


def keep_freed_memory(keep: bool = True) -> None:
    """Have glibc keep what this process frees for what it allocates next.

    It would return large blocks to the kernel, and every update get them back page by page, full of zeros: 20,000
    page faults and a tenth of the time of an update at 1,024 pixels, 256 hidden, 64 sequences. It stays so until the
    process ends, which may then hold 2 GiB that it does not use, or until it is taken back: with keep False glibc does
    what it does by itself once it has seen large blocks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        _ = mallopt(-3, 2**30 if keep else 2**25) or mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, at most 2**25 in old ones
        mallopt(-1, 2**31 - 1 if keep else 2**26)  # M_TRIM_THRESHOLD
