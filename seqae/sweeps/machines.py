"""Workers on other machines, started by ssh for one command and stopped with it."""

import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from distributed import LocalCluster, Security
from distributed.comm.addressing import get_local_address_for

AGAIN_SECONDS = 5.0  # from the end of a connection to the next try
END_SECONDS = 15.0  # time for the workers there to write checkpoints


class Host(NamedTuple):
    """A machine: its name for ssh, and the path of `seqae` there."""

    name: str
    command: str


def read_hosts(file: Path) -> list[Host]:
    """The machines that a file names, one per line: HOST, or HOST PATH/TO/seqae.

    The default path is that of `seqae` on this machine. Raises ValueError if the file is missing, empty or has other
    lines.
    """
    try:
        lines = [line.partition("#")[0].split() for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise ValueError(f"{file} is no file: ssh: takes a file that names a machine a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}") from None
    here = str(Path(sys.executable).with_name("seqae"))
    if wrong := [" ".join(line) for line in lines if "".join(line)[:1] == "-" or len(line) > 2]:
        raise ValueError(
            f"{file}: a line is HOST, or HOST PATH/TO/seqae; not {wrong[0]!r}; options of ssh go into ~/.ssh/config"
        )
    hosts = [Host(line[0], line[1] if len(line) == 2 else here) for line in lines if line]
    if not hosts:
        raise ValueError(f"{file}: names no machine; write one per line")
    return hosts


@contextmanager
def over_ssh(
    file: Path, *, arguments: list[str], security: Security | None, **scheduler: object
) -> Iterator[LocalCluster]:
    """Start a scheduler on this machine, and `seqae worker` with these arguments on each machine of the file.

    A worker whose connection ends is started again. All use TLS. Without `security`, certificates are made for this
    block; they are sent through ssh and never written to a file there. scheduler: further arguments of the cluster.

    Raises ValueError as `read_hosts`, and OSError for a machine whose address is unknown.
    """
    hosts = read_hosts(file)
    if security is None:
        try:
            security = Security.temporary()
        except ImportError:
            raise ValueError("ssh: needs cryptography: pip install -e '.[queues]'") from None
    with LocalCluster(
        n_workers=0, host=_address_towards(hosts[0].name), protocol="tls://", security=security, **scheduler
    ) as cluster:
        worker, credentials = ["worker", cluster.scheduler_address, *arguments], _credentials(security)
        kept = [_Kept(host.name, [host.command, *worker], credentials) for host in hosts]
        try:
            yield cluster
        finally:
            for machine in kept:
                machine.closing.set()
                machine.close_stdin()
            deadline = time.monotonic() + END_SECONDS  # of all: they end at once
            for machine in kept:
                machine.end(deadline)


class _Kept:
    """`ssh HOST COMMAND`, started again whenever it ends."""

    def __init__(self, host: str, command: list[str], credentials: str) -> None:
        self.host, self.command, self.closing = host, [*command, "--credentials-from-stdin"], threading.Event()
        self.process: Any = None
        self.thread = threading.Thread(target=self._keep, args=[credentials], daemon=True)
        self.thread.start()

    def _keep(self, credentials: str) -> None:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        pipes |= {"encoding": "utf-8", "errors": "replace"}  # what a shell there says may be in any encoding
        options, told = ["-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"], ""
        while not self.closing.is_set():
            command = ["ssh", *options, self.host, shlex.join(self.command)]
            self.process, last = subprocess.Popen(command, process_group=0, **pipes), "it ended"
            with suppress(BrokenPipeError), self.process:  # closing flushes again what an ended ssh did not read
                with suppress(BrokenPipeError):
                    print(credentials, file=self.process.stdin, flush=True)
                for line in self.process.stderr:  # until the process ends
                    last = line.strip() or last
            if self.process.returncode == 127:  # of the shell there
                last = f"there is no {self.command[0]}: write the path of seqae there after the machine's name"
            if not self.closing.is_set() and last != told:  # the same message only once
                logging.getLogger("seqae").warning("%s: %s", self.host, last)
                told = last
            self.closing.wait(AGAIN_SECONDS)

    def close_stdin(self) -> None:
        """Close its stdin, at whose end the command there ends. The same happens if this process is killed."""
        if self.process is not None:
            with suppress(OSError):
                self.process.stdin.close()

    def end(self, deadline: float) -> None:
        """Wait for its end until this time of `time.monotonic`, then kill it."""
        self.thread.join(max(0.0, deadline - time.monotonic()))
        if self.process is not None and self.process.poll() is None:
            self.process.kill()


def credentials_from_stdin() -> Security:
    """Read the certificates that `over_ssh` writes to stdin. At the end of stdin, this process gets SIGTERM.

    stdin ends when the command that started this worker has ended.
    """
    security = Security(require_encryption=True, **json.loads(sys.stdin.readline()))

    def watch() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return security


def _credentials(security: Security) -> str:
    """The certificates and keys as JSON on one line."""
    given = {name: getattr(security, name) for name in Security.__slots__ if name.endswith(("_file", "_cert", "_key"))}
    return json.dumps({k: v if "\n" in v else Path(v).read_text(encoding="ascii") for k, v in given.items()})


def _address_towards(host: str) -> str:
    # ~/.ssh/config may give another host name.
    told = subprocess.run(["ssh", "-G", host], capture_output=True, text=True)
    found = re.search(r"^hostname (.*)$", told.stdout, re.MULTILINE)
    return address_towards(f"tcp://{found[1] if found else host}:22", called=host)


def address_towards(address: str, *, called: str | None = None) -> str:
    """This machine's address in the network that leads to tcp://HOST:PORT. Raises OSError if the host is unknown.

    called: the name of the host in the error.
    """
    try:
        return get_local_address_for(address).partition("://")[2].strip("[]")
    except OSError as error:
        raise OSError(f"{called or address}: {error}") from None
