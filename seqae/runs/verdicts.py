"""What a run reached, in one line: its prognosis before training, its verdict afterwards."""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 0.03  # within 3 % of the mean frame's MSE counts as stuck at the mean frame
LITTLE = 20  # per cent: a run that ends less than that below the mean frame has learned little


def prognosis(floor: Mapping[str, float], mean_frame: Mapping[str, float]) -> str:
    """One line before training: whether the head can learn at all, of the branch with the most room between both.

    floor, mean_frame: mse per pixel on [0, 1], for each branch. Where one branch can learn and another cannot, of both.
    """
    by_room = sorted(mean_frame, key=lambda branch: floor[branch] - mean_frame[branch])
    cannot = [bool(floor[branch] > mean_frame[branch]) for branch in by_room]
    mixed = any(cannot) - all(cannot)
    return "; ".join(
        f"can{'not' * no} learn{f' {b}' * mixed}: floor {floor[b]:.3f} {'<>'[no]} mean frame {mean_frame[b]:.3f}"
        for b, no in zip(by_room[: 1 + mixed], cannot, strict=False)
    )


def plateau_since(objectives: Sequence[float]) -> int | None:
    """`plateau_begins`, if the plateau takes at least a quarter of all epochs and at least 3; otherwise None."""
    from seqae.training import plateau_begins  # needs torch, which commands that only read verdicts do without

    since, last = plateau_begins(objectives), len(objectives)
    return since if last - since >= max(3, last / 4) else None


def verdict(
    val: "pd.DataFrame",
    *,
    mean_frame: Mapping[str, float],
    floor: Mapping[str, float],
    diverged_at: int | None = None,
    stopped: bool = False,
) -> str:
    """One line on what a run reached, by its errors at the epoch with the best objective.

    val: columns epoch, branch, metric, value of the val split, with `objective` (branch `all`) and `mse` of each
    branch. mean_frame, floor: for each branch its mse on val and the least reachable one. diverged_at: the epoch that
    was not finite. stopped: whether training ended on a plateau, before its last epoch.
    """
    if diverged_at is not None:
        return f"diverged at epoch {diverged_at}"
    objective = val[val.metric == "objective"].set_index("epoch")["value"]
    ended = f", stopped at epoch {len(objective)}" if stopped else ""
    if (told := prognosis(floor, mean_frame)).startswith("cannot"):
        return told + ended
    best = val[(val.epoch == objective.idxmin()) & (val.metric == "mse")].set_index("branch")["value"]
    below = {b if len(mean_frame) > 1 else "": _below(best[b], mean) for b, mean in mean_frame.items()}
    suffix = (f", plateau since epoch {since}" if (since := plateau_since(objective.to_list())) else "") + ended
    if max(below.values()) >= MARGIN:
        mixed = bool(min(below.values()) < 0)  # one branch has learned, the other has not
        shares = [f"{b} {abs(x):.0%}".strip() + mixed * (" below" if x > 0 else " above") for b, x in below.items()]
        grade = _grade(round(100 * share) for share in below.values())
        return f"{grade} ({', '.join(shares).replace('%', ' %')}{'' if mixed else ' below'} mean frame){suffix}"
    worst = min(below, key=below.__getitem__)
    if below[worst] > -MARGIN:
        return f"stuck at the mean frame{suffix}"
    share = f" ({f'{worst} {-below[worst]:.0%}'.strip()}".replace("%", " % above)") if isfinite(below[worst]) else ""
    return f"worse than the mean frame{share}{suffix}"


def recorded_verdict(record: Mapping[str, Any]) -> str | None:
    """The verdict in a run's record, in the words of `verdict`; None before there is one.

    Versions before 29 November 2026 recorded *learned* for what is now *learned little*.
    """
    told: str | None = record.get("verdict")
    shares = re.match(r"learned \((.*) mean frame\)", told or "")
    below = [int(share) for share in re.findall(r"(\d+) %(?! above)", shares[1])] if shares else []
    return told.replace("learned", _grade(below), 1) if told and below else told


def grades(verdict: str) -> str:
    """A sentence on how far below the mean frame the words of this verdict begin; "" where they are of something else.

    verdict: as `verdict` returns it.
    """
    if not verdict.startswith(("learned", "stuck")):
        return ""
    both = " Of two branches, the better one counts." if "recon " in verdict else ""
    return (
        f"From {100 * MARGIN:.0f} % below the mean frame, a run has *learned little*; from {LITTLE} %, it has "
        f"*learned*.{both}"
    )


def _grade(below: Iterable[int]) -> str:
    # below: per cent, by branch
    return "learned" if max(below) >= LITTLE else "learned little"


def _below(error: float, mean: float) -> float:
    # The share by which an error is below the mean frame's, which is 0 where all frames are alike.
    return 1 - error / mean if mean else 0.0 if error == 0 else -inf
