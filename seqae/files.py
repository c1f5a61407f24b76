"""Files that a killed process leaves whole, because they are replaced at once. Also the user's cache."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import environ, fsync, getpid
from os.path import expanduser, expandvars
from pathlib import Path
from threading import get_ident


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
    behind; see `runs.locks.remove_leftovers`.
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


def expanded(path: str) -> str:
    """A path or URL with `~` and environment variables replaced. Raises ValueError for those not known here, and for a
    path with a NUL, which no system has.
    """
    if "\0" in path:
        raise ValueError(f"path {path!r}: no path has a NUL in it: leave it out")
    full = expanduser(expandvars(path))  # noqa: PTH111 a URL is no Path
    if unknown := re.match("~[^/]*", full) or re.search(r"\$(\w+|{.*?})", full):
        raise ValueError(f"path {path!r}: {unknown[0]} is not known on this machine: write the path out, or set it")
    return full


def cache_folder() -> Path:
    """The folder of this package in the user's cache, for files that can be made or downloaded again.

    It is the folder that pooch, which downloads MNIST, uses on Linux and macOS. It need not exist. Raises OSError for a
    user without a home folder.
    """
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    try:
        given = Path(expanded(environ.get("XDG_CACHE_HOME", "").strip() or usual))
        return (given if given.is_absolute() else Path(expanded(usual))) / "seqae"  # as its specification says
    except ValueError:
        raise OSError("this user has no home folder: set HOME to a folder that you can write to") from None
