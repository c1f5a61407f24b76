"""What was learned: probes, few labels, errors beyond training, maps of states. Units are on every axis."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from seqae.reports.figures.style import AXIS_LABELS, coloured, drawable, ordered
from seqae.reports.maps import in_two_dimensions

FEATURES = ["state", "untrained", "last frame", "all frames", "PCA"]
STARTS = ["trained", "random", "probe"]
SOURCES = {"mean frame": "--", "copy last": "-."}  # what needs no model


def probe_bars(probes: pd.DataFrame, *, hue: str | None = None) -> Figure:
    """A panel for each target: what probes of each kind of features get, with chance and ceiling as vertical lines.

    probes: as `linear_probes`, of one run, or of many with a column `hue` that colours them; a bar is then their mean,
    and its line reaches from the least to the largest.
    """
    labels = ["target", "features", "measure", *([hue] if hue else [])]
    data = drawable(probes, "probes", labels, numbers=["value", "chance", "ceiling"])
    targets = list(dict.fromkeys(data.target))
    figure, axes = plt.subplots(1, len(targets), figsize=(3.1 * len(targets), 2.9), sharey=True, squeeze=False)
    names = ordered(data.features, FEATURES)
    for axis, target in zip(axes[0], targets, strict=True):
        part = data[data.target == target]
        sns.barplot(part, x="value", y="features", hue=hue, order=names, ax=axis, orient="h",
                    errorbar=("pi", 100), color=None if hue else sns.color_palette("colorblind")[0],
                    palette=coloured(sorted(set(data[hue]))) if hue else None,
                    hue_order=sorted(set(data[hue])) if hue else None, err_kws={"linewidth": 1})  # fmt: skip
        for level, line in (("chance", ":"), ("ceiling", "--")):
            axis.axvline(part[level].mean(), color="0.3", linestyle=line, linewidth=1, label=level)
        axis.set(title=target, xlabel=part.measure.iloc[0], ylabel="")
        if axis.get_legend():
            axis.get_legend().remove()
    handles, told = axes[0, 0].get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(handles, told, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=len(told), fontsize=8)
    return figure


def error_beyond(errors: pd.DataFrame, *, hue: str = "source") -> Figure:
    """The error of a prediction by frame step, beyond the horizon that was trained, which a vertical line marks.

    errors: as `longer_horizon`, of one run, or of many with a column `hue` that tells the curves of models apart; of
    several runs with one value of `hue` the mean is drawn, and a band from the least to the largest.
    """
    labels = ["source", *([hue] if hue != "source" else [])]
    data = drawable(errors, "errors", labels, numbers=["value", "frame", "trained"])
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    models = data[data.source == "model"]
    colours = coloured(sorted(set(models[hue])))
    sns.lineplot(models, x="frame", y="value", hue=hue, palette=colours, hue_order=[*colours],
                 errorbar=("pi", 100), ax=axis)  # fmt: skip
    for source, line in SOURCES.items():
        level = data[data.source == source].groupby("frame")["value"].mean()
        axis.plot(level.index, level.to_numpy(), color="0.4", linestyle=line, linewidth=1, label=source)
    axis.axvline(data.trained.max(), color="0.6", linewidth=1, linestyle=(0, (5, 5)))
    axis.set(xlabel="frame step after the last seen (vertical line: as far as trained)", ylabel=AXIS_LABELS["mse"])
    axis.set_ylim(0)
    axis.legend(fontsize=8, frameon=False)
    sns.despine(figure)
    return figure


def errors_by_digits(errors: pd.DataFrame, *, hue: str = "source") -> Figure:
    """A panel for each branch: the error on sequences of one, two and three digits, as a share of the mean frame's.

    errors: as `digit_counts`, of one run, or of many with a column `hue` that colours models; copy last is drawn grey.
    """
    labels = ["branch", "source", *([hue] if hue != "source" else [])]
    data = drawable(errors, "errors", labels, numbers=["value", "digits", "trained"])
    keys = list(dict.fromkeys(["branch", "digits", "source", *([hue] if hue != "source" else []),
                               *(["run"] if "run" in data else [])]))  # fmt: skip
    means = data.groupby(keys, as_index=False)["value"].mean()
    level = means[means.source == "mean frame"].groupby(["branch", "digits"])["value"].mean()
    level = level.rename("level").reset_index()
    shares = means.merge(level, on=["branch", "digits"]).assign(share=lambda t: t.value / t.level)
    branches = sorted(set(shares.branch), reverse=True)
    figure, axes = plt.subplots(1, len(branches), figsize=(4.2 * len(branches), 3), sharey=True, squeeze=False)
    for axis, branch in zip(axes[0], branches, strict=True):
        part = shares[shares.branch == branch]
        models = part[part.source == "model"]
        colours = coloured(sorted(set(shares[shares.source == "model"][hue])))
        sns.lineplot(models, x="digits", y="share", hue=hue, palette=colours, hue_order=[*colours], marker="o",
                     errorbar=("pi", 100), ax=axis)  # fmt: skip
        copied = part[part.source == "copy last"].groupby("digits")["share"].mean()
        axis.plot(copied.index, copied.to_numpy(), color="0.4", linestyle="-.", linewidth=1, label="copy last")
        axis.axhline(1, color="0.4", linestyle="--", linewidth=1, label="mean frame")
        axis.set(title=branch, xlabel="digits in a sequence", ylabel="MSE / MSE of the mean frame")
        axis.set_xticks(sorted(set(part.digits)))
        axis.legend().remove()
    axes[0, 0].set_ylim(0)  # of all panels
    sns.despine(figure)
    figure.tight_layout()
    figure.legend(*axes[0, -1].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=5,
                  fontsize=8, frameon=False)  # fmt: skip
    return figure


def label_curves(labelled: pd.DataFrame, *, panels: str | None = None) -> Figure:
    """The share of digits found by the number of labelled sequences, a colour for each start, with chance and ceiling.

    labelled: as `few_labels`, of one run or of several; a line is the mean of draws and runs, and its band reaches from
    the least to the largest. panels: a column, a panel for each of its values.
    """
    data = drawable(labelled, "labelled", ["start", *([panels] if panels else [])],
                    numbers=["labels", "value", "chance", "ceiling"])  # fmt: skip
    parts = {"": data} if panels is None else dict(iter(data.groupby(panels)))
    figure, axes = plt.subplots(1, len(parts), figsize=(4.4 * len(parts), 3.2), sharey=True, squeeze=False)
    names = ordered(data.start, STARTS)
    for axis, (title, part) in zip(axes[0], parts.items(), strict=True):
        sns.lineplot(part, x="labels", y="value", hue="start", hue_order=names, palette=coloured(names), marker="o",
                     errorbar=("pi", 100), ax=axis)  # fmt: skip
        for level, line in (("chance", ":"), ("ceiling", "--")):
            axis.axhline(part[level].mean(), color="0.4", linestyle=line, linewidth=1, label=level)
        axis.set(xscale="log", title=title, xlabel="labelled sequences", ylabel="share of digits found")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.legend(fontsize=8, frameon=False)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def state_map(states: np.ndarray, drawn: pd.DataFrame) -> Figure:
    """States of sequences in two dimensions, coloured by where the digits are, whither they move, and what they are.

    states: (N, units), as `encode`'s flat. drawn: as `RunFolder.drawn` at the last frame seen, of the same N.
    Colours: mean x of the digits in pixels, direction of the first digit's velocity in degrees, the class of the first
    digit.
    """
    points, axis_names = in_two_dimensions(states)
    digits = [name.removeprefix("x_") for name in drawn.columns if name.startswith("x_")]
    angle = np.degrees(np.arctan2(drawn.v_y_1, drawn.v_x_1)) % 360
    panels: Mapping[str, tuple[pd.Series, str]] = {
        "mean x of the digits, pixels": (drawn[[f"x_{n}" for n in digits]].mean(axis=1), "viridis"),
        "direction of digit 1, degrees": (angle, "twilight"),
        "class of digit 1": (drawn.digit_1, "tab10"),
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axis, (title, (values, colours)) in zip(axes, panels.items(), strict=True):
        marks = axis.scatter(*points.T, c=values, cmap=colours, s=8)
        figure.colorbar(marks, ax=axis, label=title)
        axis.set(xlabel=axis_names[0], ylabel=axis_names[1])
    return figure
