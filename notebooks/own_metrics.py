"""A metric of one's own: `metrics: ["own_metrics:iou"]`. It has a file of its own, so that an edit makes no new runs.

What it has to take and to return is in docs/your-own.md.
"""

import torch
from torch import Tensor


def iou(output: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of the pixels above 0.5, of each frame, (B, T). 1 where neither frame has one."""
    ours, true = output > 0.5, target > 0.5
    union = (ours | true).sum((2, 3))
    return torch.where(union > 0, (ours & true).sum((2, 3)) / union.clamp(min=1), 1.0)


iou.unit = "intersection / union"  # type: ignore[attr-defined]
iou.more_is_better = True  # type: ignore[attr-defined]
