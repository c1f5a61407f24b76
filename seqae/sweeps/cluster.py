"""Dask clusters: workers of this machine, of machines that ssh reaches, of a batch queue, or of a given scheduler.

Also the `seqae worker` and `seqae scheduler` that such a cluster consists of.
"""

import asyncio
import ipaddress
import logging
import os
import shlex
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

from seqae.files import expanded
from seqae.sweeps.fork_server import start_fork_server
from seqae.sweeps.interrupts import uninterrupted
from seqae.sweeps.machines import address_towards, over_ssh
from seqae.sweeps.parameter_files import read_yaml

LIBRARIES = ("OMP", "MKL", "OPENBLAS")
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster", "oar": "OARCluster",
          "htcondor": "HTCondorCluster"}  # fmt: skip
CONNECT_SECONDS = 30.0  # of the client, whenever it connects: a busy scheduler may answer late
CONFIG = {
    "distributed.scheduler.allowed-failures": 0,  # `sweep` counts the deaths of workers itself
    "distributed.scheduler.worker-ttl": "60s",  # the runs of a machine that does not answer are then given to others
    "distributed.deploy.lost-worker-timeout": "5s",  # a job that ended is then replaced
    "distributed.worker.profile.enabled": False,  # a worker's thread only waits for a kernel
}
CLOSE_SECONDS = 12.0  # a worker that is asked to end writes its checkpoint and publishes it in this time
ENDED = (Status.closing_gracefully, Status.closing, Status.closed, Status.failed)
RUN_LOG = "seqae.runs.executed"  # the logger of the beginning and end of executions, see `show_run_log`
ANYWHERE = "127.0.0.1:0"  # HTTP servers: any free port, reachable from this machine only
UNSEEN: Any = {"dashboard_address": ANYWHERE, "silence_logs": logging.CRITICAL}
# Each worker process executes this before it connects.
PRELOAD = "from seqae.sweeps import obey_signals, start_fork_server; obey_signals(); start_fork_server()"
SHOW_LOG = "from seqae.sweeps import show_run_log; show_run_log()"


def tls(ca: Path | None, cert: Path | None, key: Path | None) -> Security | None:
    """TLS for clients, schedulers and workers, from PEM files: a certificate authority, a certificate and its key.

    Returns None if no file is given. Raises ValueError if one is missing.
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
    """Connect to a cluster. A cluster that has to be started ends with the block.

    cluster:

    - None: execute `workers` runs at a time in threads of this process, each with one of `jobs` equal shares of the
      machine's cores
    - tcp://HOST:PORT or tls://HOST:PORT: the scheduler there
    - ssh:FILE: start workers on the machines that the file names, see `machines.read_hosts`
    - slurm:FILE.yaml, also pbs, sge, lsf, oar, htcondor: submit jobs. The file has the arguments of dask-jobqueue's
      cluster class, and `jobs`: how many jobs are kept queued or running

    Raises ValueError for another cluster or a faulty file, and OSError if no scheduler answers.
    """
    kind, _, rest = (cluster or "local").partition(":")
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(CONFIG))
        if kind in QUEUES:
            address: Any = stack.enter_context(_queued(kind, Path(expanded(rest)), security))
        elif kind == "ssh":
            worker = ["--per-gpu", str(per_gpu)]
            address = stack.enter_context(over_ssh(Path(expanded(rest)), arguments=worker, security=security, **UNSEEN))
        elif cluster:
            check_address(cluster, security)
            address = cluster
        elif security:
            raise ValueError(
                "--tls-ca, --tls-cert and --tls-key need --cluster: without it nothing listens to the network"
            )
        else:
            address = stack.enter_context(_local(workers, threads=max(1, CPU_COUNT // jobs)))
        _quiet()
        try:
            client = Client(address, timeout=CONNECT_SECONDS, security=security)
        except OSError as error:
            remedy = "start it (seqae scheduler); if it uses TLS, write tls:// and give the certificates"
            raise OSError(f"no scheduler answers at {cluster} ({error}): {remedy}") from None
        yield stack.enter_context(client)


def check_address(address: str, security: Security | None) -> None:
    """Raise ValueError if this is no scheduler's address, or if certificates are missing or not needed for it."""
    kind = address.partition("://")[0]
    if kind not in ("tcp", "tls"):
        raise ValueError(
            f"cluster must be tcp://HOST:PORT or tls://HOST:PORT of a scheduler, or, for seqae run, ssh:FILE or "
            f"slurm:FILE.yaml (or {', '.join(QUEUES)}); not {address!r}"
        )
    if (kind == "tls") != bool(security):
        raise ValueError(f"{address}: tls:// needs --tls-ca, --tls-cert and --tls-key, and they need tls://")


@contextmanager
def _local(workers: int, *, threads: int) -> Iterator[LocalCluster]:
    # Threads are enough, since runs are trained in kernels. A process for each would take 10 s to import the same.
    shares = _threads(threads)
    before = {name: os.environ[name] for name in shares if name in os.environ}
    os.environ.update(shares)  # kernels inherit them
    start_fork_server()
    # The only worker is this process. It is not lost when it has not answered for a while, as after a laptop's sleep.
    forever = {"distributed.scheduler.worker-ttl": None}
    local: Any = {"n_workers": 1, "threads_per_worker": workers, "processes": False, "worker_dashboard_address": None}
    local["memory_limit"] = 0  # kernels use the memory, not workers
    try:
        # a Dask cluster that is interrupted while it starts ends with a traceback
        with dask.config.set(forever), uninterrupted(lambda: LocalCluster(**local, **UNSEEN)) as cluster:
            yield cluster
    finally:
        for name in shares:
            del os.environ[name]
        os.environ.update(before)


def _threads(threads: int) -> dict[str, str]:
    return {f"{library}_NUM_THREADS": str(threads) for library in LIBRARIES}


def _queued(kind: str, file: Path, security: Security | None) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise ValueError(f"{kind}: needs dask-jobqueue: pip install -e '.[queues]'") from None
    given, queue = read_yaml(file), getattr(dask_jobqueue, QUEUES[kind])
    jobs, cores, processes = given.pop("jobs", 1), given.setdefault("cores", 1), given.setdefault("processes", 1)
    if not all(type(number) is int and number > 0 for number in (jobs, cores, processes)):
        raise ValueError(f"{file}: jobs, cores and processes must be whole numbers of at least 1")
    if shutil.which(submit := queue.job_cls.submit_command.split()[0]) is None:
        raise ValueError(f"{kind}: there is no {submit} on this machine: use a machine from which jobs are submitted")
    # A process executes one run on its share of the job's cores. Its memory is not limited, as kernels use the memory.
    worker = ["--nthreads", "1", "--memory-limit", "0", "--dashboard-address", ANYWHERE]
    worker += ["--preload", shlex.quote(PRELOAD)]  # words of a shell's line; else SIGTERM leaves no checkpoint
    threads = [f"export {name}={number}" for name, number in _threads(max(1, cores // processes)).items()]
    given["worker_extra_args"] = [*given.get("worker_extra_args", []), *worker]
    given["job_script_prologue"] = [*threads, *given.get("job_script_prologue", [])]
    given["scheduler_options"] = {"dashboard_address": ANYWHERE} | given.get("scheduler_options", {})
    try:
        with warnings.catch_warnings(
            action="ignore", category=UserWarning
        ):  # it warns that its certificates are temporary
            cluster = queue(**{"security": security or True, "protocol": "tls://"} | given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # replaces a job that ended, for example at its time limit
    return cluster


def serve_workers(address: str, *, count: int, security: Security | None, tell: Callable[[str], None]) -> None:
    """Run `count` workers, each in a process, for the scheduler at this address, until SIGINT or SIGTERM.

    While no scheduler answers, they try again every second. Raises ValueError as `check_address`, and for certificates
    that cannot be used. tell: called with a line at the beginning, when a worker has connected, and for each new reason
    why none can.
    """
    check_address(address, security)
    try:
        if security:
            security.get_connection_args("worker")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the certificates of --tls-ca, --tls-cert and --tls-key cannot be used ({error}): give PEM files, the key "
            "being that of the certificate"
        ) from None
    _quiet()
    told = set[str]()  # why no worker could connect: each reason once, for all workers
    host = address_towards(address)
    tell(f"waiting for the scheduler at {address}")

    async def serve_slot(number: int) -> None:
        while True:
            try:
                async with Nanny(
                    address,
                    nthreads=1,
                    host=host,
                    memory_limit=0,
                    security=security,
                    env=_threads(max(1, CPU_COUNT // count)),
                    preload=[PRELOAD, SHOW_LOG],
                    **UNSEEN,
                ) as nanny:
                    tell(f"worker {number} of {count} is there for {address}")
                    try:
                        while nanny.status not in ENDED:
                            await asyncio.sleep(0.5)
                    finally:  # closed now: by itself a worker without scheduler waits 30 s for its run
                        await nanny.close(timeout=CLOSE_SECONDS)
            except (OSError, RuntimeError) as error:  # Dask raises these if no scheduler answers
                if (reason := _cause(error)) not in told:
                    told.add(reason)
                    tell(f"no worker for {address} yet, it tries again every second: {reason}")
            await asyncio.sleep(1)

    async def serve() -> None:
        await _until_stopped(asyncio.gather(*(serve_slot(number) for number in range(1, count + 1))))

    asyncio.run(serve())


def serve_scheduler(
    host: str, port: int, *, security: Security | None, without_tls: bool, tell: Callable[[str], None]
) -> None:
    """Run the scheduler of a cluster until SIGINT or SIGTERM. tell: called with its address.

    Raises ValueError if the host can be reached from other machines and there is neither TLS nor `without_tls`, and
    OSError if it cannot listen there, for example because another process does.
    """
    found = {ipaddress.ip_address(address[0]) for *_, address in socket.getaddrinfo(host, None)}
    if security is None and not without_tls and not all(address.is_loopback for address in found):
        raise ValueError(
            f"host {host} listens to the network: give --tls-ca, --tls-cert and --tls-key, or --without-tls in a "
            "network that only you use"
        )
    _quiet()

    async def serve() -> None:
        protocol = "tls" if security else "tcp"
        try:
            started = await Scheduler(
                host=host, port=port, protocol=protocol, security=security, dashboard_address=ANYWHERE
            )
        except (RuntimeError, OSError) as error:
            remedy = "give another --port, or --port 0 for any that is free, or end what listens there"
            raise OSError(f"no scheduler can listen at {host}:{port} ({_cause(error)}): {remedy}") from None
        async with started as scheduler:
            tell(scheduler.address)
            await _until_stopped(scheduler.finished())

    with dask.config.set(CONFIG):
        asyncio.run(serve())


def _cause(error: BaseException) -> str:
    # What Dask raises names it last of all.
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def show_run_log() -> None:
    """Show the run log of this process on stderr.

    Workers of `seqae worker` do this. For others, the command that started the sweep shows what they do.
    """
    log = logging.getLogger(RUN_LOG)
    log.handlers = [logging.StreamHandler()]  # one, however often Dask preloads this in a process
    log.setLevel(logging.INFO)
    log.propagate = False


def _quiet() -> None:
    for name in ("distributed", "distributed.client"):  # this package reports errors itself
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("tornado.application").addFilter(_is_no_early_cancel)


def _is_no_early_cancel(record: logging.LogRecord) -> bool:
    # A Ctrl-C before Dask's `sync` has sent what it waits for ends in a NameError of its `cancel`, and in nothing else.
    return "sync.<locals>.cancel" not in record.getMessage()


async def _until_stopped(forever: Any) -> None:
    task, loop = asyncio.ensure_future(forever), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
