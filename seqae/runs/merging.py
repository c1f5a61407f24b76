"""Layers of parameters merged into one `Parameters`: a notebook's cell, a scale file, a run file, the command line."""

import difflib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, get_args

from pydantic import ValidationError

from seqae.losses import LOSSES
from seqae.parameters import LOSS_FIELDS, ParameterError, Parameters, Paths

_NUMBER = re.compile(r"\s*[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)
_ONE_VALUE = ("float_type", "int_type", "string_type", "bool_type", "literal_error")  # what pydantic says of a list


def merge(*layers: Mapping[str, Any], below: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """The values of all layers; later layers win, key by key. Nested mappings are replaced, as papermill does. A layer
    that names another architecture does not inherit `architecture_arguments`, which are of the one before.

    below: what these layers will be merged over. It is not part of the result.

    `loss` stays as it is written if no layer gives one of `LOSS_FIELDS`. Otherwise every `loss` is replaced by its
    fields, so that a later layer can change one of them. Raises `ParameterError` as `loss_as_fields`.
    """
    separate = any(not layer.keys().isdisjoint(LOSS_FIELDS) for layer in layers)
    merged: dict[str, Any] = {}
    for layer in layers:
        layer = _with_own_arguments(layer, {**below, **merged})
        merged |= loss_as_fields(layer) if separate else {str(key): value for key, value in layer.items()}
    return merged


def _with_own_arguments(layer: Mapping[str, Any], below: Mapping[str, Any]) -> Mapping[str, Any]:
    if layer.get("architecture") in (None, below.get("architecture")) or "architecture_arguments" in layer:
        return layer
    inherits = below.get("architecture") and below.get("architecture_arguments")
    return {**layer, "architecture_arguments": {}} if inherits else layer


def loss_as_fields(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The layer with `loss` replaced by pixel_range, activation and training_loss.

    Raises `ParameterError` if the loss is unknown or contradicts one of these fields in the same layer.
    """
    values = {str(key): value for key, value in layer.items()}
    if "loss" in values:
        name = values.pop("loss")
        if name not in [*LOSSES]:
            each = f"; -p loss={','.join(map(str, name))} makes a run of each" if isinstance(name, list) else ""
            raise ParameterError(f"loss must be one of {', '.join(LOSSES)}; not {name!r}{each}")
        for field, value in zip(LOSS_FIELDS, LOSSES[name], strict=True):
            if values.setdefault(field, value) not in (value, list(value)):
                raise ParameterError(
                    f"loss {name} means {field} {value}, but "
                    f"{field} {values[field]} is given beside it: give one of them"
                )
    return values


def resolve(*layers: Mapping[str, Any]) -> Parameters:
    """Merge the layers, in the order cell, scale, run file, command line, and validate the result.

    Raises `ParameterError`, which lists all faults.
    """
    faults: list[str] = []
    values: dict[str, Any] = {}
    for layer in layers:
        layer = _with_own_arguments(layer, values)
        try:
            values |= loss_as_fields(layer)
        except ParameterError as error:
            faults.append(str(error))
            values |= {str(key): value for key, value in layer.items() if key not in ("loss", *LOSS_FIELDS)}
    values = _typed(values)
    try:
        parameters = Parameters.model_validate(values)
    except ValidationError as error:
        faults += _faults(error, str(values.get("architecture")))
        # pydantic checks combinations only if all values are valid, so check them again without the invalid ones.
        wrong = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
        if wrong and not wrong & {*LOSS_FIELDS}:
            try:
                Parameters.model_validate({key: value for key, value in values.items() if key not in wrong})
            except ValidationError as unsound:
                faults += _faults(unsound, str(values.get("architecture")))
    if faults:
        raise ParameterError("\n".join(faults))
    return parameters


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Texts as the numbers and nulls that the fields' types allow, `none` for null."""
    given = {}
    for name, value in values.items():
        annotation = Parameters.__annotations__.get(name)
        null = value == "none" and type(None) in get_args(annotation)
        as_given = null or annotation in (str, str | None, Paths)
        allow_bool = annotation in (bool, bool | None, dict[str, Any])
        given[name] = (None if null else value) if as_given else _as_number(value, allow_bool=allow_bool)
    return given


def _as_number(value: Any, *, allow_bool: bool = True, pattern: re.Pattern[str] = re.compile(r"(?s).*")) -> Any:
    # Texts become numbers, because PyYAML reads 1e-3 as text (YAML 1.1 requires 1.0e-3). 1.0 becomes 1, so that both
    # have one hash. allow_bool: keep True and False; otherwise they become text, because pydantic would read True
    # (YAML's yes, on) as 1. pattern: the texts that are tried as numbers. A dict of arguments has no types here, so
    # only plain numerals are converted in it, and '010', 'inf' and 'nan' stay text.
    match value:
        case str() if pattern.fullmatch(value):
            try:
                return _as_number(float(value))
            except ValueError:
                return value
        case bool():
            return value if allow_bool else str(value)
        case float():
            return int(value) if value.is_integer() else value
        case dict():
            return {key: _as_number(item, pattern=_NUMBER) for key, item in value.items()}
        case list() | tuple():
            return [_as_number(item, allow_bool=allow_bool, pattern=pattern) for item in value]
    return value


def _faults(error: ValidationError, architecture: str) -> Iterable[str]:
    known = [*Parameters.model_fields, "loss"]
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            # lr, bs and wd are the initials of learning_rate, batch_size and weight_decay
            initials = [other for other in known if "".join(word[0] for word in other.split("_")) == name.lower()]
            near = difflib.get_close_matches(name, known, n=1) or initials * (len(initials) == 1)
            told = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            if ":" in architecture:
                argument = f"{{{name}: {fault['input']}}}"
                told = told if near else "; help(seqae.Parameters) lists all"
                told += f"; an argument of {architecture} goes to architecture_arguments={argument}"
            yield f"unknown parameter {name!r}{told}"
        elif name == "metrics" and isinstance(fault["input"], str):
            yield f"metrics: give a list: [{fault['input']}]"
        elif fault["type"] == "value_error":
            yield fault["msg"].removeprefix("Value error, ")
        else:
            meaning = Parameters.model_fields[str(fault["loc"][0])].description
            if isinstance(values := fault["input"], list) and fault["type"] in _ONE_VALUE:
                meaning = f"{meaning}; -p {name}={','.join(map(str, values))} makes a run of each"
            yield f"{name}: {fault['msg'][0].lower()}{fault['msg'][1:]}; not {fault['input']!r} ({meaning})"
