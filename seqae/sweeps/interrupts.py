"""How a command reacts to Ctrl-C, SIGTERM and a closed terminal: one KeyboardInterrupt, which cleaning up survives."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeVar

from seqae.signals import collect_signals

# SIGHUP, of a closed terminal, exists on Linux and macOS only. The others exist everywhere.
STOP_SIGNALS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
UNINTERRUPTED_SECONDS = 10.0  # `uninterrupted` waits this long after a stop signal
_T = TypeVar("_T")


@contextmanager
def interrupt_once() -> Iterator[None]:
    """The first of `STOP_SIGNALS` raises KeyboardInterrupt(its number); all later ones are ignored.

    They stay ignored after the block, so that neither cleaning up nor the end of the process is disturbed.
    """
    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        for caught_number in caught:
            signal.signal(caught_number, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    # nohup ignores SIGHUP: leave it so. None is a handler that was not set from Python: it could not be restored.
    caught = [number for number in STOP_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, interrupt) for number in caught}
    try:
        yield
    finally:
        for number, handler in () if interrupted else before.items():
            signal.signal(number, handler)


def uninterrupted(act: Callable[[], _T]) -> _T:
    """Call `act` in a thread and return its result. Stop signals that arrive meanwhile take effect when it has ended.

    They take effect after `UNINTERRUPTED_SECONDS` if it has not ended by then. No signal reaches a thread other than
    the main one: there, `act` is called directly.
    """
    if threading.current_thread() is not threading.main_thread():
        return act()
    result: Future[_T] = Future()

    def work() -> None:
        try:
            result.set_result(act())
        except BaseException as error:
            result.set_exception(error)

    with collect_signals(STOP_SIGNALS) as arrived:
        threading.Thread(target=work, daemon=True).start()
        deadline = float("inf")
        while not wait([result], timeout=0.1).done and time.monotonic() < deadline:
            deadline = min(deadline, time.monotonic() + UNINTERRUPTED_SECONDS) if arrived else deadline
    if arrived:
        signal.raise_signal(arrived[0])
    return result.result()
