"""Many runs as tidy tables: which runs belong together, their curves, final figures, reference levels, pictures."""

from collections.abc import Callable, Sequence

import pandas as pd

from seqae.config import Parameters
from seqae.diagnose import diary
from seqae.naming import run_name, store_folder
from seqae.plots import Strips, sample_strips
from seqae.runs import Run, find_runs

# Runs are comparable when these agree: same sequences to learn from and to be tested on, same budget.
SAME = (
    "data_seed",
    "frame_size",
    "frames_in",
    "frames_out",
    "digits",
    "test_data",
    "train_sequences",
    "val_sequences",
    "test_sequences",
    "endless",
    "epochs",
    "batch_size",
    "width",
)
FACETS = ("task", "decoder_input", "architecture", "gain", "seed")


def comparable_runs(family: str, names: Sequence[str] = (), *, store: str | None = None) -> list[Run]:
    """The finished runs of a family: those named, else those whose data and budget equal the newest one's.

    Raises ValueError when a named run is not there or not finished, or none is.
    """
    done = [run for run in find_runs(store_folder(store), family) if run.status == "done"]
    if missing := sorted(set(names) - {run.name for run in done}):
        raise ValueError(f"no finished run {', '.join(missing)} in {store_folder(store) / family}: train it first")
    if not done:
        raise ValueError(f"no finished run in {store_folder(store) / family}: seqae run params/{family} first")
    if names:
        return [run for run in done if run.name in names]
    newest = max(done, key=lambda run: run.record()["ended"])
    return [run for run in done if _budget(run.parameters) == _budget(newest.parameters)]


def curves(runs: Sequence[Run]) -> pd.DataFrame:
    """Val metrics by epoch: epoch, branch, metric, value, and run, loss and `FACETS`."""
    return _stack(runs, lambda run: run.metrics().query("split == 'val'"))


def finals(runs: Sequence[Run]) -> pd.DataFrame:
    """Test metrics, means over frames: branch, metric, value, unit, sequences, verdict, and the columns of `curves`."""
    return _stack(runs, lambda run: run.test().query("frame.isna()").assign(verdict=run.verdict))


def levels(runs: Sequence[Run], split: str = "val") -> pd.DataFrame:
    """Baselines and floors on one split: branch, baseline, metric, value, and the columns of `curves`."""
    return _stack(runs, lambda run: run.baselines().query(f"split == '{split}'"))


def summary(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run and branch: test metrics side by side, the verdict, and the diary's own mse where it has one."""
    table = finals(runs)
    index = ["run", "loss", "task", "decoder_input", "branch", "architecture", "gain", "verdict"]
    wide = table.pivot_table(index=index, columns="metric", values="value").reset_index()
    recorded = diary().rename(columns={"mse": "diary mse"})
    wide = wide.merge(recorded, how="left", on=["task", "decoder_input", "branch", "loss"])
    wide["diary mse"] = wide["diary mse"].where((wide.architecture == "lstm_copy") & (wide.gain == 1))
    metrics = [name for name in ("mse", "bce", "mae", "psnr", "ssim") if name in wide]
    return wide[["run", "branch", *metrics, "diary mse", "verdict"]].sort_values("mse", ignore_index=True)


def gallery(runs: Sequence[Run], branch: str) -> Strips:
    """The truth and every run's output of one branch, on the same unseen sequences, in true time order.

    Raises ValueError when the runs were shown different sequences.
    """
    title = {"recon": "reconstruction", "pred": "prediction"}[branch]
    strips: Strips = []
    for run, label in zip(runs, labels(runs), strict=True):
        p = run.parameters
        found = sample_strips(run.samples(), task=p.task, frames_in=p.frames_in)
        truth = [frames for name, frames in found if name == {"recon": "seen", "pred": "future"}[branch]]
        if truth and not strips:
            strips = [("truth", truth[0])]
        if truth and (truth[0].shape != strips[0][1].shape or (truth[0] != strips[0][1]).any()):
            raise ValueError(f"{run.name} was shown other sequences than {runs[0].name}: compare runs of one scale")
        strips += [(label, frames) for name, frames in found if name == title]
    return strips


def counterparts(runs: Sequence[Run], among: Sequence[Run]) -> list[Run]:
    """Those of `among` with the same loss, task and decoder input as one of `runs`."""
    ways = {(run.parameters.loss, run.parameters.task, run.parameters.decoder_input) for run in runs}
    return [r for r in among if (r.parameters.loss, r.parameters.task, r.parameters.decoder_input) in ways]


def labels(runs: Sequence[Run]) -> list[str]:
    """What tells each run apart from the others: its way, and where it differs from what most of them have."""
    columns = pd.DataFrame([run.parameters.model_dump() for run in runs]).map(repr)
    usual = {name: runs[int((column == column.mode()[0]).argmax())].parameters for name, column in columns.items()}
    common = Parameters.model_construct(**{name: getattr(p, name) for name, p in usual.items()})
    return [run_name(run.parameters, common) for run in runs]


def _budget(p: Parameters) -> tuple[object, ...]:
    return tuple(getattr(p, name) for name in SAME)


def _stack(runs: Sequence[Run], read: Callable[[Run], pd.DataFrame]) -> pd.DataFrame:
    tables = []
    for run, label in zip(runs, labels(runs), strict=True):
        facets = {name: getattr(run.parameters, name) for name in FACETS}
        tables.append(read(run).assign(run=label, loss=run.parameters.loss, **facets))
    return pd.concat(tables, ignore_index=True)


def describe(runs: Sequence[Run]) -> str:
    """What is compared, in a sentence."""
    p, sequences = runs[0].parameters, sum(run.parameters.epochs * run.parameters.train_sequences for run in runs)
    return (
        f"**{len(runs)} runs** at {p.frame_size}×{p.frame_size} pixels, width {p.width:g}, {p.epochs} epochs of "
        f"{p.train_sequences:,} sequences ({sequences:,} in all), digits {p.digits}; "
        f"{p.val_sequences:,} sequences for val, {p.test_sequences:,} for test."
    )


def conclude(grid: Sequence[Run], fixes: Sequence[Run]) -> str:
    """The comparison's findings as a list, every number computed from the runs."""
    below = _below_mean_frame(grid)
    best = below.loc[below.below.idxmax()]
    lines = [f"Best of the grid: **{best.run}**, {best.branch} {_side(best.below)}."]
    for loss, part in below.groupby("loss"):
        lines.append(f"`{loss}`: from {_side(part.below.min())} to {_side(part.below.max())}, {len(part)} branches.")
    if fixes:
        for _, row in _below_mean_frame(fixes).sort_values("below").iterrows():
            lines.append(f"With or without a fix, `{row.run}`: {row.branch} {_side(row.below)}.")
    return "\n".join(f"- {line}".replace("%", " %") for line in lines)


def _side(share: float) -> str:
    return f"{share:.0%} below the mean frame" if share >= 0 else f"{-share:.0%} above it"


def _below_mean_frame(runs: Sequence[Run]) -> pd.DataFrame:
    # How far below the mean frame (1: no error at all) each run's branches end on test.
    keys = ["run", "branch", "loss"]
    reached = finals(runs).query("metric == 'mse'").set_index(keys)["value"]
    mean = levels(runs, "test").query("metric == 'mse' and baseline == 'mean_frame'").set_index(keys)["value"]
    return (1 - reached / mean).rename("below").reset_index()
