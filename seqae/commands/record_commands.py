"""The commands that read or copy runs and execute none: `seqae gather`, `seqae status` and `seqae check`."""

from pathlib import Path
from typing import Annotated

import typer

from seqae.commands.messages import errors_in_one_line, print_json, shown
from seqae.commands.options import AsJson, Files, Given, Scale, SomeFiles, Store, planned_runs


def gather(
    places: Annotated[list[str], typer.Argument(metavar="SRC... DST", help="Folders or URLs of runs.")],
) -> None:
    """Merge the runs of several machines, SRC…, into DST.

    Of the same run in both, what is further along is kept.
    If a run was finished in both with different results, DST keeps its own, and
    the exit code is 1. Runs in training are not copied.

    \b
    seqae gather laptop/reports gpu/reports all/reports
    seqae gather laptop/reports s3://bucket/seqae
    """
    with errors_in_one_line():
        from seqae.commands.terminal import print_table
        from seqae.reports import publish_index
        from seqae.runs import OUTCOMES, PROBLEMS, counted, merge_stores
        from seqae.stores import expanded_place

        folder, rows = merge_stores([*map(expanded_place, places[:-1])], expanded_place(places[-1]))
        publish_index(folder)
        different = [row for row in rows if row.outcome != OUTCOMES["same"]]
        print_table(["run", "what", "from"], different)
        same = len(rows) - len(different)
        typer.echo(f"{folder / 'index.html'}: {counted(len(rows), 'run')} looked at, {same} the same in both")
    if any(row.outcome.startswith(PROBLEMS) for row in rows):
        raise typer.Exit(1)


def status(
    files: SomeFiles = None,
    scale: Scale = None,
    given: Given = None,
    store: Store = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until no run is running or waiting.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which runs are done, running, interrupted or failed.

    Of FILES given, also which still wait.

    \b
    seqae status
    seqae status params/losses --scale quick
    seqae status params/losses --scale quick --watch
    seqae status --json
    """
    with errors_in_one_line():
        from seqae.commands.terminal import print_status, run_folders, status_entry, status_rows
        from seqae.stores import store_location

        folders, places, damaged = list[Path](), {store}, list[str]()
        if files or scale or given:  # planning imports torch, which takes seconds, so do it only if needed
            planned, damaged = planned_runs(files or [], scale, given, store)
            folders, places = [item.run.folder for item in planned], {item.store for item in planned}
        if as_json:
            if watch:
                raise ValueError("--json prints once: leave --watch out")
            print_json([status_entry(folder) for folder in run_folders(places, folders)])
        else:
            print_status(lambda: status_rows(places, folders), map(store_location, places), watch=watch)
    if damaged:
        raise typer.Exit(1)


def check(files: Files, scale: Scale = None, given: Given = None, store: Store = None, as_json: AsJson = False) -> None:
    """Check parameters; estimate a run's size and duration.

    It also says what the run can reach at best.

    \b
    seqae check params/losses/0sb-pred-zero.yaml
    seqae check params/losses/0nm-recon-output.yaml --scale paper -p architecture=srivastava
    """
    with errors_in_one_line():
        from seqae.commands.estimates import check_entry, check_lines

        planned, damaged = planned_runs(files, scale, given, store)
        if as_json:
            print_json([check_entry(item) for item in planned])
        for item in () if as_json else planned:
            typer.echo(shown("\n".join(check_lines(item))))
    if damaged:
        raise typer.Exit(1)
