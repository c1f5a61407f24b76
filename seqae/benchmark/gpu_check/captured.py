"""An update whose gradients are captured as a CUDA graph, and whether they are those of an eager one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from seqae.capture import WARM_UP, CapturedGradients, can_capture
from seqae.updates import gradients, update


class CapturedUpdate(NamedTuple):
    """update: one that replays the graph. off: how far its gradients were from eager ones, ‖found − right‖ / ‖right‖,
    on a batch that is not the one it was captured with.
    """

    update: Callable[[], Any]
    off: float


def captured_update(inputs: Mapping[str, Any]) -> CapturedUpdate | None:
    """Capture the update of `timing.Prepared`, or None where nothing is captured: on a CPU, or for such a run.
    Raises RuntimeError where the capture failed.
    """
    given = dict(inputs)
    model, stateful, frames = (given.pop(name) for name in ("model", "stateful", "frames"))
    if not can_capture(stateful, given["objective"], given["accelerator"]):
        return None
    differentiate = CapturedGradients(len(frames))
    how = {"optimizer": stateful.optimizer, "scaler": stateful.scaler}
    how |= {name: given[name] for name in ("objective", "autocast", "factor")}
    for _ in range(WARM_UP + 1):
        differentiate(model, frames, **how)
    if differentiate.replay is None:
        raise RuntimeError("the gradients were not captured: each update is eager")
    other = frames.flip(0).flip(-1)
    differentiate(model, other, **how)
    found = _copied_gradients(model)
    gradients(model, other, **how)
    right = _copied_gradients(model)
    least = max(float(gradient.norm()) for gradient in right.values()) / 100
    off = max(float((found[n] - g).norm()) / max(float(g.norm()), least) for n, g in right.items())

    def replayed() -> None:
        update(model, stateful, frames, differentiate=differentiate, **given)

    return CapturedUpdate(replayed, off)


def _copied_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
