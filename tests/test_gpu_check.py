"""`make gpu-check` without a GPU: what it would run is valid, faults are seen, and the command keeps its limits."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from seqae.benchmark import cost_estimate
from seqae.benchmark.gpu_check import __main__ as command
from seqae.benchmark.gpu_check import captured, commands, correctness, grid, sections, timing, training
from seqae.benchmark.gpu_check.checks import Checks, project_parameters
from seqae.runs import experiment, resolve
from seqae.sweeps import plan
from seqae.updates import gradients

PROJECT = Path(__file__).parents[1]
OUTCOMES = {"PASS", "FAIL", "SKIP"}
THERE = {"extra": "", "python_version": "3.12", "python_full_version": "3.12.0"}
INSTALLED = {canonicalize_name(found.name) for found in distributions()}


def checks_of(found, *, device="cpu", tiny=True, seconds=1000.0):
    return Checks(device=device, tiny=tiny, seconds=seconds, say=found.append)


def outcomes(found):
    return {said["check"]: said["outcome"] for said in found}


@pytest.fixture
def in_project(monkeypatch):
    monkeypatch.chdir(PROJECT)


@pytest.fixture
def page_writer():
    spec = importlib.util.spec_from_file_location("docs_gpu", PROJECT / "docs" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- what would run on a GPU is valid today ---


def test_every_case_of_a_gpu_has_valid_parameters(in_project):
    full = checks_of([], device="cuda", tiny=False)
    cases = [*correctness._cases(tiny=False), *timing._timing_cases(full)]
    cases += [
        (name, training._parameters(full, **given)) for name, given in training._training_cases(tiny=False, on_gpu=True)
    ]
    cases += [(name, grid._grid_parameters(full, f"0nm-{name}")) for name in grid.WAYS]
    models = {name: experiment.meta_model(p) for name, p in cases}
    for _, p in cases:
        experiment.update_rule(p)
    files = {file.stem for file in (PROJECT / "params" / "losses").glob("*.yaml")}
    assert {f"{loss}-{way}" for loss in grid.LOSSES_OF_GRID for way in grid.WAYS} == files
    assert len({name for name, _ in cases}) == len(cases) > 80
    assert {p.precision for _, p in cases} == {"none", "tf32", "bf16", "fp16"}
    weights = sum(weight.numel() for weight in models["full size, zero, bf16"].parameters())
    assert round(weights / 1e6) == 487


def test_every_optimizer_of_torch_is_tried():
    from seqae.runs.optimizers import UNFIT

    kinds = {name for name, kind in vars(torch.optim).items() if isinstance(kind, type)} - {"Optimizer"}
    assert {*training.OPTIMIZERS} == kinds - {*UNFIT}


@pytest.mark.parametrize("tiny", [True, False])
def test_its_commands_are_accepted(in_project, tmp_path, tiny):
    recipe = commands.recipe_command(checks_of([], device="cpu", tiny=tiny))
    words = iter(recipe[1:])
    files, scale, given = [], None, {}
    for word in words:
        if word == "--scale":
            scale = next(words)
        elif word == "-p":
            name, _, value = next(words).partition("=")
            given[name] = value
        elif word == "--jobs":
            next(words)
        else:
            files.append(PROJECT / word)
    [item] = plan(files, scale=scale, given=given, store=str(tmp_path))
    assert item.run.parameters.architecture == "convlstm"
    assert len(plan([PROJECT / "params/losses"], scale="smoke", store=str(tmp_path))) == commands.RUNS


# --- faults are seen ---


def test_what_is_right_passes_and_a_wrong_gradient_fails(monkeypatch):
    monkeypatch.setattr(correctness, "MODELS", {"lstm_copy": "output"})
    found = []
    correctness.check_correctness(checks_of(found))
    assert outcomes(found) == {"lstm_copy output": "PASS"}
    assert {*found[0]["figures"]} == {"none", "bf16", "bf16, small loss"}
    computed = correctness.computed

    def wrong(model, *given, double=False, **named):
        result = computed(model, *given, double=double, **named)
        if not double:
            next(iter(result.gradients.values())).mul_(1.2)
        return result

    monkeypatch.setattr(correctness, "computed", wrong)
    correctness.check_correctness(checks_of(found))
    assert found[1]["outcome"] == "FAIL"


def test_float16_inside_bfloat16_is_seen(monkeypatch):
    monkeypatch.setattr(correctness, "MODELS", {"lstm_copy": "zero"})
    computed = correctness.computed

    def in_float16(*given, factor=1.0, **named):
        result = computed(*given, factor=factor, **named)
        if factor == correctness.SMALL_FACTOR:
            for gradient in result.gradients.values():
                gradient.copy_((gradient * factor).half().double() / factor)
        return result

    monkeypatch.setattr(correctness, "computed", in_float16)
    correctness.check_correctness(checks_of(found := []))
    assert found[0]["outcome"] == "FAIL"
    assert "float16 inside" in found[0]["text"]


def test_errors_by_hand():
    one, zero = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    right = correctness.Computed({"pred": one}, torch.tensor(2.0), {"a": 100 * one, "b": zero})
    off = correctness.Computed({"pred": 1.5 * one}, torch.tensor(2.2), {"a": 101 * one, "b": 0.1 * one})
    errors = correctness.errors_of(off, right)
    assert errors.outputs == pytest.approx(0.5)
    assert errors.loss == pytest.approx(0.1)
    assert errors.gradients == pytest.approx(0.1)  # of b, beside a hundredth of a
    fewer = correctness.Computed({"pred": one}, torch.tensor(2.0), {"a": 100 * one})
    assert correctness.errors_of(fewer, right).gradients == float("inf")
    nothing = correctness.Errors64(float("nan"), 0.0, 0.0)
    assert not nothing.within((1, 1, 1))


def test_clipping_evaluation_and_a_resumed_training_pass(monkeypatch):
    monkeypatch.setattr(training, "_training_cases", lambda **given: [("Adam", {"optimizer": "Adam"})])
    training.check_training(checks_of(found := []))
    assert outcomes(found) == dict.fromkeys(["clipping", "evaluation", "Adam"], "PASS")


@pytest.mark.parametrize(
    ("unbroken", "resumed"), [([0.5, 0.4], [0.41]), ([0.5, 0.5], [0.5]), ([float("nan")] * 2, [float("nan")])]
)
def test_a_training_that_goes_wrong_fails(monkeypatch, unbroken, resumed):
    told = iter([unbroken, unbroken[:1], resumed])
    monkeypatch.setattr(training, "_objectives", lambda *given: next(told))
    found = []
    checks = checks_of(found, device="cpu")
    training._check_resumed(checks, "x", training._parameters(checks))
    assert outcomes(found) == {"x": "FAIL"}


def test_targets_of_an_update():
    good = {"× lstmcell_loop": 2.5, "× nn_lstm": 1.0, "waits": 1}
    assert timing.missed_targets(good) == []
    assert timing.missed_targets({"waits": None}) == []
    slow = {"× lstmcell_loop": 1.9, "× nn_lstm": float("nan"), "waits": 2}
    assert len(timing.missed_targets(slow)) == 3


def test_the_timed_update_is_that_of_the_training_and_is_counted(in_project):
    p = resolve({"loss": "0nm", "task": "both", "frame_size": 16, "width": 0.01, "batch_size": 2, "frames_in": 3,
                 "frames_out": 3, "decoder_input": "zero"})  # fmt: skip
    ready = timing.prepared(p, "cpu")
    before = [weight.clone() for weight in ready.model.parameters()]
    assert timing.launched(ready.update, "cpu") > 20
    assert any(not torch.equal(old, new) for old, new in zip(before, ready.model.parameters(), strict=True))
    assert captured.captured_update(ready.inputs) is None
    checks = checks_of(found := [])
    timing._check_update(checks, "update", p, 1e12, 0.0)
    assert outcomes(found) == {"update, captured": "SKIP", "update": "PASS"}
    figures = found[1]["figures"]
    assert figures["ms"] == figures["eager_ms"] > 0
    assert figures["× nn_lstm"] == figures["nn_lstm"] / figures["ms"]
    assert figures["share"] == pytest.approx(figures["operations"] / figures["ms"] / 1e9)


@pytest.mark.parametrize(("wrong", "off"), [(1.0, 0.0), (1.25, 0.25)])
def test_captured_gradients_are_held_against_eager_ones(monkeypatch, wrong, off):
    class Stand:
        """In the place of `seqae.capture`, on a CPU."""

        def __init__(self, batch_size):
            self.replay = print

        def __call__(self, net, batch, **given):
            result = gradients(net, batch, **given)
            for weight in net.parameters():
                if weight.grad is not None:
                    weight.grad.mul_(wrong)
            return result

    monkeypatch.setattr(captured, "CapturedGradients", Stand)
    monkeypatch.setattr(captured, "can_capture", lambda *given: True)
    p = resolve({"loss": "0nm", "frame_size": 16, "width": 0.01, "batch_size": 2, "frames_in": 3, "frames_out": 3})
    ready = timing.prepared(p, "cpu")
    found = captured.captured_update(ready.inputs)
    assert found.off == pytest.approx(off)
    monkeypatch.setattr(Stand, "__init__", lambda self, batch_size: setattr(self, "replay", None))
    with pytest.raises(RuntimeError, match="not captured"):
        captured.captured_update(ready.inputs)


def test_the_grid_is_reckoned_by_hand():
    took = {
        "0nm-both-output": {"start": 4.0, "epoch": 2.0},
        "0nm-both-zero": {"start": 4.0, "epoch": 1.0},
        "0nm-pred-output": {"start": 2.0, "epoch": 1.0},
    }
    # reading zero halves an epoch of both, so it does of the others
    ways = (4 + 20) + (4 + 10) + 2 * (2 + 10) + 2 * (2 + 5)
    assert grid.reckoned_grid(took) == pytest.approx(5 * ways)
    took["0sb-recon-zero"] = {"start": 3.0, "epoch": 3.0}
    assert grid.reckoned_grid(took) == pytest.approx(5 * (ways - (2 + 5) + (3 + 30)))


def test_no_grid_is_reckoned_where_a_run_failed(monkeypatch):
    def trained(checks, name):
        if "zero" in name:
            raise torch.OutOfMemoryError("too large")
        return {"seconds": 1.0, "epoch": 1.0, "start": 1.0}

    monkeypatch.setattr(grid, "_trained", trained)
    grid.check_grid(checks_of(found := []))
    assert [(said["check"], said["outcome"]) for said in found] == [("grid 0nm-both-zero", "FAIL")]


# --- the command ---


def in_python(code):
    return [sys.executable, "-c", code]


SAYS = 'print(\'{"check": "a", "outcome": "PASS", "text": "", "figures": {}}\', flush=True)\n'


@pytest.mark.processes("processes that die and hang")
def test_a_section_that_dies_or_hangs_keeps_what_it_said():
    found = []
    noise = "print('noise', 3, sep='\\n'); import sys; sys.stderr.write('50% 1step/s\\rwarned')"
    assert sections.run_process(in_python(SAYS + noise), 60, found.append) == (None, "warned")
    assert outcomes(found) == {"a": "PASS"}
    died = sections.run_process(in_python(SAYS + "import sys; sys.exit('no memory')"), 60, found.append)
    assert died == ("it died with exit code 1", "no memory")
    # It ignores Ctrl-C, and so does what it has started, which holds the pipe.
    deaf = "import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); pid = os.fork()\n"
    hangs = deaf + "if pid: print('{\"pid\": %d}' % pid, flush=True)\ntime.sleep(600)"
    began = time.monotonic()
    why, _ = sections.run_process(in_python(hangs), 10, found.append)
    assert why == "no end after 10 s, killed"
    assert time.monotonic() - began < 60
    assert len(found) == 3
    status = Path(f"/proc/{found[-1]['pid']}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_a_section_for_which_too_little_is_left_is_skipped_and_says_so():
    told = []
    found = sections.run_section(sections.SECTIONS[0], left=25, device="cuda", tiny=False, tell=told.append)
    assert found["seconds"] == 0
    assert told == found["checks"]
    assert outcomes(told) == {"correctness": "SKIP"}
    assert "needs 30 seconds, and 25 of the limit are left" in told[0]["text"]


def test_of_a_section_that_is_ended_halfway_its_checks_are_in_the_file(monkeypatch, tmp_path):
    def ended(section, *, tell, **given):
        tell({"check": "first", "outcome": "PASS", "text": "fine"})
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_section", ended)
    with pytest.raises(KeyboardInterrupt):
        command.run_sections(["timing"], out := tmp_path / "out.json", limit=9, device="cpu", tiny=True, tell=str)
    assert outcomes(json.loads(out.read_text())["sections"]["timing"]["checks"]) == {"first": "PASS"}


def test_one_that_fails_without_a_check_is_a_failure(monkeypatch):
    given = {"left": 100.0, "device": "cpu", "tiny": True, "tell": lambda said: None}
    monkeypatch.setattr(sections, "run_process", lambda *arguments: (None, ""))
    assert outcomes(sections.run_section(sections.SECTIONS[0], **given)["checks"]) == {"correctness": "FAIL"}
    monkeypatch.setattr(sections, "run_process", lambda *arguments: ("it died", "Traceback"))
    found = sections.run_section(sections.SECTIONS[0], **given)
    assert outcomes(found["checks"]) == {"correctness": "FAIL"}
    assert found["checks"][0]["text"] == "it died; it said last: Traceback"
    assert found["log"] == "Traceback"


def test_figures_are_written_after_each_section_and_decide_the_exit_code(monkeypatch, tmp_path, capsys):
    out, lefts = tmp_path / "found.json", []

    def run_section(section, *, left, tell, **given):
        if lefts:
            assert [*json.loads(out.read_text())["sections"]] == ["fork"]
        lefts.append(left)
        said = {
            "check": "x",
            "outcome": "PASS" if section.name == "fork" else "FAIL",
            "text": "3 ms",
            "figures": {"ms": 3},
        }
        tell(said)
        return {"seconds": 1.0, "checks": [said]}

    monkeypatch.setattr(command, "run_section", run_section)
    monkeypatch.setattr(command.signal, "signal", lambda *given: None)
    arguments = ["--limit", "100", "--out", str(out), "--device", "cpu", "--commit", "abc"]
    assert command.main([*arguments, "fork"]) == 0
    lefts.clear()
    assert command.main([*arguments, "fork", "grid"]) == 1
    assert 90 < lefts[1] <= lefts[0] < 100
    found = json.loads(out.read_text())
    assert found["sections"]["grid"]["checks"][0]["figures"] == {"ms": 3}
    assert found["machine"]["card"] is None
    assert found["machine"]["commit"] == "abc"
    assert found["machine"]["torch"] == torch.__version__
    lines = capsys.readouterr().out.splitlines()
    assert "FAIL x: 3 ms" in lines
    assert lines[-1].startswith("No GPU was measured")


def test_a_gpu_that_torch_cannot_use_is_no_cpu(monkeypatch, capsys):
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command.signal, "signal", lambda *given: None)
    monkeypatch.setattr(command, "_nvidia_smi", lambda what: "")
    assert command.chosen_device("auto", tiny=False) == ("cpu", True)
    assert command.chosen_device("cpu", tiny=False) == ("cpu", True)
    assert command.main(["--device", "cuda"]) == 2
    monkeypatch.setattr(command, "_nvidia_smi", lambda what: "NVIDIA H100, 400.1")
    assert command.main([]) == 2
    said = capsys.readouterr().err
    assert "this machine has NVIDIA H100, 400.1: update driver or torch" in said
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: True)
    assert command.chosen_device("auto", tiny=False) == ("cuda", False)


# --- the page, and what `seqae check` reckons with ---

MACHINE = {
    "card": "NVIDIA H100", "driver": "580", "torch": "2.11.0", "cuda": "13.0", "cudnn": 9, "python": "3.12.3",
    "cores": 16, "device": "cuda", "sizes": "full",
    "date": "2026-12-01T10:00:00+00:00", "commit": "abc", "sources": "def",
}  # fmt: skip


def found_file(folder, name, section, *checks, **machine):
    whole = [{"check": "x", "outcome": "PASS", "text": "", "figures": {}} | check for check in checks]
    content = {"machine": MACHINE | machine, "seconds": 1, "sections": {section: {"seconds": 1, "checks": whole}}}
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_the_page_says_what_was_measured_and_check_reckons_with_it(in_project, page_writer, tmp_path, monkeypatch):
    p = project_parameters("performance", "256-64-32-zero", "paper")
    figures = {"key": cost_estimate.update_key(p), "ms": 2.0, "eager_ms": 5.0, "× lstmcell_loop": 3.0, "share": 0.25}
    timed = found_file(tmp_path, "a.json", "timing", {"check": "update 256", "figures": figures})
    forked = found_file(tmp_path, "b.json", "fork", {"check": "a forked process", "text": "computed"})
    page, package = tmp_path / "gpu.md", tmp_path / "recorded.json"
    page.write_text((PROJECT / "docs" / "gpu.md").read_text())
    package.write_text("[]")
    said = page_writer.main([timed, forked], page, package)
    assert said.startswith("On an NVIDIA H100, all checks pass")
    text = page.read_text()
    assert text.splitlines()[0] == "# On a GPU: figures of an NVIDIA H100, 2026-12-01, commit abc"
    assert "| 256 | 2 | 5 | 3 | – | – | – | – | 25 |" in text
    assert "- PASS fork: a forked process: computed" in text
    assert "None yet" not in text
    assert page_writer.main([timed], page, package)  # a second time, to the same file
    monkeypatch.setattr(cost_estimate, "RECORDED_GPUS", package)
    [entry] = cost_estimate.recorded_updates(p.model_copy(update={"epochs": 3, "seed": 1}))
    assert (entry.ms, entry.card, entry.date) == (2.0, "NVIDIA H100", MACHINE["date"])
    assert cost_estimate.recorded_updates(p.model_copy(update={"batch_size": 33})) == ()
    assert cost_estimate.recorded_updates(p.model_copy(update={"precision": "bf16"})) == ()


@pytest.mark.parametrize("machine", [{"card": None}, {"sizes": "tiny"}])
def test_figures_of_no_gpu_are_refused(page_writer, tmp_path, machine):
    with pytest.raises(SystemExit, match="measured no GPU"):
        page_writer.read_found([found_file(tmp_path, "a.json", "fork", **machine)])


def test_figures_of_two_cards_are_refused(page_writer, tmp_path):
    files = [found_file(tmp_path, "a.json", "fork"), found_file(tmp_path, "b.json", "fork", card="NVIDIA H200")]
    with pytest.raises(SystemExit, match="another card"):
        page_writer.read_found(files)


def test_the_page_the_package_and_readme_agree_on_whether_there_are_figures():
    first = (PROJECT / "docs" / "gpu.md").read_text().splitlines()[0]
    recorded = json.loads(cost_estimate.RECORDED_GPUS.read_text())
    assert ("no figures were taken yet" in first) == (recorded == [])


def needed_by(names: set[str]) -> set[str]:
    """These packages, and all that they need wherever they are installed, and what that needs."""
    found, waiting = set(), [*names]
    while waiting:
        if (name := canonicalize_name(waiting.pop())) not in found:
            found.add(name)
            asked = map(Requirement, (requires(name) if name in INSTALLED else None) or ())
            waiting += [each.name for each in asked if not each.marker or each.marker.evaluate(THERE)]
    return found


def test_the_wheels_are_ours_and_lack_no_dependency():
    """At our pins; what usually comes with torch is named on the page."""
    listed = dict(line.split("==") for line in (PROJECT / "docs" / "gpu-wheels.txt").read_text().split())
    pins = dict(
        line.split("==")
        for line in (PROJECT / "constraints.txt").read_text().splitlines()
        if "==" in line and line[0] != "#"
    )
    assert {name: listed[name] for name in pins if name in listed} == {n: pins[n] for n in pins if n in listed}
    page = (PROJECT / "docs" / "gpu.md").read_text()
    usual = {*re.search(r"usually come with it \((.*?)\)", page)[1].split(", ")}
    direct = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = needed_by({Requirement(line).name for line in direct})
    assert needed - listed.keys() - needed_by({"torch", *usual}) == {"av"}
    assert f"{len(listed)} wheels" in page


@pytest.mark.soak
def test_all_of_it_on_the_cpu(tmp_path):
    """The rehearsal: every section, at tiny sizes."""
    out = tmp_path / "found.json"
    arguments = ["-m", "seqae.benchmark.gpu_check", "--device", "cpu", "--limit", "1500", "--out", str(out)]
    said = subprocess.run([sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
    found = json.loads(out.read_text())["sections"]
    assert [*found] == [section.name for section in sections.SECTIONS]
    lines = [check for section in found.values() for check in section["checks"]]
    assert {check["outcome"] for check in lines} <= OUTCOMES - {"FAIL"}
    assert [check for check in lines if check["outcome"] == "SKIP" and "captured" not in check["check"]] == []
    assert "No GPU was measured" in said.stdout


@pytest.mark.soak
def test_every_architecture_is_right_on_the_cpu():
    """Of a GPU's sizes, but for the largest and for what only a GPU has."""
    checks = checks_of(found := [])
    for name, p in correctness._cases(tiny=False):
        if "large" not in name:
            correctness._check_case(checks, name, p)
    assert [said for said in found if said["outcome"] != "PASS"] == []
    assert len(found) > 30


@pytest.mark.soak
def test_asked_to_stop_it_leaves_what_it_found(tmp_path):
    """As where a batch system ends it."""
    out = tmp_path / "found.json"
    arguments = ["-m", "seqae.benchmark.gpu_check", "--device", "cpu", "--out", str(out), "fork", "training"]
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not out.exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert json.loads(out.read_text())["sections"]["fork"]["checks"]
