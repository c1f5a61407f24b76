"""The commands that show finished runs in an HTML page: `seqae compare`, `seqae rerun` and `seqae demo`."""

from typing import Annotated

import typer

from seqae.commands.messages import errors_in_one_line, print_json, show_page, shown, tell
from seqae.commands.options import (
    AsJson,
    Folder,
    Given,
    OneGiven,
    Scale,
    SomeFiles,
    Store,
    TrustCode,
    given_parameters,
    planned_runs,
)


def compare(
    family: str,
    files: SomeFiles = None,
    scale: Scale = None,
    given: Given = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Compare the finished runs of a family on one page.

    Executes notebooks/compare/FAMILY.ipynb (or compare.ipynb) into compare.html
    beside the runs.

    \b
    seqae compare losses
    seqae compare losses params/losses/fixes --scale quick
    """
    with errors_in_one_line(needs_kernel=True):
        from seqae.reports import comparable_runs, publish_index
        from seqae.reports import compare as tables
        from seqae.stores import public_url
        from seqae.sweeps import comparison_page

        planned, damaged = planned_runs(files or [], scale, given, store)
        places: set[str | None] = {item.store for item in planned} or {store}  # a scale or file may say where
        if len(places) > 1:
            told = ", ".join(sorted(public_url(str(place)) for place in places))
            raise ValueError(f"FILES put their runs into {told}, and a page compares those of one store: name fewer")
        (place,) = places
        page = comparison_page(family, [item.run for item in planned], store=place)
        publish_index(page.file.parents[1], f"{family}/compare.ipynb", f"{family}/compare.html")
        if as_json and not page.reason:
            runs = comparable_runs(family, [item.run.name for item in planned], store=place, mixed=True)
            print_json({"page": str(page.file), "branches": tables.below_mean_frame(runs).to_dict("records")})
    if page.reason or not as_json:
        show_page(page, failed=f"{family} could not be compared")
    if damaged:
        raise typer.Exit(1)


def rerun(
    run: Folder,
    here: Annotated[bool, typer.Option("--here", help="Use today's code instead.")] = False,
    given: OneGiven = None,
    trust_code: TrustCode = False,
) -> None:
    """Make a finished RUN again by the commit that made it.

    A page shows both side by side.
    The code is checked out from git. The rerun is kept in reruns/ in the run's
    folder and is not repeated. -p takes only parameters that say how to
    execute it.

    \b
    seqae rerun reports/losses/0nm-recon-output-1a2b3c4d
    seqae rerun reports/losses/0nm-recon-output-1a2b3c4d --here
    seqae rerun reports/paper/composite-5e6f7a8b -p device=cpu -p data_folder=/data/mnist
    """
    with errors_in_one_line(needs_kernel=True):
        from seqae.reports import rerun_findings
        from seqae.runs import recorded_run
        from seqae.stores import located, publish_run_folder
        from seqae.sweeps import Page, reproduce_run, rerun_page

        original = recorded_run(located(run))
        how = given_parameters(given)
        again, reason = reproduce_run(original, here=here, given=how, trust_code=trust_code, tell=tell)
        report = again / "report.html"
        page = Page(report if report.exists() else again, reason) if reason else rerun_page(original, again)
        publish_run_folder(original.folder)
    if not page.reason:
        typer.echo(shown(rerun_findings(original, recorded_run(again))))
    show_page(page, failed=f"the rerun of {original.family}/{original.name} failed")


def demo(
    run: Folder,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:N, mps or auto; need not be the device of training.")
    ] = "cpu",
    given: OneGiven = None,
    trust_code: TrustCode = False,
) -> None:
    """Show what a trained RUN makes of test sequences.

    Strips, an animation and the error of each, on a page in its folder.
    -p takes the other parameters of notebooks/demo.ipynb.

    \b
    seqae demo reports/losses/0nm-recon-output-1a2b3c4d
    seqae demo reports/losses/0nm-recon-output-1a2b3c4d --device cuda -p sequences=[4,8,15]
    """
    with errors_in_one_line(needs_kernel=True):
        from seqae.stores import located, publish_run_folder
        from seqae.sweeps import demo_page

        page = demo_page(located(run), device=device, given=given_parameters(given), trust_code=trust_code)
        publish_run_folder(page.file.parent)
    show_page(page, failed=f"{run} could not be shown")
