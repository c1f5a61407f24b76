"""Figures: data frames in, matplotlib figures out. Every axis has its unit."""

from collections.abc import Mapping
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seqae.losses import LOSSES
from seqae.metrics import UNITS as MEASURED
from seqae.metrics import label

UNITS = {metric: label(metric).replace(metric, metric.upper(), 1) for metric in MEASURED} | {
    "grad_norm": "gradient norm before clipping",
    "update_ratio": "norm of an update / norm of the weights",
    "overflows": "updates left out for overflow, an epoch",
    "learning_rate": "learning rate",
}
X_UNITS = {"epoch": "epoch", "seconds": "training time, seconds"}
BRANCH_ORDER = ["recon", "pred"]
TASK_ORDER = ["recon", "recon_ordered", "pred", "both"]
LINES = {"mean_frame": "--", "copy_last": "-.", "black": (0, (1, 3)), "floor": ":"}


def show(figure: Figure, alt: str) -> None:
    """Display a figure once, with a text for those who do not see it, and free it."""
    from IPython.display import display

    display(figure, metadata={"image/png": {"alt": alt}})
    plt.close(figure)


def learning_curves(
    metrics: pd.DataFrame, levels: pd.DataFrame, marks: Mapping[str, int] | None = None, *, metric: str = "mse"
) -> Figure:
    """One run: a panel a branch, train and val by epoch, its reference levels on val as grey lines, its marks (an
    epoch each: best, saturated, diverged) as upright ones.

    metrics: as metrics.csv; levels: as baselines.csv; marks: as `Run.marks`.
    """
    data = metrics[metrics.metric == metric]
    if not np.isfinite(data.value).any():
        return _nothing(metric)
    levels = levels[(levels.split == "val") & (levels.metric == metric)]
    grid = sns.relplot(
        data,
        x="epoch",
        y="value",
        hue="split",
        col="branch",
        kind="line",
        height=3.4,
        aspect=1.35,
        palette="colorblind",
    )
    for branch, axis in grid.axes_dict.items():
        for row in levels[levels.branch == branch].itertuples():
            _level(axis, row.value, row.baseline.replace("_", " "), LINES[row.baseline])
        for name, epoch in (marks or {}).items():
            axis.axvline(epoch, color="0.6", linewidth=1, linestyle=(0, (5, 5)))
            axis.text(epoch, 0.98, f"{name} ", transform=axis.get_xaxis_transform(), color="0.4", fontsize=7,
                      ha="right", va="top", rotation=90)  # fmt: skip
    return _label(grid, metric, "epoch", titles="" if set(data.branch) == {"all"} else "{col_name}")


def live_curve(metrics: pd.DataFrame, *, epochs: int) -> tuple[bytes, str]:
    """How far a training is: a PNG of the objective by epoch, the axis as long as all of it, and the same in words.

    Drawn in a few hundredths of a second, without pyplot, which the notebook may be using. metrics: as metrics.csv.
    """
    figure = Figure(figsize=(6, 2.4), layout="constrained")
    axis = figure.subplots()
    objective = metrics[metrics.metric == "objective"]
    for (split, line), colour in zip(objective.groupby("split"), sns.color_palette("colorblind"), strict=False):
        axis.plot(line.epoch, line.value, marker=".", label=split, color=colour)
    val = objective[objective.split == "val"].reset_index()
    told = f"epoch {val.epoch.max()} of {epochs}: val {val.value.iloc[-1]:.4g}"
    if val.value.notna().any():
        best = val.loc[val.value.idxmin()]
        told += f", best {best.value:.4g} at epoch {best.epoch}"
    axis.set(xlim=(0.5, epochs + 0.5), xlabel="epoch", ylabel="objective")
    axis.set_title(told, fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False)
    figure.savefig(buffer := BytesIO(), dpi=90)
    return buffer.getvalue(), told


def frame_errors(test: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse", hue: str = "branch") -> Figure:
    """How the error grows with the horizon, on test: a curve a branch, or, of many runs, a panel a branch and a
    colour a `hue`, over the frame steps.
    """
    data = test[(test.metric == metric) & test.frame.notna()].astype({"frame": int})
    if not np.isfinite(data.value).any():
        return _nothing(metric)
    many = hue != "branch"
    data = _over_seeds(data, "frame") if many else data
    grid = sns.relplot(
        data,
        x="frame",
        y="value",
        hue=hue,
        hue_order=sorted(set(data[hue])) if many else _ordered(data.branch, BRANCH_ORDER),
        col="branch" if many else None,
        col_order=_ordered(data.branch, BRANCH_ORDER) if many else None,
        kind="line",
        marker="o",
        units="run" if many else None,
        estimator=None,
        height=3.4,
        aspect=1.35,
        palette=_palette(data[hue]),
    )
    if many:
        _bands(
            grid, data, "frame", hue, ["branch"], dict(zip(sorted(set(data[hue])), _palette(data[hue]), strict=True))
        )
    levels = levels[(levels.metric == metric) & (levels.baseline == "mean_frame")]
    if "split" in levels:
        levels = levels[levels.split == "test"]
    for axis, branch in zip(grid.axes.flat, grid.col_names or [None], strict=True):
        mean = levels[levels.branch == branch] if branch else levels
        if len(mean):
            _level(axis, mean.value.mean(), "mean frame", LINES["mean_frame"])
    return _label(grid, metric, "frame step of the decoder", titles="{col_name}" if many else "")


def sequence_errors(errors: pd.DataFrame, test: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """A panel a branch: the error of each sequence by frame step, the mean of all test sequences dashed.

    errors: columns sequence, branch, frame, metric, value; test: as test.csv.
    """
    data = errors[errors.metric == metric]
    grid = sns.relplot(
        data.assign(sequence=data.sequence.map("test {}".format)),
        x="frame",
        y="value",
        hue="sequence",
        col="branch",
        kind="line",
        marker="o",
        height=3.2,
        aspect=1.35,
        palette=_palette(data.sequence),
    )
    means = test[(test.metric == metric) & test.frame.notna()].astype({"frame": int})
    for branch, axis in grid.axes_dict.items():
        mean = means[means.branch == branch]
        axis.plot(mean.frame, mean.value, color="0.4", linestyle="--", linewidth=1, label="mean of all test")
        axis.legend(fontsize=7, loc="lower right", frameon=False)
        axis.set_ylim(0)
    return _label(grid, metric, "frame step of the decoder", titles="{col_name}")


def then_and_again(curves: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """One run made twice: a panel a branch, val by epoch. Again is thin on then's broad line, so that both are seen
    where they are the same. curves: columns epoch, branch, metric, value, made ("then" or "again").
    """
    grid = sns.relplot(
        curves[curves.metric == metric],
        x="epoch",
        y="value",
        hue="made",
        hue_order=(order := ["then", "again"]),
        style="made",
        style_order=order,
        size="made",
        size_order=order,
        sizes={"then": 5, "again": 1.5},
        dashes=False,
        markers={"then": "o", "again": "X"},
        col="branch",
        kind="line",
        palette={"then": "0.7", "again": sns.color_palette("colorblind")[0]},
        height=3.4,
        aspect=1.35,
    )
    return _label(grid, metric, "epoch", titles="{col_name}, on val")


def losses_in_ways(curves: pd.DataFrame, levels: pd.DataFrame, *, metric: str = "mse") -> Figure:
    """Six panels, tasks by decoder inputs; one colour a loss, one line style a branch; val by epoch.

    curves: columns epoch, value, metric, loss, task, decoder_input, branch. levels: loss, branch, baseline, metric,
    value on val.
    """
    data = _over_seeds(curves[curves.metric == metric], "epoch")
    palette = dict(zip(_ordered(data.loss, [*LOSSES]), sns.color_palette("colorblind", 10), strict=False))
    grid = sns.relplot(
        data,
        x="epoch",
        y="value",
        hue="loss",
        hue_order=_ordered(data.loss, [*LOSSES]),
        style="branch",
        style_order=["recon", "pred"],
        units="run",
        estimator=None,
        col="task",
        col_order=_ordered(data.task, TASK_ORDER),
        row="decoder_input",
        row_order=_ordered(data.decoder_input, ["zero", "output", "truth"]),
        kind="line",
        palette=palette,
        height=3.1,
        aspect=1.15,
        facet_kws={"sharex": True, "sharey": True},
    )
    _bands(grid, data, "epoch", "loss", ["decoder_input", "task"], palette)
    levels = levels[levels.metric == metric]
    for (_, task), axis in grid.axes_dict.items():
        panel = levels[levels.task == task]
        _level(axis, panel[panel.baseline == "mean_frame"]["value"].mean(), "mean frame", LINES["mean_frame"])
        floors = panel[(panel.baseline == "floor") & (panel.value > 0)].groupby("loss")["value"].mean()
        for value, losses in floors.groupby(floors.round(6)):
            names = list(losses.index)
            _level(axis, value, f"floor of {', '.join(names)}", LINES["floor"], colour=palette[names[0]])
    return _label(grid, metric, "epoch", titles="{col_name}, decoder reads {row_name}")


def by_branch(
    curves: pd.DataFrame,
    levels: pd.DataFrame | None = None,
    *,
    metric: str = "mse",
    hue: str = "way",
    x: str = "epoch",
    log: bool = False,
) -> Figure:
    """A panel a branch, all recons and all preds (or one of what belongs to no branch, such as the gradient norm): a
    colour a way (or a run), a line style a loss. x: epoch, or seconds of training. As above.
    """
    data = _over_seeds(curves[curves.metric == metric], "epoch").assign(
        way=lambda d: d.task + ", reads " + d.decoder_input
    )
    if not np.isfinite(data.value).any():
        return _nothing(metric)
    names = sorted(set(data[hue]))
    many = len(names) > 10
    grid = sns.relplot(
        data,
        x=x,
        y="value",
        hue=hue,
        hue_order=names,
        units="run",
        estimator=None,
        style=hue if many else "loss" if hue not in ("run", "loss") and data.loss.nunique() > 1 else None,
        style_order=names if many else None,
        dashes=[("", (4, 1.5), (1, 1))[n // 10 % 3] for n in range(len(names))] if many else True,
        col="branch",
        col_order=_ordered(data.branch, BRANCH_ORDER),
        kind="line",
        palette=_palette(data[hue]),
        height=3.6,
        aspect=1.25,
    )
    _bands(grid, data, x, hue, ["branch"], dict(zip(names, _palette(data[hue]), strict=True)))
    if log:
        grid.set(yscale="log")
    if levels is not None:
        known = levels.recipe if "recipe" in levels else levels.run
        levels = levels[(levels.metric == metric) & known.isin(set(data.run))]
        for branch, axis in grid.axes_dict.items():
            of_branch = levels[levels.branch == branch]
            for (baseline, value), _ in of_branch.groupby(["baseline", of_branch.value.round(6)]):
                if value > 0:
                    _level(axis, value, baseline.replace("_", " "), LINES[baseline])
    of_one = data.task.nunique() == data.frame_size.nunique() == 1
    where = f", task {data.task.iloc[0]}, {data.frame_size.iloc[0]} pixels a side" if of_one else ""
    return _label(grid, metric, X_UNITS[x], titles="" if set(data.branch) == {"all"} else "{col_name}" + where)


def status_grid(table: pd.DataFrame, *, rows: str = "architecture", columns: str = "column") -> Figure:
    """What learned and what did not: in each cell how far below the mean frame it ended on test, in percent.

    table: as `compare.below_mean_frame`, with a column for the rows and one for the columns of the grid; of several
    runs in a cell the best. Blue is better than the mean frame, red is worse; colours end at 50 %.
    """
    cells = 100 * table.pivot_table(index=rows, columns=columns, values="below", aggfunc="max", sort=False)
    cells = cells[_ordered(table[columns], TASK_ORDER)].round() + 0.0  # no -0
    figure, axis = plt.subplots(figsize=(1.5 * len(cells.columns) + 2.5, 0.42 * len(cells) + 1.6))
    sns.heatmap(cells, annot=True, fmt=".0f", cmap="vlag_r", center=0, vmin=-50, vmax=50, linewidths=1, ax=axis,
                cbar_kws={"label": "% below the mean frame, test MSE"})  # fmt: skip
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="y", rotation=0)
    axis.tick_params(axis="x", rotation=0)
    figure.tight_layout()
    return figure


def ranking(table: pd.DataFrame, *, unit: str, levels: Mapping[str, float] | None = None) -> Figure:
    """Horizontal bars, the best on top. table: columns run, branch, value (in `unit`, less is better); levels: other
    values to compare with, as named upright lines.
    """
    order = table.groupby("run")["value"].min().sort_values().index
    figure, axis = plt.subplots(figsize=(8, 0.3 * len(order) * max(1, 0.8 * table.branch.nunique()) + 1.4))
    sns.barplot(table, y="run", x="value", hue="branch", order=order, hue_order=_ordered(table.branch, BRANCH_ORDER),
                palette="colorblind", orient="h", legend=table.branch.nunique() > 1, ax=axis)  # fmt: skip
    for name, value in (levels or {}).items():
        axis.axvline(value, color="0.3", linewidth=1, linestyle="--")
        axis.text(value, 1.01, name, transform=axis.get_xaxis_transform(), fontsize=7, ha="center")
    axis.set(xlabel=unit, ylabel="")
    sns.despine(figure)
    figure.tight_layout()
    return figure


def preactivations(curves: pd.DataFrame, reaches: Mapping[str, float]) -> Figure:
    """The last layer's output before its activation, through training: a panel a run, the band from the least to the
    largest value of a frame (means over val), a colour a branch.

    curves: columns run, epoch, branch, metric, value. reaches: each run's largest possible |value|, drawn where finite.
    """
    curves = curves[curves.metric.isin(["preactivation_min", "preactivation_max"])]
    runs = list(dict.fromkeys(curves.run))
    figure, axes = _panels(len(runs), sharey=False)
    for axis, run in zip(axes, runs, strict=False):
        of_run = curves[curves.run == run].pivot_table(index=["branch", "epoch"], columns="metric", values="value")
        for branch, band in of_run.groupby("branch"):
            epochs = band.index.get_level_values("epoch")
            axis.fill_between(epochs, band.preactivation_min, band.preactivation_max, alpha=0.35, label=branch)
        if np.isfinite(reach := reaches.get(run, np.inf)):
            for end in (-reach, reach):
                _level(axis, end, f"reach {end:g}", ":")
        axis.set_title(run, fontsize=8)
        axis.legend(fontsize=7, loc="upper left")
    return _axis_names(figure, "epoch", "pre-activation, least to largest of a frame")


def output_histograms(histograms: pd.DataFrame, targets: pd.Series | None = None) -> Figure:
    """What share of the output pixels has which value, through training: a panel a run (and branch), an epoch a row.

    histograms: columns run, branch, epoch, output, share. targets: the true pixels' share at the same outputs, shown
    as the topmost row.
    """
    parts = list(histograms.groupby(["run", "branch"], sort=False))
    if not parts:
        return _nothing("share of output pixels")
    figure, axes = _panels(len(parts), sharey=True)
    for axis, ((run, branch), part) in zip(axes, parts, strict=False):
        grid = part.pivot(index="epoch", columns="output", values="share")
        if targets is not None:
            grid.loc[grid.index.max() + 1] = targets.reindex(grid.columns).to_numpy()
        mesh = axis.pcolormesh(grid.columns, grid.index, np.log10(grid.clip(lower=1e-4)), cmap="viridis", vmin=-4)
        axis.set_title(f"{run}, {branch}", fontsize=8)
    figure.colorbar(mesh, ax=list(axes), label="log10 share of pixels")
    return _axis_names(figure, "output on the [0, 1] scale of the pixels", "epoch")


def floor_and_reached(table: pd.DataFrame) -> Figure:
    """For each run the floor of its last layer, and what it reached on test. table: columns run, branch, floor,
    reached, mean_frame (MSE per pixel on [0, 1]).
    """
    table = table.sort_values("reached", ascending=False).assign(name=lambda t: t.run + ", " + t.branch)
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(table) + 1.5))
    axis.hlines(table.name, table.floor, table.reached, color="0.75")
    axis.scatter(table.floor, table.name, marker="|", s=140, color="black", label="floor: the least it can reach")
    axis.scatter(table.reached, table.name, color="tab:blue", label="reached")
    axis.scatter(table.mean_frame, table.name, marker="x", color="tab:red", label="mean frame")
    axis.set(xlabel=UNITS["mse"])
    axis.legend(fontsize=8)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def update_times(table: pd.DataFrame) -> Figure:
    """Median time of one update a part and implementation, a panel a part; table: as performance.csv."""
    grid = sns.catplot(
        table, x="median_ms", y="implementation", col="part", kind="bar", sharex=False, height=3, aspect=1.4, color="C0"
    )
    for axis in grid.axes.flat:
        axis.bar_label(axis.containers[0], fmt="%.4g", padding=2, fontsize=8)
    grid.set_axis_labels("milliseconds", "")
    grid.set_titles("{col_name}")
    return grid.figure


def speedups(table: pd.DataFrame) -> Figure:
    """How many times as long each implementation takes, by size, a panel a decoder input; table: as
    `compare.speedups`.
    """
    named = table.assign(size=table.D.astype(str) + ", " + table.H.astype(str) + ", " + table.B.astype(str))
    ratios = named.melt(["size", "decoder_input"], [name for name in table if name.startswith("× ")]).dropna()
    grid = sns.catplot(
        ratios, x="value", y="size", hue="variable", col="decoder_input", kind="bar", palette="colorblind", height=4
    )
    grid.set(xscale="log")
    for axis in grid.axes.flat:
        axis.axvline(1, color="0.3", linewidth=1, linestyle="--")
    grid.set_axis_labels("time of an update / that of seqae", "D, H, B")
    grid.set_titles("decoder reads {col_name}")
    return grid.figure


def roofline(table: pd.DataFrame) -> Figure:
    """What each implementation makes of the machine: GFLOP/s of the necessary products over their intensity, under
    the lesser of the processor's rate and the memory's (Williams et al., 2009); table: as `compare.performances`.
    """
    table = table[table.part == "forward_backward"]
    grid = sns.relplot(
        table, x="intensity", y="gflops", hue="implementation", style="decoder_input", height=4.4, aspect=1.5, s=60,
        palette=_palette(table.implementation),
    )  # fmt: skip
    span = np.geomspace(table.intensity.min() / 2, table.intensity.max() * 2, 100)
    peak, memory = table.matmul_gflops.max(), table.copy_gbs.max()
    grid.ax.plot(span, np.minimum(peak, span * memory), color="0.4", linewidth=1)
    grid.ax.text(span[-1], peak, f"{peak:.0f} GFLOP/s, large product", ha="right", va="bottom", fontsize=7, color="0.4")
    grid.ax.set(xscale="log", yscale="log")
    grid.set_axis_labels("operations per byte of the products' operands, FLOP/byte", "GFLOP/s of an update")
    return grid.figure


def _over_seeds(data: pd.DataFrame, step: str) -> pd.DataFrame:
    # Runs that differ only by seed become one, called by their recipe: value is their mean, from low to high, of n.
    data = data if "recipe" in data else data.assign(recipe=data.run)
    data = data.assign(run=data.recipe, low=data.value, high=data.value, n=1)
    how = dict.fromkeys(data.columns, "first") | {"value": "mean", "low": "min", "high": "max", "n": "sum"}
    how |= {"seconds": "mean"} if "seconds" in data else {}
    keys = ["recipe", "branch", step]
    return data.groupby(keys, as_index=False, sort=False).agg({k: v for k, v in how.items() if k not in keys})


def _bands(grid: sns.FacetGrid, data: pd.DataFrame, x: str, hue: str, facets: list[str], colours: dict) -> None:
    # Beneath the mean of several seeds, from the least to the largest; n is stated below.
    if data.n.max() == 1:
        return
    for key, axis in grid.axes_dict.items():
        panel = data[(data[facets] == (list(key) if len(facets) > 1 else [key])).all(axis=1) & (data.n > 1)]
        for (name, _, _), line in panel.groupby([hue, "run", "branch"]):
            axis.fill_between(line[x], line.low, line.high, color=colours[name], alpha=0.2, linewidth=0)
    counts = " or ".join(map(str, sorted(set(data.n[data.n > 1]))))
    grid.figure.text(0.01, 0, f"line: mean of the seeds, band: least to largest, n = {counts}", va="top", fontsize=8)


def _palette(values: pd.Series) -> list:
    return sns.color_palette("colorblind", values.nunique())  # of more than its ten they come again


def _panels(count: int, *, sharey: bool) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    size = (5.5, 3.6) if count == 1 else (3.3 * columns, 2.5 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=sharey,
                                squeeze=False, layout="constrained")  # fmt: skip
    for axis in grid.flat[count:]:
        axis.axis("off")
    return figure, list(grid.flat[:count])


def _nothing(metric: str) -> Figure:
    # Of a run that diverged in its first epoch, or of what an older version did not record.
    figure, axis = plt.subplots(figsize=(5, 1.2))
    axis.text(0.5, 0.5, f"no finite value of: {UNITS.get(metric, metric)}", ha="center", va="center")
    axis.axis("off")
    return figure


def _axis_names(figure: Figure, x: str, y: str) -> Figure:
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure


def _ordered(values: pd.Series, first: list[str]) -> list[str]:
    # The known ones in their order, then any others.
    return sorted(set(values), key=lambda value: (first.index(value) if value in first else len(first), value))


def _level(axis: Axes, value: float, name: str, line: object, *, colour: object = "0.4") -> None:
    axis.axhline(value, color=colour, linestyle=line, linewidth=1)
    x = axis.get_xlim()[1]
    axis.text(x, value, name, color=colour, fontsize=7, ha="right", va="bottom")


def _label(grid: sns.FacetGrid, metric: str, x: str, titles: str = "") -> Figure:
    grid.set_axis_labels(x, UNITS[metric])
    grid.set_titles(titles)
    if x != X_UNITS["seconds"]:
        for axis in grid.axes.flat:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return grid.figure
