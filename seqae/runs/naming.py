"""What a run is called: words for the parameters that differ from the family's defaults."""

import re
from collections.abc import Collection
from glob import escape
from os import scandir
from pathlib import Path
from typing import Any, NamedTuple

from seqae.parameters import EXECUTION, LOSS_FIELDS, Parameters
from seqae.runs.identity import own_sizes, run_hash, unused
from seqae.runs.records import RunError, read_record
from seqae.stores import CHECKPOINT

WORDS = {  # how a run's name spells a parameter; others are spelled by their own name, without underscores
    "learning_rate": "lr",
    "clip_norm": "clip",
    "batch_size": "batch",
    "frame_size": "px",
    "digits_per_sequence": "digits",
    "digit_speed": "speed",
    "clips_digest": "clips",
    "train_sequences": "train",
    "val_sequences": "val",
    "test_sequences": "test",
    "epochs": "ep",
    "recon_weight": "reconweight",
    "weight_decay": "decay",
    "schedule_every": "every",
    "schedule_per": "per",
    "schedule_gamma": "gamma",
    "horizon_until": "horizon",
}
BARE = {
    "architecture",
    "architecture_arguments",
    "optimizer",
    "digits",
    "optimizer_arguments",
    "schedule_arguments",
}  # named by value alone


def differing(parameters: Parameters, usual: Parameters, family: str) -> dict[str, Any]:
    """The parameters whose values differ from the family's defaults `usual`, with these values, as JSON has them.

    Parameters that only say how to execute a run, and those that it does not use, are left out.
    """
    mine, theirs = parameters.model_dump(mode="json"), usual.model_dump(mode="json")
    mine |= {n: size for n, size in own_sizes(parameters).items() if mine[n] is None and theirs[n] is not None}
    same = EXECUTION | unused(parameters, family).keys() | ({"decoder_input"} - {*way(parameters)})
    return {key: value for key, value in mine.items() if key not in same and value != theirs[key]}


def run_name(parameters: Parameters, defaults: Parameters, family: str) -> str:
    """The name of a run's folder: `name_words` and the hash of the parameters that define the run."""
    return f"{name_words(parameters, defaults, family)}-{run_hash(parameters)}"


def name_words(parameters: Parameters, defaults: Parameters, family: str) -> str:
    """Loss, task and decoder input, then a word for each other parameter that differs from the family's defaults.

    For example 0sm-pred-zero or 0nm-recon-output-rmsprop-lr0.0001-clip0.25; at most 150 characters.
    """
    words = [parameters.loss, *way(parameters).values()]
    for key, value in differing(parameters, defaults, family).items():
        if key in (*LOSS_FIELDS, "task", "decoder_input", "code"):  # code: a hash, as the name has one
            continue
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, list):
            text = "x".join(map(str, value))
        if isinstance(value, dict):
            text = "".join(f"{k}{v}" for k, v in value.items())
        words.append(text if key in BARE else WORDS.get(key, key.replace("_", "")) + text)
    return re.sub(r"[^\w.+=-]+", "_", "-".join(filter(None, words)).lower())[:150].rstrip("_")


def way(parameters: Parameters) -> dict[str, str]:
    """Task and decoder input, by parameter. A model of one's own reads what it likes: the library's default, which it
    may not even be told, is not said of it.
    """
    said: dict[str, str] = {"task": parameters.task, "decoder_input": parameters.decoder_input}
    own = ":" in parameters.architecture and said["decoder_input"] == Parameters.model_fields["decoder_input"].default
    return {"task": parameters.task} if own else said


def existing_name(name: str, runs: Path, *, older: Collection[str] = ()) -> str:
    """The name of the run in `runs`, a family's folder, that has the hash of `name`, WORDS-HASH; `name` if none has.

    An existing folder with this hash is the same run, even if its words differ because the family's defaults were
    others then. Runs trained anew beside it, WORDS-HASH-2 and so on, are runs of their own.

    older: the hashes that versions until November 2026 gave the run. A folder with one of them is the same run if it is
    finished, or can go on from a checkpoint. Of several folders, the one that was finished last is meant.
    """
    own, before = _with_hash(name, name.rpartition("-")[2], runs), _with_hashes(older, runs)
    if not before:
        return own or name
    states = {folder: _state(runs / folder) for folder in (own, *before) if folder}
    for folder in before:
        resumable = (runs / folder / CHECKPOINT).exists()  # an interrupted one says `running`
        if states[folder].status not in ("done", "running") and not (states[folder].status == "failed" and resumable):
            states.pop(folder)
    return max(states, key=lambda folder: (states[folder].status == "done", states[folder].when), default=name)


class _State(NamedTuple):
    status: str
    when: str  # it ended, or else began, in ISO 8601


def _state(folder: Path) -> _State:
    try:
        record = read_record(folder)
    except RunError:  # damaged
        record = {}
    return _State(str(record.get("status")), str(record.get("ended") or record.get("started") or ""))


def _with_hashes(hashes: Collection[str], runs: Path) -> list[str]:
    names = sorted(entry.name for entry in scandir(runs)) if hashes and runs.is_dir() else []
    return [name for name in names if name.rpartition("-")[2] in hashes and (runs / name / "run.yaml").exists()]


def _with_hash(name: str, digits: str, runs: Path) -> str | None:
    # The folder of this name, or else with this hash.
    if len(digits) < 8 or (name and (runs / name / "run.yaml").exists()):
        return name or None
    return min((file.parent.name for file in runs.glob(f"*-{escape(digits)}/run.yaml")), default=None)
