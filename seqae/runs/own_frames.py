"""Where in the user's own files an error was raised, and how a notebook's cell shows it: a sentence and those lines."""

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from seqae.contract import ContractError
from seqae.runs.assignment import current_assignment


class OwnFrame(NamedTuple):
    """A line of the user's that was being executed. where: its file, or Cell In[3]. text: the line itself."""

    where: str
    line: int
    function: str
    text: str


def own_frames(error: BaseException) -> list[OwnFrame]:
    """The lines of cells and of the user's own files on the way to an error and to its cause, the outermost first."""
    found, seen = list[OwnFrame](), set[int]()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        for frame, line in traceback.walk_tb(at.__traceback__):
            code = frame.f_code
            if _is_own(frame.f_globals.get("__name__", ""), code.co_filename):
                (told,) = traceback.StackSummary.extract([(frame, line)])
                found.append(OwnFrame(_shown_name(code.co_filename), line, code.co_name, told.line or ""))
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return found


def place(error: BaseException) -> str:
    """The innermost line of the user's own modules that raised an error, as text: (my_models.py:12); or empty."""
    found = [frame for frame in own_frames(error) if frame.where.endswith(".py")]
    return f" ({found[-1].where}:{found[-1].line})" if found else ""


@contextmanager
def placed() -> Iterator[None]:
    """A ContractError that leaves the block says in which line of the user's own modules its cause was raised."""
    try:
        yield
    except ContractError as error:
        if error.__cause__:
            error.args = (f"{error}{place(error.__cause__)}",)
        raise


def rendered(error: BaseException) -> list[str]:
    """What IPython shows of an error: its sentence and the lines of `own_frames`, without those of libraries.

    In a sweep's kernel it is the whole traceback, which stays in the executed notebook.
    """
    shell = _shell()
    if shell is not None and current_assignment():
        of = shell.InteractiveTB
        return list(of.structured_traceback(type(error), error, error.__traceback__, tb_offset=of.tb_offset))
    frames = [f"{where}, line {line}, in {name}\n    {text}" for where, line, name, text in own_frames(error)]
    return [f"{type(error).__name__}: {error}", *(["", *frames] if frames else [])]


def _is_own(module: str, file: str) -> bool:
    # Not of seqae, Python or an installed package. seqae_own_… are the modules that parameters name.
    first, parts = module.partition(".")[0], Path(file).parts
    installed = {"site-packages", "dist-packages"} & {*parts} or Path(sysconfig.get_path("stdlib")) in Path(
        file
    ).parents
    nowhere = file.startswith("<") and first != "__main__"
    return first.startswith("seqae_own_") or not (first == "seqae" or installed or nowhere)


def _shown_name(file: str) -> str:
    shell = _shell()
    named = shell.compile.format_code_name(file) if shell is not None else None  # ("Cell", "In[3]") of a cell
    if named:
        return " ".join(named)
    return Path(file).name if Path(file).is_absolute() else file


def _shell() -> Any:
    # Commands do without IPython, which takes a while to import.
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
