"""A process that has imported what kernels need, and forks a kernel whenever it is asked for one.

Importing torch, seaborn and the rest takes a kernel as long as a small run trains. Forked, every run still has a
process of its own. The server never computes: a process that has started no threads can be forked safely.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

IMPORTS = (
    *("torch", "torch._dynamo", "torchmetrics.functional.image", "seaborn", "pandas.io.formats.style"),
    *("ipykernel.kernelapp", "seqae.reports.compare", "seqae.reports.figures.grids", "seqae.runs.run"),
)


class Forked:
    """A kernel forked by the server: as much of `subprocess.Popen` as jupyter_client asks for."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0  # how it ended the server does not tell; run.yaml tells what became of the run
        return None

    def wait(self) -> int | None:
        return self.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    def __init__(self) -> None:
        self.lock = Lock()
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from seqae.sweeps.forkserver import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # numpy's BLAS starts its threads at import; torch its own with the first computation, in the kernel
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
            start_new_session=True,
        )
        atexit.register(self.close)

    def close(self) -> None:
        atexit.unregister(self.close)
        self.process.kill()  # at the end of stdin it would end in the same way, but after its imports
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        self.process.wait()

    def fork(self, request: Mapping[str, Any]) -> int:
        with self.lock:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return int(self.process.stdout.readline())


_servers: list[_Server] = []  # the one of this process; none before the first kernel
_starting = Lock()


def _server(instead_of: _Server | None = None) -> _Server:
    # The one that is there, or another for one that died; of threads that used that one, the first makes it.
    with _starting:
        if instead_of in _servers:
            _servers.pop().close()
        if not _servers:
            _servers.append(_Server())
        return _servers[0]


def prepare() -> None:
    """Begin now what the first kernel would wait for: the server's imports, four seconds of them. On Linux alone."""
    if sys.platform == "linux":
        _server()


def fork_kernel(arguments: Sequence[str], *, env: Mapping[str, str], cwd: str | None) -> Forked:
    """A kernel started with these arguments of ipykernel, in an environment and a folder of its own.

    It leads its own process group. When this process dies, the server sees it and dies, and the kernel after it.
    Raises OSError if the server dies, and another in its place as well.
    """
    request = {"arguments": list(arguments), "env": dict(env), "cwd": cwd}
    server = None
    for _ in range(2):
        server = _server(instead_of=server)
        try:
            return Forked(server.fork(request))
        except (OSError, ValueError) as error:  # killed, or out of memory
            reason = error
    raise OSError(f"the process that forks kernels died twice: {reason}")


def serve() -> None:
    """Import, then answer each line of stdin, a request as JSON, with the process id of a new kernel; until its end."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # Slurm sends it to all; kernels still have a checkpoint to write
        signal.signal(stop, signal.SIG_IGN)
    answers = os.dup(1)
    with open(os.devnull, "r+b", buffering=0) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 1)
    for name in IMPORTS:
        with suppress(ImportError):  # the kernel that needs it will say so
            __import__(name)
    with suppress(ImportError):
        from seqae.runs import keep_code_version

        keep_code_version()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for kernels: leave no zombies
    while line := sys.stdin.buffer.readline():
        if (pid := os.fork()) == 0:
            os.close(answers)
            _become_kernel(json.loads(line))
        with suppress(OSError):  # here as well as in the kernel: whoever comes first, nobody sees it otherwise
            os.setpgid(pid, pid)
        with suppress(BrokenPipeError):  # who asked has died: so will this, with the end of stdin, and the kernel
            os.write(answers, f"{pid}\n".encode())
    os._exit(0)  # at once: whoever asked waits, and the end of all that is imported takes a second


def _become_kernel(request: Mapping[str, Any]) -> None:
    try:
        server = os.getppid()
        os.setpgid(0, 0)
        with open(os.devnull, "r+b", buffering=0) as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(request["env"])
        if request["cwd"]:
            os.chdir(request["cwd"])
        sys.modules["numpy"].random.seed()  # else all kernels would draw the same numbers; Python's own reseeds itself
        from ipykernel.kernelapp import IPKernelApp

        # The kernel ends when this parent does: ipykernel has read JPY_PARENT_PID when it was imported. Figures become
        # pictures: pyplot makes itself known to IPython when it is imported, which was before there was one.
        arguments = [*request["arguments"], f"--IPKernelApp.parent_handle={server}", "--matplotlib=inline"]
        sys.argv = ["ipykernel_launcher", *arguments]
        IPKernelApp.launch_instance(argv=arguments)
    finally:
        os._exit(0)
