"""What every command says when it ends: an error in one line and its exit code, or the page that it wrote."""

import json
import math
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from seqae.sweeps import Page


def shown(text: str) -> str:
    """Text of a record as a terminal may get it: a character that would control the terminal is shown as ?."""
    return text if text.isprintable() else "".join(c if c == "\n" or c.isprintable() else "?" for c in text)


def tell(message: str) -> None:
    """Print a line on stderr, as `shown`: it may hold texts of a record."""
    typer.echo(shown(message), err=True)


@contextmanager
def errors_in_one_line(*, needs_kernel: bool = False) -> Iterator[None]:
    """Show an expected error as one line, exit code 2. An interrupt has exit code 128 + the signal's number.

    needs_kernel: start the fork server of pages at once, so that it imports on another core while this process does.
    """
    from seqae.runs import RunError
    from seqae.stores import StoreError
    from seqae.sweeps import start_fork_server

    try:
        _check_folder()
        if needs_kernel:
            start_fork_server(trains=False)
        yield
    except BrokenPipeError:  # for example `| head`: who reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it ends
        raise typer.Exit(128 + signal.SIGPIPE) from None
    except (ValueError, RunError, StoreError, OSError) as error:
        tell(f"seqae: {error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt as stop:
        tell("seqae: stopped; the same command goes on from the last checkpoints")
        raise typer.Exit(128 + next(iter(stop.args), signal.SIGINT)) from None


def _check_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        raise OSError("the working directory was deleted: change to a folder that is there") from None


def print_json(value: Any) -> None:
    """Print a value as JSON; a number that is not finite is null, which JSON has instead."""
    typer.echo(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_page(page: "Page", *, failed: str) -> None:
    """Print where a page is. If its notebook failed, print what `failed` says and the reason; exit code 1."""
    if page.reason:
        tell(f"seqae: {failed}: {page.reason}; see {page.file}")
        raise typer.Exit(1)
    typer.echo(page.file)
