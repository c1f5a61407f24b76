"""Modules of one's own, as texts, that tests write into a project."""

from pathlib import Path

MODELS = '''
"""A GRU that forecasts, and what it needs of another file."""
import torch
from torch import nn
from own_layers import Readout

SIZE = 8

class Forecaster(nn.Module):
    def __init__(self, frame_shape, frames_in, frames_out, task, hidden=SIZE, dropout=0.2):
        super().__init__()
        self.shape, pixels = tuple(frame_shape), frame_shape[0] * frame_shape[1]
        self.gru, self.dropout = nn.GRU(pixels, hidden, batch_first=True), nn.Dropout(dropout)
        steps = {"recon": {"recon": frames_in}, "pred": {"pred": frames_out},
                 "both": {"recon": frames_in, "pred": frames_out}}[task]
        self.steps, self.outs = steps, nn.ModuleDict({b: Readout(hidden, t * pixels) for b, t in steps.items()})

    def forward(self, frames, truth=None):
        top = self.dropout(self.gru(frames.flatten(2))[0][:, -1])
        return {b: self.outs[b](top).unflatten(1, (t, *self.shape)) for b, t in self.steps.items()}

class Bounded(Forecaster):
    reach = 1.0

    def forward(self, frames, truth=None):
        return {branch: z.tanh() for branch, z in super().forward(frames, truth).items()}

class Tied(Forecaster):
    def __init__(self, frame_shape, frames_in, frames_out, task):
        super().__init__(frame_shape, frames_in, frames_out, task)
        self.same = self.gru.weight_hh_l0
        self.other = nn.Parameter(torch.zeros(3, 5).t())

class Needs(Forecaster):
    def __init__(self, frame_shape, frames_in, frames_out, task, depth):
        super().__init__(frame_shape, frames_in, frames_out, task)

class Fails(nn.Module):
    def __init__(self, task):
        super().__init__()
        nn.Linear(-1, 2)

class Misshapen(Forecaster):
    def forward(self, frames, truth=None):
        return {branch: z.flatten(2) for branch, z in super().forward(frames, truth).items()}

class AsksForInput(Forecaster):
    def __init__(self, frame_shape, frames_in, frames_out, task, decoder_input):
        super().__init__(frame_shape, frames_in, frames_out, task)

def linear(task, frame_shape):
    return Bounded(frame_shape, 3, 2, task)
'''
LAYERS = """
from torch import nn

class Readout(nn.Linear):
    pass
"""
LOSSES = """
def focal(z, target, *, activation):
    p = z.sigmoid()
    gap = target * (1 - p) + (1 - target) * p
    bce = -(target * (p + 1e-6).log() + (1 - target) * (1 - p + 1e-6).log())
    return (gap**2 * bce).flatten(1).mean(1)

focal.needs_probability = True

def absolute(z, target, *, activation):
    return (z - target).abs().flatten(1).mean(1)

def scalar(z, target, *, activation):
    return (z - target).abs().mean()

def two(z, target):
    return (z - target).abs().flatten(1).mean(1)
"""
METRICS = '''
def iou(output, target):
    """Intersection over union of what is brighter than half."""
    one, other = output > 0.5, target > 0.5
    return (one & other).sum((2, 3)) / (one | other).sum((2, 3)).clip(min=1)

iou.unit, iou.more_is_better = "of 1", True

def mse(output, target):
    return (output - target).mean((2, 3))
'''
TEXTS = {"own_models": MODELS, "own_layers": LAYERS, "own_losses": LOSSES, "own_metrics": METRICS}


def write_modules(project: Path, **changed: str) -> None:
    """Put the modules into notebooks/ of a project; changed: other texts for some of them."""
    (project / "notebooks").mkdir(parents=True, exist_ok=True)
    (project / "params").mkdir(exist_ok=True)
    for name, text in (TEXTS | changed).items():
        (project / "notebooks" / f"{name}.py").write_text(text)
