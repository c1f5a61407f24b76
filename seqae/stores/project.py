"""The project: the nearest folder with notebooks/ and params/. Relative paths of parameters are relative to it."""

from os.path import abspath
from pathlib import Path

from seqae.files import expanded


def project_path(path: str, root: Path | None = None) -> Path:
    """A path as parameters give it: `expanded`; a relative one is relative to the project, by default the one here."""
    return (root or project_root()) / expanded(path)


def unlinked(path: Path) -> Path:
    """The absolute path without `..`; links are not followed."""
    return Path(abspath(path))  # noqa: PTH100 `resolve` follows links


def project_root(start: Path | None = None) -> Path:
    """The nearest folder with notebooks/ and params/, from `start` (the working directory) upward; else `start`.

    Links on the way are not followed: a linked folder in params/ is in the project that the link is in. A run's folder
    is never a project: it may be somebody else's.
    """
    start = unlinked(start or Path.cwd())
    asked = (p for p in [start, *start.parents] if not (p / "run.yaml").exists())
    return next((p for p in asked if (p / "notebooks").is_dir() and (p / "params").is_dir()), start)
