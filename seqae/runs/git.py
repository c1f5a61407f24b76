"""The git command line, for which the library needs no package."""

import subprocess
from pathlib import Path


def run_git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in a folder and return its exit code and its output as UTF-8 text. An error of git raises nothing.

    Where git is not installed, the exit code is 127, as a shell gives it.
    """
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8")
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, stdout="", stderr=f"git cannot be run: {error}")
