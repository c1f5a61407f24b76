"""The GPUs of this machine: how many runs may execute at a time, and which GPUs a run gets.

A GPU is held by a run through a file lock of the machine, not by a worker. So two runs never share a GPU by accident,
whichever sweeps, workers and users they belong to, and the lock of a process that dies is released.
A run that names its GPU, device: cuda:N, takes it as it is, and holds none.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import product

from dask.system import CPU_COUNT

from seqae.stores import open_for_all_users


def slots(per_gpu: int = 1) -> int:
    """How many runs this machine executes at a time: `per_gpu` on each GPU, or one on each core if it has no GPU."""
    return len(visible_gpus()) * per_gpu or CPU_COUNT


def visible_gpus() -> list[str]:
    """The UUIDs of this machine's NVIDIA GPUs, limited to those in $CUDA_VISIBLE_DEVICES if that is set."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    command = [tool, "--query-gpu=index,uuid", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    gpus = dict(line.split(", ") for line in listed if ", GPU-" in line)
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return list(gpus.values())
    names = [gpus.get(name.strip(), name.strip()) for name in chosen.split(",")]
    return [name for name in names if name.startswith(("GPU-", "MIG-"))]


@contextmanager
def held_gpus(count: int, *, per_gpu: int = 1) -> Iterator[dict[str, str]]:
    """Wait for `count` GPUs of this machine and hold them; at most `per_gpu` runs share one.

    Yields the environment variables that limit CUDA to these GPUs: none if `count` is 0 or the machine has no GPU.
    Raises ValueError if the machine has fewer GPUs.
    """
    gpus = visible_gpus() if count else []
    if not gpus:
        yield {}
        return
    if count > len(gpus):
        raise ValueError(f"devices {count}, but {socket.gethostname()} has {len(gpus)} GPUs: use fewer devices")
    held: list[str] = []
    with ExitStack() as stack:
        # One run at a time: two runs that need two GPUs and hold one each would wait forever.
        with _locked("next"):
            while True:
                # Take the first share of every GPU before the second share of any.
                for share, gpu in product(range(per_gpu), gpus):
                    if len(held) < count and gpu not in held:
                        with suppress(BlockingIOError):
                            stack.enter_context(_locked(f"{gpu}.{share}", wait=False))
                            held.append(gpu)
                if len(held) == count:
                    break
                time.sleep(0.5)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(held)}


@contextmanager
def _locked(name: str, *, wait: bool = True) -> Iterator[None]:
    # Raises BlockingIOError if another process holds it, and this one does not wait.
    import fcntl  # here, because all modules can be imported where there is none

    descriptor = open_for_all_users(f"seqae-gpu-{name}.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
