"""`launch`: one function in several processes of this machine, a rank each, joined into one torch process group.

Not `accelerate.notebook_launcher`: it forks, which a notebook's kernel that has computed, or has touched a GPU, cannot.
Ranks are new interpreters that import what they call; between notebook and rank there is one socket, and no port.
"""

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

GRACE = 2.0  # seconds after a first fault in which other ranks may tell theirs: the first told need not be the cause


class RankError(RuntimeError):
    """A rank raised an error, or died; the message says which one and why. All ranks are stopped."""


def launch(function: Callable[..., Any], count: int, *args: Any, device: str, **named: Any) -> Any:
    """Call function(*args, **named) in `count` processes and return what rank 0 returns.

    function: a module's own, found by its name; args, named and the result are pickled. Callables among `named` stay
    here: rank 0's calls of them are made in this process and waited for, those of other ranks do nothing. device: cpu
    joins ranks by gloo, others rank N's GPU N by NCCL; Accelerate finds them joined. This process's threads are shared
    among them. None outlives this call, or, on Linux, this process. Raises RankError, or what a callable here raises.
    """
    calls = {name: value for name, value in named.items() if callable(value)}
    given = {name: value for name, value in named.items() if name not in calls}
    processes: list[subprocess.Popen] = []
    pipes: list[Connection] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank in range(count):
                here, there = Pipe()
                with there:
                    command = f"from seqae.runs.ranks import serve; serve({there.fileno()}, {os.getpid()})"
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, "-c", command],
                            env=_environment(rank, count),
                            pass_fds=[there.fileno()],
                            stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL,
                        )
                    )
                pipes.append(here)
            request = pickle.dumps((f"file://{folder}/store", device, function, args, given, [*calls]))
            for pipe in pipes:
                with suppress(OSError):  # it died, as reading from it will tell
                    pipe.send_bytes(request)
            return _answer(processes, pipes, calls)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()
            for pipe in pipes:
                pipe.close()


def _environment(rank: int, count: int) -> dict[str, str]:
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    ranks["FORK_LAUNCHED"] = 1  # Accelerate then leaves the process group to whoever made it
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # DDP warns where every weight has a gradient, and that it would look
    ranks["OMP_NUM_THREADS"] = max(1, torch.get_num_threads() // count)
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    local = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return os.environ | quiet | local | path | {name: str(value) for name, value in ranks.items()}


def _answer(processes: list[subprocess.Popen], pipes: list[Connection], calls: dict[str, Callable[..., Any]]) -> Any:
    # Serve the ranks until all are done; after a fault until all have told theirs, or are silent: they wait for it.
    result, running = None, {pipe: rank for rank, pipe in enumerate(pipes)}
    faults: list[tuple[Any, ...]] = []  # when, rank, reason, traceback
    while running and (ready := wait([*running], GRACE if faults else None)):
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                kind, *content = pickle.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                kind, content = "died", [0.0, None, None]  # before any error, which may be what others make of it
            if kind == "call":
                name, args = content
                answer = pickle.dumps(calls[name](*args))
                with suppress(OSError):
                    pipe.send_bytes(answer)
                continue
            rank = running.pop(pipe)
            if kind == "done":
                result = content[0] if rank == 0 else result
            else:
                faults.append((content[0], rank, *content[1:]))
    if not faults:
        return result
    _, rank, reason, trace = min(faults, key=lambda fault: fault[:2])
    error = RankError(f"rank {rank} of {len(pipes)}: {reason or _death(processes[rank])}")
    if trace:
        error.add_note(trace)
    raise error


def _death(process: subprocess.Popen) -> str:
    code = process.wait()
    if code == -signal.SIGKILL:
        return "killed, or out of memory"
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def serve(descriptor: int, parent: int) -> None:
    """Be a rank: what `launch` runs in a new interpreter, with its end of a socket and its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Jupyter interrupts a kernel's whole group; the kernel then stops us
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        return
    rank, count, pipe = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), Connection(descriptor)
    try:
        where, device, function, args, given, calls = pickle.loads(pipe.recv_bytes())
        # Metrics of val are summed on the CPU, on machines with GPUs as well.
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        torch.distributed.init_process_group(backend, init_method=where, rank=rank, world_size=count)
        named = {name: partial(_call, pipe, name) if rank == 0 else lambda *_: None for name in calls}
        result = function(*args, **given, **named)
        answer = pickle.dumps(("done", result if rank == 0 else None))
        torch.distributed.destroy_process_group()
    except Exception as error:
        told = time.monotonic(), f"{type(error).__name__}: {error}", traceback.format_exc()
        answer = pickle.dumps(("error", *told))
    pipe.send_bytes(answer)


def _call(pipe: Connection, name: str, *args: Any) -> Any:
    pipe.send_bytes(pickle.dumps(("call", name, args)))
    return pickle.loads(pipe.recv_bytes())
