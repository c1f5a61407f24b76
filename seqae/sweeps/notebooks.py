"""Start a Jupyter kernel, execute a notebook in it with papermill, and stop it. A kernel dies with this process.

Dask's workers call this, several at a time in the threads of one process.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread, current_thread, main_thread
from types import ModuleType
from typing import Any

from distributed import WorkerPlugin
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from seqae.files import replace_text
from seqae.runs import CODE_FOLDER
from seqae.sweeps.fork_server import fork_kernel

AUTOSAVE = 5  # seconds between saves of a notebook within a cell, for who looks on; one of a megabyte takes 0.07
SCHEME = "seqae:"  # prefix of papermill's names for files, so that an executed notebook contains no local path
NOT_STARTED = "the kernel died before it ran anything"
KERNEL_STARTS = 3  # of a kernel that dies before it runs anything: another process may have taken its ports
TICK = 0.05  # seconds between two looks at a kernel that has been asked to stop
CHECKPOINT_GRACE_SECONDS = 5  # an interrupted kernel ends the current update and writes a checkpoint in this time
_sources: dict[str, str] = {}  # papermill's name -> a notebook's JSON text
_targets: dict[str, Path] = {}  # papermill's name -> the file to write
_kernels: dict[Path, int | None] = {}  # the file to write -> its kernel's process id, 0 before it starts, None to stop
# Where JupyterLab is installed, jsonschema imports rfc3987_syntax, for a format that no notebook has: a second.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


class ForkedProvisioner(LocalProvisioner):
    """Starts kernels with `fork_server`. jupyter_client finds it by the entry point `seqae-fork` of this package."""

    async def launch_kernel(self, cmd: list[str], **arguments: Any) -> KernelConnectionInfo:
        # cmd is: python -m ipykernel_launcher ARGUMENTS
        forked = fork_kernel(cmd[3:], env=arguments["env"], cwd=arguments.get("cwd"))
        self.process, self.pid, self.pgid = forked, forked.pid, forked.pid  # type: ignore[assignment]
        return self.connection_info


class StoppedError(Exception):
    """The kernel was interrupted, by `stop_kernels` or by a user. Executed again, its run resumes."""


def execute_notebook(
    source: str,
    target: Path,
    *,
    name: str,
    parameters: Mapping[str, Any],
    environment: Mapping[str, str],
    folder: Path = Path(),
    run: str | None = None,
    modules: str = "",
    planned: Mapping[str, Any] | None = None,
) -> str | None:
    """Execute a notebook, given as JSON text, into the file `target`. Returns why it failed, or None.

    name: what the executed notebook calls itself. environment: the kernel's variables beside those of this process.
    folder: the notebook's own, where its kernel works, as in Jupyter; on a machine that lacks it, the kernel works
    where this process does.
    run, planned: for `runs.Assignment`, the run folder that the kernel has to execute; pages execute no run.
    modules: a folder of modules that its cells import, for a machine that lacks the notebook's own. Raises StoppedError
    if the kernel was interrupted, OSError where no kernel can start because there is no home folder.
    """
    _check_home()
    # Not in a cell, which would be in the notebook and in IPython's In, nor in exec_lines, which users may have set.
    given = (run, str(target.parent / CODE_FOLDER), str(folder.parent), modules, dict(planned or {}))
    assigned = [f"--IPKernelApp.code_to_run=__import__('seqae.runs').runs.assign{given!r}"] if run else []
    origin, written = f"{SCHEME}{name}/source.ipynb", f"{SCHEME}{name}/{target.name}"
    _sources[origin], _targets[written] = source, target
    held = target in _kernels
    try:
        for _ in range(KERNEL_STARTS):
            reason = _execute(
                target,
                origin,
                written,
                dict(parameters),
                kernel_manager_class=_kernel_manager_class(target, environment, folder),
                # Without this log level, a kernel whose worker died writes to the terminal.
                extra_arguments=["--log-level=CRITICAL", *assigned],
            )
            if reason != NOT_STARTED:
                break
        return reason
    finally:
        _sources.pop(origin), _targets.pop(written)
        if held:  # by `stoppable`: the worker that is asked to end waits until all of the run is published
            _kernels[target] = None if _stopped(target) else 0
        else:
            _kernels.pop(target, None)
        _close_loop()


def _execute(target: Path, origin: str, written: str, parameters: dict[str, Any], **options: Any) -> str | None:
    # Execute once. Returns why it failed, or None.
    papermill = _papermill()
    try:
        papermill.execute_notebook(
            origin,
            written,
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            autosave_cell_every=AUTOSAVE,
            start_timeout=120,
            **options,
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt" or _stopped(target):  # a stopped cell may raise another error
            raise StoppedError from None
        return f"{error.ename}: {error.evalue}".rstrip(": ")
    except Exception as error:
        if _stopped(target):
            raise StoppedError from None
        if "before replying" in str(error):
            return NOT_STARTED
        died = "kernel died" in str(error).lower()
        return "the kernel died: killed, or out of memory" if died else f"{type(error).__name__}: {error}"
    return None


def _papermill() -> ModuleType:
    import papermill  # takes a second
    from papermill.iorw import papermill_io

    if SCHEME not in dict(papermill_io._handlers):
        papermill_io.register(SCHEME, _Files)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # else it warns of parameters that the cell leaves out
    return papermill


def _close_loop() -> None:
    # Jupyter gives each thread an event loop, and leaves it open when the thread ends.
    if current_thread() is not main_thread():
        with suppress(RuntimeError):  # there is none
            asyncio.get_event_loop_policy().get_event_loop().close()
            asyncio.set_event_loop(None)


def _check_home() -> None:
    # Jupyter's kernels would die at their imports, without a word, and not have the chance to say why.
    try:
        Path.home()
    except RuntimeError:
        raise OSError(
            f"user {os.getuid()} has no home folder, which Jupyter needs: set HOME to a folder that you can write to, "
            "such as HOME=/tmp"
        ) from None


@contextmanager
def stoppable(target: Path) -> Iterator[None]:
    """Inside the block, `stop_kernels` stops the kernel that writes this file, even before the kernel has started."""
    _kernels[target] = 0
    try:
        yield
    finally:
        _kernels.pop(target, None)


def stop_kernels(targets: set[Path] | None = None) -> None:
    """Stop the kernels that write these files, or all kernels of this process. Their runs can be resumed.

    They are interrupted, so that training leaves a checkpoint, and killed after `CHECKPOINT_GRACE_SECONDS` if they have
    not ended. This function does not wait for their end.
    """
    for target in [*_kernels] if targets is None else targets & _kernels.keys():
        with suppress(KeyError):  # its thread has just ended
            pid, _kernels[target] = _kernels[target], None
            if pid:
                Thread(target=_end, args=(pid,), daemon=True).start()


def _stopped(target: Path) -> bool:
    return _kernels.get(target, 0) is None


def _end(pid: int) -> None:
    # A kernel leads a process group, so this also reaches the processes that it started. Send SIGINT once per cell,
    # since a second one would disturb the writing of a checkpoint. Without /proc, send it again every 0.5 s.
    asked = False
    with suppress(ProcessLookupError):
        for tick in range(int(CHECKPOINT_GRACE_SECONDS / TICK)):
            accepts = _accepts_sigint(pid)
            if (accepts and not asked) or (accepts is None and tick % 10 == 0):
                os.killpg(pid, signal.SIGINT)
            asked = bool(accepts)
            time.sleep(TICK)
            os.killpg(pid, 0)
        os.killpg(pid, signal.SIGKILL)


def _accepts_sigint(pid: int) -> bool | None:
    # Before its first cell and between cells a kernel ignores SIGINT. None on systems without /proc.
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    ignored = int(status.split("SigIgn:")[1].split()[0], 16)
    return not ignored & 1 << signal.SIGINT - 1


class StopKernels(WorkerPlugin):
    """Makes a Dask worker stop its kernels when it closes, on request or because it has lost its scheduler."""

    name = "seqae-stop-kernels"
    idempotent = True  # else a second sweep that registers it would first tear it down

    def teardown(self, worker: Any) -> None:
        stop_kernels()


def obey_signals() -> None:
    """In a worker process: SIGTERM stops its kernels and then the process. SIGINT is left to the parent process."""

    def stop() -> None:
        deadline = time.monotonic() + CHECKPOINT_GRACE_SECONDS + 2
        stop_kernels()
        while _kernels and time.monotonic() < deadline:
            time.sleep(0.05)
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # kernels inherit the mask, and must receive it
    signal.signal(signal.SIGTERM, lambda number, frame: Thread(target=stop, daemon=True).start())


def _kernel_manager_class(target: Path, environment: Mapping[str, str], folder: Path) -> type:
    class KernelManager(AsyncKernelManager):
        transport_encryption = "auto"  # because other users of this machine can reach its ports

        @property
        def kernel_spec(self) -> KernelSpec:
            # This interpreter, not what a user has installed as `python3`. Forking is safe on Linux only.
            spec = KernelSpec(**get_kernel_dict())
            if sys.platform == "linux":
                spec.metadata = spec.metadata | {"kernel_provisioner": {"provisioner_name": "seqae-fork"}}
            return spec

        async def start_kernel(self, **arguments: Any) -> None:  # type: ignore[override]
            # Dask sets this variable in its workers. It makes glibc return memory at once, which slows large tensors.
            inherited = {key: value for key, value in os.environ.items() if key != "MALLOC_TRIM_THRESHOLD_"}
            where = folder if folder.is_dir() else Path.cwd()
            await super().start_kernel(env=inherited | dict(environment), **arguments | {"cwd": str(where)})
            assert isinstance(self.provisioner, LocalProvisioner)
            assert self.provisioner.pid
            if _stopped(target):  # `stop_kernels` was called before the kernel started
                os.killpg(self.provisioner.pid, signal.SIGKILL)
            else:
                _kernels[target] = self.provisioner.pid

    return KernelManager


class _Files:
    """How papermill reads and writes notebooks: it reads from memory and replaces the written file atomically."""

    @staticmethod
    def read(path: str) -> str:
        return _sources[path]

    @staticmethod
    def write(text: str, path: str) -> None:
        target = _targets[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            replace_text(target, text)
        except OSError as error:  # a full disk says no name
            raise OSError(error.errno, error.strerror, str(target)) from None

    @staticmethod
    def pretty_path(path: str) -> str:
        return path
