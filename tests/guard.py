"""A pytest plugin: a test outside the soak tier that starts a process without saying so, fails.

Processes are what makes tests slow, and they creep in unseen: a command run where a call would do, a kernel more.
"""

import multiprocessing.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent
PACKAGE = FOLDER.parent / "seqae"
EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system",
          "pty.spawn", "multiprocessing.spawn"}  # fmt: skip
# Modules whose processes belong to what many tests call, and take milliseconds or come once on a machine.
ALLOWED = {
    "seqae/lstm/compiled.py": "the C compiler, once on a machine",
    "seqae/runs/git.py": "git, for the commit in a run's record and the committed parameters of a notebook",
    "matplotlib/font_manager.py": "fontconfig, for the list of fonts that matplotlib keeps",
}

_running: pytest.Item | None = None
_started: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in EVENTS and _running is not None and not _allowed():
        words = [part if isinstance(part, list | tuple) else [part] for part in arguments[:2]] or [[]]
        _started.append(f"{event}: {' '.join(str(word) for word in words[-1])[:200]}")


def _allowed() -> bool:
    # Whoever of these, the library or the tests is nearest to the call started the process.
    frame = sys._getframe(2)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.as_posix().endswith(tuple(ALLOWED)):
            return True
        if file.is_relative_to(PACKAGE) or file.is_relative_to(FOLDER):
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _spawn(path: Any, arguments: Any, descriptors: Any, call: Any = multiprocessing.util.spawnv_passfds) -> int:
    sys.audit("multiprocessing.spawn", path, arguments)  # Python itself reports no event here
    return call(path, arguments, descriptors)


def pytest_configure() -> None:
    multiprocessing.util.spawnv_passfds = _spawn
    sys.addaudithook(_watch)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global _running
    says_so = item.get_closest_marker("soak") or item.get_closest_marker("processes")
    _running = None if says_so else item
    _started.clear()
    try:
        return (yield)
    finally:
        _running = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    result = yield
    if _running is not None and _started:
        told = "it is marked neither `processes` nor `soak`, and started"
        pytest.fail("\n".join([told, *_started]), pytrace=False)
    return result
