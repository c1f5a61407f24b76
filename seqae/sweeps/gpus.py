"""TODO"""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from pathlib import Path

import filelock
from dask.system import CPU_COUNT


def slots(per_gpu: int = 1) -> int:
    """How many runs this machine executes at a time: per_gpu on each of its GPUs, or else one on each of its cores."""
    return len(visible_gpus()) * per_gpu or CPU_COUNT


def visible_gpus() -> list[str]:
    """NVIDIA GPUs of this machine, those that $CUDA_VISIBLE_DEVICES leaves, by their UUIDs."""
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
    """Wait for `count` GPUs of this machine, each shared by at most `per_gpu` runs; the environment in which CUDA sees
    those alone. Empty where there is no GPU, or none is asked for. Raises ValueError where there are fewer.
    """
    gpus = visible_gpus() if count else []
    if not gpus:
        yield {}
        return
    if count > len(gpus):
        raise ValueError(f"devices {count}, but {socket.gethostname()} has {len(gpus)} GPUs: use fewer devices")
    folder = Path(tempfile.gettempdir()) / f"seqae-gpus-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    held: list[str] = []
    with ExitStack() as stack:
        with filelock.FileLock(folder / "next"):  # one at a time, or two that want two would wait for each other
            while True:
                # The first share of every GPU before the second of any.
                for share, gpu in product(range(per_gpu), gpus):
                    if len(held) < count and gpu not in held:
                        with suppress(filelock.Timeout):
                            stack.enter_context(filelock.FileLock(folder / f"{gpu}.{share}", timeout=0))
                            held.append(gpu)
                if len(held) == count:
                    break
                time.sleep(0.5)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(held)}
