"""Where runs are executed: on workers of this machine, or on those of a Dask cluster; and the GPU each has to itself.

A GPU belongs to a run, by a lock of its machine, not to a worker: whoever started the workers, and however many sweeps
use them, no two runs compute on one, and what dies lets go of its own.
"""

import asyncio
import getpass
import ipaddress
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dask.config
import filelock
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Nanny, Scheduler, Security
from distributed.comm.addressing import get_local_address_for

from seqae.config import read_yaml

LIBRARIES = ("OMP", "MKL", "OPENBLAS")
QUEUES = ("slurm", "pbs", "sge", "lsf", "oar", "htcondor")  # of dask-jobqueue
CONFIG = {
    "distributed.scheduler.allowed-failures": 0,  # `sweep` itself counts deaths
    "distributed.scheduler.worker-ttl": "60s",  # a machine cut off is given up after
    "distributed.worker.profile.enabled": False,  # of a thread that waits for a kernel
}
ANYWHERE = "127.0.0.1:0"  # HTTP servers: any free port, this machine only
IGNORE_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # Ctrl-C is for whoever started workers


def tls(ca: Path | None, cert: Path | None, key: Path | None) -> Security | None:
    """What clients, schedulers and workers trust and show, from PEM files; None without any."""
    files = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
    if not any(files.values()):
        return None
    for option, file in files.items():
        if file is None or not file.is_file():
            raise ValueError(f"{option}: {file or 'missing'}; TLS takes all of {', '.join(files)}, each a PEM file")
    own = {f"tls_{role}_{kind}": str(file) for role in ("client", "scheduler", "worker")
           for kind, file in (("cert", cert), ("key", key))}  # fmt: skip
    return Security(tls_ca_file=str(ca), require_encryption=True, **own)


def slots(per_gpu: int = 1) -> int:
    """How many runs this machine executes at a time: per_gpu on each of its GPUs, or else one on each of its cores."""
    return len(visible_gpus()) * per_gpu or CPU_COUNT


@contextmanager
def connect(cluster: str | None, *, jobs: int, workers: int, security: Security | None = None) -> Iterator[Client]:
    """A client of the cluster, which lives as long as this does where it has to be started.

    cluster: None starts `workers` of the `jobs` that this machine's cores are divided among; tcp://HOST:PORT or
    tls://HOST:PORT is a scheduler; slurm:FILE.yaml (pbs, sge,
    lsf, oar, htcondor alike) has the arguments of dask-jobqueue's cluster, and `jobs`, how many are submitted.

    Raises ValueError for another cluster and what is wrong in its file, OSError where no scheduler answers.
    """
    kind, _, rest = (cluster or "local").partition(":")
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(CONFIG))
        address: Any = cluster
        if kind == "local":
            address = stack.enter_context(_local(workers, threads=max(1, CPU_COUNT // jobs)))
        elif kind in QUEUES:
            address = stack.enter_context(_queued(kind, Path(rest), security))
        elif kind not in ("tcp", "tls"):
            raise ValueError(
                f"cluster must be tcp://HOST:PORT or tls://HOST:PORT of a scheduler, or slurm:FILE.yaml "
                f"(or {', '.join(QUEUES[1:])}); not {cluster!r}"
            )
        elif kind == "tls" and security is None:
            raise ValueError(f"{cluster} needs --tls-ca, --tls-cert and --tls-key")
        try:
            client = Client(address, timeout=10, security=security)
        except OSError as error:
            raise OSError(f"no scheduler answers at {cluster}: {error}") from None
        yield stack.enter_context(client)


def _local(workers: int, *, threads: int) -> LocalCluster:
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=ANYWHERE,
        worker_dashboard_address=ANYWHERE,
        memory_limit=0,  # kernels take the memory, not workers
        silence_logs=logging.CRITICAL,
        env=_threads(threads),
        preload=[IGNORE_SIGINT],
    )


def _threads(threads: int) -> dict[str, int]:
    return {f"{library}_NUM_THREADS": threads for library in LIBRARIES}


def _queued(kind: str, file: Path, security: Security | None) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise ValueError(f"{kind}: needs dask-jobqueue: pip install -e .[queues]") from None
    options = {"processes": 1, "cores": 1, "security": security or True, "protocol": "tls://"} | read_yaml(file)
    options["worker_extra_args"] = [*options.get("worker_extra_args", []), "--nthreads", "1"]  # one run on all cores
    jobs = options.pop("jobs", 1)
    name = next(name for name in dir(dask_jobqueue) if name.lower() == f"{kind}cluster")
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that its certificates are temporary
            cluster = getattr(dask_jobqueue, name)(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None
    cluster.scale(jobs=jobs)
    return cluster


class Machine:
    """The workers of this machine, a process for each of its `slots`, for the scheduler at an address.

    Those whose scheduler is gone wait for another one there, until they are closed.
    """

    def __init__(
        self, scheduler: str, *, count: int | None = None, security: Any = None, name: Any = None, **given: Any
    ) -> None:
        self.scheduler, self.security, self.given = scheduler, security, given
        self.count = count or slots()
        self.nannies: list[Nanny] = []

    def __await__(self) -> Any:
        return self._start().__await__()

    async def _start(self) -> "Machine":
        threads = _threads(max(1, CPU_COUNT // self.count))
        host = get_local_address_for(self.scheduler).partition("://")[2]  # not all networks: the one that reaches it
        self.nannies = [
            Nanny(
                self.scheduler,
                nthreads=1,
                host=host,
                memory_limit=0,
                security=self.security,
                env=threads,
                preload=[IGNORE_SIGINT],
                dashboard_address=ANYWHERE,
                **self.given,
            )
            for _ in range(self.count)
        ]
        await asyncio.gather(*self.nannies)
        return self

    async def finished(self) -> None:
        while True:
            await asyncio.gather(*(nanny.finished() for nanny in self.nannies))
            await asyncio.sleep(1)
            await self

    async def close(self) -> None:
        await asyncio.gather(*(nanny.close(timeout=5) for nanny in self.nannies))


def work(address: str, *, count: int, security: Security | None, tell: Callable[[str], None]) -> None:
    """Be the workers of this machine until stopped, by SIGINT or SIGTERM."""

    logging.getLogger("distributed").setLevel(logging.WARNING)

    async def serve() -> None:
        machine = Machine(address, count=count, security=security, silence_logs=logging.WARNING)
        await machine
        tell(f"{count} workers for {address}")
        await _until_stopped(machine.finished())
        await machine.close()

    asyncio.run(serve())


def schedule(
    host: str, port: int, *, security: Security | None, without_tls: bool, tell: Callable[[str], None]
) -> None:
    """Be the scheduler of a cluster until stopped. Raises ValueError for a host that others reach, without TLS."""
    if security is None and not without_tls and not ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
        raise ValueError(
            f"host {host} listens to the network: give --tls-ca, --tls-cert and --tls-key, or say --without-tls in a "
            "network of your own"
        )

    logging.getLogger("distributed").setLevel(logging.WARNING)

    async def serve() -> None:
        protocol = "tls" if security else "tcp"
        async with Scheduler(
            host=host, port=port, protocol=protocol, security=security, dashboard_address=ANYWHERE
        ) as scheduler:
            tell(scheduler.address)
            await _until_stopped(scheduler.finished())

    with dask.config.set(CONFIG):
        asyncio.run(serve())


async def _until_stopped(forever: Any) -> None:
    task, loop = asyncio.ensure_future(forever), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


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
    while True:
        with ExitStack() as stack:
            held: list[str] = []
            for share in range(per_gpu):  # the first share of every GPU before the second of any
                for gpu in gpus:
                    if len(held) < count and gpu not in held:
                        with suppress(filelock.Timeout):
                            stack.enter_context(filelock.FileLock(folder / f"{gpu}.{share}").acquire(timeout=0))
                            held.append(gpu)
            if len(held) == count:
                yield {"CUDA_VISIBLE_DEVICES": ",".join(held)}
                return
        time.sleep(0.5)
