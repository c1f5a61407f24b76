"""TODO"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TypeVar

from seqae.signals import _heard

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


PATIENCE = 10.0  # seconds that what is under way has to come to its end, when asked to


T = TypeVar("T")


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Ctrl-C, a closed terminal and SIGTERM all raise KeyboardInterrupt(their number), and only once: what cleans up
    is not disturbed, and neither is the end of the process.
    """
    ended = False

    def end(number: int, frame: object) -> None:
        nonlocal ended
        ended = True
        for ending in heard:
            signal.signal(ending, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    # nohup ignores one; another may not have been set from Python, and could not be given back
    heard = [ending for ending in ENDINGS if signal.getsignal(ending) not in (signal.SIG_IGN, None)]
    before = {ending: signal.signal(ending, end) for ending in heard}
    try:
        yield
    finally:
        for ending, handler in () if ended else before.items():
            signal.signal(ending, handler)


def uninterrupted(act: Callable[[], T]) -> T:
    """Do what must not be left half done, in a thread: an ending that comes meanwhile comes when it is over, or
    PATIENCE later. Processes started in it do not hear Ctrl-C, which a terminal sends to them as well, until they
    unblock SIGINT.
    """
    if threading.current_thread() is not threading.main_thread():  # to another one no signal comes
        return act()
    resource_tracker.ensure_running()  # multiprocessing's, which when it starts unblocks SIGINT
    result: Future[T] = Future()

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            result.set_result(act())
        except BaseException as error:
            result.set_exception(error)

    with _heard(ENDINGS) as asked:
        threading.Thread(target=work, daemon=True).start()
        deadline = float("inf")
        while not wait([result], timeout=0.1).done and time.monotonic() < deadline:
            deadline = min(deadline, time.monotonic() + PATIENCE) if asked else deadline
    if asked:
        signal.raise_signal(asked[0])
    return result.result()
