"""Checkpoints of earlier versions, in today's form."""

from pathlib import Path
from typing import Any

import torch

from seqae.files import whole


def upgrade_checkpoint(file: Path) -> None:
    """Rewrite a checkpoint in which progress and epoch are tuples, as they were until November 2026; leave others.

    Raises ValueError where it is older still. `load_checkpoint` tells what else is wrong with a file.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # reads no weights
        progress = content["progress"]
    except Exception:  # torn bytes make torch raise any of a dozen types
        return
    if not isinstance(progress, tuple):
        return
    content["progress"], content["epoch"] = _of_tuples(file, progress, content.pop("begun", None))
    with whole(file) as temporary:
        torch.save(content, temporary)


def _of_tuples(file: Path, progress: tuple, begun: tuple | None) -> tuple[dict[str, Any], dict[str, Any]]:
    # The epoch's sums were one dict by (branch, metric).
    if len(progress) != 4:
        raise ValueError(f"{file} is of an older version: delete it, and the run starts anew")
    totals, *others = begun or ({}, 0, 0.0, 0.0, 0.0)
    epoch = dict(zip(("overflows", "left_out", "learning_rate", "update_ratio"), others, strict=True))
    epoch |= {name: totals.get(("all", name)) for name in ("objective", "grad_norm")}
    epoch["errors"] = {branch: {} for branch, _ in totals if branch != "all"}
    for branch, metric in totals:
        if branch != "all":
            epoch["errors"][branch][metric] = totals[branch, metric]
    return dict(zip(("step", "seconds", "objectives", "diverged_at"), progress, strict=True)), epoch
