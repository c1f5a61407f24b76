"""What a run is called, and where runs are kept."""

import re
from pathlib import Path
from typing import Any

from seqae.parameters import EXECUTION, LOSS_FIELDS, Parameters

WORDS = {  # how a parameter that differs stands in a run's name; others by their own name
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
BARE = {"architecture", "optimizer", "digits", "optimizer_arguments", "schedule_arguments"}  # their values say enough


def differing(parameters: Parameters, usual: Parameters) -> dict[str, Any]:
    """Parameters that differ from the family's defaults, for people to read."""
    mine, theirs = parameters.model_dump(mode="json"), usual.model_dump(mode="json")
    return {key: value for key, value in mine.items() if key not in EXECUTION and value != theirs[key]}


def run_name(parameters: Parameters, defaults: Parameters) -> str:
    """Loss, task and decoder input, then what else differs from the family's defaults, in words:
    0sm-pred-zero, 0nm-recon-output-rmsprop-lr0.0001-clip0.25.
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
    """What a run WORDS-HASH is called in a folder of runs that has it already: its words follow what a family's
    defaults were then, the same hash is the same run. Those made anew beside it, WORDS-HASH-2, are their own.
    """
    digits = name.rpartition("-")[2]
    if len(digits) < 8 or (runs / name / "run.yaml").exists():
        return name
    return min((file.parent.name for file in runs.glob(f"*-{digits}/run.yaml")), default=name)
