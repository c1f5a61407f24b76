"""Errors of a trained run on what it was not trained for: a longer horizon, more or fewer digits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqae.device import make_accelerator, mixed_precision
from seqae.evaluation import evaluate
from seqae.objective import Objective
from seqae.parameters import Parameters
from seqae.runs import experiment, mean_frame, with_horizon
from seqae.tasks import BRANCHES

if TYPE_CHECKING:
    import pandas as pd

    from seqae.runs import RunFolder

ERROR_COLUMNS = ["branch", "frame", "source", "value"]
LONGER = 3  # times as many frames as trained
DIGITS_TRIED = (1, 2, 3)


def longer_horizon(run: "RunFolder") -> "pd.DataFrame":
    """The error of a prediction three times as long as trained, by frame step, beside what needs no model.

    branch (pred), frame (1, 2, … after the last seen), source (model, mean frame, copy last), value (MSE per pixel on
    [0, 1], of all test sequences), trained (the number of frames that it was trained on), sequences. Empty for a run
    that predicts nothing. Raises RunError if nothing is trained yet, ValueError for clips shorter than that.
    """
    import pandas as pd

    p = run.parameters
    if "pred" not in BRANCHES[p.task]:
        return pd.DataFrame(columns=[*ERROR_COLUMNS, "trained", "sequences"])
    test = experiment.sequences(beyond(p, frames_out=LONGER * p.frames_out), "test").numpy()
    rows = [*_errors(run, test, mean_of_train(p), branches=("pred",))]
    return pd.DataFrame(rows, columns=ERROR_COLUMNS).assign(trained=p.frames_out, sequences=len(test))


def digit_counts(run: "RunFolder") -> "pd.DataFrame":
    """The errors on test sequences of one, two and three digits, beside what needs no model on the same sequences.

    digits, and the columns of `longer_horizon`; the mean frame is of training sequences with as many digits. branch:
    recon and pred, as far as the run has them. Raises RunError if nothing is trained yet, ValueError for clips.
    """
    import pandas as pd

    p, parts = run.parameters, []
    if p.clips or p.clips_digest:
        raise ValueError("clips of your own have no digits to count: leave this out")
    for digits in DIGITS_TRIED:
        other = beyond(p, digits_per_sequence=digits)
        test = experiment.sequences(other, "test").numpy()
        rows = [*_errors(run, test, mean_of_train(other), branches=BRANCHES[p.task])]
        table = pd.DataFrame(rows, columns=ERROR_COLUMNS)
        parts.append(table.assign(digits=digits, trained=p.digits_per_sequence, sequences=len(test)))
    return pd.concat(parts, ignore_index=True)


def beyond(p: Parameters, **changed: int) -> Parameters:
    """The parameters of other data: generated sequences that differ in `changed`, as many as the run's own."""
    return p.model_copy(update={"test_data": "generated", **changed})


def mean_of_train(p: Parameters) -> np.ndarray:
    """The mean frame of the first epoch's training sequences, (H, W), on [0, 1]."""
    train = experiment.train_stream(p)(1)
    return mean_frame(torch.as_tensor(train[i : i + 256]).numpy() for i in range(0, len(train), 256))


def _errors(
    run: "RunFolder", test: np.ndarray, mean: np.ndarray, *, branches: tuple[str, ...]
) -> Iterator[tuple[str, int, str, float]]:
    # test: uint8 (N, T, H, W). Rows of ERROR_COLUMNS. Outputs are not clipped, as in test.csv.
    p, ours = run.parameters, make_accelerator(device="auto").device
    seen, future = test[:, : p.frames_in], test[:, p.frames_in :]
    mixed_precision(ours, "none")
    code = run.own_code() if ":" in p.architecture else None
    model = with_horizon(run.model(str(ours)), p, future.shape[1], code=code)
    objective = Objective(p.task, p.frames_in, "mse", p.activation, p.pixel_range)
    made = evaluate(model, torch.from_numpy(test), p.batch_size, objective).errors
    for branch in branches:
        target = (seen if branch == "recon" else future) / np.float32(255)
        steps = made[branch]["mse"].flip(0) if branch == "recon" and p.task != "recon_ordered" else made[branch]["mse"]
        constants = {"mean frame": mean} | ({"copy last": seen[:, -1:] / np.float32(255)} if branch == "pred" else {})
        errors = {name: np.square(target - of).mean((0, 2, 3), dtype=np.float64) for name, of in constants.items()}
        for source, values in ({"model": steps.numpy()} | errors).items():
            yield from ((branch, step, source, float(value)) for step, value in enumerate(values, start=1))
