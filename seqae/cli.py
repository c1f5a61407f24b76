"""The command line. Every error is one message on stderr and exit code 2."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from seqae.stopping import ending_in_order

if TYPE_CHECKING:  # torch behind them takes seconds to import, so each command does that when it runs
    from seqae.runs import Run
    from seqae.sweep import Outcome

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Sequence autoencoders on Moving MNIST: run, look.")
Files = Annotated[list[Path], typer.Argument(help="Parameter files, or folders of them, in params/FAMILY/.")]
SomeFiles = Annotated[list[Path] | None, typer.Argument(help="Only the runs that these parameter files define.")]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="A run: its folder, or FAMILY/NAME-HASH in the store.")]
Scale = Annotated[str | None, typer.Option(help="Sizes: a name in params/scale/, or a file.")]
Given = Annotated[list[str] | None, typer.Option("-p", metavar="KEY=VALUE", help="A parameter, over every file.")]
Store = Annotated[str | None, typer.Option(help="Folder or URL of runs; else $SEQAE_STORE, else reports/.")]
INDEX_SHARE = 0.05  # of the time may go into rewriting the index while runs finish


@app.command()
def run(
    files: Files,
    scale: Scale = None,
    given: Given = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; else as many as processors.")] = None,
    store: Store = None,
    cluster: Annotated[str | None, typer.Option(help="Dask scheduler, tcp://HOST:PORT; else this machine.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would run, and why.")] = False,
) -> None:
    """Train the runs that parameter files define, each by executing its family's notebook; render their reports.

    Done ones are skipped, interrupted ones go on, failed ones are tried again; for one that another process trains this
    waits. Ctrl-C and SIGTERM leave checkpoints. Exit code 1 if any failed.

    \b
    seqae run params/losses --scale quick
    seqae run params/losses/0sm-pred-zero.yaml --scale smoke -p epochs=5 -p seed=7
    seqae run params/losses --scale paper --cluster tcp://head:8786 --store /shared/reports
    """
    with _one_message(), ending_in_order():
        from seqae.stores import publish, refresh
        from seqae.sweep import CPU_COUNT, plan, sweep, update_index

        planned = plan(files, scale=scale, given=_parameters(given), store=store)
        why = [item.why() for item in planned]
        todo = [item for item, reason in zip(planned, why, strict=True) if reason]
        if dry_run:
            for item, reason in zip(planned, why, strict=True):
                typer.echo(f"{item.run.family}/{item.run.name}: {reason or 'done'}")
            return
        # Counted over all, done or not: resumed with as many threads, a run computes the same to the last bit.
        slots = min(jobs or CPU_COUNT, len(planned))
        view = _View(len(todo), slots, done=len(planned) - len(todo), stores={i.run.folder.parents[1] for i in planned})
        for folder in view.stores:
            _check_writable(folder)
        with view.bar:
            if todo:
                sweep(todo, jobs=slots, cluster=cluster, finished=view.finished, tick=view.tick, busy=view.busy)
        if view.failed:  # told first: on a full disk there may be no index
            rows = [[f"{o.run.family}/{o.run.name}", str(o.reason)] for o in view.failed]
            _print(["failed", "reason"], rows, err=True)
        for folder in view.stores:
            refresh(folder)  # with what other machines did meanwhile
            update_index(folder)
            publish(folder, "index.html")
            typer.echo(f"{folder / 'index.html'}: {len(planned) - len(view.failed)} of {len(planned)} runs done")
    if view.failed:
        raise typer.Exit(1)


@app.command()
def compare(
    family: str, files: SomeFiles = None, scale: Scale = None, given: Given = None, store: Store = None
) -> None:
    """Execute notebooks/compare/FAMILY.ipynb (or compare.ipynb) on its finished runs, into compare.html beside them.

    \b
    seqae compare losses
    seqae compare losses params/losses/fixes --scale quick
    """
    with _one_message():
        from seqae.stores import publish, refresh
        from seqae.sweep import compare_runs, plan, update_index

        planned = plan(files or [], scale=scale, given=_parameters(given), store=store)
        page, reason = compare_runs(family, [item.run for item in planned], store=store)
        refresh(page.parents[1])
        update_index(page.parents[1])
        publish(page.parents[1], f"{family}/compare.ipynb", f"{family}/compare.html", "index.html")
    if reason:
        typer.echo(f"seqae: {family} could not be compared: {reason}; see {page}", err=True)
        raise typer.Exit(1)
    typer.echo(page)


@app.command()
def rerun(
    run: Folder,
    here: Annotated[bool, typer.Option("--here", help="With today's code instead of that of then.")] = False,
    given: Given = None,
) -> None:
    """Make a finished RUN again with the code of the commit that made it, and show both side by side.

    The code comes from git, the result goes to reruns/ in the run's folder, once. -p takes what says how to execute.

    \b
    seqae rerun reports/losses/0nm-recon-output-1a2b3c4d
    seqae rerun reports/losses/0nm-recon-output-1a2b3c4d --here
    seqae rerun reports/paper/composite-5e6f7a8b -p device=cpu -p data_folder=/data/mnist
    """
    with _one_message():
        from seqae.rerun import conclude, make_again, recorded, show_both
        from seqae.stores import working

        original = recorded(_run_folder(run))
        made, reason = make_again(
            original,
            here=here,
            given=_parameters(given),
            tell=lambda message: typer.echo(f"seqae: {message}", err=True),
        )
        page = made / "report.html" if (made / "report.html").exists() else made
        if not reason:
            page, reason = show_both(original, made)
        with working(original.folder):  # publishes, where the store is elsewhere
            pass
    if reason:
        typer.echo(f"seqae: {original.family}/{original.name} made again failed: {reason}; see {page}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{conclude(original, recorded(made))}\n{page}")


@app.command()
def demo(
    run: Folder,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps or auto; need not be what trained.")] = "cpu",
    given: Given = None,
) -> None:
    """Show what a trained RUN makes of test sequences: strips, an animation, the error of each, into its folder.

    -p takes the other parameters of notebooks/demo.ipynb.

    \b
    seqae demo reports/losses/0nm-recon-output-1a2b3c4d
    seqae demo reports/losses/0nm-recon-output-1a2b3c4d --device cuda -p sequences=[4,8,15]
    """
    with _one_message():
        from seqae.demo import show_demo
        from seqae.stores import working

        page, reason = show_demo(_run_folder(run), device=device, given=_parameters(given))
        with working(page.parent):  # publishes, where the store is elsewhere
            pass
    if reason:
        typer.echo(f"seqae: {run} could not be shown: {reason}; see {page}", err=True)
        raise typer.Exit(1)
    typer.echo(page)


@app.command()
def gather(
    places: Annotated[list[str], typer.Argument(metavar="SRC... DST", help="Folders or URLs of runs.")],
) -> None:
    """Merge the runs of several machines, SRC…, into DST; of the same run in both, what is further along is kept.

    Where a run was finished in both with other results, DST keeps its own: exit code 1. What is being trained is left.

    \b
    seqae gather laptop/reports gpu/reports all/reports
    seqae gather laptop/reports s3://bucket/seqae
    """
    with _one_message():
        from seqae.gather import PROBLEMS, WHAT, merge_stores
        from seqae.stores import publish
        from seqae.sweep import update_index

        folder, rows = merge_stores(places[:-1], places[-1])
        update_index(folder)
        publish(folder, "index.html")
        told = [row for row in rows if row[1] != WHAT["same"]]
        _print(["run", "what", "from"], [list(row) for row in told])
        typer.echo(f"{folder / 'index.html'}: {len(rows)} runs looked at, {len(rows) - len(told)} the same in both")
    if any(what.startswith(PROBLEMS) for _, what, _ in rows):
        raise typer.Exit(1)


@app.command()
def status(files: SomeFiles = None, scale: Scale = None, given: Given = None, store: Store = None) -> None:
    """What is done, running, interrupted, failed or, of the FILES given, still waiting.

    \b
    seqae status
    seqae status params/losses --scale quick
    """
    with _one_message():
        from seqae.runs import Run, RunError
        from seqae.stores import fetch
        from seqae.sweep import plan

        rows = []
        for item in plan(files or [], scale=scale, given=_parameters(given), store=store):
            rows.append(_status_row(item.run))
        for file in [] if files else sorted(fetch(store).glob("*/*/run.yaml")):
            try:
                rows.append(_status_row(Run.load(file.parent)))
            except (RunError, ValueError) as error:  # one damaged folder hides no other
                rows.append(["/".join(file.parts[-3:-1]), f"failed: {error}", "", "", "", ""])
        _print(["run", "status", "verdict", "test mse", "seconds", "machine"], rows)


@app.command()
def check(files: Files, scale: Scale = None, given: Given = None) -> None:
    """Are these parameters valid? How large and how long is the run, and what can it reach at best?

    \b
    seqae check params/losses/0sb-pred-zero.yaml
    seqae check params/losses/0nm-recon-output.yaml --scale paper -p architecture=srivastava
    """
    with _one_message():
        from seqae.cost import estimate
        from seqae.sweep import plan

        for item in plan(files, scale=scale, given=_parameters(given)):
            cost, levels = estimate(item.run.parameters), item.run.baselines().query("split == 'val'")
            typer.echo(
                f"{item.run.family}/{item.run.name}: valid, {item.why() or 'done'}\n"
                f"  {cost.weights:,} weights; {cost.memory / 2**20:,.1f} MiB with gradients and optimizer state\n"
                f"  {cost.operations / 1e9:,.3g} GFLOP an update, {cost.updates:,} updates: about "
                f"{_duration(cost.seconds)} on this machine, from {cost.how}\n"
                f"  {item.run.prognosis()}"
            )
            for level in levels.itertuples():
                typer.echo(f"  {level.branch} {level.baseline} {level.metric}: {level.value:.4g}")


class _View:
    """A bar for all runs and one for each that is under way; elsewhere than on a terminal a line for each finished."""

    def __init__(self, total: int, slots: int, *, done: int, stores: set[Path]) -> None:
        self.total, self.slots, self.stores = total, slots, stores
        self.seconds: list[float] = []
        self.failed: list[Outcome] = []
        self.running: dict[Path, TaskID] = {}
        self.next_index = 0.0
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
        ]
        note = TextColumn("{task.fields[note]}", markup=False)
        console = Console()
        columns += [TimeElapsedColumn(), note]
        self.bar = Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal)
        self.all = self.bar.add_task("runs", total=total, note=f"{done} done before")

    def tick(self, running: "list[Run]") -> None:
        from seqae.sweep import progress

        for run in running:
            if run.folder not in self.running:
                self.running[run.folder] = self.bar.add_task(run.name, total=run.parameters.epochs, note="")
            if logged := progress(run):
                self.bar.update(self.running[run.folder], completed=logged[0], note=f"loss {logged[1]:.4g}")

    def busy(self, run: "Run") -> None:
        if (bar := self.running.pop(run.folder, None)) is not None:
            self.bar.remove_task(bar)
        self._tell(f"{run.family}/{run.name}: another process trains it; waiting for that one")

    def finished(self, outcome: "Outcome") -> None:
        from seqae.sweep import update_index

        run = outcome.run
        self.seconds.append(outcome.seconds)
        self.failed += [outcome] if outcome.reason else []
        if (bar := self.running.pop(run.folder, None)) is not None:
            self.bar.remove_task(bar)
        left = sum(self.seconds) / len(self.seconds) * (self.total - len(self.seconds)) / self.slots
        self.bar.update(self.all, advance=1, note=f"{len(self.failed)} failed, {_duration(left)} left")
        ending = f"failed: {outcome.reason}" if outcome.reason else run.verdict
        self._tell(f"{run.family}/{run.name}: {ending}, {outcome.seconds:.0f} s")
        if (began := time.monotonic()) >= self.next_index:
            with suppress(OSError):  # told at the end
                for store in self.stores:
                    update_index(store)
            self.next_index = time.monotonic() + (time.monotonic() - began) / INDEX_SHARE

    def _tell(self, line: str) -> None:
        self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _status_row(run: "Run") -> list[str]:
    from seqae.sweep import progress

    record, status = run.record(), run.status
    if status == "failed":
        status = f"failed: {record.get('reason')}"
    elif status in ("running", "interrupted") and (logged := progress(run)):
        status += f", epoch {logged[0]} of {run.parameters.epochs}"
    results = {k.removesuffix(" mse"): v for k, v in record.get("results", {}).items() if k.endswith(" mse")}
    errors = [f"{branch} {value:.4f}" for branch, value in results.items()]
    seconds = f"{record['seconds']:.1f}" if "seconds" in record else ""
    name = f"{run.family}/{run.name}"
    return [name, status, record.get("verdict") or "", ", ".join(errors), seconds, record.get("machine", "")]


def _print(head: list[str], rows: list[list[str]], *, err: bool = False) -> None:
    table = Table(*head, box=None, pad_edge=False, highlight=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(stderr=err)
    console.width = console.width if console.is_terminal else 10_000  # whole lines into files and pipes
    console.print(table)


@contextmanager
def _one_message() -> Iterator[None]:
    from seqae.runs import RunError
    from seqae.transfer import StoreError

    try:
        yield
    except (ValueError, RunError, StoreError, OSError) as error:
        typer.echo(f"seqae: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as stop:
        typer.echo("seqae: stopped; the same command goes on from the last checkpoints", err=True)
        raise typer.Exit(128 + next(iter(stop.args), signal.SIGINT)) from None


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}; choose another folder as store") from None


def _run_folder(run: Path) -> Path:
    # As seen from here, or else from the store: FAMILY/NAME.
    from seqae.stores import fetch, refresh

    if not run.exists():
        return fetch(None, run.as_posix(), whole=True) / run
    folder = run.resolve()
    refresh(folder.parent.parent, f"{folder.parent.name}/{folder.name}", whole=True)
    return folder


def _parameters(given: list[str] | None) -> dict[str, Any]:
    pairs = [pair.partition("=") for pair in given or []]
    if wrong := ["".join(pair) for pair in pairs if not (pair[0] and pair[1])]:
        raise ValueError(f"-p takes KEY=VALUE, such as -p epochs=5; not {wrong[0]!r}")
    try:
        return {key: yaml.safe_load(value) for key, _, value in pairs}
    except yaml.YAMLError as error:
        raise ValueError(f"-p: {' '.join(str(error).split())}") from None


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds >= 60 else f"{seconds:.3g} s"
