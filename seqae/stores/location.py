"""Where the store is: the one place that decides it. And how its URL is shown, without credentials."""

import re
from contextlib import suppress
from hashlib import sha256
from os import environ
from os.path import expandvars
from pathlib import Path
from urllib.parse import quote, unquote

from yaml import YAMLError

from seqae.files import cache_folder, expanded
from seqae.stores.project import project_path, project_root
from seqae.stores.yaml_text import load_yaml

_WEB = r"(?i:https?|(?:web)?davs?)"
_SECRET = r"(?i:[^/;=]*(?:token|secret|passw|key|sig|credential)[^/;=]*)"  # the name of an argument
# In a URL, with its colon and its @. One with a slash in it, as S3's secrets have, ends at the first @; a port is none.
PASSWORD = r":(?:[^/?#]*|(?!\d*(?:/|$))[^@]*)@"


def store_location(*given: str | None, root: Path | None = None) -> str:
    """Where runs are kept, as a folder or a URL: the first of `given` that is set, else $SEQAE_STORE, else reports/.

    A relative path is relative to the project, wherever Jupyter or papermill were started. root: the project, by
    default that of the working directory. But who stands in a store, for example with the executed notebook of a run,
    means that one. Raises ValueError as `expanded_place`, and for a URL that lacks a slash.
    """
    chosen = next((place for place in [*given, environ.get("SEQAE_STORE")] if place and place.strip()), "")
    if not (chosen or root) and (around := _store_around(Path.cwd())):
        return str(around)
    if "://" in chosen:
        return expanded_place(chosen)
    check_no_half_url(chosen)
    return str(project_path(chosen or "reports", root))


def expanded_place(place: str) -> str:
    """A store's folder or URL as `files.expanded` gives it. What it raises for a URL is without credentials.

    Nothing is left in the result that expanding it once more could change.
    """
    try:
        return expanded(place)
    except ValueError:
        if "://" not in expandvars(place):
            raise
        # Not which variable it is: in a password, $word is part of the secret.
        raise ValueError(
            f"store {public_url(place)}: it has a $ whose variable is not known on this machine, or a NUL: set the "
            "variable; a password that has a $ goes into fsspec's configuration, not into the URL"
        ) from None


def check_no_half_url(place: str) -> None:
    """Raise ValueError for a URL that lacks a slash, which would be a folder called PROTOCOL: here."""
    if "://" not in place and (start := re.match(r"(\w[\w+.-]+):[/\\]", place)):  # one letter is a drive of Windows
        raise ValueError(
            f"{start[0]}… lacks a slash: a URL has {start[1]}://, and a folder of that name is ./{start[0]}"
        )


def _store_around(folder: Path) -> Path | None:
    # The store whose run, or family, this folder is, or which it is itself; None for a run that was moved out of one.
    inside = {folder.parent.parent: "run.yaml", folder.parent: "*/run.yaml"}
    if (folder / "index.html").exists() and folder != project_root():  # else not searched: it may be a home folder
        inside[folder] = "*/*/run.yaml"
    for store, runs in inside.items():
        with suppress(OSError, ValueError, AttributeError, YAMLError):
            if (file := next(folder.glob(runs), None)) is not None:
                record = load_yaml(file.read_text(encoding="utf-8"))
                if record.get("family") == file.resolve().parents[1].name:
                    return store
    return None


def store_folder(store: str | None = None) -> Path:
    """The folder that holds the runs of a store; `store` and its default as in `store_location`.

    For a URL it is the folder of the mirror in the user's cache.
    """
    where = public_url(store_location(store))
    if "://" not in where:
        return Path(where).resolve()
    words = re.sub(r"[^\w.]+", "-", where.rpartition("@")[2]).strip("-")
    digits = sha256(where.rstrip("/").encode()).hexdigest()[:8]
    return (cache_folder() / "stores" / f"{words}-{digits}").resolve()


def without_credentials(text: str, url: str) -> str:
    """A message, of fsspec or another library, without the credentials of a URL, whole or in parts."""
    public = public_url(url)
    for whole, shown in ((url, public), (url.partition("://")[2], public.partition("://")[2])):
        text = text.replace(whole.rstrip("/"), shown.rstrip("/"))
    between = r"[:/@?#&=;\s]+"
    parts = {*re.split(between, url)} - {*re.split(between, public)}
    for part in sorted({*parts, *map(unquote, parts), *map(quote, parts)}, key=len, reverse=True):
        text = text.replace(part, "…") if len(part) > 2 else text
    return text


def public_url(url: str) -> str:
    """A URL without the credentials in it, for messages and files: passwords, keys in the place of a user, queries, and
    what may be some: an argument such as ;token=TOKEN and, of the web, any argument and a fragment, #TOKEN. Elsewhere #
    is part of the path.

    A user's name stays, without which ssh://me@host is another place, and so does github://ORGANISATION:REPOSITORY@.
    Text that is no URL is returned as it is.
    """
    url = re.sub(rf"((?i:https?|s3a?|gc?s|oss|tosf?s?)://)[^/?#:]*(?:{PASSWORD}|@)", r"\1", url)
    url = re.sub(rf"((?<!github)://[^/?#:]*)(?!::\w+://){PASSWORD}", r"\1@", url)  # :: begins a URL in a URL
    url = re.sub(rf"({_WEB}://.*?)(?:#.*|;[^/;]*=.*)", r"\1", url)
    return re.sub(rf"(://.*?)(?:\?.*|#.*=.*|;{_SECRET}=.*)", r"\1", url)
