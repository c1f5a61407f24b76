"""`horizon_until`: training predicts one frame at first, then more, and all in the end.

So Oh et al. (2015) train: "curriculum learning with multi-step prediction". A decoder that cannot predict the next
frame learns little from the tenth, and to decode fewer takes less time. Val and test are always of all frames.
"""

import math
from collections.abc import Callable

from seqae.parameters import Parameters
from seqae.tasks import BRANCHES


def updates_an_epoch(p: Parameters) -> int:
    """How many batches the training sequences make, the last of which may be smaller."""
    return math.ceil(p.train_sequences / p.batch_size)


def grows(p: Parameters) -> bool:
    """Whether a run predicts fewer frames at first."""
    return p.horizon_until is not None and "pred" in BRANCHES[p.task] and p.frames_out > 1


def sequence_length(p: Parameters) -> Callable[[int], int | None]:
    """What `UpdateRule.length` is: from the number of updates made to the frames of a sequence that the next one uses.

    Up to `horizon_until`, a share of all updates, each number of frames but the last has as many of them.
    """
    growing = (p.horizon_until or 1) * p.epochs * updates_an_epoch(p)
    if not grows(p):
        return lambda made: None
    return lambda made: p.frames_in + min(p.frames_out, 1 + int((p.frames_out - 1) * made / growing))


def all_predicted_from(p: Parameters) -> int | None:
    """The first epoch whose every update predicts all frames_out, or None where every epoch's do. Errors on train of
    the epochs before are of fewer frames than those on val.
    """
    length, updates = sequence_length(p), updates_an_epoch(p)
    last = (epoch for epoch in range(p.epochs, 0, -1) if length((epoch - 1) * updates) != p.frames_in + p.frames_out)
    return next(last, 0) + 1 if grows(p) else None
