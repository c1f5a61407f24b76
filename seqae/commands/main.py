"""The command line. What is behind torch, which takes seconds to import, each command imports when it runs."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from seqae.files import load_yaml
from seqae.sweeps import ending_in_order

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Sequence autoencoders on Moving MNIST: run, look.")
Files = Annotated[list[Path], typer.Argument(help="Parameter files, or folders of them, in params/FAMILY/.")]
SomeFiles = Annotated[list[Path] | None, typer.Argument(help="Only the runs that these parameter files define.")]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="A run: its folder, or FAMILY/NAME-HASH in the store.")]
Scale = Annotated[str | None, typer.Option(help="Sizes: a name in params/scale/, or a file.")]
Given = Annotated[list[str] | None, typer.Option("-p", metavar="KEY=VALUE", help="A parameter, over every file.")]
Store = Annotated[str | None, typer.Option(help="Folder or URL of runs; else $SEQAE_STORE, else reports/.")]
TlsCa = Annotated[Path | None, typer.Option(help="PEM file of whom to trust; encrypts all, with the next two.")]
TlsCert = Annotated[Path | None, typer.Option(help="PEM file of this machine's own certificate.")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file of its key.")]
WithoutTls = Annotated[bool, typer.Option("--without-tls", help="Listen to the network unencrypted, to anyone.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time; else as many as GPUs, or cores.")]
Cluster = Annotated[str | None, typer.Option(help="tcp://HOST:PORT, ssh:FILE, slurm:FILE; else this machine.")]
PerGpu = Annotated[int, typer.Option(min=1, help="Small runs may share a GPU: so many.")]
_tell = partial(typer.echo, err=True)


@app.command()
def run(
    files: Files,
    scale: Scale = None,
    given: Given = None,
    jobs: Jobs = None,
    store: Store = None,
    cluster: Cluster = None,
    per_gpu: PerGpu = 1,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
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
        from seqae.commands.estimates import plan_lines
        from seqae.commands.terminal import SweepView
        from seqae.reports import publish_index
        from seqae.stores import check_writable
        from seqae.sweeps import connect, plan, slots, sweep, tls

        planned = plan(files, scale=scale, given=given_parameters(given), store=store, tell=_tell)
        why = [item.why() for item in planned]
        todo = [item for item, reason in zip(planned, why, strict=True) if reason]
        if dry_run:
            typer.echo("\n".join(plan_lines(planned, why, jobs or slots(per_gpu))))
            return
        # Counted over all, done or not: resumed with as many threads, a run computes the same to the last bit.
        count, security = min(jobs or slots(per_gpu), len(planned)), tls(tls_ca, tls_cert, tls_key)
        stores = {item.run.folder.parents[1] for item in planned}
        view = SweepView(len(todo), done=len(planned) - len(todo), stores=stores)
        for folder in stores:
            check_writable(folder)
        if todo:
            connected = connect(cluster, jobs=count, workers=min(count, len(todo)), per_gpu=per_gpu, security=security)
            with view.bar, connected as client:
                view.show(client)
                sweep(todo, client, jobs=jobs, per_gpu=per_gpu, finished=view.finished, tick=view.tick, busy=view.busy)
        view.tell_failed()  # first: on a full disk there may be no index
        for folder in stores:
            publish_index(folder)
            typer.echo(f"{folder / 'index.html'}: {len(planned) - len(view.failed)} of {len(planned)} runs done")
    if view.failed:
        raise typer.Exit(1)


@app.command()
def worker(
    scheduler: Annotated[str, typer.Argument(metavar="ADDRESS", help="Of the scheduler: tcp://HOST:PORT, or tls://…")],
    jobs: Jobs = None,
    per_gpu: PerGpu = 1,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    from_stdin: Annotated[bool, typer.Option("--credentials-from-stdin", hidden=True)] = False,
) -> None:
    """Let this machine execute runs: a worker for each of its GPUs, or else for each of its cores. Until Ctrl-C.

    \b
    seqae worker tcp://head:8786
    seqae worker tls://head:8786 --per-gpu 4 --tls-ca ca.pem --tls-cert worker.pem --tls-key worker.key
    """
    with _one_message():
        from seqae.sweeps import credentials_from_stdin, serve_workers, slots, tls

        security = credentials_from_stdin() if from_stdin else tls(tls_ca, tls_cert, tls_key)
        serve_workers(scheduler, count=jobs or slots(per_gpu), security=security, tell=_tell)


@app.command()
def scheduler(
    host: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 8786,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    without_tls: WithoutTls = False,
) -> None:
    """Hand the runs of `seqae run --cluster` to the workers of several machines. Until Ctrl-C.

    \b
    seqae scheduler
    seqae scheduler --host 0.0.0.0 --tls-ca ca.pem --tls-cert head.pem --tls-key head.key
    """
    with _one_message():
        from seqae.sweeps import serve_scheduler, tls

        serve_scheduler(host, port, security=tls(tls_ca, tls_cert, tls_key), without_tls=without_tls, tell=_tell)


@app.command()
def compare(
    family: str, files: SomeFiles = None, scale: Scale = None, given: Given = None, store: Store = None
) -> None:
    """Execute notebooks/compare/FAMILY.ipynb (or compare.ipynb) on its finished runs, into compare.html beside them.

    \b
    seqae compare losses
    seqae compare losses params/losses/fixes --scale quick
    """
    with _one_message(kernel=True):
        from seqae.reports import publish_index
        from seqae.sweeps import compare_runs, plan

        planned = plan(files or [], scale=scale, given=given_parameters(given), store=store, tell=_tell)
        page, reason = compare_runs(family, [item.run for item in planned], store=store)
        publish_index(page.parents[1], f"{family}/compare.ipynb", f"{family}/compare.html")
    _told(page, reason and f"{family} could not be compared: {reason}")


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
    with _one_message(kernel=True):
        from seqae.reports import conclude, recorded
        from seqae.stores import located, publish_run_folder
        from seqae.sweeps import make_again, show_both

        original = recorded(located(run))
        made, reason = make_again(original, here=here, given=given_parameters(given), tell=_tell)
        page = made / "report.html" if (made / "report.html").exists() else made
        if not reason:
            page, reason = show_both(original, made)
        publish_run_folder(original.folder)
    if not reason:
        typer.echo(conclude(original, recorded(made)))
    _told(page, reason and f"{original.family}/{original.name} made again failed: {reason}")


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
    with _one_message(kernel=True):
        from seqae.stores import located, publish_run_folder
        from seqae.sweeps import show_demo

        page, reason = show_demo(located(run), device=device, given=given_parameters(given))
        publish_run_folder(page.parent)
    _told(page, reason and f"{run} could not be shown: {reason}")


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
        from seqae.commands.terminal import print_table
        from seqae.reports import publish_index
        from seqae.runs import PROBLEMS, WHAT, merge_stores

        folder, rows = merge_stores(places[:-1], places[-1])
        publish_index(folder)
        told = [row for row in rows if row[1] != WHAT["same"]]
        print_table(["run", "what", "from"], told)
        typer.echo(f"{folder / 'index.html'}: {len(rows)} runs looked at, {len(rows) - len(told)} the same in both")
    if any(what.startswith(PROBLEMS) for _, what, _ in rows):
        raise typer.Exit(1)


@app.command()
def status(
    files: SomeFiles = None,
    scale: Scale = None,
    given: Given = None,
    store: Store = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until none is left to wait for.")] = False,
) -> None:
    """What is done, running, interrupted, failed or, of the FILES given, still waiting.

    \b
    seqae status
    seqae status params/losses --scale quick
    seqae status params/losses --scale quick --watch
    """
    with _one_message():
        from seqae.commands.terminal import print_status, status_rows

        folders, places = list[Path](), {store}
        if files or scale or given:  # else torch is not needed, which takes seconds to import
            from seqae.sweeps import plan

            planned = plan(files or [], scale=scale, given=given_parameters(given), store=store, tell=_tell)
            folders, places = [item.run.folder for item in planned], {item.store for item in planned}
        print_status(lambda: status_rows(places, folders), watch=watch)


@app.command()
def check(files: Files, scale: Scale = None, given: Given = None, store: Store = None) -> None:
    """Are these parameters valid? How large and how long is the run, and what can it reach at best?

    \b
    seqae check params/losses/0sb-pred-zero.yaml
    seqae check params/losses/0nm-recon-output.yaml --scale paper -p architecture=srivastava
    """
    with _one_message():
        from seqae.commands.estimates import check_lines
        from seqae.sweeps import plan

        for item in plan(files, scale=scale, given=given_parameters(given), store=store, tell=_tell):
            typer.echo("\n".join(check_lines(item)))


@contextmanager
def _one_message(*, kernel: bool = False) -> Iterator[None]:
    from seqae.runs import RunError
    from seqae.stores import StoreError
    from seqae.sweeps import prepare

    try:
        if kernel:  # what it imports, on another core, while this process imports what it needs itself
            prepare()
        yield
    except (ValueError, RunError, StoreError, OSError) as error:
        _tell(f"seqae: {error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt as stop:
        _tell("seqae: stopped; the same command goes on from the last checkpoints")
        raise typer.Exit(128 + next(iter(stop.args), signal.SIGINT)) from None


def _told(page: Path, fault: str | None) -> None:  # the page a command wrote, or why it is not what was asked for
    if fault:
        _tell(f"seqae: {fault}; see {page}")
        raise typer.Exit(1)
    typer.echo(page)


def given_parameters(pairs: Iterable[str] | None) -> dict[str, Any]:
    """What the command line says, KEY=VALUE each, the values in YAML. Raises ValueError for anything else."""
    split = [pair.partition("=") for pair in pairs or []]
    if wrong := ["".join(pair) for pair in split if not (pair[0] and pair[1])]:
        raise ValueError(f"-p takes KEY=VALUE, such as -p epochs=5; not {wrong[0]!r}")
    try:
        return {key: load_yaml(value) for key, _, value in split}
    except yaml.YAMLError as error:
        raise ValueError(f"-p: {' '.join(str(error).split())}") from None
