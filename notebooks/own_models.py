"""Models and a loss of one's own, as parameter files name them: `architecture: own_models:GRUForecaster`.

What each has to take and to return is in docs/your-own.md.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class GRUForecaster(nn.Module):
    """One GRU reads the frames seen; another, begun with its state and reading it at each step, writes those to come.

    It is the paper's LSTM future predictor (Srivastava et al., 2015, §2.3) with GRUs (Cho et al., 2014).
    """

    def __init__(self, *, frame_shape: tuple[int, int], frames_out: int, hidden: int = 128) -> None:
        super().__init__()
        pixels, self.frames_out = frame_shape[0] * frame_shape[1], frames_out
        self.encoder = nn.GRU(pixels, hidden, batch_first=True)
        self.decoder = nn.GRU(hidden, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, pixels)

    def forward(self, frames: Tensor, truth: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """(B, frames_in, H, W) → pre-activations (B, frames_out, H, W) of the branch pred."""
        state = self.encode(frames)
        h, _ = self.decoder(state[:, None].expand(-1, self.frames_out, -1).contiguous(), state[None].contiguous())
        return {"pred": self.readout(h).unflatten(2, frames.shape[2:])}

    def encode(self, frames: Tensor) -> Tensor:
        """(B, frames_in, H, W) → (B, hidden), the state after the last frame seen."""
        return self.encoder(frames.flatten(2))[1][0]


class ConvForecaster(nn.Module):
    """Convolutions over a picture whose channels are the frames seen; those of the last layer are the frames to come.

    No recurrence, as in SimVP (Gao et al., 2022), whose middle part is larger.
    """

    def __init__(self, *, frames_in: int, frames_out: int, channels: int = 48, layers: int = 4) -> None:
        super().__init__()
        widths = [frames_in, *[channels] * (layers - 1), frames_out]
        convolutions = [layer for a, b in pairwise(widths) for layer in (nn.Conv2d(a, b, 5, padding=2), nn.ReLU())]
        self.layers = nn.Sequential(*convolutions[:-1])

    def forward(self, frames: Tensor, truth: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """(B, frames_in, H, W) → pre-activations (B, frames_out, H, W) of the branch pred."""
        return {"pred": self.layers(frames)}


def focal(z: Tensor, target: Tensor, *, activation: str) -> Tensor:
    """Focal loss (Lin et al., 2017), (B,): cross-entropy in nats/pixel, less of it where the output is nearly right.

    z, target: (B, T, H, W). The factor is |target - output|, the paper's with γ = 1, for targets between 0 and 1, too.
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(z, target, reduction="none")
    return (cross_entropy * (target - torch.sigmoid(z)).abs()).mean((1, 2, 3))


focal.needs_probability = True  # type: ignore[attr-defined]
