"""A run made again, by the very code that made it or by today's, below its own folder; and the two side by side.

The old code is that of a git worktree, which lives as long as it takes. It runs as a process of its own, so that it,
its workers and its kernels import nothing of today's.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

import seqae
from seqae.files import project_around
from seqae.parameters import EXECUTION, resolve
from seqae.reports import recorded
from seqae.runs import Run, RunError, code_version
from seqae.sweeps.interrupts import ENDINGS, ending_in_order

PACKAGE = Path(seqae.__file__).parent
COMMAND_LINES = {"commands/__init__.py": "seqae.commands", "cli.py": "seqae.cli"}  # where today's is, and the older one
STOP_SECONDS = 30  # for the old code to stop its kernels


def make_again(
    original: Run,
    *,
    here: bool = False,
    given: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda message: None,
) -> tuple[Path, str | None]:
    """Execute a finished run again, into `reruns/` of its folder, unless that is done; the new run's folder (or, where
    none was begun, the store it would be in) and why it failed.

    here: with today's code, else with the code of the commit that made the run. given: parameters that say how to
    execute, such as device or data_folder. tell: is called with what a reader has to know of the result. Raises
    RunError or ValueError, before anything starts, for what cannot be made again.
    """
    record, root = original.record(), project_around(original.folder)
    if original.status != "done":
        raise RunError(
            f"{original.folder} is {original.status}, not done: finish it with seqae run, then make it again"
        )
    if strange := [key for key in given or {} if key not in EXECUTION - {"store", "fresh"}]:
        allowed = ", ".join(sorted(EXECUTION - {"store", "fresh"}))
        raise ValueError(f"-p {strange[0]}: all else is as recorded; a rerun takes only {allowed}")
    notebook = root / "notebooks" / f"{original.family}.ipynb"
    if here and not notebook.exists():
        raise RunError(f"there is no {notebook}: do this in the folder of the project, or below it")
    commit = "" if here else _commit(root, record, original.folder)
    store = original.folder / "reruns" / (_today(notebook) if here else record["commit"])
    if not here and record["dirty"]:
        tell(
            f"seqae: {record['commit']} is not all: the run was made with uncommitted changes, which the rerun has not"
        )
    others = {part["commit"] for part in record.get("resumed", [])} - {record["commit"]}
    if others:
        tell(f"seqae: it was interrupted and went on with {', '.join(sorted(others))}; the rerun is by one code alone")
    if (made := _made(store)) and made.status == "done" and given:
        tell(f"seqae: made before, and shown as it is, without {', '.join(given)}: delete {store} to make it anew")
    if not made or made.status != "done":
        parameters = _parameters(record["parameters"], here) | _absolute(given or {})
        with _today_code(notebook) if here else _old_code(root, commit) as (project, code):
            file = project / "params" / original.family / "rerun.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(parameters), encoding="utf-8")
            ended = _seqae_run(file, store, project=project, code=code, threads=record.get("threads"))
    if not (made := _made(store)):
        return store, f"seqae run ended with exit code {ended} before it began the run; its message is above"
    if made.status != "done":
        reason = f"seqae run ended with exit code {ended} and left it {made.status}"
        return made.folder, made.record().get("reason") or reason
    if not here and not commit.startswith(made.record()["commit"]):
        return made.folder, f"it was made by {made.record()['commit']} instead of {record['commit']}"
    return made.folder, None


def _commit(root: Path, record: Mapping[str, Any], folder: Path) -> str:
    # The whole name of the commit that made the run; RunError says why there is none to be had.
    name = str(record.get("commit"))
    if not re.fullmatch("[0-9a-f]{7,40}", name):
        raise RunError(
            f"{folder / 'run.yaml'} says that {name!r} made the run, which is no git commit (the package was "
            "installed, not cloned): with --here today's code makes it again"
        )
    if _git(root, "rev-parse", "--git-dir").returncode:
        raise RunError(f"{root} is no git repository: do this in a clone of the project that holds commit {name}")
    found = _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if found.returncode:
        raise RunError(f"the git repository {root} does not hold commit {name}: fetch it, or use --here")
    return found.stdout.strip()


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)


@contextmanager
def _old_code(root: Path, commit: str) -> Iterator[tuple[Path, Path]]:
    # The project as of a commit, and where its package lies: a worktree that is gone afterwards, whatever happens.
    with ending_in_order(), TemporaryDirectory(prefix="seqae-rerun-") as folder:
        tree = Path(folder) / "worktree"
        try:
            added = _git(root, "worktree", "add", "--quiet", "--detach", str(tree), commit)
            project = tree / _git(root, "rev-parse", "--show-prefix").stdout.strip()
            if added.returncode:
                raise RunError(f"git cannot check out commit {commit} of {root}: {added.stderr.strip()}")
            if not any((project / "seqae" / file).exists() for file in COMMAND_LINES):
                raise RunError(
                    f"commit {commit} of {root} has no command line to run ({', '.join(COMMAND_LINES)}): use --here"
                )
            yield project, project
        finally:
            for ending in ENDINGS:  # nothing disturbs the cleaning up
                signal.signal(ending, signal.SIG_IGN)
            _git(root, "worktree", "remove", "--force", "--force", str(tree))  # also one that git left locked
            _git(root, "worktree", "prune")


@contextmanager
def _today_code(notebook: Path) -> Iterator[tuple[Path, Path]]:
    # A project of this notebook alone, as it is now, and where the package that runs lies.
    with ending_in_order(), TemporaryDirectory(prefix="seqae-rerun-") as folder:
        copy = Path(folder) / "notebooks" / notebook.name
        copy.parent.mkdir()
        copy.write_bytes(notebook.read_bytes())
        yield Path(folder), PACKAGE.parent


def _seqae_run(file: Path, store: Path, *, project: Path, code: Path, threads: int | None) -> int:
    module = next(name for file, name in COMMAND_LINES.items() if (code / "seqae" / file).exists())
    program = f"from {module} import app; app()"
    if threads:  # as then, where that is recorded: sums of another number of threads differ in their last bits
        program = f"import dask.system; dask.system.CPU_COUNT = {threads}; {program}"
    paths = [str(code), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "run", str(file), "--store", str(store), "--jobs", "1"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # the terminal's Ctrl-C comes to this process alone, which passes it on once
    )
    try:
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        process.kill()
        raise


def _made(store: Path) -> Run | None:
    return next((recorded(file.parent) for file in store.glob("*/*/run.yaml")), None)


def _parameters(values: Mapping[str, Any], here: bool) -> dict[str, Any]:
    # Every value is given, so that nothing of a notebook's cell comes in; to the old code as it wrote them itself.
    left_out = set(EXECUTION - {"device", "devices"})
    return resolve(values).model_dump(mode="json", exclude=left_out) if here else dict(values)


def _absolute(given: Mapping[str, Any]) -> dict[str, Any]:
    # The process works in another folder than this one.
    return {key: str(Path(value).resolve()) if key == "data_folder" else value for key, value in given.items()}


def _today(notebook: Path) -> str:
    # Named after the commit and after what the files hold: with uncommitted changes the commit does not say it.
    files = [*sorted(PACKAGE.rglob("*.py")), notebook]
    contents = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]
    return f"here-{code_version()[0].replace(' ', '-')}-{contents}"
