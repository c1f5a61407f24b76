"""`fit`: the training loop, flat, top to bottom.

Takes model, data and objective as arguments and knows nothing of run folders or parameter files. Which sequences make
a batch is decided here, so that a resumed run sees exactly the batches of an unbroken one.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import recursively_apply
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from seqae.capture import CapturedGradients, can_capture
from seqae.checkpoint import Checkpointing, EpochTotals, Stateful, TrainingState, load_checkpoint, save_checkpoint
from seqae.contract import check_contract, check_kinds
from seqae.data import BACK, Frames, check_sequences, first_and_last
from seqae.device import keep_freed_memory, make_accelerator, mixed_precision, resident, seed_draws
from seqae.evaluation import Evaluation, evaluate
from seqae.metrics import HISTOGRAM_CENTRES
from seqae.objective import Objective
from seqae.signals import stop_asked
from seqae.tasks import check_positive
from seqae.updates import Updated, UpdateRule, gradients, update

Row = dict[str, Any]
PLATEAU = 0.01  # less than 1 % better in total counts as a plateau


@dataclass(frozen=True)
class Fitted:
    """What `fit` ends with.

    weights: those with the least objective on val, on the CPU; after an epoch with a NaN or infinite loss, which is the
    last, the best of the epochs before it, or the first ones. epochs: how many were trained, fewer than asked for where
    `patience` or such a loss ended training. diverged_at: the epoch of that loss, or None.
    """

    weights: dict[str, Tensor] = field(repr=False)  # they would fill the screen
    epochs: int
    diverged_at: int | None


def fit(
    model: nn.Module, train: Callable[[int], Frames] | Tensor, val: Tensor, *,
    objective: Objective, rule: UpdateRule, epochs: int, batch_size: int,
    record: Callable[[str, list[Row]], None], seed: int = 0, patience: int | None = None,
    device: str | torch.device = "auto", checkpoint: Checkpointing | None = None,
) -> Fitted:  # fmt: skip
    """Train a model in place and return the weights that were best on val.

    model: any module that is what `seqae.contract` says; it is checked on two sequences before training. Random numbers
    that it draws from torch in training (dropout) are a function of seed, update and rank.
    train: train(epoch), for epochs 1, 2, …, returns that epoch's sequences, uint8 (N, frames_in + frames_out, H, W),
    always equally many, as a tensor, which is a new one where anything in it is new (a GPU has a copy), or as `Frames`
    that are read when a batch indexes them; or a tensor for all epochs. Resumed training calls train(1) first, too.
    val: a tensor of fixed sequences of the same shape. objective: what is trained. batch_size: sequences in an update.
    seed: modulo 2**32, of the order of sequences and of random numbers in training; of the first weights, call
    torch.manual_seed before the model is built. patience: training ends after so many epochs without 1 % gain on val.

    record(table, rows) is called with each epoch's rows. `metrics`: epoch, step, seconds, split, branch, metric, value,
    with units as in `seqae.metrics.UNITS`; on val also `preactivation_min` and `preactivation_max`, the least and the
    largest of a frame, means over frames and sequences. Branch `all` holds the objective and, on train, the mean
    gradient norm before clipping, the learning rate, `update_ratio` (the norm of the epoch's last update over that of
    the weights) and, in fp16, `overflows` (updates left out for an infinite gradient). `histograms`: epoch, branch,
    output, share on val, see `seqae.metrics.histogram`.

    Training resumed from a checkpoint comes to the numbers of unbroken training, on a CPU, with as many threads, to the
    last bit: the order of sequences is a function of (seed, epoch); torch is seeded before each update by (seed, step,
    rank), and before val; the checkpoint holds all state of model, optimizer, schedule and scaler, the best weights and
    the totals of the unfinished epoch, which goes on at its next batch. Val is measured in float32, or tf32, whatever
    the precision. A checkpoint of another objective, rule, seed or batch_size, or of fewer or more sequences, is
    refused; other epochs or metrics are not. Tensors of sequences are compared by the sum of their pixels, functions by
    name: the same pixels in another order, other sequences from a function `train`, or other code of a model, a loss, a
    metric or a function in a schedule, are not noticed (`seqae.runs` compares code, and makes another run of it).

    SIGINT (Ctrl-C, Jupyter's interrupt) and SIGTERM end training with KeyboardInterrupt after the update under way,
    and leave a checkpoint of the unfinished epoch.

    device: auto, cpu, cuda, cuda:N or mps. The model is left on it, in evaluation mode, with its last weights, and
    torch's random numbers as the last update left them: seed torch again where it matters. For the whole process this
    sets how glibc keeps freed memory and, on CUDA, torch's float32 precision, and it makes an Accelerator. A progress
    bar goes to stderr; TQDM_DISABLE=1 in the environment, set before Python starts, hides it.

    Every rank of `runs.ranks.launch` calls this, and all train one model: each takes its share of every batch and of
    val, numbers are those of the whole, and rank 0 writes the checkpoint. record and resume must do nothing in other
    ranks. The launcher stops the ranks at a signal; their checkpoints are of whole epochs. Raises ValueError for a
    device, a precision or a checkpoint that cannot be used, and for a model that is not what `seqae.contract` says.
    """
    given = {nn.Module: model, Callable: record, Objective: objective, UpdateRule: rule}
    check_kinds(given | ({} if checkpoint is None else {Checkpointing: checkpoint}))
    check_positive(epochs=epochs, batch_size=batch_size, patience=patience)
    if not hasattr(seed, "__index__"):
        raise ValueError(f"seed must be a whole number; not {seed!r}")
    keep_freed_memory()
    accelerator, draw = make_accelerator(device=str(device)), train if callable(train) else lambda epoch: train
    made = draw(1)
    check_sequences("val", val, (sample := first_and_last("train", made)).shape[1:])
    if dark := " and ".join(k for k, t in (("train", made), ("val", val)) if isinstance(t, Tensor) and t.max() <= 1):
        logging.getLogger("seqae").warning("%s: no pixel above 1, of 0–255, is black, or nearly: %s", dark, BACK)
    ranks, steps, seed = accelerator.num_processes, -(-len(made) // batch_size), int(seed) % 2**32  # 64 bits
    autocast, scaler = mixed_precision(accelerator.device, rule.precision)
    net = accelerator.prepare_model(model)
    model.__dict__.pop("_is_accelerate_prepared", None)  # so that it can be fitted again
    check_contract(model, sample.to(accelerator.device), objective, autocast, rule.length(0))
    optimizer = rule.optimizer(list(model.parameters()))
    if not {w for group in getattr(optimizer, "param_groups", ()) for w in group["params"]} & {*model.parameters()}:
        raise ValueError(f"optimizer {type(optimizer).__name__} has none of the model's weights: make it of those")
    if scaler.is_enabled() and isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("optimizer LBFGS cannot be scaled for precision fp16: use bf16, or none")
    # Read by GradScaler, with fp16: inside SGD's fused kernel a skipped first update leaves the momentum uninitialised.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    if (scheduler := rule.schedule(optimizer)) is not None and not hasattr(scheduler, "state_dict"):
        raise ValueError(f"schedule must return a scheduler of torch, or None; not a {type(scheduler).__name__}")
    stateful = Stateful(model, optimizer, scheduler, scaler)
    captured = can_capture(stateful, objective, accelerator)
    differentiate = CapturedGradients(min(batch_size, len(made))) if captured else gradients
    file = checkpoint.file if checkpoint and accelerator.is_main_process else None

    sums = {f"sum of {k}'s pixels": int(t.sum()) for k, t in (("train", train), ("val", val)) if isinstance(t, Tensor)}
    counted = {"updates an epoch": steps, "sequences of train": len(made), "seed": seed, "batch_size": batch_size}
    own = {f"{name} of the model": value for name, value in getattr(model, "checkpoint_settings", {}).items()}
    state = TrainingState(_copy(model.eval()), stateful.settings(objective, rule, **counted, **sums, **own))
    if checkpoint and checkpoint.file.exists():
        state = load_checkpoint(checkpoint.file, stateful, state.settings)
        state.totals.divide(ranks, accelerator.device)
        if file and (done := len(state.objectives)) >= epochs:
            told = "%s has %d epochs, and epochs is %d: none is left to train; raise epochs, or name another file"
            logging.getLogger("seqae").warning(told, file, done, epochs)
    if checkpoint:
        checkpoint.resume(len(state.objectives))

    began, due = time.monotonic() - state.seconds, time.monotonic() + (checkpoint.seconds if checkpoint else 0)
    val, val_share = _share(val, accelerator)
    val, frames = resident(val, accelerator.device), resident(made, accelerator.device)
    shown: Any = {"unit": "step", "leave": False, "mininterval": 0.5}
    shown |= {} if accelerator.is_main_process else {"disable": True}  # "disable": False would defeat $TQDM_DISABLE
    # Once asked to stop, `stop` is not empty, and leaving the block raises KeyboardInterrupt.
    with stop_asked(heeded=ranks == 1) as stop, tqdm(total=epochs * steps, initial=state.step, **shown) as bar:
        while len(state.objectives) < epochs and state.diverged_at is None and not stop:
            epoch = (done := len(state.objectives)) + 1
            if patience and done and done - plateau_begins(state.objectives) >= patience:
                break
            if epoch > 1 and (new := draw(epoch)) is not made:
                sample, before = first_and_last(f"train({epoch})", new), (len(made), *sample.shape[1:])
                if (now := (len(new), *sample.shape[1:])) != before:
                    raise ValueError(f"train({epoch}) has sequences {now}, not {before} as the epoch before")
                made = frames = new  # frees the last epoch on the device before this one is copied to it
                frames = resident(made, accelerator.device)
            shuffled = torch.Generator("cpu").manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(len(frames), generator=shuffled, device="cpu").to(getattr(frames, "device", "cpu"))
            net.train()
            for indices in order.split(batch_size)[state.step - done * steps :]:
                mine, share = _share(indices, accelerator)
                seed_draws((seed * 1_000_003 + state.step) * 1_009 + accelerator.process_index)
                batch = frames[mine][:, : rule.length(state.step)].to(accelerator.device)  # (B, T, H, W) uint8
                # DDP averages gradients over the ranks, so each takes `ranks` times its part of the mean or the sum. A
                # rank's own sum is that of its sequences; one that counts nothing has share 0.
                factor = ranks * (share if objective.reduction == "mean" else float(share > 0))
                result = update(
                    net, stateful, batch, objective=objective, rule=rule, autocast=autocast, factor=factor,
                    accelerator=accelerator, watched=state.step + 1 == epoch * steps, differentiate=differentiate,
                )  # fmt: skip
                part = len(indices) / len(frames)
                _add(state.totals, result, part * share)
                state.totals.learning_rate = float(optimizer.param_groups[0]["lr"])
                if result.grad_norm is None:  # overflowed
                    state.totals.overflows += 1
                    state.totals.left_out += part
                elif scheduler and rule.schedule_per == "update" and not isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step()
                state.step += 1
                bar.update()
                if stop:
                    break

            # The end of the epoch: val, the best weights, the schedule, the rows, a checkpoint if one is due. Within an
            # epoch whoever is asked to stop comes here, too; `evaluate` then measures nothing.
            found = evaluate(model, val, batch_size, objective, statistics=True, stop=stop)
            state.seconds = time.monotonic() - began
            if stop:  # the epoch is unfinished, or was not measured
                if file:
                    save_checkpoint(file, state, stateful)
                break
            found, totals = _over_ranks(found, state.totals, val_share, accelerator)
            state.totals = EpochTotals()
            state.objectives.append(float(found.objective))
            assert totals.objective is not None
            if not (math.isfinite(float(totals.objective)) and math.isfinite(state.objectives[-1])):
                state.diverged_at = epoch
            elif all(state.objectives[-1] < earlier for earlier in state.objectives[:-1]):
                state.best = _copy(model)
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(state.objectives[-1])
            elif scheduler and rule.schedule_per == "epoch" and totals.overflows < steps:  # some update was made
                scheduler.step()

            at = {"epoch": epoch, "step": state.step, "seconds": round(state.seconds, 3)}
            record("histograms", _histogram_rows(epoch, found))
            # The last rows of an epoch: where they are, its other rows are, too.
            record("metrics", _metric_rows(at, totals, found, overflows=rule.precision == "fp16"))
            bar.set_postfix(epoch=f"{epoch}/{epochs}", val=f"{state.objectives[-1]:.4g}", refresh=False)
            if file and checkpoint and (stop or time.monotonic() >= due):
                asked = time.monotonic()
                save_checkpoint(file, state, stateful)
                due = time.monotonic() + checkpoint.pause(time.monotonic() - asked)
    if file and checkpoint and checkpoint.at_end:
        save_checkpoint(file, state, stateful)
    if state.diverged_at is not None and accelerator.is_main_process:
        logging.getLogger("seqae").warning("diverged at epoch %d: fit returns weights of before it", state.diverged_at)
    return Fitted(recursively_apply(Tensor.cpu, state.best), len(state.objectives), state.diverged_at)


def plateau_begins(objectives: Sequence[float]) -> int:
    """The epoch (1, 2, …) after which the best value so far improved by less than PLATEAU in total.

    objectives: one an epoch, of which less is better.
    """
    best = np.fmin.accumulate(objectives)
    return int((best <= best[-1] + PLATEAU * abs(best[-1])).argmax()) + 1


def _share(batch: Tensor, accelerator: Accelerator) -> tuple[Tensor, float]:
    # Returns this rank's sequences of a batch, and their share of it. Where a batch has fewer sequences than there are
    # ranks, the last ranks take one that counts nothing, as all have to go through the model.
    mine = batch[accelerator.process_index :: accelerator.num_processes]
    return (mine, len(mine) / len(batch)) if len(mine) else (batch[:1], 0.0)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    # A module's extra state need not be a tensor.
    return recursively_apply(lambda tensor: tensor.detach().clone(), dict(model.state_dict()))


def _add(totals: EpochTotals, result: Updated, share: float) -> None:
    def plus(total: Tensor | None, values: Tensor) -> Tensor:
        return values.mean() * share + (0 if total is None else total)

    totals.objective = plus(totals.objective, result.objective)
    if result.grad_norm is not None:
        totals.grad_norm = plus(totals.grad_norm, result.grad_norm)
    for branch, errors in result.errors.items():
        of_branch = totals.errors.setdefault(branch, {})
        for metric, values in errors.items():
            of_branch[metric] = plus(of_branch.get(metric), values)
    totals.update_ratio = totals.update_ratio if result.ratio is None else result.ratio


def _over_ranks(
    found: Evaluation, totals: EpochTotals, share: float, accelerator: Accelerator
) -> tuple[Evaluation, EpochTotals]:
    # The sums over all ranks: of what each found on its share of val, and on its parts of the epoch's batches.
    if accelerator.num_processes == 1:
        return found, totals
    ours = recursively_apply(lambda mean: mean * share, [found.objective, found.errors, found.histograms])
    objective, errors, histograms = accelerator.reduce(ours, "sum")
    norm = None if totals.grad_norm is None else accelerator.reduce(totals.grad_norm, "sum")
    trained, own = accelerator.reduce([totals.objective, totals.errors], "sum")
    return Evaluation(objective, errors, histograms), replace(totals, objective=trained, errors=own, grad_norm=norm)


def _metric_rows(at: Row, totals: EpochTotals, found: Evaluation, *, overflows: bool) -> list[Row]:
    values: list[tuple[str, str, str, Any]] = [("train", "all", "objective", totals.objective)]
    values += [("train", branch, metric, v) for branch, of in totals.errors.items() for metric, v in of.items()]
    if totals.grad_norm is not None:
        values.append(("train", "all", "grad_norm", float(totals.grad_norm) / (1 - totals.left_out)))
    values += [("train", "all", name, getattr(totals, name)) for name in ("learning_rate", "update_ratio")]
    values += [("train", "all", "overflows", totals.overflows)] if overflows else []
    values.append(("val", "all", "objective", found.objective))
    values += [("val", branch, metric, v.mean()) for branch, of in found.errors.items() for metric, v in of.items()]
    return [at | {"split": s, "branch": b, "metric": m, "value": float(value)} for s, b, m, value in values]


def _histogram_rows(epoch: int, found: Evaluation) -> list[Row]:
    return [
        {"epoch": epoch, "branch": branch, "output": centre, "share": value}
        for branch, shares in found.histograms.items()
        for centre, value in zip(HISTOGRAM_CENTRES, shares.tolist(), strict=True)
    ]
