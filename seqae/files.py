"""Files that a killed process leaves whole, because they are replaced at once. Also where the store is."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from hashlib import sha256
from os import environ, fsync, getpid
from pathlib import Path
from threading import get_ident
from typing import Any

import yaml

# In a URL, with its colon and its @. One with a slash in it, as S3's secrets have, ends at the first @; a port is none.
PASSWORD = r":(?:[^/?#]*|(?!\d*(?:/|$))[^@]*)@"


def replace_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8, or replace it, at once; see `whole`."""
    with whole(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Write a file so that readers find the old content or the new, never a part of it.

    Yields the temporary file to write. It is renamed to `file` at the end, or removed after an error. Its name begins
    with a dot, ends with the suffix of `file` and is unique for each process and thread, so several may write at once;
    the last one wins. A killed process leaves it behind; see `remove_leftovers`.
    """
    temporary = file.with_name(f".{file.name}.{getpid()}-{get_ident()}{file.suffix}")
    try:
        yield temporary
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
        older = file.with_name(f".{file.name}")  # the name of temporary files until November 2026
        for left in (older, *file.parent.glob(f".{escape(file.name)}.*")):
            left.unlink(missing_ok=True)


def project_root(start: Path | None = None) -> Path:
    """The nearest folder with notebooks/ and params/, from `start` (the working directory) upward; else `start`."""
    start = (start or Path.cwd()).resolve()
    return next((p for p in [start, *start.parents] if (p / "notebooks").is_dir() and (p / "params").is_dir()), start)


def store_location(*given: str | None, root: Path | None = None) -> str:
    """Where runs are kept, as a folder or a URL: the first of `given` that is set, else $SEQAE_STORE, else reports/.

    root: the project that reports/ is in; by default that of the working directory.
    """
    chosen = next(filter(None, given), None) or environ.get("SEQAE_STORE")
    return chosen or str((root or project_root()) / "reports")


def store_folder(store: str | None = None) -> Path:
    """The folder that holds the runs of a store; `store` and its default as in `store_location`.

    A relative path is relative to the project, wherever Jupyter or papermill were started. For a URL it is the folder
    of the mirror in the user's cache, which `seqae.stores` fills.
    """
    where = public_url(store_location(store))
    if "://" not in where:
        return (project_root() / Path(where).expanduser()).resolve()
    words = re.sub(r"[^\w.]+", "-", where.rpartition("@")[2]).strip("-")
    digits = sha256(where.rstrip("/").encode()).hexdigest()[:8]
    return (cache_folder() / "stores" / f"{words}-{digits}").resolve()


def public_url(url: str) -> str:
    """A URL without the credentials in it, for messages and files: passwords, queries, keys in the place of a user.

    A user's name stays, without which ssh://me@host is another place. Text that is no URL is returned as it is.
    """
    url = re.sub(rf"((?:https?|s3a?|gc?s)://)[^/?#:]*(?:{PASSWORD}|@)", r"\1", url)
    url = re.sub(rf"(://[^/?#:]*){PASSWORD}", r"\1@", url)
    return re.sub(r"(://.*?)(?:\?.*|#.*=.*)", r"\1", url)


def cache_folder() -> Path:
    """The folder of this package in the user's cache, for files that can be made or downloaded again.

    It is the folder that pooch, which downloads MNIST, uses on Linux and macOS. It need not exist.
    """
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(environ.get("XDG_CACHE_HOME", "").strip() or usual).expanduser() / "seqae"


def load_yaml(text: str) -> Any:
    """Parse YAML safely, with libyaml where it is installed: it is 7 times as fast as PyYAML's own parser."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
