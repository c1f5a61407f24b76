"""The command of the check: python -m seqae.benchmark.gpu_check --limit 480 --out gpu-check.json [SECTION ...]"""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from seqae.benchmark.gpu_check.checks import FAIL, PASS, SKIP, as_json, written_line
from seqae.benchmark.gpu_check.sections import BY_NAME, SECTIONS, run_section
from seqae.files import replace_text
from seqae.runs import code_version, now

RESERVE = 3.0  # seconds for what comes after the last section


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections asked for, print a line for each check, and write all figures; 1 if a check failed."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was found until then is written
    try:
        device, tiny = chosen_device(given.device, tiny=given.tiny)
    except ValueError as error:
        sys.stderr.write(f"gpu-check: {error}\n")
        return 2
    names = given.sections or [section.name for section in SECTIONS]
    found = run_sections(names, given.out, limit=given.limit, device=device, tiny=tiny, commit=given.commit, tell=_tell)
    counts = Counter(check["outcome"] for section in found["sections"].values() for check in section["checks"])
    _tell(f"{counts[PASS]} PASS, {counts[FAIL]} FAIL, {counts[SKIP]} SKIP in {found['seconds']:.0f} s: {given.out}")
    if device == "cpu":
        _tell("No GPU was measured: this was the rehearsal on the CPU.")
    return int(counts[FAIL] > 0)


def run_sections(
    names: Sequence[str],
    out: Path,
    *,
    limit: float,
    device: str,
    tiny: bool,
    commit: str | None = None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Run these sections within `limit` seconds; `out` is replaced at each check, so that it holds what is known.

    Returns what `out` holds: machine, seconds, and sections, by name what `run_section` returns.
    """
    began = time.monotonic()
    found: dict[str, Any] = {"machine": machine_facts(device, tiny=tiny, commit=commit), "seconds": 0.0, "sections": {}}

    def write() -> None:
        found["seconds"] = round(time.monotonic() - began, 1)
        replace_text(out, as_json(found) + "\n")

    tell(", ".join(f"{name} {value}" for name, value in found["machine"].items() if value is not None))
    for name in names:
        tell(f"-- {name}")
        left, checks = began + limit - RESERVE - time.monotonic(), list[dict[str, Any]]()

        def told(check: dict[str, Any], checks: list[dict[str, Any]] = checks) -> None:
            tell(written_line(check))
            checks.append(check)
            write()

        found["sections"][name] = {"seconds": 0, "checks": checks}  # of one that is ended halfway
        found["sections"][name] = run_section(BY_NAME[name], left=left, device=device, tiny=tiny, tell=told)
        write()
    return found


def chosen_device(asked: str, *, tiny: bool) -> tuple[str, bool]:
    """cuda or cpu, and whether sizes are tiny, as they are on a CPU. asked: auto, cuda or cpu.

    Raises ValueError where there is a GPU that torch cannot use: a check of the CPU would say nothing about it.
    """
    if asked == "cpu" or torch.cuda.is_available():
        return ("cpu", True) if asked == "cpu" else ("cuda", tiny)
    listed = _nvidia_smi("name,driver_version")
    if asked == "cuda" or listed:
        there = f"this machine has {listed}" if listed else "nvidia-smi shows none"
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise ValueError(
            f"torch {torch.__version__}, {built}, finds no GPU it can use; {there}: update driver or torch"
        )
    return "cpu", True


def machine_facts(device: str, *, tiny: bool, commit: str | None) -> dict[str, Any]:
    """Card, driver, versions, code and date. commit: where git cannot tell."""
    on_gpu, code = device != "cpu", code_version()
    return {
        "card": torch.cuda.get_device_name() if on_gpu else None,
        "driver": _nvidia_smi("driver_version") or None if on_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "device": device,
        "sizes": "tiny" if tiny else "full",
        "date": now(),
        "commit": commit or code.commit + " and changes" * code.dirty,
        "sources": code.sources,
    }


def _nvidia_smi(what: str) -> str:
    """The first GPU's facts of these names, as nvidia-smi prints them; empty where there is no GPU or no nvidia-smi."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return ""
    listed = subprocess.run([tool, f"--query-gpu={what}", "--format=csv,noheader"], capture_output=True, text=True)
    return listed.stdout.splitlines()[0].strip() if listed.returncode == 0 and listed.stdout.strip() else ""


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m seqae.benchmark.gpu_check", description=__doc__)
    known = [section.name for section in SECTIONS]
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"by default all: {', '.join(known)}")
    parser.add_argument("--limit", type=float, default=480, help="seconds for all sections together")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="the file of figures, replaced")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--tiny", action="store_true", help="sizes of seconds; always so on a CPU")
    parser.add_argument("--commit", help="the commit of the code, where there is no git")
    return parser


if __name__ == "__main__":
    sys.exit(main())
