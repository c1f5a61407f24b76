"""Takes the README's screenshots of the runs of a store: python docs/screenshots.py [STORE], by default reports/.

The store has the family `losses` at one scale, and some of its runs with several seeds.
"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from seqae.reports import compare, figures
from seqae.runs import find_runs

HERE = Path(__file__).parent


def save(page: Page, name: str) -> None:
    """Saves what the screen shows, in 128 colours, which are enough here."""
    page.screenshot(path=HERE / name)
    with Image.open(HERE / name) as picture:
        picture.convert("RGB").quantize(128).save(HERE / name, optimize=True)


def comparison(browser: Browser, store: Path) -> None:
    """The index, with the runs that learned compared side by side."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto((store / "index.html").as_uri())
    page.get_by_label("Filter").fill("learned")
    for pick in page.locator("tr:visible :is(.pick, .pick-seeds)").all()[:5]:
        pick.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    save(page, "comparison.png")


def report(browser: Browser, store: Path) -> None:
    """The animation of a run of task both, stopped at frame 14, a predicted one."""
    page = browser.new_page(viewport={"width": 1200, "height": 980}, color_scheme="dark")
    page.goto(min(store.glob("*/0nm-both-*/report.html")).as_uri())
    page.get_by_role("slider").fill("13")
    page.get_by_role("heading", name="What does it see?").evaluate("e => e.scrollIntoView()")
    save(page, "report.png")


def losses_in_ways(store: Path) -> None:
    """The main figure of `compare/losses`, of the first seed."""
    done = [run for run in find_runs(store, "losses") if run.status == "done"]
    first = min(run.parameters.seed for run in done)
    grid = compare.alike([run for run in done if run.parameters.seed == first], "loss", "task", "decoder_input")
    figure = figures.losses_in_ways(compare.by_epoch(grid), compare.levels(grid))
    figure.savefig(HERE / "losses-in-ways.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    given = Path(*sys.argv[1:2] or ["reports"]).resolve()
    losses_in_ways(given)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for picture in (comparison, report):
            picture(chromium, given)
