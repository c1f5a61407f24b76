"""Why a run can or cannot learn, told in a paragraph."""

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from seqae.runs import experiment
from seqae.runs.levels import reachable_floor, reachable_pixels
from seqae.runs.own_code import OwnCodeError
from seqae.tasks import branch_targets

if TYPE_CHECKING:
    from seqae.runs.folder import RunFolder

NO_LIMIT = "training shows whether it learns: no limit of this model is known"  # in place of a prognosis


def limit_unknown(run: "RunFolder") -> bool:
    """Whether the architecture is your own and does not say how large its outputs can be."""
    if ":" not in run.parameters.architecture:
        return False
    with suppress(OwnCodeError):
        return bool(np.isinf(run.reach))
    return True  # a run that is not done, without its code


def explained(run: "RunFolder") -> str:
    """A paragraph: the reason for a run's prognosis, as recorded, or computed from the data and the last layer."""
    p, record = run.parameters, run.record()
    if limit_unknown(run):
        return (
            "Your architecture does not say how large its outputs can be (`reach`), so the least error that it can "
            "reach is not known. Whether it learned, see the curve."
        )
    if "explained" in record:
        return record["explained"]
    try:
        val = experiment.sequences(p, "val")
    except OSError:  # no digits here; what versions before 28 November 2026 recorded is of all frames
        if "explanation" in record:
            return record["explanation"]
        raise
    floor, mean = run.levels_on_val()
    branch = min(mean, key=lambda name: floor[name] - mean[name])  # the one that `prognosis` tells
    return explain_head(
        branch_targets(val, task=p.task, frames_in=p.frames_in)[branch].numpy(),
        reach=run.reach,
        activation=p.activation,
        pixel_range=p.pixel_range,
        mean_frame=mean[branch],
        own=":" in p.architecture,
    )


def explain_head(
    targets: np.ndarray,
    *,
    reach: float,
    activation: str,
    pixel_range: tuple[float, float],
    mean_frame: float,
    own: bool = False,
) -> str:
    """A paragraph on why a head can or cannot learn, with the floor's parts. mean_frame: its mse on [0, 1]. own: the
    architecture is not built in.

    The other arguments are those of `reachable_floor`.
    """
    low, high = reachable_pixels(reach=reach, activation=activation, pixel_range=pixel_range)
    floor = reachable_floor(targets, reach=reach, activation=activation, pixel_range=pixel_range)["mse"]
    through = "" if activation == "none" else f" through {activation}"
    scaled = "h" if reach == 1 else f"{reach:g} · h"
    if floor < 1e-6:
        head = "what the readout makes of h" if np.isinf(reach) else scaled
        head = "what your architecture puts out" if own else head
        known = "" if own else ", h being what the last LSTM layer puts out, in (-1, 1)"
        reaches = "can reach every pixel value: its range is no obstacle. Whether it learned, see the curve."
        return f"The output is {head}{through}{known}. It {reaches}"
    ends = [("black, 0", (targets == 0).mean(), low), ("white, 1", (targets == 255).mean(), 1 - high)]
    missed = [(name, share, distance) for name, share, distance in ends if distance > 0 and round(share, 3) > 0]
    told = [
        f"{100 * share:.1f} % of these pixels are {name}: each costs at least {distance:.4f}² = {distance**2:.4f}, "
        f"which adds {share * distance**2:.4f} to the MSE."
        for name, share, distance in missed
    ]
    if (rest := floor - sum(share * distance**2 for _, share, distance in missed)) > 5e-5:
        told.append(f"Grey pixels out of reach add {rest:.4f}.")
    return " ".join([
        f"Your architecture's pre-activations lie in ({-reach:g}, {reach:g}), so its output{through} only has"
        if own
        else f"An LSTM's h lies in (-1, 1), so {scaled}{through} only gives",
        f"values from {low:.4f} to {high:.4f} on the [0, 1] scale of the pixels.",
        *told,
        f"No weights can reach an MSE below {floor:.4f}. The mean frame, which needs no model, has {mean_frame:.4f}:",
        "no optimizer can change that." if floor > mean_frame else "there is room to learn, down to that floor.",
    ])  # fmt: skip
