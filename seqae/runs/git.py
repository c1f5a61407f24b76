"""The git command line, for which the library needs no package."""

import os
import subprocess
from pathlib import Path

# Set by git for its hooks. They would name another repository than the one around the folder.
OF_HOOKS = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"}


def run_git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in a folder and return its exit code and its output as UTF-8 text. An error of git raises nothing.

    Where git is not installed, the exit code is 127, as a shell gives it. Messages are in English.
    """
    command = ["git", "-C", str(folder), *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in OF_HOOKS} | {"LC_ALL": "C"}
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=environment)
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, stdout="", stderr=f"git cannot be run: {error}")


def git_trouble(folder: Path) -> str | None:
    """Why git cannot read the repository around a folder, in its own words; None if it can, or if there is none."""
    found = run_git(folder, "rev-parse", "--git-dir")
    none = not any((place / ".git").exists() for place in (folder, *folder.resolve().parents))
    if found.returncode == 0 or none or "not a git repository (or any" in found.stderr or not folder.is_dir():
        return None
    return " ".join(found.stderr.removeprefix("fatal: ").split())
