"""What a terminal shows of runs: progress bars while they are trained, a table of their status."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from seqae.commands.messages import shown, tell
from seqae.runs import (
    RunError,
    counted,
    duration,
    final_figures,
    progress,
    read_record,
    recorded_verdict,
    remembered,
    run_status,
)
from seqae.stores import fetch, public_url, refresh

if TYPE_CHECKING:  # these import torch, which takes seconds; the status table does not need it
    from seqae.runs import Run
    from seqae.sweeps import Outcome

STATUS_COLUMNS = ["run", "status", "verdict on val", "test mse", "seconds", "machine"]
STATUS_ORDER = ["running", "failed", "interrupted", "waiting", "done"]  # of --watch
REFRESH_SECONDS = 5.0  # between two updates of remote runs and of the index while runs are trained;
REFRESH_SHARE = 0.05  # longer if updates would take more than this share of the time


class SweepView:
    """Progress bars on a terminal, one for all runs and one per run in progress. Also a line per finished run."""

    def __init__(self, total: int, *, done: int, stores: set[Path]) -> None:
        self.total, self.stores = total, stores
        self.slots = 1  # runs at a time
        self.seconds: list[float] = []
        self.failed: list[Outcome] = []
        self.running: dict[Path, TaskID] = {}
        self.next_refresh = 0.0
        console, text, bars = Console(), partial(TextColumn, markup=False), (BarColumn(), MofNCompleteColumn())
        columns = text("{task.description}"), *bars, TimeElapsedColumn(), text("{task.fields[note]}")
        self.bar = Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal)
        self.all = self.bar.add_task("runs", total=total, note=f"{done} done before")

    def show(self, client: Any) -> None:
        """Print the address of the cluster's dashboard, and whether it still has no worker."""
        if find_spec("bokeh"):
            self._print(f"dashboard: {client.dashboard_link}")
        if not client.nthreads():
            self._print("no worker yet: waiting for one")

    def tick(self, running: "list[Run]") -> None:
        """Update the bar of each of these runs, and from time to time the index."""
        self.slots = max(1, len(running))
        self._refresh(running)
        for run in running:
            if run.folder not in self.running:
                self.running[run.folder] = self.bar.add_task(run.name, total=run.parameters.epochs, note="")
            if logged := progress(run.folder):
                self.bar.update(self.running[run.folder], completed=logged[0], note=f"loss {logged[1]:.4g}")

    def busy(self, run: "Run") -> None:
        """Print that another process trains this run. One that died holds a store at a URL for another minute."""
        if (bar := self.running.pop(run.folder, None)) is not None:
            self.bar.remove_task(bar)
        self._print(
            f"{run.family}/{run.name}: another process trains it, or died within the last minute; waiting for that one"
        )

    def say(self, sentence: str) -> None:
        """Print why a worker gets no run, or that a run is executed again."""
        self._print(sentence)

    def finished(self, outcome: "Outcome") -> None:
        """Print how a run ended, and update the bar of all runs and the time that is left."""
        run = outcome.run
        self.seconds.append(outcome.seconds)
        self.failed += [outcome] if outcome.reason else []
        if (bar := self.running.pop(run.folder, None)) is not None:
            self.bar.remove_task(bar)
        left = sum(self.seconds) / len(self.seconds) * (self.total - len(self.seconds)) / self.slots
        self.bar.update(self.all, advance=1, note=f"{len(self.failed)} failed, {duration(left)} left")
        verdict = f"{run.verdict}, on val" if "%" in (run.verdict or "") else run.verdict
        ending = f"failed: {outcome.reason}" if outcome.reason else verdict
        self._print(f"{run.family}/{run.name}: {ending}, {outcome.seconds:.0f} s")

    def show_failed(self) -> None:
        """Print a table of the runs that failed, and why, if there are any."""
        rows = [(f"{outcome.run.family}/{outcome.run.name}", str(outcome.reason)) for outcome in self.failed]
        if rows:
            print_table(["failed", "reason"], rows, err=True)

    def _refresh(self, running: "list[Run]") -> None:
        from seqae.reports import update_index
        from seqae.stores import StoreError

        if (began := time.monotonic()) >= self.next_refresh:
            with suppress(OSError, StoreError):  # the end of the command reports them
                for run in running:  # workers publish remote runs; this process only reads them
                    refresh(run.folder.parents[1], f"{run.family}/{run.name}")
                for store in self.stores:
                    update_index(store)
            took = time.monotonic() - began
            self.next_refresh = time.monotonic() + max(REFRESH_SECONDS, took / REFRESH_SHARE)

    def _print(self, line: str) -> None:
        self.bar.console.print(shown(line), markup=False, highlight=False, soft_wrap=True)


def _status_row(folder: Path) -> list[str]:
    record = read_record(folder)
    status = run_status(folder, record)
    if status == "failed":
        status = f"failed: {record.get('reason')}"
    elif status in ("running", "interrupted") and (logged := progress(folder)):
        status += f", epoch {logged[0]} of {record.get('parameters', {}).get('epochs')}"
    results = {k.removesuffix(" mse"): v for k, v in final_figures(record).items() if k.endswith(" mse")}
    errors = [f"{branch} {value:.4f}" for branch, value in results.items() if value == value]
    seconds = f"{record['seconds']:.1f}" if "seconds" in record else ""
    name = f"{folder.parent.name}/{folder.name}"
    machines = dict.fromkeys(str(part["machine"]) for part in (record, *record.get("resumed", ())) if "machine" in part)
    return [name, status, recorded_verdict(record) or "", ", ".join(errors), seconds, ", ".join(machines)]


def status_entry(folder: Path) -> dict[str, Any]:
    """What `seqae status --json` says of a run: its record in short, with null where nothing is known."""
    entry: dict[str, Any] = {"run": "/".join(folder.parts[-2:]), "folder": str(folder)}
    try:
        record = read_record(folder)
        status = run_status(folder, record)
    except RunError as error:
        return entry | {"status": "failed", "reason": str(error)}
    logged, parameters = progress(folder), record.get("parameters", {})
    return entry | {
        "status": status,
        "reason": record.get("reason"),
        "verdict_on_val": recorded_verdict(record),
        "epoch": logged.epoch if logged else None,
        "epochs": parameters.get("epochs"),
        "test": final_figures(record),
        "seconds": record.get("seconds"),
        "machine": record.get("machine"),
    }


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, err: bool = False) -> None:
    """Print a table: as wide as the terminal; in a file or pipe one line per row, of any width."""
    console, rows = Console(stderr=err), [[shown(cell) for cell in row] for row in rows]
    if console.is_terminal:
        console.print(_table(head, rows))
        return
    lines = [[" ".join(cell.split("\n")) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in lines]
    try:  # rich takes a second for a thousand rows
        print("\n".join("  ".join(row).rstrip() for row in padded), file=console.file, flush=True)
    except BrokenPipeError:  # for example `| head`
        console.on_broken_pipe()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    # What is too long goes on in the next line: cut, two names could look alike.
    columns = [Column(name, overflow="fold") for name in head]
    table = Table(*columns, box=None, pad_edge=False, highlight=False)
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    return table


def status_rows(places: Iterable[str | None], folders: Sequence[Path] = ()) -> list[list[str]]:
    """The rows of the status table, with `STATUS_COLUMNS`; mirrors of remote stores are synced first.

    places: stores, as folder or URL. folders: the runs to show, begun or not; by default all runs of the stores.
    """
    rows = []
    for folder in run_folders(places, folders):
        try:
            rows.append(_status_row(folder))
        except RunError as error:  # a damaged folder must not hide the others
            rows.append(["/".join(folder.parts[-2:]), f"failed: {error}", "", "", "", ""])
    return rows


def run_folders(places: Iterable[str | None], folders: Sequence[Path] = ()) -> Iterator[Path]:
    """The folders to look at, as in `status_rows`; until the last was taken, records are read as `remembered` does."""
    roots = [fetch(place) for place in places]
    with ExitStack() as looks:
        for root in roots:
            looks.enter_context(remembered(root))
        yield from folders or sorted(file.parent for root in roots for file in root.glob("*/*/run.yaml"))


def print_status(rows: Callable[[], list[list[str]]], places: Iterable[str], *, watch: bool) -> None:
    """Print the table of `status_rows`; places: the stores, to name them if they hold no run.

    watch: repeat it every two seconds, with the number of runs in each status above it, until none is running or
    waiting. Rows that do not fit the terminal are left out.
    """
    if not watch:
        print_table(STATUS_COLUMNS, found := rows())
        if not found:
            tell(f"seqae: there is no run in {' or '.join(map(public_url, places))}")
        return
    with Live(console=Console(), auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            now = sorted(rows(), key=lambda row: STATUS_ORDER.index(_state(row)))
            counts = Counter(map(_state, now))
            summary = Text(f"{counted(len(now), 'run')}: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
            live.update(Group(summary, _table(STATUS_COLUMNS, now)), refresh=True)
            if not counts["running"] + counts["waiting"]:
                return
            time.sleep(2)


def _state(row: Sequence[str]) -> str:
    return re.split("[:,]", row[1])[0]  # "failed: reason", "running, epoch 3 of 5"
