"""What made a run: the commit of the code, the versions of packages, the machine and its device."""

import platform
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

import seqae
from seqae.device import make_accelerator
from seqae.runs.git import run_git

_PACKAGE = Path(seqae.__file__).parent


class CodeVersion(NamedTuple):
    """commit: the first 12 digits of the package's git commit; outside git "seqae" and its version. dirty: whether
    files of the package differ from that commit.
    """

    commit: str
    dirty: bool


def now() -> str:
    """The time in UTC, to the second, in ISO format."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance_of(*, device: str, devices: int) -> dict[str, Any]:
    """Commit, versions, machine, device and number of threads, with the keys of run.yaml.

    device, devices: as the parameters. Raises ValueError for a device that is not there, as `make_accelerator` does.
    """
    _version.cache_clear()  # a commit changes no modification time
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
        "threads": torch.get_num_threads(),  # another number gives other rounding errors
    }


def code_version() -> CodeVersion:
    """The version of the code: the present one, or the one that `keep_code_version` kept."""
    return _kept[0] if _kept else _version(max(file.stat().st_mtime_ns for file in _PACKAGE.rglob("*.py")))


def keep_code_version() -> None:
    """Keep the present version for this process and those forked from it, because it is the code they have imported."""
    _kept[:] = [code_version()]


_kept: list[CodeVersion] = []


@lru_cache(maxsize=1)
def _version(edited: int) -> CodeVersion:
    # Cached until a file is edited: a notebook's kernel lives for days and may reload edited code.
    head = run_git(_PACKAGE, "rev-parse", "--short=12", "HEAD")
    changes = run_git(_PACKAGE, "status", "--porcelain", "--", ".")
    if head.returncode or changes.returncode:
        return CodeVersion(f"seqae {version('seqae')}", dirty=False)
    return CodeVersion(head.stdout.strip(), dirty=bool(changes.stdout.strip()))
