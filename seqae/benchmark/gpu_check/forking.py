"""The fork server of sweeps: its imports leave CUDA alone, so that a kernel forked of it can use the GPU."""

import os
import subprocess
import sys

from seqae.benchmark.gpu_check.checks import Checks

# In a process that has not touched CUDA. What counts CUDA's functions calls them as well, so nothing is hidden.
PROGRAM = """
import os, sys, time
import torch
called = []
def watched(module, name):
    real = getattr(module, name)
    def call(*given, **named):
        called.append(name)
        return real(*given, **named)
    setattr(module, name, call)
watched(torch.cuda, "_lazy_init")
watched(torch.cuda, "is_available")  # counts devices by CUDA, which spoils a fork; device_count asks the driver
if hasattr(torch._C, "_cuda_getDeviceCount"):
    watched(torch._C, "_cuda_getDeviceCount")
from seqae.sweeps.fork_server import IMPORTS, TRAINING_IMPORTS
for name in IMPORTS + TRAINING_IMPORTS:
    __import__(name)
print("called", *called, flush=True)
print("threads", len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1, flush=True)
if (pid := os.fork()) == 0:
    began = time.time()
    value = float(torch.ones(3, device=sys.argv[1]).sum())
    print("computed", value, round(time.time() - began, 1), flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def check_fork(checks: Checks) -> None:
    """Import what the server imports, fork, and compute in the fork."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, checks.device], capture_output=True, text=True, timeout=checks.left,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # as the server
    )  # fmt: skip
    said = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.split()}
    called, threads = said.get("called"), said.get("threads", ["?"])[0]
    imported = called is not None
    checks.told(
        "imports of the fork server",
        imported and not called,
        f"calls of CUDA: {', '.join(called or []) or 'none'}; threads: {threads}" if imported else done.stderr[-300:],
        called=called,
    )
    computed = said.get("computed")
    right = done.returncode == 0 and computed is not None and computed[0] == "3.0"
    text = f"computed on {checks.device} in {computed[1]} s" if computed else " ".join(done.stderr.split())[-300:]
    checks.told("a forked process", right, text)
