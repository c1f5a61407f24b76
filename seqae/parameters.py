"""The parameters of a run: names, types, sound combinations, and how files are merged into them.

What a notebook's cell, a scale file, a run file and the command line say goes through `resolve` into one
`Parameters`. Nothing here knows what the values do; no model or training code ever receives this object.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from seqae.files import load_yaml
from seqae.losses import LOSSES, NEEDS_PROBABILITY, TRAINING_LOSSES

LOSS_FIELDS = ("pixel_range", "activation", "training_loss")
# Where and how a run is executed changes nothing about what it is, so these stay out of its name and hash.
EXECUTION = frozenset(
    {"label", "device", "devices", "data_folder", "store", "fresh", "keep_checkpoint", "checkpoint_seconds", "tracker"}
)


def _as_number(value: Any) -> Any:
    # PyYAML reads 1e-3 as text (YAML 1.1 wants 1.0e-3). However written, a number is the same, 1 for 1.0, and its hash.
    match value:
        case str():
            try:
                return _as_number(float(value))
            except ValueError:
                return value
        case float():
            return int(value) if value.is_integer() else value
        case dict():
            return {key: _as_number(item) for key, item in value.items()}
        case list() | tuple():
            return [_as_number(item) for item in value]
    return value


class ParameterError(ValueError):
    """One or more parameters are unknown, of the wrong type, out of range or do not go together."""


class Parameters(BaseModel):
    """Everything that defines one run. `resolve` builds it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(6, ge=0, lt=2**32, description="initial weights and the order of training sequences")
    data_seed: int = Field(
        1, ge=0, lt=2**32, description="which sequences are made; apart from `seed`, so seeds share a test set"
    )

    pixel_range: tuple[float, float] = Field((0.0, 1.0), description="range the pixels are scaled to for training")
    activation: Literal["none", "tanh", "sigmoid"] = Field("none", description="after the last layer")
    training_loss: str = Field("mse", description="the loss that trains, mse or bce; both are tracked")
    gain: float = Field(1.0, gt=0, description="factor on the last layer before the activation")

    task: Literal["recon", "recon_ordered", "pred", "both"] = Field("recon", description="what is decoded")
    decoder_input: Literal["zero", "output", "truth"] = Field("output", description="what a decoder reads at each step")
    recon_weight: float = Field(1.0, gt=0, description="in `both`: recon_weight · recon + pred")
    recon_truth: bool = Field(False, description="decoder_input truth: recon reads true frames when evaluated, too")

    architecture: str = Field("lstm_copy", description="a row of seqae.models.ARCHITECTURES")
    hidden: int | None = Field(None, ge=1, description="LSTM width at width 1; none: the architecture's own")
    layers: int | None = Field(None, ge=1, description="LSTM layers; none: the architecture's own")
    peepholes: bool | None = Field(None, description="none: the architecture's own")
    width: float = Field(1.0, gt=0, description="shrinks hidden sizes and channels for small machines")

    frame_size: Literal[16, 32, 64] = Field(64, description="pixels on a side; digits scale with it")
    frames_in: int = Field(10, ge=1, description="frames seen")
    frames_out: int = Field(10, ge=1, description="frames to come")
    digits: str = Field("mnist5k", description="of seqae.data.DIGITS: 5,000 shipped digits, or mnist, the full set")
    data_folder: str | None = Field(None, description="where MNIST IDX files or mnist_test_seq.npy lie")
    test_data: Literal["generated", "official"] = Field("generated", description="official: mnist_test_seq.npy")
    train_sequences: int = Field(9000, ge=1, description="sequences an epoch")
    endless: bool = Field(False, description="true: every epoch's sequences are new")
    val_sequences: int = Field(1000, ge=1, description="for choices")
    test_sequences: int = Field(1000, ge=1, description="for the final figures, once")

    batch_size: int = Field(100, ge=1, description="sequences an update")
    epochs: int = Field(200, ge=1, description="passes over `train_sequences`")
    optimizer: str = Field("Adam", description="a class of torch.optim")
    optimizer_arguments: dict[str, Any] = Field({}, description="its other arguments, as torch names them")
    learning_rate: float | None = Field(0.001, gt=0, description="none: the optimizer's own default")
    momentum: float | None = Field(None, ge=0, description="none: the optimizer's own default")
    weight_decay: float | None = Field(None, ge=0, description="none: the optimizer's own default")
    schedule: str = Field("none", description="none, or a class of torch.optim.lr_scheduler")
    schedule_per: Literal["epoch", "update"] = Field("epoch", description="how often the schedule takes a step")
    schedule_every: int = Field(30, ge=1, description="StepLR: schedule steps between decays")
    schedule_gamma: float = Field(0.5, gt=0, description="StepLR, ExponentialLR, MultiStepLR: factor")
    schedule_arguments: dict[str, Any] = Field({}, description="other schedulers' arguments, as torch names them")
    reduction: Literal["mean", "sum"] = Field("mean", description="of the training loss over batch, time and pixels")
    clip_norm: float | None = Field(0.25, gt=0, description="largest gradient norm; none: no clipping")
    clip_update: float | None = Field(None, gt=0, description="largest change of a weight in an update; none: any")
    patience: int | None = Field(None, ge=1, description="stop after so many epochs with < 1 % gain on val; none: no")
    init: Literal["default", "orthogonal", "uniform"] = Field("default", description="of the LSTM weights")
    init_range: float = Field(0.01, gt=0, description="uniform: U(-init_range, init_range)")
    bias_init: Literal["default", "zero", "normal"] = Field("default", description="of the LSTM biases")
    forget_bias: float | None = Field(None, description="sets the forget gates' biases; none: as the others")
    readout_bias: float | None = Field(None, description="sets the last layer's bias; none: torch's")
    peephole_range: float = Field(0.0, ge=0, description="peepholes begin as U(-peephole_range, peephole_range)")

    repeats: int = Field(5, ge=1, description="family performance: how often each implementation has its turn")
    precision: Literal["none", "tf32", "bf16", "fp16"] = Field("none", description="of matrix products; none: float32")
    label: str | None = Field(None, description="what comparisons call the run; none: what tells it apart")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    devices: int = Field(1, ge=1, description="GPUs that share every batch; with device cpu: processes")
    tracker: Literal["none", "tensorboard", "mlflow", "wandb", "trackio"] = Field("none", description="mirrors metrics")
    store: str | None = Field(
        None, description="folder or URL of runs; none: $SEQAE_STORE, else reports/ of the project"
    )
    fresh: bool = Field(False, description="true: train anew beside an existing run")
    keep_checkpoint: bool = Field(False, description="true: keep checkpoint/ when done")
    checkpoint_seconds: float = Field(10.0, ge=0, description="least time between two checkpoints")

    @property
    def loss(self) -> str:
        """Short name: one of `LOSSES`, else range, activation and training loss in words."""
        loss = (self.pixel_range, self.activation, self.training_loss)
        other = "range{0[0]:g}..{0[1]:g}-{1}-{2}".format(*loss)
        return next((name for name, fields in LOSSES.items() if fields == loss), other)

    @model_validator(mode="before")
    @classmethod
    def _given_as_text(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        # All at once: a validator of each field takes three times as long, and a comparison reads thousands of runs.
        given = {}
        for name, value in values.items():
            annotation = cls.__annotations__.get(name)
            null = value == "none" and type(None) in get_args(annotation)  # YAML's own word is null, ours is none
            given[name] = None if null else value if annotation in (str, str | None) else _as_number(value)
        return given

    @field_validator("label")
    @classmethod
    def _drawable(cls, label: str | None) -> str | None:
        if label is not None and (not label.strip() or label.startswith("_") or "$" in label):
            raise ValueError(f"label {label!r} cannot stand in a figure, where $ is mathematics and a first _ hides it")
        return label

    @model_validator(mode="after")
    def _sound(self) -> Self:
        faults = []
        low, high = self.pixel_range
        if not low < high:
            faults.append(f"pixel_range ({low:g}, {high:g}) is empty: give [low, high] with low < high")
        if self.training_loss not in TRAINING_LOSSES:
            faults.append(f"training_loss must be one of {', '.join(TRAINING_LOSSES)}; not {self.training_loss!r}")
        probability = self.training_loss in NEEDS_PROBABILITY
        if probability and self.activation != "sigmoid":
            faults.append(
                f"training_loss {self.training_loss} needs a probability, and activation {self.activation} gives none: "
                "set activation: sigmoid (loss: 0sb), or training_loss: mse"
            )
        if probability and (low, high) != (0.0, 1.0):
            faults.append(
                f"training_loss {self.training_loss} needs pixels in (0, 1), not ({low:g}, {high:g}): "
                "set pixel_range: [0, 1]"
            )
        elif (reach := {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}.get(self.activation)) and not (
            reach[0] <= low and high <= reach[1]
        ):
            faults.append(
                f"pixel_range ({low:g}, {high:g}) lies outside what {self.activation} can output, "
                f"({reach[0]:g}, {reach[1]:g}): choose a range inside it, or activation: none"
            )
        if self.recon_truth and (self.decoder_input != "truth" or self.task == "pred"):
            faults.append(
                "recon_truth is for a recon decoder with decoder_input truth; here task is "
                f"{self.task}, decoder_input {self.decoder_input}: leave it out, or set decoder_input: truth"
            )
        if self.schedule_per == "update" and self.schedule in ("none", "ReduceLROnPlateau"):
            faults.append(f"schedule {self.schedule} takes no steps per update: set schedule_per: epoch")
        if self.optimizer == "LBFGS" and self.precision == "fp16":
            faults.append("optimizer LBFGS cannot be scaled for precision fp16: use bf16, or none")
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def defining(self) -> dict[str, Any]:
        """The values that make this run what it is, as plain JSON types: those that differ from the library's defaults,
        so that later versions can add parameters without renaming finished runs.
        """
        return self.model_dump(mode="json", exclude=set(EXECUTION), exclude_defaults=True)

    def short_hash(self) -> str:
        """8 hex digits; equal for equal `defining()`, whatever the order or the spelling of the sources."""
        return hashlib.sha256(json.dumps(self.defining(), sort_keys=True).encode()).hexdigest()[:8]


_DESCRIBED = (f"{name}: {field.description}" for name, field in Parameters.model_fields.items())
Parameters.__doc__ = "\n".join([str(Parameters.__doc__), "", *_DESCRIBED])


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win, key by key; `loss` becomes its three fields, so a later layer may change one.

    Raises `ParameterError` for a `loss` that there is not, or that contradicts fields in its own layer.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        layer = {str(key): value for key, value in layer.items()}
        if "loss" in layer:
            name = layer.pop("loss")
            if name not in [*LOSSES]:
                raise ParameterError(f"loss must be one of {', '.join(LOSSES)}; not {name!r}")
            spelled = dict(zip(LOSS_FIELDS, LOSSES[name], strict=True))
            for field, value in spelled.items():
                if layer.setdefault(field, value) not in (value, list(value)):
                    raise ParameterError(
                        f"loss {name} means {field} {value}, but "
                        f"{field} {layer[field]} is given beside it: give one of them"
                    )
        merged |= layer
    return merged


def resolve(*layers: Mapping[str, Any]) -> Parameters:
    """Merge the layers (cell < scale < run file < command line) and validate the result.

    Raises `ParameterError` that lists every fault at once.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    for layer in layers:
        try:
            values |= merge(layer)
        except ParameterError as error:
            faults.append(str(error))
            values |= merge({key: value for key, value in layer.items() if key not in ("loss", *LOSS_FIELDS)})
    try:
        parameters = Parameters.model_validate(values)
    except ValidationError as error:
        faults += _faults(error)
        # What does not go together is told only where all values are right by themselves: so try without the others.
        wrong = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
        if wrong and not wrong & {*LOSS_FIELDS}:
            try:
                Parameters.model_validate({key: value for key, value in values.items() if key not in wrong})
            except ValidationError as unsound:
                faults += _faults(unsound)
    if faults:
        raise ParameterError("\n".join(faults))
    return parameters


def _faults(error: ValidationError) -> Iterable[str]:
    known = [*Parameters.model_fields, "loss"]
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, known, n=1)
            yield f"unknown parameter {name!r}" + (
                f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            )
        elif fault["type"] == "value_error":
            yield fault["msg"].removeprefix("Value error, ")
        else:
            meaning = Parameters.model_fields[str(fault["loc"][0])].description
            yield f"{name}: {fault['msg'][0].lower()}{fault['msg'][1:]}; not {fault['input']!r} ({meaning})"


def read_yaml(path: Path) -> dict[str, Any]:
    """A parameter file as a dict. Raises `ParameterError` if it is missing, not YAML or not a mapping."""
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"no parameter file {path}") from None
    except OSError as error:
        raise ParameterError(f"parameter file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict | None):
        raise ParameterError(
            f"{path} must hold a mapping (lines such as 'task: pred'), "
            f"not a {type(content).__name__}: {str(content)[:60]!r}"
        )
    return content or {}
