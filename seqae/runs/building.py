"""Models of a run's parameters: built-in ones, and those of your own; with their first weights, or trained ones."""

import difflib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from seqae.architectures import ARCHITECTURES
from seqae.device import make_accelerator
from seqae.models import SequenceAutoencoder
from seqae.parameters import ParameterError, Parameters
from seqae.runs import own_models
from seqae.runs.first_weights import initialise
from seqae.runs.merging import resolve
from seqae.runs.own_code import OwnCode, OwnCodeError, code_for, recorded_code, told
from seqae.runs.records import RunError


def meta_model(p: Parameters) -> SequenceAutoencoder:
    """A built-in model on the meta device, which costs no memory. Raises ValueError where parameters do not fit."""
    _check_architecture(p.architecture)
    try:
        with torch.device("meta"):
            model = _built_in(p)
            initialise(model, readout_bias=p.readout_bias, peephole_range=p.peephole_range)
    except (RuntimeError, OverflowError, TypeError) as error:  # TypeError: a number of more than 64 bits
        if isinstance(error, TypeError) and "verflow" not in str(error):
            raise
        told = str(error).partition("\n")[0]
        raise ValueError(f"a model of this size cannot be built ({told}): lower width, hidden or layers") from None
    return model


def sized_model(p: Parameters) -> nn.Module:
    """A model to be counted: on the meta device, but for one of your own that can only be built for real."""
    if ":" not in p.architecture:
        return meta_model(p)
    try:
        with torch.device("meta"):
            return build_model(p)
    except OwnCodeError:
        return build_model(p)


def build_model(p: Parameters, code: OwnCode | None = None) -> nn.Module:
    """A new model of these parameters; raises ValueError where architecture and sizes do not fit.

    code: where an architecture of your own is; by default in this project.
    """
    if ":" not in p.architecture:
        return _built_in(p)
    code = code or code_for(p)
    assert code is not None
    return own_models.build_own(p, code, frame_shape=p.frame_shape)


def new_model(p: Parameters, code: OwnCode | None = None, *, device: torch.device | None = None) -> nn.Module:
    """A model on the CPU with the weights that training begins with, a function of the parameters and the code alone.

    device: that training is on. CUDA makes orthogonal matrices fast, the same to rounding.
    """
    torch.manual_seed(p.seed)
    if ":" in p.architecture:
        return build_model(p, code)
    model = _built_in(p)
    initialise(
        model,
        init=p.init,
        init_range=p.init_range,
        bias_init=p.bias_init,
        forget_bias=p.forget_bias,
        readout_bias=p.readout_bias,
        peephole_range=p.peephole_range,
        device=device if device and device.type == "cuda" else "cpu",
    )
    return model


def load_model(
    file: str | Path, device: str = "cpu", *, trust_code: bool = False, code: OwnCode | None = None
) -> tuple[nn.Module, Parameters]:
    """A trained model and its parameters from a model.safetensors; runs no code from it. device: as the parameter.

    An architecture of your own is built of the project's files if they have the recorded hash, or else, if trust_code,
    of the copy beside `file`; or of `code`. Raises OwnCodeError, a ValueError, where neither can be, RunError if the
    file, which it names, is damaged or has only weights, and ValueError for a device that is not there.
    """
    if device != "cpu":
        device = str(make_accelerator(device=device).device)
    try:
        with safe_open(str(file), "pt", device=device) as stored:
            if "parameters" not in (metadata := stored.metadata() or {}):
                built = "or build the model and call model.load_state_dict(safetensors.torch.load_file(file))"
                raise RunError(f"{file} has no parameters of a run in its metadata: copy it again if it had, {built}")
            parameters = resolve(json.loads(metadata["parameters"]))
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
        raise RunError(f"{file} is damaged ({error}): copy it again, or train the run anew") from None
    if ":" in parameters.architecture:
        code = code or recorded_code(parameters, Path(file).resolve().parent, trust=trust_code)
    model = build_model(parameters, code)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        if code is None or ":" not in parameters.architecture:
            why = " ".join(str(error).split())[:200]
            raise RunError(f"{file} does not hold the weights that its parameters describe: {why}") from None
        raise OwnCodeError(f"{parameters.architecture} has other weights than {file}: {told(error)}") from error
    return model.to(device), parameters


def reach_of(p: Parameters, code: OwnCode | None = None) -> float:
    """The largest |pre-activation| that any weights can give, often infinite. A model of your own is built for it."""
    if ":" not in p.architecture:
        return ARCHITECTURES[p.architecture].reach(p.gain)
    return own_models.stated_reach(build_model(p, code), p)


def _check_architecture(name: str) -> None:
    if name in ARCHITECTURES:
        return
    module, dot, kind = name.rpartition(".")
    near = [f"{module}:{kind}"] if dot else difflib.get_close_matches(name, ARCHITECTURES, n=1)
    raise ParameterError(
        f"architecture must be one of {', '.join(ARCHITECTURES)}, or module:name of your own; not {name!r}"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def _built_in(p: Parameters) -> SequenceAutoencoder:
    return SequenceAutoencoder(
        architecture=p.architecture,
        task=p.task,
        decoder_input=p.decoder_input,
        activation=p.activation,
        frame_size=p.frame_shape,
        frames_in=p.frames_in,
        frames_out=p.frames_out,
        gain=p.gain,
        width=p.width,
        hidden=p.hidden,
        layers=p.layers,
        peepholes=p.peepholes,
        recon_truth=p.recon_truth,
    )
