"""For all tests: one thread, since their models are so small that threads only wait for each other; one browser."""

import shutil

import pytest
import torch

torch.set_num_threads(1)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")  # while it runs, asyncio.run does not
def browser():
    """Chromium, for all tests of a file that open a page; those are left out where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium executable on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()
