"""Asked to end, by Ctrl-C, a closed terminal or SIGTERM: what hears it, and lets what is under way end in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Ctrl-C, a closed terminal and SIGTERM all raise KeyboardInterrupt(their number), and only once: what cleans up
    is not disturbed, and neither is the end of the process.
    """
    ended = False

    def end(number: int, frame: object) -> None:
        nonlocal ended
        ended = True
        for ending in ENDINGS:
            signal.signal(ending, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    heard = [ending for ending in ENDINGS if signal.getsignal(ending) != signal.SIG_IGN]  # nohup ignores one
    before = {ending: signal.signal(ending, end) for ending in heard}
    try:
        yield
    finally:
        for ending, handler in () if ended else before.items():
            signal.signal(ending, handler)


@contextmanager
def heard_later() -> Iterator[None]:
    """For what must not be left half done: an ending that comes meanwhile comes when it is over. In the main thread."""
    asked: list[int] = []
    heard = [ending for ending in ENDINGS if signal.getsignal(ending) not in (signal.SIG_IGN, None)]
    before = {ending: signal.signal(ending, lambda number, frame: asked.append(number)) for ending in heard}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
        if asked:
            signal.raise_signal(asked[0])


@contextmanager
def stop_asked() -> Iterator[list[int]]:
    """Gives a list to which SIGINT and SIGTERM are appended when they come; it ends with KeyboardInterrupt if they did.

    In the main thread; to another one no signal comes, and the list stays empty.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, lambda number, frame: asked.append(number)) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt
