"""Files that a killed process leaves whole, because they are replaced at once. Also the project and the cache."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from os import environ, fsync, getpid
from pathlib import Path
from threading import get_ident
from typing import Any

import yaml


def replace_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8, or replace it, at once; see `whole`."""
    with whole(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Write a file so that readers find the old content or the new, never a part of it.

    Yields the temporary file to write. It is renamed to `file` at the end, or removed after an error. Its name begins
    with a dot, ends with the suffix of `file` and is unique for each process and thread, so several may write at once;
    the last one wins. Its mode is that of any new file, whatever the writer's library chose. A killed process leaves it
    behind; see `remove_leftovers`.
    """
    temporary = file.with_name(f".{file.name}.{getpid()}-{get_ident()}{file.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask says; safetensors replaces the file by one of mode 0600
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb") as stream:
            fsync(stream.fileno())  # on the disk before it gets the name
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(*written: Path) -> None:
    """Remove the temporary files that killed processes left when they wrote these files with `whole`.

    Call it only under a lock that keeps others from writing these files: it removes their temporary files, too.
    """
    for file in written:
        # The first is the name of temporary files until November 2026.
        for left in (file.with_name(f".{file.name}"), *file.parent.glob(f".{escape(file.name)}.*")):
            left.unlink(missing_ok=True)


def project_root(start: Path | None = None) -> Path:
    """The nearest folder with notebooks/ and params/, from `start` (the working directory) upward; else `start`."""
    start = (start or Path.cwd()).resolve()
    return next((p for p in [start, *start.parents] if (p / "notebooks").is_dir() and (p / "params").is_dir()), start)


def cache_folder() -> Path:
    """The folder of this package in the user's cache, for files that can be made or downloaded again.

    It is the folder that pooch, which downloads MNIST, uses on Linux and macOS. It need not exist. Raises OSError for a
    user without a home folder.
    """
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    try:
        return Path(environ.get("XDG_CACHE_HOME", "").strip() or usual).expanduser() / "seqae"
    except RuntimeError:
        raise OSError("this user has no home folder: set HOME to a folder that you can write to") from None


def load_yaml(text: str) -> Any:
    """Parse YAML safely, with libyaml where it is installed: it is 7 times as fast as PyYAML's own parser."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
