"""What training needs to go on exactly where it stood: its state, saved to one file and loaded from it."""

import errno
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from seqae.files import whole
from seqae.metrics import BranchMetrics

# What may be otherwise when training goes on: what is measured, and how the same update is computed, which stays as it
# was in the checkpoint.
FREE = {"metrics", "params", "initial_lr", "fused", "foreach", "capturable", "differentiable"}
# The file may be weights that somebody needs, or a day's training whose script was edited by mistake.
ANEW = "name another file, or delete this one, and training starts anew"


@dataclass
class EpochTotals:
    """Parts of an epoch's means, summed up so far: of each update its value times its share of the epoch's sequences.

    objective: None before the first update. grad_norm: before clipping, over the updates that were made. overflows:
    updates left out for an infinite gradient (fp16 only), left_out: their share of the epoch. learning_rate: of the
    last update. update_ratio: norm of the last update over that of the weights, 0 before it.
    """

    objective: Tensor | None = None
    errors: BranchMetrics = field(default_factory=dict)
    grad_norm: Tensor | None = None
    overflows: int = 0
    left_out: float = 0.0
    learning_rate: float = 0.0
    update_ratio: float = 0.0

    def divide(self, ranks: int, device: torch.device) -> None:
        """Divide the means of a checkpoint, which one process made, among `ranks`, each on its device."""
        means = [self.objective, self.grad_norm, self.errors]
        self.objective, self.grad_norm, self.errors = recursively_apply(lambda mean: (mean / ranks).to(device), means)


@dataclass
class TrainingState:
    """All that training carries from update to update, besides model, optimizer, schedule and gradient scaler.

    best: the weights with the least objective on val so far, on the model's device, whose memory holds one more copy of
    them; loaded from a checkpoint, on the CPU. settings: see `Stateful.settings`; none in an old one. step: updates
    made. seconds: of training, before this process as well. objectives: on val, one for each finished epoch.
    diverged_at: the epoch of a NaN or infinite loss. totals: of the unfinished epoch.
    """

    best: dict[str, Tensor]
    settings: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    objectives: list[float] = field(default_factory=list)
    diverged_at: int | None = None
    totals: EpochTotals = field(default_factory=EpochTotals)


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often `fit` saves its state.

    file: replaced atomically; where it exists, training goes on from it, or is refused with other settings. To begin
    with its weights at another rate, load torch.load(file)["model"] into the model (those that were best on val are
    "weights") and name another file. resume: called before training with the number of epochs in the file, 0 where
    there is none; it has to drop what was recorded of later ones. seconds: the least time between two, see `pause`; 0
    saves after every epoch. at_end: whether the state after the last epoch is saved in any case.
    """

    file: Path
    seconds: float = 0.0
    resume: Callable[[int], None] = lambda epochs: None
    at_end: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", Path(self.file))

    def pause(self, took: float) -> float:
        """Seconds until the next save after one that took so many: saving takes a twentieth of the time at most."""
        return max(self.seconds, 20 * took) if self.seconds else 0.0


@dataclass(frozen=True)
class Stateful:
    """The objects that an update changes. Each has a `state_dict`, which a checkpoint holds."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    scaler: torch.amp.GradScaler

    def settings(self, *parts: object, **others: Any) -> dict[str, Any]:
        """What a checkpoint has to agree in with the training that goes on from it: numbers, texts, lists, by name. Of
        a function it has the name alone.

        parts: what is trained and how, an `Objective` and an `UpdateRule`. To be called before the first update.
        """
        optimizer, schedule = self.optimizer, self.scheduler
        found = {name: value for part in parts for name, value in vars(part).items()} | others
        found |= {"optimizer": type(optimizer).__name__, "schedule": schedule and type(schedule).__name__}
        for n, group in enumerate(optimizer.param_groups):
            first = group | {"lr": group.get("initial_lr", group.get("lr"))}  # a schedule changes lr when it is made
            found |= {f"{name} of group {n}" if n else name: v for name, v in first.items() if name not in FREE}
        parts_of = getattr(schedule, "_schedulers", [])  # SequentialLR and ChainedScheduler have them
        found |= {f"part {n} of the schedule": type(part).__name__ for n, part in enumerate(parts_of, 1)}
        for n, part in enumerate([schedule, *parts_of] if schedule else []):
            held = {"milestones": getattr(part, "_milestones", None)} | part.state_dict()
            of = f"part {n} of the schedule" if n else "the schedule"
            found |= {f"{name} of {of}": v for name, v in held.items() if not name.startswith(("_", "base_lrs"))}
        return {name: _plain(value) for name, value in found.items() if name not in FREE}


def checkpoint_content(state: TrainingState, stateful: Stateful) -> dict[str, Any]:
    """All that is in a checkpoint: tensors, numbers, lists and dicts only, so that `weights_only` loads it."""
    return {
        "model": stateful.model.state_dict(),
        "optimizer": stateful.optimizer.state_dict(),
        "scheduler": stateful.scheduler.state_dict() if stateful.scheduler else None,
        "scaler": stateful.scaler.state_dict(),
        # not asdict, which would copy every weight
        "progress": {f.name: getattr(state, f.name) for f in fields(state) if f.name not in ("best", "totals")},
        "epoch": asdict(state.totals),
        "weights": state.best,  # the best on val; `model` has the current ones
    }


def save_checkpoint(file: Path, state: TrainingState, stateful: Stateful) -> None:
    """Replace `file` at once with `checkpoint_content`. Raises OSError where the disk is full."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole(file) as temporary:
            torch.save(checkpoint_content(state, stateful), temporary)
    except RuntimeError as error:  # what torch's writer makes of a full disk
        raise OSError(errno.ENOSPC, f"checkpoint not written: {error}") from error


def _plain(value: Any) -> Any:
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    value = value.tolist() if hasattr(value, "tolist") else value  # a number of numpy or torch
    return [*map(_plain, value)] if isinstance(value, list | tuple) else value


def load_checkpoint(file: Path, stateful: Stateful, settings: Mapping[str, Any] | None = None) -> TrainingState:
    """Load model, optimizer, schedule and scaler in place and return the rest.

    The file is loaded to the CPU. load_state_dict copies weights and moments to the device. Adam's step counters stay
    on the CPU, because every update reads them. Raises ValueError where the file is damaged, too old or of other
    settings; the model's weights are then what they were.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        progress = {"settings": {}} | content["progress"]  # a file of weights alone has none
    except OSError:
        raise
    except Exception as error:  # torn bytes make torch raise any of a dozen types
        raise ValueError(f"{file} is no whole checkpoint of fit ({error!r}): {ANEW}") from error
    name, options = "its progress", {*stateful.optimizer.param_groups[0]}
    # torch copies what fits before it refuses the rest
    before = recursively_apply(Tensor.clone, dict(stateful.model.state_dict()))
    try:
        state = TrainingState(content["weights"], **progress, totals=EpochTotals(**content["epoch"]))
        pairs = [(name, state.settings.get(name, value), value) for name, value in (settings or {}).items()]
        other = [f"{name} {was}, not {value}" for name, was, value in pairs if was != value]
        for name, part in () if other else vars(stateful).items():
            if part is not None:
                part.load_state_dict(content[name])
        name = "optimizer"
        if lost := options - {*stateful.optimizer.param_groups[0]}:
            raise KeyError(f"no {', '.join(sorted(lost))}")
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        stateful.model.load_state_dict(before)
        told = " ".join(str(error).split()[:40])
        raise ValueError(f"{file} is of another run ({name}: {told}): {ANEW}") from error
    if other:
        raise ValueError(f"{file} was trained with {'; '.join(other)}: {ANEW}")
    state.settings = dict(settings or {})
    return state
