"""The command line: what it prints, its exit codes, and that every error is one message."""

import json
import os
import shlex
import signal
import subprocess
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import filelock
import nbformat
import numpy as np
import pytest
import torch
from rich.console import Console
from test_sweep import DEFAULTS, SEQAE, TINY, make_project, one_run
from typer.testing import CliRunner

from seqae import reports, sweeps
from seqae.benchmark import cost_estimate
from seqae.benchmark.machine_rates import matmul_rate
from seqae.commands import messages, terminal
from seqae.commands.main import app
from seqae.runs.merging import resolve
from seqae.runs.notebook_cells import cells_hash
from seqae.runs.run import open_run
from seqae.sweeps import Page

COMMANDS = [
    "new",
    "run",
    "worker",
    "scheduler",
    "compare",
    "rerun",
    "demo",
    "predict",
    "gather",
    "status",
    "check",
    "clean",
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path / "reports"))
    return make_project(tmp_path, {"fam": []}, {"fam/a": {}, "fam/b": {"task": "both"}})


def call(*arguments: str, code: int = 0) -> str:
    """What the command prints, stdout and stderr together, when it ends with this exit code."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def examples() -> list[str]:
    helps = [command.callback.__doc__ for command in app.registered_commands]
    return [line.strip() for text in helps for line in text.splitlines() if line.strip().startswith("seqae ")]


# --- help ---


def test_every_command_has_examples_in_its_help():
    assert {shlex.split(example)[1] for example in examples()} == set(COMMANDS)
    for command in COMMANDS:
        assert command in call("--help")
        assert f"\n  seqae {command} " in call(command, "--help")


@pytest.mark.processes  # `rerun` and `demo` prepare a kernel before they look for the run
@pytest.mark.parametrize("example", examples())
def test_examples_work_in_this_repository(example, monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.delenv("SEQAE_STORE", raising=False)
    _, command, *arguments = shlex.split(example)
    if command in ("rerun", "demo", "predict"):  # the run of an example is not there
        assert f"there is no run {arguments[0]}" in call(command, *arguments, code=2)
        return
    if command == "gather":
        assert f"{arguments[0]} holds no run" in call(command, *arguments, code=2)
        return
    if command == "clean":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        known = [name.split("/")[0] for name in arguments]  # the family of an example is not there
        call("clean", *known, "--store", str(tmp_path))
        return
    monkeypatch.setattr(cost_estimate, "estimate_cost", lambda p: SimpleNamespace(seconds=1.0))
    if command in ("worker", "scheduler"):  # go on until they are stopped: only their options are read
        call(command, *arguments, "--help")
        return
    if command == "new":
        monkeypatch.chdir(tmp_path)
        assert call(command, *arguments).startswith("next: cd ")
        return
    if "--store" not in arguments:
        arguments += ["--store", str(tmp_path)]
    # What trains, compares or measures for minutes is asked what it would look at.
    files = arguments[1:] if command == "compare" else arguments
    files = [word for word in files if word != "--watch"]  # nobody trains what it waits for
    call(*(["run", *arguments, "--dry-run"] if command == "run" else ["status", *files]))


# --- run ---


def test_dry_run_says_what_would_run_and_why(project):
    runs = [open_run("fam", DEFAULTS, TINY | {"seed": seed}) for seed in range(6)]
    for seed, run in enumerate(runs):
        (project / "params" / "fam" / f"{seed}.yaml").write_text(f"seed: {seed}")
        run.folder.mkdir(parents=True)
        run.fail("ValueError: no luck")
    states = ["failed", "running", "done", "done", "running", "running"]
    for run, state in zip(runs, states, strict=True):
        file = run.folder / "run.yaml"
        file.write_text(file.read_text().replace("status: failed", f"status: {state}"))
    for run in runs[2:4]:
        run.rendered(cells_hash((project / "notebooks" / "fam.ipynb").read_text()))
    (runs[2].folder / "report.html").touch()
    (runs[4].folder / "metrics.csv").write_text("epoch,…\n3,9,1.0,val,all,objective,0.5\n")
    before = sorted(project.rglob("*"))
    with filelock.FileLock(runs[5].folder / ".lock"):
        output = call("run", "params/fam", "--scale", "tiny", "--dry-run")
    *lines, whole = output.splitlines()
    assert whole.startswith("7 of 8 to run, about ")
    why = {line.partition(": ")[0].split("/")[1]: line.partition(": ")[2] for line in lines}
    timed = {name for name, reason in why.items() if " of training" in reason}
    assert timed == why.keys() - {runs[2].name, runs[3].name}
    why = {name: reason.partition(", about ")[0] for name, reason in why.items()}
    expected = ["failed: ValueError: no luck", "interrupted", "done", "has no report yet",
                "interrupted after epoch 3", "another process trains it"]  # fmt: skip
    assert [why.pop(run.name) for run in runs] == expected
    assert list(why.values()) == ["new", "new"]
    assert {path.name for path in {*project.rglob("*")} - {*before}} <= {".lock", ".records.json", ".records.lock"}


def test_a_sweep_that_goes_on_shares_the_processors_as_it_did_at_first(project, monkeypatch):
    """Other numbers of threads round otherwise, and a resumed run has to end as an unbroken one."""
    done = open_run("fam", DEFAULTS, TINY)
    done.folder.mkdir(parents=True)
    done.update(status="done", results={})
    done.rendered(cells_hash((project / "notebooks" / "fam.ipynb").read_text()))
    (done.folder / "report.html").touch()
    asked = []

    def connect(cluster, **given):
        asked.append((given["jobs"], given["workers"]))
        raise ValueError("that is all")

    monkeypatch.setattr(sweeps, "connect", connect)
    assert call("run", "params/fam", "--scale", "tiny", "--jobs", "2", code=2).splitlines() == [
        "seqae: 1 of 2 runs to execute, 1 at a time; 1 is done",
        "seqae: that is all",
    ]
    assert asked == [(2, 1)]


def test_nothing_to_do_is_done(project):
    run = open_run("fam", DEFAULTS, TINY).train()
    (run.folder / "report.html").touch()
    run.rendered(cells_hash((project / "notebooks" / "fam.ipynb").read_text()))
    assert "1 of 1 runs done" in call("run", "params/fam/a.yaml", "--scale", "tiny")
    assert f"fam/{run.name}/report.html" in (project / "reports" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("params/fam -p lr=0.1", "params/fam/a.yaml and 1 more: unknown parameter 'lr'; did you mean 'learning_rate'?"),
        ("params/fam -p epoch=3", "params/fam/a.yaml and 1 more: unknown parameter 'epoch'; did you mean 'epochs'?"),
        ("params/fam -p epochs", "-p takes KEY=VALUE, such as -p epochs=5; not 'epochs'"),
        ("params/fam -p epochs=[3", "-p: "),
        ("params/fam -p training_loss=bce", "activation: sigmoid"),
        ("params/fam/none.yaml", "no parameter file params/fam/none.yaml"),
        ("params/fam --scale huge", "there is no scale 'huge'; there are: paper, quick, smoke, tiny"),
        ("params/fam --store params/fam/a.yaml/store", "Not a directory"),
        ("params/fam --cluster head:8786", "cluster must be tcp://HOST:PORT"),
    ],
)
def test_errors_are_one_message_and_start_nothing(project, arguments, message):
    output = call("run", *shlex.split(arguments), code=2)
    assert output.startswith("seqae: ")
    assert message in output
    assert not list(project.glob("reports/*/*"))


def test_errors_go_to_stderr_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path, {}, {"fam/a": {"epoch": 3}, "fam/b": []}))
    result = CliRunner().invoke(app, ["run", "params/fam"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("seqae: params/fam/a.yaml")
    assert "Traceback" not in result.stderr


# --- compare ---


@pytest.mark.processes
def test_compare_executes_the_notebook_on_the_runs_chosen(project):
    assert "no run of family 'fam'" in call("compare", "fam", code=2)
    parameters = nbformat.v4.new_code_cell("family = ''\nruns = []", metadata={"tags": ["parameters"]})
    show = nbformat.v4.new_code_cell("print('compared', family, runs)\nassert runs, 'nothing to compare'")
    notebook = nbformat.v4.new_notebook(cells=[parameters, show])
    nbformat.write(notebook, project / "notebooks" / "compare.ipynb")
    run = open_run("fam", DEFAULTS, TINY).train()
    page = project / "reports" / "fam" / "compare.html"
    read = json.loads(call("compare", "fam", "params/fam/a.yaml", "--scale", "tiny", "--json"))
    assert (read["page"], [row["branch"] for row in read["branches"]]) == (str(page), ["recon"])

    output = call("compare", "fam", "params/fam/a.yaml", "--scale", "tiny")
    assert Path(output.strip()) == page
    assert f"compared fam [&#x27;{run.name}&#x27;]" in page.read_text().replace("&#39;", "&#x27;")
    assert 'href="fam/compare.html"' in (project / "reports" / "index.html").read_text()
    executed = (project / "reports" / "fam" / "compare.ipynb").read_text()
    assert json.loads(executed)["metadata"]["papermill"]["parameters"] == {"family": "fam", "runs": [run.name]}
    assert str(project) not in executed

    run.rendered("cells")  # as seqae run does
    open_run("fam", DEFAULTS, TINY | {"gain": 2}).train()
    begun = project / "reports" / "fam" / "begun"  # as a run that was killed
    begun.mkdir()
    (begun / "run.yaml").write_text((run.folder / "run.yaml").read_text().replace("status: done", "status: running"))
    assert "AssertionError: nothing to compare" in call("compare", "fam", code=1)
    assert "nothing to compare" in page.read_text()
    told = "1; params/fam has 2 files: seqae run params/fam --dry-run, with your --scale and -p, names what is missing"
    told += "; 1 more, trained without seqae run; not finished: begun"
    text = page.read_text().replace("<wbr>", "")
    assert f"<dt>runs finished</dt><dd>{told}</dd>" in text, "a file may make several runs, so these are not 1 of 2"
    seed, code = run.parameters.seed, run.record()["commit"]
    again = "<code>seqae rerun FOLDER</code> for each run, then <code>seqae compare fam</code>"
    for told in (f"<dt>seed</dt><dd>{seed} (one seed: ", f"<dd>commit {code}", again):
        assert told in page.read_text(), "it is read without the pages of its runs"
    assert run.status == "done"


@pytest.mark.processes
def test_a_comparison_tells_on_top_of_the_runs_that_its_notebook_compares(project):
    for values in ({"seed": 71}, {"seed": 72}, {"seed": 73, "epochs": 1}):
        open_run("fam", DEFAULTS, TINY | values).train()
    page = project / "reports" / "fam" / "compare.html"
    for cell, told in (("", "<dd>71 or 72<"), ("mixed = True", "<dd>71 or 72 or 73<")):
        source = f"family = ''\nruns = []\n{cell}"
        parameters = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
        nbformat.write(nbformat.v4.new_notebook(cells=[parameters]), project / "notebooks" / "compare.ipynb")
        call("compare", "fam")
        assert told in page.read_text()


def test_a_comparison_is_of_the_store_that_its_files_are_planned_in(project, monkeypatch):
    asked = []

    def page(family, runs, *, store):
        asked.append((len(runs), store))
        return Page(Path(store, family, "compare.html"), "no page")

    monkeypatch.setattr(sweeps, "start_fork_server", lambda **_: None)
    monkeypatch.setattr(sweeps, "comparison_page", page)
    monkeypatch.setattr(reports, "publish_index", lambda *names: None)
    files = ["params/fam/a.yaml", "--scale", "tiny"]
    call("compare", "fam", *files, "-p", "store=other", code=1)
    call("compare", "fam", *files, code=1)
    assert asked == [(1, str(project / "other")), (1, str(project / "reports"))]
    (project / "params" / "fam" / "b.yaml").write_text("store: elsewhere\n")
    said = call("compare", "fam", "params/fam", "--scale", "tiny", code=2)
    assert f"FILES put their runs into {project / 'elsewhere'}, {project / 'reports'}, and a page compares" in said


# --- status ---


def test_status_tells_every_state(project):
    done = open_run("fam", DEFAULTS, TINY | {"task": "both"}).train()
    failed = open_run("fam", DEFAULTS, TINY | {"seed": 1})
    broken = open_run("fam", DEFAULTS, TINY | {"seed": 2})
    for run in (failed, broken):
        run.folder.mkdir()
        run.fail("RunError: no [bold] space")
    (broken.folder / "run.yaml").write_text("{torn: ")
    rows = {line.split()[0]: line for line in call("status").splitlines()}
    results = done.record()["results"]
    assert rows.keys() == {"run", *(f"fam/{run.name}" for run in (done, failed, broken))}
    for text in ("done", done.verdict, f"recon {results['recon mse']:.4f}, pred {results['pred mse']:.4f}"):
        assert text in rows[f"fam/{done.name}"]
    assert "failed: RunError: no [bold] space" in rows[f"fam/{failed.name}"]
    assert "delete the folder" in rows[f"fam/{broken.name}"]

    _, *chosen = call("status", "params/fam", "--scale", "tiny").splitlines()
    assert [line.split()[:2] for line in chosen] == [
        [f"fam/{open_run('fam', DEFAULTS, TINY).name}", "waiting"],
        [f"fam/{done.name}", "done"],
    ]


def test_status_for_programs_has_the_numbers_of_the_records(project):
    done = open_run("fam", DEFAULTS, TINY).train()
    failed = open_run("fam", DEFAULTS, TINY | {"seed": 1})
    failed.folder.mkdir()
    failed.fail("RunError: no space")
    lost = open_run("fam", DEFAULTS, TINY | {"seed": 2})
    lost.folder.mkdir()
    (lost.folder / "run.yaml").write_text("{torn: ")
    found = {entry["run"]: entry for entry in json.loads(call("status", "--json"))}
    assert found.keys() == {f"fam/{run.name}" for run in (done, failed, lost)}
    entry, record = found[f"fam/{done.name}"], done.record()
    assert (entry["status"], entry["verdict_on_val"], entry["seconds"]) == ("done", done.verdict, record["seconds"])
    assert entry["test"] == record["results"]
    assert entry["epoch"] == entry["epochs"] == done.parameters.epochs
    assert found[f"fam/{failed.name}"]["reason"] == "RunError: no space"
    assert found[f"fam/{lost.name}"]["status"] == "failed"
    done.update(results=dict.fromkeys(record["results"], float("nan")), verdict="diverged at epoch 1")
    assert f'"{next(iter(record["results"]))}": null' in call("status", "--json")
    assert "leave --watch out" in call("status", "--json", "--watch", code=2)
    assert json.loads(call("status", "--json", "--store", "nowhere")) == []
    waiting = json.loads(call("status", "params/fam/b.yaml", "--scale", "tiny", "--json"))
    assert [entry["status"] for entry in waiting] == ["waiting"]


def test_names_that_are_too_long_for_the_terminal_are_not_cut():
    name = "losses/0nm-both-output-width0.01-train32-val16-test16-batch8-ep2"
    names = [f"{name}-{end}" for end in ("7b141f84", "53dad6c1")]
    rows = [[name, "done", "learned (recon 27 %, pred 12 % below mean frame)", "0.02", "2", "vm"] for name in names]
    console = Console(width=100, file=StringIO())
    console.print(terminal._table(terminal.STATUS_COLUMNS, rows))
    column = "".join(line.split(" ")[0] for line in console.file.getvalue().splitlines())
    assert column == "run" + "".join(names), "folded, so that it can be copied whole"


def test_status_of_an_empty_store_is_no_error_and_names_it(project):
    head, told = call("status").splitlines()
    assert head.split() == ["run", "status", "verdict", "on", "val", "test", "mse", "seconds", "machine"]
    assert told == f"seqae: there is no run in {project / 'reports'}"
    assert call("status", "--store", "nowhere").splitlines()[1:] == [f"seqae: there is no run in {project / 'nowhere'}"]


def test_a_record_cannot_control_the_terminal(project, capsys):
    done = open_run("fam", DEFAULTS, TINY).train()
    done.update(verdict="stuck\x1b]0;title\x07\x1b[2J\x9b31m", machine="a\x1b[1mb")
    said = call("status")
    assert not [c for c in said if c != "\n" and not c.isprintable()]
    assert "stuck?]0;title??[2J?31m" in said
    done.update(status="failed", reason="\x1b[2J\x07gone")
    for said in (call("run", "params/fam/a.yaml", "--scale", "tiny", "--dry-run"),
                 call("check", "params/fam/a.yaml", "--scale", "tiny")):  # fmt: skip
        assert "failed: ?[2J?gone" in said
        assert "\x1b" not in said
    capsys.readouterr()
    messages.tell("of \x1b[2J")
    assert capsys.readouterr().err == "of ?[2J\n"


@pytest.mark.soak
@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_of_another_encoding_shows_what_it_can(encoding):
    told = subprocess.run([*SEQAE, "--help"], capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert (told.returncode, told.stderr) == (0, b"")
    assert b"Sequence autoencoders on video." in told.stdout


@pytest.mark.soak
def test_who_reads_only_the_head_sees_no_error(project):
    command = ["check", *sorted(map(str, project.glob("params/fam/*.yaml"))) * 3, "--scale", "tiny"]
    process = subprocess.Popen(
        [*SEQAE, *command], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 128 + signal.SIGPIPE


def test_a_folder_that_was_deleted_is_said(project, tmp_path, monkeypatch):
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert call("status", code=2) == "seqae: the working directory was deleted: change to a folder that is there\n"


# --- check ---


def test_check_tells_size_time_and_reach(project):
    output = call("check", "params/fam/a.yaml", "--scale", "tiny", "-p", "loss=0sb")
    weights = sum(w.numel() for w in open_run("fam", DEFAULTS, TINY | {"loss": "0sb"}).train().model().parameters())
    for text in (
        f"{weights:,} weights",
        "valid, new",
        "4 updates",
        "cannot learn: floor",
        "no time on a GPU is known",
        "recon mean_frame mse: 0.0",
    ):
        assert text in output, text
    assert "did you mean" in call("check", "params/fam", "-p", "lr=1", "-p", "epoch=1", code=2)


@pytest.mark.parametrize(
    ("able", "given", "slow"),
    [
        ({}, "precision=bf16", True),
        ({"avx512_bf16": True}, "precision=bf16", False),
        ({"amx_bf16": True}, "precision=bf16", False),
        ({}, "precision=none", False),
        ({"architecture": "aarch64"}, "precision=bf16", False),  # of which torch does not tell
    ],
)
def test_a_run_in_bf16_says_at_once_where_the_processor_has_none(project, monkeypatch, caplog, able, given, slow):
    monkeypatch.setattr("seqae.runs.optimizers._abilities", lambda: {"architecture": "x86_64", "avx2": True} | able)
    monkeypatch.setattr(cost_estimate, "matmul_rate", lambda **given: 1e10)
    told = "precision bf16 takes many times as long as none on this machine"
    said = call("run", "params/fam/a.yaml", "--scale", "tiny", "-p", given, "--dry-run")
    assert said.count(told) == slow
    run = open_run("fam", DEFAULTS, TINY | dict([given.split("=")]))
    run.train()
    assert (told in caplog.text) == slow


def test_check_tells_what_becomes_of_clips(project):
    random = np.random.default_rng(0)
    np.save(project / "clips.npy", random.integers(0, 255, (10, 20, 24, 32, 3), dtype=np.uint8))
    command = ["check", "params/fam/a.yaml", "--scale", "tiny", "-p", "clips=clips.npy"]
    output = call(*command)
    assert "clips: 8 for train, 1 for val, 1 for test, 10 of 10 had colours, made grey by Rec. 601" in output
    assert "resized by area, from 24×32\n  sequences of 16×16 pixels in them: " in output
    [entry] = json.loads(call(*command, "--json"))
    assert entry["clips"]["splits"] == {"train": 8, "val": 1, "test": 1}


def test_check_for_programs_has_the_same_numbers(project):
    [entry] = json.loads(call("check", "params/fam/a.yaml", "--scale", "tiny", "-p", "loss=0sb", "--json"))
    run = open_run("fam", DEFAULTS, TINY | {"loss": "0sb"})
    assert (entry["run"], entry["to_do"]) == (f"fam/{run.name}", "new")
    assert entry["prognosis"] == run.prognosis()
    assert entry["cost"]["updates"] == 4
    assert {level["split"] for level in entry["levels"]} == {"val"}


def test_check_reckons_with_what_was_measured_on_a_gpu(project, monkeypatch):
    item = {"card": "NVIDIA H100", "date": "2026-12-01T10:00:00+00:00", "commit": "abc", "ms": 90_000.0}
    item["key"] = cost_estimate.update_key(open_run("fam", DEFAULTS, TINY).parameters)
    (project / "recorded.json").write_text(json.dumps([item, item | {"key": "of another size"}]))
    monkeypatch.setattr(cost_estimate, "RECORDED_GPUS", project / "recorded.json")
    output = call("check", "params/fam/a.yaml", "--scale", "tiny")
    # 4 updates, and 2 evaluations of as many sequences as an update has
    assert "about 0:07:00 on an NVIDIA H100, where an update took 9e+04 ms (2026-12-01)" in output
    assert "no time on a GPU" not in output


def test_check_times_a_run_that_diverges_at_once(project):
    diverges = "-p optimizer=SGD -p learning_rate=1e30 -p clip_norm=null -p architecture=srivastava"
    output = call("check", "params/fam/a.yaml", "--scale", "tiny", *shlex.split(diverges))
    assert "timed updates" in output


@pytest.mark.processes  # `compare` prepares a kernel before it looks at its arguments
@pytest.mark.parametrize("command", ["status", "compare fam"])
@pytest.mark.parametrize("option", ["--scale tiny", "-p epochs=3"])
def test_what_is_for_parameter_files_is_refused_without_any(project, command, option):
    output = call(*shlex.split(f"{command} {option}"), code=2)
    assert output.startswith("seqae: --scale and -p apply to parameter files")


def test_operations_and_memory_of_a_small_lstm_counted_by_hand(monkeypatch):
    monkeypatch.setattr(cost_estimate, "SMALL", 0)  # nothing is trained
    monkeypatch.setattr(cost_estimate, "matmul_rate", partial(matmul_rate, size=256))
    given = {"architecture": "lstm", "decoder_input": "zero", "frame_size": 16, "batch_size": 3, "train_sequences": 7}
    found = cost_estimate.estimate_cost(resolve(given))
    # Per step one product of (4·256, 256) and (256, 3). Encoder: 10 of frames and 9 of h forward (the first h is
    # zero), 10 and 9 for the weights' gradients, 9 from step to step; decoder: 10 of h, 10 for the weights', 10 back.
    product = 2 * 3 * 4 * 256 * 256
    assert found.operations == (10 + 9 + 10 + 9 + 9 + 30) * product
    assert found.weights == 4 * 256 * (2 * 256 + 1) * 2
    assert found.updates == 200 * 3
    assert found.memory == 4 * found.weights * 4  # weights, gradients, two moments
    step = 256 * 3 * 4  # bytes: encoder and decoder keep, of 10 steps, h, i, f, g, o and tanh(c), and c of 11
    assert 2 * 71 * step <= found.activations < 2 * 100 * step  # beside frames, and what hands the state over
    evaluations = 200 * 334  # of 1,000 val sequences by threes, a third of an update each
    # At least every gate's product, sum and activation, in 20 steps forward and back, is an operation of its own.
    assert found.launches > 2 * 20 * 3
    assert found.times == 600 + evaluations / 3
    assert found.recorded == ()
    assert "matrix product" in found.how
    assert found.seconds > 0


@pytest.mark.parametrize("option", ["precision=tf32", "device=cuda"])
def test_check_says_no_time_where_this_machine_cannot_run_it(project, monkeypatch, option):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    reason = {"precision=tf32": "cpu has no tf32", "device=cuda": "device cuda is not available"}[option]
    output = call("check", "params/fam/a.yaml", "--scale", "tiny", "-p", option)
    assert f"updates: no time on this machine: {reason}" in output
    [entry] = json.loads(call("check", "params/fam/a.yaml", "--scale", "tiny", "-p", option, "--json"))
    assert entry["cost"]["seconds"] is None
    assert entry["cost"]["operations"] > 0
    output = call("run", "params/fam/a.yaml", "--scale", "tiny", "-p", option, "--dry-run")
    assert f"1 of 1 to run, 1 of them not timed: {reason}" in output


def test_check_tells_what_it_can_where_the_digits_cannot_be_fetched(monkeypatch, project):
    monkeypatch.setenv("SEQAE_MNIST_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(cost_estimate, "SMALL", 0)
    monkeypatch.setattr(cost_estimate, "matmul_rate", lambda **given: 1e10)
    output = call("check", "params/fam/a.yaml", "--scale", "tiny", "-p", "digits=mnist")
    assert "GFLOP an update" in output
    assert "could not be downloaded" in output
    assert "Connection refused" in output
    assert "HTTPConnectionPool" not in output


@pytest.mark.parametrize(("optimizer", "numbers"), [("SGD", 2), ("RMSprop", 3), ("Adam", 4)])
def test_memory_follows_the_optimizer(monkeypatch, optimizer, numbers):
    monkeypatch.setattr(cost_estimate, "SMALL", 0)
    monkeypatch.setattr(cost_estimate, "matmul_rate", lambda **given: 1e10)
    found = cost_estimate.estimate_cost(resolve(DEFAULTS, TINY, {"optimizer": optimizer}))
    assert found.memory == 4 * numbers * found.weights


# --- a label ---


def test_a_new_label_reaches_a_finished_run(project):
    run = open_run("fam", DEFAULTS, TINY | {"label": "old"}).train()
    (run.folder / "report.html").touch()
    run.rendered(cells_hash((project / "notebooks" / "fam.ipynb").read_text()))
    before = (run.folder / "metrics.csv").read_bytes()
    for label, recorded in (("new", "new"), ("none", None), ("second", "second")):
        assert "1 of 1 to run" not in call("run", "params/fam/a.yaml", "--scale", "tiny", "--dry-run")
        (project / "params/fam/a.yaml").write_text(f"label: {label}\n")
        call("run", "params/fam/a.yaml", "--scale", "tiny", "--dry-run")
        assert one_run(project / "reports", "fam").parameters.label != recorded
        assert "1 of 1 runs done" in call("run", "params/fam/a.yaml", "--scale", "tiny")
        assert one_run(project / "reports", "fam").parameters.label == recorded
    assert (run.folder / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_new_label_reaches_a_run_that_goes_on(project, status):
    run = open_run("fam", DEFAULTS, TINY | {"label": "old"})
    run.folder.mkdir(parents=True)
    run.update(status=status, reason="no luck")
    assert open_run("fam", DEFAULTS, TINY | {"label": "new"}).train().folder == run.folder
    assert one_run(project / "reports", "fam").parameters.label == "new"
    assert one_run(project / "reports", "fam").status == "done"


def test_two_labels_of_one_run_are_told(project):
    for name, label in (("a", "none"), ("b", "b"), ("c", "c"), ("d", "none")):
        (project / f"params/fam/{name}.yaml").write_text(f"label: {label}\n")
    said = call("run", "params/fam", "--scale", "tiny", "--dry-run")
    assert "has the labels 'b' and 'c' in two files: it gets the first" in said
    assert said.count("seqae: ") == 1
    assert "1 of 1 to run" in said
