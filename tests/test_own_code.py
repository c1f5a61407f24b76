"""Code of one's own by module:name: found, hashed, copied, trusted; whatever built-in models get, it gets."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from IPython.core.interactiveshell import InteractiveShell
from own import LAYERS, METRICS, MODELS, write_modules
from test_sweep import TINY

from seqae.contract import ContractError
from seqae.parameters import ParameterError
from seqae.runs import assignment, logs
from seqae.runs.experiment import load_model
from seqae.runs.explanation import NO_LIMIT
from seqae.runs.finding import find_runs
from seqae.runs.identity import run_hash
from seqae.runs.merging import resolve
from seqae.runs.own_code import OwnCodeError, code_for
from seqae.runs.records import RunError
from seqae.runs.run import Run, open_run
from seqae.stores.project import project_root

SMALL = {"frame_size": 16, "frames_in": 3, "frames_out": 2, "batch_size": 4, "checkpoint_seconds": 0.0, "task": "pred"}
OWN = {"architecture": "own_models:Forecaster", "architecture_arguments": {"hidden": 6}}


@pytest.fixture
def project(tmp_path, monkeypatch):
    write_modules(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(**given: Any) -> Run:
    return open_run("mine", SMALL, TINY | OWN | given)


def test_a_model_of_ones_own_gets_all_that_built_in_ones_get(project) -> None:
    run = opened(metrics=["own_metrics:iou"], gain=2).train()
    assert run.status == "done"
    assert run.name.startswith("0nm-pred-gain2-own_models_forecaster-hidden6-")
    record, files = run.record(), {f.relative_to(run.folder).as_posix() for f in run.folder.rglob("*") if f.is_file()}
    assert {"model.safetensors", "test.csv", "samples.npz", "frames.gif", "baselines.csv"} <= files
    assert {f for f in files if f.startswith("code/")} == {
        "code/own_models.py", "code/own_layers.py", "code/own_metrics.py",
    }  # fmt: skip
    assert record["parameters"]["code"] == run.parameters.code
    digest = record["code"]["metrics"]["iou"].pop("code")
    assert record["code"]["metrics"] == {"iou": {"unit": "of 1", "more_is_better": True}}
    write_modules(project, own_models="# other\n" + MODELS + "\nx = 1\n")  # the metric does not need this file
    code = opened(metrics=["own_metrics:iou"], gain=2).code
    assert code is not None
    assert code.part("own_metrics:iou").digest == digest
    write_modules(project)
    assert record["weights"] == sum(w.numel() for w in run.model().parameters())
    assert "hidden" not in record
    assert run.verdict
    assert run.explain().startswith("Your architecture does not say how large its outputs can be (`reach`), so")
    assert record["explained"] == run.explain()
    assert run.prognosis() == "training shows whether it learns: no limit of this model is known"
    test = run.test().query("metric == 'iou'")
    assert (set(test.unit), len(test), test.value.between(0, 1).all()) == ({"of 1"}, 3, True)
    assert set(run.metrics().query("metric == 'iou'").split) == {"val"}
    assert dict(run.facts())["architecture"].startswith("own_models:Forecaster, hidden 6, ")
    assert run.outputs("test", indices=[0])["pred"].shape == (1, 2, 16, 16)
    assert opened(metrics=[], gain=2).folder == run.folder  # metrics do not define a run
    (found,) = find_runs(project / "reports")
    assert found.folder == run.folder
    assert run_hash(found.parameters) == run.name.rpartition("-")[2]


def test_it_resumes_exactly_though_it_draws_random_numbers(project, monkeypatch) -> None:
    given = {"epochs": 3, "architecture_arguments": {"dropout": 0.5}}
    whole, append = opened(**given, store=str(project / "a")).train(), logs.append_rows

    def interrupted(log: Path, rows: list[dict]) -> None:
        if rows[0]["epoch"] == 2:
            raise KeyboardInterrupt
        append(log, rows)

    with monkeypatch.context() as patched:
        patched.setattr(logs, "append_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(**given, store=str(project / "b")).train()
    torch.manual_seed(1)
    run = opened(**given, store=str(project / "b")).train()
    assert run.record()["resumed"]
    pd.testing.assert_frame_equal(*(r.metrics().drop(columns="seconds") for r in (run, whole)))
    assert all((run.folder / f).read_bytes() == (whole.folder / f).read_bytes() for f in ("test.csv", "samples.npz"))


def test_the_floor_follows_from_its_reach(project) -> None:
    run = opened(architecture="own_models:Bounded", architecture_arguments={}, gain=0.5)
    assert run.reach == 0.5
    floor = run.baselines().query("split == 'val' and baseline == 'floor' and metric == 'mse'")["value"].item()
    black_and_white = open_run("mine", SMALL, TINY | {"architecture": "lstm_copy", "width": 0.01, "gain": 0.5})
    expected = black_and_white.baselines().query("split == 'val' and baseline == 'floor' and metric == 'mse'")
    assert floor == expected["value"].item() > 0
    assert "Your architecture's pre-activations lie in (-0.5, 0.5), so its output only has values" in run.explain()
    assert run.train().record()["reach"] == 0.5
    assert float(run.model()(torch.zeros(1, 3, 16, 16))["pred"].detach().abs().max()) <= 0.5


def test_a_model_without_reach_is_not_said_to_reach_every_pixel(project) -> None:
    run = opened(activation="sigmoid", loss="0sm")
    assert (run.prognosis(), run.explain()[:40]) == (NO_LIMIT, "Your architecture does not say how large")
    assert "can learn" not in run.explain()
    assert "floor" not in set(run.baselines().baseline)
    far = opened(architecture="own_models:Bounded", architecture_arguments={}, gain=5)
    assert far.prognosis().startswith("can learn: floor 0.0000 < mean frame 0.")
    assert far.explain().startswith("The output is what your architecture puts out. It can reach every pixel")
    update = {"explained": "The output can reach every pixel value, so this model can learn."}  # by versions before
    run.train().update(**update)
    assert "floor" not in set(run.baselines().baseline)
    assert run.explain().startswith("Your architecture does not say")


def test_a_run_that_has_not_ended_says_so_and_what_to_do(project) -> None:
    run = opened(epochs=2)
    for name, read in (("test figures", run.test), ("samples", run.samples)):
        with pytest.raises(RunError) as caught:
            read()
        assert str(caught.value) == f"{run.name} is waiting and has no {name} yet: run.train(), or seqae run, first"
        shown = "\n".join(caught.value._render_traceback_())
        assert "read()" in shown
        assert "logs.py" not in shown
    run.update(status="running")
    with pytest.raises(RunError, match="is interrupted and has no test figures yet: run"):
        run.test()
    run.train()
    (run.folder / "samples.npz").unlink()
    with pytest.raises(RunError, match=r"samples.npz is missing: copy the folder again"):
        run.samples()


def test_a_metric_of_an_output_that_is_not_finite_has_no_value(project) -> None:
    run = opened(metrics=["own_metrics:iou"], epochs=3, optimizer="SGD", learning_rate=1e30, clip_norm=None).train()
    assert run.diverged
    val = run.metrics().query("split == 'val'")
    last = val[val.epoch == val.epoch.max()].set_index("metric")["value"]
    assert (last[["mse", "iou"]].isna().all(), run.test().query("metric == 'iou'").value.isna().all()) == (True, True)
    assert set(run.test().query("metric == 'iou'").unit) == {"of 1"}


def test_tied_and_transposed_weights_are_saved_and_loaded(project) -> None:
    run = opened(architecture="own_models:Tied", architecture_arguments={}, task="both").train()
    state = run.model().state_dict()
    assert torch.equal(state["same"], state["gru.weight_hh_l0"])
    assert state["other"].shape == (5, 3)


def test_what_was_edited_since_a_run_was_opened_is_not_trained_as_it_was(project) -> None:
    run, other = opened().train(), opened(gain=2)
    write_modules(project, own_models="# a comment\n" + MODELS)
    assert opened(seed=9).train().status == run.train().status == "done"
    write_modules(project, own_models=MODELS.replace("dropout=0.2", "dropout=0.3"), own_layers=LAYERS + "def f(:")
    told = r"own_layers.py have been edited since this run was opened: run the cell of open_run again"
    with pytest.raises(OwnCodeError, match=told):
        other.train()
    assert not other.folder.exists()
    with pytest.warns(UserWarning, match=told):
        run.train()
    write_modules(project, own_metrics=METRICS.replace("0.5", "0.4"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.train()
    assert other.status == "done"


# ---- its hash ----


def test_the_hash_is_of_the_code_and_not_of_its_layout(project) -> None:
    one = opened().name
    write_modules(project, own_models="# a comment\n" + MODELS.replace("8\n", "8  # units\n\n"))
    assert opened().name == one
    for changed in ({"own_models": MODELS.replace("dropout=0.2", "dropout=0.3")}, {"own_layers": LAYERS + "\nx = 1\n"}):
        write_modules(project, **changed)
        assert opened().name != one
    write_modules(project, own_metrics=METRICS.replace("0.5", "0.4"))  # measures the run, does not define it
    assert opened(metrics=["own_metrics:iou"]).name == one


def test_what_built_in_runs_are_called_does_not_change(project) -> None:
    given = TINY | {"architecture": "srivastava", "hidden": 8}
    assert open_run("mine", SMALL, given).name == open_run("mine", SMALL, given | {"metrics": ["own_metrics:iou"]}).name
    assert open_run("mine", SMALL, given).parameters.code is None
    for idle in ({"architecture_arguments": {"hidden": 3}}, {"code": "0123456789ab"}):
        assert open_run("mine", SMALL, given | idle).name == open_run("mine", SMALL, given).name
    own_loss = open_run("mine", SMALL, given | {"training_loss": "own_losses:absolute"})
    assert own_loss.parameters.code is not None
    assert own_loss.train().status == "done"


def test_a_package_and_the_projects_folder_are_searched_too(project) -> None:
    (project / "nets").mkdir()
    (project / "nets" / "parts.py").write_text(LAYERS)
    (project / "nets" / "gru.py").write_text(
        MODELS.replace("from own_layers import Readout", "from .parts import Readout\nimport nets.parts, os.path, yaml")
    )
    run = opened(architecture="nets.gru:Forecaster").train()
    assert run.status == "done"
    code = run.own_code()
    assert code is not None
    assert sorted(code.texts) == ["nets/gru.py", "nets/parts.py"]
    assert list(code.packages) == ["yaml"]


def test_two_versions_of_one_file_live_beside_each_other(project) -> None:
    first = opened().train()
    write_modules(project, own_models=MODELS.replace("nn.GRU(", "nn.RNN("))
    second = opened().train()
    assert first.name != second.name
    assert {"GRU", "RNN"} == {type(run.model().gru).__name__ for run in (first, second)}  # type: ignore[union-attr]


# ---- whose code runs ----


def test_nothing_from_a_run_folder_runs_unasked(project) -> None:
    run = opened().train()
    assert isinstance(Run.load(run.folder).model(), torch.nn.Module)  # the project's own files have its hash
    write_modules(project, own_models=MODELS.replace("dropout=0.2", "dropout=0.3"))
    loaded = Run.load(run.folder)
    assert loaded.verdict == run.verdict  # what is recorded needs no code
    assert loaded.facts()[0] == run.facts()[0]
    assert loaded.reach == float("inf")
    for look in (loaded.model, loaded.outputs, lambda: load_model(run.folder / "model.safetensors")):
        with pytest.raises(OwnCodeError, match=r"code \w{12} of .* is not run: the project's own has .* trust_code"):
            look()
    how = "--trust-code (in Python: Run.load(folder, trust_code=True))"
    with pytest.raises(
        OwnCodeError, match=re.escape(f"you have edited own_models.py since: {how} runs the copy that ")
    ):
        loaded.model()
    assert isinstance(Run.load(run.folder, trust_code=True).model(), torch.nn.Module)
    model, _ = load_model(run.folder / "model.safetensors", trust_code=True)
    assert isinstance(model, torch.nn.Module)
    (run.folder / "code" / "own_models.py").write_text("raise SystemExit")
    with pytest.raises(OwnCodeError, match="is damaged: its hash is"):
        Run.load(run.folder, trust_code=True).model()


def test_without_the_project_a_finished_run_is_shown_and_not_trained(project, tmp_path_factory, monkeypatch) -> None:
    run = opened().train()
    given = {"code": run.parameters.code, "store": str(project / "reports")}
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert opened(**given).train().status == "done"
    with pytest.raises(OwnCodeError, match=r"own_models:Forecaster: there is no own_models.py in notebooks/ or"):
        opened()
    with pytest.raises(OwnCodeError, match="code 0123456789ab is not that of this project"):
        opened(store=str(project / "reports"), code="0123456789ab")


def test_a_recorded_hash_that_the_project_has_no_longer_is_refused(project) -> None:
    before = opened().parameters.code
    write_modules(project, own_models=MODELS.replace("dropout=0.2", "dropout=0.3"))
    with pytest.raises(OwnCodeError, match=f"code {before} is not that of this project"):
        opened(code=before)


# ---- what does not fit ----

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "own_model:Forecaster"}, r"there is no own_model.py in .*; did you mean own_models\?"),
    ({"architecture": "own_models:Forcaster"}, r"module own_models has no Forcaster; did you mean Forecaster\?"),
    ({"architecture": "own_models:Needs"}, r"needs depth: give it in architecture_arguments, such as \{depth: 64\}"),
    ({"architecture_arguments": {"hiden": 3}}, "has no argument hiden: it takes frame_shape, frames_in, frames_out"),
    ({"architecture_arguments": {"task": "recon"}}, "architecture_arguments task is given to every architecture"),
    ({"architecture": "own_models:SIZE"}, "architecture own_models:SIZE is a int, not a torch.nn.Module class"),
    ({"architecture": "own_models:"}, "'own_models:' must be module:name"),
    ({"architecture": "../x:y"}, r"'../x:y' must be module:name"),
    ({"metrics": "own_metrics:iou"}, r"^metrics: give a list: \[own_metrics:iou\]$"),
    (
        {"architecture": "own_models.Forecaster"},
        r"^architecture must be one of lstm, .*, convlstm_pointwise, or module:name of your own; "
        r"not 'own_models.Forecaster'; "
        r"did you mean own_models:Forecaster\?$",
    ),
    ({"architecture": "lstm_cpy"}, r"or module:name of your own; not 'lstm_cpy'; did you mean lstm_copy\?$"),
    ({"architecture": "nothing:Forecaster"}, r"there is no nothing.py in notebooks/ or in the project's folder \(/"),
    ({"metrics": ["iou"]}, "'iou' must be module:name"),
    ({"metrics": ["own_metrics:mse"]}, "there can be no metric mse, what is measured anyway has it"),
    ({"metrics": ["own_metrics:iou", "own_metrics:iou"]}, "there can be no metric iou, two have it"),
    ({"training_loss": "focal"}, "^training_loss must be mse, bce or module:name; not 'focal'$"),
    ({"training_loss": "own_losses:two"}, r"must be a function of \(z, target, \*, activation\): got"),
    ({"training_loss": "own_losses:focal"}, "focal needs a probability, which .*: choose activation: sigmoid"),
    ({"training_loss": "own_losses:vocal"}, r"module own_losses has no vocal; did you mean focal\?"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "told"), WRONG)
def test_what_cannot_be_is_told_when_it_is_opened(project, given: dict[str, Any], told: str) -> None:
    with pytest.raises((OwnCodeError, ParameterError), match=told) as error:
        opened(**({"architecture_arguments": {}} | given))
    assert "\n" not in str(error.value)
    assert not (project / "reports").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nothing_of_this_name", "module own_models cannot be imported: ModuleNotFoundError: No module named"),
        ("def f(:", "own_models.py is not Python: SyntaxError: invalid syntax, line 1"),
        ("raise KeyError('a\\nb')", "module own_models cannot be imported: KeyError"),
        ("x = 1\n1 / 0", r"cannot be imported: ZeroDivisionError: division by zero \(own_models.py:2\)$"),
    ],
)
def test_a_module_that_cannot_be_imported(project, text: str, told: str) -> None:
    write_modules(project, own_models=text)
    with pytest.raises(OwnCodeError, match=told):
        opened()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"architecture": "own_models:Fails"},
            "cannot be built of {'task': 'pred'}: RuntimeError: .*negative dimension",
        ),
        ({"architecture": "own_models:Misshapen"}, r"branch pred, returned \(2, 2, 256\); it must be \(B, T, H, W\)"),
        (
            {"training_loss": "own_losses:scalar"},
            r"training_loss scalar returned a scalar; it must be \(B,\), here \(2,\)",
        ),
    ],
)
def test_what_shows_only_when_it_is_called_ends_the_run_with_a_sentence(project, given: Any, told: str) -> None:
    run = opened(**({"architecture_arguments": {}} | given))
    with pytest.raises(ValueError, match=told):
        run.train()
    assert run.status == "failed"
    assert run.record()["reason"].startswith(("OwnCodeError", "ContractError"))


BREAKS = MODELS.replace(
    "top = self.dropout", "frames + 1 if truth is None else frames.nothing\n        top = self.dropout"
)


def test_an_error_of_ones_own_file_says_its_line_and_a_cell_shows_that_line_alone(project, monkeypatch) -> None:
    write_modules(project, own_models=BREAKS)
    with pytest.raises(ContractError) as caught:
        opened().train()
    line = 1 + BREAKS.split("\n").index("        frames + 1 if truth is None else frames.nothing")
    assert str(caught.value).endswith(
        f"AttributeError: 'Tensor' object has no attribute 'nothing' (own_models.py:{line})"
    )
    shown = "\n".join(caught.value._render_traceback_())  # all that IPython shows of it
    assert shown.startswith(f"ContractError: {caught.value}\n\n")
    assert f"own_models.py, line {line}, in forward\n    frames + 1 if truth is None else frames.nothing" in shown
    assert "opened().train()" in shown, "the line of this file, as that of a cell"
    assert not re.search("site-packages|experiment.py|contract.py|training.py", shown)
    for name, error in (
        ("module:name", lambda: opened(architecture="own_models:")),
        ("no Cell", lambda: opened(architecture="own_models:Cell")),
    ):
        with pytest.raises((OwnCodeError, ParameterError), match=name) as other:
            error()
        assert len("\n".join(other.value._render_traceback_()).splitlines()) < 12


def test_a_sweeps_notebook_keeps_the_whole_traceback(project, monkeypatch) -> None:
    shell = InteractiveShell()
    monkeypatch.setattr("seqae.runs.own_frames._shell", lambda: shell)
    with pytest.raises(OwnCodeError) as caught:
        opened(architecture="own_models:Cell")
    short = "\n".join(caught.value._render_traceback_())
    monkeypatch.setattr(assignment, "_current", assignment.Assignment("0nm-pred-output-01234567"))
    whole = "\n".join(caught.value._render_traceback_())
    assert "hasattr(found, attribute)" in re.sub(r"\x1b.*?m", "", whole)
    assert "hasattr" not in short


# ---- which parameters it uses ----


def test_parameters_of_built_in_architectures_have_no_effect_on_it(project) -> None:
    plain = opened().name
    idle = {"width": 0.5, "hidden": 9, "layers": 2, "peepholes": True, "init": "uniform", "init_range": 0.5,
            "bias_init": "zero", "forget_bias": 5.0, "readout_bias": -2.0, "decoder_input": "zero"}  # fmt: skip
    for name, value in idle.items():
        assert opened(**{name: value}).name == plain, name
    asks = {"architecture": "own_models:AsksForInput", "architecture_arguments": {}}
    assert opened(**asks).name != opened(**asks, decoder_input="zero").name
    assert opened(gain=2).name != plain


def test_a_parameter_that_the_constructor_has_an_argument_for_is_not_ignored(project) -> None:
    cell = SMALL | {"hidden": 7}
    told = (
        "^hidden 7 is for built-in architectures, and own_models:Forecaster has an argument of that name: give its own "
        r"in architecture_arguments, such as \{hidden: 8\}$"
    )
    with pytest.raises(ParameterError, match=told):
        open_run("mine", cell, TINY | {"architecture": "own_models:Forecaster"})
    assert open_run("mine", cell, TINY | OWN).name == opened().name, "OWN says hidden 6"
    assert open_run("mine", cell, TINY | {"architecture": "own_models:Tied"}).name, "it has no such argument"
    assert open_run("mine", SMALL, TINY | {"architecture": "own_models:Forecaster", "hidden": None}).name


def test_a_factory_function_builds_a_model_too(project) -> None:
    assert opened(architecture="own_models:linear", architecture_arguments={}).train().status == "done"


def test_a_loss_and_a_range_of_ones_own(project) -> None:
    run = opened(training_loss="own_losses:focal", activation="sigmoid").train()
    assert {"objective", "mse", "bce"} <= set(run.metrics().metric)
    assert run.name.startswith("range0..1-sigmoid-own_losses_focal-pred-own_models_forecaster-")


def test_code_comes_as_text_to_where_no_files_are(project, tmp_path_factory, monkeypatch) -> None:
    import pickle

    p = resolve(SMALL, TINY, OWN)
    code = pickle.loads(pickle.dumps(code_for(p)))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert code.load("own_models:Forecaster").__name__ == "Forecaster"


# ---- records of somebody else ----


def test_a_record_chooses_nothing_but_what_the_projects_own_modules_define(project) -> None:
    write_modules(project, helpers="from subprocess import run\nfrom os import system\n")
    for name in ("run", "system"):
        with pytest.raises(OwnCodeError, match=f"helpers:{name} is of .*, not of your own"):
            opened(architecture=f"helpers:{name}", architecture_arguments={"args": "false"})


def test_a_record_without_a_hash_runs_no_code(project) -> None:
    run = opened().train()
    record = run.record()
    record["parameters"].pop("code")
    (run.folder / "run.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(OwnCodeError, match="has no hash of its code"):
        Run.load(run.folder, trust_code=True).own_code()


def test_a_run_folder_is_no_project(project, monkeypatch) -> None:
    run = opened().train()
    for name in ("notebooks", "params"):
        (run.folder / name).mkdir()
    (run.folder / "notebooks" / "own_models.py").write_text("raise SystemExit")
    assert project_root(run.folder) == project
    shutil.rmtree(project / "notebooks")
    monkeypatch.chdir(run.folder)
    with pytest.raises(OwnCodeError, match="is not run"):
        Run.load(run.folder).model()


STEPPERS = """
import torch
class Steps(torch.nn.Module):
    def __init__(self, frames_out):
        super().__init__()
        self.frames_out, self.shade = frames_out, torch.nn.Parameter(torch.zeros(1))
    def forward(self, frames, truth=None):
        return {"pred": frames[:, -1:].expand(-1, self.frames_out, -1, -1) + self.shade}
class Fixed(Steps):
    def __init__(self, horizon=2):
        super().__init__(horizon)
"""


def test_a_trusted_run_predicts_further_than_trained_or_says_that_it_cannot(project) -> None:
    write_modules(project, steppers=STEPPERS)
    runs = [opened(architecture=f"steppers:{name}", architecture_arguments={}).train() for name in ("Steps", "Fixed")]
    write_modules(project, steppers=STEPPERS.replace("zeros", "ones"))
    frames = runs[0].samples()["frames"][:, :3]
    steps, fixed = (Run.load(run.folder, trust_code=True) for run in runs)
    assert steps.predict(frames, steps=7).shape[1] == 7
    with pytest.raises(ValueError, match="predicts 2 frames whatever frames_out is, not 7"):
        fixed.predict(frames, steps=7)
