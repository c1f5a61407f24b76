"""Jupyter's Markdown with formulas as MathML, which browsers show without a script and without a request."""

import re
from html import escape
from typing import TYPE_CHECKING, Any

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

_TEX = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
WHOLE = {"equation", "equation*", "displaymath", "math"}  # environments that are what their body is


class FormulaRenderer(IPythonRenderer):
    """nbconvert's renderer, but for formulas; and an attachment that is missing is left as it is, not raised."""

    def block_math(self, body: str) -> str:
        return mathml(body, display=True)

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(body if name in WHOLE else rf"\begin{{{name}}}{body}\end{{{name}}}", display=name != "math")

    def image(self, text: str, url: str, title: str | None = None) -> Any:
        missing = url.startswith("attachment:") and not self.attachments.get(url.removeprefix("attachment:"))
        return super(IPythonRenderer, self).image(text, url, title) if missing else super().image(text, url, title)


def with_formulas(soup: "BeautifulSoup") -> None:
    """Turn the TeX in the text of a cell's HTML into formulas, as MathJax would in Jupyter: between $$, \\[ and \\], or
    \\( and \\). A single $ may be money, and is left as it is.
    """
    from bs4 import BeautifulSoup

    for text in soup.find_all(string=_TEX):
        if text.find_parent(["style", "script", "pre", "code", "textarea", "svg"]) is None:
            parts, made = _TEX.split(text), ""  # text, $$, \\[, \\(, text, …
            for n in range(0, len(parts) - 1, 4):
                block = parts[n + 1] or parts[n + 2]
                made += escape(parts[n]) + mathml(block or parts[n + 3], display=bool(block))
            text.replace_with(BeautifulSoup(made + escape(parts[-1]), "html.parser"))


def mathml(tex: str, *, display: bool = False) -> str:
    """A formula as MathML with its TeX as `alttext`. What cannot be converted is shown as it was written."""
    try:
        made = convert(tex, display="block" if display else "inline")
    except Exception:  # the converter raises errors of many kinds, IndexError among them
        return f'<code class="tex">{escape(tex.strip())}</code>'
    return made.replace("<math ", f'<math alttext="{escape(tex.strip())}" ', 1)
