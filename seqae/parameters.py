"""The parameters of a run: their names and types, and which combinations are valid.

Models and training code receive single values as keyword arguments, never this object. `runs.merging` makes it of a
notebook's cell, files and the command line.
"""

import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from seqae.losses import LOSSES, TRAINING_LOSSES, loss_fault
from seqae.tasks import FRAME_SIZES, Activation, DecoderInput, Size, Task, frame_shape, out_of_reach

Paths = str | tuple[str, ...] | None
LOSS_FIELDS = ("pixel_range", "activation", "training_loss")
# These say where and how a run is executed, not what it computes. Its name and hash leave them out, and with them what
# its combination does not use, and defaults: see `runs.identity`. So a default cannot be changed.
_WHERE = "label device devices data_folder store fresh keep_checkpoint checkpoint_seconds tracker metrics"
EXECUTION = frozenset({*_WHERE.split(), "clips", "clips_val", "clips_test"})  # `clips_digest` says which clips they are
MODULE_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")  # code of one's own, module:name


class ParameterError(ValueError):
    """One or more parameters are unknown, of the wrong type, out of range, or not valid together."""


class Parameters(BaseModel):
    """All parameters of a run. Build it with `resolve`.

    Two runs of a family are the same run where these have equal values, but for those in EXECUTION and those that their
    combination does not use (`runs.identity.USES`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(6, ge=0, lt=2**32, description="initial weights and the order of training sequences")
    data_seed: int = Field(1, ge=0, lt=2**32, description="which sequences are made; `seed` does not change them")

    pixel_range: tuple[float, float] = Field((0.0, 1.0), description="range that pixels are scaled to for training")
    activation: Activation = Field("none", description="applied after the last layer")
    training_loss: str = Field("mse", description="the loss that is minimised: mse, bce or module:name")
    metrics: tuple[str, ...] = Field((), description="functions of your own, a list of module:name, measured as well")
    gain: float = Field(1.0, gt=0, description="factor on the last layer before the activation")

    task: Task = Field("recon", description="which frames are decoded")
    decoder_input: DecoderInput = Field("output", description="what a decoder reads at each step")
    recon_weight: float = Field(1.0, gt=0, description="the loss of task `both` is recon_weight · recon + pred")
    recon_truth: bool = Field(False, description="with decoder_input truth: recon also reads true frames in evaluation")

    architecture: str = Field("lstm_copy", description="a row of seqae.architectures.ARCHITECTURES, or module:name")
    architecture_arguments: dict[str, Any] = Field({}, description="of the constructor of an architecture module:name")
    code: str | None = Field(None, description="hash of architecture and training_loss module:name; today's if none")
    hidden: int | None = Field(None, ge=1, description="LSTM units at width 1; the architecture's own if none")
    layers: int | None = Field(None, ge=1, description="LSTM layers; the architecture's own if none")
    peepholes: bool | None = Field(None, description="whether cells have peepholes; no if none")
    width: float = Field(1.0, gt=0, description="factor on hidden sizes and channels, below 1 for small machines")

    frame_size: int | Size | None = Field(64, description="pixels on a side, or [height, width]; none: as clips have")
    frames_in: int = Field(10, ge=1, description="frames that the encoder reads")
    frames_out: int = Field(10, ge=1, description="frames to predict")
    digits: str = Field("mnist5k", description="which digit images: mnist5k (5,000) or mnist (all 70,000)")
    digits_per_sequence: int = Field(2, ge=1, le=3, description="how many digits move in a sequence")
    digit_speed: float = Field(0.1, ge=0, le=1, description="share of the free canvas that a digit crosses per frame")
    data_folder: str | None = Field(None, description="folder with the MNIST IDX files or mnist_test_seq.npy")
    test_data: Literal["generated", "official"] = Field("generated", description="official: mnist_test_seq.npy")
    clips: Paths = Field(None, description="own video, not Moving MNIST: a path or glob of arrays, videos, pictures")
    clips_val: Paths = Field(None, description="clips of val; a tenth of `clips`, by their hash, if none")
    clips_test: Paths = Field(None, description="clips of test; a tenth of `clips`, by their hash, if none")
    clips_digest: str | None = Field(None, description="the hash of the clips; read from them if none")
    clip_stride: int | None = Field(None, ge=1, description="frames between a clip's sequences; no overlap if none")
    train_sequences: int = Field(9000, ge=1, description="training sequences per epoch")
    endless: bool = Field(False, description="whether every epoch has new sequences")
    val_sequences: int = Field(1000, ge=1, description="sequences for choosing the best weights")
    test_sequences: int = Field(1000, ge=1, description="sequences for the final figures")

    batch_size: int = Field(100, ge=1, description="sequences per update")
    epochs: int = Field(200, ge=1, description="passes over `train_sequences`")
    optimizer: str = Field("Adam", description="a class of torch.optim")
    optimizer_arguments: dict[str, Any] = Field({}, description="further arguments of the optimizer, named as in torch")
    learning_rate: float | None = Field(0.001, gt=0, description="the optimizer's own default if none")
    momentum: float | None = Field(None, ge=0, description="the optimizer's own default if none")
    weight_decay: float | None = Field(None, ge=0, description="the optimizer's own default if none")
    schedule: str = Field("none", description="none, or a class of torch.optim.lr_scheduler")
    schedule_per: Literal["epoch", "update"] = Field("epoch", description="the unit of a schedule step")
    schedule_every: int = Field(30, ge=1, description="StepLR: schedule steps between two decays")
    schedule_gamma: float = Field(0.5, gt=0, description="StepLR, ExponentialLR, MultiStepLR: factor of a decay")
    schedule_arguments: dict[str, Any] = Field({}, description="further arguments of the schedule, named as in torch")
    reduction: Literal["mean", "sum"] = Field("mean", description="of the training loss over batch, time and pixels")
    clip_norm: float | None = Field(0.25, gt=0, description="largest gradient norm; no clipping if none")
    clip_update: float | None = Field(None, gt=0, description="largest change of a weight per update; no limit if none")
    horizon_until: float | None = Field(None, gt=0, le=1, description="share of updates until all frames are predicted")
    patience: int | None = Field(None, ge=1, description="stop after so many epochs with < 1 % gain on val if set")
    init: Literal["default", "orthogonal", "uniform"] = Field("default", description="initial LSTM weights")
    init_range: float = Field(0.01, gt=0, description="init uniform draws from U(-init_range, init_range)")
    bias_init: Literal["default", "zero", "normal"] = Field("default", description="initial LSTM biases")
    forget_bias: float | None = Field(None, description="initial bias of forget gates; as other biases if none")
    readout_bias: float | None = Field(None, description="initial bias of the last layer; torch's default if none")
    peephole_range: float = Field(0.0, ge=0, description="initial peepholes are U(-peephole_range, peephole_range)")

    repeats: int = Field(5, ge=1, description="family performance: how often each implementation is timed")
    precision: Literal["none", "tf32", "bf16", "fp16"] = Field("none", description="of products; float32 if none")
    label: str | None = Field(None, description="name of the run in comparisons; what differs from other runs if none")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    devices: int = Field(1, ge=1, description="GPUs that share every batch; processes with device cpu")
    tracker: Literal["none", "tensorboard", "mlflow", "wandb", "trackio"] = Field("none", description="mirrors metrics")
    store: str | None = Field(None, repr=False, description="folder or URL of runs; $SEQAE_STORE or reports/ if none")
    fresh: bool = Field(False, description="train again, beside an existing run")
    keep_checkpoint: bool = Field(False, description="keep checkpoint/, for runs of more epochs")
    checkpoint_seconds: float = Field(10.0, ge=0, description="least time between two checkpoints, in seconds")

    @property
    def loss(self) -> str:
        """The name of the loss: one of `LOSSES`, or else range, activation and training loss in words."""
        loss = (self.pixel_range, self.activation, self.training_loss)
        return next((n for n, of in LOSSES.items() if of == loss), "range{0[0]:g}..{0[1]:g}-{1}-{2}".format(*loss))

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of frames in pixels."""
        return frame_shape(self.frame_size)

    @field_validator("frame_size", mode="before")
    @classmethod
    def _square_as_number(cls, size: Any) -> Any:  # so that 64 and [64, 64] have one hash
        sides = (None, None) if size is None else frame_shape(size)
        return sides if sides[0] != sides[1] else sides[0]

    @field_validator("label")
    @classmethod
    def _drawable(cls, label: str | None) -> str | None:
        if label is not None and (not label.strip() or label.startswith("_") or "$" in label):
            raise ValueError(f"label {label!r} cannot be drawn in a figure: it is blank, begins with _ or has a $")
        return label

    @model_validator(mode="after")
    def _sound(self) -> Self:
        faults, own = [], [name for name in (self.architecture, self.training_loss) if ":" in name]
        odd = [name for name in (*own, *self.metrics) if not MODULE_NAME.fullmatch(name)]
        faults += [f"{name!r} must be module:name, such as my_models:GRU" for name in odd]
        if not (self.clips or self.clips_digest) and self.frame_size not in FRAME_SIZES:
            faults.append(f"frame_size: Moving MNIST has frames of 16, 32 or 64 pixels a side; not {self.frame_size}")
        if self.training_loss not in [*TRAINING_LOSSES, *own]:
            faults += [f"training_loss must be {', '.join(TRAINING_LOSSES)} or module:name; not {self.training_loss!r}"]
        fault = loss_fault(self.training_loss, self.activation, self.pixel_range)
        faults += filter(None, [fault or out_of_reach(self.pixel_range, self.activation)])
        if self.optimizer == "LBFGS" and self.precision == "fp16":
            faults.append("optimizer LBFGS cannot be scaled for precision fp16: use bf16, or none")
        if faults:
            raise ValueError("\n".join(faults))
        return self


_FIELDS = [f"{name}: {field.description}" for name, field in Parameters.model_fields.items()]
Parameters.__doc__ = "\n".join([str(Parameters.__doc__), *_FIELDS])
