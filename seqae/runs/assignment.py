"""Which run this kernel has to execute. A sweep says so once, when it starts the kernel; other processes have none."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_current: "Assignment | None" = None


@dataclass(frozen=True)
class Assignment:
    """The run that a sweep's kernel executes. The sweep's worker has chosen its folder, and publishes and renders it.

    run: the name of the folder, NAME-HASH, or NAME-HASH-2 and so on for a run trained anew beside it. project: the path
    of the project on the machine that planned the run; this machine need not have it. planned: see `run_command`.
    """

    run: str
    project: Path | None = None
    planned: Mapping[str, Any] = field(default_factory=dict)

    def is_of(self, run_hash: str) -> bool:
        """Whether parameters of this hash are those of the assigned run. A notebook may open other runs as well."""
        return re.search(rf"-{run_hash}(-\d+)?$", self.run) is not None


def assign(
    run: str, code: str = "", project: str | None = None, modules: str = "", planned: Mapping[str, Any] | None = None
) -> None:
    """Assign a run to this process, by the name of its folder. Raises RuntimeError if it has one already.

    code: the folder where the sweep's worker has put the modules of your own, so that cells can import them as well.
    project, planned: as for `Assignment`. modules: the folder of the other modules that the cells import. What lies
    where the kernel works is found before both.
    """
    global _current
    if _current is not None:
        raise RuntimeError(f"this kernel was given run {_current.run}, it cannot be given {run} as well")
    _current = Assignment(run, Path(project) if project else None, planned or {})
    sys.path += filter(None, [code, modules])


def current_assignment() -> Assignment | None:
    """The assignment of this process; None outside a sweep's kernels."""
    return _current
