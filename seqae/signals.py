"""Asked to end, by Ctrl-C, a closed terminal or SIGTERM: what hears it, and lets what is under way end in order."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def stop_asked() -> Iterator[list[int]]:
    """Gives a list to which SIGINT and SIGTERM are appended when they come; it ends with KeyboardInterrupt if they did.

    In the main thread; to another one no signal comes, and the list stays empty.
    """
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    with _heard((signal.SIGINT, signal.SIGTERM)) as asked:
        yield asked
    if asked:
        raise KeyboardInterrupt


@contextmanager
def _heard(numbers: Sequence[int]) -> Iterator[list[int]]:
    asked: list[int] = []
    heard = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, lambda number, frame: asked.append(number)) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
