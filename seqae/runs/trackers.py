"""Sends metrics to an experiment tracker as well, with Accelerate's class for that tracker."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

TRACKER_PACKAGES = {"tensorboard": ["tensorboard", "tensorboardX"]}  # others: one package, named as the tracker
RUN_NAMES = {"mlflow": "run_name", "wandb": "name", "trackio": "name"}  # each tracker's argument for the run's name


def check_tracker(tracker: str) -> None:
    """Raise ValueError if the tracker's package is not installed, or lacks what it would write to."""
    if tracker != "none" and not any(find_spec(name) for name in TRACKER_PACKAGES.get(tracker, [tracker])):
        raise ValueError(f"tracker {tracker} is not installed: pip install {tracker}, or use tracker: none")
    if tracker == "mlflow" and not find_spec("sqlalchemy"):  # mlflow-skinny, whose default is a database all the same
        import mlflow

        if mlflow.get_tracking_uri().startswith("sqlite:"):
            remedy = "pip install mlflow, or set MLFLOW_TRACKING_URI to the address of a server"
            raise ValueError(f"tracker mlflow would write to a database, which mlflow-skinny cannot: {remedy}")


@contextmanager
def tracking(tracker: str, folder: Path) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """Open a tracker and yield its log(values, step), where values are numbers by name. For `none` log does nothing.

    folder: the folder tracker/ in a run's folder; the tracker's run has the name of the latter. The tracker is closed
    at the end, also after an error. Raises ValueError if its package is not installed.
    """
    check_tracker(tracker)
    if tracker == "none":
        yield lambda values, step: None
        return
    if tracker == "mlflow":  # an interrupted training may have left a run open in this kernel
        import mlflow

        mlflow.end_run()
    given: dict[str, Any] = {RUN_NAMES[tracker]: folder.parent.name} if tracker in RUN_NAMES else {}
    if tracker == "wandb":  # its default is the working directory, here notebooks/
        folder.mkdir(parents=True, exist_ok=True)
        given["dir"] = str(folder)
    kind = LOGGER_TYPE_TO_CLASS[tracker]
    opened = kind("seqae", str(folder), **given) if kind.requires_logging_directory else kind("seqae", **given)
    opened.start()
    try:
        yield lambda values, step: opened.log(dict(values), step=step)
    finally:
        opened.finish()
