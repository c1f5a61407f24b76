"""What a run could reach and what it reached: baselines, the head's reachable floor, the verdict in one line."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from seqae.losses import activate

MARGIN = 0.03  # within 3 % of the mean frame counts as stuck at it
PLATEAU = 0.01  # less than 1 % better in total counts as saturated


def reachable_pixels(*, reach: float, activation: str, pixel_range: tuple[float, float]) -> tuple[float, float]:
    """Lowest and highest output of the head on the [0, 1] scale, |pre-activation| being `reach` at most."""
    ends = activate(torch.tensor([-reach, reach], dtype=torch.float64), activation)
    low, high = ((ends - pixel_range[0]) / (pixel_range[1] - pixel_range[0])).tolist()
    return low, high


def reachable_floor(
    targets: np.ndarray, *, reach: float, activation: str, pixel_range: tuple[float, float]
) -> dict[str, float]:
    """The least loss any weights could give on these frames, from their pixel histogram alone.

    targets: uint8 frames of any shape. reach: the largest |pre-activation|, `SequenceAutoencoder.reach`. Every pixel
    is best served by the reachable value nearest to it, for mse and bce alike. Returns mse (per pixel, on [0, 1])
    and, for sigmoid on (0, 1), bce (nats/pixel; with an unbounded head the data's own entropy).
    """
    share = np.bincount(targets.ravel(), minlength=256) / targets.size
    value = np.linspace(0, 1, 256)
    best = value.clip(*reachable_pixels(reach=reach, activation=activation, pixel_range=pixel_range))
    floor = {"mse": float(share @ (best - value) ** 2)}
    if activation == "sigmoid" and tuple(pixel_range) == (0, 1):
        floor["bce"] = float(share @ _cross_entropy(best, value))
    return floor


def explain_head(
    targets: np.ndarray, *, reach: float, activation: str, pixel_range: tuple[float, float], mean_frame: float
) -> str:
    """Why a head can or cannot learn, in a paragraph, from the same histogram; mean_frame: its mse on [0, 1]."""
    low, high = reachable_pixels(reach=reach, activation=activation, pixel_range=pixel_range)
    floor = reachable_floor(targets, reach=reach, activation=activation, pixel_range=pixel_range)["mse"]
    through = "" if activation == "none" else f", through {activation},"
    if floor < 1e-6:
        head = "A weighted sum of h" if np.isinf(reach) else f"{reach:g} · h"
        return f"{head}{through} reaches every pixel value, as it must, to learn; whether it does, its curve tells."
    ends = [("black, 0", (targets == 0).mean(), low), ("white, 1", (targets == 255).mean(), 1 - high)]
    missed = [(name, share, distance) for name, share, distance in ends if distance > 0 and round(share, 3) > 0]
    told = [
        f"{share:.1%} of these pixels are {name}, and each of them costs at least {distance:.3f}² = {distance**2:.4f}, "
        f"together {share * distance**2:.4f} of all pixels' mean"
        for name, share, distance in missed
    ]
    if (rest := floor - sum(share * distance**2 for _, share, distance in missed)) > 5e-5:
        told.append(f"greys beyond that cost {rest:.4f}")
    return (
        f"An LSTM's h lies in (-1, 1). Times {reach:g}{through} it can only give values from {low:.3f} to {high:.3f} "
        f"on the [0, 1] scale of the pixels. But {'; '.join(told)}. Over all pixels no weights whatever can come "
        f"below an MSE of {floor:.4f}. The mean frame, no model at all, scores {mean_frame:.4f}: "
        + ("no optimizer can mend that." if floor > mean_frame else "there is room to learn, down to that floor.")
    )


def output_spread(output: np.ndarray) -> float:
    """How far an output depends on what was seen: its standard deviation over sequences, the mean of all pixels, in
    grey levels of 255. output: uint8 (N, T, H, W). Zero: the same frames whatever was seen.
    """
    return float(output.std(0).mean())


def baselines(train: np.ndarray, targets: Mapping[str, np.ndarray], last_seen: np.ndarray) -> pd.DataFrame:
    """What no model at all would score.

    train: uint8 (N, T, H, W), the mean frame's source. targets: uint8 (M, T, H, W) a branch. last_seen: uint8
    (M, H, W), what copy_last repeats as the prediction. Returns columns branch, baseline (black, mean_frame,
    copy_last), metric (mse per pixel on [0, 1]; bce in nats/pixel where it is finite), value.
    """
    # Half a white pixel more, so that a pixel black in all of train has a finite cross-entropy.
    mean = (train.sum((0, 1), dtype=np.float64) / 255 + 0.5) / (train.shape[0] * train.shape[1] + 1)
    rows = []
    for branch, frames in targets.items():
        frame = frames.mean((0, 1), dtype=np.float64) / 255
        square = np.square(frames, dtype=np.float32).mean((0, 1), dtype=np.float64) / 255**2
        rows += [
            (branch, "black", "mse", square.mean()),
            (branch, "mean_frame", "mse", (square - 2 * mean * frame + mean**2).mean()),
            # linear in the target, so the mean of the targets does
            (branch, "mean_frame", "bce", _cross_entropy(mean, frame).mean()),
        ]
        if branch == "pred":
            error = np.subtract(frames, last_seen[:, None], dtype=np.float32)
            rows.append((branch, "copy_last", "mse", np.square(error).mean(dtype=np.float64) / 255**2))
    return pd.DataFrame(rows, columns=["branch", "baseline", "metric", "value"])


def prognosis(floor: float, mean_frame: float) -> str:
    """Before training: can this head learn at all? Both mse per pixel on [0, 1]."""
    if floor > mean_frame:
        return f"cannot learn: floor {floor:.3f} > mean frame {mean_frame:.3f}"
    return f"can learn: floor {floor:.3f} < mean frame {mean_frame:.3f}"


def plateau_begins(objectives: Sequence[float]) -> int:
    """The epoch (1, 2, …) after which the best value so far improved by less than 1 % in total."""
    best = np.fmin.accumulate(objectives)
    return int((best <= best[-1] + PLATEAU * abs(best[-1])).argmax()) + 1


def saturated_since(objectives: Sequence[float]) -> int | None:
    """`plateau_begins` where that plateau is at least a quarter of all epochs, and at least 3, long; else None."""
    since, last = plateau_begins(objectives), len(objectives)
    return since if last - since >= max(3, last / 4) else None


def verdict(
    val: pd.DataFrame,
    *,
    mean_frame: Mapping[str, float],
    floor: float,
    diverged_at: int | None = None,
    stopped: bool = False,
) -> str:
    """One line on a run.

    val: columns epoch, branch, metric, value of the val split, with `objective` (branch all) and `mse` a branch.
    mean_frame: its mse on val, a branch. stopped: before its last epoch, on a plateau. The figures are those of the
    epoch with the best objective.
    """
    if diverged_at is not None:
        return f"diverged at epoch {diverged_at}"
    objective = val[val.metric == "objective"].set_index("epoch")["value"]
    ended = f", stopped at epoch {len(objective)}" if stopped else ""
    if floor > min(mean_frame.values()):
        return prognosis(floor, min(mean_frame.values())) + ended
    best = val[(val.epoch == objective.idxmin()) & (val.metric == "mse")].set_index("branch")["value"]
    below = {branch: 1 - best[branch] / mean for branch, mean in mean_frame.items()}
    since = saturated_since(objective.to_list())
    suffix = ("" if since is None else f", saturated since epoch {since}") + ended
    if max(below.values()) >= MARGIN:
        shares = [f"{branch} {share:.0%}" if len(below) > 1 else f"{share:.0%}" for branch, share in below.items()]
        if min(below.values()) < 0:  # one branch has learned, the other one has not
            shares = [f"{branch} {abs(x):.0%} {'below' if x > 0 else 'above'}" for branch, x in below.items()]
            return f"learned ({', '.join(shares).replace('%', ' %')} mean frame){suffix}"
        return f"learned ({', '.join(shares).replace('%', ' %')} below mean frame){suffix}"
    worst = min(below, key=below.__getitem__)
    if below[worst] > -MARGIN:
        return f"stuck at the mean frame{suffix}"
    named = f"{worst} " if len(below) > 1 else ""
    return f"worse than the mean frame ({named}{-below[worst]:.0%}".replace("%", " % above)") + suffix


def _cross_entropy(p: np.ndarray, target: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return -(np.where(target > 0, target * np.log(p), 0) + np.where(target < 1, (1 - target) * np.log1p(-p), 0))
