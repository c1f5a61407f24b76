"""Metrics mirrored to an experiment tracker, by Accelerate's own classes for each of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

PACKAGES = {"tensorboard": ["tensorboard", "tensorboardX"]}  # where a tracker's package has more than one name
RUN_NAMES = {"mlflow": "run_name", "wandb": "name", "trackio": "name"}  # what each tracker calls a run's name


def check_tracker(tracker: str) -> None:
    """Raise ValueError where the tracker's package is missing."""
    if tracker != "none" and not any(find_spec(name) for name in PACKAGES.get(tracker, [tracker])):
        raise ValueError(f"tracker {tracker} is not installed: pip install {tracker}, or use tracker: none")


@contextmanager
def tracking(tracker: str, folder: Path) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """Open a tracker for the run of `folder` and yield log(values, step); for `none`, log does nothing.

    folder: `tracker/` of a run's folder, whose name is the run's. The tracker is closed at the end, whatever happens.
    Raises ValueError where its package is missing.
    """
    check_tracker(tracker)
    if tracker == "none":
        yield lambda values, step: None
        return
    if tracker == "mlflow":  # an interrupted training in this notebook may have left a run open
        import mlflow

        mlflow.end_run()
    given: dict[str, Any] = {RUN_NAMES[tracker]: folder.parent.name} if tracker in RUN_NAMES else {}
    if tracker == "wandb":  # its default is the working directory, which is the notebooks' folder
        folder.mkdir(parents=True, exist_ok=True)
        given["dir"] = str(folder)
    kind = LOGGER_TYPE_TO_CLASS[tracker]
    opened = kind("seqae", str(folder), **given) if kind.requires_logging_directory else kind("seqae", **given)
    opened.start()
    try:
        yield lambda values, step: opened.log(dict(values), step=step)
    finally:
        opened.finish()
