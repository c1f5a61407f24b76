"""seqae.cluster: runs on the workers of a cluster, started in every way there is, and GPUs that no two runs share."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from distributed import Security
from test_sweep import SEQAE, TRAIN, make_project, one_run, seqae

from seqae import cluster

LIMIT = 120  # seconds, after which something hangs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path, {"fam": [TRAIN.format("fam")]}, {"fam/a": {}, "fam/b": {"loss": "0sm"}})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> dict[str, str]:
    """The TLS options of the command line, with one certificate for all."""
    folder, made = tmp_path_factory.mktemp("tls"), Security.temporary()
    pems = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, text in pems.items():
        (folder / f"{name}.pem").write_text(text)
    return {f"--tls-{name}": str(folder / f"{name}.pem") for name in pems}


@contextmanager
def command(*arguments: str, cwd: Path, told: str) -> Iterator[tuple[subprocess.Popen, re.Match]]:
    """A command of ours that goes on until SIGTERM, once it has said on stderr what matches `told`."""
    process = subprocess.Popen([*SEQAE, *arguments], cwd=cwd, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while (found := re.search(told, said)) is None:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process, found
    finally:
        process.terminate()
        process.wait(LIMIT)
        process.stderr.close()


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=15)[1]


def both_done(project: Path, result: subprocess.CompletedProcess) -> None:
    assert "2 of 2 runs done" in result.stdout, result.stdout + result.stderr
    assert result.returncode == 0


def listening(process: psutil.Process) -> set[str]:
    family = [process, *process.children(recursive=True)]
    return {c.laddr.ip for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


# --- a scheduler and workers, as on several machines ---


def test_runs_on_workers_elsewhere_over_tls(project, certificates):
    tls = [word for pair in certificates.items() for word in pair]
    with command("scheduler", "--port", "0", *tls, cwd=project, told=r"tls://127\.0\.0\.1:\d+") as (head, found):
        address = found[0]
        with command("worker", address, "--jobs", "2", *tls, cwd=Path("/"), told="2 workers") as (machine, _):
            both_done(
                project, seqae("run", "params/fam", "--scale", "tiny", "--cluster", address, *tls, project=project)
            )
            assert listening(psutil.Process(head.pid)) | listening(psutil.Process(machine.pid)) == {"127.0.0.1"}
            workers = psutil.Process(machine.pid).children(recursive=True)
            assert len(workers) >= 2
        assert machine.returncode == 0
        assert gone(workers)
        refused = seqae("run", "params/fam", "--scale", "tiny", "-p", "seed=2", "--cluster", address, project=project)
        assert refused.returncode == 2
        assert "--tls-ca" in refused.stderr
    assert head.returncode == 0


def test_workers_wait_for_a_scheduler_that_comes_back(project):
    with command("scheduler", "--port", "0", cwd=project, told=r"tcp://127\.0\.0\.1:(\d+)") as (head, found):
        address, port = found[0], found[1]
        with command("worker", address, "--jobs", "1", cwd=project, told="1 workers"):
            head.send_signal(signal.SIGKILL)
            head.wait()
            with command("scheduler", "--port", port, cwd=project, told=address):
                both_done(project, seqae("run", "params/fam", "--scale", "tiny", "--cluster", address, project=project))


def test_a_scheduler_that_dies_in_mid_sweep_is_told_and_nothing_is_lost(project):
    short = ["run", "params/fam/a.yaml", "--scale", "tiny", "-p", "epochs=400"]
    with (
        command("scheduler", "--port", "0", cwd=project, told=r"tcp://127\.0\.0\.1:(\d+)") as (head, found),
        command("worker", found[0], "--jobs", "1", cwd=project, told="1 workers"),
    ):
        arguments = [*SEQAE, *short, "--cluster", found[0]]
        sweep = subprocess.Popen(arguments, cwd=project, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + LIMIT
        while not list((project / "reports").glob("fam/*/checkpoint/state.pt")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        head.send_signal(signal.SIGKILL)
        assert "the scheduler is gone" in sweep.communicate(timeout=LIMIT)[1]
        assert sweep.returncode == 2
    result = seqae(*short, project=project)
    assert "1 of 1 runs done" in result.stdout
    assert one_run(project / "reports", "fam").record()["resumed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scheduler", "--host", "0.0.0.0"], "--without-tls"),
        (["scheduler", "--tls-ca", "no.pem"], "--tls-ca: no.pem"),
        (["run", "params/fam", "--cluster", "head:8786"], "tcp://HOST:PORT"),
        (["run", "params/fam", "--cluster", "tls://head:8786"], "--tls-cert"),
        (["run", "params/fam", "--cluster", "tcp://127.0.0.1:9"], "no scheduler answers"),
        (["run", "params/fam", "--cluster", "slurm:no.yaml"], "no parameter file no.yaml"),
        (["run", "params/fam", "--cluster", "slurm:wrong.yaml"], "wrong.yaml"),
    ],
)
def test_what_cannot_be_is_one_message(project, arguments, message):
    (project / "wrong.yaml").write_text("memory: 1GB\nno_such_option: 1\n")
    more = ["--scale", "tiny"] if arguments[0] == "run" else []
    result = seqae(*arguments, *more, project=project)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((project / "reports").glob("fam/*/run.yaml"))


# --- clusters that the command starts itself ---

SBATCH = """\
#!/bin/sh
# What Slurm does: run the script, elsewhere and later.
script=$(mktemp); cat "$1" > "$script"
setsid sh "$script" > /dev/null 2>&1 < /dev/null &
echo "Submitted batch job $!"
"""


def test_jobs_are_submitted_to_slurm(project, monkeypatch):
    programs = project / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(SBATCH)
    (programs / "scancel").write_text('#!/bin/sh\nfor job; do kill -TERM -- "-$job"; done\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    (project / "slurm.yaml").write_text("jobs: 2\nmemory: 1GB\nwalltime: '00:10:00'\ninterface: lo\n")
    path = f"{programs}:{os.environ['PATH']}"
    arguments = ["run", "params/fam", "--scale", "tiny", "--cluster", "slurm:slurm.yaml"]
    both_done(project, seqae(*arguments, project=project, PATH=path))


# --- GPUs ---

NVIDIA_SMI = "#!/bin/sh\nprintf '0, GPU-aa\\n1, GPU-bb\\n'\n"
HOLDER = """
import sys, time
from seqae.cluster import held_gpus
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
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()


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


def test_small_runs_share_gpus_evenly(two_gpus):
    with holders(1, 1, 1, 1, per_gpu=2) as four:
        assert sorted(process.stdout.readline().strip() for process in four) == ["GPU-aa"] * 2 + ["GPU-bb"] * 2


def test_a_run_on_two_gpus_has_both(two_gpus):
    with cluster.held_gpus(2) as environment:
        assert environment == {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"}
    with pytest.raises(ValueError, match=r"devices 3, but .* has 2 GPUs"), cluster.held_gpus(3):
        pass
    with cluster.held_gpus(0) as environment:
        assert environment == {}


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [
        ("1", ["GPU-bb"]),
        ("1,0", ["GPU-bb", "GPU-aa"]),
        ("GPU-aa", ["GPU-aa"]),
        ("", []),
        ("-1", []),
        ("MIG-c", ["MIG-c"]),
    ],
)
def test_only_gpus_left_visible_are_used(two_gpus, monkeypatch, chosen, gpus):
    assert cluster.slots(per_gpu=3) == 6
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert cluster.visible_gpus() == gpus
    assert cluster.slots() == (len(gpus) or cluster.CPU_COUNT)


def test_a_kernel_sees_its_own_gpu_alone(project, two_gpus):
    cells = ["import os\nprint('gpus', os.environ.get('CUDA_VISIBLE_DEVICES'))", TRAIN.format("fam")]
    make_project(project, {"fam": cells}, {"fam/b": {"loss": "0sm", "device": "cpu"}})
    seqae("run", "params/fam/a.yaml", "params/fam/b.yaml", "--scale", "tiny", "--jobs", "1", project=project)
    seen = [
        re.search(r"gpus (\S+)\\n", (folder / "notebook.ipynb").read_text())[1]
        for folder in sorted((project / "reports" / "fam").iterdir())
    ]
    assert sorted(seen) == ["GPU-aa", "None"]
