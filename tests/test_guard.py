"""The guard: which starts of a process it sees, and whom it lets start one."""

import os
import subprocess
import sys
from pathlib import Path

import guard
import matplotlib
import pytest

STARTS = {
    "run": "subprocess.run(['true'])",
    "spawned": "subprocess.run(['/bin/true'], close_fds=False)",
    "system": "os.system('true')",
    "forked": "os.fork() or os._exit(0)",
    "multiprocessing": "process = get_context('spawn').Process(target=print); process.start(); process.kill()",
    "asyncio": "asyncio.run(asyncio.create_subprocess_exec('true'))",
    "of the library": "other.start(['true'])",  # of a module that is not among the allowed
    "marked": "subprocess.run(['true'])",
    "of the soak tier": "subprocess.run(['true'])",
    "none": "pass",
    "allowed": "compiled.start(['true'])",
}
FINE = ["marked", "of the soak tier", "none", "allowed"]


@pytest.mark.processes
def test_a_test_that_starts_a_process_without_saying_so_fails(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    soak: s\n    processes: p\n")
    tests, package = tmp_path / "tests", tmp_path / "seqae"
    (package / "lstm").mkdir(parents=True)
    tests.mkdir()
    for module in ("__init__", "lstm/__init__", "lstm/compiled", "other"):
        (package / f"{module}.py").write_text("import subprocess\ndef start(words):\n    subprocess.run(words)\n")
    (tests / "guard.py").write_text(Path(guard.__file__).read_text())
    code = ["import asyncio, os, pytest, subprocess", "from multiprocessing import get_context",
            "from seqae import other", "from seqae.lstm import compiled"]  # fmt: skip
    for name, start in STARTS.items():
        marker = {"marked": "processes", "of the soak tier": "soak"}.get(name, "filterwarnings('ignore')")
        code += [f"@pytest.mark.{marker}", f"def test_{name.replace(' ', '_')}():", f"    {start}"]
    (tests / "test_starts.py").write_text("\n".join(code))
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "guard", "-p", "no:cacheprovider", "tests"]
    path = os.pathsep.join(map(str, (tests, tmp_path)))
    told = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    for name in STARTS:
        outcome = "PASSED" if name in FINE else "FAILED"
        assert f"{outcome} tests/test_starts.py::test_{name.replace(' ', '_')}" in told.stdout, told.stdout
    assert "marked neither `processes` nor `soak`, and started\nsubprocess.Popen: true\n" in told.stdout


def test_the_modules_that_may_start_processes_are_there():
    folders = [guard.PACKAGE.parent, Path(matplotlib.__file__).parents[1]]
    assert [name for name in guard.ALLOWED if not any((folder / name).exists() for folder in folders)] == []
