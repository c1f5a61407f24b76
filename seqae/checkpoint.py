"""TODO"""

import errno
from pathlib import Path
from typing import Any

import torch

from seqae import files


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    where = device if device.type == "cuda" else device.type  # torch.load does not know a rank's cpu:0
    try:
        return torch.load(path, map_location=where, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what torch makes of torn bytes is any of a dozen types
        raise ValueError(f"{path} is no whole checkpoint ({error}): delete it, and the run starts anew") from error


def _replace(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.whole(path) as temporary:
            torch.save(state, temporary)
    except RuntimeError as error:  # what torch's writer makes of a full disk
        raise OSError(errno.ENOSPC, f"checkpoint not written: {error}") from error
