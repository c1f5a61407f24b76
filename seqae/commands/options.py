"""The options that several commands have."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from seqae.files import load_yaml

Files = Annotated[list[Path], typer.Argument(help="Parameter files, or folders of them, in params/FAMILY/.")]
SomeFiles = Annotated[list[Path] | None, typer.Argument(help="Only the runs that these parameter files define.")]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="A run: its folder, or FAMILY/NAME-HASH in the store.")]
Scale = Annotated[str | None, typer.Option(help="Sizes: a name in params/scale/, or a file.")]
Given = Annotated[list[str] | None, typer.Option("-p", metavar="KEY=VALUE", help="A parameter; overrides all files.")]
Store = Annotated[str | None, typer.Option(help="Folder or URL of runs; default: $SEQAE_STORE, else reports/.")]
TlsCa = Annotated[Path | None, typer.Option(help="PEM file of the certificate authority; needs the next two, too.")]
TlsCert = Annotated[Path | None, typer.Option(help="PEM file of this machine's certificate.")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file of the key of this certificate.")]
WithoutTls = Annotated[bool, typer.Option("--without-tls", help="Accept unencrypted connections from any machine.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time; default: the number of GPUs, else of cores.")]
Cluster = Annotated[str | None, typer.Option(help="tcp://HOST:PORT, ssh:FILE, slurm:FILE; default: this machine.")]
PerGpu = Annotated[int, typer.Option(min=1, help="How many (small) runs share a GPU.")]


def given_parameters(pairs: Iterable[str] | None) -> dict[str, Any]:
    """The parameters of `-p KEY=VALUE`; values are YAML. Raises ValueError for other text."""
    split = [pair.partition("=") for pair in pairs or []]
    if wrong := ["".join(pair) for pair in split if not (pair[0] and pair[1])]:
        raise ValueError(f"-p takes KEY=VALUE, such as -p epochs=5; not {wrong[0]!r}")
    try:
        return {key: load_yaml(value) for key, _, value in split}
    except yaml.YAMLError as error:
        raise ValueError(f"-p: {' '.join(str(error).split())}") from None
