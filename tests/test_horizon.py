"""`horizon_until`: the number of frames that training predicts grows, and val and test are of all frames."""

from typing import Any

import pytest

from seqae import resolve
from seqae.runs.experiment import update_rule
from seqae.runs.horizon import all_predicted_from

USUAL: dict[str, Any] = {"task": "pred", "frames_in": 3, "frames_out": 4, "train_sequences": 10, "batch_size": 4}


def lengths(**given: Any) -> list[int | None]:
    """Of every update."""
    p = resolve(USUAL | {"epochs": 4} | given)
    length = update_rule(p).length
    return [length(made) for made in range(3 * p.epochs)]


def test_every_horizon_has_its_share_of_the_updates_by_hand() -> None:
    assert lengths(horizon_until=1.0) == [4] * 4 + [5] * 4 + [6] * 4
    assert lengths(horizon_until=0.75) == [4] * 3 + [5] * 3 + [6] * 3 + [7] * 3
    assert lengths(horizon_until=0.5) == [4, 4, 5, 5, 6, 6] + [7] * 6
    assert lengths(horizon_until=1e-9) == [4] + [7] * 11
    assert lengths(horizon_until=0.5, task="both") == lengths(horizon_until=0.5)


@pytest.mark.parametrize("given", [{}, {"task": "recon", "horizon_until": 0.5}, {"frames_out": 1, "horizon_until": 1}])
def test_else_every_update_has_whole_sequences(given: dict[str, Any]) -> None:
    assert lengths(**given) == [None] * 12
    assert all_predicted_from(resolve(USUAL | given)) is None


@pytest.mark.parametrize(("until", "epoch"), [(1.0, 5), (0.75, 4), (0.7, 4), (0.5, 3), (0.3, 3), (0.25, 2), (1e-9, 2)])
def test_the_first_epoch_of_whole_sequences_by_hand(until: float, epoch: int) -> None:
    """Of three updates each: all frames are predicted after 12, 9, 8.4, … of twelve."""
    assert all_predicted_from(resolve(USUAL | {"epochs": 4, "horizon_until": until})) == epoch
