"""HTML of a notebook's cell, made to read well on a page: tables and percentages."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

LONG = 30  # characters: of a column with such a cell, which would be broken into a line a word where it is narrow
NUMBER = re.compile(r"[-+−±~<>≤≥]?\s*[.\d∞]|(nan|none|[–-]|)$", re.IGNORECASE)  # or that there is none

PERCENT = re.compile(r"[\d.,]+ %")


def unbroken(html: str) -> str:
    """No line of this HTML, of words alone, ends between a number and its %."""
    return PERCENT.sub(r'<span class="together">\g<0></span>', html)


def keep_percentages(soup: "BeautifulSoup") -> None:
    """Make the words of all tags `unbroken`, but what is shown letter by letter."""
    from bs4 import BeautifulSoup

    for words in soup.find_all(string=PERCENT):
        if not words.find_parent(["pre", "code", "script", "style", "svg"]):
            words.replace_with(BeautifulSoup(unbroken(words.output_ready(formatter="html")), "html.parser"))


def mend_table(table: "Tag", soup: "BeautifulSoup") -> None:
    """Let a table scroll in its own frame, tell columns of words from those of numbers, and empty corners from heads.

    Cells and heads of a column that has no number get the class `words`, if one of them is long `long`, too.
    """
    if table.find_parent("table") is None:
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
    for corner in table.select("th"):  # pandas leaves some empty, which a screen reader would read as a heading
        corner.name = "th" if corner.get_text(strip=True) or corner.find(True) else "td"
    rows = [row.find_all("td", recursive=False) for row in table.select("tbody > tr")]
    heads = [row.find_all(["th", "td"], recursive=False) for row in table.select("thead > tr")]
    heads = [row for row in heads if not any(cell.has_attr("colspan") for cell in row)]
    if any(cell.has_attr("colspan") for row in rows for cell in row):
        return
    for place in range(1, 1 + min(map(len, rows), default=0)):  # from the right: row heads, on the left, may span rows
        column = [row[-place] for row in rows]
        texts = [cell.get_text(strip=True) for cell in column]
        if not all(map(NUMBER.match, texts)):
            kinds = ["words", "long"] if max(map(len, texts)) > LONG else ["words"]
            for cell in [*column, *(row[-place] for row in heads if len(row) >= place)]:
                cell["class"] = " ".join([*(cell.get("class") or ()), *kinds])
