"""Requests to stop: SIGINT (Ctrl-C) and SIGTERM are noted, so that the step under way can end first."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def stop_asked(*, heeded: bool = True) -> Iterator[list[int]]:
    """Yield a list to which SIGINT and SIGTERM are appended as they arrive.

    Raises KeyboardInterrupt at the end of the block if one arrived. Python delivers signals to the main thread only, so
    in other threads the list stays empty; it also does where signals are not `heeded`, and have their usual effect.
    """
    if not heeded or threading.current_thread() is not threading.main_thread():
        yield []
        return
    with collect_signals((signal.SIGINT, signal.SIGTERM)) as asked:
        yield asked
    if asked:
        raise KeyboardInterrupt


@contextmanager
def collect_signals(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Yield a list to which these signals are appended as they arrive; they have no other effect inside the block.

    Signals that this process ignores are still ignored. Only the main thread may call this.
    """
    arrived: list[int] = []
    # getsignal returns None for a handler that was not set from Python: it could not be restored
    caught = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, lambda number, frame: arrived.append(number)) for number in caught}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
