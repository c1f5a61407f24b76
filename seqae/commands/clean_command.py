"""The command that says what takes space, and removes what is named: `seqae clean`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from seqae.commands.messages import errors_in_one_line, tell
from seqae.commands.options import Store

if TYPE_CHECKING:
    from seqae.runs import Removable


def clean(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="WHAT", help="A kind, KIND/FAMILY, or one thing, by its name in the table."),
    ] = None,
    store: Store = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, for scripts.")] = False,
) -> None:
    """Say what takes space; remove what is named, after asking.

    Without WHAT nothing is removed. The kinds are failed and checkpoints, of
    the store, and mirrors, clips, digits and compiled, in your cache. What
    another process works on stays, and the exit code then is 1.

    \b
    seqae clean
    seqae clean failed
    seqae clean checkpoints/losses mirrors --yes
    """
    with errors_in_one_line():
        from seqae.commands.terminal import print_table
        from seqae.runs import STORE_KINDS, chosen, removables
        from seqae.stores import MARK, store_folder

        folder = store_folder(store)
        elsewhere = (folder / MARK).exists()
        found = removables(None if elsewhere else folder)
        if elsewhere and (of_store := [name for name in names or () if name.split("/")[0] in STORE_KINDS]):
            raise ValueError(f"{of_store[0]}: that store is at a URL, remove its runs there, with its own tools")
        if not names:
            print_table(["what", "number", "size", "of what, and what removing it costs"], _by_kind(found))
            return
        if not (named := chosen(found, names)):
            typer.echo("there is nothing of that to remove")
            return
        print_table(["what", "size"], _each(named))
        if not (yes or _agreed(named)):
            tell("seqae: nothing is removed")
            raise typer.Exit(1)
        left = [(item.name, reason) for item in named if (reason := item.remove())]
        typer.echo(f"removed: {len(named) - len(left)} of {len(named)}")
        if left:
            print_table(["left", "reason"], left, err=True)
        if not elsewhere and (folder / "index.html").exists():
            from seqae.reports import update_index

            update_index(folder)
    if left:
        raise typer.Exit(1)


def _by_kind(found: "Sequence[Removable]") -> Iterator[tuple[str, str, str, str]]:
    from seqae.runs import REMOVAL_COSTS

    for kind, cost in REMOVAL_COSTS.items():
        sizes = [item.size for item in found if item.name.startswith(f"{kind}/")]
        yield kind, str(len(sizes)), _size(sum(sizes)), cost


def _each(named: "Sequence[Removable]") -> Iterator[tuple[str, str]]:
    # Names of decoded clips are hashes, and there may be thousands: several are one row.
    clips = [item.size for item in named if item.name.startswith("clips/")]
    for item in named:
        if len(clips) == 1 or not item.name.startswith("clips/"):
            yield item.name, _size(item.size)
    if len(clips) > 1:
        yield f"clips ({len(clips):,})", _size(sum(clips))


def _size(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:,.1f} GB"
    return f"{max(count / 1e6, 0.1):,.1f} MB" if count else "0 MB"


def _agreed(named: "Sequence[Removable]") -> bool:
    try:
        return typer.confirm(f"remove these, {_size(sum(item.size for item in named))}?", err=True)
    except typer.Abort:  # nobody is there who could answer
        tell("")
        raise ValueError("nobody answered, so nothing is removed: --yes removes without asking") from None
