"""For all tests: one thread, since their models are so small that threads only wait for each other; one browser.

Two tiers: `make test` runs what is not marked `soak`, `make soak` the rest. The marker `processes` is for tests of the
first tier that start a process; `guard` fails those that do so without it.
"""

import gc
import os
import runpy
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import hypothesis
import pytest
import torch
from guard import pytest_configure, pytest_runtest_call, pytest_runtest_protocol  # noqa: F401

torch.set_num_threads(1)
# On a busy machine an example takes any time; and who changed nothing is not told of what a new example found.
hypothesis.settings.register_profile("seqae", deadline=None, derandomize=True)
hypothesis.settings.load_profile("seqae")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background; tests send themselves Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Of this process, of xdist's workers and of all that tests start: see there.
AT_START = Path(__file__).parent / "at_start"
if str(AT_START) not in (paths := os.environ.get("PYTHONPATH", "").split(os.pathsep)):
    os.environ["PYTHONPATH"] = os.pathsep.join([str(AT_START), *filter(None, paths)])
    runpy.run_path(str(AT_START / "sitecustomize.py"))
# Files of the soak tier that take minutes, the longest first: begun last, they would keep one core waiting.
LONG = ["stop", "notebooks", "jupyter", "cluster", "sweep", "stores", "own_sweep", "soak", "hosts", "new", "rerun"]
BROWSER_LIMIT = 120_000  # ms: the first start on a machine reads hundreds of megabytes
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported and collected stays, and is no longer looked through


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.processes)


@pytest.fixture(scope="module")  # while it runs, asyncio.run does not
def browser():
    """Chromium, for all tests of a file that open a page; those are left out where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium executable on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=BROWSER_LIMIT
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Open a file; whatever it asks for beyond itself, or says on the console, fails the test at its end.

    beside: files that the reader has it load by what he does.
    """
    requests, complaints, contexts, visited = [], [], [], set()

    def open_page(path: Path, width: int = 1440, scheme: str = "light", beside: Sequence[Path] = ()):
        contexts.append(context := browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        context.set_default_timeout(BROWSER_LIMIT)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        visited.update(file.as_uri() for file in (path, *beside))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert {url.split("#")[0] for url in requests if not url.startswith("data:")} == visited
    assert complaints == []


def fits(page) -> bool:
    """Whether nothing sticks out of the screen but what lies in a box that scrolls."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth === innerWidth &&
        ![...document.querySelectorAll("body *")].some((e) => {
          if (e.getBoundingClientRect().right <= innerWidth + 1) return false;
          for (let p = e.parentElement; p; p = p.parentElement)
            if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return false;
          return true;
        })"""
    )


def barriers(page) -> list[str]:
    """What axe-core finds on a page that a keyboard, a screen reader or weak eyes stumble over."""
    from axe_playwright_python.sync_playwright import Axe  # what that imports reads half a megabyte

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]


@pytest.fixture
def started():
    """Starts a sweep, see `sweeps.Sweep`; whatever becomes of the test, nothing of it lives on."""
    from sweeps import Sweep  # what that imports takes a second

    sweeps: list[Sweep] = []
    yield lambda *arguments, **options: sweeps.append(Sweep(*arguments, **options)) or sweeps[-1]
    for sweep in sweeps:
        sweep.kill()
