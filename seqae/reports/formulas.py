"""Jupyter's Markdown with formulas as MathML, which browsers show without a script and without a request."""

from html import escape
from typing import Any

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer

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


def mathml(tex: str, *, display: bool = False) -> str:
    """A formula as MathML with its TeX as `alttext`. What cannot be converted is shown as it was written."""
    try:
        made = convert(tex, display="block" if display else "inline")
    except Exception:  # the converter raises errors of many kinds, IndexError among them
        return f'<code class="tex">{escape(tex.strip())}</code>'
    return made.replace("<math ", f'<math alttext="{escape(tex.strip())}" ', 1)
