"""A notebook executed by papermill in a kernel of this process, which dies with it.

Dask runs this in its workers; several may run in one process, each in a thread.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from distributed import WorkerPlugin
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from seqae.sweeps.forkserver import fork_kernel

SCHEME = "seqae:"  # begins papermill's names of our files, so that an executed notebook holds no machine's paths
AUTOSAVE = 2  # seconds between saves of a notebook within a cell
NOT_STARTED = "the kernel died before it ran anything"  # of ports that another one took meanwhile, say
TICK = 0.05  # seconds between looks at a kernel that is to end
GRACE = 5  # seconds that an interrupted kernel has to end the update under way and write a checkpoint
_sources: dict[str, str] = {}  # papermill's name: a notebook's JSON text
_targets: dict[str, Path] = {}  # papermill's name: the file to write
_kernels: dict[Path, int | None] = {}  # the file written: process id of its kernel, 0 before; None: to be stopped


class ForkedProvisioner(LocalProvisioner):
    """Starts kernels by `forkserver`; an entry point of this package, named `seqae-fork`."""

    async def launch_kernel(self, cmd: list[str], **arguments: Any) -> KernelConnectionInfo:
        # cmd is: python -m ipykernel_launcher, and what that takes
        forked = fork_kernel(cmd[3:], env=arguments["env"], cwd=arguments.get("cwd"))
        self.process, self.pid, self.pgid = forked, forked.pid, forked.pid  # type: ignore[assignment]
        return self.connection_info


class StoppedError(Exception):
    """The kernel was interrupted, by `stop_kernels` or somebody else; its run goes on when it is executed again."""


def execute_notebook(
    source: str, target: Path, *, name: str, parameters: Mapping[str, Any], environment: Mapping[str, str]
) -> str | None:
    """Execute a notebook's JSON text into the file `target`; return why it failed, or None. May raise `StoppedError`.

    name: what the executed notebook calls itself. environment: set for the kernel, over this process's own.
    """
    import papermill  # takes a second
    from papermill.iorw import papermill_io

    if SCHEME not in dict(papermill_io._handlers):
        papermill_io.register(SCHEME, _Files)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it warns of parameters that only our model knows
    origin, written = f"{SCHEME}{name}/source.ipynb", f"{SCHEME}{name}/{target.name}"
    _sources[origin], _targets[written] = source, target
    try:
        papermill.execute_notebook(
            origin,
            written,
            dict(parameters),
            kernel_name="python3",
            language="python",
            kernel_manager_class=_kernel_class(target, environment),
            progress_bar=False,
            autosave_cell_every=AUTOSAVE,
            start_timeout=120,
            extra_arguments=["--log-level=CRITICAL"],  # a kernel whose worker died says so, on the user's terminal
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt" or _stopped(target):  # asked to stop, a cell may say so in other words
            raise StoppedError from None
        return f"{error.ename}: {error.evalue}".rstrip(": ")
    except Exception as error:
        if _stopped(target):
            raise StoppedError from None
        if "before replying" in str(error):
            return NOT_STARTED
        died = "kernel died" in str(error).lower()
        return "the kernel died: killed, or out of memory" if died else f"{type(error).__name__}: {error}"
    finally:
        _sources.pop(origin), _targets.pop(written), _kernels.pop(target, None)
    return None


@contextmanager
def stoppable(target: Path) -> Iterator[None]:
    """Meanwhile `stop_kernels` knows of a kernel that writes this file, though it may not have been started yet."""
    _kernels[target] = 0
    try:
        yield
    finally:
        _kernels.pop(target, None)


def stop_kernels(targets: set[Path] | None = None) -> None:
    """Stop the kernels that write these files, none: all of this process; what they were doing is to be resumed.

    They are interrupted, so that training leaves a checkpoint, and killed if they live on for `GRACE` seconds. Does not
    wait for that.
    """
    for target in [*_kernels] if targets is None else targets & _kernels.keys():
        pid, _kernels[target] = _kernels[target], None
        if pid:
            Thread(target=_end, args=(pid,), daemon=True).start()


def _stopped(target: Path) -> bool:
    return _kernels.get(target, 0) is None


def _end(pid: int) -> None:
    # A kernel and what it has started: it leads its own process group. Asked once a cell, since what ends in order is
    # not to be disturbed; where it cannot be seen whether it hears, again and again.
    asked = False
    with suppress(ProcessLookupError):
        for tick in range(int(GRACE / TICK)):
            hears = _hears(pid)
            if (hears and not asked) or (hears is None and tick % 10 == 0):
                os.killpg(pid, signal.SIGINT)
            asked = bool(hears)
            time.sleep(TICK)
            os.killpg(pid, 0)
        os.killpg(pid, signal.SIGKILL)


def _hears(pid: int) -> bool | None:
    # Before its first cell, and between cells, a kernel ignores SIGINT. None: this system does not say.
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    ignored = int(status.split("SigIgn:")[1].split()[0], 16)
    return not ignored & 1 << signal.SIGINT - 1


class StopKernels(WorkerPlugin):
    """For Dask's workers: one that closes, because it was told to or has lost its scheduler, stops its kernels."""

    name = "seqae-stop-kernels"
    idempotent = True  # registered anew by a second sweep, it would first be torn down

    def teardown(self, worker: Any) -> None:
        stop_kernels()


def obey_signals() -> None:
    """In a worker's process: SIGTERM stops its kernels, then itself. Ctrl-C is for the process that started it."""

    def stop() -> None:
        deadline = time.monotonic() + GRACE + 2
        stop_kernels()
        while _kernels and time.monotonic() < deadline:
            time.sleep(0.05)
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # for the kernels, which are to hear it
    signal.signal(signal.SIGTERM, lambda number, frame: Thread(target=stop, daemon=True).start())


def _kernel_class(target: Path, environment: Mapping[str, str]) -> type:
    class Kernel(AsyncKernelManager):
        transport_encryption = "auto"  # other users of this machine can reach its ports

        @property
        def kernel_spec(self) -> KernelSpec:
            # This interpreter, not what a user has installed as `python3`; forked where that is safe.
            spec = KernelSpec(**get_kernel_dict())
            if sys.platform == "linux":
                spec.metadata = spec.metadata | {"kernel_provisioner": {"provisioner_name": "seqae-fork"}}
            return spec

        async def start_kernel(self, **arguments: Any) -> None:  # type: ignore[override]
            # Dask's workers trim memory eagerly, which slows torch's large tensors.
            inherited = {key: value for key, value in os.environ.items() if key != "MALLOC_TRIM_THRESHOLD_"}
            await super().start_kernel(env=inherited | dict(environment), **arguments)
            assert isinstance(self.provisioner, LocalProvisioner)
            assert self.provisioner.pid
            if _stopped(target):  # before it was started
                os.killpg(self.provisioner.pid, signal.SIGKILL)
            else:
                _kernels[target] = self.provisioner.pid

    return Kernel


class _Files:
    """papermill's way to notebooks: read from memory; written so that a reader finds a whole one at any instant."""

    @staticmethod
    def read(path: str) -> str:
        return _sources[path]

    @staticmethod
    def write(text: str, path: str) -> None:
        target = _targets[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(target)
        except OSError as error:  # a full disk says no name
            raise OSError(error.errno, error.strerror, str(target)) from None
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def pretty_path(path: str) -> str:
        return path
