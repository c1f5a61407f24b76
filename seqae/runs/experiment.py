"""From parameters to models, data, optimizers and a trained model: with `building`, what knows which goes where.

`seqae.parameters` says which values are allowed, the core does the work; nothing here touches a run's folder.
"""

import logging
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from seqae.checkpoint import Checkpointing
from seqae.data import Frames
from seqae.device import make_accelerator
from seqae.evaluation import evaluate
from seqae.metrics import UNITS
from seqae.objective import Objective
from seqae.parameters import ParameterError, Parameters
from seqae.runs import clip_sets, own_models
from seqae.runs.building import build_model as build_model
from seqae.runs.building import load_model as load_model
from seqae.runs.building import meta_model as meta_model
from seqae.runs.building import new_model as new_model
from seqae.runs.building import sized_model as sized_model
from seqae.runs.digits import DIGITS, OFFICIAL_FRAMES, Sequences, official_test, open_stream
from seqae.runs.horizon import sequence_length, updates_an_epoch
from seqae.runs.identity import cycles_momentum
from seqae.runs.levels import baselines, reachable_floor
from seqae.runs.memory import used_memory
from seqae.runs.old_checkpoints import upgrade_checkpoint
from seqae.runs.optimizers import optimizer_factory, schedule_factory, slow_here
from seqae.runs.own_code import OwnCode, code_for
from seqae.runs.own_frames import placed
from seqae.runs.ranks import launch
from seqae.stores import project_path
from seqae.tasks import BRANCHES, branch_targets
from seqae.training import Fitted, Row, fit
from seqae.updates import UpdateRule

OFFICIAL_FILE = "mnist_test_seq.npy"
BETA = 0.9  # the first of betas, of every optimizer of torch that has them
Record = Callable[[str, list[Row]], None]
Resume = Callable[[int], None]


def check_parameters(p: Parameters, code: OwnCode | None = None) -> None:
    """Raise ParameterError for what only torch or the model can tell (a frame size that does not fit, an unknown
    optimizer or argument).

    code: of one's own, which is not built here, see `own_models.check_own`.
    """
    try:
        _check(p)
    except ValueError as error:
        raise ParameterError(str(error)) from None
    if code is not None:
        own_models.check_own(p, code)


def _check(p: Parameters) -> None:
    rule = update_rule(p)
    try:
        if p.schedule != "none":
            rule.schedule(rule.optimizer([torch.zeros(2, 2), torch.zeros(2)]))
    except Exception as error:  # each is sound, but they do not fit each other
        raise ValueError(f"schedule {p.schedule} does not go with optimizer {p.optimizer}: {error}") from None
    if (betas := p.optimizer_arguments.get("betas")) and cycles_momentum(p) and betas[0] != BETA:
        raise ValueError(
            f"the first of betas {betas} has no effect, as schedule {p.schedule} sets it: leave it at {BETA}, or give "
            "schedule_arguments cycle_momentum: false"
        )
    if p.digits not in DIGITS:
        raise ValueError(f"digits must be one of {', '.join(DIGITS)}; not {p.digits!r}")
    recon_fits = p.frames_in <= OFFICIAL_FRAMES and "pred" not in BRANCHES[p.task]
    fits = recon_fits or p.frames_in + p.frames_out == OFFICIAL_FRAMES
    if p.test_data == "official" and not (p.frame_size == 64 and fits):
        raise ValueError(
            f"test_data official has 20 frames of 64×64; not {p.frames_in + p.frames_out} of "
            f"{p.frame_size}×{p.frame_size}: set test_data: generated"
        )
    if p.test_data == "official" and _official_file(p).is_file():
        _official_sequences(p)
    if ":" not in p.architecture:
        meta_model(p)


def digits_folder(p: Parameters) -> str | None:
    """The folder with MNIST's files, where the run reads one."""
    return str(project_path(p.data_folder)) if p.data_folder and p.digits == "mnist" else None


def digit_stream(p: Parameters, split: str) -> Sequences:
    """The endless Moving MNIST sequences of a split."""
    return open_stream(
        p.digits,
        split=split,
        seed=p.data_seed,
        frame_size=p.frame_shape[0],
        frames=p.frames_in + p.frames_out,
        digits_per_sequence=p.digits_per_sequence,
        digit_speed=p.digit_speed,
        folder=digits_folder(p),
    )


def sequences(p: Parameters, split: str) -> Tensor:
    """The fixed sequences of val or test, or the first epoch's of train: uint8 (N, frames_in + frames_out, H, W)."""
    if p.clips or p.clips_digest:
        return clip_sets.windows(p, split)[: getattr(p, f"{split}_sequences")]
    if split == "test" and p.test_data == "official":
        return torch.from_numpy(_official_sequences(p).copy())
    count = {"train": p.train_sequences, "val": p.val_sequences, "test": p.test_sequences}[split]
    return torch.from_numpy(digit_stream(p, split).sequences(range(count)))


def _official_file(p: Parameters) -> Path:
    return project_path(p.data_folder or "") / OFFICIAL_FILE


def _official_sequences(p: Parameters) -> np.ndarray:
    frames = official_test(_official_file(p))
    if p.test_sequences > len(frames):
        raise ValueError(f"{_official_file(p)} has {len(frames):,} sequences; not test_sequences {p.test_sequences:,}")
    return frames[: p.test_sequences]


def train_stream(p: Parameters) -> Callable[[int], Frames]:
    """epoch (1, 2, …) -> its training sequences; the same each time unless `endless`."""
    n, of_clips = p.train_sequences, bool(p.clips or p.clips_digest)
    stream = None if of_clips else digit_stream(p, "train")

    @lru_cache(maxsize=1)
    def block(i: int) -> Frames:
        if stream is None:
            return clip_sets.epoch_of_clips(p, i)
        return torch.from_numpy(stream.sequences(range(i * n, (i + 1) * n)))

    return lambda epoch: block(epoch - 1 if p.endless else 0)


def reference_levels(p: Parameters, reach: float) -> pd.DataFrame:
    """Baselines and the floor of a head of this reach on val and test: split, branch, baseline, metric, value."""
    parts, train = [], train_stream(p)(1)
    for split in ("val", "test"):
        frames = sequences(p, split)
        targets = {b: t.numpy() for b, t in branch_targets(frames, task=p.task, frames_in=p.frames_in).items()}
        chunks = (train[i : i + 256].numpy() for i in range(0, len(train), 256))
        parts.append(baselines(chunks, targets, frames[:, p.frames_in - 1].numpy()).assign(split=split))
        for branch, target in targets.items():
            floor = reachable_floor(target, reach=reach, activation=p.activation, pixel_range=p.pixel_range)
            rows = [(branch, "floor", metric, value, split) for metric, value in floor.items()]
            parts.append(pd.DataFrame(rows, columns=["branch", "baseline", "metric", "value", "split"]))
    return pd.concat(parts)[["split", "branch", "baseline", "metric", "value"]]


def objective_of(p: Parameters, code: OwnCode | None = None) -> Objective:
    """What the parameters say is trained, and measured beside it. code: of your own; by default the project's."""
    code = code or code_for(p)
    return Objective(
        task=p.task,
        frames_in=p.frames_in,
        loss=own_models.own_loss(p, code),
        activation=p.activation,
        pixel_range=p.pixel_range,
        recon_weight=p.recon_weight,
        reduction=p.reduction,
        metrics={name: own_models.finite_only(metric) for name, metric in own_models.own_metrics(p, code).items()},
    )


def update_rule(p: Parameters) -> UpdateRule:
    """How the parameters say that weights are changed. Raises ValueError as `optimizer_of` and `schedule_factory`."""
    schedule = schedule_factory(
        p.schedule,
        steps=p.epochs * (updates_an_epoch(p) if p.schedule_per == "update" else 1),
        every=p.schedule_every,
        gamma=p.schedule_gamma,
        arguments=p.schedule_arguments,
    )
    return UpdateRule(
        optimizer=optimizer_of(p),
        schedule=schedule,
        schedule_per=p.schedule_per,
        clip_norm=p.clip_norm,
        clip_update=p.clip_update,
        precision=p.precision,
        length=sequence_length(p),
    )


def optimizer_of(p: Parameters) -> Callable[[Iterable[Tensor]], Optimizer]:
    """The optimizer that the parameters name, to be called with the weights. Raises ValueError, see `optimizers`."""
    return optimizer_factory(
        p.optimizer,
        learning_rate=p.learning_rate,
        momentum=p.momentum,
        weight_decay=p.weight_decay,
        arguments=p.optimizer_arguments,
    )


def train_model(
    p: Parameters,
    val: Tensor,
    *,
    record: Record,
    checkpoint: Path | None = None,
    resume: Resume = lambda epochs: None,
    code: OwnCode | None = None,
) -> tuple[nn.Module, Fitted, int | None]:
    """Train a new model, on p.devices processes; return it with the weights that were best on val, what `fit` returns,
    and the peak of memory in bytes, see `used_memory`: above what was held before, with several processes of the first.

    val: uint8 (N, frames_in + frames_out, H, W). record, resume: as for `fit` and `Checkpointing`; they are called in
    this process. checkpoint: the file to go on from, and to replace. Raises `ranks.RankError` where one of several
    processes fails.
    """
    if checkpoint:
        upgrade_checkpoint(checkpoint)
    device = make_accelerator(device=p.device).device
    if slow := slow_here(p):
        logging.getLogger("seqae").warning(slow)
    model = new_model(p, code, device=device)
    if p.devices == 1:
        fitted, peak = _fit(p, val, checkpoint, code, model, record=record, resume=resume)
    else:
        fitted, peak = launch(_fit, p.devices, p, val, checkpoint, code, device=p.device, record=record, resume=resume)
        model.to(device)
    model.load_state_dict(fitted.weights)
    return model, fitted, peak


@placed()
def _fit(
    p: Parameters,
    val: Tensor,
    checkpoint: Path | None,
    code: OwnCode | None,
    model: nn.Module | None = None,
    *,
    record: Record,
    resume: Resume,
) -> tuple[Fitted, int | None]:
    device, train = make_accelerator(device=p.device).device, train_stream(p)
    model = model or new_model(p, code, device=device)
    train(1)  # what the model and the data take is held before
    before = used_memory(device)
    fitted = fit(
        model,
        train,
        val,
        objective=objective_of(p, code),
        rule=update_rule(p),
        epochs=p.epochs,
        batch_size=p.batch_size,
        record=record,
        seed=p.seed,
        patience=p.patience,
        device=p.device,
        checkpoint=Checkpointing(checkpoint, p.checkpoint_seconds, resume, p.keep_checkpoint) if checkpoint else None,
    )
    return fitted, None if before is None else used_memory(device, since=before)


def test_table(model: nn.Module, p: Parameters, code: OwnCode | None, *, own_only: bool) -> pd.DataFrame:
    """The final figures: branch, frame (1, 2, …; empty: mean over frames), metric, value, unit, sequences.

    own_only: of the metrics of your own alone.
    """
    test, objective = sequences(p, "test"), objective_of(p, code)
    final = evaluate(model, test, p.batch_size, objective, quality=not own_only)
    units = UNITS | {name: getattr(metric, "unit", "1") for name, metric in objective.metrics.items()}
    rows = [
        (branch, frame, metric, value, units[metric], len(test))
        for branch, errors in final.errors.items()
        for metric, steps in errors.items()
        if metric in objective.metrics or not own_only
        for frame, value in [("", float(steps.mean())), *enumerate(steps.tolist(), start=1)]
    ]
    return pd.DataFrame(rows, columns=["branch", "frame", "metric", "value", "unit", "sequences"])
