"""The command that trains a run: what a sweep's run was planned from, as run.yaml records it, and as text."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from seqae.stores import public_url

LOCAL = {"store", "data_folder"}  # parameters that say where things are on one machine


def planned_from(file: str, scale: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The entry `planned_from` of run.yaml. file: a parameter file, from the project's folder. scale, given: of
    `seqae run`, the latter its -p.
    """
    shown = {name: _public(value) for name, value in given.items() if name not in LOCAL}
    return {"file": file} | ({"scale": scale} if scale else {}) | ({"given": shown} if shown else {})


def run_command(planned: Mapping[str, Any] | None, *, scale: str | None = None, **given: Any) -> str:
    """`seqae run FILE --scale NAME -p KEY=VALUE …`, quoted for a shell.

    planned: as `planned_from` returns it; without it FILE stands for the parameter file. scale, given: in the place of
    what the run was planned with. A value that is a text, such as 7,8, stands as it is.
    """
    of = planned or {}
    words = ["seqae", "run", of.get("file", "FILE")]
    if scale := scale or of.get("scale"):
        words += ["--scale", scale]
    for name, value in (of.get("given", {}) | given).items():
        words += ["-p", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _public(value: Any) -> Any:
    # Clips may be at URLs with credentials.
    return [*map(_public, value)] if isinstance(value, list) else public_url(value) if isinstance(value, str) else value
