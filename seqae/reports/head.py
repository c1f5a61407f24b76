"""What stands at the top of a page: its facts, the way to other pages, and of a run that failed what to do."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ADVICE = {  # what to do, by a pattern in the reason of a failure; seqae's own errors say it themselves
    "out of memory|MemoryError|can't allocate": "Lower batch_size, hidden or width, or run fewer runs at a time: "
    "seqae run --jobs 1.",
    "No space left": "Free space there, or choose another --store.",
    "ModuleNotFoundError": "Install that package into the environment that seqae runs in; a module of your own has to "
    "be in notebooks/, and then travels with the run.",
}


@dataclass(frozen=True)
class Facts:
    """The facts at the top of a page."""

    title: str
    status: str  # done | failed | running | interrupted | waiting
    verdict: str | None
    rows: Sequence[tuple[str, str]] = ()  # label, value
    error: str | None = None  # the first line is the reason, the others say what to do
    files: Sequence[str] = ()  # names of files beside the page; those that exist are linked
    groups: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)  # of rows, by what they are about
    links: Mapping[str, str] = field(default_factory=dict)  # the way to other pages: a path, or PATH#FRAGMENT, by title
    introduction: str | None = None  # a sentence below the title
    ends_first: bool = False  # whether the section Conclusion, the notebook's last, stands above all others


AGAIN = "The next seqae run, or run.train() in its notebook, tries this run again."
ANOTHER = "that makes a new run; `seqae clean failed` removes this one"


def advice(reason: str, files: Sequence[str] = ()) -> str:
    """What to do about a run that failed for this reason. files: of the user's own code that defines the run."""
    known = [text for pattern, text in ADVICE.items() if re.search(pattern, reason)]
    place = re.search(r"\(([^\s()]+\.py):\d+\)", reason)
    named = re.match(r"(ContractError: (model|training_loss)|OwnCodeError: architecture) ", reason)
    if known or not files or (place and place[1] not in files) or reason.startswith("ContractError: metric "):
        return " ".join([*(known or ["Fix the cause."]), AGAIN])
    if place or named:
        return f"Fix the cause in {place[1] if place else ' or '.join(files)} and run again: {ANOTHER}."
    return f"Fix the cause. If it is in {' or '.join(files)}, run again: {ANOTHER}. If it is elsewhere: {AGAIN}"
