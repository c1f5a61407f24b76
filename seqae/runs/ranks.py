"""`launch`: runs one function in several processes of this machine, the ranks of one torch process group.

`accelerate.notebook_launcher` forks instead, which fails in a kernel that has computed or has used a GPU. Here each
rank is a new interpreter that imports the function. A socket pair connects it to this process; no port is opened.
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
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from seqae.device import LAUNCHER

FAULT_GRACE_SECONDS = 2.0  # for other ranks to report theirs: the first fault reported need not be the cause


class RankError(RuntimeError):
    """A rank raised an error or died; the message says which one and why. All ranks have been stopped."""


@dataclass(frozen=True)
class _Fault:
    # when: by the monotonic clock of the machine; 0 for a rank that died, since errors of others may follow from that.
    when: float
    rank: int
    reason: str | None
    trace: str | None


def launch(function: Callable[..., Any], count: int, *args: Any, device: str, **named: Any) -> Any:
    """Call function(*args, **named) in `count` processes and return what rank 0 returns.

    function: must be at the top level of a module. args, named and the result are pickled. Callables among `named`
    stay in this process: rank 0 calls them here and waits for them, calls of other ranks do nothing. device: `cpu`
    connects the ranks with gloo; otherwise rank N has GPU N, and NCCL connects them. Accelerate uses this process
    group. The ranks share the number of threads of this process. All ranks end with this call and, on Linux, with this
    process. Raises RankError, or what one of the callables raises.
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
                    command = f"from seqae.runs.ranks import serve_rank; serve_rank({there.fileno()}, {os.getpid()})"
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, "-P", "-c", command],
                            env=_environment(rank, count),
                            pass_fds=[there.fileno()],
                            stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL,
                        )
                    )
                pipes.append(here)
            request = pickle.dumps((f"file://{folder}/store", device, function, args, given, [*calls]))
            for pipe in pipes:
                with suppress(OSError):  # it died; `_answer` reports that
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
    ranks["FORK_LAUNCHED"] = 1  # then Accelerate uses the existing process group
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # DDP warns of its search for unused weights
    ranks["OMP_NUM_THREADS"] = max(1, torch.get_num_threads() // count)
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    local = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    inherited = {name: value for name, value in os.environ.items() if not LAUNCHER(name)}
    return inherited | quiet | local | path | {name: str(value) for name, value in ranks.items()}


def _answer(processes: list[subprocess.Popen], pipes: list[Connection], calls: dict[str, Callable[..., Any]]) -> Any:
    # Answers calls until all ranks are done. After a fault it waits for other reports for FAULT_GRACE_SECONDS: ranks
    # without a fault of their own hang in an exchange with the one that failed.
    result, running = None, {pipe: rank for rank, pipe in enumerate(pipes)}
    faults: list[_Fault] = []
    while running and (ready := wait([*running], FAULT_GRACE_SECONDS if faults else None)):
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                kind, *content = pickle.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                kind, content = "died", [0.0, None, None]
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
                faults.append(_Fault(content[0], rank, *content[1:]))
    if not faults:
        return result
    first = min(faults, key=lambda fault: (fault.when, fault.rank))
    error = RankError(f"rank {first.rank} of {len(pipes)}: {first.reason or _death(processes[first.rank])}")
    if first.trace:
        error.add_note(first.trace)
    raise error


def _death(process: subprocess.Popen) -> str:
    code = process.wait()
    if code == -signal.SIGKILL:
        return "killed, or out of memory"
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def serve_rank(descriptor: int, parent: int) -> None:
    """What `launch` runs in a new interpreter. descriptor: of its end of the socket pair. parent: its process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Jupyter interrupts the whole group; the kernel stops its ranks
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        return
    rank, count, pipe = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), Connection(descriptor)
    try:
        where, device, function, args, given, calls = pickle.loads(pipe.recv_bytes())
        # gloo on machines with GPUs, too: metrics of val are summed on the CPU.
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        torch.distributed.init_process_group(backend, init_method=where, rank=rank, world_size=count)
        torch.distributed.all_reduce(torch.zeros(1))  # so that none ends while another one still connects to it
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
