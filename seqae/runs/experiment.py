"""From parameters to models, data, optimizers and a trained model: the only place that knows which goes where.

`seqae.parameters` says which values are allowed, the core does the work; nothing here touches a run's folder.
"""

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from seqae.architectures import ARCHITECTURES
from seqae.checkpoint import Checkpointing
from seqae.data import Sequences
from seqae.device import make_accelerator
from seqae.diagnosis import baselines, reachable_floor
from seqae.evaluation import Objective, evaluate
from seqae.files import project_path
from seqae.metrics import UNITS
from seqae.models import SequenceAutoencoder, initialise
from seqae.optimizers import optimizer_factory, schedule_factory
from seqae.parameters import Parameters, resolve
from seqae.runs.digits import DIGITS, OFFICIAL_SHAPE, official_test, open_stream
from seqae.runs.ranks import launch
from seqae.runs.records import RunError
from seqae.tasks import BRANCHES, branch_targets
from seqae.training import Fitted, Row, fit
from seqae.updates import UpdateRule

OFFICIAL_FILE = "mnist_test_seq.npy"
Record = Callable[[str, list[Row]], None]
Resume = Callable[[int], None]


def check_parameters(p: Parameters) -> SequenceAutoencoder:
    """Raise ValueError for what only torch or the model can tell (a frame size that does not fit, an unknown
    optimizer or argument); return the model on the meta device, which costs no memory.
    """
    rule = update_rule(p)
    try:
        if p.schedule != "none":
            rule.schedule(rule.optimizer([torch.zeros(2, 2), torch.zeros(2)]))
    except Exception as error:  # each is sound, but they do not fit each other
        raise ValueError(f"schedule {p.schedule} does not go with optimizer {p.optimizer}: {error}") from None
    if p.digits not in DIGITS:
        raise ValueError(f"digits must be one of {', '.join(DIGITS)}; not {p.digits!r}")
    recon_fits = p.frames_in <= OFFICIAL_SHAPE[0] and "pred" not in BRANCHES[p.task]
    fits = recon_fits or p.frames_in + p.frames_out == OFFICIAL_SHAPE[0]
    if p.test_data == "official" and not (p.frame_size == 64 and fits):
        raise ValueError(
            f"test_data official has 20 frames of 64×64; not {p.frames_in + p.frames_out} of "
            f"{p.frame_size}×{p.frame_size}: set test_data: generated"
        )
    if p.test_data == "official" and p.test_sequences > OFFICIAL_SHAPE[1]:
        raise ValueError(
            f"test_data official has {OFFICIAL_SHAPE[1]:,} sequences; not test_sequences {p.test_sequences:,}"
        )
    try:
        with torch.device("meta"):
            model = build_model(p)
            initialise(model, readout_bias=p.readout_bias, peephole_range=p.peephole_range)
    except (RuntimeError, OverflowError, TypeError) as error:  # TypeError: a number of more than 64 bits
        if isinstance(error, TypeError) and "verflow" not in str(error):
            raise
        told = str(error).partition("\n")[0]
        raise ValueError(f"a model of this size cannot be built ({told}): lower width, hidden or layers") from None
    return model


def check_hidden(p: Parameters, model: SequenceAutoencoder) -> None:
    """Raise ValueError where the LSTMs of `model`, built of p, are not as wide as an explicit `hidden` says.

    `hidden` is at width 1: of another width, the nearest whole number of units is meant. A network that keeps feature
    maps (cnn_flatten) has units only in multiples of a map's size.
    """
    if p.hidden is not None and model.hidden != (asked := max(1, round(p.hidden * p.width))):
        raise ValueError(
            f"hidden {p.hidden} at width {p.width:g} is {asked} LSTM units, which architecture {p.architecture} cannot "
            f"have; it would have {model.hidden}: set hidden: {round(model.hidden / p.width)}, or leave hidden out"
        )


def build_model(p: Parameters) -> SequenceAutoencoder:
    """A new model of these parameters; raises ValueError where architecture and sizes do not fit."""
    return SequenceAutoencoder(
        architecture=p.architecture,
        task=p.task,
        decoder_input=p.decoder_input,
        activation=p.activation,
        frame_size=p.frame_size,
        frames_in=p.frames_in,
        frames_out=p.frames_out,
        gain=p.gain,
        width=p.width,
        hidden=p.hidden,
        layers=p.layers,
        peepholes=p.peepholes,
        recon_truth=p.recon_truth,
    )


def load_model(file: str | Path, device: str = "cpu") -> tuple[SequenceAutoencoder, Parameters]:
    """A trained model and its parameters from a model.safetensors alone, on any device; runs no code from it.

    Raises RunError, which names the file, if it is damaged.
    """
    try:
        with safe_open(str(file), "pt", device=device) as stored:
            parameters = resolve(json.loads(stored.metadata()["parameters"]))
            model = build_model(parameters)
            model.load_state_dict({name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
        raise RunError(f"{file} is damaged ({error}): copy it again, or train the run anew") from None
    except RuntimeError as error:  # of `load_state_dict`
        told = " ".join(str(error).split())[:200]
        raise RunError(f"{file} does not hold the weights that its parameters describe: {told}") from None
    return model.to(device), parameters


def _stream(p: Parameters, split: str) -> Sequences:
    frames, folder = p.frames_in + p.frames_out, p.data_folder and str(project_path(p.data_folder))
    return open_stream(
        p.digits,
        split=split,
        seed=p.data_seed,
        frame_size=p.frame_size,
        frames=frames,
        digits_per_sequence=p.digits_per_sequence,
        digit_speed=p.digit_speed,
        folder=folder,
    )


def sequences(p: Parameters, split: str) -> Tensor:
    """The fixed sequences of val or test, or the first epoch's of train: uint8 (N, frames_in + frames_out, H, W)."""
    if split == "test" and p.test_data == "official":
        frames = official_test(project_path(p.data_folder or "") / OFFICIAL_FILE)
        return torch.from_numpy(frames[: p.test_sequences].copy())
    count = {"train": p.train_sequences, "val": p.val_sequences, "test": p.test_sequences}[split]
    return torch.from_numpy(_stream(p, split).sequences(range(count)))


def train_stream(p: Parameters) -> Callable[[int], Tensor]:
    """epoch (1, 2, …) -> its training sequences; the same each time unless `endless`."""
    stream, n = _stream(p, "train"), p.train_sequences

    @lru_cache(maxsize=1)
    def block(i: int) -> Tensor:
        return torch.from_numpy(stream.sequences(range(i * n, (i + 1) * n)))

    return lambda epoch: block(epoch - 1 if p.endless else 0)


def reference_levels(p: Parameters) -> pd.DataFrame:
    """Baselines and the head's reachable floor on val and test: split, branch, baseline, metric, value."""
    reach = ARCHITECTURES[p.architecture].reach(p.gain)
    parts, train = [], sequences(p, "train").numpy()
    for split in ("val", "test"):
        frames = sequences(p, split)
        targets = {b: t.numpy() for b, t in branch_targets(frames, task=p.task, frames_in=p.frames_in).items()}
        parts.append(baselines(train, targets, frames[:, p.frames_in - 1].numpy()).assign(split=split))
        for branch, target in targets.items():
            floor = reachable_floor(target, reach=reach, activation=p.activation, pixel_range=p.pixel_range)
            rows = [(branch, "floor", metric, value, split) for metric, value in floor.items()]
            parts.append(pd.DataFrame(rows, columns=["branch", "baseline", "metric", "value", "split"]))
    return pd.concat(parts)[["split", "branch", "baseline", "metric", "value"]]


def objective_of(p: Parameters) -> Objective:
    """What the parameters say is trained."""
    return Objective(
        task=p.task,
        frames_in=p.frames_in,
        loss=p.training_loss,
        activation=p.activation,
        pixel_range=p.pixel_range,
        recon_weight=p.recon_weight,
        reduction=p.reduction,
    )


def update_rule(p: Parameters) -> UpdateRule:
    """How the parameters say that weights are changed. Raises ValueError as `optimizer_of` and `schedule_factory`."""
    updates = -(-p.train_sequences // p.batch_size)
    schedule = schedule_factory(
        p.schedule,
        steps=p.epochs * (updates if p.schedule_per == "update" else 1),
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


def new_model(p: Parameters) -> SequenceAutoencoder:
    """A model with the weights that training begins with, a function of the parameters alone."""
    torch.manual_seed(p.seed)
    model = build_model(p)
    initialise(
        model,
        init=p.init,
        init_range=p.init_range,
        bias_init=p.bias_init,
        forget_bias=p.forget_bias,
        readout_bias=p.readout_bias,
        peephole_range=p.peephole_range,
    )
    return model


def train_model(
    p: Parameters, val: Tensor, *, record: Record, checkpoint: Path | None = None, resume: Resume = lambda epochs: None
) -> tuple[SequenceAutoencoder, Fitted]:
    """Train a new model, on p.devices processes, and return it with the weights that were best on val.

    val: uint8 (N, frames_in + frames_out, H, W). record, resume: as for `fit` and `Checkpointing`; they are called in
    this process. checkpoint: the file to go on from, and to replace. Raises `ranks.RankError` where one of several
    processes fails.
    """
    model = new_model(p)
    if p.devices == 1:
        fitted = _fit(p, val, checkpoint, model, record=record, resume=resume)
    else:
        fitted = launch(_fit, p.devices, p, val, checkpoint, device=p.device, record=record, resume=resume)
        model.to(make_accelerator(device=p.device).device)
    model.load_state_dict(fitted.weights)
    return model, fitted


def _fit(
    p: Parameters,
    val: Tensor,
    checkpoint: Path | None,
    model: SequenceAutoencoder | None = None,
    *,
    record: Record,
    resume: Resume,
) -> Fitted:
    return fit(
        model or new_model(p),
        train_stream(p),
        val,
        objective=objective_of(p),
        rule=update_rule(p),
        epochs=p.epochs,
        batch_size=p.batch_size,
        record=record,
        seed=p.seed,
        patience=p.patience,
        device=p.device,
        checkpoint=Checkpointing(checkpoint, p.checkpoint_seconds, resume, p.keep_checkpoint) if checkpoint else None,
    )


def test_table(model: SequenceAutoencoder, p: Parameters) -> pd.DataFrame:
    """The final figures: branch, frame (1, 2, …; empty: mean over frames), metric, value, unit, sequences."""
    test = sequences(p, "test")
    final = evaluate(model, test, p.batch_size, objective_of(p), quality=True)
    rows = [
        (branch, frame, metric, value, UNITS[metric], len(test))
        for branch, errors in final.errors.items()
        for metric, steps in errors.items()
        for frame, value in [("", float(steps.mean())), *enumerate(steps.tolist(), start=1)]
    ]
    return pd.DataFrame(rows, columns=["branch", "frame", "metric", "value", "unit", "sequences"])
