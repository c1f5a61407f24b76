"""The options that several commands have."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from seqae.files import expanded
from seqae.stores import load_yaml


def file_path(text: str | Path) -> Path:
    """A path of the command line, relative to the working directory, `expanded`: in --option=~/path no shell does that.

    What cannot be expanded stays as it is: there is no such file.
    """
    try:
        return Path(expanded(str(text)))
    except ValueError:
        return Path(text)


Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILES", parser=file_path, help="Parameter files, or folders of them, in params/FAMILY/."),
]
SomeFiles = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILES", parser=file_path, help="Only the runs that these parameter files define."),
]
Folder = Annotated[
    Path, typer.Argument(metavar="RUN", parser=file_path, help="A run: its folder, or FAMILY/NAME-HASH in the store.")
]
Scale = Annotated[str | None, typer.Option(help="Sizes: a name in params/scale/, or a file.")]
Given = Annotated[list[str] | None, typer.Option("-p", metavar="KEY=VALUE", help="A parameter; overrides all files.")]
Store = Annotated[str | None, typer.Option(help="Folder or URL of runs; default: $SEQAE_STORE, else reports/.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", parser=file_path, help="PEM file of the certificate authority; needs the next two, too."
    ),
]
TlsCert = Annotated[
    Path | None, typer.Option(metavar="PATH", parser=file_path, help="PEM file of this machine's certificate.")
]
TlsKey = Annotated[
    Path | None, typer.Option(metavar="PATH", parser=file_path, help="PEM file of the key of this certificate.")
]
WithoutTls = Annotated[bool, typer.Option("--without-tls", help="Accept unencrypted connections from any machine.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time; default: the number of GPUs, else of cores.")]
Cluster = Annotated[str | None, typer.Option(help="tcp://HOST:PORT, ssh:FILE, slurm:FILE; default: this machine.")]
PerGpu = Annotated[int, typer.Option(min=1, help="How many (small) runs share a GPU.")]


def given_parameters(pairs: Iterable[str] | None) -> dict[str, Any]:
    """The parameters of `-p KEY=VALUE`; values are YAML. Raises ValueError for other text and for a key twice."""
    split = [pair.partition("=") for pair in pairs or []]
    if wrong := ["".join(pair) for pair in split if not (pair[0] and pair[1])]:
        raise ValueError(f"-p takes KEY=VALUE, such as -p epochs=5; not {wrong[0]!r}")
    if twice := [key for n, (key, _, _) in enumerate(split) if key in [first for first, _, _ in split[:n]]]:
        raise ValueError(f"-p {twice[0]} is given twice: keep one of them")
    try:
        return {key: load_yaml(value) for key, _, value in split}
    except yaml.YAMLError as error:
        raise ValueError(f"-p: {' '.join(str(error).split())}") from None
