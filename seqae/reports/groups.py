"""Which runs are compared: those on the same sequences at the same budget."""

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from seqae.parameters import LOSS_FIELDS, Parameters
from seqae.reports.unchanged import while_unchanged
from seqae.runs import (
    DIGIT_SETS,
    OF_DIGITS,
    Run,
    RunError,
    check_tables,
    family_notebook,
    find_runs,
    finished,
    remembered,
    run_hash,
)
from seqae.stores import fetch, project_root
from seqae.tasks import BRANCHES

# What decides which sequences a run trains and is tested on, and how many: runs that are equal in all of it are
# comparable, and form a group. By parameter, with its words.
LIKE = {
    "frame_shape": "{0[0]}×{0[1]} pixels",
    "frames_in": "{} frames seen",
    "frames_out": "{} to come",
    "clips_digest": "clips {}",
    "clip_stride": "a sequence every {} frames",
    "digits": "digits {}",
    "digits_per_sequence": "{} digits a sequence",
    "digit_speed": "digits move {:g} of the free canvas a frame",
    "data_seed": "data seed {}",
    "epochs": "{} epochs",
    "train_sequences": "{:,} sequences an epoch",
    "endless": "{} every epoch",
    "val_sequences": "{:,} for val",
    "test_sequences": "{:,} for test",
    "test_data": "test data {}",
}


def data_and_budget(p: Parameters) -> str:
    """All of `LIKE` in words. Runs of one `groups` are equal in it, but for those that predict nothing."""
    return _in_words(p, LIKE)


def _in_words(p: Parameters, names: Iterable[str]) -> str:
    # Without what only Moving MNIST has where there are clips, and the other way round.
    idle = {*OF_DIGITS} if p.clips_digest else {"clips_digest"}
    told = {name: getattr(p, name) for name in names if name not in idle}
    if "endless" in told:
        told["endless"] = "new sequences" if p.endless else "the same sequences"
    if "digits" in told:
        told["digits"] += DIGIT_SETS.get(p.digits, "")
    return ", ".join(LIKE[name].format(value) for name, value in told.items() if value is not None)


@while_unchanged("run.yaml")
def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that are comparable, by a name that tells these groups apart. The largest group is first, and of equally
    large ones the one with the newest run.
    """
    shared = [run.parameters for run in runs]
    # How far others predict makes no difference to a run that predicts nothing: it is in the largest group of those.
    horizons = Counter((_but_horizon(p), p.frames_out) for p in shared if _predicts(p))
    usual = {others: horizon for (others, horizon), _ in reversed(horizons.most_common())}
    shared = [
        p if _predicts(p) else p.model_copy(update={"frames_out": usual.get(_but_horizon(p), p.frames_out)})
        for p in shared
    ]
    found: dict[str, list[Run]] = {}
    for run, p in zip(runs, shared, strict=True):
        found.setdefault(data_and_budget(p), []).append(run)
    firsts = {data_and_budget(p): p for p in shared}
    order = sorted(
        found, key=lambda k: (len(found[k]), max(r.record().get("ended", "") for r in found[k])), reverse=True
    )
    told = [n for n in LIKE if n == "frame_shape" or len({getattr(p, n) for p in firsts.values()}) > 1]
    return {_in_words(firsts[key], told): found[key] for key in order}


def _predicts(p: Parameters) -> bool:
    # Or is cut from clips by its horizon, whatever it decodes.
    return "pred" in BRANCHES[p.task] or p.clips_digest is not None


def _but_horizon(p: Parameters) -> str:
    return data_and_budget(p.model_copy(update={"frames_out": 0}))


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
        raise ValueError(_none_finished(folder / family, set(names)))
    return done if mixed else next(iter(groups(done).values()))


def _none_finished(folder: Path, names: set[str]) -> str:
    # Why there is nothing to compare. An edit of the notebook's cell of parameters makes other runs of the same files.
    first, others = f"seqae run params/{folder.name} first", len(finished(folder) - names)
    if not (names and others):
        return f"no finished run in {folder}: {first}"
    edits = dict[str, object]()
    with suppress(ValueError, OSError):
        edits = family_notebook(project_root() / "notebooks" / f"{folder.name}.ipynb").edits
    listed = ", ".join(f"{name} {value}" for name, value in edits.items())
    edited = f"; {folder.name}.ipynb is edited ({listed}), which makes other runs of the same files: undo that, or"
    return (
        f"no run that these files define is finished (of {len(names)}), but {others} other"
        f"{'s are' if others > 1 else ' is'} in {folder}{edited if edits else ':'} {first}"
    )


def _sound(run: Run) -> bool:
    # A damaged run gives a warning and is left out, as `find_runs` does.
    try:
        check_tables(run.folder)
        tables = [run.folder / f"{name}.csv" for name in ("metrics", "test", "baselines")]
        missing = [file.name for file in [*tables, run.folder / "samples.npz"] if not file.exists()]
        if missing and not (run.folder / "performance.csv").exists():
            raise RunError(f"{', '.join(missing)} missing: copy the folder again, or train the run anew")
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
    keys = [run_hash(run.parameters.model_copy(update=same)) for run in runs]
    most = Counter(keys).most_common(1)[0][0]
    return [run for run, key in zip(runs, keys, strict=True) if key == most]
