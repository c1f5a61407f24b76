"""Results of others on Moving MNIST, those of the diary, and a run's place among them."""

from importlib.resources import files

import pandas as pd

FRAME_PIXELS = 64 * 64  # of a frame in all published results


def published_results() -> pd.DataFrame:
    """Results of others on Moving MNIST at 64×64: model, branch, mse_per_frame and nats_per_frame (sums over the 4096
    pixels of a frame, where given), source.
    """
    return pd.read_csv(str(files("seqae.reports") / "published.csv"), comment="#")


def hour_seeds() -> pd.DataFrame:
    """What the recipes of the family `best`, by their label, reached at scale `cpu`, as docs/results.py wrote it, a row
    for each seed and branch: mse (per pixel, on [0, 1]), nats_per_frame (a sum over 4096 pixels), ssim, of
    test_sequences of full MNIST; weights, sequences that it was trained on, threads, minutes, ended.
    """
    return pd.read_csv(str(files("seqae.reports") / "hour.csv"))


def hour_results() -> pd.DataFrame:
    """Means over `hour_seeds`, a row for each recipe and branch: model, mse, mse_per_frame, nats_per_frame, ssim,
    source.
    """
    rows = []
    for (recipe, branch), seeds in hour_seeds().groupby(["recipe", "branch"], sort=False):
        count = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
        tested = f"test, {seeds.test_sequences.max():,} sequences"
        source = f"--scale cpu, full MNIST, {tested}, {count}, {seeds.ended.max()}"
        means = seeds[["mse", "nats_per_frame", "ssim"]].mean()
        rows.append({"branch": branch, **means, "model": f"{recipe}, scale cpu", "source": source})
    table = pd.DataFrame(rows)
    return table.assign(mse_per_frame=FRAME_PIXELS * table.mse)


def diary_results() -> pd.DataFrame:
    """The diary's 5×6 grid at full size after 200 epochs: task, decoder_input, branch, loss, mse (val, on [0, 1]).

    These are the researcher's own results on the official test file, not runs of this package.
    """
    table = pd.read_csv(str(files("seqae.reports") / "diary_5x6.csv"), comment="#", dtype={"loss": str})
    return table.rename(columns={"val_mse_0to1": "mse"}).drop(columns="val_mse_as_logged")


def standing(test: pd.DataFrame, levels: pd.DataFrame, name: str = "this run") -> pd.DataFrame:
    """A run's test metrics among the baselines, the `published_results` and the `hour_results`, the least squared error
    first; then those without one, the least cross-entropy first.

    test: as `Run.test`, of 64×64 pixels; levels: as `Run.baselines`. Returns one row for each model and branch: mse
    (per pixel, on [0, 1]), mse_per_frame and nats_per_frame (sums over 4096 pixels), ssim, psnr (dB), source (of the
    run, on how many test sequences); empty where not known.
    """
    of = f"test, {test.sequences.max():,.0f} sequences" if "sequences" in test else ""
    own = test[test.frame.isna()].assign(model=name, source=of)
    known = levels[(levels.split == "test") & (levels.baseline != "floor")]
    known = known.assign(model=known.baseline.str.replace("_", " "), source="no model")
    keys = ["branch", "model", "source"]
    table = pd.concat([own, known]).set_index([*keys, "metric"])["value"].unstack().reset_index()
    table = table.assign(mse_per_frame=FRAME_PIXELS * table.mse)
    if "bce" in table:
        table["nats_per_frame"] = FRAME_PIXELS * table.bce
    others = published_results().assign(mse=lambda t: t.mse_per_frame / FRAME_PIXELS)
    others = pd.concat([hour_results(), others])
    table = pd.concat([table, others[others.branch.isin(table.branch)]])
    shown = [*keys[:2], "mse", "mse_per_frame", "nats_per_frame", "ssim", "psnr", "source"]
    return table.reindex(columns=shown).sort_values(["branch", "mse", "nats_per_frame"], ignore_index=True)
