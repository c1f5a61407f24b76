"""What a terminal shows of runs: bars while they are trained, a table of what has become of them."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from seqae.runs import RunError, progress, read_record, remembered, run_status
from seqae.stores import fetch, refresh

if TYPE_CHECKING:  # torch behind them takes seconds to import, and a look at records needs none
    from seqae.runs import Run
    from seqae.sweeps import Outcome

STATUS = ["run", "status", "verdict", "test mse", "seconds", "machine"]
ORDER = ["running", "failed", "interrupted", "waiting", "done"]  # what one watches for comes first
LOOK_SECONDS = 5.0  # between two looks at runs elsewhere, each followed by a new index, while they train;
LOOK_SHARE = 0.05  # more where a look takes more than this share of them


class SweepView:
    """A bar for all runs and one for each that is under way; elsewhere than on a terminal a line for each finished."""

    def __init__(self, total: int, *, done: int, stores: set[Path]) -> None:
        self.total, self.stores = total, stores
        self.slots = 1  # runs at a time
        self.seconds: list[float] = []
        self.failed: list[Outcome] = []
        self.running: dict[Path, TaskID] = {}
        self.next_look = 0.0
        console, text, bars = Console(), partial(TextColumn, markup=False), (BarColumn(), MofNCompleteColumn())
        columns = text("{task.description}"), *bars, TimeElapsedColumn(), text("{task.fields[note]}")
        self.bar = Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal)
        self.all = self.bar.add_task("runs", total=total, note=f"{done} done before")

    def show(self, client: Any) -> None:
        """Where one can look into the cluster while it works, and whether it has workers."""
        if find_spec("bokeh"):
            self._tell(f"dashboard: {client.dashboard_link}")
        if not client.nthreads():
            self._tell("no worker yet: waiting for one")

    def tick(self, running: "list[Run]") -> None:
        """Show how far these runs are, each in a bar of its own, and how long all that is left will take."""
        self.slots = max(1, len(running))
        self._look(running)
        for run in running:
            if run.folder not in self.running:
                self.running[run.folder] = self.bar.add_task(run.name, total=run.parameters.epochs, note="")
            if logged := progress(run.folder):
                self.bar.update(self.running[run.folder], completed=logged[0], note=f"loss {logged[1]:.4g}")

    def busy(self, run: "Run") -> None:
        """Say that another process trains this one."""
        if (bar := self.running.pop(run.folder, None)) is not None:
            self.bar.remove_task(bar)
        self._tell(f"{run.family}/{run.name}: another process trains it; waiting for that one")

    def finished(self, outcome: "Outcome") -> None:
        """Say how a run ended, and count it."""
        run = outcome.run
        self.seconds.append(outcome.seconds)
        self.failed += [outcome] if outcome.reason else []
        if (bar := self.running.pop(run.folder, None)) is not None:
            self.bar.remove_task(bar)
        left = sum(self.seconds) / len(self.seconds) * (self.total - len(self.seconds)) / self.slots
        self.bar.update(self.all, advance=1, note=f"{len(self.failed)} failed, {duration(left)} left")
        ending = f"failed: {outcome.reason}" if outcome.reason else run.verdict
        self._tell(f"{run.family}/{run.name}: {ending}, {outcome.seconds:.0f} s")

    def tell_failed(self) -> None:
        """A table of those that failed, and why, where there are any."""
        rows = [(f"{outcome.run.family}/{outcome.run.name}", str(outcome.reason)) for outcome in self.failed]
        if rows:
            print_table(["failed", "reason"], rows, err=True)

    def _look(self, running: "list[Run]") -> None:
        from seqae.reports import update_index
        from seqae.stores import StoreError

        if (began := time.monotonic()) >= self.next_look:
            with suppress(OSError, StoreError):  # told at the end
                for run in running:  # elsewhere a worker publishes what it has, not here
                    refresh(run.folder.parents[1], f"{run.family}/{run.name}")
                for store in self.stores:
                    update_index(store)
            took = time.monotonic() - began
            self.next_look = time.monotonic() + max(LOOK_SECONDS, took / LOOK_SHARE)

    def _tell(self, line: str) -> None:
        self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _status_row(folder: Path) -> list[str]:
    record = read_record(folder)
    status = run_status(folder, record)
    if status == "failed":
        status = f"failed: {record.get('reason')}"
    elif status in ("running", "interrupted") and (logged := progress(folder)):
        status += f", epoch {logged[0]} of {record['parameters'].get('epochs')}"
    results = {k.removesuffix(" mse"): v for k, v in record.get("results", {}).items() if k.endswith(" mse")}
    errors = [f"{branch} {value:.4f}" for branch, value in results.items()]
    seconds = f"{record['seconds']:.1f}" if "seconds" in record else ""
    name = f"{folder.parent.name}/{folder.name}"
    return [name, status, record.get("verdict") or "", ", ".join(errors), seconds, record.get("machine", "")]


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, err: bool = False) -> None:
    """Columns with whole words: on a terminal as wide as that, in files and pipes a line a row."""
    console = Console(stderr=err)
    if console.is_terminal:
        console.print(_table(head, rows))
        return
    lines = [[" ".join(cell.split("\n")) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in lines]
    try:  # not by rich, which takes a second for a thousand of them
        print("\n".join("  ".join(row).rstrip() for row in padded), file=console.file, flush=True)
    except BrokenPipeError:  # of `| head`
        console.on_broken_pipe()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*head, box=None, pad_edge=False, highlight=False)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def status_rows(places: Iterable[str | None], folders: Sequence[Path] = ()) -> list[list[str]]:
    """Of the runs in these folders, begun or not, none: of all in these stores: run, status, verdict, test mse,
    seconds, machine. Brings mirrors up to date first.
    """
    rows, roots = [], [fetch(place) for place in places]
    with ExitStack() as looks:
        for root in roots:
            looks.enter_context(remembered(root))
        for folder in folders or sorted(file.parent for root in roots for file in root.glob("*/*/run.yaml")):
            try:
                rows.append(_status_row(folder))
            except RunError as error:  # one damaged folder hides no other
                rows.append(["/".join(folder.parts[-2:]), f"failed: {error}", "", "", "", ""])
    return rows


def print_status(rows: Callable[[], list[list[str]]], *, watch: bool) -> None:
    """The table of `status_rows`; watch: again every two seconds, as much as fits, above it how many have which status,
    until none is waiting or running, or Ctrl-C.
    """
    if not watch:
        print_table(STATUS, rows())
        return
    with Live(console=Console(), auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            now = sorted(rows(), key=lambda row: ORDER.index(_state(row)))
            counts = Counter(map(_state, now))
            summary = Text(f"{len(now)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
            live.update(Group(summary, _table(STATUS, now)), refresh=True)
            if not counts["running"] + counts["waiting"]:
                return
            time.sleep(2)


def _state(row: Sequence[str]) -> str:
    return re.split("[:,]", row[1])[0]  # failed: why; running, epoch 3 of 5


def duration(seconds: float) -> str:
    """12.3 s, or 0:02:05."""
    return str(timedelta(seconds=round(seconds))) if seconds >= 60 else f"{seconds:.3g} s"
