"""What made a run: the sources that were imported and their commit, versions of packages, the machine, its device."""

import logging
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import new as new_hash
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch

import seqae
from seqae.device import make_accelerator
from seqae.lstm import compiled
from seqae.runs.git import git_trouble, run_git

_PACKAGE = Path(seqae.__file__).parent
_STEP = "lstm/step.c"


class CodeVersion(NamedTuple):
    """The code that this process has imported.

    commit: the first 12 digits of the git commit that it is of; where git does not track the package, "seqae" and its
    version. dirty: whether the sources differ from that commit. sources: the first 12 digits of a hash of the package's
    sources, step.c among them. git: why git cannot tell the commit, in its own words; None if it can, or if the package
    is in no repository.
    """

    commit: str
    dirty: bool
    sources: str
    git: str | None = None


def now() -> str:
    """The time in UTC, to the second, in ISO format."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance_of(*, device: str, devices: int) -> dict[str, Any]:
    """Commit, sources, versions, machine, processor, device and number of threads, with the keys of run.yaml.

    device, devices: as the parameters. Raises ValueError for a device that is not there, as `make_accelerator` does.
    """
    packages = ("torch", "numpy", "accelerate", "seqae")
    found = make_accelerator(device=device, devices=devices).device
    name = torch.cuda.get_device_name(found) if found.type == "cuda" else str(found)
    return {
        **code_entries(),
        "versions": {"python": platform.python_version(), **{package: _installed(package) for package in packages}},
        "machine": platform.node(),
        "processor": processor_name(),  # another one may have other instructions, and so other rounding errors
        "device": name if devices == 1 else f"{devices} × {name}",
        "threads": torch.get_num_threads(),  # another number gives other rounding errors
    }


def resumed_by(made: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """What a resumed run's record says of what resumed it. made: as `provenance_of`. A warning is logged where
    threads, processor or device are others than at its beginning, so that the numbers will not be those of an unbroken
    run to the last bit.
    """
    for name in ("threads", "processor", "device"):
        if (before := record.get(name, made[name])) != made[name]:
            now_has = f"{made[name]} threads" if name == "threads" else f"{name} {made[name]}"
            told = "the run goes on with %s, before it had %s: it is not that of an unbroken one to the last bit"
            logging.getLogger("seqae").warning(told, now_has, before)
    return {
        key: made[key]
        for key in ("commit", "dirty", "sources", "versions", "machine", "processor", "device", "threads")
    }


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The processor's name, as /proc/cpuinfo or, without that, Python's `platform` gives it."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:  # a paragraph for each core; the first tells
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def code_entries() -> dict[str, Any]:
    """`code_version` and where others get that code, with the keys of run.yaml; a warning is logged where git fails."""
    found = code_version()
    if found.git:
        logging.getLogger("seqae").warning("the commit of the code is not recorded, git fails: %s", found.git)
    told = found._asdict() | {"origin": _origin()}
    return {key: value for key, value in told.items() if value is not None}


def code_version() -> CodeVersion:
    """The version of the code that this process has imported, whatever lies on the disk now."""
    sources = _imported_sources()
    found = [(commit, _blobs(sources, tree)) for commit in dict.fromkeys([_BEGAN, _head()]) if (tree := _tree(commit))]
    if not found:
        return CodeVersion(f"seqae {_installed('seqae')}", False, sources_hash(), git_trouble(_PACKAGE))
    same = [commit for commit, blobs in found if blobs == _tree(commit)]
    # It may have been committed since it was imported, or another commit checked out.
    return CodeVersion((same or [found[0][0]])[0], not same, sources_hash())


def sources_hash() -> str:
    """The first 12 digits of a hash of the imported sources: equal for equal code, however it was installed."""
    listed = (f"{name} {sha256(text).hexdigest()}\n" for name, text in sorted(_imported_sources().items()))
    return sha256("".join(listed).encode()).hexdigest()[:12]


_seen: dict[str, tuple[Any, bytes]] = {}  # by source file: its module's spec, another one once it is reloaded; its text


def _imported_sources() -> Mapping[str, bytes]:
    """The text of each source file of the package as this process has imported it, else as it would import it now."""
    specs = {
        spec.origin: spec
        for name, module in sys.modules.copy().items()
        if name.partition(".")[0] == "seqae" and (spec := getattr(module, "__spec__", None))
    }
    found = dict[str, bytes]()
    for file in _PACKAGE.rglob("*.py"):
        name, spec = file.relative_to(_PACKAGE).as_posix(), specs.get(str(file))
        if any(part.startswith(".") for part in name.split("/")):  # JupyterLab's checkpoints
            continue
        # A module that is imported later is read again then.
        if name not in _seen or (spec is not None and spec is not _seen[name][0]):
            _seen[name] = spec, file.read_bytes().replace(b"\r\n", b"\n")
        found[name] = _seen[name][1]
    return found | {_STEP: compiled.STEP_SOURCE.encode()}


def _origin() -> str | None:
    # The address that the code was cloned from, without a password or a token; None for a path on this machine, which
    # says nothing to others, and where git does not track the package.
    url = run_git(_PACKAGE, "remote", "get-url", "origin").stdout.strip() if _tree(_head()) else ""
    if "://" not in url:
        return url if re.match(r"[\w.-]+@[\w.-]+:", url) else None  # as git@host:owner/name.git
    user, _, host = urlsplit(url).netloc.rpartition("@")
    name = f"{user.partition(':')[0]}@" if user and url.startswith("ssh:") else ""  # elsewhere it may be a token
    return urlsplit(url)._replace(netloc=name + host).geturl() if host else None


def _head() -> str:
    return run_git(_PACKAGE, "rev-parse", "--short=12", "HEAD").stdout.strip()


@lru_cache(maxsize=4)
def _tree(commit: str) -> Mapping[str, str]:
    # The hashes of the package's sources in a commit; empty if git tracks none: the repository around is another's.
    lines = run_git(_PACKAGE, "ls-tree", "-r", commit).stdout.splitlines() if commit else []
    listed = {name: entry.split()[2] for entry, _, name in (line.partition("\t") for line in lines)}
    sources = {name: blob for name, blob in listed.items() if name.endswith(".py") or name == _STEP}
    return sources if "__init__.py" in sources else {}


def _blobs(sources: Mapping[str, bytes], tree: Mapping[str, str]) -> dict[str, str]:
    # Git's hashes of these texts, made as those of the tree.
    kind = "sha256" if len(next(iter(tree.values()))) == 64 else "sha1"
    return {name: new_hash(kind, b"blob %d\0" % len(text) + text).hexdigest() for name, text in sources.items()}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # code that is imported from a folder
        return "not installed"


# Now, when the modules that train are imported: what a kernel runs days later is this, unless it reloads them.
_BEGAN = _head()
_imported_sources()
