"""A figure displayed in a notebook: one SVG that is sharp at any size and follows the reader's light or dark theme."""

import re
from html import escape
from io import StringIO
from textwrap import fill
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from seqae.reports.figures.style import READABLE, round_ticks

PAPER, DARK_PAPER = "#fdfdfc", "#15171b"  # as of the pages, so that a figure is no card upon them
GROUP_SIZE, GROUP_LETTERS = 10.5, 11  # of a group's name: points, letters an inch
LEAST_TEXT = 9  # pixels: where a page has less room than a figure needs for that, the figure scrolls
INK = {  # in the dark: black and greys, and the colours of the palette that are too dark there
    "#000000": "#dcdfe4", "#4c4c4c": "#b4bbc5", "#666666": "#9aa3ae",
    "#0173b2": "#56aee8", "#029e73": "#35c79c", "#d55e00": "#f28a45",
    **{words: drawn for drawn, words in READABLE.items()},
}  # fmt: skip


def show(figure: Figure, alt: str, group: str = "") -> None:
    """Display a figure once in a notebook, with the alt text for readers who do not see it, and close it.

    group: of runs, see `compare.groups`: the figure's title, unless its panels say it, and part of the alt text.
    """
    from IPython.display import display

    if group:
        if not all(group in axis.get_title() for axis in figure.axes):
            lines = fill(group, round(GROUP_LETTERS * figure.get_figwidth()))
            figure.suptitle(lines, x=0.0, ha="left", y=1.02, va="bottom", fontsize=GROUP_SIZE)
        alt = f"{alt}, {group}"
    data, metadata = as_output(figure, alt)
    display(data, raw=True, metadata=metadata)
    plt.close(figure)


def as_output(figure: Figure, alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data and the metadata of a cell's output that shows the figure. Its ticks become round numbers."""
    round_ticks(figure)
    text = themed_svg(figure, alt)
    width, height = (round(float(number) * 4 / 3) for number in re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2])
    sizes = [
        float(found.get_fontsize()) * 4 / 3
        for found in figure.findobj(Text)
        if found.get_text() and found.get_visible()
    ]
    least = min(width, round(width * LEAST_TEXT / min(sizes, default=LEAST_TEXT)))
    told = {"alt": alt, "width": width, "height": height, "least_width": least}
    return {"image/svg+xml": text, "text/plain": alt}, {"image/svg+xml": told}


def themed_svg(figure: Figure, alt: str) -> str:
    """The figure as SVG: its paper and its black and grey ink are other ones where the reader prefers a dark page.

    Text is drawn as paths, so that it looks the same everywhere. What a figure draws in colours keeps them.
    """
    figure.set_facecolor(PAPER)
    figure.patch.set_gid("paper")
    for n, axis in enumerate(figure.axes):
        axis.patch.set_gid(f"paper-axes-{n}")
        axis.patch.set_facecolor("none")
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes)]  # findobj would make every tick first
    for n, legend in enumerate(filter(None, legends)):
        legend.get_frame().set_gid(f"paper-legend-{n}")
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "seqae"}):
        figure.savefig(out := StringIO(), format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    head, rest = text.split(">", 1)
    return f'{head} role="img">\n<title>{escape(alt)}</title>\n<style>{_dark_rules()}</style>{rest}'


def _dark_rules() -> str:
    # matplotlib writes no colour where text is black, so that it inherits the root's.
    rules = [f"svg{{fill:{INK['#000000']}}}"]
    for paint in ("fill", "stroke"):
        rules += [f'[style*="{paint}: {light}"]{{{paint}:{dark}!important}}' for light, dark in INK.items()]
    rules.append(f"#paper path,[id^=paper-legend] path{{fill:{DARK_PAPER}!important}}")
    return f"@media(prefers-color-scheme:dark){{{''.join(rules)}}}"
