"""Going on: a run that differs from a finished one by more epochs alone begins from a copy of its checkpoint.

Only where that is exact: the numbers are those of an unbroken run of all epochs, on the same CPU with as many threads
to the last bit. What was made before, rows of metrics and the best weights among it, is part of the new run. The
finished one stays as it is. Metrics of your own do not define a run: those that the finished one lacks, or has of other
code, are measured in the new epochs only.
"""

import logging
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from seqae.files import whole
from seqae.parameters import Parameters
from seqae.runs.experiment import update_rule
from seqae.runs.folder import RunFolder
from seqae.runs.horizon import grows
from seqae.runs.identity import run_hash
from seqae.runs.later_metrics import forget_metrics, outdated
from seqae.runs.locks import copying
from seqae.runs.logs import LOG_COLUMNS
from seqae.runs.records import RunError, own_metrics_of, read_record, remembered
from seqae.stores import CHECKPOINT, MARK, refresh

if TYPE_CHECKING:
    from seqae.runs.run import Run


class Shorter(NamedTuple):
    """A finished run that differs from another by fewer epochs alone.

    epochs: after which the longer run goes on from it. hindrance: why it cannot, in words; None if it can.
    """

    run: RunFolder
    epochs: int
    hindrance: str | None

    def told(self, epochs: int) -> str:
        """A sentence on the longer run, which has so many epochs."""
        if self.hindrance:
            return f"begins anew, although {self.run.name} has {self.epochs} of its {epochs} epochs: {self.hindrance}"
        return f"goes on from {self.run.name}, after epoch {self.epochs} of {epochs}"


def finished_by_recipe(family: Path) -> Mapping[str, Sequence[RunFolder]]:
    """The finished runs in a family's folder, by what defines them but their epochs. Damaged ones are left out."""
    found = defaultdict(list)
    with remembered(family.parent) as store:
        for file in sorted(store.glob(f"{escape(family.name)}/*/run.yaml")):
            with suppress(RunError, ValueError):  # ValueError: parameters of another version
                if read_record(file.parent).get("status") == "done":
                    run = RunFolder.load(file.parent)
                    found[_but_epochs(run.parameters)].append(run)
    return found


def shorter_run(run: RunFolder, finished: Mapping[str, Sequence[RunFolder]] | None = None) -> Shorter | None:
    """The run to go on from: of those with fewer epochs, one that can be gone on from, else the longest; or None.

    finished: of the family, as `finished_by_recipe` returns them. A run that is trained anew (`fresh`) has none.
    """
    if run.parameters.fresh:
        return None
    finished = finished_by_recipe(run.folder.parent) if finished is None else finished
    runs = [other for other in finished.get(_but_epochs(run.parameters), ()) if _epochs(other) < _epochs(run)]
    found = [_compared(run, other) for other in runs]
    return max(found, key=lambda shorter: (shorter.hindrance is None, shorter.epochs), default=None)


def fetch_shorter(run: RunFolder) -> None:
    """Where runs are in a mirror: fetch what `take_over` would copy. Does nothing elsewhere, and to a run under way.

    Raises StoreError as `refresh`.
    """
    store = run.folder.parents[1]
    if not (store / MARK).exists() or (run.folder / CHECKPOINT).exists():
        return
    refresh(store, run.family)
    if (found := shorter_run(run)) and not found.hindrance:
        refresh(store, f"{run.family}/{found.run.name}", whole=True)


def take_over(run: "Run") -> None:
    """Let a run that is about to begin go on from `shorter_run`, if there is one, and record it and say so.

    Its record then has `went_on` (run, epochs and the code that made them), or `began_anew` with the reason.
    """
    if not run.assigned:  # else the sweep's worker has done it
        fetch_shorter(run)
    found, before = shorter_run(run), run.record()
    if found and not found.hindrance and not (found.run.folder / CHECKPOINT).exists():
        found = found._replace(hindrance="its checkpoint could not be fetched")
    if found is None and not (before.get("went_on") or before.get("began_anew")):
        return
    exact, told = found if found and not found.hindrance else None, found.told(_epochs(run)) if found else ""
    went_on: dict[str, Any] = {}
    others: set[str] = set()
    if exact:
        made = exact.run.record()
        code: dict[str, Any] = {key: made[key] for key in ("commit", "dirty", "sources") if key in made}
        went_on = {"run": exact.run.name, "epochs": exact.epochs, **code}
        others = outdated(made, before)  # of its epochs, these metrics say something else, or are not asked for
        if lacking := sorted(own_metrics_of(before).keys() - (own_metrics_of(made).keys() - others)):
            told += f"; it has no {', '.join(lacking)} of these epochs, of which the metric is measured from now on"
            went_on["without"] = lacking
    run.update(went_on=went_on, began_anew="" if exact else told)
    if told:
        logging.getLogger("seqae").warning("%s/%s %s", run.family, run.name, told)
    if exact:
        _copy(exact.run.folder, run.folder, others)


def _copy(source: Path, target: Path, others: set[str]) -> None:
    with ExitStack() as held:
        with suppress(OSError):  # it cannot be locked; a finished run does not change
            held.enter_context(copying(source))
        (target / CHECKPOINT).parent.mkdir(exist_ok=True)
        for name in (*(f"{log}.csv" for log in LOG_COLUMNS), CHECKPOINT):  # whoever finds the last has the others
            with whole(target / name) as copy:
                shutil.copyfile(source / name, copy)
            if name == "metrics.csv":
                forget_metrics(target, others)


def _but_epochs(p: Parameters) -> str:
    return run_hash(p.model_copy(update={"epochs": 1}))


def _epochs(run: RunFolder) -> int:
    return run.parameters.epochs


def _compared(run: RunFolder, other: RunFolder) -> Shorter:
    # Whatever else training does, it does as far as it has come: data and their order are functions of seed and epoch,
    # and `patience` looks at the epochs so far.
    record = other.record()
    trained = int(record.get("epochs", _epochs(other)))
    if _schedule(run.parameters) != _schedule(other.parameters):
        return Shorter(other, trained, f"schedule {run.parameters.schedule} depends on the number of epochs")
    if grows(run.parameters):
        return Shorter(other, trained, "with horizon_until updates depend on the number of epochs")
    file = other.folder / CHECKPOINT
    if not file.exists():
        elsewhere = (other.folder.parents[1] / MARK).exists() and record["parameters"].get("keep_checkpoint")
        lost = None if elsewhere else "that run kept no checkpoint, as it does with keep_checkpoint: true"
        return Shorter(other, trained, lost)
    try:
        progress = torch.load(str(file), map_location="cpu", weights_only=True, mmap=True)["progress"]
        return Shorter(other, len(progress["objectives"]), None)
    except Exception:  # torn bytes make torch raise any of a dozen types; those of before November 2026 are tuples
        return Shorter(other, trained, "its checkpoint is damaged, or of an older version")


def _schedule(p: Parameters) -> dict[str, object]:
    # All that a schedule holds before training. Some hold the number of steps, which grows with the epochs.
    if p.schedule == "none":
        return {}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=p.learning_rate or 0.1, momentum=0.5)
    schedule = update_rule(p).schedule(optimizer)
    return schedule.state_dict() if schedule else {}
