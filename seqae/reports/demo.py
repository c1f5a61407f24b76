"""What a trained run makes of sequences it never saw: notebooks/demo.ipynb, its numbers, and its page."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from seqae.runs import Run, RunError, find_runs
from seqae.stores import fetch, refresh
from seqae.tasks import branch_targets


def shown_run(folder: str = "") -> Run:
    """The run of a folder, a relative one seen from the store; empty: the newest finished run of the store."""
    if folder:
        return Run.load(fetch(None, folder, whole=True) / Path(folder).expanduser())
    store = fetch()
    # A benchmark has no results: it trains nothing.
    done = [run for run in find_runs(store) if run.status == "done" and run.record().get("results")]
    if not done:
        raise RunError(f"no finished run in {store}: seqae run params/losses --scale quick makes some")
    newest = max(done, key=lambda run: run.record()["ended"])
    refresh(store, f"{newest.family}/{newest.name}", whole=True)
    return newest


def errors(run: Run, outputs: Mapping[str, np.ndarray], sequences: list[int]) -> pd.DataFrame:
    """MSE per pixel on [0, 1] of the pictures shown, 8 bits a pixel: sequence, branch, frame (step of the decoder, from
    1), metric, value. outputs: as `Run.outputs` gives them for these sequences.
    """
    p, frames, rows = run.parameters, torch.from_numpy(outputs["frames"]), []
    for branch, target in branch_targets(frames, task=p.task, frames_in=p.frames_in).items():
        mse = (((outputs[branch].astype(float) - target.numpy()) / 255) ** 2).mean((2, 3))
        for sequence, steps in zip(sequences, mse, strict=True):
            rows += [(sequence, branch, frame, "mse", value) for frame, value in enumerate(steps, start=1)]
    return pd.DataFrame(rows, columns=["sequence", "branch", "frame", "metric", "value"])


def conclude(run: Run, errors: pd.DataFrame) -> str:
    """How good the sequences shown are beside all of test, and which is the best and the worst; a line a branch."""
    test, levels = run.test().query("frame.isna() and metric == 'mse'"), run.baselines()
    verdict = run.verdict or "no verdict"
    lines = [f"**{escape(verdict[0].upper() + verdict[1:])}**, on val.\n"]
    for branch, part in errors.groupby("branch", sort=False):
        mean = levels.query(
            f"split == 'test' and metric == 'mse' and baseline == 'mean_frame' and branch == '{branch}'"
        )
        each = part.groupby("sequence")["value"].mean()
        lines.append(
            f"- {branch}: MSE {each.mean():.4f} per pixel on the {len(each)} sequences shown, "
            f"{test[test.branch == branch]['value'].item():.4f} on all of test (the mean frame: "
            f"{mean['value'].item():.4f}); best is test {each.idxmin()} with {each.min():.4f}, worst test "
            f"{each.idxmax()} with {each.max():.4f}."
        )
    return "\n".join(lines)
