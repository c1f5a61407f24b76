"""One section of the check in a process of its own: python -m seqae.benchmark.gpu_check.section_process NAME …

It writes a line of JSON for each check to standard output; whatever else is printed goes to standard error.
"""

import os
import sys
from importlib import import_module
from typing import Any

from seqae.benchmark.gpu_check.checks import Checks, as_json
from seqae.benchmark.gpu_check.sections import BY_NAME


def run_in_this_process(name: str, *, device: str, tiny: bool, seconds: float) -> None:
    """Run the section in this process, and write what it finds to what is standard output now."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # processes that this one starts, too

    def say(found: dict[str, Any]) -> None:
        lines.write(as_json(found) + "\n")

    module, _, function = BY_NAME[name].function.partition(":")
    checks = Checks(device=device, tiny=tiny, seconds=seconds, say=say)
    getattr(import_module(f"seqae.benchmark.gpu_check.{module}"), function)(checks)


if __name__ == "__main__":
    given_name, given_device, given_seconds, given_size = sys.argv[1:]
    run_in_this_process(given_name, device=given_device, tiny=given_size == "tiny", seconds=float(given_seconds))
