"""What `fit` needs of a model, a training loss and metrics, built in or your own, and the check before training.

A model is a `torch.nn.Module`. Its forward(frames, truth=None) takes the frames seen, (B, frames_in, H, W) float32 in
the training range, and returns a dict with a tensor for each branch of the task: pre-activations (B, T, H, W). The
activation is applied to them outside; before it a run of `seqae.runs`, not `fit`, multiplies those of a model of your
own by its `gain` (a `SequenceAutoencoder` does so itself). For `recon`, T is frames_in, and the frames are in reverse
order; in task `recon_ordered` they are in order. For `pred`, T is frames_out. truth has the true frames of each branch,
(B, T, H, W), in training mode; otherwise it is None. Where `UpdateRule.length` has fewer frames predicted at first, T
is that of truth in training mode. Where the output for a sequence depends, in evaluation mode, on the others of its
batch, errors depend on batch_size: the check warns where that of the last depends on the first. It warns as well where
all pre-activations lie in (0, 1) before a sigmoid, as those of a model that ends in a sigmoid of its own. Nothing else
of a model is needed. `reach`, a number, is read where a run's floor is computed: the largest |pre-activation| that any
weights can give; infinity if it is missing. `checkpoint_settings`, a dict of numbers and texts by name, says what of
the model the shapes of its weights do not tell: a checkpoint of others is refused. Edited code is not noticed
otherwise. `capturable`, True where the forward pass launches the same operations at every call, lets a CUDA device
replay updates as one graph, see `seqae.capture.can_capture`; without it they run one operation after the other.

A training loss is a function of (z, target, *, activation): z and target are (B, T, H, W), pre-activations and true
frames in the training range; it returns (B,), one value for each sequence. It may have the attributes
`needs_probability`, True where it needs activation sigmoid and pixels in (0, 1), and `capturable`, as a model.

A metric is a function of (output, target), both (B, T, H, W), the target in [0, 1], the output on the same scale and
not clipped; it returns (B, T), one value for each frame. It may have the attributes `unit`, a text, and
`more_is_better`.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqae.data import to_range
from seqae.device import seeded
from seqae.losses import training_loss
from seqae.objective import BranchOutput, Objective, unit_frames
from seqae.tasks import branch_targets


class ContractError(ValueError):
    """A model, a training loss or a metric does not do what this module says; told with shapes seen and wanted."""


WANTED = {nn.Module: "a model that has been made, model = Mine(…)", Callable: "a function record(table, rows)"}


def check_kinds(given: Mapping[Any, object]) -> None:
    """Raise ValueError unless each of these is of its class: of WANTED, or a dataclass that the package offers."""
    for kind, value in ((kind, value) for kind, value in given.items() if not isinstance(value, kind)):
        wanted = WANTED.get(kind) or f"a seqae.{kind.__name__}({kind.__match_args__[0]}, …)"
        raise ValueError(f"fit takes {wanted}, not {type(value).__name__} {value!r:.60}: see help(seqae.fit)")


def check_contract(model: nn.Module, batch: Tensor, objective: Objective, autocast: Any, length: Any = None) -> None:
    """Call the model on a few sequences, in evaluation and in training mode, the training loss and the metrics.

    batch: uint8 (B, T, H, W) on the device of the weights. autocast: the context of forward passes in training, of the
    first `length` frames (None: all).
    Weights, buffers and random numbers are afterwards what they were. Raises ContractError, a sentence.
    """
    told = f"model {type(model).__name__}"
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ContractError(f"{told} has no weights that can be trained")
    kept = {name: value.clone() for name, value in model.named_buffers()}  # statistics of normalisation layers
    frames = to_range(batch, objective.pixel_range)
    for training in (False, True):
        read = frames[:, :length] if training else frames
        targets = branch_targets(read, task=objective.task, frames_in=objective.frames_in)
        with seeded(0), torch.set_grad_enabled(training):
            _check_pass(told + " in training" * training, model.train(training), read, targets, objective, autocast)

    def last(first: Tensor) -> Tensor:  # what is put out for the last sequence, beside this first one, (T, H, W)
        seen = torch.cat([first, frames[1:]])[:, : objective.frames_in]
        with seeded(0), torch.no_grad():
            return torch.cat([*_called(told, model.eval(), seen, None).values()], 1)[-1]

    if (last(frames[:1]) - last(sum(objective.pixel_range) - frames[:1])).abs().max() > 1e-4:  # more than rounding
        logging.getLogger("seqae").warning("%s mixes a batch's sequences: LSTMs read (T, B, D), or batch_first", told)
    for name, value in model.named_buffers():
        value.copy_(kept.get(name, value))


def _check_pass(told: str, net: nn.Module, frames: Tensor, targets: Any, objective: Objective, autocast: Any) -> None:
    seen, truth = frames[:, : objective.frames_in], dict(targets) if net.training else None
    with autocast if net.training else torch.no_grad():  # the model alone, as in training
        outputs = _called(told, net, seen, truth)
    if not isinstance(outputs, Mapping) or outputs.keys() != targets.keys():
        wanted = f"task {objective.task} needs a dict of {_seen(targets)}"
        raise ContractError(f"{told} returned {_seen(outputs)} for frames {_seen(seen)}; {wanted}")
    for branch, target in targets.items():
        what = f"{told}, branch {branch},"
        z = _checked(what, outputs[branch], "(B, T, H, W)", target.shape, learns=net.training).float()
        if not net.training and objective.activation == "sigmoid" and z.min() > 0 and z.max() < 1:
            logging.getLogger("seqae").warning("%s lies in (0, 1) before its sigmoid: does the model end in one?", what)
        told_loss = f"training_loss {getattr(objective.loss, '__name__', objective.loss)}"
        value = _called(told_loss, training_loss, z, target, kind=objective.loss, activation=objective.activation)
        _checked(told_loss, value, "(B,)", z.shape[:1], learns=net.training)
        given = unit_frames(BranchOutput(z, target), objective)
        for name, metric in () if net.training else objective.metrics.items():
            _checked(f"metric {name}", _called(f"metric {name}", metric, *given), "(B, T)", z.shape[:2], finite=False)


def _called(told: str, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    try:
        return function(*given, **named)
    except Exception as error:  # of any type: it is raised in code that is not ours
        told += f" failed on {', '.join(map(_seen, given))}".replace("None", "truth=None as in evaluation")
        raise ContractError(f"{told}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error


def _checked(told: str, value: Any, axes: str, shape: Any, *, finite: bool = True, learns: bool = False) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
        raise ContractError(f"{told} returned {_seen(value)}; it must be {axes}, here {tuple(shape)}, of floats")
    if finite and (bad := int((~value.isfinite()).sum())):
        raise ContractError(f"{told} returned {bad:,} of {value.numel():,} values not finite, before any training")
    if learns and not value.requires_grad:
        raise ContractError(f"{told} returned what no weight has an effect on: it has no gradient")
    return value


def _seen(value: Any) -> str:
    if isinstance(value, Mapping):
        return " and ".join(f"{name} {_seen(item)}" for name, item in value.items()) or "an empty dict"
    if isinstance(value, Tensor):
        return f"{tuple(value.shape) or 'a scalar'}{'' if value.is_floating_point() else f' of {value.dtype}'}"
    return str(value) if value is None else f"a {type(value).__name__}"
