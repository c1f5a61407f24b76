"""What made a run: the code's commit, the versions of its packages, the machine and its device."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import seqae
from seqae.device import make_accelerator

PACKAGE = Path(seqae.__file__).parent


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def circumstances(*, device: str, devices: int) -> dict[str, Any]:
    """Commit, versions, machine and device, as run.yaml has them. Raises ValueError as `make_accelerator`."""
    _version.cache_clear()  # a commit edits no file
    commit, dirty = code_version()
    packages = ("torch", "numpy", "accelerate", "seqae")
    found = make_accelerator(device=device, devices=devices).device
    name = torch.cuda.get_device_name(found) if found.type == "cuda" else str(found)
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
        "machine": platform.node(),
        "device": name if devices == 1 else f"{devices} × {name}",
        "threads": torch.get_num_threads(),  # with another number the last bits differ
    }


def code_version() -> tuple[str, bool]:
    """The package's git commit and whether it has uncommitted changes; outside git, its version and False."""
    return _kept[0] if _kept else _version(max(file.stat().st_mtime_ns for file in PACKAGE.rglob("*.py")))


def keep_code_version() -> None:
    """Say what it is now ever after, in processes forked from this one, too: the code that they have imported."""
    _kept[:] = [code_version()]


_kept: list[tuple[str, bool]] = []


@lru_cache(maxsize=1)
def _version(edited: int) -> tuple[str, bool]:
    # Asked anew when a file was edited: a notebook's kernel lives for days, and reloads what is.
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):
        return f"seqae {version('seqae')}", False
