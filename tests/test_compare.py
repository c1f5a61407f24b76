"""Comparisons: names, recipes and seeds of runs, findings, and what the index records of each run."""

import re
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from html import escape
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import filelock
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup
from nbconvert.filters.markdown_mistune import MarkdownWithMath
from nbformat.v4 import new_code_cell, new_notebook

from seqae.commands.terminal import status_rows
from seqae.losses import LOSSES
from seqae.parameters import LOSS_FIELDS
from seqae.reports import compare, figures, findings, index
from seqae.reports.findings import comparison_findings, diary_order
from seqae.reports.formulas import FormulaRenderer
from seqae.reports.groups import data_and_budget
from seqae.reports.index import comparison_data, update_index
from seqae.reports.outcomes import budget, one_parameter_findings, which_learn
from seqae.reports.published import diary_results, hour_results, hour_seeds, standing
from seqae.reports.recipes import as_text
from seqae.reports.reproduction import rerun_findings
from seqae.runs import family_defaults, planned_from, records
from seqae.runs.facts import introduction, shared_facts
from seqae.runs.merging import resolve
from seqae.runs.records import run_status
from seqae.runs.run import Run, open_run
from seqae.sweeps.parameter_files import read_yaml

PROJECT = Path(__file__).parents[1]
TINY = {
    "loss": "0nm", "task": "both", "frame_size": 16, "width": 0.01, "epochs": 1, "batch_size": 8,
    "train_sequences": 8, "val_sequences": 8, "test_sequences": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Two runs that differ by seed, and one with another learning rate."""
    store = str(tmp_path_factory.mktemp("store"))
    given = ({"seed": 7}, {"seed": 8}, {"seed": 8, "learning_rate": 0.1})
    return [open_run("losses", TINY, values | {"store": store}).train() for values in given]


def test_a_table_of_a_run_that_has_changed_is_another(tmp_path):
    run = open_run("losses", TINY, {"store": str(tmp_path)}).train()
    before = compare.finals([run])
    before["value"] = 0.0  # a caller's own
    assert compare.finals([run])["value"].gt(0).any()
    test = run.folder / "test.csv"
    test.write_text(test.read_text().replace("recon", "pred"))
    assert set(compare.finals([run]).branch) == {"pred"}
    run.update(verdict="diverged at epoch 1")
    assert compare.finals([run])["value"].isna().all()


def test_runs_that_differ_only_by_seed_are_called_one_and_counted(seeds):
    one, other, fast = compare.recipes(seeds)
    assert one == other
    assert one.endswith(", n = 2 seeds")
    assert "seed7" not in one
    assert "seed8" not in one
    assert "lr0.1" in fast
    assert "n =" not in fast
    assert compare.labels(seeds)[0] != compare.labels(seeds)[1], "in tables each is a run of its own"
    curves = compare.by_epoch(seeds)
    assert dict(curves.groupby("recipe").run.nunique()) == {one: 2, fast: 1}


@pytest.mark.processes
def test_an_edit_that_renames_all_runs_is_named_where_none_of_them_is_finished(seeds, tmp_path, monkeypatch):
    store = str(seeds[0].folder.parents[1])
    with pytest.raises(ValueError, match=r"^no run that these files define is finished \(of 2\), but 3 others are in "):
        compare.comparable_runs("losses", ["one", "two"], store=store)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^no finished run in .*losses: seqae run params/losses first$"):
        compare.comparable_runs("losses", ["one"], store=str(tmp_path / "empty"))

    (tmp_path / "params").mkdir()
    (file := tmp_path / "notebooks" / "losses.ipynb").parent.mkdir()
    cell = new_code_cell("epochs: int = 1", metadata={"tags": ["parameters"]})
    file.write_text(nbformat.writes(new_notebook(cells=[cell])))
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    with pytest.raises(ValueError, match=r"but 3 others are in \S*/losses: seqae run params/losses first$"):
        compare.comparable_runs("losses", ["one"], store=store)
    file.write_text(file.read_text().replace("epochs: int = 1", "epochs: int = 5"))
    told = (
        "losses.ipynb is edited (epochs 5), which makes other runs of the same files: undo that, or seqae run params/"
    )
    with pytest.raises(ValueError, match=re.escape(told)):
        compare.comparable_runs("losses", ["one"], store=store)


def test_runs_of_one_label_are_told_apart_by_their_seed(seeds, tmp_path):
    labelled = [replace(r, parameters=r.parameters.model_copy(update={"label": "it"})) for r in seeds]
    assert compare.labels(labelled[:2]) == [f"it, seed {run.parameters.seed}" for run in seeds[:2]]
    assert compare.labels([labelled[0], seeds[2]])[0] == "it"
    copy = shutil.copytree(seeds[0].folder, tmp_path / "losses" / f"{seeds[0].name}-2")
    again = replace(labelled[0], folder=copy)
    assert compare.labels([labelled[0], again]) == [seeds[0].name, again.name], "of one seed, too"


def test_two_of_one_seed_are_no_two_seeds(seeds, tmp_path):
    again = Run.load(shutil.copytree(seeds[0].folder, tmp_path / "losses" / f"{seeds[0].name}-2"))
    assert "n =" not in "".join(compare.recipes([seeds[0], again]))
    assert compare.recipes([*seeds[:2], again])[0].endswith(", n = 2 seeds")


def test_a_run_that_was_trained_anew_is_not_told_by_what_it_was(seeds, tmp_path):
    """In a kernel that compares again: its runs are equal in folder and parameters to those before."""
    copies = [Run.load(shutil.copytree(run.folder, tmp_path / "losses" / run.name)) for run in seeds[:2]]
    was = copies[1].verdict
    copies[1].update(verdict="diverged at epoch 1")
    assert compare.by_epoch(copies).recipe.iloc[0].endswith(", n = 2 seeds, 1 diverged")
    copies[1].update(verdict=was)
    assert compare.by_epoch(copies).recipe.iloc[0].endswith(", n = 2 seeds")


def test_an_error_without_bound_is_told_in_words(seeds, tmp_path):
    runs = [Run.load(shutil.copytree(run.folder, tmp_path / "losses" / run.name)) for run in seeds[1:]]
    table = runs[0].test().assign(value=float("inf"))
    table.to_csv(runs[0].folder / "test.csv", index=False)
    assert "infinitely far above the mean frame" in comparison_findings(runs)


@pytest.mark.parametrize(
    ("errors", "told"),  # mean frame: 0.04
    [
        ([0.03, 0.01], "25 % to 75 % below the mean frame"),
        ([0.06, 0.05], "25 % to 50 % above the mean frame"),
        ([0.05, 0.03], "25 % above the mean frame to 25 % below it"),
        ([0.04, 0.03], "at the mean frame to 25 % below it"),
        ([0.03, 0.03], "25 % below the mean frame"),
    ],
)
def test_a_range_says_nothing_twice(seeds, tmp_path, errors, told):
    runs = [changed(seeds[0], tmp_path / name, learning_rate=0.1 + i) for i, name in enumerate("ab")]
    for run, error in zip(runs, errors, strict=True):
        on_val(run.folder, error, on_test=error)
        levels = run.baselines()
        levels["value"] = levels["value"].mask(levels.baseline == "mean_frame", 0.04)
        levels.to_csv(run.folder / "baselines.csv", index=False)
    assert f"`0nm`: recon and pred {told}." in comparison_findings(runs)
    only = {"recon": errors[0], "pred": errors[1]}
    runs[0].test().assign(value=lambda t: t.branch.map(only)).to_csv(runs[0].folder / "test.csv", index=False)
    if errors[0] != errors[1]:
        assert " and pred" not in comparison_findings(runs[:1]), "the easier task is not mixed with the other"


def test_a_conclusion_begins_with_which_could_learn_and_which_did(seeds, tmp_path):
    """Mean frame 0.04; two epochs of each run."""
    ends = {"0nm": (0.05, 0.03), "0sb": (0.09, 0.08), "1nm": (0.06, 0.05), "1tm": (0.0502, 0.05)}
    runs = [changed(seeds[0], tmp_path / loss, **resolve_loss(loss)) for loss in ends]
    for run, errors in zip(runs, ends.values(), strict=True):
        of_epoch, levels = run.metrics().query("epoch == 1"), run.baselines()
        both = [of_epoch.assign(epoch=n, value=error) for n, error in enumerate(errors, 1)]
        pd.concat(both).to_csv(run.folder / "metrics.csv", index=False)
        floor = 0.07 if run.parameters.loss == "0sb" else 0.0
        levels["value"] = levels.baseline.map({"mean_frame": 0.04, "floor": floor}).fillna(0.1)
        levels.to_csv(run.folder / "baselines.csv", index=False)
    runs[0].update(verdict="learned (recon 25 %, pred 25 % below mean frame)")
    runs[1].update(
        explained="h through sigmoid only gives values from 0.2689 to 0.7311. 86.4 % of these pixels are black."
    )
    for run in runs[2:]:
        run.update(verdict="worse than the mean frame (recon 25 % above)")
    told = which_learn(runs)
    assert told.startswith(
        "**1 of 4 runs had the prognosis, before training, that it cannot learn (`0sb`: its floor, the least error "
        "that its last layer can put out, is above the mean frame's), and it did not. Of the other 3, trained for "
        "1 update each, 1 learned (`0nm`); 2 could, but did not learn (`1nm`, `1tm`).**\n\n"
        "Of `0sb`: h through sigmoid only gives values from 0.2689 to 0.7311. "
        "`1nm` ended on val 25 % above the mean frame, where its error was still falling: −16.7 % in "
    )
    assert "`1tm` ended on val 25 % above the mean frame, where its error was flat (changed by less than 1 %): " in told
    assert "; between sequences, its outputs have a standard deviation of at most " in told, (
        "the table beside it has the least as well"
    )
    assert told.endswith("from 20 %, it has *learned*.")
    assert which_learn(runs[:1]).startswith(
        "**No run had the prognosis, before training, that it cannot learn. Of 1, trained for "
    )


def test_a_conclusion_by_run_says_how_each_ended_and_where_its_error_was_going(seeds, tmp_path):
    """Mean frame 0.04; two epochs of each run."""
    ends = {"good": (0.05, 0.03), "half": (0.05, 0.03), "short": (0.08, 0.05), "flat": (0.0502, 0.05), "far": (1, 2)}
    runs = [changed(seeds[0], tmp_path / name, label=name) for name in ends]
    for run, errors in zip(runs, ends.values(), strict=True):
        of_epoch, levels = run.metrics().query("epoch == 1"), run.baselines()
        both = [of_epoch.assign(epoch=n, value=error) for n, error in enumerate(errors, 1)]
        pd.concat(both).to_csv(run.folder / "metrics.csv", index=False)
        levels["value"] = levels.baseline.map({"mean_frame": 0.04}).fillna(0.0)
        levels.to_csv(run.folder / "baselines.csv", index=False)
        run.update(verdict="worse than the mean frame (recon 25 % above)")
    runs[0].update(verdict="learned (recon 25 %, pred 25 % below mean frame)")
    runs[1].update(verdict="learned recon, not pred (recon 25 % below, pred 3 % above mean frame)")
    runs[4].update(verdict="diverged at epoch 2")
    told = which_learn(runs, by="run")
    assert (
        "Of 5, trained for 1 update each but for those that diverged, 1 learned (`good`); 1 learned recon, not pred "
        "(`half`); 2 could, but did not learn (`short`, `flat`); 1 diverged (`far`).**" in told
    )
    assert (
        "the loss on val was still falling in the last epoch for `short` (−37.5 %); flat in the last epoch (changed by "
        "less than 1 %) for `flat`." in told
    )
    many = [changed(runs[2], tmp_path / f"more{i}", label=f"more{i}") for i in range(6)]
    assert "6 could, but did not learn.**" in which_learn(many, by="run"), "no list of names that nobody reads"
    longer = changed(runs[0], tmp_path / "longer", train_sequences=80)
    assert ", trained for 1 to 10 updates each, " in which_learn([runs[0], longer], by="run")


def test_what_one_parameter_changes_is_told_of_pairs_that_differ_in_nothing_else(seeds, tmp_path):
    """Mean frame 0.04 on test; each run's error there."""
    given = {
        "zero": (0.03, {"decoder_input": "zero"}),
        "output": (0.02, {"decoder_input": "output"}),
        "<b>": (0.05, {"decoder_input": "zero", "seed": 7, "optimizer": "SGD", "clip_norm": None, "loss": "0nm"}),
    }
    runs = []
    for name, (error, parameters) in given.items():
        loss = resolve_loss(parameters.pop("loss")) if "loss" in parameters else {}
        runs.append(run := changed(seeds[0], tmp_path / name, label=name, **parameters, **loss))
        on_val(run.folder, error, on_test=error)
        levels = run.baselines()
        levels["value"] = levels.baseline.map({"mean_frame": 0.04}).fillna(0.0)
        levels.to_csv(run.folder / "baselines.csv", index=False)
    told = one_parameter_findings(runs)
    pair = "*output* (`output`) recon 50 % below, pred 50 % below; *zero* (`zero`) recon 25 % below, pred 25 % below."
    assert told.splitlines()[2:] == [f"- `decoder_input`: *output* ends lower in 1 of 1 pair. {pair}"]
    assert "one seed each" in told
    asked = one_parameter_findings(runs, {"task": "Why?", "decoder_input": "Does it help?"})
    assert asked.splitlines()[2:] == [f"- Does it help? `decoder_input`: *output* ends lower in 1 of 1 pair. {pair}"]
    assert one_parameter_findings([runs[0], runs[2]]) == "", "they differ in more"
    grey = changed(runs[2], tmp_path / "grey", decoder_input="output", label="grey")
    assert one_parameter_findings([*runs, grey]).endswith(
        "\n- 1 pair more, of which both are above the mean frame: their order says nothing."
    )
    alone = changed(runs[0], tmp_path / "alone", task="pred", label="alone")
    for name in ("test", "baselines"):
        pd.read_csv(file := alone.folder / f"{name}.csv").query("branch == 'pred'").to_csv(file, index=False)
    assert "recon 2" not in one_parameter_findings([runs[0], alone]), "only what both have"
    third = changed(runs[0], tmp_path / "third", decoder_input="truth", label="third")
    assert one_parameter_findings([*runs[:2], third]) == "", "three values are no pair"


def test_which_value_of_a_pair_is_better_is_told_by_prediction_on_val_and_a_tie_is_one(seeds, tmp_path):
    """Mean frame 0.04. Reading its output reconstructs better and predicts worse; with clip 2 all are alike."""
    errors = {("zero", 1.0): (0.03, 0.02), ("output", 1.0): (0.01, 0.05), ("zero", 2.0): (0.03, 0.03),
              ("output", 2.0): (0.03, 0.0301)}  # fmt: skip
    runs = []
    for (way, clip), (recon, pred) in errors.items():
        label = f"{way} {clip:g}"
        runs.append(run := changed(seeds[0], tmp_path / label, label=label, decoder_input=way, clip_norm=clip))
        on_val(run.folder, 0.0)
        for name in ("metrics", "test", "baselines"):
            table = pd.read_csv(file := run.folder / f"{name}.csv")
            own = table.branch.map({"recon": recon, "pred": pred}).fillna(recon + pred)
            known = table.baseline.map({"mean_frame": 0.04}).fillna(0.0) if name == "baselines" else own
            table.assign(value=known).to_csv(file, index=False)
    told = one_parameter_findings(runs[:2])
    assert "`decoder_input`: *zero* ends lower in 1 of 1 pair. *zero* (`zero 1`) recon 25 % below, pred 50 %" in told
    assert "`decoder_input`: both end alike in 1 of 1 pair." in one_parameter_findings(runs[2:])
    assert "`decoder_input`: neither ends lower in most of 2 pairs." in one_parameter_findings(runs)
    for run in runs:  # only a reconstruction, which some are given the truth for
        for name in ("metrics", "test", "baselines"):
            table = pd.read_csv(file := run.folder / f"{name}.csv").query("branch != 'pred'")
            given = "recon, given truth" if run is not runs[3] else "recon"
            table.assign(branch=table.branch.replace("recon", given)).to_csv(file, index=False)
    assert "`decoder_input`: *output* ends lower in 1 of 1 pair." in one_parameter_findings(runs[:2])
    assert "1 pair of 1 cannot be ranked: the truth is given to one of the two." in one_parameter_findings(runs[2:])


def test_a_recipe_without_seeds_beside_one_with_some_may_end_lower_by_chance(seeds, tmp_path):
    runs = [changed(seeds[0], tmp_path / way, label=way, decoder_input=way) for way in ("zero", "output")]
    for run, error in zip(runs, (0.03, 0.02), strict=True):
        on_val(run.folder, error, on_test=error)
        levels = run.baselines()
        levels["value"] = levels.baseline.map({"mean_frame": 0.04}).fillna(0.0)
        levels.to_csv(run.folder / "baselines.csv", index=False)
    more = changed(runs[0], tmp_path / "seed", seed=9)
    assert "; recipes without n have one seed, so small ones may be" in one_parameter_findings([*runs, more])


@pytest.mark.parametrize("diverged", [1, 2])
def test_a_pair_of_which_one_diverged_has_no_winner(seeds, tmp_path, diverged):
    """Mean frame 0.04."""
    given = [{"decoder_input": way, "clip_norm": clip} for clip in (1.0, 2.0) for way in ("zero", "output")]
    runs = [changed(seeds[0], tmp_path / str(n), label=str(n), **values) for n, values in enumerate(given)]
    for run, error in zip(runs, (0.03, 0.02, 0.03, 0.02), strict=True):
        on_val(run.folder, error, on_test=error)
        levels = run.baselines()
        levels["value"] = levels.baseline.map({"mean_frame": 0.04}).fillna(0.0)
        levels.to_csv(run.folder / "baselines.csv", index=False)
    for run in runs[-diverged:]:
        run.update(verdict="diverged at epoch 1")
    told = one_parameter_findings(runs)
    assert "`decoder_input`: *output* ends lower in 1 of 1 pair." in told
    assert told.endswith(f"\n- {diverged + 1} pairs more, of which one or both diverged: nothing to compare.")


def test_the_updates_of_what_diverged_are_not_told_as_those_of_the_others(seeds, tmp_path):
    lost = changed(seeds[0], tmp_path / "lost", learning_rate=9)
    lost.update(verdict="diverged at epoch 1")
    assert budget([seeds[0]]) == ", trained for 1 update each"
    assert budget([seeds[0], lost]) == ", trained for 1 update each but for those that diverged"
    assert budget([lost]) == ""


def test_a_run_that_could_and_did_not_learn_has_the_name_that_it_has_elsewhere(seeds, tmp_path):
    rates = {0.1: "learned (recon 25 %, pred 25 % below mean frame)"} | dict.fromkeys((0.2, 0.3), "worse than")
    runs = [changed(seeds[0], tmp_path / str(rate), learning_rate=rate) for rate in rates]
    for run, verdict in zip(runs, rates.values(), strict=True):
        run.update(verdict=verdict)
        pd.concat([run.metrics(), run.metrics().assign(epoch=2)]).to_csv(run.folder / "metrics.csv", index=False)
    names = compare.labels(runs)
    assert compare.labels(runs[1:]) != names[1:], "alone, they would be called otherwise"
    assert which_learn(runs, by="run").count(f"`{names[1]}`, `{names[2]}`") == 2


def test_recipes_that_diverged_are_counted_once_each(seeds, tmp_path):
    runs = [changed(seeds[0], tmp_path / name, label=name, learning_rate=n) for n, name in enumerate("abc", 1)]
    assert "diverged" not in comparison_findings(runs)
    runs[0].update(verdict="diverged at epoch 1")
    assert ", 1 recipe diverged." in comparison_findings(runs), "not a row for each of its branches"
    pred = changed(runs[1], tmp_path / "pred", task="pred", label="pred")
    for name in ("test", "baselines", "metrics"):
        pd.read_csv(file := pred.folder / f"{name}.csv").query("branch != 'recon'").to_csv(file, index=False)
    (told,) = (line for line in comparison_findings([runs[0], pred]).splitlines() if line.startswith("- `"))
    assert "recon no number, because it diverged" in told
    assert told.count("diverged") == 1, "said once"


def test_every_row_is_that_of_its_run_whatever_version_wrote_it(seeds, tmp_path):
    older = Run.load(shutil.copytree(seeds[1].folder, tmp_path / "losses" / seeds[1].name))
    older.test().drop(columns="unit").to_csv(older.folder / "test.csv", index=False)
    runs = [seeds[0], older, seeds[2]]
    finals, steps = compare.finals(runs), compare.frame_steps(runs)
    assert list(finals.run.unique()) == list(steps.run.unique()) == compare.labels(runs)
    assert finals.groupby("run", sort=False).unit.count().gt(0).tolist() == [True, False, True]
    for run, label in zip(runs, compare.labels(runs), strict=True):
        told = pd.concat([finals[finals.run == label], steps[steps.run == label].sort_values("frame", kind="stable")])
        recorded = run.test().sort_values("frame", na_position="first", kind="stable")
        assert told[["branch", "metric", "value"]].to_numpy().tolist() == (
            recorded[["branch", "metric", "value"]].to_numpy().tolist()
        )
        assert {*told.seed} == {run.parameters.seed}
        assert {*told.verdict.dropna()} == {run.verdict}


def test_a_group_that_is_alone_needs_no_title():
    assert compare.titled({"16×16 pixels": []}) == [("", [])]
    two = {"16×16 pixels": [], "64×64 pixels": []}
    assert compare.titled(two) == [*two.items()]


def test_the_index_knows_the_error_by_frame_step_beside_the_mean_frame(seeds):
    known = [comparison_data(run) for run in seeds]
    assert index.setting(seeds[0]) == index.setting(seeds[1]) != index.setting(seeds[2])
    assert len({run["sequences"] for run in known}) == 1
    test, levels = seeds[0].test(), seeds[0].baselines()
    for branch in ("recon", "pred"):
        steps = test[(test.branch == branch) & (test.metric == "mse") & test.frame.notna()].value
        assert known[0]["steps"][branch] == pytest.approx(list(steps), rel=1e-3)
        mean = levels.query(
            f"branch == '{branch}' and split == 'test' and metric == 'mse' and baseline == 'mean_frame'"
        )
        assert known[0]["mean_frame"][branch] == pytest.approx(mean.value.item())


def test_the_index_tells_a_reconstruction_that_was_given_the_truth_from_others(seeds, tmp_path):
    known = comparison_data(changed(seeds[0], tmp_path / "given", recon_truth=True, decoder_input="truth"))
    assert [*known["steps"]] == [*known["mean_frame"]] == ["recon, given truth", "pred"]


def test_what_is_left_out_is_named(seeds, monkeypatch):
    assert "left out" not in compare.describe(seeds)
    told = compare.describe(seeds[:1])
    assert all(f"[{run.name}]({run.name}/report.html)" in told for run in seeds[1:])
    assert f"{len(seeds) - 1} finished runs of the family left out:" in told
    assert seeds[0].name not in told
    monkeypatch.setattr("seqae.reports.recipes.LEFT_OUT", 1)
    told = compare.describe(seeds[:1])
    assert "and 1 other, in the [list of all runs](../index.html#family=losses)." in told


def test_a_width_is_told_of_the_runs_that_have_one(seeds):
    assert ", width 0.01 of the full sizes, " in compare.describe(seeds)
    own = replace(seeds[0], parameters=seeds[0].parameters.model_copy(update={"architecture": "mine:GRU"}))
    assert "width" not in compare.describe([own])
    assert ", width 0.01 of the full sizes, " in compare.describe([own, seeds[1]])


def test_two_versions_of_an_edited_model_are_told_apart_by_the_time_of_their_code(seeds, tmp_path):
    runs = []
    for seed, code, time in ((7, "a" * 12, "10:15"), (7, "b" * 12, "11:30"), (8, "b" * 12, "11:45")):
        values = {"architecture": "mine:GRU", "label": "GRU", "code": code, "seed": seed}
        run = changed(seeds[0], tmp_path / "own" / f"mine_gru-{code[:8]}-{seed}", **values)
        record = run.record() | {"started": f"2026-11-29T{time}:07+00:00"}
        (run.folder / "run.yaml").write_text(yaml.safe_dump(record))
        runs.append(run)
    assert compare.by_epoch(runs).run.unique().tolist() == [
        "GRU, seed 7, code of 2026-11-29 10:15",
        "GRU, seed 7, code of 2026-11-29 11:30",
        "GRU, seed 8, code of 2026-11-29 11:30",
    ]
    assert compare.by_epoch(runs).recipe.unique().tolist() == [
        "GRU, code of 2026-11-29 10:15",
        "GRU, code of 2026-11-29 11:30, n = 2 seeds",
    ]
    update_index(tmp_path)
    told = (tmp_path / "index.html").read_text()
    assert "code=mine.py of 2026-11-29 10:15" in told
    assert "code=mine.py of 2026-11-29 11:30" in told


def test_runs_of_one_file_are_called_by_its_label_and_what_differs(seeds, tmp_path):
    def run(name, **values):
        own = {"architecture": "mine:Conv", "label": "my 3D convolutions", "code": "a" * 12, "seed": 7}
        copy = changed(seeds[0], tmp_path / "own" / name, **own | values)
        record = copy.record() | {"started": f"2026-11-29T10:1{len(name)}:07+00:00"}
        (copy.folder / "run.yaml").write_text(yaml.safe_dump(record))
        return copy

    runs = [run("a"), run("bb", learning_rate=0.004), run("ccc", architecture_arguments={"channels": 8})]
    rate = f"{runs[0].parameters.learning_rate:g}"
    assert compare.labels(runs) == [
        f"my 3D convolutions, learning rate {rate}",
        "my 3D convolutions, learning rate 0.004",
        f"my 3D convolutions, learning rate {rate}, channels 8",
    ]
    assert compare.labels(runs[::2]) == ["my 3D convolutions", "my 3D convolutions, channels 8"]
    faster = run("dddd", learning_rate=0.004, seed=8)
    assert compare.recipes([*runs[:2], faster])[1:] == ["my 3D convolutions, learning rate 0.004, n = 2 seeds"] * 2
    again, edited = run("eeeee"), run("ffffff", code="b" * 12)
    assert compare.labels([runs[0], edited]) == [f"my 3D convolutions, code of 2026-11-29 10:1{n}" for n in (1, 6)]
    assert compare.labels([runs[2], edited]) == [
        "my 3D convolutions, channels 8, code of 2026-11-29 10:13",
        "my 3D convolutions, code of 2026-11-29 10:16",
    ], "the values are not all that differs"
    assert compare.labels([runs[0], again]) == ["a", "eeeee"], "the same code, trained anew"
    other = run("ggggggg", code="c" * 12, training_loss="mine:focal", activation="sigmoid", label="focal")
    assert compare.labels([runs[0], other]) == ["my 3D convolutions", "focal"], "the loss has code, too"
    assert compare.labels([runs[0], edited, other])[2] == "focal, code of 2026-11-29 10:17", "before the edit or after?"


def test_a_label_stands_in_the_index_where_the_filter_finds_it(seeds, tmp_path):
    for seed in (7, 8):
        changed(seeds[0], tmp_path / "own" / f"conv-{seed}", label="my 3D convolutions", seed=seed)
    changed(seeds[2], tmp_path / "own" / "plain")
    update_index(tmp_path)
    page = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser")
    lines = [row.th.p.get_text() for row in page.select(".setting")]
    lines += [told.get_text() for told in page.select(".setting th p:last-child, .seed th p")]
    assert [told.startswith("label=my 3D convolutions") for told in lines] == [False, True, True, True]
    assert page.get_text().count("label=") == 3, "another has none"


def test_the_best_run_by_a_metric_of_ones_own_is_concluded(seeds, tmp_path):
    runs = [changed(run, tmp_path / "own" / run.name, label=name) for run, name in zip(seeds[1:], "ab", strict=True)]
    for run, value in zip(runs, (0.1, 0.3), strict=True):
        of = {"iou": {"unit": "share of their union", "more_is_better": True}}
        (run.folder / "run.yaml").write_text(yaml.safe_dump(run.record() | {"code": {"metrics": of}}))
        for file, name in (
            (f"1,1,0.1,val,pred,iou,{value}", "metrics"),
            (f'pred,,iou,{value},"share of their union",8', "test"),
        ):
            with (run.folder / f"{name}.csv").open("a") as table:
                table.write(f"{file}\n")
    told = comparison_findings(runs, by="run")
    link = f"[b]({runs[1].name}/run.yaml)"
    best = f"- Best pred on val by `iou` (share of their union, more is better): **{link}**, 0.3000 there"
    assert f"{best}, on test 0.3000." in told.splitlines()
    assert "by `iou`" not in comparison_findings([runs[0], seeds[2]], by="run"), "only one of two was measured with it"
    assert "by `iou`" in comparison_findings(runs[:1], by="run")
    told = comparison_findings([*runs, changed(seeds[0], tmp_path / "own" / "c", learning_rate=0.2)], by="run")
    assert f"more is better; 2 of 3 recipes have it): **{link}**" in told, "best of those alone that have it"


def changed(run, folder, **values):
    """A copy of a run with other parameters, whose val and test errors are as they were."""
    record = run.record()
    record["parameters"] = resolve(record["parameters"], values).model_dump(mode="json")
    copy = shutil.copytree(run.folder, folder)
    (copy / "run.yaml").write_text(yaml.safe_dump(record))
    return Run.load(copy)


OTHER = {
    "frame_size": 32, "frames_in": 9, "frames_out": 9, "digits": "mnist", "data_seed": 2, "epochs": 30,
    "train_sequences": 9, "endless": True, "val_sequences": 9, "test_sequences": 9, "test_data": "official",
    "digits_per_sequence": 1, "digit_speed": 0.05,
}  # fmt: skip


@pytest.mark.parametrize("name", list(OTHER))
def test_runs_of_other_sequences_or_another_budget_are_not_compared_and_are_named(seeds, tmp_path, name):
    family = tmp_path / "losses"
    runs = [changed(run, family / run.name) for run in seeds]
    other = changed(seeds[0], family / "other", **{name: OTHER[name]})
    assert [run.name for run in compare.comparable_runs("losses", store=str(tmp_path))] == [r.name for r in runs]
    told = compare.describe(compare.comparable_runs("losses", store=str(tmp_path)))
    assert "1 finished run of the family left out: [other](other/report.html)." in told
    assert compare.comparable_runs("losses", ["other", runs[0].name], store=str(tmp_path))[1:] == []
    mixed = compare.comparable_runs("losses", store=str(tmp_path), mixed=True)
    assert len(mixed) == 4
    (first, same), (second, apart) = compare.groups(mixed).items()
    assert [run.name for run in same] == [run.name for run in runs]
    assert apart == [other]
    assert first != second
    told = compare.describe(mixed)
    assert "**4 runs** of 2 groups" in told
    assert all(data_and_budget(run.parameters) in told for run in mixed)
    assert "left out" not in told
    assert f"left out: [{runs[2].name}](" in compare.describe([*runs[:2], other])
    with pytest.raises(ValueError, match=r"runs of different data or budget .*: show each group apart"):
        compare.gallery(mixed, "pred")
    assert len(compare.gallery(same, "pred")) == 4
    assert comparison_data(other)["sequences"] != comparison_data(runs[0])["sequences"]
    lines = comparison_findings(mixed, by="run").splitlines()
    heads = [
        n for n, line in enumerate(lines) if line.startswith((f"- {first}, trained for ", f"- {second}, trained for "))
    ]
    for of_group in (lines[heads[0] + 1 : heads[1]], lines[heads[1] + 1 :]):  # a list in the list
        assert sum(line.startswith("    - Best ") for line in of_group) == 2, "of each group, its own"
    assert " settings, `" in comparison_findings(runs, runs[2:])
    assert " settings, `" not in comparison_findings(mixed, runs[2:]), "it would stand beside another budget"
    rows = compare.summary(mixed)
    assert rows.group.to_list() == [first] * 6 + [second] * 2


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # seaborn's call
@pytest.mark.parametrize("family", ["models", "versions", "paper", "own"])
def test_a_family_that_mixes_sizes_shows_every_group_apart_and_leaves_none_out(seeds, tmp_path, monkeypatch, family):
    """The cells of its comparison, executed."""
    for name, size in (("small", 16), ("large", 64), ("another", 64)):
        p = {"frame_size": size, "loss": "0sb", "seed": 1 if name == "another" else 6}
        file = changed(seeds[0], tmp_path / family / name, **p).folder / "run.yaml"
        file.write_text(file.read_text().replace("family: losses", f"family: {family}"))
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path))
    titles, of_figures = [], []
    monkeypatch.setattr(figures, "show", lambda figure, alt, title="": plt.close(figure) or titles.append(title))

    def drawn(draw, table, *others, **options):
        of_figures.append({*table.group.dropna()})
        return draw(table, *others, **options)

    for name in ("learning_curves_of_runs", "error_by_frame", "ranking", "status_grid"):
        monkeypatch.setattr(figures, name, partial(drawn, getattr(figures, name)))
    scope = {}
    for cell in nbformat.read(PROJECT / f"notebooks/compare/{family}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, scope)
    assert len(scope["chosen"]) == 3
    assert "left out" not in compare.describe(scope["chosen"])
    of_groups = {title.removeprefix("recon, ").removeprefix("pred, ") for title in titles}  # of what they put out
    assert of_groups == {*compare.groups(scope["chosen"])}
    assert len(of_groups) == 2
    assert all(len(of) == 1 for of in of_figures)


def test_a_run_that_predicts_nothing_is_beside_those_that_predict_any_number_of_frames(seeds, tmp_path):
    recon = [changed(seeds[0], tmp_path / f"r{n}", task="recon", frames_out=10) for n in range(2)]
    pred = [changed(seeds[0], tmp_path / f"p{n}", task="pred", frames_out=4) for n in range(3)]
    far = changed(seeds[0], tmp_path / "far", task="pred", frames_out=7)
    (first, same), (second, apart) = compare.groups([*recon, far, *pred]).items()
    assert ([run.name for run in same], [run.name for run in apart]) == (["r0", "r1", "p0", "p1", "p2"], ["far"])
    assert (first.endswith("4 to come"), second.endswith("7 to come")) == (True, True)
    assert len(compare.groups(recon)) == 1


def test_a_run_whose_tables_are_missing_is_named_and_left_out(seeds, tmp_path):
    family = tmp_path / "losses"
    runs = [changed(run, family / run.name) for run in seeds]
    (runs[0].folder / "baselines.csv").unlink()
    with pytest.warns(UserWarning, match="baselines.csv missing"):
        assert [r.name for r in compare.comparable_runs("losses", store=str(tmp_path))] == [r.name for r in runs[1:]]


def test_a_grid_holds_runs_that_differ_by_nothing_but_the_grid(seeds, tmp_path):
    one = [changed(seeds[0], tmp_path / f"run-{loss}", **resolve_loss(loss)) for loss in ("0nm", "1nm")]
    fast = changed(seeds[0], tmp_path / "fast", learning_rate=0.1)
    again = changed(seeds[0], tmp_path / "seed", seed=9, label="again", device="cuda")
    assert compare.alike([*one, fast, again], "loss") == [*one, again]
    assert compare.alike([fast], "loss") == [fast]


def resolve_loss(name):
    return {field: getattr(resolve({"loss": name}), field) for field in LOSS_FIELDS}


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # seaborn's call
def test_one_rule_for_several_seeds_each_counts_once_whoever_sums_them_up(seeds, tmp_path):
    runs = [changed(seeds[0], tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 2), ("b-2", 2))]
    for run, error in zip(runs, (0.02, 0.06, 0.06), strict=True):
        on_val(run.folder, error, on_test=error)
    recipe = compare.recipes(runs)[0]
    assert recipe.endswith(", n = 2 seeds")
    below = compare.in_cells(runs, ["architecture"], ["task"])
    mean = 1 - 0.04 / below.mean_frame
    for column, part in compare.over_seeds(below, ["column"], "below").groupby("column"):
        assert part.below.item() == pytest.approx(mean[below.column == column].mean()), "not the best, not of three"
        assert part.n.item() == 2
    axis = figures.status_grid(below, rows="row").axes[0]
    assert [text.get_text() for text in axis.texts] == [
        f"{100 * share:.0f} (n = 2)" for share in mean.groupby(below.column).mean()[["both, recon", "both, pred"]]
    ]
    curves = compare.by_epoch(runs)
    lines = figures.learning_curves_of_runs(curves[curves.metric == "mse"], hue="run").axes[0].lines
    assert [list(line.get_ydata()) for line in lines if len(line.get_ydata())] == [pytest.approx([0.04])]
    (axis,) = figures.ranking(compare.finals(runs).query("metric == 'mse'"), unit="MSE").axes
    assert [bar.get_width() for bar in axis.patches if bar.get_width()] == pytest.approx([0.04, 0.04])
    assert [text.get_text() for text in axis.get_yticklabels()] == [recipe]
    assert comparison_findings(runs, by="run").count(f"**[{recipe}](") == 2
    ours = compare.below_mean_frame(runs).assign(architecture="lstm_copy", gain=1.0)
    assert compare.over_seeds(ours, ["task", "branch", "loss"], "val").val.to_list() == pytest.approx([0.04, 0.04])


def test_a_ranking_is_by_the_mean_over_seeds_and_not_by_one_of_them(seeds, tmp_path):
    given = (("a", 1, 0.1, 0.01), ("a", 2, 0.1, 0.09), ("a", 2, 0.1, 0.09), ("b", 1, 0.2, 0.04), ("b", 2, 0.2, 0.04))
    runs = [changed(seeds[0], tmp_path / f"{n}", label=name, seed=seed, learning_rate=rate)
            for n, (name, seed, rate, _) in enumerate(given)]  # fmt: skip
    for run, (*_, error) in zip(runs, given, strict=True):
        on_val(run.folder, error, on_test=error)
    (axis,) = figures.ranking(compare.finals(runs).query("metric == 'mse'"), unit="MSE").axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["b, n = 2 seeds", "a, n = 2 seeds"]
    assert [bar.get_width() for bar in axis.patches if bar.get_width()] == pytest.approx([0.04, 0.05] * 2)
    told = comparison_findings(runs, by="run").splitlines()
    assert sum("**[b, n = 2 seeds](" in line for line in told) == 2
    assert compare.evenly(runs, most=1) == runs[3:]


def test_a_second_recipe_gets_a_row_of_its_own_in_a_grid(seeds, tmp_path):
    runs = [changed(seeds[0], tmp_path / "one"), changed(seeds[0], tmp_path / "seed", seed=9)]
    pred = changed(seeds[0], tmp_path / "pred", task="pred")
    fast = changed(seeds[0], tmp_path / "fast", learning_rate=0.1)
    assert compare.cells([*runs, pred], ["architecture"], ["task"]) == ["lstm_copy"] * 3
    names = compare.cells([*runs, pred, fast], ["architecture"], ["task"])
    assert names == ["lstm_copy"] * 3 + ["lstm_copy: lr0.1"]
    own = [*runs, pred, changed(seeds[0], tmp_path / "loss", activation="tanh", pixel_range=(-1, 1))]
    assert len(set(compare.cells(own, ["architecture"], ["task"]))) == 2
    assert compare.cells(own, ["architecture", "loss"], ["task"]) == ["lstm_copy 0nm"] * 3 + ["lstm_copy 1tm"]


def test_what_is_chosen_or_ordered_is_so_by_val_with_test_beside_it(seeds, tmp_path):
    """Three runs in the order of val: on test the order is the reverse."""
    family = tmp_path / "losses"
    runs = [changed(seeds[0], family / name, learning_rate=0.1 + i) for i, name in enumerate("abc")]
    for i, run in enumerate(runs):
        on_val(run.folder, 0.01 * (1 + i), on_test=0.03 - 0.01 * i)
    names = compare.labels(runs)
    rows = compare.summary(runs)
    assert rows.run.to_list() == [name for name in names for _ in ("recon", "pred")]
    assert rows["val mse"].to_list() == pytest.approx([0.01, 0.01, 0.02, 0.02, 0.03, 0.03])
    assert rows.iloc[:, 3].to_list() == pytest.approx([0.03, 0.03, 0.02, 0.02, 0.01, 0.01]), "test stands beside"
    told = comparison_findings(runs, by="run")
    assert told.count(f" on val: **[{names[0]}](") == 2
    assert [line.split("`")[1] for line in told.splitlines() if line.startswith("- `")] == names
    assert [run.name for run in compare.evenly(runs, most=2)] == ["a", "c"]
    assert [run.name for run in compare.evenly(runs, most=1)] == ["a"]
    (axis,) = figures.ranking(compare.finals(runs).query("metric == 'mse'"), unit="MSE").axes
    assert [text.get_text() for text in axis.get_yticklabels()] == names
    (axis,) = figures.floor_and_reached(compare.below_mean_frame(runs)).axes
    bars = [text.get_text().rpartition(", ")[0] for text in axis.get_yticklabels()]
    assert bars == [name for name in reversed(names) for _ in ("recon", "pred")]
    fixes = comparison_findings(runs[:1], fixes=runs)
    assert [line.split("`")[1] for line in fixes.splitlines() if " settings, `" in line] == [
        name for name in names for _ in ("recon", "pred")
    ]
    update_index(tmp_path)
    page = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser")
    heads = {head.get_text(strip=True): head.get("title") for head in page.select("thead th")}
    assert heads["recon val mse"].endswith(", on val")
    assert heads["recon mse"].endswith(", on test")
    assert [cell.get_text() for cell in page.select('td[data-label="pred val mse"]')] == [
        "0.01000",
        "0.02000",
        "0.03000",
    ]


@pytest.fixture(scope="module")
def written():
    """docs/results.py, which writes the published tables."""
    spec = spec_from_file_location("results", PROJECT / "docs/results.py")
    spec.loader.exec_module(module := module_from_spec(spec))
    return module


def test_the_published_tables_are_in_the_order_of_val(seeds, tmp_path, written):
    runs = [changed(seeds[0], tmp_path / str(i), label=name, seed=seed, learning_rate=rate)
            for i, (name, seed, rate) in enumerate([("worse", 6, 1), ("better", 6, 2), ("the recipe", 6, 3),
                                                    ("the recipe", 7, 3), ("the recipe", 7, 3)])]  # fmt: skip
    for run, val, test in zip(runs, (0.5, 0.4, 0.1, 0.2, 0.2), (0.1, 0.2, 0.3, 0.5, 0.5), strict=True):
        on_val(run.folder, val, on_test=test)
        for file in (run.folder / "metrics.csv", run.folder / "test.csv"):
            mse = (table := pd.read_csv(file))[table.metric == "mse"]
            pd.concat([table, mse.assign(metric="bce")]).to_csv(file, index=False)
    _, _, *rows, _, told = written.side_by_side(runs).splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["the recipe, n = 2 seeds", "better", "worse"]
    assert rows[1].endswith("| 0.2000 |")
    assert "0.4000" in rows[0], "each seed counts once"
    assert "8 of val and 8 of test of their own" in told


def test_what_the_hour_reached_is_the_same_in_readme_and_in_reports(written):
    readme, hour = (PROJECT / "README.md").read_text(), hour_results().set_index(["model", "branch"])
    for recipe in hour_seeds().recipe.unique():
        name = re.escape(f"**{written.ROWS[recipe]}**")
        (row,) = re.findall(rf"^\| {name} \| (.*) \|$", readme, re.MULTILINE)
        for cell, (branch, metric) in zip(row.split(" | "), written.COLUMNS, strict=True):
            of = (f"{recipe}, scale cpu", branch)
            known = f"{hour.loc[of, metric]:.{written.DIGITS[metric]}f}" if of in hour.index else "–"
            assert cell.split()[0] == known
    assert written.protocols(hour_seeds(), []) in readme


def test_seeds_of_the_hour_are_kept_from_one_machine_to_the_next(seeds, written):
    def labelled(label, runs):
        return [replace(r, parameters=r.parameters.model_copy(update={"label": label})) for r in runs]

    nothing, seeds = hour_seeds()[:0], labelled("the recipe", seeds)
    first = written.with_these(nothing, seeds[:1])
    both = written.with_these(first, seeds[1:2])
    assert both.equals(written.with_these(nothing, seeds[:2])), "a seed of its own store, or all of one"
    assert both.equals(written.with_these(both, seeds[:2])), "once each"
    assert list(both.columns) == list(nothing.columns)
    assert both.branch.to_list() == ["recon"] * 2 + ["pred"] * 2
    tests = pd.concat([run.test() for run in seeds[:2]]).query("frame.isna() and metric == 'mse'")
    assert sorted(both.mse) == pytest.approx(sorted(tests.value), abs=1e-6)
    assert both.sequences.unique() == [seeds[0].parameters.epochs * seeds[0].parameters.train_sequences]
    shorter = both.assign(sequences=both.sequences - 1)
    assert written.with_these(shorter, seeds[:1]).equals(first), "budgets are not mixed"
    alone = written.with_these(both, labelled("prediction alone", seeds[:1]))
    assert alone[alone.recipe == "the recipe"].equals(both), "a recipe does not replace another"
    assert len(alone) == len(first) + len(both)
    alone = alone[(alone.recipe == "the recipe") | (alone.branch == "pred")]
    lines = written.table(alone, seeds[0], seeds[0].baselines()).splitlines()
    assert sum(line.startswith("| **seqae") for line in lines[2:4]) == 2
    (line,) = (line for line in lines if line.startswith("| **seqae, prediction alone** | – | – | – | "))
    assert f"{alone[alone.recipe == 'prediction alone'].mse.item():.4f}" in line
    assert written.protocols(both, []) == written.protocol(both, lost=0)
    assert written.protocols(alone, []).count("seqae, prediction alone: ") == 1
    table = written.table(both, seeds[0], seeds[0].baselines())
    assert table.count("**seqae**") == 1
    assert "scale cpu" not in table, "README has the runs' own row alone"
    mean = both[both.branch == "pred"].mse.mean()
    assert f"{mean:.4f} ± " in table
    assert "2 seeds, mean ± standard deviation" in written.protocol(both, lost=0)
    assert "since 1 diverged" in written.protocol(first, lost=1)


def test_what_chooses_has_sequences_of_its_own(seeds, tmp_path, written):
    defaults = family_defaults(PROJECT / "notebooks/best.ipynb")
    final, *choosing = (
        resolve(defaults, read_yaml(PROJECT / f"params/best/scale/{name}.yaml"))
        for name in ("cpu", "ablation", "search")
    )
    assert final.data_seed == 1, "the published figures are of these"
    assert all(p.data_seed != final.data_seed for p in choosing)
    runs = []
    for p in (final, *choosing):
        record = seeds[0].record() | {"parameters": p.model_dump(mode="json")}
        runs.append(replace(seeds[0], parameters=resolve(record["parameters"])))
    for run, name in zip(runs, ("cpu", "ablation", "search"), strict=True):
        assert written.of_scale(runs, name) == [run]
    longer = replace(runs[0], parameters=runs[0].parameters.model_copy(update={"val_sequences": 7}))
    assert written.of_scale([longer], "cpu") == []


def as_shown(told):
    """What a page makes of Markdown."""
    return MarkdownWithMath(renderer=FormulaRenderer(escape=False, exclude_anchor_links=True)).render(told)


def test_a_conclusion_shows_names_as_text(seeds):
    called = [f"<script>{i}</script>" for i in range(len(seeds))]
    runs = [
        replace(r, parameters=r.parameters.model_copy(update={"label": n})) for r, n in zip(seeds, called, strict=True)
    ]
    for told in (comparison_findings(runs, by="run"), comparison_findings(runs, runs), which_learn(runs, by="run")):
        shown = as_shown(told)
        assert "<script>" not in shown
        assert escape("<script>") in shown
        assert escape(escape("<script>")) not in shown
    html = compare.table(runs).to_html()
    assert "<script>" not in html
    assert escape("<script>0</script>") in html


@pytest.mark.parametrize("name", ["GRU & LSTM", "a`<b>", "`<b>", "<b>``", "a\n\n<b>", "``` <b> `"])
def test_a_name_is_shown_as_it_is_whatever_is_in_it(name):
    told = f"- {compare.in_code(name)} and [{as_text(name)}](x), `<b>`"
    shown = BeautifulSoup(as_shown(told), "html.parser")
    assert [code.get_text() for code in shown.select("code")] == [" ".join(name.split()), "<b>"]
    assert shown.a.get_text().split() == name.split()
    assert not shown.select("b")


def test_the_unit_of_a_metric_of_ones_own_is_a_text_in_the_head_of_a_table(seeds, tmp_path):
    run = changed(seeds[0], tmp_path / "own")
    (run.folder / "run.yaml").write_text(yaml.safe_dump(run.record() | {"code": {"metrics": {"x": {"unit": "<b>"}}}}))
    with (run.folder / "test.csv").open("a") as table:
        table.write("pred,,x,0.5,<b>,8\n")
    html = compare.table([run]).to_html()
    assert "<b>" not in html
    assert escape("<b>") in html


def test_heads_of_a_table_stand_over_their_texts_and_the_run_is_first(seeds):
    table = compare.table(seeds)
    assert next(iter(table.data)) == "run"
    for n, name in enumerate(table.data):
        both = re.search(rf"\.col{n} {{\s*text-align: left", table.to_html())  # a head's class as well as a cell's
        assert bool(both) == (name in compare.TEXT_COLUMNS), name


def test_a_comparison_links_every_run_that_it_names(seeds):
    html = compare.table(seeds).to_html()
    for run, name in zip(seeds, compare.labels(seeds), strict=True):
        assert f'<a href="{run.name}/run.yaml">{escape(name)}</a>' in html, "it has no report"
    linked = re.findall(r"\]\(([^)]+)\)", comparison_findings(seeds))
    assert len(linked) == 2, "the best of both branches"
    assert {*linked} <= {f"{run.name}/run.yaml" for run in seeds}


def test_what_is_compared_is_said_in_words(seeds):
    p = seeds[0].parameters
    assert ", the same sequences every epoch, " in data_and_budget(p)
    assert ", new sequences every epoch, " in data_and_budget(p.model_copy(update={"endless": True}))
    assert "The figures are rough: val has only " in compare.describe(seeds)


def test_the_head_of_a_comparison_says_what_its_runs_are_and_share(seeds, tmp_path):
    both = changed(seeds[0], tmp_path / "recon", task="recon")
    assert "scale" not in dict(shared_facts([*seeds, both])) | dict(both.facts())
    both.update(planned_from=planned_from("params/losses/0nm.yaml", "quick", {"seed": 7}))
    facts = dict(both.facts())
    assert facts["scale"] == "quick: for minutes on 2 CPU cores"
    again = "`seqae run params/losses/0nm.yaml --scale quick -p seed=7`, in a clone of "
    assert facts["to make it again"].startswith(again)
    assert facts["with this page's folder"].startswith("`seqae rerun FOLDER` in such a clone")
    facts = dict(shared_facts([*seeds, both]))
    assert facts["scale"].startswith("quick: ")
    assert (facts["seeds"], facts["made with code"]) == ("7 or 8", seeds[0].facts()[-3][1])
    assert dict(seeds[0].facts())["to make it again"].startswith("the notebook losses.ipynb with the parameters of")
    assert facts["loss"] == "0nm: pixels in (0, 1), no activation, mse"
    assert facts["training"].endswith("learning rate 0.1"), "two rates, of one optimizer"
    assert facts["training"].count(" or ") == 1
    assert dict(shared_facts(seeds[:1]))["seed"].startswith("7 (one seed"), "seeds 7 would read as seven of them"
    five = [changed(seeds[0], tmp_path / "five" / name, **resolve_loss(name)) for name in LOSSES]
    assert dict(shared_facts(five))["loss"].split("; ")[1:3] == [
        "1nm: pixels in (-1, 1), no activation, mse", "0sb: pixels in (0, 1), sigmoid, bce",
    ]  # fmt: skip
    told = introduction(*(run.parameters for run in [*seeds, both]))
    assert told.startswith(
        "Sequence autoencoders on 2 moving digits (Moving MNIST). Each sees 10 frames of 16×16 pixels "
    )
    assert told.endswith(
        "gives them back, in reverse order, or gives them back, in reverse order, and predicts the next 10."
    )


@pytest.mark.parametrize("n", [1, 2])
def test_what_one_seed_shows_may_be_chance(n):
    tasks = {"both": (0.21, 0.2), "pred": (0.16, 0.15)}
    rows = [("pred", "0nm", task, share, share, n) for task, shares in tasks.items() for share in shares]
    below = pd.DataFrame(rows, columns=["branch", "loss", "task", "below", "val_below", "n"])
    (line,) = findings._both_and_pred(below)
    assert line.startswith(
        "Runs that also reconstruct predict better on val: on test `0nm` of task both is 20 % to 21 % below "
    )
    assert line.endswith("; one seed each, so this may be chance.") == (n == 1)
    above = below.assign(val_below=below.val_below - 0.3)
    assert findings._both_and_pred(above) == [], "none predicts"
    assert findings._both_and_pred(below.assign(below=0.2)) == [], "the same to the per cent"


def test_of_each_branch_the_best_is_named(seeds):
    below = compare.below_mean_frame(seeds)
    told = comparison_findings(seeds).splitlines()[2:]
    for line, branch in zip(told[:2], ("recon", "pred"), strict=True):
        errors = below[below.branch == branch].groupby("recipe").val.mean()
        assert line.startswith(f"- Best {branch} on val: **[{errors.idxmin()}](")
        best = below[(below.branch == branch) & (below.recipe == errors.idxmin())]
        # Verdicts are of val: where a few clips are test, a run can be below the mean frame there and above it here.
        shares = [
            f"{100 * abs(x):.0f} % {'below' if x > 0 else 'above'} the mean frame"
            for x in best[["val_below", "below"]].mean()
        ]
        assert line.endswith(f", {shares[0]} there, on test {shares[1]}.")


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """Four runs of one store: two seeds of one recipe, the second of which diverged; one that diverged at once; one of
    an earlier version, which recorded figures of weights that had diverged.
    """
    store = str(tmp_path_factory.mktemp("diverged"))
    tiny = TINY | {"architecture": "srivastava", "store": store}
    runs = [open_run("losses", tiny, {"seed": seed}).train() for seed in (7, 8)]
    sgd = {"optimizer": "SGD", "learning_rate": 1e30, "clip_norm": None}
    runs.append(open_run("losses", tiny, sgd).train())
    runs.append(open_run("losses", tiny, {"learning_rate": 0.5}).train())
    for run in (runs[1], runs[3]):
        record = run.record() | {
            "verdict": "diverged at epoch 1",
            "results": dict.fromkeys(run.record()["results"], 1e-9),
        }
        (run.folder / "run.yaml").write_text(yaml.safe_dump(record))
        run.test().assign(value=1e-9).to_csv(run.folder / "test.csv", index=False)
    return runs


@pytest.mark.filterwarnings("ignore:The 'float_precision' argument")
def test_a_run_that_diverged_has_no_figures_and_is_last_wherever_things_are_ordered(early):
    others = early[1:]
    labels = compare.labels(early)
    assert [run.diverged for run in early] == [False, True, True, True]
    assert "diverged" in others[1].verdict
    assert others[1].test().value.isna().all(), "of today's version"
    assert pd.read_csv(others[1].folder / "test.csv").value.isna().all()
    for run in others:
        assert run.test().value.isna().all()
        assert all("no number, because it diverged" in value for name, value in run.facts() if name.startswith("test "))
        told = findings.run_findings(run.verdict, run.test(), run.baselines())
        assert "nan" not in told
        assert told.count("has no number") == 2
        assert comparison_data(run)["steps"] == {}
        mine = standing(run.test(), run.baselines(), "mine").query("model == 'mine'")
        assert len(mine) == 2
        assert mine.mse.isna().all()
    assert compare.finals(early).groupby("run").value.count()[labels].gt(0).tolist() == [True, False, False, False]
    assert compare.frame_steps(early).groupby("run").value.count()[labels].gt(0).tolist() == [True, False, False, False]
    below = compare.below_mean_frame(early)
    assert {*below.run[below.below.notna()]} == {labels[0]}
    rows = compare.summary(early)
    assert len(rows) == 8, "each is still listed"
    assert {*rows.run.head(2)} == {labels[0]}
    assert rows.iloc[2:, 2].isna().all()
    for by in ("run", "loss"):
        told = comparison_findings(early, early, by=by)
        assert told.count("Best ") == told.count(f": **[{compare.recipes(early)[0]}](") == 2
        assert "nan" not in told
        assert told.splitlines()[-1].endswith("no number, because it diverged.")
    assert "Best" not in comparison_findings(others, by="run")
    assert comparison_findings(others, by="run").count("no number") == 3
    (axis,) = figures.ranking(compare.finals(early).query("metric == 'mse'"), unit="MSE").axes
    assert axis.get_yticklabels()[0].get_text().replace("\n", " ") == compare.recipes(early)[0]
    bars = figures.floor_and_reached(compare.below_mean_frame(early)).axes[0].get_yticklabels()
    assert [bar.get_text().split(", ")[0] for bar in bars][-2:] == [labels[0]] * 2, "the best is on top"
    assert [name for name, _ in compare.gallery(early, "pred")] == [
        "truth", labels[0], *(f"{name}, diverged" for name in labels[1:])
    ]  # fmt: skip
    assert compare.recipes(early)[0].endswith(", n = 2 seeds, 1 diverged")
    assert [run.folder for run in compare.evenly(early, most=1)] == [run.folder for run in early[:2]]
    assert rerun_findings(others[0], others[0]).startswith("Identical")
    assert "test metrics are identical" in rerun_findings(others[2], others[0]), "neither has any"


def test_a_run_that_diverged_is_last_in_the_index_and_in_the_terminal(early):
    store = early[0].folder.parents[1]
    update_index(store)
    page = BeautifulSoup((store / "index.html").read_text(), "html.parser")
    cells = {
        row.th.a.get_text().split("/")[1]: [cell.get_text() for cell in row.select("td.number")][:-1]
        for row in page.select("tbody tr:not(.setting)")
    }
    for run in early:
        assert any(cells[run.name]) is not run.diverged
    errors = {row[0].split("/")[1]: row[3] for row in status_rows([str(store)])}
    assert [bool(errors[run.name]) for run in early] == [True, False, False, False]


def test_the_index_follows_what_happens_to_a_run(seeds, tmp_path):
    """A record is read again when its file has changed."""
    for run in seeds[:2]:
        shutil.copytree(run.folder, tmp_path / "losses" / run.name)
    update_index(tmp_path)
    first = (tmp_path / "index.html").read_text()
    assert first.count('class="pick"') == 2
    assert first.count("run.yaml") == 2, "there is no report yet"
    name = seeds[0].name
    (tmp_path / "losses" / name / "report.html").write_text("a report")
    record = tmp_path / "losses" / seeds[1].name / "run.yaml"
    record.write_text(record.read_text().replace("status: done", "status: running"))
    update_index(tmp_path)
    after = (tmp_path / "index.html").read_text()
    assert f'href="losses/{name}/report.html"' in after
    assert "interrupted</span>" in after, "no process trains it"
    with filelock.FileLock(record.parent / ".lock"):
        update_index(tmp_path)
    assert ">running</span>" in (tmp_path / "index.html").read_text()
    assert after.count('class="pick"') == 1


def test_the_diarys_order_is_told_by_branch(monkeypatch):
    ours = diary_results().rename(columns={"mse": "val"}).assign(architecture="lstm_copy", gain=1.0)
    ours["val"] /= 2  # other values in the same order
    ours["reached"], ours["below"] = -ours.val, ours.val  # on test the order is the other one
    shown = ours
    monkeypatch.setattr(findings, "below_mean_frame", lambda runs: shown)
    assert "**8 of 8** branches" in diary_order([])
    assert diary_order([]).endswith("equal to three digits count in either order.")
    shown = ours.assign(val=0.0758 + 0.00001 * ours.val)  # all equal here, to three digits
    assert "**8 of 8** branches" in diary_order([])
    where = (ours.task == "recon") & (ours.decoder_input == "zero")
    swapped = ours.copy()
    swapped.loc[where & (ours.loss == "0sb"), "val"] = 1.0  # behind 0sm: one pair of neighbours swapped
    shown = swapped
    assert "**7 of 8** branches" in diary_order([])
    assert "is 0.90 or more (1: the" in diary_order([])  # 1 - 6·2 / (5·24)
    equal = (ours.task == "both") & (ours.decoder_input == "zero") & (ours.branch == "pred") & (ours.loss == "0sb")
    for other in (-0.001, 0.001):  # in the diary 0sb and 0sm are equal there
        shown = ours.assign(val=ours.val + other * equal)
        assert "**8 of 8** branches" in diary_order([])
    shown = pd.concat([swapped, ours.assign(val=2 * ours.val - swapped.val)])  # two seeds: mean is ours
    assert "**8 of 8** branches" in diary_order([])
    shown = pd.concat([ours, swapped.assign(architecture="cnn_v1"), swapped.assign(gain=2.0)])
    assert "**8 of 8** branches" in diary_order([]), "of other networks the diary tells nothing"
    shown = ours.assign(val=ours.val.mask(where & (ours.loss == "0nm")))
    assert "**7 of 8** branches" in diary_order([]), "the diary's best diverged"
    assert "is 0.00 or more (1: the" in diary_order([])  # 1 - 6·(4² + 4·1²) / (5·24)
    shown = ours[ours.loss.str.startswith("1")]
    assert diary_order([]).startswith("Too few losses")


def on_val(folder, error, *, on_test=0.01):
    """Give a run this error on val, and another on test."""
    metrics, test = pd.read_csv(folder / "metrics.csv"), pd.read_csv(folder / "test.csv")
    metrics.assign(value=error).to_csv(folder / "metrics.csv", index=False)
    test.assign(value=on_test).to_csv(folder / "test.csv", index=False)


@pytest.fixture(scope="module")
def many(seeds, tmp_path_factory):
    """45 learning rates, the larger the worse, with two seeds of the first."""
    folder, runs = tmp_path_factory.mktemp("many") / "losses", []
    for number in range(46):
        record = dict(seeds[0].record())
        record["parameters"] = record["parameters"] | {
            "learning_rate": 0.001 * max(number, 1),
            "seed": 7 + (number == 0),
        }
        copy = shutil.copytree(seeds[0].folder, folder / f"run-{number:02}")
        on_val(copy, 0.01 * (number + 1))
        (copy / "run.yaml").write_text(yaml.safe_dump(record))
        runs.append(Run.load(copy))
    return runs


def test_of_more_than_a_figure_holds_some_are_shown_from_the_best_to_the_worst(many, seeds):
    assert compare.evenly(seeds) == seeds
    assert compare.evenly([]) == []
    shown, named = compare.evenly(many), {run.folder: run for run in many}
    assert compare.recipes(shown) == [
        dict(zip(many, compare.recipes(many), strict=True))[named[run.folder]] for run in shown
    ]
    shown = [named[run.folder] for run in shown]
    assert len(set(compare.recipes(shown))) == compare.MOST == 40
    assert {many[0], many[1], many[-1]} <= set(shown), "the best, with both its seeds, and the worst"
    assert shown == [run for run in many if run in shown]
    assert len(compare.evenly(many, most=2)) == 3
    assert "figures show 40 of 45 recipes, evenly from the least error on val" in compare.describe(many)
    assert "figures show" not in compare.describe(seeds)


def test_of_many_runs_a_conclusion_lists_the_best_first_and_says_so(many, seeds):
    for by, fixes, kind in (("run", (), "- `"), ("loss", many, "- With the usual settings, `")):
        lines = comparison_findings(many, fixes, by=by, branch="pred").splitlines()
        assert sum(line.startswith(kind) for line in lines) == 20
        assert lines[-1].startswith("- This list holds the 20 with the least error on val of ")
    assert "This list" not in comparison_findings(seeds, seeds, by="run")
    below = compare.below_mean_frame(seeds).query("branch == 'pred'").groupby("recipe").val.mean().sort_values()
    listed = [
        line for line in comparison_findings(seeds, by="run", branch="pred").splitlines() if line.startswith("- `")
    ]
    assert [line.split("`")[1] for line in listed] == below.index.to_list()


def test_of_many_runs_a_gallery_holds_one_seed_of_each_recipe(many, seeds):
    assert [name for name, _ in compare.gallery(many, "pred")] == ["truth", *dict.fromkeys(compare.recipes(many))]
    assert [name for name, _ in compare.gallery(seeds, "pred")] == ["truth", *compare.labels(seeds)]


def test_of_many_rows_a_table_shows_those_with_the_least_error_and_says_so(seeds):
    rows = compare.summary(seeds)
    page = compare.table(seeds, most=2).to_html()
    assert len(rows) == 6
    assert page.count("<tr>") == 1 + 2
    assert "The first 2 of 6, by error on val" in page
    assert "by error on val" not in compare.table(seeds).to_html()


def test_what_is_named_is_called_the_same_among_fewer(seeds, tmp_path):
    runs = []
    for number in range(41):  # two batch sizes, equally many among all, not among those that a figure shows
        record = seeds[0].record()
        record["parameters"] |= {"learning_rate": 0.002 * (number // 2 + 1), "batch_size": 4 if number % 2 else 8}
        copy = shutil.copytree(seeds[0].folder, tmp_path / "losses" / f"run-{number:02}")
        on_val(copy, 0.01 * (number + 1))
        (copy / "run.yaml").write_text(yaml.safe_dump(record))
        runs.append(Run.load(copy))
    among_all = {run.folder: label for run, label in zip(runs, compare.labels(runs), strict=True)}
    shown = compare.evenly(runs)
    assert len(shown) == 40
    assert compare.labels(shown) == [among_all[run.folder] for run in shown]
    assert compare.labels([named for named in runs if named.folder in {r.folder for r in shown}]) != compare.labels(
        shown
    )


def test_of_runs_that_are_named_no_others_are_read(many, seeds, tmp_path, monkeypatch):
    store = shutil.copytree(many[0].folder.parents[1], tmp_path / "store")
    (store / "losses" / "begun").mkdir()
    (store / "losses" / "run-05" / "run.yaml").write_text("{")
    read, load = [], Run.load
    monkeypatch.setattr(Run, "load", lambda folder: read.append(folder.name) or load(folder))
    names = ["run-03", "run-01", "none", "begun", "run-05", "run-01", "*"]
    with pytest.warns(UserWarning, match="run-05 left out"):
        chosen = compare.comparable_runs("losses", names, store=str(store))
    assert [run.name for run in chosen] == ["run-01", "run-03"]
    assert read == ["run-01", "run-03", "run-05"]


def row(store):
    """Whether the one run in an index can be selected, has a picture, and has a loss; with nothing cached."""
    records._known.clear()
    update_index(store)
    page = BeautifulSoup((store / "index.html").read_text(), "html.parser")
    defined = page.select_one("[data-shared]")["data-shared"]
    return bool(page.select("input.pick")), bool(page.select("img")), "loss=0nm" in defined.split()


def test_an_index_of_another_process_looks_at_no_folder_again(seeds, tmp_path, monkeypatch):
    shutil.copytree(seeds[0].folder, tmp_path / "losses" / seeds[0].name)
    assert row(tmp_path) == (True, True, True)
    first = (tmp_path / "index.html").read_text()
    monkeypatch.setattr(index, "comparison_data", lambda run: pytest.fail("looked at again"))
    monkeypatch.setattr(index, "thumbnail", lambda file: pytest.fail("looked at again"))
    assert row(tmp_path) == (True, True, True)
    assert (tmp_path / "index.html").read_text() == first


def test_an_index_made_while_a_folder_was_copied_is_mended(seeds, tmp_path):
    folder = tmp_path / "losses" / seeds[0].name
    folder.mkdir(parents=True)
    for name in ("run.yaml", "baselines.csv"):
        shutil.copy2(seeds[0].folder / name, folder)
    assert row(tmp_path) == (False, False, True)
    (folder / "frames.png").write_bytes(b"half")
    (folder / "test.csv").write_text("branch,frame,metric,value,unit,sequences\n")
    assert row(tmp_path) == (False, False, True)
    shutil.copytree(seeds[0].folder, folder, dirs_exist_ok=True)
    assert row(tmp_path) == (True, True, True)


@pytest.mark.parametrize("name", ["test.csv", "baselines.csv"])
def test_an_index_is_made_whatever_is_there_of_a_table(seeds, tmp_path, name):
    folder = shutil.copytree(seeds[0].folder, tmp_path / "losses" / seeds[0].name)
    whole = (folder / name).read_bytes()
    for length in (0, 1, 10, 60, 80, 100, len(whole) // 2, len(whole) - 5):  # as an unfinished copy leaves it
        (folder / name).write_bytes(whole[:length])
        assert row(tmp_path)[1:] == (True, True), length
    (folder / name).write_bytes(whole)
    assert row(tmp_path) == (True, True, True)


def test_an_index_made_while_a_run_ended_is_mended(seeds, tmp_path, monkeypatch):
    folder = shutil.copytree(seeds[0].folder, tmp_path / "losses" / seeds[0].name)
    done = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(done.replace("status: done", "status: running"))

    def ends(folder, record):
        (folder / "run.yaml").write_text(done)
        return run_status(folder, record)

    with monkeypatch.context() as patch:
        patch.setattr(index, "run_status", ends)
        assert row(tmp_path) == (False, True, True)
    assert row(tmp_path) == (True, True, True)


def test_an_index_of_a_version_that_knows_more_is_mended(seeds, tmp_path, monkeypatch):
    folder = shutil.copytree(seeds[0].folder, tmp_path / "losses" / seeds[0].name)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "load", lambda folder: (_ for _ in ()).throw(ValueError("unknown parameter")))
        assert row(tmp_path) == (False, True, False)
    assert row(tmp_path) == (True, True, True)
    assert folder.exists()
