"""TODO"""

from html import escape
from importlib.resources import files

import pandas as pd


def conclusion(verdict: str, test: pd.DataFrame, levels: pd.DataFrame) -> str:
    """A run in a few lines of Markdown: its verdict and, for each branch, its error on test beside the mean frame's.

    test: as `Run.test`; levels: as `Run.baselines`. MSE per pixel on [0, 1]; BCE, where there is one, in nats/pixel.
    """
    mean = levels[(levels.split == "test") & (levels.baseline == "mean_frame")].set_index(["branch", "metric"])["value"]
    lines = [f"**{escape(verdict[0].upper() + verdict[1:])}**, on val.", ""]
    for row in test[test.frame.isna() & test.metric.isin(["mse", "bce"])].itertuples():
        unit = {"mse": "per pixel", "bce": "nats/pixel"}[row.metric]
        level = f"the mean frame {mean[row.branch, row.metric]:.4f}"
        lines.append(f"- {row.branch}: {row.metric.upper()} {row.value:.4f} {unit} on test, {level}")
    return "\n".join(lines)


def published() -> pd.DataFrame:
    """Others' figures on Moving MNIST at 64×64: model, branch, mse_per_frame and nats_per_frame (sums over 4096 pixels,
    where given), source.
    """
    return pd.read_csv(str(files("seqae.reports") / "published.csv"), comment="#")


def standing(test: pd.DataFrame, levels: pd.DataFrame, name: str = "this run") -> pd.DataFrame:
    """A run's figures on test between the baselines' and the `published` ones, the least squared error first.

    test: as `Run.test`, of 64×64 pixels; levels: as `Run.baselines`. One row a model and branch: mse (per pixel, on
    [0, 1]), mse_per_frame and nats_per_frame (sums over 4096 pixels), ssim, psnr in dB; empty where not known.
    """
    mine = test[test.frame.isna()].assign(model=name, source="")
    known = levels[(levels.split == "test") & (levels.baseline != "floor")]
    known = known.assign(model=known.baseline.str.replace("_", " "), source="no model")
    keys = ["branch", "model", "source"]
    table = pd.concat([mine, known]).pivot_table(index=keys, columns="metric", values="value").reset_index()
    table = table.assign(mse_per_frame=4096 * table.mse)
    if "bce" in table:
        table["nats_per_frame"] = 4096 * table.bce
    others = published().assign(mse=lambda t: t.mse_per_frame / 4096)
    table = pd.concat([table, others[others.branch.isin(table.branch)]])
    shown = [*keys[:2], "mse", "mse_per_frame", "nats_per_frame", "ssim", "psnr", "source"]
    return table.reindex(columns=shown).sort_values(["branch", "mse"], ignore_index=True)


def diary() -> pd.DataFrame:
    """The diary's 5×6 grid at full size after 200 epochs: task, decoder_input, branch, loss, mse on [0, 1], val.

    The researcher's own figures, without any of the package's baselines; its data was the official test file.
    """
    table = pd.read_csv(str(files("seqae.reports") / "diary_5x6.csv"), comment="#", dtype={"loss": str})
    return table.rename(columns={"val_mse_0to1": "mse"}).drop(columns="val_mse_as_logged")
