"""What a run reached, in one line: its prognosis before training, its verdict afterwards."""

import re
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from seqae.losses import LOSSES
from seqae.runs.run_command import run_command

if TYPE_CHECKING:
    import pandas as pd

    from seqae.parameters import Parameters

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
        f"can{'not' * no} learn{f' {b}' * mixed}: floor {floor[b]:.4f} {'<>'[no]} mean frame {mean_frame[b]:.4f}"
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
    if max(abs(share) for share in below.values()) < MARGIN:
        return f"stuck at the mean frame{suffix}"
    most = max(below.values())
    mixed = bool(min(below.values()) < 0 < most)  # one branch is below the mean frame, the other above it
    shares = [f"{b} {abs(x):.0%}".strip() + mixed * (" below" if x > 0 else " above") for b, x in below.items()]
    told = ", ".join(shares).replace("%", " %") + ("" if mixed else " below" if most > 0 else " above")
    if most >= MARGIN:
        return f"{_grade({b: round(100 * share) for b, share in below.items()})} ({told} mean frame){suffix}"
    return f"worse than the mean frame{f' ({told})' * isfinite(sum(below.values()))}{suffix}"


def recorded_verdict(record: Mapping[str, Any]) -> str | None:
    """The verdict in a run's record, in the words of `verdict`; None before there is one.

    Versions before 29 November 2026 recorded *learned* for what is now *learned little*, and those before 30 November
    wherever one of two branches had.
    """
    told: str | None = record.get("verdict")
    shares = re.match(r"learned \((.*) mean frame\)", told or "")
    found = re.findall(r"(\w*) ?\b(\d+) %( above)?", shares[1]) if shares else []
    below = {branch: -int(share) if above else int(share) for branch, share, above in found}
    return told.replace("learned", _grade(below), 1) if told and below else told


def grades(verdict: str) -> str:
    """A sentence on how far below the mean frame the words of this verdict begin; "" where they are of something else.

    verdict: as `verdict` returns it.
    """
    if not verdict.startswith(("learned", "stuck")):
        return ""
    both = " Of two branches, the better one counts." if verdict.startswith("learned little (recon ") else ""
    return (
        f"Percentages are of the squared error. From {100 * MARGIN:.0f} % below the mean frame, a run has *learned "
        f"little*; from {LITTLE} %, it has *learned*.{both}"
    )


def next_step(
    verdict: str, p: "Parameters", *, family: str, reach: float, planned: Mapping[str, Any] | None = None
) -> str:
    """What to try or to look at after this verdict, in Markdown, with the command; "" where the words are others.

    verdict: as `verdict` returns it. p, family, reach: of the run. planned: see `run_command`; a run that was
    trained in Jupyter has none.
    """
    from seqae.runs.facts import FEW  # needs torch, as above

    file = "" if planned else _FILE
    if verdict.startswith("cannot learn"):
        return _other_heads(p, reach, planned) + file
    tried = [f"{factor * p.learning_rate:.2g}" for factor in (0.1, 1 / 3, 3)] if p.learning_rate else []
    if verdict.startswith("diverged"):
        lower = _again(planned, learning_rate=tried[0]) if tried else "give a small `learning_rate`"
        limit = "a lower limit" if p.clip_norm else "a limit"
        norm = f"If that is not enough, set {limit} of the gradient norm, `clip_norm`."
        return f"Lower the learning rate: {lower}. {norm}{file}"
    if not verdict.startswith(("learned", "stuck", "worse")):
        return ""
    if min(p.val_sequences, p.test_sequences) < FEW and not p.clips_digest:
        larger = f"Take a larger scale: {_again(planned, scale='quick')}."
        return f"So few sequences only show that a run works. {larger}{file}"
    ended = re.search(r"plateau since epoch \d+|stopped at epoch \d+", verdict)
    longer = _again(planned, epochs=4 * p.epochs)
    if verdict.startswith("learned") and not verdict.startswith("learned little"):
        seeds = _again(planned, seed=f"{p.seed + 1},{p.seed + 2}")
        beside = f"Compare it with the other runs of its family: `seqae compare {family}`."
        falls = "" if ended else f" It ended before a plateau, so more epochs should help: {longer}."
        return f"{beside}{falls} Other seeds show how far its error depends on chance: {seeds}.{file}"
    others = "a `learning_rate`"
    if tried:
        others = f"other learning rates: {_again(planned, learning_rate=f'{tried[1]},{tried[2]}')}"
    if ended:
        return f"More epochs alone will hardly help ({ended[0]}). Try {others}.{file}"
    return f"Train for longer: {longer}. Then try {others}.{file}"


_FILE = (
    " (FILE: this run's parameter file in `params/`, at the same `--scale`; in Jupyter, change the parameters cell.)"
)


def _again(planned: Mapping[str, Any] | None, **given: Any) -> str:
    return f"`{run_command(planned, **given)}`"


def _other_heads(p: "Parameters", reach: float, planned: Mapping[str, Any] | None) -> str:
    # What else the last layer could be, where its output cannot get near enough to the pixels.
    from seqae.runs.levels import reachable_pixels

    def missed(reach: float, activation: str, pixel_range: tuple[float, float]) -> float:
        low, high = reachable_pixels(reach=reach, activation=activation, pixel_range=pixel_range)
        return max(low, 1 - high)

    ways = []
    whole = [name for name, of in LOSSES.items() if missed(reach, of.activation, of.pixel_range) < 1e-6]
    if whole and ":" not in p.training_loss:
        reaches = f"a loss whose output reaches every pixel value ({', '.join(whole)})"
        ways.append(f"{reaches}, {_again(planned, loss=whole[-1])}")
    if missed(10 * reach, p.activation, p.pixel_range) < 0.01:
        ways.append(f"a larger gain, which widens what the output reaches, {_again(planned, gain=f'{10 * p.gain:g}')}")
    ways.append("an architecture with a readout, whose output has no such bound, `architecture=srivastava`")
    return f"No optimizer can change the floor. Choose {'; or '.join(ways)}."


def _grade(below: Mapping[str, int]) -> str:
    # below: per cent, by branch. Where one has learned and the other has not, of each.
    best, least = (which(below, key=lambda branch: below[branch]) for which in (max, min))
    if below[best] < LITTLE:
        return "learned little"
    rest = f"{'little of' if below[least] >= 100 * MARGIN else 'not'} {least}"
    return "learned" if below[least] >= LITTLE else f"learned {best}, {rest}"


def _below(error: float, mean: float) -> float:
    # The share by which an error is below the mean frame's, which is 0 where all frames are alike.
    return 1 - error / mean if mean else 0.0 if error == 0 else -inf
