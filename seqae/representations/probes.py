"""What the state of an encoder holds: linear probes of it, beside the same probes of frames.

A probe is a ridge regression (scikit-learn), or its classifier, on features that are only scaled by one factor. It is
trained on val and tested on test, which is made of digits that neither the run nor the probe has seen. How strongly it
is regularised is chosen on val, by leave-one-out.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seqae.data import scale_digits
from seqae.evaluation import seen_frames
from seqae.runs import experiment, load_digits, load_labels

if TYPE_CHECKING:
    import pandas as pd

    from seqae.runs import RunFolder

CLASSES = 10
STRENGTHS = np.logspace(-1, 6, 8)  # of the regularisation, for features with variance 1
MEASURES = {  # what is asked for, by name: its measure
    "all digits": "share right",
    "each digit": "share found",
    "positions": "error, pixels",
    "velocities": "error, pixels/frame",
}
PROBE_COLUMNS = ["target", "features", "measure", "value", "chance", "ceiling", "gained", "dimensions", "train", "test"]
Known = dict[str, np.ndarray]
Features = dict[str, dict[str, np.ndarray]]  # by name, then by split, (sequences, dimensions)


def linear_probes(run: "RunFolder") -> "pd.DataFrame":
    """What can be read linearly from a trained run's state at the last frame seen, and from frames, on Moving MNIST.

    A row for each target and each kind of features: target, features, measure, value, chance, ceiling, gained,
    dimensions, train, test (numbers of sequences). Targets, with what is measured on test:

    - all digits: which digits there are, in no order (two: 55 classes): share of sequences that are right;
    - each digit: a score for each of the ten classes, the k largest of which name the k digits: share that is found;
    - positions, velocities: of each digit, from left to right, at the last frame seen, by `RunFolder.drawn`: mean
      absolute error of a coordinate, in pixels, and in pixels a frame.

    Features: state, all h and c of the trained encoder (`encode`, flat); untrained, the same of the run's first
    weights; last frame; all frames; PCA, of all frames, with as many dimensions as the state. Chance is what a probe
    without features gets: the most frequent classes of val, the mean of val. Ceiling is what a ridge classifier of
    single digits, trained on the images of val, gets of the digits cut out: for all digits a probe of sequences,
    with its 55 classes, gets a third of that from the cut-outs; of positions, what whole pixels tell; of velocities 0.
    gained: the way from chance to ceiling, 0 to 1.

    Raises RunError if nothing is trained yet, ValueError for data that nothing is known of, and as `encode`.
    """
    import pandas as pd

    frames = {split: run.sequences(split)[:, : run.parameters.frames_in] for split in ("val", "test")}
    known = {split: what_is_seen(run, split) for split in frames}
    levels = chance_and_ceiling(run, known["val"], known["test"])
    rows = []
    for name, features in _features(run, frames).items():
        train, test = scaled(features["val"], features["test"])
        for target, measure in MEASURES.items():
            value = probe_score(target, train, known["val"], test, known["test"])
            chance, ceiling = levels[target]
            gained = (value - chance) / (ceiling - chance) if ceiling != chance else float("nan")
            rows.append((target, name, measure, value, chance, ceiling, gained, train.shape[1], len(train), len(test)))
    return pd.DataFrame(rows, columns=PROBE_COLUMNS)


def label_probes(run: "RunFolder", file: str | Path) -> "pd.DataFrame":
    """What can be read linearly of the labels of clips of one's own, from the state of a trained run and from frames.

    file: a CSV file with labels, as for `labels_of_clips`. The columns are those of `linear_probes`; a target is a
    column of the file. Of floating point labels the mean absolute error is measured, in their unit, of all others the
    share right. Chance is what the mean or the most frequent label of val gets; ceiling is 0 or 1. Raises as
    `labels_of_clips`, `linear_probes`, and ValueError for a label that is missing.
    """
    import pandas as pd
    from sklearn.linear_model import RidgeClassifierCV, RidgeCV

    frames = {split: run.sequences(split)[:, : run.parameters.frames_in] for split in ("val", "test")}
    tables = {split: run.labels(file, split).drop(columns=["sequence", "clip", "index", "start"]) for split in frames}
    features, rows = _features(run, frames), []
    for target in tables["val"].columns:
        known, asked = (tables[split][target] for split in ("val", "test"))
        if known.isna().any() or asked.isna().any():
            raise ValueError(f"{file} lacks {target} for some clips: give each clip of val and test one")
        if asked.nunique() == 1:
            told = f"{target} is {asked.iloc[0]} in all of test, which tells nothing"
            warnings.warn(f"{told}: name clips that differ in it with clips_test", stacklevel=2)
        number = pd.api.types.is_float_dtype(known)
        usual = known.mean() if number else known.mode()[0]
        chance, ceiling = float((asked - usual).abs().mean() if number else (asked == usual).mean()), float(not number)
        for name, of in features.items():
            train, test = scaled(of["val"], of["test"])
            if number or known.nunique() > 1:
                guessed = (RidgeCV if number else RidgeClassifierCV)(STRENGTHS).fit(train, known).predict(test)
                value = float(np.abs(guessed - asked).mean() if number else (guessed == asked).mean())
            else:
                value = chance
            gained = (value - chance) / (ceiling - chance) if ceiling != chance else float("nan")
            measure = "error, its own unit" if number else "share right"
            rows.append((target, name, measure, value, chance, ceiling, gained, train.shape[1], len(train), len(test)))
    return pd.DataFrame(rows, columns=PROBE_COLUMNS)


def what_is_seen(run: "RunFolder", split: str) -> Known:
    """The targets of probes for each sequence of a split, at the last frame seen, see `linear_probes`.

    all digits: a number for each set of classes, (N,); each digit: how often each class is there, (N, 10); positions,
    velocities: (N, 2 k), y of all k digits and then x, from left to right.
    """
    table, count = run.drawn(split, frame=run.parameters.frames_in), run.parameters.digits_per_sequence
    motion = ("y", "x", "v_y", "v_x")
    of = {name: table[[f"{name}_{n + 1}" for n in range(count)]].to_numpy() for name in ("digit", *motion)}
    order = of["x"].argsort(axis=1, kind="stable")
    moving = {name: np.take_along_axis(of[name], order, axis=1) for name in motion}
    counts = (of["digit"][:, :, None] == np.arange(CLASSES)).sum(1)
    return {
        "all digits": np.sort(of["digit"], axis=1) @ CLASSES ** np.arange(count),
        "each digit": counts,
        "positions": np.hstack([moving["y"], moving["x"]]),
        "velocities": np.hstack([moving["v_y"], moving["v_x"]]),
    }


def probe_score(target: str, train: np.ndarray, known: Known, test: np.ndarray, asked: Known) -> float:
    """The measure of a target, see `MEASURES`, by a probe trained on features (N, D) and on what is known there."""
    from sklearn.linear_model import RidgeClassifierCV, RidgeCV

    if target == "all digits":
        if len(set(known[target])) == 1:  # of few sequences; a classifier wants two classes
            return float((asked[target] == known[target][0]).mean())
        guessed = RidgeClassifierCV(STRENGTHS).fit(train, known[target]).predict(test)
        return float((guessed == asked[target]).mean())
    guessed = RidgeCV(STRENGTHS).fit(train, known[target]).predict(test)
    if target == "each digit":
        return share_found(guessed, asked[target])
    # A single column comes back without its axis.
    return float(np.abs(guessed.reshape(asked[target].shape) - asked[target]).mean())


def share_found(scores: np.ndarray, counts: np.ndarray) -> float:
    """The share of digits whose class is among the k with the largest scores.

    scores: (N, 10). counts: how often each class is in each of the N sequences of k digits.
    """
    digits = int(counts[0].sum())
    named = np.argsort(-scores, axis=1, kind="stable")[:, :digits]
    return float(np.take_along_axis(counts, named, axis=1).sum() / counts.sum())


def chance_and_ceiling(run: "RunFolder", known: Known, asked: Known) -> dict[str, tuple[float, float]]:
    """For each target what is got without features, and the most that can be got, see `linear_probes`.

    known: of val; asked: of test.
    """
    sets, times = np.unique(known["all digits"], return_counts=True)
    often = np.broadcast_to(known["each digit"].mean(0), asked["each digit"].shape)
    every, each = _of_digits_alone(run)
    whole = np.abs(asked["positions"] - np.floor(asked["positions"]) - 0.5).mean()
    still = {name: np.abs(known[name].mean(0) - asked[name]).mean() for name in ("positions", "velocities")}
    return {
        "all digits": (float((asked["all digits"] == sets[times.argmax()]).mean()), every),
        "each digit": (share_found(often, asked["each digit"]), each),
        "positions": (float(still["positions"]), float(whole)),
        "velocities": (float(still["velocities"]), 0.0),
    }


def _of_digits_alone(run: "RunFolder") -> tuple[float, float]:
    # The share of test sequences all of whose digits are named by a probe of their images alone, and the share of
    # these digits. The probe is trained on the digit images of val.
    from sklearn.linear_model import RidgeClassifierCV

    p = run.parameters
    folder = experiment.digits_folder(p)
    images, labels = load_digits(p.digits, folder), load_labels(p.digits, folder)
    flat = {s: scale_digits(images[s], p.frame_shape[0]).reshape(len(images[s]), -1) / 255 for s in ("val", "test")}
    train, test = scaled(flat["val"], flat["test"])
    right = RidgeClassifierCV(STRENGTHS).fit(train, labels["val"]).predict(test) == labels["test"]
    drawn = run.drawn("test")
    classes = [right[drawn[f"image_{n + 1}"]] for n in range(p.digits_per_sequence)]
    return float(np.all(classes, axis=0).mean()), float(np.mean(classes))


def _features(run: "RunFolder", frames: Mapping[str, np.ndarray]) -> Features:
    from sklearn.decomposition import PCA

    p = run.parameters
    state = {split: run.encode(seen)["flat"] for split, seen in frames.items()}
    pixels = {split: (seen / np.float32(255)).reshape(len(seen), -1) for split, seen in frames.items()}
    found: Features = {"state": state, "untrained": {s: first_state(run, seen) for s, seen in frames.items()}}
    found["last frame"] = {split: flat[:, -(flat.shape[1] // p.frames_in) :] for split, flat in pixels.items()}
    found["all frames"] = pixels
    wanted = min(state["val"].shape[1], *pixels["val"].shape)
    pca = PCA(wanted, random_state=0).fit(pixels["val"])
    found["PCA"] = {split: pca.transform(flat) for split, flat in pixels.items()}
    return found


def first_state(run: "RunFolder", frames: np.ndarray) -> np.ndarray:
    """`encode`'s flat, (B, units), of the run's model before training, of frames as `encode` takes them, uint8."""
    p = run.parameters
    model: Any = experiment.new_model(p, run.own_code() if ":" in p.architecture else None).eval()
    with torch.inference_mode():
        parts = [model.encode(seen_frames(batch, p.pixel_range)) for batch in torch.from_numpy(frames).split(256)]
    return torch.cat([flat_state(part) for part in parts]).numpy()


def flat_state(encoded: Any) -> torch.Tensor:
    """(B, units), from what a model's encode(frames) returned: a tensor, or several by name, side by side."""
    if isinstance(encoded, torch.Tensor):
        return encoded
    return encoded["flat"] if "flat" in encoded else torch.cat([*encoded.values()], dim=1)


def scaled(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (sequences, dimensions) around the mean of train, with one factor for all, so that none is amplified."""
    mean, scale = train.mean(0), float(np.sqrt(train.var(0).mean())) or 1.0
    return (train - mean) / scale, (test - mean) / scale
