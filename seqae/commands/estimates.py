"""What `seqae check` and `seqae run --dry-run` print: reasons, sizes, times, and what a run can reach."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from seqae.runs import clip_facts, duration, progress, told_of_clips

if TYPE_CHECKING:  # imports torch, which takes seconds
    from seqae.sweeps import Planned


def plan_lines(planned: "Sequence[Planned]", reasons: Sequence[str | None], count: int) -> Iterator[str]:
    """For each planned run why it would be executed and about how long it would train, then a summary.

    reasons: of `Planned.reason_to_execute`, for each run. count: runs at a time.
    """
    from seqae.benchmark import estimate_costs

    todo = {n: item.run for n, item in enumerate(planned) if reasons[n] and item.run.status != "done"}
    costs = dict(zip(todo, estimate_costs([run.parameters for run in todo.values()]), strict=True))
    left = {n: 1 - min(1, _epochs_before(planned[n]) / run.parameters.epochs) for n, run in todo.items()}
    seconds = {n: left[n] * cost.seconds for n, cost in costs.items() if cost.seconds is not None}
    total = f"about {duration(max([sum(seconds.values()) / count, *seconds.values()]))} of training"
    total = f"{total}, {count} at a time, at the speed of this machine"
    # For example on a device that only machines of the cluster have.
    if untimed := [cost.how for cost in costs.values() if cost.seconds is None]:
        total = f"{len(untimed)} of them not timed: {untimed[0]}"
    for n, item in enumerate(planned):
        note = f", about {duration(seconds[n])} of training" if n in seconds else ""
        yield f"{item.run.family}/{item.run.name}: {reasons[n] or 'done'}{note}"
    yield f"{len(planned) - reasons.count(None)} of {len(planned)} to run, {total}"


def _epochs_before(item: "Planned") -> int:
    # The epochs that need not be trained (again).
    begun, shorter = progress(item.run.folder), item.shorter
    return begun.epoch if begun else shorter.epochs if shorter and not shorter.hindrance else 0


def check_entry(item: "Planned") -> dict[str, Any]:
    """What `seqae check --json` says of a planned run; numbers as in `CostEstimate`, levels as in baselines.csv."""
    from seqae.benchmark import estimate_cost

    found: dict[str, Any] = {
        "run": f"{item.run.family}/{item.run.name}",
        "to_do": item.reason_to_execute() or "done",
        "cost": asdict(estimate_cost(item.run.parameters)),
    }
    try:
        found["clips"] = _clips(item)
        levels = item.run.baselines().query("split == 'val'")
        return found | {"prognosis": item.run.prognosis(), "levels": levels.to_dict("records")}
    except OSError as error:  # the digits are not on this machine and cannot be downloaded
        return found | {"prognosis": None, "levels": [], "clips": None, "unknown": str(error)}


def _clips(item: "Planned") -> dict[str, Any] | None:
    # How many clips each split has, and what is done with colours and sizes; None for Moving MNIST.
    p = item.run.parameters
    return item.run.record().get("clips") or (clip_facts(p) if p.clips else None)


def check_lines(item: "Planned") -> Iterator[str]:
    """How large a planned run is, about how long it takes, and the lowest loss that it can reach."""
    from seqae.benchmark import estimate_cost

    cost = estimate_cost(item.run.parameters)
    took = f"no time on this machine: {cost.how}"
    if cost.seconds is not None:
        took = f"about {duration(cost.seconds)} on this machine, from {cost.how}"
    yield (
        f"{item.run.family}/{item.run.name}: valid, {item.reason_to_execute() or 'done'}\n"
        f"  {cost.weights:,} weights; {cost.memory / 2**20:,.1f} MiB with gradients and optimizer state, "
        f"{(cost.memory + cost.activations) / 2**20:,.1f} MiB with the activations of an update\n"
        f"  {cost.operations / 1e9:,.3g} GFLOP an update, {cost.updates:,} updates: {took}"
    )
    for found in cost.recorded:
        whole = duration(found.ms / 1000 * cost.times)
        yield f"  about {whole} on an {found.card}, where an update took {found.ms:.4g} ms ({found.date[:10]})"
    if not cost.recorded:
        yield "  no time on a GPU is known: an update of this size has not been measured on one (docs/gpu.md)"
    try:
        if clips := _clips(item):
            size = "{}×{}".format(*item.run.parameters.frame_shape)
            cut = ", ".join(f"{count:,} for {split}" for split, count in clips["sequences"].items())
            yield f"  clips: {told_of_clips(clips)}\n  sequences of {size} pixels in them: {cut}"
        yield f"  {item.run.prognosis()}"
    except OSError as error:  # the digits are not on this machine and cannot be downloaded
        yield f"  what it can reach is unknown without its digits: {error}"
        return
    for level in item.run.baselines().query("split == 'val'").itertuples():
        yield f"  {level.branch} {level.baseline} {level.metric}: {level.value:.4g}"
