"""Where runs are executed: on workers of this machine, or on those of a Dask cluster; and the GPU each has to itself.

A GPU belongs to a run, by a lock of its machine, not to a worker: whoever started the workers, and however many sweeps
use them, no two runs compute on one, and what dies lets go of its own.
"""

import asyncio
import ipaddress
import logging
import shutil
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dask.config
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Nanny, Scheduler, Security
from distributed.core import Status

from seqae.parameters import read_yaml
from seqae.sweeps.interrupts import uninterrupted
from seqae.sweeps.machines import address_towards, over_ssh

LIBRARIES = ("OMP", "MKL", "OPENBLAS")
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster", "oar": "OARCluster",
          "htcondor": "HTCondorCluster"}  # fmt: skip
CONNECT_SECONDS = 10.0
CONFIG = {
    "distributed.scheduler.allowed-failures": 0,  # `sweep` itself counts deaths
    "distributed.scheduler.worker-ttl": "60s",  # a machine cut off is given up after
    "distributed.deploy.lost-worker-timeout": "5s",  # a job that ended is then replaced
    "distributed.worker.profile.enabled": False,  # of a thread that waits for a kernel
}
TELLS = "SEQAE_WORKER_TELLS"  # in the environment of those workers whose runs no other command tells of
ANYWHERE = "127.0.0.1:0"  # HTTP servers: any free port, this machine only
UNSEEN: Any = {"dashboard_address": ANYWHERE, "silence_logs": logging.CRITICAL}
PRELOAD = (  # run in each worker's process first
    "from seqae.sweeps import obey_signals, prepare; obey_signals(); prepare()"
)


def tls(ca: Path | None, cert: Path | None, key: Path | None) -> Security | None:
    """What clients, schedulers and workers trust and show, from PEM files; None without any. Raises ValueError for a
    file that is missing.
    """
    files = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
    if not any(files.values()):
        return None
    for option, file in files.items():
        if file is None or not file.is_file():
            raise ValueError(f"{option}: {file or 'missing'}; TLS takes all of {', '.join(files)}, each a PEM file")
    own = {f"tls_{role}_{kind}": str(file) for role in ("client", "scheduler", "worker")
           for kind, file in (("cert", cert), ("key", key))}  # fmt: skip
    return Security(tls_ca_file=str(ca), require_encryption=True, **own)


@contextmanager
def connect(
    cluster: str | None, *, jobs: int, workers: int, per_gpu: int = 1, security: Security | None = None
) -> Iterator[Client]:
    """A client of the cluster, which lives as long as this does where it has to be started.

    cluster: None starts `workers` of the `jobs` that this machine's cores are divided among; tcp://HOST:PORT or
    tls://HOST:PORT is a scheduler; ssh:FILE names machines (`machines.read_hosts`); slurm:FILE.yaml (pbs, sge, lsf,
    oar, htcondor alike) has the arguments of dask-jobqueue's cluster, and `jobs`, how many are kept in the queue or at
    work.

    Raises ValueError for another cluster and what is wrong in its file, OSError where no scheduler answers.
    """
    kind, _, rest = (cluster or "local").partition(":")
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(CONFIG))
        if kind in QUEUES:
            address: Any = stack.enter_context(_queued(kind, Path(rest), security))
        elif kind == "ssh":
            worker = ["--per-gpu", str(per_gpu)]
            address = stack.enter_context(over_ssh(Path(rest), arguments=worker, security=security, **UNSEEN))
        elif cluster:
            check_address(cluster, security)
            address = cluster
        elif security:
            raise ValueError(
                "--tls-ca, --tls-cert and --tls-key go with --cluster: here nothing listens to the network"
            )
        else:
            # half started, Dask's cluster ends in a traceback
            local = uninterrupted(lambda: _local(workers, threads=max(1, CPU_COUNT // jobs)))
            address = stack.enter_context(local)
        _quiet()
        try:
            client = Client(address, timeout=CONNECT_SECONDS, security=security)
        except OSError as error:
            remedy = "start it (seqae scheduler), or, if it is one with certificates, say tls:// and give them"
            raise OSError(f"no scheduler answers at {cluster} ({error}): {remedy}") from None
        yield stack.enter_context(client)


def check_address(address: str, security: Security | None) -> None:
    """Raises ValueError for what is no address of a scheduler, and where TLS is not what it says."""
    kind = address.partition("://")[0]
    if kind not in ("tcp", "tls"):
        raise ValueError(
            f"cluster must be tcp://HOST:PORT or tls://HOST:PORT of a scheduler, or, for seqae run, ssh:FILE or "
            f"slurm:FILE.yaml (or {', '.join(QUEUES)}); not {address!r}"
        )
    if (kind == "tls") != bool(security):
        raise ValueError(f"{address}: --tls-ca, --tls-cert and --tls-key go with tls://, and tls:// with them")


def _local(workers: int, *, threads: int) -> LocalCluster:
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        worker_dashboard_address=ANYWHERE,
        memory_limit=0,  # kernels take the memory, not workers
        **UNSEEN,
        env=_threads(threads),
        preload=[PRELOAD],
    )


def _threads(threads: int) -> dict[str, int]:
    return {f"{library}_NUM_THREADS": threads for library in LIBRARIES}


def _queued(kind: str, file: Path, security: Security | None) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise ValueError(f"{kind}: needs dask-jobqueue: pip install -e '.[queues]'") from None
    given, queue = read_yaml(file), getattr(dask_jobqueue, QUEUES[kind])
    jobs, cores, processes = given.pop("jobs", 1), given.setdefault("cores", 1), given.setdefault("processes", 1)
    if not all(isinstance(number, int) and number > 0 for number in (jobs, cores, processes)):
        raise ValueError(f"{file}: jobs, cores and processes must be whole numbers from 1 on")
    if shutil.which(submit := queue.job_cls.submit_command.split()[0]) is None:
        raise ValueError(f"{kind}: there is no {submit} here: do this on a machine from which jobs are submitted")
    # A process executes one run, on its share of the job's cores. It is small: kernels take the memory.
    worker = ["--nthreads", "1", "--memory-limit", "0", "--dashboard-address", ANYWHERE]
    threads = [f"export {name}={number}" for name, number in _threads(max(1, cores // processes)).items()]
    given["worker_extra_args"] = [*given.get("worker_extra_args", []), *worker]
    given["job_script_prologue"] = [*threads, *given.get("job_script_prologue", [])]
    given["scheduler_options"] = {"dashboard_address": ANYWHERE} | given.get("scheduler_options", {})
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that its certificates are temporary
            cluster = queue(**{"security": security or True, "protocol": "tls://"} | given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # submits another for one that ended, as at its time's limit
    return cluster


def serve_workers(address: str, *, count: int, security: Security | None, tell: Callable[[str], None]) -> None:
    """Be `count` workers, a process each, for the scheduler at an address, until stopped by SIGINT or SIGTERM.

    Those whose scheduler is gone, or not there yet, wait for one. Raises ValueError as `check_address`.
    """
    check_address(address, security)
    _quiet()
    host = address_towards(address)

    async def serve_slot(number: int) -> None:
        while True:
            with suppress(OSError, RuntimeError):  # nobody answers, as dask tells it
                async with Nanny(
                    address,
                    nthreads=1,
                    host=host,
                    memory_limit=0,
                    security=security,
                    env=_threads(max(1, CPU_COUNT // count)) | {TELLS: "1"},
                    preload=[PRELOAD],
                    **UNSEEN,
                ) as nanny:
                    tell(f"worker {number} of {count} is there for {address}")
                    while nanny.status not in (Status.closing_gracefully, Status.closing, Status.closed, Status.failed):
                        await asyncio.sleep(0.5)
                    # Closed now, else a worker without scheduler waits half a minute for its run.
            await asyncio.sleep(1)

    async def serve() -> None:
        await _until_stopped(asyncio.gather(*(serve_slot(number) for number in range(1, count + 1))))

    asyncio.run(serve())


def serve_scheduler(
    host: str, port: int, *, security: Security | None, without_tls: bool, tell: Callable[[str], None]
) -> None:
    """Be the scheduler of a cluster until stopped. Raises ValueError for a host that others reach, without TLS."""
    found = {ipaddress.ip_address(address[0]) for *_, address in socket.getaddrinfo(host, None)}
    if security is None and not without_tls and not all(address.is_loopback for address in found):
        raise ValueError(
            f"host {host} listens to the network: give --tls-ca, --tls-cert and --tls-key, or say --without-tls in a "
            "network of your own"
        )
    _quiet()

    async def serve() -> None:
        protocol = "tls" if security else "tcp"
        async with Scheduler(
            host=host, port=port, protocol=protocol, security=security, dashboard_address=ANYWHERE
        ) as scheduler:
            tell(scheduler.address)
            await _until_stopped(scheduler.finished())

    with dask.config.set(CONFIG):
        asyncio.run(serve())


def _quiet() -> None:
    for name in ("distributed", "distributed.client"):  # what has to be told is a message of ours
        logging.getLogger(name).setLevel(logging.CRITICAL)


async def _until_stopped(forever: Any) -> None:
    task, loop = asyncio.ensure_future(forever), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
