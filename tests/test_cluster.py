"""Runs on the workers of a cluster, started in every way there is, and GPUs that no two runs share."""

import asyncio
import gc
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster, Security, get_worker
from distributed.core import Status
from distributed.scheduler import KilledWorker
from test_cli import call
from test_sweep import SEQAE, TRAIN, after_epoch, make_project, one_run, plan, seqae
from users import as_nobody, readable  # noqa: F401

from seqae.commands.terminal import SweepView
from seqae.runs import OwnCode, RunError, sources_hash
from seqae.sweeps import cluster, dispatch, execution, gpus, machines, notebooks
from seqae.sweeps.execution import Outcome, execute

LIMIT = 300  # seconds, after which something hangs
RUN = ["run", "params/fam", "--scale", "tiny"]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    return make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}, "fam/b": {"loss": "0sm"}})


@contextmanager
def command(*arguments: str, told: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A command of ours that goes on until SIGTERM, once stderr has what matches `told`; and what that is."""
    process = subprocess.Popen([*SEQAE, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while (found := re.search(told, said)) is None:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process, found[0]
    finally:
        process.terminate()
        process.wait(LIMIT)
        process.stderr.close()


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=60)[1]


def listening(process: subprocess.Popen) -> set[str]:
    family = [psutil.Process(process.pid), *descendants(process)]
    return {c.laddr.ip for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def until(condition) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def both_done(result: subprocess.CompletedProcess) -> None:
    assert "2 of 2 runs done" in result.stdout, result.stdout + result.stderr
    assert result.returncode == 0


# --- a scheduler and workers, as on several machines ---


@pytest.mark.soak
def test_runs_on_workers_elsewhere_over_tls(project):
    made, tls = Security.temporary(), []
    for name, text in {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}.items():
        (project / f"{name}.pem").write_text(text)
        tls += [f"--tls-{name}", str(project / f"{name}.pem")]
    with command("scheduler", "--port", "0", *tls, told=r"tls://127\.0\.0\.1:\d+") as (head, address):
        with command("worker", address, "--jobs", "2", *tls, told="(?s)(is there.*){2}") as (machine, _):
            both_done(seqae(*RUN, "--cluster", address, *tls, project=project))
            told = sorted(machine.stderr.readline() for _ in range(4))  # what its workers do, a line each
            for begins, done in (told[:2], told[2:]):
                assert begins.endswith(" begins\n")
                assert re.fullmatch(re.escape(begins.removesuffix(" begins\n")) + r": done, \d+ s\n", done)
            workers = descendants(machine)
            assert len(workers) >= 2
            assert listening(head) | listening(machine) == {"127.0.0.1"}
        assert machine.returncode == 0
        assert gone(workers)
    assert head.returncode == 0


KILLS_ITS_WORKER_TWICE = """
import os, psutil, signal, time
from pathlib import Path
lives = Path({pids!r})
lives.open("a").write(f"{{os.getpid()}}\\n")
if len(lives.read_text().splitlines()) <= 2:
    os.kill(psutil.Process(os.getppid()).ppid(), signal.SIGKILL)  # the kernel's parent is the worker's fork server
    time.sleep(600)
"""


@pytest.mark.soak
def test_a_run_whose_worker_dies_twice_has_failed_and_leaves_no_kernel(project):
    pids = project / "pids"
    make_project(project, {"fam": [KILLS_ITS_WORKER_TWICE.format(pids=str(pids)), TRAIN.format("fam")]}, {})
    run = ["run", "params/fam/a.yaml", "--scale", "tiny"]
    head = command("scheduler", "--port", "0", told=r"tcp://127\.0\.0\.1:\d+")
    with head as (_, address), command("worker", address, "--jobs", "1", told="is there"):
        first = seqae(*run, "--cluster", address, project=project)
        assert first.returncode == 1, first.stdout + pids.read_text()
        failed = one_run(project / "reports", "fam")
        assert (failed.status, failed.record()["reason"]) == ("failed", dispatch.KILLED)
        assert dispatch.KILLED in (failed.folder / "report.html").read_text()
        assert f"fam/{failed.name}: failed: {dispatch.KILLED}" in first.stdout
        assert first.stdout.count(f"fam/{failed.name}: its worker died or was cut off; it is executed again") == 1
        kernels = [int(pid) for pid in pids.read_text().split()]
        assert len(kernels) == 2  # it was tried once more, and no more
        until(lambda: not any(map(psutil.pid_exists, kernels)))
        assert "1 of 1 runs done" in seqae(*run, "--cluster", address, project=project).stdout


@pytest.mark.soak
def test_a_scheduler_that_dies_loses_nothing_and_its_workers_wait_for_the_next(project):
    make_project(
        project,
        {
            "fam": [
                after_epoch(2, f"while not Path({str(project / 'go')!r}).exists(): time.sleep(0.05)"),
                TRAIN.format("fam"),
            ]
        },
        {},
    )
    run = ["run", "params/fam/a.yaml", "--scale", "tiny", "-p", "epochs=3"]
    with command("scheduler", "--port", "0", told=r"tcp://127\.0\.0\.1:\d+") as (head, address):
        run += ["--cluster", address]
        with command("worker", address, "--jobs", "1", told="is there"):
            sweep = subprocess.Popen([*SEQAE, *run], stderr=subprocess.PIPE, text=True)
            until(lambda: list(project.glob("reports/fam/*/checkpoint/state.pt")))
            head.send_signal(signal.SIGKILL)
            told = sweep.communicate(timeout=LIMIT)[1]
            assert told.splitlines()[-1].startswith("seqae: the scheduler is gone: start it; ")
            assert "Traceback" not in told
            assert sweep.returncode == 2
            until(lambda: one_run(project / "reports", "fam").status == "interrupted")
            (project / "go").touch()
            with command("scheduler", "--port", address.rpartition(":")[2], told=address):
                assert "1 of 1 runs done" in seqae(*run, project=project).stdout
    assert one_run(project / "reports", "fam").record()["resumed"]  # from the checkpoint of epoch 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("scheduler --host 0.0.0.0", "--without-tls"),
        ("scheduler --host ::", "--without-tls"),
        ("scheduler --tls-ca no.pem", "--tls-ca: no.pem"),
        ("worker head:8786", "tcp://HOST:PORT"),
        ("worker tls://head:8786", "--tls-cert"),
        ("worker tcp://no.such.host.invalid:8786", "no.such.host.invalid"),
        ("run --cluster head:8786", "tcp://HOST:PORT"),
        ("run --cluster tls://head:8786", "--tls-cert"),
        ("run --cluster tcp://head:8786 --tls-ca pem --tls-cert pem --tls-key pem", "tls:// needs --tls-ca"),
        ("run --tls-ca pem --tls-cert pem --tls-key pem", "need --cluster"),
        ("run --cluster tcp://127.0.0.1:9", "no scheduler answers"),
        ("run --cluster ssh:no.txt", "no.txt is no file: ssh: takes a file that names a machine a line"),
        ("run --cluster ssh:empty.txt", "empty.txt: names no machine"),
        ("run --cluster ssh:wrong.txt", "wrong.txt: a line is HOST, or HOST PATH/TO/seqae; not '-p 22 node'"),
        ("run --cluster slurm:no.yaml", "no parameter file no.yaml"),
        ("run --cluster slurm:jobs.yaml", "jobs.yaml: jobs, cores and processes must be whole numbers"),
        ("run --cluster slurm:word.yaml", "word.yaml: jobs, cores and processes must be whole numbers"),
        ("run --cluster pbs:good.yaml", "there is no qsub on this machine"),
    ],
)
def test_what_cannot_be_is_one_message(project, monkeypatch, arguments, message):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    monkeypatch.setenv("PATH", str(project))
    (project / "sbatch").touch(mode=0o755)
    (project / "pem").touch()
    (project / "empty.txt").write_text("# nobody\n")
    (project / "wrong.txt").write_text("-p 22 node\n")
    (project / "good.yaml").write_text("memory: 1GB\n")
    (project / "jobs.yaml").write_text("memory: 1GB\njobs: many\n")
    (project / "word.yaml").write_text("memory: 1GB\njobs: yes\n")
    name, *others = shlex.split(arguments)
    output = call(*(RUN if name == "run" else [name]), *others, code=2)
    assert output.startswith("seqae: ")
    assert message in output
    assert not list((project / "reports").glob("fam/*/run.yaml"))


@pytest.mark.filterwarnings("ignore:unclosed <socket")  # tornado's, which could not be bound
def test_a_port_that_another_process_listens_at_is_one_message(project):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        said = call("scheduler", "--port", port, code=2)
    gc.collect()  # here, where its warning is expected
    assert said.startswith(f"seqae: no scheduler can listen at 127.0.0.1:{port} (")
    assert said.endswith("give another --port, or --port 0 for any that is free, or end what listens there\n")


def test_a_worker_with_certificates_that_cannot_be_used_says_so_and_ends(project):
    (project / "pem").touch()
    files = [word for option in ("ca", "cert", "key") for word in (f"--tls-{option}", "pem")]
    said = call("worker", "tls://127.0.0.1:9", *files, code=2)
    assert said.startswith("seqae: the certificates of --tls-ca, --tls-cert and --tls-key cannot be used (")
    assert said.count("\n") == 1


class Ended(BaseException):
    """Of a test: what a command would go on with for ever."""


def test_a_worker_tells_once_why_it_cannot_connect_and_gives_its_run_time_to_end(monkeypatch):
    """What is there runs until it is asked to end."""
    told, closed, tries = [], [], iter(["refused", "refused", "no route", None])

    class Nanny:
        status = Status.running

        def __init__(self, *others, **given):
            pass

        async def __aenter__(self):
            if reason := next(tries):
                raise RuntimeError("Nanny failed to start.") from OSError(reason)
            return self

        async def __aexit__(self, *error):
            pass

        async def close(self, timeout):
            closed.append(timeout)

    async def sleep(seconds):
        if told[-1].startswith("worker 1 of 1"):
            raise Ended

    monkeypatch.setattr(cluster, "Nanny", Nanny)
    monkeypatch.setattr(cluster, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    monkeypatch.setattr(cluster, "_until_stopped", lambda forever: forever)
    monkeypatch.setattr(cluster, "_quiet", lambda: None)
    with pytest.raises(Ended):
        cluster.serve_workers("tcp://127.0.0.1:9", count=1, security=None, tell=told.append)
    assert [line.rpartition(": ")[2] for line in told[1:-1]] == ["refused", "no route"]
    assert closed == [cluster.CLOSE_SECONDS]
    assert cluster.CLOSE_SECONDS > notebooks.CHECKPOINT_GRACE_SECONDS


# --- machines that ssh reaches ---


@pytest.mark.processes("an ssh that fails")
@pytest.mark.parametrize("ended", [False, True], ids=["as it comes", "before it is written to"])
def test_what_a_machine_says_in_another_encoding_is_told(ended, tmp_path, monkeypatch, caplog):
    def start(*command, **given):
        process = subprocess.Popen(*command, **given)
        if ended:
            process.wait()
        return process

    (tmp_path / "ssh").write_bytes(b"#!/bin/sh\necho 'caf\xe9 closed' >&2\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(machines, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": start}))
    kept = machines._Kept("host", ["seqae"], "{}")
    until(lambda: caplog.messages)
    kept.closing.set()
    assert caplog.messages == ["host: caf\N{REPLACEMENT CHARACTER} closed"]


def test_all_machines_together_have_one_time_to_end(monkeypatch):
    waits, clock = [], [0.0]

    def join(seconds):
        waits.append(seconds)
        clock[0] += 10

    monkeypatch.setattr(machines.time, "monotonic", lambda: clock[0])
    for _ in range(3):
        kept = machines._Kept.__new__(machines._Kept)
        kept.process, kept.thread = None, SimpleNamespace(join=join)
        kept.end(15.0)
    assert waits == [15, 5, 0]


SSHD = """
import asyncio, asyncssh, os, sys
class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False
async def execute(process):  # as sshd does: by a shell, in a session that a lost connection ends
    pipes = {"stdin": -1, "stdout": -1, "stderr": -1}
    command = await asyncio.create_subprocess_shell(process.command, start_new_session=True, **pipes)
    open(sys.argv[1], "a").write(f"{command.pid}\\n")
    await process.redirect(stdin=command.stdin, stdout=command.stdout, stderr=command.stderr)
    process.exit(await command.wait())
async def serve(key):
    how = {"server_factory": Server, "server_host_keys": [key], "process_factory": execute, "encoding": None}
    server = await asyncssh.listen("127.0.0.1", 0, **how)
    print(server.get_port(), flush=True)
    await server.wait_closed()
asyncio.run(serve(asyncssh.generate_private_key("ssh-ed25519")))
"""


@pytest.fixture
def sshd(project, monkeypatch) -> Iterator[Path]:
    """A machine by the name `node`, and a file of the sessions it has had."""
    if (client := shutil.which("ssh")) is None:
        pytest.skip("no ssh client here")
    sessions = project / "sessions"
    with subprocess.Popen([sys.executable, "-c", SSHD, str(sessions)], stdout=subprocess.PIPE, text=True) as server:
        port, config = server.stdout.readline().strip(), project / "ssh_config"
        config.write_text(
            f"Host node\n HostName 127.0.0.1\n Port {port}\n User me\n StrictHostKeyChecking no\n"
            f" UserKnownHostsFile {project / 'known'}\n LogLevel ERROR\n"
        )
        folder = project / "bin"
        folder.mkdir()
        (folder / "ssh").write_text(f'#!/bin/sh\nexec {client} -F {config} "$@"\n')
        (folder / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield sessions
        server.terminate()


@pytest.mark.soak
def test_a_machine_by_ssh_works_for_a_command_and_is_left_as_it_was(project, sshd):
    (project / "hosts.txt").write_text("# one here\nnode\n")
    both_done(seqae(*RUN, "--cluster", "ssh:hosts.txt", project=project))
    [session] = sshd.read_text().split()
    until(lambda: not lives(int(session)))
    assert not list(project.rglob("*.pem"))


@pytest.mark.soak
def test_a_machine_whose_connection_ends_is_connected_again_and_its_run_goes_on(project, sshd):
    wait = f"while not Path({str(project / 'go')!r}).exists(): time.sleep(0.05)"
    make_project(project, {"fam": [after_epoch(2, wait), TRAIN.format("fam")]}, {})
    (project / "hosts.txt").write_text("node\n")
    run = ["run", "params/fam/a.yaml", "--scale", "tiny", "-p", "epochs=3", "--cluster", "ssh:hosts.txt"]
    with subprocess.Popen([*SEQAE, *run], stdout=subprocess.PIPE, text=True) as sweep:
        until(lambda: list(project.glob("reports/fam/*/checkpoint/state.pt")))
        [client] = [p for p in descendants(sweep) if p.name() == "ssh"]
        client.kill()
        until(lambda: not lives(int(sshd.read_text().split()[0])))
        (project / "go").touch()
        assert "1 of 1 runs done" in sweep.communicate(timeout=LIMIT)[0]
    assert len(sshd.read_text().split()) == 2
    assert one_run(project / "reports", "fam").record()["resumed"]


@pytest.mark.soak
def test_a_machine_that_lacks_seqae_is_told_with_the_remedy(project, sshd):
    (project / "hosts.txt").write_text("node /nowhere/seqae\n")
    told = "node: there is no /nowhere/seqae: write the path of seqae there after the machine's name"
    with command(*RUN, "--cluster", "ssh:hosts.txt", told=told):
        pass


@pytest.mark.soak
def test_a_command_that_is_killed_leaves_no_workers_on_a_machine(project, sshd):
    wait = f"while not Path({str(project / 'go')!r}).exists(): time.sleep(0.05)"
    make_project(project, {"fam": [after_epoch(2, wait), TRAIN.format("fam")]}, {})
    (project / "hosts.txt").write_text("node\n")
    run = ["run", "params/fam/a.yaml", "--scale", "tiny", "-p", "epochs=3", "--cluster", "ssh:hosts.txt"]
    with subprocess.Popen([*SEQAE, *run]) as sweep:
        until(lambda: list(project.glob("reports/fam/*/checkpoint/state.pt")))
        sweep.kill()
    until(lambda: not lives(int(sshd.read_text().split()[0])))


# --- jobs of a queue ---

SBATCH = """\
#!/bin/sh
# What Slurm does: runs the script, elsewhere and later, in a session of its own; tells its number.
cp "$1" {folder}/$$.sh
setsid sh {folder}/$$.sh > {folder}/$$.log 2>&1 < /dev/null &
echo $! >> {folder}/jobs
echo "Submitted batch job $!"
"""
SCANCEL = '#!/bin/sh\nfor job; do kill -TERM -- "-$job"; done\n'


@pytest.fixture
def slurm(project, monkeypatch) -> Iterator[Path]:
    """A file of the numbers of jobs that were submitted."""
    folder = project / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH.format(folder=folder), "scancel": SCANCEL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield folder / "jobs"
    for job in (folder / "jobs").read_text().split() if (folder / "jobs").exists() else []:
        if lives(int(job)):
            os.killpg(int(job), signal.SIGKILL)


def lives(job: int) -> bool:
    """Whether any process of a job's session is there."""
    try:
        os.killpg(job, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_job_of_a_queue_hears_that_it_is_to_end_as_any_worker_does(project, monkeypatch):
    import dask_jobqueue

    class Queue:
        job_cls = dask_jobqueue.slurm.SLURMJob

        def __init__(self, *, security, protocol, scheduler_options, **given):
            self.job = self.job_cls("tcp://head:1", "0", **given)

        def adapt(self, **jobs):
            pass

    monkeypatch.setattr(dask_jobqueue, "SLURMCluster", Queue)
    monkeypatch.setattr(cluster.shutil, "which", lambda name: name)
    (project / "slurm.yaml").write_text("cores: 3\nmemory: 1GB\n")
    (line,) = [
        shlex.split(line)
        for line in cluster._queued("slurm", project / "slurm.yaml", None).job.job_script().splitlines()
        if "tcp://head:1" in line
    ]
    assert line[line.index("--preload") + 1] == cluster.PRELOAD


@pytest.mark.soak
def test_a_slurm_job_that_ends_is_replaced_and_its_run_goes_on(project, slurm):
    notebook = [
        after_epoch(2, f"while not Path({str(project / 'go')!r}).exists(): time.sleep(0.05)"),
        TRAIN.format("fam"),
    ]
    make_project(project, {"fam": ["import os\nprint('threads', os.environ['OMP_NUM_THREADS'])", *notebook]}, {})
    (project / "slurm.yaml").write_text("cores: 3\nmemory: 1GB\nwalltime: '00:10:00'\ninterface: lo\n")
    run = ["run", "params/fam/a.yaml", "--scale", "tiny", "-p", "epochs=3", "--cluster", "slurm:slurm.yaml"]
    with subprocess.Popen([*SEQAE, *run], stdout=subprocess.PIPE, text=True) as sweep:
        until(lambda: list(project.glob("reports/fam/*/checkpoint/state.pt")))
        [job] = map(int, slurm.read_text().split())
        os.killpg(job, signal.SIGKILL)
        until(lambda: one_run(project / "reports", "fam").status == "interrupted")
        (project / "go").touch()
        assert "1 of 1 runs done" in sweep.communicate(timeout=LIMIT)[0]
    assert len(slurm.read_text().split()) == 2
    until(lambda: not [job for job in slurm.read_text().split() if lives(int(job))])
    done = one_run(project / "reports", "fam")
    assert done.record()["resumed"]
    assert "threads 3" in (done.folder / "notebook.ipynb").read_text()


@pytest.mark.soak
def test_an_unknown_option_of_a_queue_is_one_message(project, slurm):
    (project / "wrong.yaml").write_text("memory: 1GB\nno_such_option: 1\n")
    result = seqae(*RUN, "--cluster", "slurm:wrong.yaml", project=project)
    assert result.returncode == 2
    (told,) = [line for line in result.stderr.splitlines() if line.startswith("seqae: wrong.yaml: ")]
    assert "no_such_option" in told
    assert "Traceback" not in result.stderr


# --- GPUs ---

NVIDIA_SMI = "#!/bin/sh\nprintf '0, GPU-aa\\n1, GPU-bb\\n'\n"
HOLDER = """
import sys, time
from seqae.sweeps.gpus import held_gpus
print("asks", flush=True)
with held_gpus(int(sys.argv[1]), per_gpu=int(sys.argv[2])) as environment:
    print(environment["CUDA_VISIBLE_DEVICES"], flush=True)
    time.sleep(600)
"""


@pytest.fixture
def two_gpus(tmp_path, monkeypatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@contextmanager
def holders(*counts: int, per_gpu: int) -> Iterator[list[subprocess.Popen]]:
    command = [sys.executable, "-c", HOLDER]
    started = [
        subprocess.Popen([*command, str(count), str(per_gpu)], stdout=subprocess.PIPE, text=True) for count in counts
    ]
    try:
        assert [process.stdout.readline() for process in started] == ["asks\n"] * len(started)
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.mark.soak
def test_no_two_runs_have_one_gpu_and_what_dies_lets_go(two_gpus):
    with holders(1, 1, per_gpu=1) as first:
        assert {process.stdout.readline().strip() for process in first} == {"GPU-aa", "GPU-bb"}
        with holders(1, per_gpu=1) as [third]:
            os.set_blocking(third.stdout.fileno(), False)
            time.sleep(2)
            assert not third.stdout.readline()
            os.set_blocking(third.stdout.fileno(), True)
            first[0].kill()
            assert third.stdout.readline().strip() in ("GPU-aa", "GPU-bb")


@pytest.mark.soak
def test_small_runs_share_gpus_evenly(two_gpus):
    with holders(1, 1, 1, 1, per_gpu=2) as four:
        assert sorted(process.stdout.readline().strip() for process in four) == ["GPU-aa"] * 2 + ["GPU-bb"] * 2


@pytest.mark.processes
def test_a_run_on_two_gpus_has_both(two_gpus):
    with gpus.held_gpus(2) as environment:
        assert environment == {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"}
    with pytest.raises(ValueError, match=r"devices 3, but .* has 2 GPUs"), gpus.held_gpus(3):
        pass
    with gpus.held_gpus(0) as environment:
        assert environment == {}


@pytest.mark.processes("nvidia-smi")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_two_users_do_not_share_a_gpu_either(readable, monkeypatch):  # noqa: F811
    """Each may come first: a lock belongs to nobody."""
    tool, shared = readable / "nvidia-smi", readable / "tmp"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("PATH", f"{readable}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    before = os.umask(0o077)
    try:
        with as_nobody(), gpus.held_gpus(1) as theirs:
            pass
        with gpus.held_gpus(1) as ours, as_nobody(), gpus.held_gpus(1) as theirs:
            assert {ours["CUDA_VISIBLE_DEVICES"], theirs["CUDA_VISIBLE_DEVICES"]} == {"GPU-aa", "GPU-bb"}
        with as_nobody(), gpus.held_gpus(2) as theirs:
            assert theirs == {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"}
    finally:
        os.umask(before)


@pytest.fixture
def two_workers():
    """A client of two workers, which are threads of this process."""
    quiet = {"dashboard_address": ":0", "worker_dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, memory_limit=0, **quiet) as made,
        Client(made) as client,
    ):
        yield client


@pytest.mark.processes("uname, which Dask asks once")
def test_a_run_that_its_worker_wrote_to_a_disk_of_its_own_is_not_done(project, two_workers, monkeypatch):
    planned = plan(project, "fam", scale="tiny")
    monkeypatch.setattr(dispatch, "execute", lambda item, per_gpu, mark: Outcome(item.run, None, 0.0))
    monkeypatch.setattr(dispatch, "SHARED_SECONDS", 0.3)
    for item, outcome in zip(planned, dispatch.sweep(planned, two_workers, jobs=1), strict=True):
        assert outcome.reason is not None
        assert f"it is done, but {item.run.folder} is not here: all workers have to see it" in outcome.reason


@pytest.mark.processes("uname, which Dask asks once")
@pytest.mark.parametrize(
    ("older", "has"),
    [
        *((older, "another version of seqae than this command") for older in (0, 1, 2)),
        *((older, r"other packages than this command, .*: gone 1.0 \(there none\)") for older in (1, 2)),
    ],
)
def test_a_worker_of_another_version_gets_no_run(project, two_workers, monkeypatch, capsys, older, has):
    view = SweepView(8, done=0, stores=set())
    planned = [replace(item, sources=sources_hash()) for item in plan(project, "fam", scale="tiny")]
    of_code = has.startswith("another")
    refusing, said = sorted(two_workers.nthreads())[:older], []

    def executed(item, per_gpu, mark):
        if get_worker().address in refusing:
            imports = replace(item.run, code=OwnCode({}, {"gone": "1.0"}))
            return execute(replace(item, sources="other") if of_code else replace(item, run=imports))
        return Outcome(item.run, None, 0.0)

    monkeypatch.setattr(dispatch, "execute", executed)
    monkeypatch.setattr(dispatch, "SHARED_SECONDS", 0.0)  # nothing is written here
    options = {
        "tell": lambda told: (said.append(told), view.say(told)),
        "finished": lambda outcome: done.append(outcome.run),
    }
    done = []
    if older == 2:
        with pytest.raises(RunError, match=f"no worker gets a run: it has {has}: install the"):
            dispatch.sweep(planned, two_workers, **options)
    else:
        dispatch.sweep(planned * 4, two_workers, **options)
        assert len(done) == 8
    assert {sentence.split()[1] for sentence in said} == {*refusing}
    assert all(re.search(f"gets no run, as it has {has}: install", sentence) for sentence in said)
    shown = capsys.readouterr().out.splitlines()  # by the command: which worker, which package, what to do
    assert shown == said
    assert all(re.fullmatch(rf"worker \S+ gets no run, as it has {has}: install the same there; .*", s) for s in shown)
    assert not [*(project / "reports").glob("*")]


@pytest.mark.processes("uname, which Dask asks once")
def test_a_worker_that_does_not_see_the_store_gets_no_run(project, two_workers, monkeypatch):
    monkeypatch.setattr(execution, "SHARED_SECONDS", 0.3)
    planned = [replace(item, sources=sources_hash()) for item in plan(project, "fam", scale="tiny")]
    blind, said, done = sorted(two_workers.nthreads())[0], [], []

    def executed(item, per_gpu, mark):
        assert mark.parent == project / "reports"
        if get_worker().address == blind:
            return execute(item, per_gpu, mark.with_name("elsewhere") / mark.name)
        assert mark.exists()
        return Outcome(item.run, None, 0.0)

    monkeypatch.setattr(dispatch, "execute", executed)
    monkeypatch.setattr(dispatch, "SHARED_SECONDS", 0.0)  # nothing is written here
    dispatch.sweep(planned * 4, two_workers, tell=said.append, finished=lambda outcome: done.append(outcome.run))
    assert len(done) == 8
    assert all(re.fullmatch(r"worker \S+ gets no run, as it does not see \S+: give --store .*", told) for told in said)
    assert {told.split()[1] for told in said} == {blind}


@pytest.mark.processes("uname, which Dask asks once")
def test_a_run_that_is_executed_again_is_told(project, two_workers, monkeypatch):
    planned, said = plan(project, "fam/a.yaml", scale="tiny"), []
    reasons = iter([dispatch.LOST, dispatch.STOPPED, "a fault"])
    monkeypatch.setattr(dispatch, "_outcome", lambda future, item, lost_at: Outcome(item.run, next(reasons), 0.0))
    monkeypatch.setattr(dispatch, "execute", lambda item, per_gpu, mark: None)
    (outcome,) = dispatch.sweep(planned, two_workers, tell=said.append)
    assert outcome.reason == "a fault"
    name = f"fam/{planned[0].run.name}"
    whys = [dispatch.LOST, dispatch.STOPPED]
    assert said == [f"{name}: {why}; it is executed again, from its last checkpoint if it has one" for why in whys]


@pytest.mark.processes("uname, which Dask asks once")
@pytest.mark.parametrize(("epochs", "ends"), [([1, 2, 3, 9], "done"), ([0, 0], "failed"), ([1, 2, 2], "failed")])
def test_a_run_goes_on_as_long_as_epochs_end_between_the_deaths_of_its_workers(
    project, two_workers, monkeypatch, epochs, ends
):
    planned, said, tries = plan(project, "fam/a.yaml", scale="tiny"), [], project / "tries"
    log = planned[0].run.folder / "metrics.csv"

    def executed(item, per_gpu, mark):  # and logs so many epochs until its worker dies, or until it is done
        with tries.open("a") as file:
            file.write("x")
        if (epoch := epochs[len(tries.read_text()) - 1]) == 9:
            return Outcome(item.run, None, 0.0)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(f"{n},1,1.0,val,all,objective,0.5\n" for n in range(1, epoch + 1)))
        raise KilledWorker("key", SimpleNamespace(address="there"), 0)

    monkeypatch.setattr(dispatch, "execute", executed)
    monkeypatch.setattr(dispatch, "_as_seen_here", lambda outcome, item: outcome)
    (outcome,) = dispatch.sweep(planned, two_workers, tell=said.append)
    assert outcome.reason == (None if ends == "done" else dispatch.KILLED)
    assert len(tries.read_text()) == len(epochs)
    assert len(said) == len(epochs) - 1
    assert planned[0].run.status == ("waiting" if ends == "done" else "failed")


@pytest.mark.processes("uname, which Dask asks once")
@pytest.mark.parametrize("there", ["nothing", "others"])
def test_a_worker_without_the_clips_gets_no_run(project, two_workers, monkeypatch, there):
    for name, first in (("clips", 0), ("others", 3)):
        (project / name).mkdir()
        for number in range(first, first + 3):  # each another movement
            frames = np.random.default_rng(number).integers(0, 255, (20, 16, 16), np.uint8)
            np.save(project / name / f"{number}.npy", frames)
    given = {"clips": str(project / "clips"), "train_sequences": 1, "val_sequences": 1, "test_sequences": 1}
    planned = plan(project, "fam", scale="tiny", given=given)
    without, said, done = sorted(two_workers.nthreads())[0], [], []

    def executed(item, per_gpu, mark):
        if get_worker().address == without:
            paths = item.run.parameters.model_copy(update={"clips": str(project / there)})
            return execute(replace(item, run=replace(item.run, parameters=paths)), per_gpu, mark)
        assert execution._refusal(item, mark) == ""
        return Outcome(item.run, None, 0.0)

    monkeypatch.setattr(dispatch, "execute", executed)
    monkeypatch.setattr(dispatch, "SHARED_SECONDS", 0.0)  # nothing is written here
    dispatch.sweep(planned * 4, two_workers, tell=said.append, finished=lambda outcome: done.append(outcome.run))
    assert len(done) == 8
    has = {"nothing": "there is no such file or folder", "others": "these are other clips"}[there]
    line = rf"worker {without} gets no run, as it lacks the run's clips \(.*{has}.*\): copy .*"
    assert said
    assert all(re.fullmatch(line, told) for told in said)
    assert not [*(project / "reports").glob("*/*/run.yaml")]


@pytest.mark.parametrize(
    ("chosen", "visible"),
    [
        ("1", ["GPU-bb"]),
        ("1,0", ["GPU-bb", "GPU-aa"]),
        ("GPU-aa", ["GPU-aa"]),
        ("", []),
        ("-1", []),
        ("MIG-c", ["MIG-c"]),
    ],
)
@pytest.mark.processes
def test_only_gpus_left_visible_are_used(two_gpus, monkeypatch, chosen, visible):
    assert gpus.slots(per_gpu=3) == 6
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert gpus.visible_gpus() == visible
    assert gpus.slots() == (len(visible) or gpus.CPU_COUNT)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of what opens kernels
def test_a_kernel_sees_its_own_gpu_alone(project, two_gpus):
    cells = ["import os\nprint('gpus', os.environ.get('CUDA_VISIBLE_DEVICES'))", TRAIN.format("fam")]
    make_project(project, {"fam": cells}, {"fam/b": {"loss": "0sm", "device": "cpu"}})
    for item in plan(project, "fam", scale="tiny"):
        assert execute(item).reason is None
    seen = [
        re.search(r"gpus (\S+)\\n", (folder / "notebook.ipynb").read_text())[1]
        for folder in sorted((project / "reports" / "fam").iterdir())
    ]
    assert sorted(seen) == ["GPU-aa", "None"]
