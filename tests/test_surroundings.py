"""Where a process stands: launched by srun or mpirun, of a user without a name or a home, on a disk without locks."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sweeps import CODE
from test_cli import call
from test_sweep import DEFAULTS, SEQAE, TINY, TRAIN, make_project, one_run

from seqae.runs import RunError
from seqae.runs.ranks import launch
from seqae.runs.run import open_run
from seqae.stores import mirror
from seqae.sweeps import execution, planning

LAUNCHED = [
    {"SLURM_NTASKS": "4", "SLURM_PROCID": "1", "PMI_SIZE": "4", "PMI_RANK": "1", "PMI_FD": "9"},  # srun
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},  # mpirun, Open MPI
    {"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "0", "MPI_LOCALNRANKS": "2"},
    {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1",
     "MASTER_PORT": "29500", "GROUP_RANK": "0"},  # torchrun
    {"WORLD_SIZE": "2", "MASTER_ADDR": "no-such-host"},
    {"LOCAL_RANK": ""},
    {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "bf16", "FSDP_VERSION": "2", "FORK_LAUNCHED": "1"},
    {"ACCELERATE_USE_DEEPSPEED": "true", "LOCAL_RANK": "0", "ACCELERATE_TORCH_DEVICE": "meta"},
]  # fmt: skip
ALONE = f"""
import os
from seqae.device import make_accelerator
for launched in {LAUNCHED}:
    os.environ.update(launched)
    for device in ("cpu", "auto"):
        made = make_accelerator(device=device)
        print(made.num_processes, made.process_index, made.mixed_precision, made.device.type != "meta")
    assert {{name: os.environ.pop(name) for name in launched}} == launched
"""
# As a user whom /etc/passwd does not know, who can read all files, since this interpreter may lie in root's home.
SOMEBODY = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
SOMEBODY += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
can_be_somebody = pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can be others")


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A folder that everybody reaches; those above pytest's are closed to others."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def as_somebody(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """The command in a folder that the user without a name may write to, with this environment and PATH alone."""
    for place in (folder, *folder.rglob("*")):
        place.chmod(0o777)
    own = {"PATH": os.environ["PATH"], "TMPDIR": str(folder), "PYTHONPATH": CODE} | environment
    return subprocess.run([*SOMEBODY, *command], cwd=folder, env=own, capture_output=True, text=True)


@pytest.mark.processes("a process that would hang if it took itself for one of several")
def test_a_process_that_others_have_launched_is_alone():
    said = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=240)
    assert said.stdout.splitlines() == ["1 0 no True"] * 2 * len(LAUNCHED), said.stderr


@pytest.mark.soak
def test_ranks_know_those_alone_that_they_were_launched_with(monkeypatch):
    for launched in LAUNCHED:
        for name, value in launched.items():
            monkeypatch.setenv(name, value)
    assert launch(of_how_many, 2, device="cpu") == (2, "no")


def of_how_many() -> tuple[int, str]:
    from seqae.device import make_accelerator

    made = make_accelerator(device="cpu", devices=2)
    return made.num_processes, made.mixed_precision


# --- no name, no home ---


@can_be_somebody
@pytest.mark.processes("a user without a name")
def test_a_user_without_a_name_holds_gpus_and_one_without_a_home_is_told(anybodys):
    (anybodys / "nvidia-smi").write_text("#!/bin/sh\necho '0, GPU-a'\n")
    holds = "from seqae.sweeps.gpus import held_gpus\nwith held_gpus(1) as given: print(given)\n"
    asks = """
from pathlib import Path
from seqae.files import cache_folder
from seqae.lstm.compiled import step_library
from seqae.sweeps import notebooks
print(step_library())
for act in (cache_folder, lambda: notebooks.execute_notebook("{}", Path("n"), name="", parameters={}, environment={})):
    try: act()
    except OSError as error: print(error)
"""
    said = as_somebody(anybodys, sys.executable, "-c", holds + asks, PATH=f"{anybodys}:{os.environ['PATH']}")
    assert said.stdout.splitlines() == [
        "{'CUDA_VISIBLE_DEVICES': 'GPU-a'}",
        "None",
        "this user has no home folder: set HOME to a folder that you can write to",
        "user 54321 has no home folder, which Jupyter needs: set HOME to a folder that you can write to, such as "
        "HOME=/tmp",
    ], said.stderr
    assert "made by torch, not in C: this user has no home folder" in said.stderr


@can_be_somebody
@pytest.mark.soak
@pytest.mark.parametrize("devices", ["1", "2"])
def test_a_user_without_a_name_and_with_a_home_that_takes_nothing_trains(anybodys, devices):
    """As in a container; and under srun, with what that says of itself."""
    project = make_project(anybodys / "project", {"fam": [TRAIN.format("fam")]}, {"fam/a": {}})
    arguments = ["run", "params/fam", "--scale", "tiny", "-p", "device=cpu", "-p", f"devices={devices}"]
    said = as_somebody(project, *SEQAE, *arguments, HOME="/proc", **LAUNCHED[0], **LAUNCHED[3])
    assert said.returncode == 0, said.stdout + said.stderr
    assert one_run(project / "reports", "fam").status == "done"


# --- no locks ---


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_named_and_what_to_do(tmp_path, monkeypatch, number):
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    project = make_project(tmp_path, {"fam": []}, {"fam/a": {}})
    monkeypatch.chdir(project)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (item,) = planning.plan([project / "params" / "fam"], scale="tiny", store=str(tmp_path / "store"))
    folder = item.run.folder
    monkeypatch.setattr(fcntl, "flock", refused)
    said = "this file system has no locks: choose a store on a local disk, or have it mounted with locks"
    assert said in execution.execute(item).reason
    with pytest.raises(RunError, match=said):
        item.run.train()
    with pytest.raises(OSError, match=said), mirror.working(mirror.mirror_folder("memory://runs") / "fam" / "run"):
        pass
    (folder / "run.yaml").write_text("status: running\nfamily: fam\nparameters: {}\ndiffers: {}\n")
    # Whether it trains cannot be told, and a look needs no lock.
    assert "  running" in call("status", "--store", str(tmp_path / "store"))


def test_another_error_of_a_lock_stays_what_it_is(tmp_path, monkeypatch):
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(RunError, match="broken disk"):
        open_run("fam", DEFAULTS, TINY | {"store": str(tmp_path)}).train()
