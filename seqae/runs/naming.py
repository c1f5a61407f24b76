"""What a run is called: words for the parameters that differ from the family's defaults."""

import re
from pathlib import Path
from typing import Any

from seqae.parameters import EXECUTION, LOSS_FIELDS, Parameters

WORDS = {  # how a run's name spells a parameter; others are spelled by their own name, without underscores
    "learning_rate": "lr",
    "clip_norm": "clip",
    "batch_size": "batch",
    "frame_size": "px",
    "train_sequences": "train",
    "val_sequences": "val",
    "test_sequences": "test",
    "epochs": "ep",
    "recon_weight": "reconweight",
    "weight_decay": "decay",
    "schedule_every": "every",
    "schedule_per": "per",
    "schedule_gamma": "gamma",
}
BARE = {"architecture", "optimizer", "digits", "optimizer_arguments", "schedule_arguments"}  # named by value alone


def differing(parameters: Parameters, usual: Parameters) -> dict[str, Any]:
    """The parameters whose values differ from the family's defaults `usual`, with these values, as JSON has them.

    Parameters that only say how to execute a run are left out.
    """
    mine, theirs = parameters.model_dump(mode="json"), usual.model_dump(mode="json")
    return {key: value for key, value in mine.items() if key not in EXECUTION and value != theirs[key]}


def run_name(parameters: Parameters, defaults: Parameters) -> str:
    """The name of a run's folder: `name_words` and the hash of the parameters that define the run."""
    return f"{name_words(parameters, defaults)}-{parameters.short_hash()}"


def name_words(parameters: Parameters, defaults: Parameters) -> str:
    """Loss, task and decoder input, then a word for each other parameter that differs from the family's defaults.

    For example 0sm-pred-zero or 0nm-recon-output-rmsprop-lr0.0001-clip0.25; at most 150 characters.
    """
    words = [parameters.loss, parameters.task, parameters.decoder_input]
    for key, value in differing(parameters, defaults).items():
        if key in (*LOSS_FIELDS, "task", "decoder_input"):
            continue
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, dict):
            text = "".join(f"{k}{v}" for k, v in value.items())
        words.append(text if key in BARE else WORDS.get(key, key.replace("_", "")) + text)
    return re.sub(r"[^\w.+=-]+", "_", "-".join(words).lower())[:150].rstrip("_")


def known_as(name: str, runs: Path) -> str:
    """The name of the run in `runs`, a family's folder, that has the hash of `name`, WORDS-HASH; `name` if none has.

    An existing folder with this hash is the same run, even if its words differ because the family's defaults were
    others then. Runs trained anew beside it, WORDS-HASH-2 and so on, are runs of their own.
    """
    digits = name.rpartition("-")[2]
    if len(digits) < 8 or (runs / name / "run.yaml").exists():
        return name
    return min((file.parent.name for file in runs.glob(f"*-{digits}/run.yaml")), default=name)
