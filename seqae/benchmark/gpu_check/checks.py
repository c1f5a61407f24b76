"""What a section of the check says: a line for each check, with the figures behind it."""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from seqae.parameters import Parameters
from seqae.runs import family_defaults, resolve
from seqae.stores import load_yaml, project_root

PASS, FAIL, SKIP = "PASS", "FAIL", "SKIP"


@dataclass
class Checks:
    """Where a section says what it found.

    device: cpu or cuda. tiny: whether sizes are those that a CPU computes in seconds; no speed is judged then. seconds:
    the time that the section has. say: takes what each check found, a dict that JSON can hold.
    """

    device: str
    tiny: bool
    seconds: float
    say: Callable[[dict[str, Any]], None]
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that the section still has."""
        return self.began + self.seconds - time.monotonic()

    def told(self, name: str, right: bool, text: str, **figures: Any) -> None:
        """A check that passed, if right, or failed. text: its figure, in words. figures: for the JSON."""
        self._say(name, PASS if right else FAIL, text, figures)

    def skipped(self, name: str, why: str) -> None:
        """A check that was not made."""
        self._say(name, SKIP, why, {})

    @contextmanager
    def failing(self, name: str) -> Iterator[None]:
        """An error in the block is a failed check of this name, and goes no further."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()  # to the section's log
            self.told(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _say(self, name: str, outcome: str, text: str, figures: Mapping[str, Any]) -> None:
        self.say({"check": name, "outcome": outcome, "text": text, "figures": dict(figures)})


def written_line(said: Mapping[str, Any]) -> str:
    """What a check found, as one line of a terminal."""
    return f"{said['outcome']} {said['check']}: {said['text']}"


def as_json(said: Mapping[str, Any]) -> str:
    """One line of JSON; a number that JSON has no word for becomes text."""
    return json.dumps(said, default=str)


def project_parameters(family: str, file: str, scale: str, **given: Any) -> Parameters:
    """What `seqae run params/FAMILY/FILE.yaml --scale SCALE` trains, with `given` on top."""
    params = project_root() / "params"
    layers = [params / "scale" / f"{scale}.yaml", params / family / "scale" / f"{scale}.yaml"]
    layers = [layer for layer in layers if layer.exists()] + [params / family / f"{file}.yaml"]
    defaults = family_defaults(project_root() / "notebooks" / f"{family}.ipynb")
    return resolve(defaults, *(load_yaml(layer.read_text(encoding="utf-8")) for layer in layers), given)
