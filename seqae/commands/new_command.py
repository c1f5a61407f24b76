"""The command that begins a project: `seqae new`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from seqae.commands.messages import errors_in_one_line
from seqae.commands.options import file_path


def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", parser=file_path, help="Made if it is missing.")],
) -> None:
    """Make the smallest project: one notebook, one parameter file.

    A FOLDER that has notebooks or parameter files stays as it is; the exit
    code then is 2.

    \b
    seqae new walking
    """
    with errors_in_one_line():
        from seqae.sweeps import lay_down

        lay_down(folder)
    there = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    typer.echo(f"next: {there}seqae run params (or open notebooks/mine.ipynb in Jupyter)")
