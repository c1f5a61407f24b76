"""TODO"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from seqae.commands.terminal import duration
from seqae.runs import progress

if TYPE_CHECKING:  # torch behind them takes seconds to import, and a look at records needs none
    from seqae.sweeps import Planned


def plan_lines(planned: "Sequence[Planned]", why: Sequence[str | None], count: int) -> Iterator[str]:
    """What would be executed, why, and how long it would train, `count` at a time; why: None where it would not be."""
    from seqae.benchmark import seconds_of

    todo = {n: item.run for n, item in enumerate(planned) if why[n] and item.run.status != "done"}
    seconds: dict[int, float] = {}
    left = {n: 1 - min(1, (progress(run.folder) or (0,))[0] / run.parameters.epochs) for n, run in todo.items()}
    try:
        whole = seconds_of([run.parameters for run in todo.values()])
        seconds = {n: left[n] * all_epochs for n, all_epochs in zip(todo, whole, strict=True)}
        least = max([sum(seconds.values()) / count, *seconds.values()])
        told = f"about {duration(least)} of training, {count} at a time, as on this machine"
    except ValueError as error:  # such as a device that only machines of the cluster have
        told = f"not timed: {error}"
    for n, item in enumerate(planned):
        note = f", about {duration(seconds[n])} of training" if n in seconds else ""
        yield f"{item.run.family}/{item.run.name}: {why[n] or 'done'}{note}"
    yield f"{len(planned) - why.count(None)} of {len(planned)} to run, {told}"


def check_lines(item: "Planned") -> Iterator[str]:
    """How large a planned run is, how long it takes, and what it can reach at best."""
    from seqae.benchmark import H100, H100_LAUNCH, H100_SHARE, estimate

    p, cost = item.run.parameters, estimate(item.run.parameters)
    yield (
        f"{item.run.family}/{item.run.name}: valid, {item.why() or 'done'}\n"
        f"  {cost.weights:,} weights; {cost.memory / 2**20:,.1f} MiB with gradients and optimizer state, "
        f"{(cost.memory + cost.activations) / 2**20:,.1f} MiB with the activations of an update\n"
        f"  {cost.operations / 1e9:,.3g} GFLOP an update, {cost.updates:,} updates: about "
        f"{duration(cost.seconds)} on this machine, from {cost.how}\n"
        f"  about {duration(cost.h100_seconds)} on an H100, if it reaches {H100_SHARE:.0%} of its "
        f"{H100[p.precision] / 1e12:g} TFLOP/s in precision {p.precision}, and each of the {cost.launches:,} "
        f"operations of an update, forward and backward, takes {H100_LAUNCH * 1e6:g} µs at least: assumed, not measured"
    )
    try:
        yield f"  {item.run.prognosis()}"
    except OSError as error:  # digits that are not here, and that this machine cannot fetch
        yield f"  what it can reach, its digits tell: {error}"
        return
    for level in item.run.baselines().query("split == 'val'").itertuples():
        yield f"  {level.branch} {level.baseline} {level.metric}: {level.value:.4g}"
