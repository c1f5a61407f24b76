"""The sections of the check, in order of importance, each run in a process of its own with a time limit of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import IO, Any

from seqae.benchmark.gpu_check.checks import FAIL, SKIP
from seqae.stores import project_root

GRACE = 10.0  # seconds that a section has to end by itself, after its time and before it is killed
PATIENCE = 2.0  # seconds between Ctrl-C and the end by force
KEPT, LOGGED = 400, 8000  # characters of what a section that failed said last: in its line, in the JSON


@dataclass(frozen=True)
class Section:
    """function: module:function of this package. most: seconds that it may take; least: with fewer left it is skipped.

    Both are of a GPU; at tiny sizes a section may take all the time that there is, and needs TINY_LEAST seconds.
    """

    name: str
    function: str
    least: float
    most: float


TINY_LEAST = 5.0
SECTIONS = (
    Section("correctness", "correctness:check_correctness", 20, 90),
    Section("training", "training:check_training", 20, 80),
    Section("fork", "forking:check_fork", 20, 60),
    Section("sweep", "commands:check_sweep", 40, 120),
    Section("timing", "timing:check_timing", 30, 120),
    Section("recipe", "commands:check_recipe", 50, 120),
    Section("grid", "grid:check_grid", 40, 600),
)
BY_NAME = {section.name: section for section in SECTIONS}


def run_section(
    section: Section, *, left: float, device: str, tiny: bool, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run a section in a process of its own, for at most `left` seconds, and return what it found.

    tell: called with each check as it is made. A process that dies, hangs, or makes no check is a failed check.
    Returns seconds, checks, a list of dicts, and, where one failed, log: the end of what the process said beside them.
    """
    found: list[dict[str, Any]] = []

    def add(said: dict[str, Any]) -> None:
        found.append(said)
        tell(said)

    began, least = time.monotonic(), TINY_LEAST if tiny else section.least
    if left < least + GRACE:
        short = f"it needs {least + GRACE:.0f} seconds, and {max(left, 0):.0f} of the limit are left"
        add({"check": section.name, "outcome": SKIP, "text": short, "figures": {}})
        return {"seconds": 0.0, "checks": found}
    seconds = left - GRACE if tiny else min(section.most, left - GRACE)
    command = [sys.executable, "-m", "seqae.benchmark.gpu_check.section_process", section.name, device]
    command += [f"{seconds:.1f}", "tiny" if tiny else "full"]
    ended, log = run_process(command, seconds + GRACE, add)
    if ended is None and not found:
        ended = "it ended without any check"
    if ended is not None:
        add({"check": section.name, "outcome": FAIL, "text": f"{ended}; it said last: {log[-KEPT:]}", "figures": {}})
    failed = any(said["outcome"] == FAIL for said in found)
    return {"seconds": round(time.monotonic() - began, 1), "checks": found} | ({"log": log} if failed else {})


def run_process(command: list[str], seconds: float, say: Callable[[dict[str, Any]], None]) -> tuple[str | None, str]:
    """Run a command, and call `say` with each line of JSON that it writes.

    Returns how it failed, or None, and the end of what it wrote to standard error, without progress bars.

    After these seconds it, and whatever it has started in its session, is killed.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=project_root(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        reader = Thread(target=_read, args=(process.stdout, say), daemon=True)
        reader.start()
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _stop(process)
            reader.join(2)
            if not reader.is_alive():  # else something that it started still holds the pipe
                process.stdout.close()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").replace("\r", "\n").splitlines()
    log = "\n".join(line for line in lines if line.strip() and "step/s" not in line and "s/step" not in line)[-LOGGED:]
    if code == 0:
        return None, log
    return (f"no end after {seconds:.0f} s, killed" if code is None else f"it died with exit code {code}"), log


def _read(lines: IO[str], say: Callable[[dict[str, Any]], None]) -> None:
    for line in lines:
        with suppress(ValueError):
            if isinstance(said := json.loads(line), dict):
                say(said)


def _stop(process: "subprocess.Popen[str]") -> None:
    # Also after its end: what it has started may go on.
    for number in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        until = time.monotonic() + PATIENCE
        while process.poll() is None or _is_there(process.pid):
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        else:
            return


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
