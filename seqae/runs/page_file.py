"""Whether a run has a page, and the note that takes its place once it is out of date, so that links to it still open.

What is on a page is a matter of `reports`.
"""

from html import escape
from pathlib import Path

from seqae.files import replace_text
from seqae.runs.provenance import now

PAGE = "report.html"
_NOTE = "<!doctype html><!-- in place of a page -->"


def has_page(folder: Path) -> bool:
    """Whether the run in this folder has a page that shows it as it is."""
    try:
        with (folder / PAGE).open(encoding="utf-8", errors="replace") as file:
            return file.read(len(_NOTE)) != _NOTE
    except OSError:
        return False


def outdate_page(folder: Path) -> None:
    """Put a note in the place of a run's page, if there is one: that the run has gone on, and where to look."""
    if not has_page(folder):
        return
    name, when = "/".join(folder.parts[-2:]), now()[:16].replace("T", " ")
    text = f"""{_NOTE}
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{escape(name)}</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem;
overflow-wrap: anywhere }}</style>
<main><h1>{escape(name)}</h1>
<p>This run has gone on since its page was made (it was begun again, or ended, on {when} UTC). When it has ended,
<code>report(run)</code> in its notebook makes a new page, and so does the next <code>seqae run</code> or
<code>seqae compare</code> of its family.</p>
<p>Until then: <a href="run.yaml">its record</a> · <a href="metrics.csv">its figures by epoch</a> ·
<a href="../../index.html">all runs</a></p></main>
"""
    replace_text(folder / PAGE, text)
