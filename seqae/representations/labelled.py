"""Whether training without labels pays: a classifier with few labels, from the trained encoder and from random weights.

The experiment of the paper's §3.3, there with recognition of actions; here with the digits of Moving MNIST.
"""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from seqae.evaluation import seen_frames
from seqae.representations.probes import (
    CLASSES,
    chance_and_ceiling,
    flat_state,
    probe_score,
    scaled,
    share_found,
    what_is_seen,
)
from seqae.runs import experiment

if TYPE_CHECKING:
    import pandas as pd

    from seqae.parameters import Parameters
    from seqae.runs import RunFolder

LABELLED = (10, 30, 100, 300, 1000)  # sequences
DRAWS = 3  # of labelled sequences, and of random weights: others for each seed of a run
UPDATES, BATCH, LEARNING_RATE = 100, 32, 0.002  # of every classifier, by Adam


def few_labels(run: "RunFolder") -> "pd.DataFrame":
    """The share of digits that a classifier finds, by the number of labelled sequences, on Moving MNIST.

    A row for each way to begin, number of labels and draw of them: start, labels, draw, value, chance, ceiling, test
    (number of sequences). value: as target `each digit` of `linear_probes`, whose chance and ceiling stand beside it.

    start: trained, a linear layer on the encoder's whole state, both trained on the labels from the run's weights on;
    random, the same from random weights; probe, `linear_probes` on the trained encoder's state, which stays as it is.
    The labelled sequences are of val, the first of a random order that each draw has; numbers of `LABELLED` that val
    has not are left out. Every classifier has 100 updates by Adam. Raises as `linear_probes`.
    """
    import pandas as pd

    known, asked = what_is_seen(run, "val"), what_is_seen(run, "test")
    chance, ceiling = chance_and_ceiling(run, known, asked)["each digit"]
    seen = {split: run.sequences(split)[:, : run.parameters.frames_in] for split in ("val", "test")}
    states = {split: run.encode(frames)["flat"] for split, frames in seen.items()}
    rows = []
    for draw in range(DRAWS):
        seed = DRAWS * run.parameters.seed + draw
        order = np.argsort(np.random.Philox(key=seed).random_raw(len(seen["val"])))
        for labels in (n for n in LABELLED if n <= len(order)):
            some = order[:labels]
            few = {name: values[some] for name, values in known.items()}
            train, test = scaled(states["val"][some], states["test"])
            value = probe_score("each digit", train, few, test, asked)
            rows.append(("probe", labels, draw, value))
            for start, model in (("trained", run.model()), ("random", _random(run, seed))):
                classifier = _fine_tuned(model, run.parameters, seen["val"][some], few["each digit"], seed=seed)
                scores = _scores(classifier, run.parameters, seen["test"])
                rows.append((start, labels, draw, share_found(scores, asked["each digit"])))
    table = pd.DataFrame(rows, columns=["start", "labels", "draw", "value"])
    return table.assign(chance=chance, ceiling=ceiling, test=len(seen["test"]))


class Classifier(nn.Module):
    """An encoder and a linear layer on its whole state, which begins at zero: frames → (B, 10), a score for each class.

    model: what `encode(frames)` is asked of. units: the size of its state.
    """

    def __init__(self, model: nn.Module, units: int) -> None:
        super().__init__()
        self.model: Any = model
        self.head = nn.Linear(units, CLASSES)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (B, frames_in, H, W) in the training range."""
        return self.head(flat_state(self.model.encode(frames)))


def _random(run: "RunFolder", seed: int) -> nn.Module:
    p = run.parameters.model_copy(update={"seed": 1000 + seed})
    return experiment.new_model(p, run.own_code() if ":" in p.architecture else None)


def _fine_tuned(model: nn.Module, p: "Parameters", frames: np.ndarray, counts: np.ndarray, *, seed: int) -> Classifier:
    # A classifier on a copy of the model, trained on these sequences (N, T, H, W) and their digits (N, 10).
    with torch.no_grad():
        units = flat_state(deepcopy(model).eval().encode(_read(frames[:1], p))).shape[1]  # type: ignore[operator]
    classifier = Classifier(deepcopy(model), units).train()
    optimizer = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
    shares = torch.from_numpy(counts / counts.sum(1, keepdims=True)).float()
    rng = np.random.default_rng(seed)
    for _ in range(UPDATES):
        batch = rng.choice(len(frames), min(BATCH, len(frames)), replace=False)
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(_read(frames[batch], p)), shares[batch]).backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
    return classifier.eval()


def _scores(classifier: Classifier, p: "Parameters", frames: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        parts = np.array_split(frames, -(-len(frames) // 256))
        return torch.cat([classifier(_read(part, p)) for part in parts]).numpy()


def _read(frames: np.ndarray, p: "Parameters") -> Tensor:
    return seen_frames(torch.from_numpy(np.ascontiguousarray(frames)), p.pixel_range)
