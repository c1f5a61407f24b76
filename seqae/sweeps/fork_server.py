"""The fork server: a process that has imported what kernels need, and forks a kernel for every request.

Importing torch, seaborn and the rest takes as long as a small run trains. A forked kernel skips the imports, and every
run still has its own process. The server computes nothing, so it has no threads and can be forked safely.
"""

import atexit
import gc
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
    *("torch", "seaborn", "pandas.io.formats.style", "ipykernel.kernelapp"),
    *("seqae.reports.compare", "seqae.reports.figures.grids", "seqae.runs.run"),
)
TRAINING_IMPORTS = ("torch._dynamo", "torchmetrics.functional.image")  # by optimizers, by the metrics of the test


class Forked:
    """A kernel forked by the server, with the part of the interface of `subprocess.Popen` that jupyter_client uses."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0  # the exit code is unknown, and not needed: run.yaml records how the run ended
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
    def __init__(self, trains: bool) -> None:
        self.lock, self.trains = Lock(), trains
        self.process = subprocess.Popen(
            # -P: a clone in the working folder, which a worker begun by ssh has in its home, is a folder and no package
            [
                *(sys.executable, "-P", "-c"),
                f"from seqae.sweeps.fork_server import serve_forks; serve_forks(trains={trains})",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # numpy's BLAS would start threads at import. torch starts its own at the first computation, in the kernel.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
            start_new_session=True,
        )
        atexit.register(self.close)

    def close(self) -> None:
        atexit.unregister(self.close)
        self.process.kill()  # at the end of its stdin it would end as well, but only after its imports
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


_servers: list[_Server] = []  # at most one, started for the first kernel
_starting = Lock()


def _server(*, instead_of: _Server | None = None, trains: bool = True) -> _Server:
    # The running server, started if needed. instead_of: a server that died; the first thread to ask replaces it.
    with _starting:
        if instead_of in _servers:
            dead = _servers.pop()
            dead.close()
            trains = dead.trains
        if not _servers:
            _servers.append(_Server(trains))
        return _servers[0]


def start_fork_server(*, trains: bool = True) -> None:
    """Start the server, so that its imports are done when the first kernel is needed. Linux only.

    trains: whether its kernels train, which takes 4 s more to import. Without it they can, and import that themselves.
    """
    if sys.platform == "linux":
        _server(trains=trains)


def fork_kernel(arguments: Sequence[str], *, env: Mapping[str, str], cwd: str | None) -> Forked:
    """Start a kernel: a fork of the server that runs ipykernel with these arguments, environment and working folder.

    The kernel leads its own process group. When this process dies, the server ends, and then the kernel. Raises OSError
    if the server dies and the one that replaces it dies, too.
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


def serve_forks(*, trains: bool) -> None:
    """The server's main function: import, then answer requests until the end of stdin. trains: as given at the start.

    A request is a line of JSON on stdin: arguments, env, cwd. The answer is the process id of a new kernel, on stdout.
    """
    # Slurm sends SIGTERM to all processes. If this one died of it, kernels would end before they write a checkpoint.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    answers = os.dup(1)
    with open(os.devnull, "r+b", buffering=0) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 1)
    gc.disable()  # nothing of what is imported is garbage, and looking for it takes a third of the time
    if not trains:  # seaborn takes a kernel density of its own where there is no scipy.stats, which takes a second
        sys.modules["scipy.stats"] = None  # type: ignore[assignment]
        with suppress(ImportError):
            __import__("seaborn")
        del sys.modules["scipy.stats"]
    for name in IMPORTS + TRAINING_IMPORTS * trains:
        with suppress(ImportError):  # the kernel that needs the module reports the error
            __import__(name)
    gc.freeze()  # kernels neither look through it again nor, by looking, copy its pages
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for kernels: leave no zombies
    while line := sys.stdin.buffer.readline():
        if (pid := os.fork()) == 0:
            os.close(answers)
            _become_kernel(json.loads(line))
        with suppress(OSError):  # also called in the kernel; either call may come first
            os.setpgid(pid, pid)
        with suppress(BrokenPipeError):  # the parent has died: stdin ends, so this process and the kernel end, too
            os.write(answers, f"{pid}\n".encode())
    os._exit(0)  # the usual exit would take a second, to tear down all imported modules


def _become_kernel(request: Mapping[str, Any]) -> None:
    try:
        server = os.getppid()
        os.setpgid(0, 0)
        with open(os.devnull, "r+b", buffering=0) as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.enable()
        os.environ.clear()
        os.environ.update(request["env"])
        if request["cwd"]:
            os.chdir(request["cwd"])
        sys.path.insert(0, "")  # the notebook's folder, as in Jupyter; after -P IPython leaves it out
        sys.modules["numpy"].random.seed()  # else all kernels would draw the same numbers; `random` reseeds itself
        from ipykernel.kernelapp import IPKernelApp

        # ipykernel read JPY_PARENT_PID at import, in the server: parent_handle makes the kernel end with the server.
        # pyplot registers with IPython at import, when there was no IPython yet: --matplotlib does it now.
        arguments = [*request["arguments"], f"--IPKernelApp.parent_handle={server}", "--matplotlib=inline"]
        sys.argv = ["ipykernel_launcher", *arguments]
        IPKernelApp.launch_instance(argv=arguments)
    finally:
        os._exit(0)
