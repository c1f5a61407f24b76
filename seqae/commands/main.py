"""The command line `seqae`, put together from its commands.

torch takes seconds to import. So commands import what depends on it when they run, and `seqae --help` starts at once.
"""

import atexit
import gc
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from seqae.commands.clean_command import clean
from seqae.commands.model_commands import predict_clips
from seqae.commands.new_command import new
from seqae.commands.page_commands import compare, demo, rerun
from seqae.commands.record_commands import check, gather, status
from seqae.commands.run_commands import run, scheduler, worker

ALLOCATIONS = 100_000  # objects made between two looks for garbage; 700 is what Python has without it


class _CommandLine(typer.Typer):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a terminal of another encoding than UTF-8 shows ? for what it lacks
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")
        return super().__call__(*arguments, **named)


# Plain text: rich, which would draw boxes around it, takes as long to import as all else that --help needs.
app = _CommandLine(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Sequence autoencoders on video."
)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("seqae"))
        raise typer.Exit


@app.callback()
def about(
    version_asked: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say the version, and end.")
    ] = False,
) -> None:
    # Of a million objects that the imports make, none is garbage: looking for it took a third of a command's time, and
    # looking once more when it ends a second.
    gc.set_threshold(ALLOCATIONS)
    atexit.register(gc.freeze)


# the order in --help:
for command in (new, run, worker, scheduler, compare, rerun, demo, predict_clips, gather, status, check, clean):
    app.command("predict" if command is predict_clips else None)(command)
