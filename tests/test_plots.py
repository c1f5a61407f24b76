"""Figures hold the numbers they were given, with units."""

from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_learned import TABLES as LEARNED

from seqae.reports import figures, frames
from seqae.reports.figures.ends import apart, fit_axis
from seqae.reports.figures.shown import as_output
from seqae.runs import Strip

mpl.use("Agg")
READS = ("zero", "output")
WAYS = [(task, reads) for task in ("recon", "pred", "both") for reads in READS]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def tables():
    """Curves and levels of three losses in six ways; each value shows its loss and epoch."""
    curves, levels = [], []
    for offset, loss in enumerate(["0sb", "0sm", "0nm"]):
        for task, reads in WAYS:
            for branch in {"both": ["recon", "pred"]}.get(task, [task]):
                common = {"loss": loss, "task": task, "decoder_input": reads, "branch": branch, "metric": "mse"}
                common |= {"run": f"{loss}-{task}-{reads}", "frame_size": 64}
                curves += [common | {"epoch": e, "value": 0.1 * offset + 0.01 * e} for e in (1, 2, 3)]
                levels.append(common | {"baseline": "mean_frame", "value": 0.0372})
                levels.append(common | {"baseline": "floor", "value": 0.0 if loss == "0nm" else 0.0698})
    return pd.DataFrame(curves), pd.DataFrame(levels)


def horizontals(axis):
    lines = [line.get_ydata() for line in axis.lines if len(line.get_xdata()) == 2]
    return sorted(y[0] for y in lines if y[0] == y[1])


def drawn(axis):
    return [tuple(line.get_ydata()) for line in axis.lines if len(line.get_xdata()) == 3]


def colliding(figure):
    """Pairs of names of all panels that lie upon one another; a name's leader may cross others."""
    figure.canvas.draw()
    names = [name for axis in figure.axes for name in axis.texts]
    boxes = [mpl.text.Text.get_window_extent(name) for name in names]
    pairs = [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]
    return [(names[i].get_text(), names[j].get_text()) for i, j in pairs]


def test_axes_have_numbers_where_ways_at_the_edge_were_not_trained(tables):
    curves, levels = tables
    first, last = [(curves.task == task) & (curves.decoder_input == reads) for task, reads in (WAYS[0], WAYS[-1])]
    figure = figures.losses_in_ways(curves[~first & ~last], levels)
    figure.canvas.draw()
    for at, name in (("yaxis", "get_ylabel"), ("xaxis", "get_xlabel")):
        named = [getattr(axis, at) for axis in figure.axes if getattr(axis, name)()]
        assert len(named) in (2, 4)
        for axis in named:
            shown = [tick.label1 for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())]
            assert any(label.get_visible() and label.get_text() for label in shown)


def test_five_losses_in_six_ways(tables):
    figure = figures.losses_in_ways(*tables)
    titles = {axis.get_title("left"): axis for axis in figure.axes}
    both = ["both: recon", "both: pred"]
    assert set(titles) == {f"{of}, decoder reads {reads}" for of in ("recon", "pred", *both) for reads in READS}
    for axis in figure.axes:
        assert len(drawn(axis)) == 3, "a line for each loss"
        assert horizontals(axis) == pytest.approx([0.0372, 0.0698])
        assert axis.get_yscale() == "log"
        assert {line.get_linewidth() for line in axis.lines if len(line.get_xdata()) == 3} == {1.6}
    assert drawn(titles["pred, decoder reads zero"])[0] == pytest.approx((0.01, 0.02, 0.03))
    assert figure.axes[0].get_ylabel() == "MSE per pixel, on [0, 1], log scale"
    assert figure.axes[-1].get_xlabel() == "epoch"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [text.split("  ")[0] for text in legend[:3]] == ["0sb", "0sm", "0nm"]
    assert legend[3:] == [*("mean frame: no model", "below the mean frame", "floor, of the losses named there alone")]


def test_each_curve_ends_in_its_name_and_where_it_stands_beside_the_mean_frame(tables):
    figure = figures.losses_in_ways(*tables)
    for axis in figure.axes:
        names = {text.get_text() for text in axis.texts}
        assert names == {"0sb −19 %", "0sm +249 %", "0nm +518 %", "mean frame", "floor 0sb, 0sm"}
        (hatching,) = [patch for patch in axis.patches if patch.get_hatch()]
        assert hatching.get_window_extent().y1 == pytest.approx(axis.transData.transform((0, 0.0698))[1], abs=0.5)
    assert not colliding(figure)


def test_losses_that_are_stuck_at_one_level_are_both_named_and_both_drawn(tables):
    curves, levels = tables
    figure = figures.losses_in_ways(curves.assign(value=0.076), levels)
    assert not colliding(figure)
    for axis in figure.axes:
        styles = [(line.get_marker(), line.get_linestyle()) for line in axis.lines if line.get_marker() != "None"]
        assert len({*styles}) == 3, "in grey, too"


def test_a_curve_that_diverges_squeezes_no_other(tables):
    curves, levels = tables
    lost = curves.assign(value=curves.value.where((curves.loss != "0sm") | (curves.epoch < 2), 1e9))
    for figure in (figures.losses_in_ways(lost, levels), figures.learning_curves_of_runs(lost, levels, hue="loss")):
        assert figure.axes[0].get_ylim()[1] < 1
    last = lost.assign(value=lost.value.where(lost.value < 1e8))
    assert "0sm diverged" in texts(figures.losses_in_ways(last, levels))


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.5], [0.5]),
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.5, 0.52, 0.5], [0.4, 0.6, 0.5]),
        ([0.0, 1.0], [0.05, 0.95]),
        ([0.99, 0.98], [0.95, 0.85]),
    ],
)
def test_names_are_pushed_apart_as_little_as_can_be(places, expected):
    assert apart(places, 0.1, 0.05, 0.95) == pytest.approx(expected, abs=0.011)


def test_ticks_are_round_numbers(tables):
    figure = figures.losses_in_ways(*tables)
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks == ["0.01", "0.015", "0.02", "0.03", "0.05", "0.07", "0.1", "0.15", "0.2"]


def test_a_logarithmic_axis_of_a_narrow_range_has_ticks():
    axis = plt.figure().add_subplot()
    fit_axis([axis], [0.0079, 0.0082], log=True)
    shown = [tick for tick in axis.get_yticks() if axis.get_ylim()[0] <= tick <= axis.get_ylim()[1]]
    assert len(shown) >= 2


@pytest.mark.parametrize("most", [0.0017, 0.017, 1.7, 24.0, 1700.0])
def test_ticks_of_any_figure_that_is_shown_are_round_numbers(most):
    figure, axes = plt.subplots(1, 3)
    for axis, least in zip(axes, (0, most / 2, 0.99999 * most), strict=True):
        axis.plot([least, most], [least, most])
    axes[2].set_xticks([least, most])
    as_output(figure, "a line")
    for axis in (*(a.yaxis for a in axes), axes[0].xaxis):
        ticks = axis.get_majorticklocs()
        assert float(f"{ticks[1] - ticks[0]:.3e}"[:5]) in (1, 2, 5)
        assert axis.get_offset_text().get_text() == ""
    assert [*axes[2].get_xticks()] == [least, most], "these were chosen"


def test_the_split_is_said_where_percentages_stand(tables):
    curves, levels = tables
    drawn_on_val = [
        figures.losses_in_ways(curves.assign(split="val"), levels),
        figures.learning_curves_of_runs(curves.assign(split="val"), levels, hue="loss"),
    ]
    steps = curves[curves.loss == "0nm"].rename(columns={"epoch": "frame"})
    on_test = figures.error_by_frame(steps.assign(split="mine"), levels, hue="run")
    assert [f.axes[0].get_ylabel() for f in drawn_on_val] == ["val MSE per pixel, on [0, 1], log scale"] * 2
    assert on_test.axes[0].get_ylabel().removesuffix(", log scale") == "test MSE per pixel, on [0, 1]"
    both = pd.concat([curves.assign(split=split) for split in ("train", "val")])
    told = figures.learning_curves(both[both.run == "0nm-recon-zero"], levels.assign(split="val").head(0))
    assert told.axes[0].get_ylabel().removesuffix(", log scale") == "MSE per pixel, on [0, 1]"
    norms = curves.assign(split="train", metric="grad_norm", branch="all")
    assert figures.learning_curves_of_runs(norms, metric="grad_norm").axes[0].get_ylabel().startswith("gradient norm")


def test_all_recons_and_all_preds(tables):
    curves, levels = tables
    figure = figures.learning_curves_of_runs(curves[curves.loss == "0nm"], levels)
    assert [axis.get_title() for axis in figure.axes] == ["recon", "pred"]
    assert [len(drawn(axis)) for axis in figure.axes] == [4, 4]
    assert [horizontals(axis) for axis in figure.axes] == [[0.0372], [0.0372]], "a floor of 0 is no line"
    two = figures.learning_curves_of_runs(curves[curves.loss.isin(["0sb", "0sm"])], levels)
    assert [len(drawn(axis)) for axis in two.axes] == [8, 8]
    assert horizontals(two.axes[0]) == pytest.approx([0.0372, 0.0698])


def test_seeds_are_one_line_their_mean_in_a_band_and_n_is_stated(tables):
    curves, levels = tables
    ones = curves[(curves.loss == "0nm") & curves.task.isin(["recon", "pred"])]
    seeds = [ones.assign(run=ones.run + f"-seed{i}", recipe=ones.run + ", n = 3 seeds", value=ones.value + shift)
             for i, shift in enumerate((0, 0.01, 0.05))]  # fmt: skip
    alone = curves[(curves.loss == "0sm") & (curves.task == "recon")]
    both = pd.concat([*seeds, alone.assign(recipe=alone.run)])
    figure = figures.learning_curves_of_runs(both, levels.assign(recipe=levels.run), hue="run")
    recon, pred = figure.axes
    assert len(drawn(recon)) == 4
    assert len(drawn(pred)) == 2
    assert drawn(pred)[0] == pytest.approx((0.23, 0.24, 0.25))  # 0.2 + 0.01 an epoch, and 0.02
    bands = [band.get_paths()[0].vertices for band in pred.collections]
    assert [(band[:, 1].min(), band[:, 1].max()) for band in bands] == [pytest.approx((0.21, 0.28))] * 2
    assert len(recon.collections) == 2, "what has one seed has no band"
    assert [text.get_text() for text in figure.texts] == ["line: mean of the seeds, band: least to largest, n = 3"]
    assert "0nm-pred-zero, n = 3 seeds" in [text.get_text() for text in pred.texts]

    wide = [seed.assign(value=seed.value + shift) for seed, shift in zip(seeds, (0.2, 0, -0.2), strict=True)]
    axis = figures.learning_curves_of_runs(pd.concat(wide), hue="run").axes[1]
    (low, high), band = axis.get_ylim(), axis.collections[0].get_paths()[0].vertices
    assert low < band[:, 1].min() < band[:, 1].max() < high, "the axis holds the band whole"

    legend = figures.losses_in_ways(both, levels[levels.loss != "0sb"]).legends[0]
    assert legend.get_texts()[-1].get_text() == "seeds, least to largest, n = 3; line: their mean"
    steps = both.rename(columns={"epoch": "frame"})
    assert len(figures.error_by_frame(steps, levels, hue="run").axes[1].collections) == 2


def test_one_run_against_its_levels():
    metrics = pd.DataFrame(
        [(e, split, "pred", "bce", e / 10) for e in (1, 2, 3) for split in ("train", "val")],
        columns=["epoch", "split", "branch", "metric", "value"],
    )
    levels = pd.DataFrame(
        [("val", "pred", "mean_frame", "bce", 0.16), ("test", "pred", "mean_frame", "bce", 0.9)],
        columns=["split", "branch", "baseline", "metric", "value"],
    )
    (axis,) = figures.learning_curves(metrics, levels, metric="bce").axes
    assert axis.get_ylabel() == "BCE, nats/pixel, log scale"
    assert drawn(axis) == [pytest.approx((0.1, 0.2, 0.3))] * 2
    assert horizontals(axis) == [0.16]


def test_a_floor_far_below_squeezes_no_curve():
    """Such as that of a sigmoid with a gain of 10, a thousand-millionth."""
    metrics = pd.DataFrame(
        [(e, s, "recon", "mse", 0.1 / e) for e in (1, 2) for s in ("train", "val")],
        columns=["epoch", "split", "branch", "metric", "value"],
    )
    levels = pd.DataFrame(
        [("val", "recon", "mean_frame", "mse", 0.04), ("val", "recon", "floor", "mse", 1e-9)],
        columns=["split", "branch", "baseline", "metric", "value"],
    )
    (axis,) = figures.learning_curves(metrics, levels).axes
    assert axis.get_ylim()[0] > 0.03
    assert not [text for text in axis.texts if "floor" in text.get_text()]


def test_epochs_are_whole_numbers_and_the_truth_is_no_epoch():
    bins = pd.DataFrame(
        [("a", "recon", e, x, 0.5) for e in (1, 2) for x in (0.0, 0.5)],
        columns=["run", "branch", "epoch", "output", "share"],
    )
    figure = figures.output_histograms(bins, pd.Series({0.0: 0.9, 0.5: 0.1}))
    figure.canvas.draw()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels() if label.get_text()] == ["1", "2"]
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["truth"]
    ends = [("a", e, "recon", f"preactivation_{end}", e) for e in (1, 2) for end in ("min", "max")]
    curves = pd.DataFrame(ends, columns=["run", "epoch", "branch", "metric", "value"])
    (axis,) = figures.preactivations(curves, {}).axes
    assert all(tick == round(tick) for tick in axis.get_xticks())


def test_a_ranking_goes_by_the_prediction_of_those_that_have_both_branches():
    rows = [("a", "pred", 0.3), ("a", "recon", 0.1), ("b", "recon", 0.2), ("b", "pred", 0.25), ("c", "recon", 0.27)]
    table = pd.DataFrame(rows, columns=["run", "branch", "value"])
    (axis,) = figures.ranking(table, unit="MSE", levels={"mean frame": 0.4}).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "a", "c"], "c predicts nothing"
    assert axis.yaxis_inverted()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["recon", "pred"]
    assert "mean frame" in [text.get_text() for text in axis.texts]


@pytest.mark.parametrize(
    ("rows", "order"),
    [
        ([("a", "recon, given truth", 0.1), ("a", "pred", 0.3), ("b", "pred", 0.2)], "ba"),
        ([("a", "recon", 0.1), ("a", "pred", float("nan")), ("b", "pred", 0.2)], "ba"),  # its prediction diverged
        ([("a", "pred", 0.1), ("a", "pred", 0.5), ("b", "pred", 0.2)], "ba"),  # two seeds: their mean
        ([("a", "recon", 0.3), ("b", "recon", 0.2)], "ba"),
    ],
)
def test_a_ranking_of(rows, order):
    (axis,) = figures.ranking(pd.DataFrame(rows, columns=["run", "branch", "value"]), unit="MSE").axes
    assert "".join(label.get_text() for label in axis.get_yticklabels()) == order


def test_error_by_frame_step():
    rows = [("recon", pd.NA, "mse", 0.5), *(("recon", t, "mse", t / 100) for t in (1, 2, 3))]
    test = pd.DataFrame(rows, columns=["branch", "frame", "metric", "value"]).astype({"frame": "Int64"})
    levels = pd.DataFrame([("test", "recon", "mean_frame", "mse", 0.04)])
    levels.columns = ["split", "branch", "baseline", "metric", "value"]
    (axis,) = figures.error_by_frame(test, levels).axes
    assert drawn(axis) == [pytest.approx((0.01, 0.02, 0.03))], "the mean over frames is no step"
    assert axis.get_xlabel() == "frame step of the decoder"
    assert horizontals(axis) == [0.04]
    assert [name.get_text() for name in axis.texts] == ["recon at step 3: −25 %", "mean frame"]


@pytest.mark.parametrize("mean", [0.0402, 0.05])
def test_branches_of_one_run_have_their_own_last_step_and_where_they_differ_their_own_levels(mean):
    rows = [(branch, t, "mse", t / 100) for branch, steps in (("recon", 3), ("pred", 2)) for t in range(1, steps + 1)]
    test = pd.DataFrame(rows, columns=["branch", "frame", "metric", "value"])
    levels = pd.DataFrame({"branch": ["recon", "pred"], "value": [0.04, mean]})
    levels = levels.assign(split="test", baseline="mean_frame", metric="mse")
    axes = figures.error_by_frame(test, levels).axes
    names = [name.get_text() for axis in axes for name in axis.texts]
    if mean == 0.05:
        assert names == ["recon at step 3: −25 %", "mean frame", "pred at step 2: −60 %", "mean frame"]
        assert [horizontals(axis) for axis in axes] == [[0.04], [0.05]]
    else:
        assert names == ["recon at step 3: −25 %", "pred at step 2: −50 %", "mean frame"]


@pytest.mark.parametrize("floor", [0.035, 0.001, 0.0])
def test_error_by_frame_step_shows_all_levels(floor):
    rows = [(branch, t, "mse", t / 100) for branch in ("recon", "pred") for t in (1, 2, 3)]
    test = pd.DataFrame(rows, columns=["branch", "frame", "metric", "value"])
    rows = [("test", "pred", "copy_last", "mse", 0.0405), ("val", "pred", "copy_last", "mse", 0.9)]
    for branch in ("recon", "pred"):
        rows += [("test", branch, name, "mse", value) for name, value in (("mean_frame", 0.04), ("black", 0.05))]
        rows.append(("test", branch, "floor", "mse", floor))
    levels = pd.DataFrame(rows, columns=["split", "branch", "baseline", "metric", "value"])
    figure = figures.error_by_frame(test, levels)
    assert not colliding(figure)
    names = [name.get_text() for name in figure.axes[0].texts]
    assert names[:2] == ["recon at step 3: −25 %", "pred at step 3: −25 %"]
    near = ["floor"] if floor > 0.01 else []  # a floor far below the curves would squeeze them
    assert sorted(names[2:]) == sorted(["copy last, mean of all steps", "mean frame", *near])
    of_runs = [test.assign(run=run, loss=loss) for run, loss in (("a", "0sb"), ("b", "0sm"))]
    known = [levels.assign(run=run, loss=loss) for run, loss in (("a", "0sb"), ("b", "0sm"))]
    figure = figures.error_by_frame(pd.concat(of_runs), pd.concat(known), hue="run")
    assert not colliding(figure)
    assert ("floor of 0sb, 0sm" in [name.get_text() for name in figure.axes[0].texts]) == bool(near)


def test_errors_by_frame_step_are_named_where_their_lines_end(tables):
    curves, levels = tables
    steps = curves[curves.decoder_input == "zero"].rename(columns={"epoch": "frame"})
    figure = figures.error_by_frame(steps, levels, hue="run")
    assert not figure.legends
    assert not colliding(figure)
    names = {"0nm-pred-zero +518 %", "0sb-both-zero −19 %", "0sm-pred-zero +249 %", "mean frame"}
    assert names <= {name.get_text() for name in figure.axes[1].texts}
    for axis in figure.axes:
        for name in axis.texts:
            assert mpl.text.Text.get_window_extent(name).x0 > axis.bbox.x1, "beside the panel, upon no curve"
    one = steps[(steps.run == "0sb-both-zero")]
    (axis,) = figures.error_by_frame(one, levels).axes
    assert [name.get_text() for name in axis.texts] == [
        "recon at step 3: −19 %",
        "pred at step 3: −19 %",
        "floor, at 0.0698",
        "mean frame",
    ]
    crowd = pd.concat([steps.assign(run=steps.run + f"-{n}") for n in range(3)])
    figure = figures.error_by_frame(crowd, levels, hue="run")
    (legend,) = figure.legends  # too many to be named
    styles = {(line.get_color(), str(line._dash_pattern)) for line in legend.get_lines()}
    assert len(styles) == len(legend.get_lines()) == crowd.run.nunique(), "no two lines look alike"
    figure.canvas.draw()
    assert legend.get_window_extent().y1 < figure.axes[0].bbox.y0, "below the panels"


def test_marks_are_named_above_the_panel_none_upon_another():
    curves = pd.DataFrame([(e, "val", "recon", "mse", 1 / e) for e in range(1, 8)])
    curves.columns = ["epoch", "split", "branch", "metric", "value"]
    levels = pd.DataFrame(columns=["split", "branch", "baseline", "metric", "value"])
    (axis,) = figures.learning_curves(curves, levels, {"best": 7, "plateau": 6, "stopped": 7}).axes
    axis.figure.canvas.draw()
    plateau, best = sorted(axis.texts[-2:], key=lambda text: text.get_window_extent().x0)
    assert [plateau.get_text(), best.get_text()] == ["plateau", "best, stopped"]
    assert plateau.get_window_extent().x1 < best.get_window_extent().x0
    assert axis.bbox.y1 < best.get_window_extent().y0 < best.get_window_extent().y1 < axis.title.get_window_extent().y0


def test_a_logarithmic_axis_has_few_ticks_and_no_place_for_zero():
    curves = pd.DataFrame([("a", e, "all", "grad_norm", 10.0 ** (9 - 3 * e) if e < 7 else 0) for e in range(1, 8)])
    curves.columns = ["run", "epoch", "branch", "metric", "value"]
    (axis,) = figures.learning_curves_of_runs(curves, metric="grad_norm", hue="run", log=True).axes
    assert axis.get_yscale() == "log"
    assert 3 < len(axis.get_yticks()) < 10


# --- tables of one's own ---


def own_of(table, **given):
    """A researcher's rows: categories, an index of its own, a column more, and neither recipe nor seed."""
    own = table.drop(columns=[name for name in ("recipe", "seed") if name in table]).assign(note="mine", **given)
    categories = own.select_dtypes(["object", "string"]).columns
    return own.astype(dict.fromkeys(categories, "category")).set_index(
        pd.Index([f"row {n % 2}" for n in range(len(own))])
    )


def beside(table, **given):
    return pd.concat([table, own_of(table, **given)])


@pytest.fixture
def of_each(tables):
    """Of each figure: how its first table is drawn, that table, and what is another in a researcher's own."""
    curves, levels = tables
    ours = curves[(curves.loss == "0nm") & (curves.task == "recon")].assign(recipe=lambda t: t.run, seed=6, seconds=1.0)
    steps = ours.rename(columns={"epoch": "frame"})
    table = pd.DataFrame(
        {"run": ["a", "a"], "branch": ["recon", "pred"], "value": [0.1, 0.2], "seed": 6, "recipe": "a"}
    )
    bins = [("a", "recon", epoch, output, 0.5) for epoch in (1, 2) for output in (0.0, 1.0)]
    bins = pd.DataFrame(bins, columns=["run", "branch", "epoch", "output", "share"])
    ends = pd.concat([ours.assign(metric=f"preactivation_{end}") for end in ("min", "max")])
    level = levels[(levels.loss == "0nm") & (levels.task == "recon")].assign(split="val")
    two = {"split": "val", "made": "then", "sequence": 4}
    return {
        "learning_curves": (lambda t: figures.learning_curves(t, level), ours.assign(**two), {"split": "mine"}),
        "error_by_frame": (lambda t: figures.error_by_frame(t, level, hue="run"), steps, {"run": "mine"}),
        "error_by_sequence": (lambda t: figures.error_by_sequence(t, steps), steps.assign(**two), {"sequence": "mine"}),
        "then_and_again": (figures.then_and_again, ours.assign(**two), {"made": "again"}),
        "losses_in_ways": (lambda t: figures.losses_in_ways(t, level), ours[ours.decoder_input == "zero"],
                           {"run": "mine", "loss": "mine"}),
        "learning_curves_of_runs": (lambda t: figures.learning_curves_of_runs(t, level, hue="run"), ours,
                                    {"run": "mine"}),
        "status_grid": (figures.status_grid, ours.assign(column="recon", architecture="a", below=0.1),
                        {"run": "mine", "architecture": "mine"}),
        "ranking": (lambda t: figures.ranking(t, unit="MSE"), table, {"run": "mine"}),
        "preactivations": (lambda t: figures.preactivations(t, {}), ends, {"run": "mine"}),
        "output_histograms": (figures.output_histograms, bins, {"run": "mine"}),
        "floor_and_reached": (figures.floor_and_reached, table.assign(floor=0, reached=0.1, mean_frame=0.2),
                              {"run": "mine"}),
    }  # fmt: skip


def texts(figure):
    ticks = [label for axis in figure.axes for label in (*axis.get_xticklabels(), *axis.get_yticklabels())]
    return " ".join(artist.get_text() for artist in (*figure.findobj(mpl.text.Text), *ticks))


NEEDED = {
    "learning_curves": ["epoch", "split", "branch", "metric", "value"],
    "error_by_frame": ["run", "branch", "frame", "metric", "value"],
    "error_by_sequence": ["sequence", "branch", "frame", "metric", "value"],
    "then_and_again": ["epoch", "branch", "metric", "value", "made"],
    "losses_in_ways": ["run", "epoch", "value", "metric", "loss", "task", "decoder_input", "branch"],
    "learning_curves_of_runs": ["run", "branch", "epoch", "metric", "value"],
    "status_grid": ["architecture", "column", "below"],
    "ranking": ["run", "branch", "value"],
    "preactivations": ["run", "epoch", "branch", "metric", "value"],
    "output_histograms": ["run", "branch", "epoch", "output", "share"],
    "floor_and_reached": ["run", "branch", "floor", "reached", "mean_frame"],
}


def test_every_figure_of_the_door_takes_tables_of_ones_own():
    no_tables = {"coloured", "drawable", "show", "picture_grid", "state_map"}
    assert {*NEEDED, *LEARNED} == {*figures.__all__} - no_tables


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # seaborn's call
@pytest.mark.parametrize("name", NEEDED)
def test_a_table_of_ones_own_set_beside_ours_is_drawn(of_each, name):
    draw, table, own = of_each[name]
    shown = texts(draw(beside(table, **own)))
    assert all(value in shown for value in own.values())
    only = own_of(table, **own)
    assert all(value in texts(draw(only[NEEDED[name]])) for value in own.values()), "what is needed is enough"


@pytest.mark.parametrize(("name", "column"), [(name, column) for name, columns in NEEDED.items() for column in columns])
def test_a_table_that_lacks_a_column_is_refused_with_its_name(of_each, name, column):
    draw, table, own = of_each[name]
    mine = own_of(table, **own).drop(columns=column)
    with pytest.raises(ValueError, match=rf"^\w+ lacks {column}; the columns needed are .*\b{column}\b"):
        draw(mine)
    if column in ("value", "below", "share", "floor", "reached", "mean_frame"):
        return  # as of a run that diverged
    with pytest.raises(ValueError, match=rf"^test has no frame in any row of|^\w+ has no {column} in {len(mine)} of "):
        draw(pd.concat([table.drop(columns="recipe", errors="ignore"), mine]))


def test_levels_of_ones_own_are_drawn_or_refused(tables):
    curves, levels = tables
    own = own_of(levels[levels.loss == "0nm"], baseline="oracle", value=0.0123)
    both = pd.concat([levels, own])
    figure = figures.learning_curves_of_runs(curves[(curves.loss == "0nm") & (curves.task == "pred")], both)
    assert "oracle" in texts(figure)
    assert horizontals(figure.axes[0]) == [0.0123, 0.0372]
    one = curves[(curves.run == "0nm-pred-zero")].assign(split="val")
    assert "oracle" in texts(figures.learning_curves(one, both.assign(split="val")))
    for column in ("baseline", "branch"):
        less = pd.concat([levels, own.drop(columns=column)])
        with pytest.raises(ValueError, match=rf"^levels has no {column} in 16 of 64 rows"):
            figures.learning_curves_of_runs(curves, less)


def test_what_is_no_table_of_numbers_is_refused(tables):
    curves, _ = tables
    with pytest.raises(ValueError, match="curves must be a pandas DataFrame; not dict"):
        figures.learning_curves_of_runs(curves.to_dict("list"))
    with pytest.raises(ValueError, match=r"curves has in column value what is no number: .*many"):
        figures.learning_curves_of_runs(curves.astype({"value": object}).assign(value="many"))
    with pytest.raises(ValueError, match=r"curves lacks run; it is in the index: use reset_index\(\); the columns"):
        figures.learning_curves_of_runs(curves.set_index("run"))
    with pytest.raises(ValueError, match="made in curves must be then or again; not 'mine'"):
        figures.then_and_again(curves.assign(made="mine"))
    text = figures.learning_curves_of_runs(curves.astype({"value": str}))
    assert len(text.axes) == 2, "numbers as text are numbers"


def test_a_recipe_that_some_rows_lack_is_their_run(tables):
    """Until now all rows without a recipe became one line, without a name."""
    curves, _ = tables
    ours = curves[(curves.loss == "0nm") & (curves.task == "pred")].assign(recipe="ours", seed=6)
    mine = [own_of(ours, run=run, value=value) for run, value in (("first", 0.5), ("second", 0.7))]
    (axis,) = figures.learning_curves_of_runs(pd.concat([ours, *mine]), hue="run").axes
    assert {(0.5, 0.5, 0.5), (0.7, 0.7, 0.7)} < {*drawn(axis)}


def test_a_branch_of_ones_own_has_lines_in_ways(tables):
    curves, levels = tables
    given = curves.assign(branch=curves.branch.replace({"recon": "recon, given truth"}))
    figure = figures.losses_in_ways(given[(given.task == "both") & (given.decoder_input == "zero")], levels)
    assert [axis.get_title("left") for axis in figure.axes] == [
        f"both: {branch}, decoder reads zero" for branch in ("pred", "recon, given truth")
    ]
    assert [len(drawn(axis)) for axis in figure.axes] == [3, 3]


def test_show_frees_the_figure_and_keeps_the_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: shown.append((data, metadata)))
    figure = frames.strip_figure([Strip("truth", np.zeros((1, 2, 4, 4), np.uint8))])
    figures.show(figure, "two black frames")
    ((data, metadata),) = shown
    assert data["text/plain"] == metadata["image/svg+xml"]["alt"] == "two black frames"
    assert metadata["image/svg+xml"]["width"] > metadata["image/svg+xml"]["height"] > 20, "pixels"
    svg = ElementTree.fromstring(data["image/svg+xml"])
    assert svg[0].text == "two black frames"
    assert "prefers-color-scheme:dark" in svg[1].text
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize(("group", "shown"), [("16×16 pixels", False), ("16×16 pixels, 2 epochs", True)])
def test_a_group_is_named_once(group, shown, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda *given, **named: None)
    figure, axes = plt.subplots(1, 2)
    for axis in axes:
        axis.set_title("pred, 16×16 pixels")
    figures.show(figure, "two panels", group)
    assert (figure.get_suptitle() == group) == shown
    strip = frames.strip_figure([Strip("truth", np.zeros((1, 10, 16, 16), np.uint8))])
    figures.show(strip, "a strip", long := "24×40 pixels, clips 5417a79497f9c507, a sequence every 2 frames, 20 epochs")
    assert strip.get_suptitle().replace("\n", " ") == long
    assert "\n" in strip.get_suptitle(), "no wider than the frames, which would no longer fit a phone"


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0, 1), (0.3, 0, 0.6), (-2.0, -4, 0)])
def test_a_constant_has_an_axis_of_its_own_size(value, low, high):
    figure, axis = plt.subplots()
    fit_axis([axis], [value] * 3)
    margin = 0.06 * (high - low)
    assert axis.get_ylim() == pytest.approx((low - margin, high + margin))
    plt.close(figure)


def test_a_level_far_above_all_curves_is_named_at_the_edge_and_does_not_squeeze_them():
    rows = [(epoch, "val", "pred", "mse", value) for epoch, value in enumerate((0.041, 0.037, 0.036), 1)]
    metrics = pd.DataFrame(rows, columns=["epoch", "split", "branch", "metric", "value"])
    values = {"mean_frame": 0.0373, "black": 0.0426, "copy_last": 0.0699}
    levels = pd.DataFrame([("val", "pred", name, "mse", value) for name, value in values.items()])
    levels.columns = ["split", "branch", "baseline", "metric", "value"]
    (axis,) = figures.learning_curves(metrics, levels, {}).axes
    assert axis.get_ylim()[1] < 0.044
    names = [text.get_text() for text in axis.texts]
    assert "copy last, at 0.0699" in names
    assert "black" in names, "near enough"


def test_where_nothing_was_recorded_a_figure_says_so() -> None:
    empty = pd.DataFrame(columns=["run", "epoch", "branch", "metric", "value"])
    (axis,) = figures.preactivations(empty, {}).axes
    assert "no finite value of: pre-activation" in axis.texts[0].get_text()


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # seaborn's call
def test_a_column_without_a_number_keeps_its_place_in_a_grid() -> None:
    table = pd.DataFrame({"architecture": ["a", "a"], "column": ["recon", "pred"], "below": [0.1, float("nan")]})
    axis = figures.status_grid(table).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["recon", "pred"]
    assert [text.get_text() for text in axis.texts] == ["10"]


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # seaborn's call
def test_a_grid_says_how_many_seeds_diverged() -> None:
    seeds = {"architecture": "a", "column": "recon", "below": [0.35, float("nan"), float("nan")], "seed": [6, 7, 8]}
    (text,) = figures.status_grid(pd.DataFrame(seeds)).axes[0].texts
    assert text.get_text() == "35 (n = 1 of 3)"
