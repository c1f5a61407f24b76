"""The commands that execute runs: `seqae run`, and the `seqae worker` and `seqae scheduler` of a cluster."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqae.commands.messages import errors_in_one_line, shown, tell
from seqae.commands.options import (
    Cluster,
    Files,
    Given,
    Jobs,
    PerGpu,
    Scale,
    Store,
    TlsCa,
    TlsCert,
    TlsKey,
    WithoutTls,
    planned_runs,
)
from seqae.sweeps import interrupt_once

if TYPE_CHECKING:
    from seqae.sweeps import Planned


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List which runs would be executed, and why.")] = False,
) -> None:
    """Train the runs of parameter files, and render their reports.

    Each run executes the notebook of its family.
    Runs that are done are skipped, interrupted ones are resumed, failed ones
    are tried again. If another process trains one of them, this command waits
    for it. Ctrl-C and SIGTERM leave checkpoints. The exit code is 1 if a run
    failed or is damaged.

    \b
    seqae run params/losses --scale quick
    seqae run params/losses/0sm-pred-zero.yaml --scale smoke -p epochs=5 -p seed=6,7,8 -p loss=0sm,0nm
    seqae run params/losses --scale paper --cluster tcp://head:8786 --store /shared/reports
    """
    with errors_in_one_line(), interrupt_once():
        from seqae.commands.estimates import plan_lines
        from seqae.commands.terminal import SweepView
        from seqae.sweeps import connect, slots, sweep, tls

        planned, damaged = planned_runs(files, scale, given, store)
        reasons = [item.reason_to_execute() for item in planned]
        todo = [item for item, reason in zip(planned, reasons, strict=True) if reason]
        if not cluster:
            _tell_slow(todo)
        if dry_run:
            typer.echo(shown("\n".join(plan_lines(planned, reasons, jobs or slots(per_gpu)))))
            raise typer.Exit(int(bool(damaged)))
        # Counted over all runs, done or not: threads per run depend on it, and a run that is resumed with the same
        # number of threads computes the same to the last bit.
        count, security = min(jobs or slots(per_gpu), len(planned)), tls(tls_ca, tls_cert, tls_key)
        stores = {item.run.folder.parents[1] for item in planned}
        view = SweepView(len(todo), done=len(planned) - len(todo), stores=stores)
        for item in planned:
            if item.run.status == "done":
                item.run.mend()  # its label may be a new one
        if todo:
            _begin(len(todo), len(planned), stores, at_once=None if cluster else min(count, len(todo)))
            connected = connect(cluster, jobs=count, workers=min(count, len(todo)), per_gpu=per_gpu, security=security)
            with view.bar, connected as client:
                view.show(client)
                sweep(todo, client, jobs=jobs, per_gpu=per_gpu, finished=view.finished, tick=view.tick, busy=view.busy,
                      tell=view.say)  # fmt: skip
        view.show_failed()  # before the index, which cannot be written on a full disk
        for folder in stores:
            _write_index(folder, needed=bool(todo))
            typer.echo(f"{folder / 'index.html'}: {len(planned) - len(view.failed)} of {len(planned)} runs done")
    if view.failed or damaged:
        raise typer.Exit(1)


def _tell_slow(todo: "Iterable[Planned]") -> None:
    from seqae.runs import slow_here

    for line in filter(None, dict.fromkeys(slow_here(item.run.parameters) for item in todo)):
        tell(f"seqae: {line}")


def _begin(todo: int, planned: int, stores: set[Path], *, at_once: int | None) -> None:
    # Says at once what will be done: the first line of a run comes when it has ended. On stderr, so that stdout holds
    # results alone.
    from seqae.stores import check_writable

    for folder in stores:
        check_writable(folder)
    jobs = f", {at_once} at a time" if at_once else ""
    done = f"; {planned - todo} {'is' if planned - todo == 1 else 'are'} done" if todo < planned else ""
    tell(f"seqae: {todo} of {planned} runs to execute{jobs}{done}")


def _write_index(folder: Path, *, needed: bool) -> None:
    # needed: otherwise a store that cannot be written keeps its index.
    from seqae.reports import give_pages, publish_index

    try:
        give_pages(folder)
        publish_index(folder)
    except OSError as error:
        if needed:
            raise
        tell(f"seqae: the index of {folder} stays as it is: {error.strerror}")


def worker(
    scheduler: Annotated[str, typer.Argument(metavar="ADDRESS", help="Scheduler: tcp://HOST:PORT or tls://HOST:PORT")],
    jobs: Jobs = None,
    per_gpu: PerGpu = 1,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    from_stdin: Annotated[bool, typer.Option("--credentials-from-stdin", hidden=True)] = False,
) -> None:
    """Let this machine execute runs for others, until Ctrl-C.

    A worker for each of its GPUs, or else for each of its cores.

    \b
    seqae worker tcp://head:8786
    seqae worker tls://head:8786 --per-gpu 4 --tls-ca ca.pem --tls-cert worker.pem --tls-key worker.key
    """
    with errors_in_one_line():
        from seqae.sweeps import credentials_from_stdin, serve_workers, slots, tls

        security = credentials_from_stdin() if from_stdin else tls(tls_ca, tls_cert, tls_key)
        serve_workers(scheduler, count=jobs or slots(per_gpu), security=security, tell=tell)


def scheduler(
    host: Annotated[str, typer.Option(help="The address that it listens at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port that it listens at; 0: any free port.")] = 8786,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    without_tls: WithoutTls = False,
) -> None:
    """Hand the runs of `seqae run --cluster` to workers.

    Workers of several machines connect to it. Until Ctrl-C.

    \b
    seqae scheduler
    seqae scheduler --host 0.0.0.0 --tls-ca ca.pem --tls-cert head.pem --tls-key head.key
    """
    with errors_in_one_line():
        from seqae.sweeps import serve_scheduler, tls

        serve_scheduler(host, port, security=tls(tls_ca, tls_cert, tls_key), without_tls=without_tls, tell=tell)
