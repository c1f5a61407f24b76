"""The options that several commands have."""

import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from seqae.commands.messages import tell
from seqae.files import expanded
from seqae.stores import load_yaml

if TYPE_CHECKING:
    from seqae.sweeps import Planned


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
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run code from a run's folder, or of a project around it.")
]
Scale = Annotated[str | None, typer.Option(help="Sizes: a name in params/scale/ or params/FAMILY/scale/, or a file.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        metavar="KEY=VALUE",
        help="A parameter; overrides all files. Of seed=6,7 each value makes runs of its own, and of several such "
        "parameters each combination; a list is [6,7].",
    ),
]
OneGiven = Annotated[list[str] | None, typer.Option("-p", metavar="KEY=VALUE", help="A parameter; a list is [4,8].")]
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
Cluster = Annotated[
    str | None,
    typer.Option(help="tcp://HOST:PORT, tls://…, ssh:FILE, slurm:FILE (or pbs, sge, lsf, …); default: this machine."),
]
PerGpu = Annotated[int, typer.Option(min=1, help="How many (small) runs share a GPU.")]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


UNSPLIT = {"label", "store", "data_folder", "clips", "clips_val", "clips_test"}  # texts and paths may have commas
# A text in quotes, which begin where a YAML value may begin; or any other character.
_PIECE = re.compile(r"""(?<![^\s\[{(,:])(?:"(?:\\.|[^"\\])*"|'(?:''|[^'])*')|.""", re.DOTALL)


def given_grid(pairs: Iterable[str] | None) -> list[dict[str, Any]]:
    """Every combination of the values of `-p KEY=VALUE,VALUE`, the last key's changing fastest; values are YAML.

    Commas in brackets and quotes do not separate values, nor do those of the keys in `UNSPLIT`. Without pairs there is
    one combination, an empty one. Raises ValueError for other text, for a key twice and for an empty value.
    """
    split = [pair.partition("=") for pair in pairs or []]
    if wrong := ["".join(pair) for pair in split if not (pair[0] and pair[1])]:
        raise ValueError(f"-p takes KEY=VALUE, such as -p epochs=5; not {wrong[0]!r}")
    if twice := [key for n, (key, _, _) in enumerate(split) if key in [first for first, _, _ in split[:n]]]:
        raise ValueError(f"-p {twice[0]} is given twice: keep one of them; to run several values, give KEY=VALUE,VALUE")
    try:
        values = [[load_yaml(value) for value in _values(key, text)] for key, _, text in split]
    except yaml.YAMLError as error:
        raise ValueError(f"-p: {' '.join(str(error).split())}") from None
    return [dict(zip([key for key, _, _ in split], combination, strict=True)) for combination in product(*values)]


def given_parameters(pairs: Iterable[str] | None) -> dict[str, Any]:
    """The parameters of `-p KEY=VALUE`, for a command that takes one value of each. Raises as `given_grid`."""
    first, *others = given_grid(pairs)
    if several := [key for key, value in first.items() if any(other[key] != value for other in others)]:
        raise ValueError(f"-p {several[0]} has several values, and this command takes one; a list is [VALUE,VALUE]")
    return first


def _values(key: str, text: str) -> list[str]:
    # The parts of a value between the commas that separate values.
    parts, depth = [list[str]()], 0
    for piece in _PIECE.findall(text):
        depth += (piece in ("[", "{", "(")) - (piece in ("]", "}", ")"))
        if piece == "," and depth <= 0 and key not in UNSPLIT:
            parts.append([])
        else:
            parts[-1].append(piece)
    values = ["".join(part) for part in parts]
    if len(values) > 1 and not all(value.strip() for value in values):
        raise ValueError(f"-p {key}={text} has an empty value beside a comma: leave the comma out")
    return values


def planned_runs(
    files: Iterable[Path], scale: str | None, given: Iterable[str] | None, store: str | None
) -> "tuple[list[Planned], list[str]]":
    """`plan`, and what is wrong with runs that are damaged: these are named and left out, and hide no other.

    Raises RunError if all are.
    """
    from seqae.runs import RunError
    from seqae.sweeps import plan

    damaged = list[str]()
    planned = plan(files, scale=scale, given=given_grid(given), store=store, tell=tell, damaged=damaged)
    if damaged and not planned:
        raise RunError("\n".join(damaged))
    for fault in damaged:
        tell(f"seqae: left out: {fault}")
    return planned, damaged
