"""`seqae rerun`: reproduce a finished run, with the code of the commit that made it or with today's code.

This is done at a user's request only. Which runs a sweep executes again is decided in `planning`.

The old code is checked out into a temporary git worktree. It is executed in a process of its own, so that the process,
its workers and its kernels import nothing of today's code.
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
from typing import Any, NamedTuple

import yaml

import seqae
from seqae.parameters import EXECUTION
from seqae.runs import (
    CODE_FOLDER,
    OwnCode,
    OwnCodeError,
    Run,
    RunError,
    as_used,
    code_for,
    code_version,
    git_trouble,
    located_clips,
    recorded_packages,
    recorded_run,
    resolve,
    run_git,
    sources_hash,
    without_effect,
)
from seqae.stores import mark_unpublished, project_path
from seqae.sweeps.interrupts import STOP_SIGNALS, interrupt_once
from seqae.sweeps.pages import is_trusted, project_around

_PACKAGE = Path(seqae.__file__).parent
# The module of the command line, by its file: of today's layout, and of the layout before the package had subpackages.
COMMAND_LINES = {"commands/__init__.py": "seqae.commands", "cli.py": "seqae.cli"}
PLACES = {"store", "data_folder", "tracker"}
STOP_SECONDS = 30  # after an interrupt the old code has this time to stop its kernels


class Rerun(NamedTuple):
    """The folder of a rerun, or of its store if it was not begun, and why it failed; None if it is done."""

    folder: Path
    reason: str | None


def reproduce_run(
    original: Run,
    *,
    here: bool = False,
    given: Mapping[str, Any] | None = None,
    trust_code: bool = False,
    tell: Callable[[str], None] = lambda message: None,
) -> Rerun:
    """Execute a finished run again, into `reruns/` of its folder. A rerun that is already done is not repeated.

    here: use today's code instead of the code of the commit that made the run. given: parameters that say how to
    execute it, such as device or data_folder. trust_code: let modules of your own run from the copy in the run folder,
    if neither that commit nor the project has them; outside of any project, let notebook and code of the project around
    the run's folder run. tell: called with notes that a reader of the result needs. Raises RunError or ValueError,
    before anything starts, if the run cannot be reproduced.
    """
    record, root = original.record(), project_around(original.folder)
    here = here or _is_todays(record)
    if original.status != "done":
        raise RunError(f"{original.folder} is {original.status}, not done: finish it with seqae run, then rerun it")
    if refused := [key for key in given or {} if key not in EXECUTION - {"store", "fresh"}]:
        allowed = ", ".join(sorted(EXECUTION - {"store", "fresh"}))
        raise ValueError(f"-p {refused[0]}: a rerun has the recorded parameters; only these can be set: {allowed}")
    if idle := without_effect(original.parameters, original.family, given or {}):
        raise ValueError(f"-p {next(iter(idle.values()))}: leave it out")
    notebook = root / "notebooks" / f"{original.family}.ipynb"
    if here and not notebook.exists():
        raise RunError(f"there is no {notebook}: do this in the folder of the project, or below it")
    commit = "" if here else _commit(root, record, original.folder)
    if not (trust_code or is_trusted(root)):
        raise OwnCodeError(
            f"{original.folder} lies in {root}, and the working directory in no project: a rerun would execute the "
            f"notebooks and the code of {root}: do this in {root}, or, if you trust that code, say --trust-code "
            "(in Python: trust_code=True)"
        )
    store = original.folder / "reruns" / (_today(notebook, _own_today(original, root)) if here else record["commit"])
    _tell_commits(record, here, tell)
    if (made := _made(store)) and made.status == "done" and given:
        tell(f"seqae: this rerun exists and was made without {', '.join(given)}: delete {store} to make it again")
    if not made or made.status != "done":
        mark_unpublished(original.folder)
        parameters = _parameters(record, here) | located_clips(record["parameters"], root) | _absolute(given or {})
        with _todays_project(notebook) if here else _old_project(root, commit) as project:
            code = _PACKAGE.parent if here else project
            own = _put_code(original, project, root, here=here, trust=trust_code)
            if own and (others := own.other_packages()):  # so it has another hash here
                tell(f"seqae: the run's own code was recorded with {others}; the rerun is made with what is here")
                parameters.pop("code", None)
            file = project / "params" / original.family / "rerun.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(parameters), encoding="utf-8")
            exit_code = _seqae_run(file, store, project=project, code=code, threads=record.get("threads"))
    if not (made := _made(store)):
        return Rerun(store, f"seqae run ended with exit code {exit_code} before it began the run; its message is above")
    if made.status != "done":
        reason = f"seqae run ended with exit code {exit_code} and left it {made.status}"
        return Rerun(made.folder, made.record().get("reason") or reason)
    if not here and not commit.startswith(made.record()["commit"]):
        return Rerun(made.folder, f"it was made by {made.record()['commit']} instead of {record['commit']}")
    return Rerun(made.folder, None)


def _tell_commits(record: Mapping[str, Any], here: bool, tell: Callable[[str], None]) -> None:
    # What one commit alone cannot make again.
    if not here and record.get("dirty"):
        tell(f"seqae: the run was made by {record['commit']} with uncommitted changes; the rerun is made without them")
    others = {part["commit"] for part in record.get("resumed", [])} - {record.get("commit")}
    if others:
        tell(f"seqae: it was interrupted and went on with {', '.join(sorted(others))}; the rerun uses one commit only")
    if (first := record.get("went_on", {}).get("commit", record["commit"])) != record["commit"]:
        tell(
            f"seqae: its first {record['went_on'].get('epochs')} epochs were made by {first}; the rerun uses one commit"
        )


def _is_todays(record: Mapping[str, Any]) -> bool:
    # Whether a package that is installed, not cloned, made the run and is still the same.
    installed = str(record.get("commit")).startswith("seqae ") and "git" not in record
    return installed and record.get("sources") == sources_hash()


def _commit(root: Path, record: Mapping[str, Any], folder: Path) -> str:
    # The full name of the commit that made the run. Raises RunError if it is unknown here.
    name = str(record.get("commit"))
    if not re.fullmatch("[0-9a-f]{7,40}", name):
        reason = f"git said: {record['git']}" if record.get("git") else "the package was installed, not cloned"
        raise RunError(
            f"{folder / 'run.yaml'} says that {name!r} made the run, which is no git commit ({reason}): "
            "use --here to rerun it with today's code"
        )
    if trouble := git_trouble(root):
        raise RunError(f"git cannot read the repository of {root}: {trouble}")
    if run_git(root, "rev-parse", "--git-dir").returncode:
        raise RunError(f"{root} is no git repository: do this in a clone of the project that holds commit {name}")
    found = run_git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if found.returncode:
        raise RunError(f"the git repository {root} does not hold commit {name}: fetch it, or use --here")
    return found.stdout.strip()


@contextmanager
def _old_project(root: Path, commit: str) -> Iterator[Path]:
    # The project with its code at a commit, in a worktree that is removed afterwards.
    with interrupt_once(), TemporaryDirectory(prefix="seqae-rerun-") as folder:
        tree = Path(folder) / "worktree"
        try:
            added = run_git(root, "worktree", "add", "--quiet", "--detach", str(tree), commit)
            project = tree / run_git(root, "rev-parse", "--show-prefix").stdout.strip()
            if added.returncode:
                raise RunError(f"git cannot check out commit {commit} of {root}: {added.stderr.strip()}")
            if not any((project / "seqae" / file).exists() for file in COMMAND_LINES):
                raise RunError(
                    f"commit {commit} of {root} has no command line to run ({', '.join(COMMAND_LINES)}): use --here"
                )
            yield project
        finally:
            for number in STOP_SIGNALS:  # a second signal must not interrupt the removal
                signal.signal(number, signal.SIG_IGN)
            run_git(root, "worktree", "remove", "--force", "--force", str(tree))  # twice: remove a locked one, too
            run_git(root, "worktree", "prune")


@contextmanager
def _todays_project(notebook: Path) -> Iterator[Path]:
    # A temporary project that holds a copy of this notebook, and what lies beside it, which the notebook may read.
    with interrupt_once(), TemporaryDirectory(prefix="seqae-rerun-") as folder:
        copy = Path(folder) / "notebooks" / notebook.name
        copy.parent.mkdir()
        copy.write_bytes(notebook.read_bytes())
        for beside in {*notebook.parent.glob("[!.]*")} - {notebook}:
            (copy.parent / beside.name).symlink_to(beside)
        yield Path(folder)


def _own_today(run: Run, root: Path) -> OwnCode | None:
    return code_for(run.parameters.model_copy(update={"code": None}), root=root)


def _put_code(run: Run, project: Path, root: Path, *, here: bool, trust: bool) -> OwnCode | None:
    # Modules of your own that the temporary project lacks: today's, or those that made the run. Returns them.
    p, copies, packages = run.parameters, run.folder / CODE_FOLDER, recorded_packages(run.folder)
    with suppress(OwnCodeError):  # that commit need not have what made the run
        if not here and (code := code_for(p, root=project, packages=packages)):
            return code
    code = _own_today(run, root) if here else code_for(p, root=root, copies=copies, trust=trust, packages=packages)
    for name, text in code.texts.items() if code else ():
        file = project / "notebooks" / name
        if not here or not file.exists():  # today's are links to the user's own files
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return code


def _seqae_run(file: Path, store: Path, *, project: Path, code: Path, threads: object) -> int:
    module = next(name for file, name in COMMAND_LINES.items() if (code / "seqae" / file).exists())
    program = f"from {module} import app; app()"
    if (
        type(threads) is int and threads > 0
    ):  # the recorded number, because sums by another number of threads differ in the last bits
        program = f"import dask.system; dask.system.CPU_COUNT = {threads}; {program}"
    paths = [str(code), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "run", str(file), "--store", str(store), "--jobs", "1"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # Ctrl-C reaches this process only, which passes it on once
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
    return next((recorded_run(file.parent) for file in store.glob("*/*/run.yaml")), None)


def _parameters(record: Mapping[str, Any], here: bool) -> dict[str, Any]:
    # All values are given, so that the notebook's cell has no effect. Old code gets them as it recorded them, but none
    # that say where to read and write: no record of ours has such, only one that somebody else wrote.
    excluded, values = {*EXECUTION - {"device", "devices", "metrics"}, "code"}, record["parameters"]
    if here:
        return as_used(resolve(values), record["family"]).model_dump(mode="json", exclude=excluded)
    return {key: value for key, value in values.items() if key not in PLACES}


def _absolute(given: Mapping[str, Any]) -> dict[str, Any]:
    # The process has another working folder than this one.
    located = {"data_folder": str(project_path(given["data_folder"]))} if given.get("data_folder") else {}
    return {**given, **located, **located_clips(given)}


def _today(notebook: Path, own: OwnCode | None = None) -> str:
    # Named by the commit and by a hash of the sources, the notebook and code of your own, because there may be
    # uncommitted changes.
    digest = own.digest if own else ""
    contents = hashlib.sha256(sources_hash().encode() + notebook.read_bytes() + digest.encode()).hexdigest()[:8]
    return f"here-{code_version()[0].replace(' ', '-')}-{contents}"
