"""The command that trains a run: what a sweep's run was planned from, as run.yaml records it, and as text."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

LOCAL = {"store", "data_folder"}  # parameters that say where things are on one machine, or hold credentials


def planned_from(file: str, scale: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The entry `planned_from` of run.yaml. file: a parameter file, from the project's folder. scale, given: of
    `seqae run`, the latter its -p.
    """
    shown = {name: value for name, value in given.items() if name not in LOCAL}
    return {"file": file} | ({"scale": scale} if scale else {}) | ({"given": shown} if shown else {})


def run_command(planned: Mapping[str, Any] | None, *, scale: str | None = None, **given: Any) -> str:
    """`seqae run FILE --scale NAME -p KEY=VALUE …`, quoted for a shell.

    planned: as `planned_from` returns it; without it FILE stands for the parameter file. scale, given: in the place of
    what the run was planned with. A value that is a text, such as 7,8, stands as it is.
    """
    of = planned or {"file": "FILE"}
    words = ["seqae", "run", of["file"]] + (["--scale", scale] if (scale := scale or of.get("scale")) else [])
    for name, value in (of.get("given", {}) | given).items():
        words += ["-p", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)
