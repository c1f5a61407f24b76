"""Kernels forked from a process that has imported everything: processes of their own, that die with their parents."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from PIL import Image
from test_sweep import make_project

from seqae.sweeps import notebooks
from seqae.sweeps.execution import execute
from seqae.sweeps.fork_server import fork_kernel
from seqae.sweeps.notebooks import execute_notebook
from seqae.sweeps.pages import execute_page
from seqae.sweeps.planning import plan

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
LOOK = """
import json, os, random, sys
import numpy
found = {"pid": os.getpid(), "parent": os.getppid(), "group": os.getpgrp(), "said": os.environ.get("SAID")}
found |= {"torch": "torch" in sys.modules, "numpy": numpy.random.random(), "python": random.random()}
print(json.dumps(found))
"""


def notebook(source):
    return json.dumps(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]))


def executed(tmp_path, name, source, **environment):
    target = tmp_path / f"{name}.ipynb"
    reason = execute_notebook(notebook(source), target, name=name, parameters={}, environment=environment)
    outputs = nbformat.read(target, 4).cells[-1].outputs
    return reason, outputs


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids, seconds=60):
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(alive, pids))


def test_each_kernel_is_a_process_of_its_own(tmp_path):
    first = json.loads(executed(tmp_path, "one", LOOK, SAID="one")[1][0].text)
    for stop in (signal.SIGINT, signal.SIGTERM):  # as Slurm sends to all processes of a job: the server serves on
        os.kill(first["parent"], stop)
    second = json.loads(executed(tmp_path, "two", LOOK, SAID="two")[1][0].text)
    assert first["pid"] != second["pid"]
    assert first["parent"] == second["parent"] != os.getpid()  # the server
    assert [first["said"], second["said"]] == ["one", "two"]
    assert first["group"] == first["pid"]
    assert first["torch"], "imported before the notebook asked for it"
    assert first["numpy"] != second["numpy"]
    assert first["python"] != second["python"]
    assert gone([first["pid"], second["pid"]])


def test_a_kernel_works_in_the_notebooks_folder_as_in_jupyter(tmp_path, monkeypatch):
    """Wherever the command was typed: what lies beside it is read, imported and written there."""
    beside, typed = tmp_path / "notebooks", tmp_path / "typed"
    for folder in (beside, typed):
        folder.mkdir()
    (beside / "helper.py").write_text("told = open('beside.txt').read()")
    (beside / "beside.txt").write_text("beside")
    monkeypatch.chdir(typed)
    source = "import os, helper\nopen('left.txt', 'w')\nprint(os.getcwd(), helper.told)"

    def found(folder):
        target = tmp_path / "out.ipynb"
        told = {"name": "x", "environment": {}, "parameters": {}}
        reason = execute_notebook(notebook(source), target, folder=folder, **told)
        assert reason is None, reason
        return nbformat.read(target, 4).cells[-1].outputs[-1].text.split()

    assert found(beside) == [str(beside), "beside"]
    assert (beside / "left.txt").exists()
    assert not (typed / "left.txt").exists()
    for name in ("helper.py", "beside.txt"):
        (beside / name).rename(typed / name)
    assert found(tmp_path / "on another machine") == [str(typed), "beside"]


def test_what_lies_beside_a_notebook_is_found_by_its_run_and_its_page(tmp_path, monkeypatch):
    """Data that a cell reads, and a picture that a text shows, wherever the command was typed."""
    project = make_project(tmp_path / "project", {"fam": ["print(open('beside.txt').read())"]}, {"fam/a": {}})
    file = project / "notebooks" / "fam.ipynb"
    (source := nbformat.read(file, 4)).cells.append(nbformat.v4.new_markdown_cell("![a square](square.png)"))
    nbformat.write(source, file)
    (file.parent / "beside.txt").write_text("what lies beside it")
    Image.new("L", (4, 4)).save(file.parent / "square.png")
    monkeypatch.chdir(tmp_path)
    (item,) = plan([project / "params" / "fam"], scale="tiny", store=str(tmp_path / "store"))
    assert "ended without training" in execute(item).reason
    told = {"title": "a page", "rows": [], "parameters": {}, "store": tmp_path}
    for page in (item.run.folder / "report.html", execute_page(file, tmp_path / "a" / "page.html", **told).file):
        assert "what lies beside it" in page.read_text()
        assert 'src="data:image/png;base64,' in page.read_text()


@pytest.mark.soak
def test_a_prepared_server_forks_the_first_kernel(tmp_path):
    (tmp_path / "look.ipynb").write_text(notebook("import os\nprint(os.getppid())"))
    (tmp_path / "seqae").mkdir()  # as git clone leaves it in a home folder, where ssh begins
    prepared = """if True:
        import psutil, nbformat
        from pathlib import Path
        from seqae.sweeps import fork_server, notebooks
        fork_server.start_fork_server()
        (server,) = psutil.Process().children()
        source, target = Path("look.ipynb").read_text(), Path("done.ipynb")
        reason = notebooks.execute_notebook(source, target, name="look", parameters={}, environment={})
        assert reason is None, reason
        print(server.pid, nbformat.read(target, 4).cells[-1].outputs[0].text)"""
    command = [sys.executable, "-P", "-W", "ignore", "-c", prepared]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == said[1]


def test_what_a_notebook_changes_stays_in_its_kernel(tmp_path):
    executed(tmp_path, "one", "import seqae.losses, torch; seqae.losses.activate = None; torch.set_num_threads(1)")
    reason, _ = executed(tmp_path, "two", "import seqae.losses; assert seqae.losses.activate is not None")
    assert reason is None


def test_figures_are_shown_as_pictures_with_their_alt_text(tmp_path):
    source = "import pylab\nfrom seqae.reports import figures\n"
    source += "figures.show(pylab.subplots()[0], 'empty')\npylab.plot([1])"
    reason, outputs = executed(tmp_path, "figure", source)
    assert reason is None
    pictures = [output for output in outputs if "image/svg+xml" in output.get("data", {})]
    assert [output.metadata["image/svg+xml"]["alt"] for output in pictures] == ["empty"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1, "one's own, by Jupyter itself"


def test_a_kernel_that_dies_is_told_and_the_next_one_works(tmp_path):
    reason, _ = executed(tmp_path, "dies", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "kernel died" in reason
    assert executed(tmp_path, "lives", "1")[0] is None


@pytest.mark.parametrize("dying", [notebooks.KERNEL_STARTS - 1, notebooks.KERNEL_STARTS])
def test_a_kernel_that_dies_before_it_runs_anything_is_started_again(tmp_path, monkeypatch, dying):
    started = []

    def fork(*arguments, **options):
        started.append(fork_kernel(*arguments, **options))
        if len(started) <= dying:
            os.kill(started[-1].pid, signal.SIGKILL)
        return started[-1]

    monkeypatch.setattr(notebooks, "fork_kernel", fork)
    found = execute_notebook(notebook("1"), tmp_path / "out.ipynb", name="x", parameters={}, environment={})
    assert found == (None if dying < notebooks.KERNEL_STARTS else notebooks.NOT_STARTED)
    assert len(started) == notebooks.KERNEL_STARTS


def test_a_kernel_that_is_to_be_stopped_while_it_starts_never_runs(tmp_path):
    target, source = tmp_path / "out.ipynb", notebook(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with notebooks.stoppable(target):
        notebooks.stop_kernels({target})
        with pytest.raises(notebooks.StoppedError):
            execute_notebook(source, target, name="x", parameters={}, environment={})
    assert not (tmp_path / "ran").exists()


class Ending(dict):
    """The first of its kernels ends while somebody lists them, as the threads of other runs may."""

    def __iter__(self):
        listed = [*self.keys()]
        self.pop(listed[0])
        return iter(listed)


def test_a_worker_that_is_asked_to_end_waits_until_its_run_is_published(tmp_path, monkeypatch):
    """`obey_signals` waits as long as there is one in `_kernels`."""
    target = tmp_path / "notebook.ipynb"

    def stopped(target, *others, **options):
        notebooks.stop_kernels()
        raise notebooks.StoppedError

    monkeypatch.setattr(notebooks, "_execute", stopped)
    with notebooks.stoppable(target):
        with pytest.raises(notebooks.StoppedError):
            notebooks.execute_notebook("{}", target, name="n", parameters={}, environment={})
        assert notebooks._kernels == {target: None}
    assert notebooks._kernels == {}
    with pytest.raises(notebooks.StoppedError):  # of a page, which is not published like that
        notebooks.execute_notebook("{}", target, name="n", parameters={}, environment={})
    assert notebooks._kernels == {}


def test_a_kernel_that_ends_meanwhile_does_not_keep_the_others_running(monkeypatch):
    stopped = []
    monkeypatch.setattr(notebooks, "Thread", lambda target, args, daemon: SimpleNamespace(start=lambda: target(*args)))
    monkeypatch.setattr(notebooks, "_end", stopped.append)
    monkeypatch.setattr(notebooks, "_kernels", Ending({Path("first"): 1, Path("second"): 2}))
    notebooks.stop_kernels()
    assert stopped == [2]


DEAF = """
import pathlib, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as between cells
pathlib.Path({0!r}, "deaf").touch()
time.sleep(1)
try:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path({0!r}, "heard").touch()
    time.sleep(1)  # a checkpoint is written
    pathlib.Path({0!r}, "ended").touch()
    {1}
"""


@pytest.mark.parametrize("ends", ["raise", "raise RuntimeError('in other words')"])
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "unseen"])
@pytest.mark.soak
def test_a_kernel_that_does_not_hear_it_is_asked_again_and_then_left_to_end(tmp_path, monkeypatch, ends, seen):
    if not seen:  # where there is no /proc; then its end may be disturbed
        monkeypatch.setattr(notebooks, "_accepts_sigint", lambda pid: None)
    target, source = tmp_path / "out.ipynb", notebook(DEAF.format(str(tmp_path), ends))

    def stop():
        while not (tmp_path / "deaf").exists():
            time.sleep(0.01)
        notebooks.stop_kernels({target})

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stop)
        with pytest.raises(notebooks.StoppedError):
            execute_notebook(source, target, name="x", parameters={}, environment={})
        asked.result()
    assert (tmp_path / "heard").exists()
    assert (tmp_path / "ended").exists() or not seen


@pytest.mark.soak
def test_when_the_server_dies_another_one_takes_its_place(tmp_path):
    server = json.loads(executed(tmp_path, "one", LOOK)[1][0].text)["parent"]
    os.kill(server, signal.SIGKILL)
    assert gone([server])
    reason, outputs = executed(tmp_path, "two", LOOK)
    assert reason is None
    assert json.loads(outputs[0].text)["parent"] != server


@pytest.mark.soak
def test_all_who_find_the_server_dead_get_their_kernels_from_one_other(tmp_path):
    server = json.loads(executed(tmp_path, "one", LOOK)[1][0].text)["parent"]
    os.kill(server, signal.SIGKILL)
    assert gone([server])

    def parent(_: int) -> int:
        kernel = fork_kernel([], env=os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path)}, cwd=None)
        found = psutil.Process(kernel.pid).ppid()
        kernel.kill()
        return found

    with ThreadPoolExecutor(4) as pool:
        (other,) = {*pool.map(parent, range(4))}
    assert other != server


PARENT = """
from pathlib import Path
from tests_notebook import notebook
from seqae.sweeps.notebooks import execute_notebook
source = notebook(
    "import os, time, pathlib\\n"
    "pathlib.Path('pids').write_text(f'{os.getpid()} {os.getppid()}')\\n"
    "time.sleep(600)"
)
execute_notebook(source, Path("out.ipynb"), name="x", parameters={}, environment={})
"""


@pytest.mark.soak
def test_killed_parents_take_their_kernels_with_them(tmp_path):
    (tmp_path / "tests_notebook.py").write_text(
        "import json, nbformat\n"
        "def notebook(s): return json.dumps(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s)]))\n"
    )
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text().count(" "):
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.1)
    kernel, server = map(int, (tmp_path / "pids").read_text().split())
    assert alive(kernel)
    assert alive(server)
    parent.kill()
    parent.wait()
    assert gone([kernel, server])
