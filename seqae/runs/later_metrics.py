"""Metrics of your own that a finished run is asked for later: its saved weights are measured, nothing is trained again.

test.csv then has them as if they had been there from the beginning. metrics.csv has them on val at the best epoch,
whose weights are those that were saved; of other epochs there are no weights any more.
"""

import csv
import math
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from seqae import files
from seqae.contract import check_contract
from seqae.device import make_accelerator, mixed_precision
from seqae.evaluation import evaluate
from seqae.runs import experiment
from seqae.runs.identity import BENCHMARK
from seqae.runs.locks import FULL, changing
from seqae.runs.logs import whole_lines, without_metrics
from seqae.runs.own_code import CODE_FOLDER, recorded_code
from seqae.runs.own_frames import placed
from seqae.runs.own_runs import code_entry
from seqae.runs.records import RunError, diverged, own_metrics_of
from seqae.stores import BusyError

if TYPE_CHECKING:
    from seqae.runs.folder import RunFolder
    from seqae.runs.run import Run


def unmeasured(run: "RunFolder") -> list[str]:
    """The names of the metrics of your own that a finished run is asked for and lacks; none of a run that is not done.

    A metric that it has is not measured again, even if its code has changed.
    """
    record = run.record()
    if "results" not in record or run.family == BENCHMARK:
        return []
    known = own_metrics_of(record)
    return [name for full in run.parameters.metrics if (name := _name(full)) not in known]


def outdated(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Of the metrics in the record `before` those that the record `now` lacks, or has of other code."""
    there, here = own_metrics_of(before), own_metrics_of(now)
    # Versions of November 2026 recorded no hash of a metric's code.
    return {n for n, of in there.items() if n not in here or of.get("code", here[n]["code"]) != here[n]["code"]}


def forget_metrics(folder: Path, names: Collection[str]) -> None:
    """Drop the rows of these metrics from metrics.csv."""
    if names and (log := folder / "metrics.csv").exists():
        files.replace_text(log, _text(without_metrics(whole_lines(log), names)))


def measure(run: "Run", published: AbstractContextManager[None]) -> None:
    """Measure what a finished run lacks, on test and on val; write it into its tables and its record.

    published: entered while it is changed. Raises RunError if another process changes the run or it cannot be written,
    OwnCodeError and ContractError, ValueErrors, for a metric that does not fit; the run is then as it was.
    """
    lacking = ", ".join(unmeasured(run))
    try:
        with published, changing(run.folder):
            if names := unmeasured(run):  # else another process has measured them
                _measure(run, names)
    except (BusyError, filelock.Timeout):
        raise RunError(f"{run.folder} is being changed by another process: wait for it, then measure") from None
    except OSError as error:
        full = error.filename is None and error.errno in FULL
        if not full and run.folder not in Path(str(error.filename or "")).parents:  # of the data, for example
            raise
        raise RunError(f"cannot write to {run.folder}: {error.strerror}; it has no {lacking}") from None


def _measure(run: "Run", names: Collection[str]) -> None:
    p = run.parameters.model_copy(
        update={"metrics": tuple(full for full in run.parameters.metrics if _name(full) in names)}
    )
    code = run.code or recorded_code(p, run.folder, trust=run.trusted)
    assert code is not None
    record, entry = run.record(), code_entry(p, code)
    device = make_accelerator(device=p.device).device
    autocast, _ = mixed_precision(device, p.precision)
    model, val, objective = run.model(str(device)), experiment.sequences(p, "val"), experiment.objective_of(p, code)
    with placed():
        check_contract(model, val[[0, -1]].to(device), objective, autocast)
    table = experiment.test_table(model, p, code, own_only=True)
    if diverged(record):
        table["value"] = float("nan")
    else:
        errors = evaluate(model, val, p.batch_size, objective).errors
        found = {(branch, name): float(of[name].mean()) for branch, of in errors.items() for name in names}
        _add_to_log(run.folder / "metrics.csv", found, epoch=run.marks()["best"])
    test = run.folder / "test.csv"
    lines = without_metrics(test.read_text(encoding="utf-8").splitlines(), names)
    rows = table.reindex(columns=lines[0].split(",")).to_csv(index=False, header=False)
    files.replace_text(test, _text([*lines, *rows.splitlines()]))
    code.write(run.folder / CODE_FOLDER, beside=True)  # another metric may need what is there
    means = table[table.frame == ""]
    results = dict(zip(means.branch + " " + means.metric, means.value.astype(float), strict=True))
    listed = [*record["parameters"].get("metrics", []), *p.metrics]
    run.update(
        parameters=record["parameters"] | {"metrics": list(dict.fromkeys(listed))},
        code=_joined(record.get("code", {}), entry),
        results=record["results"] | results,
        cells="",  # the report is older than this
    )


def _name(full: str) -> str:
    return full.partition(":")[2]


def _joined(before: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "files": sorted({*before.get("files", ()), *entry["files"]}),
        "packages": before.get("packages", {}) | entry["packages"],
        "metrics": before.get("metrics", {}) | entry["metrics"],
    }


def _add_to_log(log: Path, found: Mapping[tuple[str, str], float], *, epoch: int) -> None:
    # Behind the rows of the epoch. Others stay as they are, byte for byte.
    lines = without_metrics(whole_lines(log), {name for _, name in found})
    of_epoch = [i for i, line in enumerate(lines) if line.split(",")[0] == str(epoch)]
    at = next(csv.DictReader([lines[0], lines[of_epoch[-1]]]))
    new = [
        at | {"split": "val", "branch": branch, "metric": name, "value": "" if math.isnan(value) else repr(value)}
        for (branch, name), value in found.items()
    ]
    place = of_epoch[-1] + 1
    files.replace_text(log, _text([*lines[:place], *(",".join(row.values()) for row in new), *lines[place:]]))


def _text(lines: Collection[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
