"""`-p seed=6,7,8 -p loss=0nm,0sb`: which values a text has, and which runs their combinations are."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from test_sweep import make_project
from typer.testing import CliRunner

from seqae.benchmark import cost_estimate
from seqae.commands import estimates
from seqae.commands.main import app
from seqae.commands.options import given_grid, given_parameters
from seqae.sweeps import planning
from seqae.sweeps.planning import plan


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, {"fam": []}, {"fam/a": {}, "fam/b": {"task": "both"}}))
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / "reports"))
    return tmp_path


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*arguments, "--scale", "tiny"])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=6", [6]),
        ("seed=6,7, 8", [6, 7, 8]),
        ("pixel_range=[-1,1]", [[-1, 1]]),
        ("pixel_range=[-1,1],[0,1]", [[-1, 1], [0, 1]]),
        ("pixel_range=(-1,1)", ["(-1,1)"]),
        ("optimizer_arguments={betas: [0.8, 0.9], eps: 1},{}", [{"betas": [0.8, 0.9], "eps": 1}, {}]),
        ("digits='a,b',c", ["a,b", "c"]),
        ('digits="a\\",b",c', ['a",b', "c"]),
        ("digits='it''s, yes',c", ["it's, yes", "c"]),
        ("digits=it's,c", ["it's", "c"]),
        ("optimizer_arguments={a: ']', b: 2},{a: '}'}", [{"a": "]", "b": 2}, {"a": "}"}]),
        ("momentum=null,0.9", [None, 0.9]),
        ("architecture=mine:A,mine:B", ["mine:A", "mine:B"]),
        ("label=a,b", ["a,b"]),
        ("data_folder=/a,b", ["/a,b"]),
        ("clips=walking,running/*.avi", ["walking,running/*.avi"]),
    ],
)
def test_commas_separate_values_outside_brackets_quotes_and_paths(text, values) -> None:
    assert [given[text.partition("=")[0]] for given in given_grid([text])] == values


def test_the_last_parameter_changes_fastest() -> None:
    found = [tuple(given.values()) for given in given_grid(["seed=6,7", "loss=0nm,0sb"])]
    assert found == [(6, "0nm"), (6, "0sb"), (7, "0nm"), (7, "0sb")]
    assert given_grid(None) == given_grid([]) == [{}]


@pytest.mark.parametrize("text", ["seed=6,", "seed=,6", "seed=6,,7", "seed=6, ,7"])
def test_an_empty_value_is_refused(text) -> None:
    with pytest.raises(ValueError, match=rf"^-p {text} has an empty value beside a comma"):
        given_grid([text])


def test_a_command_on_one_run_takes_one_value() -> None:
    assert given_parameters(["sequences=[4,8]", "label=a,b"]) == {"sequences": [4, 8], "label": "a,b"}
    with pytest.raises(ValueError, match=r"^-p sequences has several values, and this command takes one; a list is \["):
        given_parameters(["device=cpu", "sequences=4,8"])


def test_every_command_plans_the_product(project, monkeypatch) -> None:
    monkeypatch.setattr(cost_estimate, "estimate_cost", lambda p: SimpleNamespace(seconds=1.0))  # it times updates
    monkeypatch.setattr(estimates, "check_lines", lambda item: [f"fam/{item.run.name}: valid, new"])
    grid = ("params/fam", "-p", "seed=6,7,8", "-p", "loss=0nm,1tm")
    said = call("run", *grid, "--dry-run")
    assert said.splitlines()[-1].startswith("12 of 12 to run")
    planned = {line.partition(": ")[0] for line in said.splitlines()[:-1]}
    assert len(planned) == 12
    assert {line.split()[0] for line in call("status", *grid).splitlines()[1:]} == planned
    checked = [line for line in call("check", "params/fam/a.yaml", *grid[1:]).splitlines() if ": valid, " in line]
    assert {line.partition(": ")[0] for line in checked} == {name for name in planned if "-recon-" in name}
    given = [{"seed": seed, "loss": loss} for seed in (6, 7, 8) for loss in ("0nm", "1tm")]
    items = plan([project / "params/fam"], scale="tiny", given=given)
    assert {f"fam/{item.run.name}" for item in items} == planned
    assert [(item.given["seed"], item.run.parameters.loss) for item in items[:6]] == [
        (one["seed"], one["loss"]) for one in given
    ]


def test_the_code_is_read_once_for_all_runs_of_a_plan(project, monkeypatch) -> None:
    """It took more than half of the time that planning hundreds of runs took."""
    hashed, looked = [], []
    monkeypatch.setattr(planning, "sources_hash", lambda: hashed.append(1) or "f00")
    monkeypatch.setattr(planning, "modules_of_cells", lambda *given: looked.append(given) or {})
    items = plan([project / "params/fam"], scale="tiny", given=[{"seed": seed} for seed in (6, 7, 8)])
    assert {item.sources for item in items} == {"f00"}
    assert len(items) == 6
    assert (len(hashed), len(looked)) == (1, 1)


def test_two_values_that_give_one_run_are_planned_once(project, monkeypatch) -> None:
    monkeypatch.setattr(cost_estimate, "estimate_cost", lambda p: SimpleNamespace(seconds=1.0))
    said = call("run", "params/fam/b.yaml", "--dry-run", "-p", "task=both,recon", "-p", "recon_weight=0.5,1.0")
    assert said.startswith("seqae: 4 combinations of files and -p define 3 runs: some are the same run")
    assert said.splitlines()[-1].startswith("3 of 3 to run")


def test_a_value_that_no_run_uses_is_refused(project) -> None:
    gammas = ("params/fam", "-p", "schedule_gamma=0.1,0.2")
    said = call("status", *gammas, code=2)
    for gamma in ("0.1", "0.2"):
        assert f"-p schedule_gamma {gamma} has no effect: it is used with a schedule" in said
    assert len(call("status", *gammas, "-p", "schedule=none,ExponentialLR").splitlines()) == 1 + 1 + 2 * 3
    said = call("check", "params/fam", "-p", "loss=0sb,0nm", "-p", "activation=none", code=2)
    assert "loss 0sb means activation sigmoid, but activation none is given beside it" in said
    assert said.count("\n") == 1  # of both files, once


def test_a_list_where_one_value_belongs_is_answered_with_a_grid(project) -> None:
    said = call("check", "params/fam", "-p", "learning_rate=[0.001,0.003]", "-p", "task=[pred,recon]", code=2)
    assert "; -p learning_rate=0.001,0.003 makes a run of each)" in said
    assert "; -p task=pred,recon makes a run of each)" in said
    said = call("check", "params/fam", "-p", "loss=[0sb,0nm]", code=2)
    assert said.endswith("; -p loss=0sb,0nm makes a run of each\n")


@pytest.mark.parametrize("pair", ["device=cpu,cuda", "fresh=true,false", "checkpoint_seconds=1,2"])
def test_what_defines_no_run_takes_one_value(pair, project) -> None:
    for command in (["run", "--dry-run"], ["status"]):
        said = call(*command, "params/fam", "-p", pair, code=2)
        assert said.startswith(f"seqae: -p {pair.partition('=')[0]} has several values, but it does not say which run")
