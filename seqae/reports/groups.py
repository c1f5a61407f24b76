"""Which runs are compared: those on the same sequences at the same budget."""

import warnings
from collections import Counter
from collections.abc import Sequence

from seqae.parameters import LOSS_FIELDS, Parameters
from seqae.runs import Run, RunError, check_tables, find_runs, remembered, short_hash
from seqae.stores import fetch

# What decides which sequences a run trains and is tested on, and how many: runs that are equal in all of it are
# comparable, and form a group. By parameter, with its words.
LIKE = {
    "frame_size": "{0}×{0} pixels",
    "frames_in": "{} frames seen",
    "frames_out": "{} to come",
    "digits": "digits {}",
    "data_seed": "data seed {}",
    "epochs": "{} epochs",
    "train_sequences": "{:,} sequences an epoch",
    "endless": "endless: {}",
    "val_sequences": "{:,} for val",
    "test_sequences": "{:,} for test",
    "test_data": "test data {}",
}


def data_and_budget(p: Parameters) -> str:
    """All of `LIKE` in words: two runs are comparable where it is equal."""
    return ", ".join(words.format(getattr(p, name)) for name, words in LIKE.items())


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that are comparable, by a name that tells these groups apart. The largest group is first, and of equally
    large ones the one with the newest run.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(data_and_budget(run.parameters), []).append(run)
    order = sorted(found.values(), key=lambda of: (len(of), max(r.record().get("ended", "") for r in of)), reverse=True)
    firsts = [of[0].parameters for of in order]
    told = [n for n in LIKE if n == "frame_size" or len({getattr(p, n) for p in firsts}) > 1]
    return {", ".join(LIKE[n].format(getattr(of[0].parameters, n)) for n in told): of for of in order}


def comparable_runs(
    family: str, names: Sequence[str] = (), *, store: str | None = None, mixed: bool = False
) -> list[Run]:
    """The finished runs of a family, or those of them in `names`: the first of their `groups`, or all where `mixed`.

    names: of run folders. store: a folder or URL; None: the default store. Raises ValueError where no run is finished.
    """
    folder = fetch(store, family)
    with remembered(folder):
        done = [run for run in find_runs(folder, family, names=names) if run.status == "done" and _sound(run)]
    done.sort(key=lambda run: (run.parameters.label or "", run.name))
    if not done:
        raise ValueError(f"no finished run in {folder / family}: seqae run params/{family} first")
    return done if mixed else next(iter(groups(done).values()))


def _sound(run: Run) -> bool:
    # A damaged run gives a warning and is left out, as `find_runs` does.
    try:
        check_tables(run.folder)
    except RunError as error:
        warnings.warn(f"{run.folder} left out: {error}", stacklevel=3)
        return False
    return True


def alike(runs: Sequence[Run], *but: str) -> list[Run]:
    """The most runs that are equal in all parameters `but` these, `seed`, and those that only say how to execute.

    The parameter `loss` stands for its three fields.
    """
    fields = [field for name in but for field in (LOSS_FIELDS if name == "loss" else [name])]
    same = {name: getattr(runs[0].parameters, name) for name in ("seed", *fields)}
    keys = [short_hash(run.parameters.model_copy(update=same)) for run in runs]
    most = Counter(keys).most_common(1)[0][0]
    return [run for run, key in zip(runs, keys, strict=True) if key == most]
