"""HTML from the templates: the one jinja environment, and pages written as whole files.

A page stands alone. Pictures are data URIs, styles and scripts are inline, and the content security policy of the page
allows no request to any network and no script but the page's own. jinja escapes names, values and errors of runs.
"""

import hashlib
import re
from base64 import b64encode
from datetime import timedelta
from functools import cache
from os import fsencode
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from seqae.files import whole
from seqae.reports.mending import unbroken
from seqae.runs import duration, four_digits

TONES = {  # of a badge, by the first word of a status or a verdict
    "learned": "good", "running": "busy", "interrupted": "warn", "stuck": "warn", "worse": "worse",
    "cannot": "never", "failed": "bad", "diverged": "bad",
}  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {
        "tone": lambda words: TONES.get(re.split(r"\W", words.lower(), maxsplit=1)[0], "calm"),
        "path": lambda href: quote(fsencode(href.lstrip("/"))),  # a quoted path has no scheme, no host and no fragment
        "way": _way,
        "saved_as": saved_as,
        "digits": four_digits,
        # where a long name may go on in the next line, and a percentage may not
        "parted": lambda text: Markup(unbroken(re.sub(r"(?<=[a-z])([:_/])(?=\w)", r"\1<wbr>", str(escape(text))))),
        "with_code": lambda text: Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(text))),
        "duration": lambda seconds: duration(seconds) if seconds >= 86400 else str(timedelta(seconds=round(seconds))),
        "sha256": lambda text: b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    }
    return environment


def _way(href: str) -> str:
    # A path of our own, which may have a fragment, quoted already.
    path, mark, fragment = href.partition("#")
    return quote(fsencode(path.lstrip("/"))) + mark + quote(fragment, safe="=&%")


def saved_as(file: str, title: str) -> str:
    """The name under which a file beside a page is saved: the page's title first, since each run has a frames.gif."""
    begins = re.sub(r"[^\w.+-]+", "-", title).strip("-")
    stem, dot, suffix = file.rpartition(".")
    return f"{begins}{dot}{suffix}" if begins.endswith(f"-{stem}") else f"{begins}-{file}"


def render(template: str, **values: object) -> str:
    """A template of templates/, filled in. Raises jinja2.UndefinedError for a value that the template misses."""
    return _environment().get_template(template).render(values)


def write_page(path: Path, template: str, **values: object) -> None:
    """Write a page so that a reader finds the old one or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        text = render(template, **values)
        temporary.write_text(text, encoding="utf-8", errors="replace")  # a file's name need not be Unicode
