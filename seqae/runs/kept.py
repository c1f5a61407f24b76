"""Tables that are made of a finished run, kept in its folder."""

import hashlib
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import StringIO
from typing import TYPE_CHECKING

import filelock

from seqae.files import replace_text
from seqae.runs.locks import UNWRITABLE, changing
from seqae.runs.logs import TABLE_COLUMNS
from seqae.runs.records import RunError
from seqae.stores import BusyError

if TYPE_CHECKING:
    import pandas as pd

    from seqae.runs.run import Run


def kept_table(
    run: "Run", measure: Callable[["Run"], "pd.DataFrame"], published: AbstractContextManager[object]
) -> "pd.DataFrame":
    """What `measure(run)` returns, read from the run's folder if it is there, as NAME.csv, by the function's name.

    Otherwise, or where the function's own source is another than when it was measured, it is measured and written
    there, if the folder can be written and no other process changes it. published: entered while it is written. Raises
    ValueError for a function whose name is that of another table of runs or no name at all, RunError for a damaged
    file, and what `measure` raises.
    """
    import pandas as pd

    name = measure.__name__
    if not name.isidentifier() or name in {*TABLE_COLUMNS, "samples"}:
        raise ValueError(f"a table cannot be named {name!r} after the function that makes it: give it another name")
    file, source = run.folder / f"{name}.csv", _source_hash(measure)
    if not file.exists():
        run.model_file()  # of a store at a URL: fetches the whole folder
    known = run.record().get("measured", {})
    if not file.exists() or known.get(name, source) != source:
        text = measure(run).to_csv(index=False)
        try:
            with published, changing(run.folder):
                replace_text(file, text)
                # Read anew: other tables may have been measured meanwhile, by `measure` itself or another process.
                run.update(measured=run.record().get("measured", {}) | {name: source})
        except (BusyError, filelock.Timeout):
            pass
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
    else:
        text = file.read_text(encoding="utf-8")
    try:
        return pd.read_csv(StringIO(text))
    except ValueError as error:  # of pandas
        raise RunError(f"{file} is damaged ({error}): delete it, and it is made again") from None


def _source_hash(measure: Callable[..., object]) -> str | None:
    try:
        return hashlib.sha256(inspect.getsource(measure).encode()).hexdigest()[:12]
    except (OSError, TypeError):  # typed at a prompt
        return None
