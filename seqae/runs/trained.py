"""What a trained model makes of frames of one's own: predictions, reconstructions, and what its encoder keeps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from seqae.device import make_accelerator, mixed_precision
from seqae.evaluation import predict, seen_frames
from seqae.lstm import LSTMState
from seqae.models import SequenceAutoencoder
from seqae.objective import output_frames
from seqae.parameters import Parameters
from seqae.runs.building import build_model, load_model
from seqae.runs.own_code import OwnCode
from seqae.tasks import BRANCHES, Branch

Array = TypeVar("Array", np.ndarray, Tensor)
_Loaded = tuple[nn.Module, Parameters]


class HasModel(ABC):
    """The base of runs: what the trained model of one makes of frames of one's own.

    Frames are a numpy array or a torch tensor, (B, frames_in, H, W), or (frames_in, H, W) for one sequence, of the size
    that the run was trained on: uint8, 0–255, or floating point in [0, 1]. What comes back is of the same kind, numpy
    or torch, in float32; tensors are on the same device, and without gradients. One sequence comes back without axis B.

    device: where the model computes, as the parameter of this name: auto, cpu, cuda, cuda:N or mps. Its weights are
    loaded once for each, and kept as long as the run is.

    All methods raise RunError if nothing is trained yet, and ValueError for other frames, saying what these are, for a
    device that is not there, and for what this run's model cannot do.
    """

    code: OwnCode | None
    trusted: bool

    @abstractmethod
    def model_file(self) -> Path:
        """The path of model.safetensors."""

    @abstractmethod
    def own_code(self) -> OwnCode | None:
        """Code of your own that the run needs; None if all is built in."""

    def predict(self, frames: Array, steps: int | None = None, *, device: str = "auto") -> Array:
        """The frames that follow those seen, on [0, 1], (B, steps, H, W). Frames, device and errors: see `HasModel`.

        steps: how many, 1 or more; None: frames_out, as trained. Beyond these the decoder goes on as it does within
        them. Needs a run that was trained to predict: task pred or both.
        """
        model, p = self._loaded(device)
        _check_branch(p, "pred")
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1):
            raise ValueError(f"steps must be a whole number, 1 or more; not {steps!r}")
        check_frames(frames, p)
        if steps not in (None, p.frames_out):
            model, p = self._loaded(device, frames_out=int(steps or 0))
        made = _in_batches(lambda batch: _outputs_in_time_order(model, p, batch), frames, p)["pred"]
        if made.shape[-3] != (wanted := steps or p.frames_out):
            raise ValueError(
                f"architecture {p.architecture} predicts {made.shape[-3]} frames whatever frames_out is, not {wanted}: "
                "let its constructor take frames_out"
            )
        return made

    def reconstruct(self, frames: Array, *, device: str = "auto") -> Array:
        """The frames seen, as the model gives them back, on [0, 1], (B, frames_in, H, W).

        They are in the order in which they were seen, whatever the order in which the run decodes them. Frames, device
        and errors: see `HasModel`. Needs a run that was trained to reconstruct: any task but pred.
        """
        model, p = self._loaded(device)
        _check_branch(p, "recon")
        check_frames(frames, p)
        return _in_batches(lambda batch: _outputs_in_time_order(model, p, batch), frames, p)["recon"]

    def encode(self, frames: Array, *, device: str = "auto") -> dict[str, Array]:
        """What the encoder keeps of each sequence, by name: `h1`, `c1` of its first layer, `h2`, `c2`, …, (B, units).

        `flat` is all of them side by side, a vector a sequence, (B, sum of units). Of a model of one's own it is what
        that model's encode(frames) returns: tensors by name, with `flat` added, or one, which is named flat. Frames,
        device and errors: see `HasModel`.
        """
        model, p = self._loaded(device)
        own = getattr(model, "encode", None)
        if own is None:
            raise ValueError(
                f"architecture {p.architecture} has no method encode(frames): give its class one that returns a tensor "
                "(B, units), or such tensors by name"
            )
        check_frames(frames, p)
        on = next(model.parameters()).device
        model.eval()
        return _in_batches(lambda batch: _named(own(seen_frames(batch.to(on), p.pixel_range)), batch, p), frames, p)

    def decode(
        self, state: Mapping[str, Array], last: Array | None = None, *, device: str = "auto"
    ) -> dict[str, Array]:
        """The frames that the decoders make of a state, by branch, on [0, 1], (B, T, H, W), in the order of time.

        state: as `encode` returns it, of the same names, (B, units), and perhaps changed; `flat` is left out, or alone.
        last: (B, H, W), the last frame seen, which `predict` gives to decoders that read frames; None: black. Errors:
        see `HasModel`. Only built-in models have a state that can be decoded.
        """
        model, p = self._loaded(device)
        given: list[Any] = [*state.values(), *([] if last is None else [last])]
        of_torch = bool(given) and all(isinstance(array, Tensor) for array in given)
        if not of_torch and not all(isinstance(array, np.ndarray) for array in given):
            kinds = ", ".join(sorted({type(array).__name__ for array in given}))
            raise ValueError(f"state and last must all be numpy arrays, or torch tensors; not {kinds}")
        tensors = {name: _tensor(array).float() for name, array in state.items()}
        made: Any = {branch: of.numpy() for branch, of in _decoded(model, p, tensors, last).items()}
        if of_torch:
            made = {branch: torch.from_numpy(of).to(given[0].device) for branch, of in made.items()}
        return made

    def _loaded(self, device: str, *, frames_out: int | None = None) -> _Loaded:
        file, on = self.model_file(), make_accelerator(device=device).device
        mixed_precision(on, "none")  # a GPU's convolutions would take tf32 unasked
        kept, key = _kept.setdefault(self, {}), (str(on), file.stat().st_mtime_ns, self.trusted)
        if (*key, None) not in kept:
            kept[*key, None] = load_model(file, str(on), trust_code=self.trusted, code=self.code)
        if (*key, frames_out) not in kept:
            model, p = kept[*key, None]
            code = self.own_code() if ":" in p.architecture else None
            kept[*key, frames_out] = with_horizon(model, p, frames_out or p.frames_out, code=code), p
        return kept[*key, frames_out]


# By device, age of the file, trust, which equal runs need not share, and horizon. Not in the run itself, because runs
# are sent to other processes.
_kept: WeakKeyDictionary[HasModel, dict[tuple[str, int, bool, int | None], _Loaded]] = WeakKeyDictionary()


def with_horizon(model: nn.Module, p: Parameters, frames_out: int, *, code: OwnCode | None = None) -> nn.Module:
    """A model of p, with the same weights (not a copy of them), that predicts `frames_out` frames.

    code: of an architecture of your own. Raises ValueError where an architecture has weights for a number of frames.
    """
    other = build_model(p.model_copy(update={"frames_out": frames_out}), code)
    try:
        other.load_state_dict(model.state_dict(), assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"the weights of architecture {p.architecture} fit frames_out {p.frames_out}, as trained, and not "
            f"{frames_out}: ask for {p.frames_out} steps, or train it with frames_out {frames_out}"
        ) from error
    return other.to(next(model.parameters()).device)


def check_frames(frames: Any, p: Parameters) -> None:
    """Raise ValueError unless the model of a run with these parameters can see these frames; see `HasModel`."""
    if not isinstance(frames, np.ndarray | Tensor):
        raise ValueError(f"frames must be a numpy array or a torch tensor; not {type(frames).__name__}")
    shape, (height, width) = tuple(frames.shape), p.frame_shape
    wanted = f"(sequences, {p.frames_in}, {height}, {width}), or ({p.frames_in}, {height}, {width}) for one sequence"
    if len(shape) not in (3, 4) or 0 in shape:
        raise ValueError(f"frames have shape {shape}; this run's model reads grey frames {wanted}")
    if shape[-2:] != (height, width):
        raise ValueError(
            f"frames have {shape[-2]}×{shape[-1]} pixels, and this run's model reads {height}×{width}: resize them"
        )
    if shape[-3] != p.frames_in:
        what = "give as many" if shape[-3] < p.frames_in else "choose some of them, such as frames[..., -{}:, :, :]"
        raise ValueError(
            f"frames have {shape[-3]} frames a sequence, and this run's model reads {p.frames_in} (frames_in): "
            + what.format(p.frames_in)
        )
    kind = str(frames.dtype).removeprefix("torch.")
    floating = frames.is_floating_point() if isinstance(frames, Tensor) else frames.dtype.kind == "f"
    if kind != "uint8" and not floating:
        raise ValueError(f"frames are {kind}: give uint8, 0–255, or floating point in [0, 1]")
    values = frames.detach() if isinstance(frames, Tensor) else frames
    least, most = float(values.min()), float(values.max())
    if floating and not (least >= 0 and most <= 1):  # nor NaN
        raise ValueError(
            f"frames go from {least:g} to {most:g}: floating point must lie in [0, 1], so scale or clip them, or "
            "give uint8, 0–255"
        )
    if not floating and most == 1:
        raise ValueError(
            "frames are uint8 of 0 and 1 alone, nearly black: multiply them by 255, or give floating point"
        )


def _check_branch(p: Parameters, branch: Branch) -> None:
    if branch not in BRANCHES[p.task]:
        others = " or ".join(task for task, of in BRANCHES.items() if branch in of)
        raise ValueError(f"task {p.task} of this run has no branch {branch}: choose a run with task {others}")


def _in_batches(work: Callable[[Tensor], Mapping[str, Tensor]], frames: Array, p: Parameters) -> dict[str, Array]:
    # What `work` makes of all frames. Batches are as large as the run's own, so that outputs are bit for bit those that
    # its figures were measured on.
    sequences, parts = frames[None] if frames.ndim == 3 else frames, list[Mapping[str, Tensor]]()
    for begin in range(0, len(sequences), p.batch_size):
        batch = _tensor(sequences[begin : begin + p.batch_size])
        with torch.inference_mode():
            parts.append({name: made.cpu() for name, made in work(batch).items()})
    # Joined out here, they are ordinary tensors, which may take part in a training.
    made = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if frames.ndim == 3:
        made = {name: tensor[0] for name, tensor in made.items()}
    if isinstance(frames, Tensor):
        return {name: tensor.to(frames.device) for name, tensor in made.items()}
    return {name: tensor.numpy() for name, tensor in made.items()}


def _tensor(batch: np.ndarray | Tensor) -> Tensor:
    if isinstance(batch, Tensor):
        return batch.detach()
    # A copy: torch takes no negative strides and no foreign byte order, and warns of arrays that are read-only.
    return torch.from_numpy(np.array(batch, np.uint8 if batch.dtype == np.uint8 else np.float32))


def _outputs_in_time_order(model: nn.Module, p: Parameters, batch: Tensor) -> dict[str, Tensor]:
    # The frames of each branch in the order of time.
    return _in_time_order(predict(model, batch, activation=p.activation, pixel_range=p.pixel_range), p)


def _in_time_order(outputs: dict[str, Tensor], p: Parameters) -> dict[str, Tensor]:
    reverse = p.task != "recon_ordered"
    return {branch: made.flip(1) if branch == "recon" and reverse else made for branch, made in outputs.items()}


def _layer_states(model: SequenceAutoencoder, state: Mapping[str, Tensor]) -> list[Any]:
    # The state of each layer of the encoder, from tensors by name. Raises ValueError where they are others.
    widths = [width for width in model.encoder.hidden_sizes for _ in "hc"]
    names = [f"{name}{n}" for n in range(1, len(widths) // 2 + 1) for name in "hc"]
    if [*state] == ["flat"] and state["flat"].ndim == 2 and state["flat"].shape[1] == sum(widths):
        state = dict(zip(names, state["flat"].split(widths, dim=1), strict=True))
    given = {name: tuple(tensor.shape) for name, tensor in state.items() if name != "flat" or [*state] == ["flat"]}
    first = next(iter(given.values()), ())
    if given != {name: (*first[:1], width) for name, width in zip(names, widths, strict=True)} or first[:1] == (0,):
        wanted = ", ".join(f"{name} (B, {width})" for name, width in zip(names, widths, strict=True))
        raise ValueError(f"state has {given or 'nothing'}; this run's model has {wanted}, or flat (B, {sum(widths)})")
    return [LSTMState(state[h], state[c]) for h, c in zip(names[::2], names[1::2], strict=True)]


def _decoded(model: nn.Module, p: Parameters, state: Mapping[str, Tensor], last: Any) -> dict[str, Tensor]:
    # As the model's forward, from the states on: frames of each branch in the order of time, on the CPU.
    if not isinstance(model, SequenceAutoencoder):
        raise ValueError(f"architecture {p.architecture} is your own: decode knows the states of built-in ones")
    states, on = _layer_states(model, state), next(model.parameters()).device
    wanted = (len(states[0].h), *p.frame_shape)
    before = torch.zeros(wanted) if last is None else _tensor(last)
    if before.shape != wanted:
        raise ValueError(f"last has shape {tuple(before.shape)}; it is the last frame of each sequence, {wanted}")
    model.eval()
    with torch.inference_mode():
        on_device = [LSTMState(h.to(on), c.to(on)) for h, c in states]
        outputs = model.decode(on_device, seen_frames(before.to(on), p.pixel_range).flatten(1), {})
    made = {b: output_frames(z, p.activation, p.pixel_range).clip(0, 1).cpu() for b, z in outputs.items()}
    return _in_time_order(made, p)


def _named(encoded: Any, batch: Tensor, p: Parameters) -> dict[str, Tensor]:
    # What a model's encode(frames) returned of a batch, by name.
    named: Any = {"flat": encoded} if isinstance(encoded, Tensor) else encoded
    returned: Any = type(encoded).__name__
    if isinstance(named, Mapping) and named and all(isinstance(tensor, Tensor) for tensor in named.values()):
        returned = {name: tuple(tensor.shape) for name, tensor in named.items()}
    if isinstance(returned, str) or any(len(shape) != 2 or shape[0] != len(batch) for shape in returned.values()):
        raise ValueError(
            f"encode(frames) of architecture {p.architecture} must return a tensor (B, units), or such tensors by "
            f"name; for {len(batch)} sequences it returned {returned}"
        )
    named = {name: tensor.float() for name, tensor in named.items()}
    return named if "flat" in named else named | {"flat": torch.cat([*named.values()], dim=1)}
