"""In Jupyter: a real kernel whose cell is interrupted, a curve that grows, code that is edited; real JupyterLab."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from queue import Empty

import nbformat
import papermill
import pytest
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.manager import start_new_kernel

import seqae
from seqae.sweeps.parameter_files import read_yaml

ROOT = Path(__file__).parents[1]
LIMIT = 120  # seconds that nothing here takes: then it hangs
SMALL = {
    "loss": "0nm", "task": "recon", "frame_size": 16, "width": 0.01, "epochs": 100, "batch_size": 8,
    "train_sequences": 24, "val_sequences": 8, "test_sequences": 8, "checkpoint_seconds": 0,
}  # fmt: skip
OF_RUNS = ["losses", "demo", "rerun", "compare"]  # opened in JupyterLab in this order: the others show a run of losses
LAB = [*OF_RUNS, *sorted({file.stem for file in (ROOT / "notebooks").glob("*.ipynb")} - {*OF_RUNS})]
UNMOVED = {"rerun", "compare", "diary", "performance"}  # they show no sequence of frames

pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the libraries that open kernels
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Kernel:
    """A kernel, a cell at a time."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{folder}", "OMP_NUM_THREADS": "1"}
        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=str(folder), env=environment)

    def run(self, code: str, until: Path | None = None) -> tuple[list[dict], str | None]:
        """The contents of the messages that a cell gives, and its error's name; interrupted once `until` exists."""
        asked, outputs, deadline = self.client.execute(code), [], time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            if until and until.exists():
                self.manager.interrupt_kernel()
                until = None
            try:
                message = self.client.get_iopub_msg(timeout=0.1)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["content"].get("execution_state") == "idle":
                errors = [output["ename"] for output in outputs if "ename" in output]
                return outputs, errors[0] if errors else None
            outputs.append(message["content"] | {"kind": message["msg_type"]})
        raise TimeoutError(code)

    def text(self, code: str) -> str:
        """What a cell prints."""
        outputs, error = self.run(code)
        assert error is None, [output.get("traceback") for output in outputs]
        return "".join(output["text"] for output in outputs if output.get("name") == "stdout").strip()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package, to be edited."""
    folder = tmp_path_factory.mktemp("edited")
    shutil.copytree(Path(seqae.__file__).parent, folder / "seqae", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def kernel(package):
    started = Kernel(package)
    assert started.text("import seqae; print(seqae.__file__)").startswith(str(package))
    yield started
    started.client.stop_channels()
    started.manager.shutdown_kernel(now=True)


def pictures(outputs: list[dict]) -> list[str]:
    kinds = ("display_data", "update_display_data")
    return [
        out["metadata"]["image/png"]["alt"] for out in outputs if out["kind"] in kinds and "image/png" in out["data"]
    ]


def test_an_interrupted_cell_keeps_its_checkpoint_and_goes_on_from_it(kernel, package):
    kernel.text(f"from seqae import open_run\nrun = open_run('losses', {SMALL!r}, dict(store='{package}/broken'))")
    folder = Path(kernel.text("print(run.folder)"))
    outputs, error = kernel.run("run.train()", until=folder / "checkpoint" / "state.pt")
    assert error == "KeyboardInterrupt"
    [line] = next(output["traceback"] for output in outputs if "ename" in output)
    assert re.fullmatch(
        r"Interrupted after epoch \d+ of 100; the checkpoint is kept. Run this cell again to go on.", line
    )
    assert pictures(outputs)[0].startswith("epoch 1 of 100: val 0.")
    assert kernel.text("print(run.status)") == "interrupted"
    reached = int(kernel.text("print(run.metrics().epoch.max())"))
    assert 1 <= reached < 100

    outputs, error = kernel.run("run.train()")
    assert error is None
    assert pictures(outputs)[-1].startswith("epoch 100 of 100"), "the last epoch is always drawn"
    assert all(f"epoch {i} of" not in "".join(pictures(outputs)) for i in range(1, reached)), "it did not begin anew"
    [result] = [output["data"] for output in outputs if output["kind"] == "execute_result"]
    assert "<table><caption>losses/0nm-recon" in result["text/html"]
    whole = f"whole = open_run('losses', {SMALL!r}, dict(store='{package}/whole')).train()\n"
    columns = "columns = ['epoch', 'split', 'metric', 'value']\n"
    same = "print(run.metrics()[columns].equals(whole.metrics()[columns]))"
    assert kernel.text(whole + columns + same) == "True"


def test_in_a_sweep_nothing_is_drawn(kernel, package):
    run = f"open_run('losses', {SMALL!r}, dict(store='{package}/swept', epochs=1))"
    kernel.text(f"from seqae.runs import assignment\nassignment.assign({run}.name)")
    outputs, error = kernel.run(f"{run}.train()")
    kernel.text("assignment._current = None")
    assert error is None
    assert pictures(outputs) == []


def test_code_that_is_edited_is_reloaded_and_objects_of_before_follow(kernel, package):
    kernel.text("%load_ext autoreload\n%autoreload 2\nfrom seqae.reports.figures import style")
    said = kernel.text("print(style.AXIS_LABELS['learning_rate'], run.name == run.folder.name)")
    assert said == "learning rate True"
    for name, old, new in (("reports/figures/style", '"learning rate"', '"pace"'),
                           ("runs/folder", "    return self.folder.name\n", "    return 'edited'\n")):  # fmt: skip
        file = package / "seqae" / f"{name}.py"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        os.utime(
            file, (time.time() + 5, time.time() + 5)
        )  # later than when it was imported, whatever the clock's grain
    assert kernel.text("print(style.AXIS_LABELS['learning_rate'], run.name, type(run).__name__)") == "pace edited Run"
    assert kernel.text("print(type(open_run('losses', run.parameters.model_dump())) is type(run))") == "True"


# --- JupyterLab ---


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the project at smoke scale: its folder and its address."""
    home = tmp_path_factory.mktemp("lab")
    project, settings = home / "project", home / "settings" / "@jupyterlab" / "notebook-extension"
    for folder in ("notebooks", "params"):
        shutil.copytree(ROOT / folder, project / folder)
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')  # every cell is in the page
    # A kernel a notebook, forked as in a sweep: a dozen would import for ten seconds each.
    spec = get_kernel_dict() | {"metadata": {"kernel_provisioner": {"provisioner_name": "seqae-fork"}}}
    (home / "data" / "kernels" / "python3").mkdir(parents=True)
    (home / "data" / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    places = {"JUPYTERLAB_SETTINGS_DIR": settings.parents[1], "JUPYTER_RUNTIME_DIR": home / "runtime",
              "JUPYTER_CONFIG_DIR": home / "config", "IPYTHONDIR": home / "ipython",
              "JUPYTER_PATH": home / "data"}  # fmt: skip
    environment = (
        os.environ
        | {key: str(path) for key, path in places.items()}
        | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{ROOT}", "OMP_NUM_THREADS": "1"}
    )
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        "--port=0",
    ]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + LIMIT
        address = None
        while address is None:
            assert server.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.1)
            for file in (home / "runtime").glob("jpserver-*.json"):
                with suppress(ValueError):  # it is still being written
                    address = json.loads(file.read_text())["url"]
        yield project, address
    finally:
        server.terminate()  # its kernels with it
        server.wait()


def edited(notebook: Path, project: Path) -> None:
    """What one would edit by hand in the parameters cell, in a cell below it, as papermill does."""
    name, params = notebook.stem, project / "params"
    if (params / name).exists():
        found = [params / "scale/smoke.yaml", params / name / "scale/smoke.yaml"]
        values = {key: value for file in found if file.exists() for key, value in read_yaml(file).items()}
    elif name == "diary":
        values = {"width": 0.01, "train_sequences": 24, "val_sequences": 8, "batch_size": 4, "epochs": 2}
    elif name == "rerun":
        [folder] = [path.parent for path in project.glob("reports/losses/*/run.yaml")]
        values = dict.fromkeys(["original", "again"], f"losses/{folder.name}")
    else:
        return
    node = papermill.iorw.load_notebook_node(str(notebook))
    nbformat.write(papermill.parameterize.parameterize_notebook(node, values), notebook)


@pytest.mark.skipif(find_spec("jupyterlab") is None, reason="jupyterlab is optional")
@pytest.mark.parametrize("name", LAB)
def test_the_notebook_runs_top_to_bottom_in_jupyterlab(lab, browser, name):
    project, address = lab
    notebook = project / "notebooks" / f"{name}.ipynb"
    edited(notebook, project)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(f"{address}lab/tree/notebooks/{notebook.name}?reset", wait_until="commit")  # no other tab
    page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for(timeout=1000 * LIMIT)
    page.get_by_text("| Idle").wait_for(timeout=1000 * LIMIT)  # the kernel, in the status bar
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt")
    errors = page.locator(".jp-OutputArea-output", has_text="Traceback (most recent call last)")
    deadline = time.monotonic() + LIMIT
    while not all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts.all_inner_texts()):
        assert errors.all_inner_texts() == []
        assert time.monotonic() < deadline, prompts.all_inner_texts()
        page.wait_for_timeout(200)
    assert errors.all_inner_texts() == []
    player = page.locator(".seqae-player")
    assert player.count() == (name not in UNMOVED)
    if player.count():
        first = player.locator("output").inner_text()
        player.get_by_role("button", name="One frame on").click()
        assert player.locator("output").inner_text() != first
    page.close()
