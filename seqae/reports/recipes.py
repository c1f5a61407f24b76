"""What runs are called in a comparison: each run, and those that differ only by seed together."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from urllib.parse import quote

import pandas as pd

from seqae.parameters import EXECUTION, Parameters
from seqae.reports.unchanged import while_unchanged
from seqae.runs import Run, counted, finished, name_words, run_hash

LEFT_OUT = 40  # names of runs left out, at most


@while_unchanged("run.yaml")
def labels(runs: Sequence[Run]) -> list[str]:
    """The name of each run in a comparison, no two alike.

    It is the run's parameter `label`, or else its way and the values in which it differs from most of the runs; where
    one has an architecture of one's own, always the architecture. Runs with the same name, such as those of one file
    with several values of -p, get the values added in which they differ; then their seed. Where code of one's own was
    edited between runs of the same architecture and loss, each run of this architecture gets the time when its code was
    first trained. If that is not enough, runs are called by their folder.
    """
    columns = pd.DataFrame([run.parameters.model_dump(exclude={"label"}) for run in runs]).map(repr)
    usual = {name: runs[int((column == column.mode()[0]).argmax())].parameters for name, column in columns.items()}
    common = Parameters.model_construct(**{name: getattr(p, name) for name, p in usual.items()})
    if any(":" in run.parameters.architecture for run in runs):
        common = common.model_copy(update={"architecture": ""})
    names = [run.parameters.label or name_words(run.parameters, common, run.family) for run in runs]
    if len(set(names)) < len(names):
        names = _longer(names, _values(runs, names))
    names = _longer(names, [f", seed {run.parameters.seed}" for run in runs])
    names = [name + code for name, code in zip(names, _codes(runs), strict=True)]
    return [run.name if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _longer(names: Sequence[str], endings: Sequence[str]) -> list[str]:
    # Names that are alike with their endings, where these differ.
    found: dict[str, set[str]] = {}
    for name, ending in zip(names, endings, strict=True):
        found.setdefault(name, set()).add(ending)
    return [name + ending if len(found[name]) > 1 else name for name, ending in zip(names, endings, strict=True)]


def _values(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    # For each run the values in which it differs from others of the same name, but for its seed and code.
    flat = []
    for run in runs:
        values = run.parameters.model_dump(exclude={*EXECUTION, "seed", "code", "architecture_arguments"})
        shown = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in values.items()}
        flat.append(shown | {key: str(value) for key, value in run.parameters.architecture_arguments.items()})
    count, found = Counter(names), dict[str, Counter[tuple[str, str]]]()
    for name, values in zip(names, flat, strict=True):
        found.setdefault(name, Counter()).update(values.items())
    return [
        "".join(f", {k.replace('_', ' ')} {v}" for k, v in values.items() if found[name][k, v] < count[name])
        for name, values in zip(names, flat, strict=True)
    ]


def _codes(runs: Sequence[Run]) -> list[str]:
    # For each run when the first of these runs of its code began, where its code has been another.
    first: dict[str, str] = {}
    for run in runs:
        if (code := run.parameters.code) and (started := run.record().get("started")):
            first[code] = min(started, first.get(code, started))
    told = (first.get(run.parameters.code or "", "") for run in runs)
    endings = [f", code of {started[:16].replace('T', ' ')}" if started else "" for started in told]
    # The hash of a loss of one's own is in that of the code, so that runs of two losses do not show an edit. Where runs
    # of one loss show it, those of the others are named, too: they are from before it or after it.
    found: dict[tuple[str, str], set[str]] = {}
    for run, ending in zip(runs, endings, strict=True):
        found.setdefault((run.parameters.architecture, run.parameters.training_loss), set()).add(ending)
    edited = {architecture for (architecture, _), codes in found.items() if len(codes) > 1}
    return [end if run.parameters.architecture in edited else "" for run, end in zip(runs, endings, strict=True)]


@while_unchanged("run.yaml")
def recipes(runs: Sequence[Run]) -> list[str]:
    """The name of each run's recipe, the same for runs that differ only by seed, with the number of seeds, and how many
    of these diverged: a mean is of the others.
    """
    keys, names = _named(runs, "seed")
    seeds: dict[str, dict[int, bool]] = {}  # by recipe: each seed, and whether it diverged
    for key, run in zip(keys, runs, strict=True):
        seeds.setdefault(key, {})[run.parameters.seed] = run.diverged
    told = {key: f", n = {len(of)} seeds" for key, of in seeds.items() if len(of) > 1}
    told |= {
        key: f"{text}, {sum(seeds[key].values())} diverged" for key, text in told.items() if any(seeds[key].values())
    }
    return [name + told.get(key, "") for key, name in zip(keys, names, strict=True)]


def in_code(name: str) -> str:
    """A name as code in Markdown, as it is: code is escaped by what reads it. Backticks in the name do not end it."""
    text = " ".join(name.split())  # a blank line would end it, too
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    room = " " if text.startswith("`") or text.endswith("`") else ""  # which Markdown takes away
    return f"{fence}{room}{text}{room}{fence}"


def as_text(name: str) -> str:
    """A name in a text of Markdown, where no tag, and no code, begins in it."""
    return escape(" ".join(name.split())).replace("`", "&#96;")


def report_links(runs: Sequence[Run]) -> dict[str, str]:
    """Where a comparison finds each run's report, by the name of the run, and of its recipe, whose first run it is.

    A run that was trained in Jupyter, without a report, has its record.
    """
    pages = ["report.html" if (run.folder / "report.html").exists() else "run.yaml" for run in runs]
    hrefs = [f"{quote(run.name)}/{page}" for run, page in zip(runs, pages, strict=True)]
    pairs = [*zip(recipes(runs), hrefs, strict=True), *zip(labels(runs), hrefs, strict=True)]
    return dict(reversed(pairs))


def left_out(runs: Sequence[Run]) -> str:
    """The finished runs of the family that are not among these, in Markdown, with links to their reports; "" if none.

    Of more than `LEFT_OUT` it says where the others are.
    """
    if not (names := sorted(finished(runs[0].folder.parent) - {run.name for run in runs})):
        return ""
    told = ", ".join(f"[{as_text(name)}]({quote(name)}/report.html)" for name in names[:LEFT_OUT])
    if len(names) > LEFT_OUT:
        all_runs = f"../index.html#family={quote(runs[0].family, safe='')}"
        told += f" and {counted(len(names) - LEFT_OUT, 'other')}, in the [list of all runs]({all_runs})"
    return f"\n\n{counted(len(names), 'finished run')} of the family left out: {told}."


def cells(runs: Sequence[Run], by: Sequence[str], across: Sequence[str] = ()) -> list[str]:
    """The name of each run's row, or line, in a figure whose columns, or panels, are the parameters `across`.

    It is the run's values of the parameters `by`, and, where that would put different recipes into one cell, what else
    tells them apart: only runs that differ by nothing but seed share a cell.
    """
    keys, names = _named(runs, "seed", *across)
    short = [" ".join(str(getattr(run.parameters, name)) for name in by) for run in runs]
    found: dict[str, set[str]] = {}
    for name, key in zip(short, keys, strict=True):
        found.setdefault(name, set()).add(key)
    usual = name_words(runs[0].parameters, runs[0].parameters, runs[0].family)  # the way, which is that of the columns
    longer = [name.removeprefix(usual).lstrip("-") for name in names]
    return [a if len(found[a]) == 1 or not b else f"{a}: {b}" for a, b in zip(short, longer, strict=True)]


def called(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """The runs with other labels, in comparisons: `names`, one for each."""
    labelled = [run.parameters.model_copy(update={"label": name}) for run, name in zip(runs, names, strict=True)]
    return [replace(run, parameters=parameters) for run, parameters in zip(runs, labelled, strict=True)]


def _named(runs: Sequence[Run], *but: str) -> tuple[list[str], list[str]]:
    # For each run a key and a name, the same for runs that are equal in all parameters `but` these.
    same = {name: getattr(runs[0].parameters, name) for name in but} if runs else {}
    alike = [run.parameters.model_copy(update=same) for run in runs]
    keys = [run_hash(parameters) for parameters in alike]
    firsts = {key: replace(runs[i], parameters=alike[i]) for i, key in reversed([*enumerate(keys)])}
    names = dict(zip(firsts, labels(list(firsts.values())), strict=True)) if runs else {}
    return keys, [names[key] for key in keys]
