"""The demo of a trained run on test sequences: which run, the error of each sequence shown, and the conclusion.

notebooks/demo.ipynb shows it; `seqae.sweeps` executes that notebook for `seqae demo`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from seqae.files import expanded
from seqae.runs import Run, RunError, find_runs
from seqae.stores import fetch, refresh
from seqae.tasks import branch_targets


def shown_run(folder: str = "", *, trust_code: bool = False) -> Run:
    """The run of a folder, a relative one of the store; without a folder, the newest finished run of the store.

    trust_code: as for `Run.load`. Raises RunError where there is none.
    """
    here = Path.cwd()
    if here.name == Path(folder).name and (here / "run.yaml").exists():  # its executed notebook, run again in there
        return Run.load(here, trust_code=trust_code)
    if folder:
        return Run.load(fetch(None, folder, whole=True) / expanded(folder), trust_code=trust_code)
    store = fetch()
    # A benchmark has no results, because it trains nothing.
    done = [run for run in find_runs(store) if run.status == "done" and run.record().get("results")]
    if not done:
        raise RunError(f"no finished run in {store}: seqae run params/losses --scale quick makes some")
    newest = max(done, key=lambda run: run.record().get("ended", ""))
    refresh(store, f"{newest.family}/{newest.name}", whole=True)
    return replace(newest, trusted=trust_code)


def shown_errors(run: Run, outputs: Mapping[str, np.ndarray], sequences: Sequence[int]) -> pd.DataFrame:
    """MSE per pixel on [0, 1] of the pictures shown: sequence, branch, frame (decoder step, from 1), metric, value.

    outputs: as `Run.outputs` returns them for these sequences, uint8. An unbounded output is clipped in them, so the
    MSE can be a little lower than in test.csv.
    """
    p, frames, rows = run.parameters, torch.from_numpy(outputs["frames"]), []
    for branch, target in branch_targets(frames, task=p.task, frames_in=p.frames_in).items():
        mse = (((outputs[branch].astype(float) - target.numpy()) / 255) ** 2).mean((2, 3))
        for sequence, steps in zip(sequences, mse, strict=True):
            rows += [(sequence, branch, frame, "mse", value) for frame, value in enumerate(steps, start=1)]
    return pd.DataFrame(rows, columns=["sequence", "branch", "frame", "metric", "value"])


def demo_findings(run: Run, errors: pd.DataFrame) -> str:
    """The verdict and, for each branch, the MSE of the sequences shown, also at the first and the last step, of all
    test sequences and of the mean frame, and the best and the worst sequence: Markdown. errors: those of
    `shown_errors`.
    """
    test, levels = run.test().query("frame.isna() and metric == 'mse'"), run.baselines()
    verdict = run.verdict or "no verdict"
    lines = [f"**{escape(verdict[0].upper() + verdict[1:])}**, on val.\n"]
    for branch, part in errors.groupby("branch", sort=False):
        mean = levels.query(
            f"split == 'test' and metric == 'mse' and baseline == 'mean_frame' and branch == '{branch}'"
        )
        each, steps = part.groupby("sequence")["value"].mean(), part.groupby("frame")["value"].mean()
        lines.append(
            f"- {branch}: MSE {each.mean():.4f} per pixel on the {len(each)} sequences shown, "
            f"from {steps.iloc[0]:.4f} at step {steps.index[0]} to {steps.iloc[-1]:.4f} at step {steps.index[-1]}; "
            f"{_figure(test[test.branch == branch]['value'].item())} on all test sequences (mean frame "
            f"{mean['value'].item():.4f}); the best is test {each.idxmin()} with {each.min():.4f}, the worst test "
            f"{each.idxmax()} with {each.max():.4f}."
        )
    return "\n".join(lines)


def _figure(value: float) -> str:
    return "no number (the run diverged; these are its weights before)" if value != value else f"{value:.4f}"
