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

import pandas as pd
import yaml

from seqae.config import EXECUTION, ParameterError, Parameters, resolve
from seqae.executing import execute_page
from seqae.naming import project_around, store_folder
from seqae.provenance import code_version
from seqae.records import RunError, read_record
from seqae.runs import Run
from seqae.stopping import ENDINGS, ending_in_order

PACKAGE = Path(__file__).parent
STOP_SECONDS = 30  # for the old code to stop its kernels


def recorded(folder: str | Path) -> Run:
    """The run of a folder (a relative one seen from the store), also where today's code does not know its parameters:
    then only what is recorded can be read. Raises RunError if the folder holds none.
    """
    folder = store_folder() / folder
    try:
        return Run.load(folder)
    except ParameterError:
        record = read_record(folder)
        parameters = Parameters.model_construct(**record["parameters"])
        return Run(folder.resolve(), record["family"], parameters, record["differs"])


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


def show_both(original: Run, again: Path) -> tuple[Path, str | None]:
    """Execute notebooks/rerun.ipynb on a run and the same made again; its page, and why it failed."""
    source, store = project_around(original.folder) / "notebooks" / "rerun.ipynb", again.parents[1]
    records = {"then": original.record(), "again": recorded(again).record()}
    rows = [(made, r["commit"] + (" and uncommitted changes" if r["dirty"] else "")) for made, r in records.items()]
    # Both as seen from the store, so that the executed notebook names no folder of this machine.
    parameters = {"original": "../..", "again": again.relative_to(store).as_posix()}
    page, title = store / "rerun.html", f"{original.family}/{original.name}: made again"
    return page, execute_page(source, page, title=title, rows=rows, store=store, parameters=parameters)


def curves(then: Run, again: Run) -> pd.DataFrame:
    """Val metrics by epoch of both: the columns of metrics.csv, and made, "then" or "again"."""
    tables = [run.metrics().query("split == 'val'") for run in (then, again)]
    return pd.concat([tables[0].assign(made="then"), tables[1].assign(made="again")], ignore_index=True)


def finals(then: Run, again: Run) -> pd.DataFrame:
    """Test metrics, means over frames, of both: branch, metric, unit, then, again, difference."""
    keys = ["branch", "metric", "unit"]
    first, second = (run.test().query("frame.isna()")[[*keys, "value"]] for run in (then, again))
    both = first.merge(second, how="outer", on=keys).set_axis([*keys, "then", "again"], axis=1)
    return both.assign(difference=both.again - both.then)


def circumstances(then: Run, again: Run) -> pd.DataFrame:
    """Code, versions and machine of both, a row each: then, again, and whether they are the same."""
    sides = {}
    for made, run in (("then", then), ("again", again)):
        record = run.record()
        code = {"commit": record["commit"], "uncommitted changes": {True: "yes", False: "no"}[record["dirty"]]}
        sides[made] = code | record["versions"] | {key: record.get(key) for key in ("machine", "device", "threads")}
    table = pd.DataFrame(sides).map(lambda value: "not recorded" if pd.isna(value) else str(value))
    return table.assign(same=(table.then == table.again).map({True: "same", False: "differs"}))


def conclude(then: Run, again: Run) -> str:
    """In one line: the same to the last bit, or the largest relative difference of val mse and of the test figures."""
    val = _paired(then, again, "metrics", ["split", "branch", "metric", "epoch"])
    val = val.query("metric == 'mse' and split == 'val'")
    test = _paired(then, again, "test", ["branch", "metric", "frame"])
    if (val.share == 0).all() and (test.share == 0).all():
        return f"Identical to the last bit: all {len(val)} val mse by epoch and all {len(test)} figures on test."
    return f"Not identical: val mse {_difference(val, 'epoch')}; figures on test {_difference(test, 'frame')}."


def _paired(then: Run, again: Run, table: str, keys: list[str]) -> pd.DataFrame:
    # What both recorded of the metrics that both have, read to the last bit, and the share by which again differs:
    # infinite where one has nothing, or NaN, and the other a number.
    first, second = (pd.read_csv(run.folder / f"{table}.csv", float_precision="round_trip") for run in (then, again))
    both = first.merge(second, how="outer", on=keys, suffixes=("_then", "_again"))
    both = both[both.metric.isin({*first.metric} & {*second.metric})]
    same = (both.value_then == both.value_again) | (both.value_then.isna() & both.value_again.isna())
    share = ((both.value_again - both.value_then) / both.value_then).abs().fillna(float("inf"))
    return both.assign(share=share.where(~same, 0.0))


def _difference(both: pd.DataFrame, step: str) -> str:
    if (both.share == 0).all():
        return f"identical to the last bit ({len(both)})"
    worst = both.loc[both.share.idxmax()]
    where = f"{worst.branch} {worst.metric}" + (f", {step} {worst[step]:.0f}" if worst[step] == worst[step] else "")
    most = f" by up to {100 * worst.share:.2g} %" if worst.share < float("inf") else ""
    return f"differ{most} ({where}: {worst.value_then:.6g} then, {worst.value_again:.6g} again)"


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
            if not (project / "seqae" / "cli.py").exists():
                raise RunError(f"commit {commit} of {root} has no seqae/cli.py to run: use --here")
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
    program = "from seqae.cli import app; app()"
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
    files = [*sorted(PACKAGE.glob("*.py")), notebook]
    contents = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]
    return f"here-{code_version()[0].replace(' ', '-')}-{contents}"
