"""An update captured as a CUDA graph, where this version of seqae can: the one place that the check asks for it."""

from collections.abc import Callable, Mapping
from typing import Any


def captured_update(inputs: Mapping[str, Any]) -> Callable[[], None] | None:
    """One update that replays its gradients' graph, or None where nothing is captured: on a CPU, or in this version.

    inputs: of `timing.Prepared`.
    """
    return None
