"""What defines a run: which parameters its combination uses, and the hash of these.

A parameter that a combination does not use changes neither the run nor its name. Cells, scale files and records, which
serve many runs, may hold one; `seqae.sweeps` refuses it in a run file. The rule is the table `USES`.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from torch import optim
from torch.optim import lr_scheduler

from seqae.architectures import ARCHITECTURES, PIXELS
from seqae.parameters import EXECUTION, ParameterError, Parameters
from seqae.runs.merging import resolve
from seqae.runs.records import RunError, read_record
from seqae.tasks import BRANCHES

BENCHMARK = "performance"  # the family whose runs are timed, not trained


class Use(NamedTuple):
    """When a parameter is used.

    when: in words, after "it is used". because: the parameters that decide it. test: whether a run uses it.
    """

    when: str
    because: tuple[str, ...]
    test: Callable[[Parameters], bool]


def _in(name: str, *values: str) -> Callable[[Parameters], bool]:
    return lambda p: getattr(p, name) in values


def _built_in(p: Parameters) -> bool:
    return ":" not in p.architecture


def _own(p: Parameters) -> bool:
    return not _built_in(p)


def _peepholes(p: Parameters) -> bool:
    return _built_in(p) and bool(p.peepholes)


def _architecture(test: Callable[[Any], bool]) -> Callable[[Parameters], bool]:
    # An unknown architecture is another error, which `experiment.check_parameters` raises; so is an unknown optimizer.
    return lambda p: _built_in(p) and (p.architecture not in ARCHITECTURES or test(ARCHITECTURES[p.architecture]))


def _optimizer(argument: str) -> Callable[[Parameters], bool]:
    return lambda p: argument in _arguments(optim, p.optimizer, argument)


def _schedule(argument: str) -> Callable[[Parameters], bool]:
    return lambda p: p.schedule != "none" and argument in _arguments(lr_scheduler, p.schedule, argument)


@cache
def _arguments(module: Any, name: str, default: str) -> frozenset[str]:
    kind = getattr(module, name, None)
    return frozenset(inspect.signature(kind).parameters if isinstance(kind, type) else [default])


def _decays(p: Parameters) -> bool:
    return _schedule("gamma")(p) and (p.schedule != "CyclicLR" or p.schedule_arguments.get("mode") == "exp_range")


def cycles_momentum(p: Parameters) -> bool:
    """Whether the schedule sets the optimizer's momentum, or the first of its betas, too."""
    return p.schedule in _OWN_RATES and bool(p.schedule_arguments.get("cycle_momentum", True))


def _momentum(p: Parameters) -> bool:
    return _optimizer("momentum")(p) and not cycles_momentum(p)


def _decoded(p: Parameters) -> int:
    # Frames of the longest branch.
    return max(p.frames_out if branch == "pred" else p.frames_in for branch in BRANCHES[p.task])


def _of_clips(p: Parameters) -> bool:
    return bool(p.clips or p.clips_digest)


# What decides the sequences of Moving MNIST, beside the size and number of frames.
OF_DIGITS = ("digits", "digits_per_sequence", "digit_speed", "data_seed", "test_data")
_OF_DIGITS = "with Moving MNIST, without clips"
_OWN_RATES = ("OneCycleLR", "CyclicLR")  # these schedules set the learning rate by their own arguments
_NOT_OWN = "with a built-in architecture (one of your own takes architecture_arguments)"
_SCALED = "with a built-in architecture whose hidden sizes or channels are not those of the frame"
_STEPS = "with a schedule that can take a step per update (not none, not ReduceLROnPlateau)"
USES = {
    "recon_weight": Use("with task both", ("task",), _in("task", "both")),
    "recon_truth": Use(
        "with decoder_input truth, a task that has a recon decoder and a built-in architecture",
        ("task", "decoder_input", "architecture"),
        lambda p: p.decoder_input == "truth" and p.task != "pred" and _built_in(p),
    ),
    "decoder_input": Use(  # the first input of decoders that do not read the truth is zeros
        "where more than one frame is decoded, or with truth",
        ("task", "frames_in", "frames_out"),
        lambda p: p.decoder_input == "truth" or _own(p) or _decoded(p) > 1,
    ),
    "frames_out": Use(
        "with task pred or both, and with clips, which are cut into frames_in + frames_out",
        ("task", "clips"),
        lambda p: p.task in ("pred", "both") or _of_clips(p),
    ),
    "horizon_until": Use(
        "with task pred or both, of more than one frame",
        ("task", "frames_out"),
        lambda p: "pred" in BRANCHES[p.task] and p.frames_out > 1,
    ),
    **{name: Use(_OF_DIGITS, ("clips",), lambda p: not _of_clips(p)) for name in OF_DIGITS},
    **{name: Use("with clips", ("clips",), _of_clips) for name in ("clips_val", "clips_test", "clip_stride")},
    "hidden": Use(_SCALED, ("architecture",), _architecture(lambda row: row.hidden != PIXELS)),
    "width": Use(
        _SCALED, ("architecture",), _architecture(lambda row: row.hidden != PIXELS or bool(row.linear or row.channels))
    ),
    **{
        name: Use(_NOT_OWN, ("architecture",), _built_in)
        for name in ("layers", "peepholes", "init", "bias_init", "forget_bias")
    },
    "architecture_arguments": Use("with an architecture of your own, module:name", ("architecture",), _own),
    "code": Use(
        "with code of your own, module:name",
        ("architecture", "training_loss"),
        lambda p: _own(p) or ":" in p.training_loss,
    ),
    "data_folder": Use(
        "with digits mnist or test_data official, without clips",
        ("digits", "test_data", "clips"),
        lambda p: not _of_clips(p) and (p.digits != "mnist5k" or p.test_data == "official"),
    ),
    "learning_rate": Use(
        f"with any schedule but {' and '.join(_OWN_RATES)}, which have rates in schedule_arguments",
        ("schedule",),
        lambda p: p.schedule not in _OWN_RATES,
    ),
    "momentum": Use(
        f"with an optimizer that has this argument, and not with {' or '.join(_OWN_RATES)} unless schedule_arguments "
        "have cycle_momentum: false",
        ("optimizer", "schedule"),
        _momentum,
    ),
    "weight_decay": Use("with an optimizer that has this argument", ("optimizer",), _optimizer("weight_decay")),
    "schedule_per": Use(_STEPS, ("schedule",), lambda p: p.schedule not in ("none", "ReduceLROnPlateau")),
    "schedule_every": Use("with schedule StepLR", ("schedule",), _schedule("step_size")),
    "schedule_gamma": Use(
        "with a schedule that has the argument gamma (StepLR, ExponentialLR, MultiStepLR, CyclicLR in mode exp_range)",
        ("schedule",),
        _decays,
    ),
    "schedule_arguments": Use("with a schedule", ("schedule",), lambda p: p.schedule != "none"),
    "init_range": Use(
        "with init uniform and a built-in architecture",
        ("init", "architecture"),
        lambda p: p.init == "uniform" and _built_in(p),
    ),
    "readout_bias": Use(
        "with a built-in architecture that has a readout",
        ("architecture",),
        _architecture(lambda row: row.readout != "h"),
    ),
    "peephole_range": Use("with peepholes", ("peepholes", "architecture"), _peepholes),
}
# A benchmark times updates: it uses `repeats`, which training does not, and none of these.
_TRAINING = (
    *("train_sequences", "val_sequences", "test_sequences", "test_data", "endless", "epochs", "patience"),
    *("schedule", "schedule_per", "schedule_every", "schedule_gamma", "schedule_arguments", "clip_update"),
    "horizon_until",
    *("devices", "tracker", "keep_checkpoint", "checkpoint_seconds"),
)


def unused(parameters: Parameters, family: str, takes: Collection[str] | None = None) -> dict[str, str]:
    """The parameters that a run of this combination does not use, whatever their values, and for each why, in words.

    takes: the arguments of the constructor of an architecture of one's own, where they are known.
    """
    benchmark = family == BENCHMARK
    if benchmark:
        found = dict.fromkeys(_TRAINING, f"it is used where a run trains, and family {BENCHMARK} times single updates")
    else:
        found = {"repeats": f"it is used in family {BENCHMARK}, and this family is {family}"}
    for name, use in USES.items():
        if name not in found and not use.test(parameters):
            here = ", ".join(f"{other} {_shown(getattr(parameters, other))}" for other in use.because)
            found[name] = f"it is used {use.when}, and here is {here}"
    if takes is not None and "decoder_input" not in takes:
        found["decoder_input"] = f"the constructor of {parameters.architecture} does not take it"
    return found


def without_effect(
    parameters: Parameters, family: str, given: Mapping[str, Any], takes: Collection[str] | None = None
) -> dict[str, str]:
    """Of the values `given` for a run those that it does not use, unless they are the library's defaults; and why."""
    whys = unused(parameters, family, takes)
    values = {name: getattr(resolve({name: given[name]}), name) for name in given if name in whys}
    changed = {name: value for name, value in values.items() if value != _default(name)}
    return {name: f"{name} {_shown(value)} has no effect: {whys[name]}" for name, value in changed.items()}


def as_used(parameters: Parameters, family: str, takes: Collection[str] | None = None) -> Parameters:
    """The same run with the library's default for every parameter that it does not use, and for a size that says what
    the architecture has anyway. takes: as for `unused`.
    """
    defaults = {name: _default(name) for name in unused(parameters, family, takes)}
    defaults |= {name: None for name, size in own_sizes(parameters).items() if getattr(parameters, name) == size}
    changed = {name: value for name, value in defaults.items() if getattr(parameters, name) != value}
    return parameters.model_copy(update=changed) if changed else parameters


def defining(parameters: Parameters) -> dict[str, Any]:
    """The values that define the run, as plain JSON types.

    Values equal to the library's defaults are left out, so that later versions can add parameters without changing the
    hash of finished runs.
    """
    return parameters.model_dump(mode="json", exclude=set(EXECUTION), exclude_defaults=True)


def run_hash(parameters: Parameters) -> str:
    """8 hex digits of the hash of `defining`. Order and spelling of the sources make no difference.

    `open_run` and `Run.load` give parameters as `as_used` returns them. Versions until November 2026 hashed all.
    """
    return hashlib.sha256(json.dumps(defining(parameters), sort_keys=True).encode()).hexdigest()[:8]


def own_sizes(parameters: Parameters) -> dict[str, Any]:
    """What a built-in architecture has by itself, where the parameters that say so are none."""
    if (row := ARCHITECTURES.get(parameters.architecture)) is None:
        return {}
    sizes = {"hidden": row.hidden, "layers": row.layers, "peepholes": False}
    return {name: size for name, size in sizes.items() if size != PIXELS}


def spelled_hashes(parameters: Parameters) -> set[str]:
    """The hashes of this run with the architecture's own sizes stated or left out. Until 28 November 2026 each of these
    was a run of its own.
    """
    sizes = {n: size for n, size in own_sizes(parameters).items() if getattr(parameters, n) in (None, size)}
    ways = (dict(zip(sizes, way, strict=True)) for way in product(*([None, size] for size in sizes.values())))
    return {run_hash(parameters.model_copy(update=way)) for way in ways}


def holds_run(folder: Path, family: str, *hashes: str) -> bool:
    """Whether a folder, whatever it is called, holds a run of this family whose parameters have one of these hashes."""
    with suppress(RunError, ParameterError, KeyError, TypeError):
        record = read_record(folder)
        p = resolve(record["parameters"])
        return record["family"] == family and not {run_hash(p), run_hash(as_used(p, family))}.isdisjoint(hashes)
    return False


def check_same_run(folder: Path, family: str, parameters: Parameters) -> None:
    """Raise RunError if a folder holds another run than the one that these parameters define.

    That is so where somebody changed a record, and where two runs have one hash: of 10,000 runs, with a chance of 1 %.
    """
    if not (record := read_record(folder)):
        return
    with suppress(ParameterError, KeyError, TypeError):  # of another version: its hash alone tells
        there, asked = defining(as_used(resolve(record["parameters"]), family)), defining(parameters)
        if other := [f"{k} {there.get(k, '-')}, not {asked.get(k, '-')}" for k in sorted(there.keys() | asked.keys())
                     if there.get(k) != asked.get(k)]:  # fmt: skip
            raise RunError(f"{folder} holds another run ({'; '.join(other)}): move it elsewhere, or set it right")


def _default(name: str) -> Any:
    return Parameters.model_fields[name].default


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
