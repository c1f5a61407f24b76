"""Many runs as tidy tables: which runs belong together, their curves, final figures, reference levels, pictures."""

from collections.abc import Callable, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from seqae.config import EXECUTION, Parameters
from seqae.diagnose import diary
from seqae.naming import run_name, store_folder
from seqae.plots import Strips, sample_strips
from seqae.runs import Run, find_runs

# In these the runs of one comparison may differ; data, budget and optimization are the same.
COMPARED = {
    *("pixel_range", "activation", "training_loss", "gain", "task", "decoder_input", "recon_weight"),
    *("architecture", "hidden", "layers", "peepholes"),
}
FACETS = ("task", "decoder_input", "architecture", "gain", "seed")


def comparable_runs(family: str, names: Sequence[str] = (), *, store: str | None = None) -> list[Run]:
    """The finished runs of a family: of those named, else of the largest group that differs in `COMPARED` alone.

    Of groups equally large, the one with the newest run. Raises ValueError when there is none.
    """
    done = [run for run in find_runs(store_folder(store), family) if run.status == "done"]
    if names:
        done = [run for run in done if run.name in names]
    if not done:
        raise ValueError(f"no finished run in {store_folder(store) / family}: seqae run params/{family} first")
    if names:
        return done
    groups: dict[str, list[Run]] = {}
    for run in done:
        alike = run.parameters.model_dump(mode="json", exclude=COMPARED | EXECUTION)
        groups.setdefault(repr(alike), []).append(run)
    return max(groups.values(), key=lambda runs: (len(runs), max(run.record()["ended"] for run in runs)))


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
    units = {
        "mse": "mse per pixel",
        "bce": "bce, nats/pixel",
        "mae": "mae per pixel",
        "psnr": "psnr, dB",
        "ssim": "ssim",
    }
    others = [name for name in units if name in wide and name != "mse"]
    shown = ["run", "branch", "mse", "diary mse", "verdict", *others]
    return wide[shown].sort_values("mse", ignore_index=True).rename(columns=units | {"diary mse": "diary, mse"})


def table(runs: Sequence[Run]) -> Styler:
    """`summary` for a report: names and verdicts on one line each, whatever they hold escaped."""
    style = summary(runs).style.format(precision=4, na_rep="", escape="html").hide()
    return style.set_properties(**{"white-space": "nowrap"})


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
    names = [run_name(run.parameters, common) for run in runs]
    return [run.name if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


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
