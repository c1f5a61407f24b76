"""What is made of many runs is kept while their files are as they were: a comparison asks for it many times."""

from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache, wraps
from typing import TypeVar

from seqae.runs import Run

T = TypeVar("T")


def while_unchanged(*names: str) -> Callable[[Callable[[Sequence[Run]], T]], Callable[[Sequence[Run]], T]]:
    """For a function of runs alone: its result, a copy for each caller, until one of these files of a run changes."""

    def decorated(make: Callable[[Sequence[Run]], T]) -> Callable[[Sequence[Run]], T]:
        @lru_cache(maxsize=16)
        def known(runs: tuple[Run, ...], states: object) -> T:
            return make(runs)

        @wraps(make)
        def kept(runs: Sequence[Run]) -> T:
            return copy(known(tuple(runs), tuple(states(runs, name) for name in names)))

        return kept

    return decorated


def states(runs: Sequence[Run], name: str) -> tuple[object, ...]:
    """The state of a file of each run, another one after any change of it."""
    found = []
    for run in runs:
        try:
            state = (run.folder / name).stat()
            found.append((state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino))
        except OSError:
            found.append((0, 0, 0, 0))  # to be told of when it is read
    return tuple(found)
