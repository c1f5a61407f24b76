"""For all tests: one thread. Their models are so small that threads only wait for each other."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def started():
    """Starts a sweep, see `sweeps.Sweep`; whatever becomes of the test, nothing of it lives on."""
    from sweeps import Sweep  # what that imports takes a second

    sweeps: list[Sweep] = []
    yield lambda *arguments, **options: sweeps.append(Sweep(*arguments, **options)) or sweeps[-1]
    for sweep in sweeps:
        sweep.kill()
