"""What a trained run leaves: its figures on test, samples, pictures, weights and verdict."""

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from seqae import files
from seqae.parameters import EXECUTION
from seqae.runs import experiment, pictures
from seqae.runs.folder import SAMPLES, images
from seqae.runs.own_code import OwnCode
from seqae.runs.verdicts import verdict
from seqae.training import Fitted

if TYPE_CHECKING:
    from seqae.runs.run import Run


def write_results(
    run: "Run", model: torch.nn.Module, val: torch.Tensor, fitted: Fitted, code: OwnCode | None
) -> dict[str, Any]:
    """Test the model; write test.csv, samples, pictures and weights. Returns the entries of run.yaml on all this."""
    p, folder, metrics = run.parameters, run.folder, run.metrics()
    table = experiment.test_table(model, p, code, own_only=False)
    if fitted.diverged_at is not None:  # the weights are those before it diverged, maybe the first
        table["value"] = float("nan")
    files.replace_text(folder / "test.csv", table.to_csv(index=False))

    with files.whole(folder / "samples.npz") as file:
        np.savez_compressed(file, allow_pickle=False, **images(model, val[:SAMPLES], p))
    strips = pictures.sample_strips(run.samples(), task=p.task, frames_in=p.frames_in)
    with files.whole(folder / "frames.png") as file:
        pictures.save_strips(strips, file)
    with files.whole(folder / "frames.gif") as file:
        pictures.save_gif(strips, file)

    metadata = {"family": run.family, "parameters": json.dumps(p.model_dump(mode="json", exclude=set(EXECUTION)))}
    with files.whole(folder / "model.safetensors") as file:
        # Each weight is a copy of its own, so that tied ones can be saved.
        save_file({n: w.contiguous() for n, w in fitted.weights.items()}, file, metadata=metadata)

    floor, mean = run.levels_on_val()
    line = verdict(
        metrics[metrics.split == "val"],
        mean_frame=mean,
        floor=floor,
        diverged_at=fitted.diverged_at,
        stopped=fitted.epochs < p.epochs,
    )
    means = table[table.frame == ""]
    results = dict(zip(means.branch + " " + means.metric, means.value.astype(float), strict=True))
    return dict(
        seconds=float(metrics.seconds.max()),
        weights=sum(w.numel() for w in model.parameters()),
        **(
            {"reach": run.reach if math.isfinite(run.reach) else None}
            if ":" in p.architecture
            else {"hidden": model.hidden}
        ),
        epochs=fitted.epochs,
        verdict=line,
        explained=run.explain(),
        results=results,
    )
