"""The page of a run, a comparison, a demo or a rerun: an executed notebook as one HTML file, with facts at its top.

HTML that cells display is kept, except what would load or run something. Files beside the notebook are put into the
page. What cannot be shown is named.
"""

import json
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup, escape
from PIL import Image

from seqae.reports.head import Facts
from seqae.reports.media import MEDIA, UNWANTED, WORDLESS, data_uri, linked, svg_alone
from seqae.reports.media import beside as beside_notebook
from seqae.reports.mending import keep_percentages, mend_table
from seqae.reports.rendering import write_page
from seqae.reports.screen import screen, terminal_html

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag
    from nbformat import NotebookNode

IMAGES = ("image/svg+xml", *(f"image/{kind}" for kind in ("png", "jpeg", "gif", "webp", "avif", "bmp")))
# Their text/plain says nothing.
SCRIPTED = {"application/vnd.jupyter.widget-view+json": "a widget", "application/javascript": "a script"}


@dataclass(frozen=True)
class _Heading:
    level: int
    text: str
    id: str


@dataclass(frozen=True)
class _Picture:
    src: str  # a data URI
    alt: str
    width: int | None  # pixels
    height: int | None
    least_width: int | None  # below which its text would be too small
    themed: bool  # has paper and ink of its own for dark pages; others stay on white


@dataclass(frozen=True)
class _Output:
    kind: str  # figure | html | text | error | stdout | stderr
    content: Markup | _Picture


@dataclass(frozen=True)
class _Cell:
    node: "NotebookNode"
    html: Markup  # the text, or the code
    outputs: Sequence[_Output]


def _conclusion_first(cells: "list[NotebookNode]") -> "list[NotebookNode]":
    starts = [n for n, cell in enumerate(cells) if re.match(r"#+ Conclusion\s*$", cell.source, re.MULTILINE)]
    return [*cells[starts[-1] :], *cells[: starts[-1]]] if starts else cells


def render_notebook(notebook: Path, html: Path, facts: Facts, *, beside: Path | None = None) -> None:
    """Write `notebook` as one HTML page. Where it is missing or torn, the page holds the facts and says so.

    beside: the folder of the notebook that was executed into this one, where its pictures are looked for first.
    """
    import nbformat  # here, because it takes a second to import where JupyterLab is installed

    try:
        cells, trouble = nbformat.read(notebook, as_version=4).cells, None
    except (FileNotFoundError, ValueError) as error:
        cells, trouble = [], f"{notebook.name} cannot be read: {error}"
    if facts.ends_first:
        cells = _conclusion_first(cells)
    render_cells(cells, html, facts, folders=[beside or notebook.parent, notebook.parent], trouble=trouble)


def render_cells(
    cells: "Sequence[NotebookNode]", html: Path, facts: Facts, *, folders: Sequence[Path], trouble: str | None = None
) -> None:
    """Write the cells of a notebook as one HTML page.

    folders: where the files that cells show are looked for. trouble: why cells are missing, if they are.
    """
    page = _Notebook(folders, html.parent, facts.title)
    shown = [page.cell(cell) for cell in cells if page.wants(cell)]
    write_page(
        html,
        "report.html.j2",
        facts=facts,
        files=[name for name in facts.files if (html.parent / name).exists()],
        trouble=trouble,
        cells=shown,
        contents=page.contents,
        broken=any(output.kind == "error" for cell in shown for output in cell.outputs),
    )


class _Notebook:
    """Turns cells into what the template shows, and collects the headings on the way."""

    def __init__(self, folders: Sequence[Path], home: Path, title: str) -> None:
        from nbconvert.filters.markdown_mistune import MarkdownWithMath

        from seqae.reports.formulas import FormulaRenderer, with_formulas

        self.folders = folders  # of the files that cells refer to
        self.home = home  # the page's own folder
        self.title = f"<p>{escape(title)}</p>"  # as a run in a sweep shows itself, see `Run`: the page has it above
        self.contents: list[_Heading] = []
        self.ids: Counter[str] = Counter()
        self.above: list[int] = []  # the levels of the headings that the next one may stand under
        self.figures = 0
        self.reduced = False  # whether the last fragment had something that a page cannot have
        self.renderer = FormulaRenderer(escape=False, exclude_anchor_links=True)
        self.with_formulas = with_formulas
        self.parser = MarkdownWithMath(renderer=self.renderer)  # Jupyter's own markdown

    def wants(self, cell: "NotebookNode") -> bool:
        filled = bool(cell.source.strip() or cell.get("outputs"))
        return filled and "papermill-error-cell-tag" not in cell.metadata.get("tags", ())

    def cell(self, cell: "NotebookNode") -> _Cell:
        if cell.cell_type == "markdown":
            with suppress(Exception):  # a library's, of any type: then the text is shown as it was written
                return _Cell(cell, linked(self.markdown(cell.source, cell.get("attachments", {})), self.home), [])
        if cell.cell_type in ("markdown", "raw"):
            return _Cell(cell, Markup(f"<pre>{escape(cell.source)}</pre>"), [])
        code = cell.source.removeprefix("# Parameters\n")  # papermill's own line above the parameters it injects
        html = Markup(self.renderer.block_code(code, "python"))
        outputs: list[_Output] = []
        for output in self.outputs(cell):  # what is left out is said once, however often a bar was drawn anew
            if output.content and not (output.kind == "lost" and output in outputs):
                outputs.append(output)
        return _Cell(cell, html, outputs)

    def outputs(self, cell: "NotebookNode") -> Iterator[_Output]:
        # All of a cell's stderr is one text, so that prints between two steps of a progress bar do not split the bar.
        ordered = sorted(cell.outputs, key=lambda output: output.get("name") != "stderr")
        for stream, group in groupby(ordered, key=lambda output: output.get("name")):
            if stream:
                text = "".join(output.text for output in group)
                yield self.shown(lambda text, kind=stream: _Output(kind, terminal_html(screen(text))), text)
                continue
            for output in group:
                if output.output_type == "error":
                    yield _Output("error", terminal_html("\n".join(output.traceback)))
                elif output.get("data", {}).get("text/html") != self.title:
                    yield self.shown(self.richest, output.get("data", {}), {**cell.metadata, **output.metadata})

    def shown(self, show: Callable[..., _Output], *given: Any) -> _Output:
        """What `show` returns, or a line that says why it failed: one odd output must not cost the page."""
        try:
            return show(*given)
        except Exception as error:  # a library's, of any type
            told = f"{type(error).__name__}: {error}".rstrip(": ")
            return _Output("lost", Markup(escape(f"left out, since a page cannot show it: {told}")))

    def richest(self, data: Mapping[str, Any], metadata: Mapping[str, Any]) -> _Output:
        """The richest form of an output that the page can show; else a line that says what was left out."""
        if "text/html" in data and (html := self.fragment(data["text/html"])):
            return _Output("html", html)
        for mime in ("text/markdown", "text/latex"):
            if mime in data and (html := self.markdown(data[mime], {})):
                return _Output("html", html)
        for mime in (mime for mime in IMAGES if mime in data):
            with suppress(ValueError, OSError, Image.DecompressionBombError):  # it is no picture, or too large a one
                return _Output("figure", self.figure(mime, data[mime], metadata))
        if "application/json" in data:
            return _Output("text", Markup(escape(json.dumps(data["application/json"], indent=2, ensure_ascii=False))))
        lost = [SCRIPTED.get(mime, mime) for mime in data if mime not in ("text/plain", "text/html")]
        if "text/html" in data and self.reduced:
            lost.append("HTML that a script fills")
        plain = data.get("text/plain", "")
        says_little = not SCRIPTED.keys().isdisjoint(data) or re.fullmatch(r"(<.*>)?", plain.strip(), re.DOTALL)
        left_out = Markup(escape(f"left out, since a page cannot show it: {', '.join(lost)}"))
        if lost and says_little:
            return _Output("lost", left_out)
        return _Output("text", terminal_html(plain) + (Markup("\n({})").format(left_out) if lost else ""))

    def figure(self, mime: str, data: str, metadata: Mapping[str, Any]) -> _Picture:
        own = {**metadata, **(metadata.get(mime) or {})}
        width, height = own.get("width"), own.get("height")
        themed = mime == "image/svg+xml" and "prefers-color-scheme" in data
        if mime == "image/svg+xml":
            data = b64encode(svg_alone(data).encode()).decode()
        elif not width:
            with Image.open(BytesIO(b64decode(data))) as image:
                width, height = image.size
        src = f"data:{mime};base64,{''.join(data.split())}"
        return _Picture(src, own.get("alt") or self.alt(), width, height, own.get("least_width"), themed)

    def alt(self) -> str:
        """The alt text of a picture that has none: the heading above it and a number."""
        self.figures += 1
        return " ".join([*(heading.text for heading in self.contents[-1:]), f"figure {self.figures}"])

    def markdown(self, source: str, attachments: dict[str, dict[str, str]]) -> Markup:
        self.renderer.attachments = attachments
        return self.fragment(self.parser.render(source), headings=True)

    def fragment(self, html: str, headings: bool = False) -> Markup:
        """HTML of a cell, made to stand alone: it loads and runs nothing, pictures have alt texts, tables scroll."""
        from bs4 import BeautifulSoup

        soup = BeautifulSoup(html, "html.parser")
        self.reduced = soup.select_one(f"{UNWANTED}, {MEDIA}, form") is not None
        lost = [tag for tag in soup.select("iframe[srcdoc]:not([src])") if not tag.get_text(strip=True)]
        for form in soup.select("form"):
            form.unwrap()
        for tag in soup.select(f"h1, h2, h3, h4, h5, h6, table, {MEDIA}"):
            if tag.name == "table":
                mend_table(tag, soup)
            elif not re.fullmatch("h[1-6]", tag.name):
                self.embed(tag, soup)
            elif headings and (text := " ".join(tag.get_text().split())):
                self.heading(tag, text, soup)
        for tag in soup.select(UNWANTED):
            tag.decompose()
        if not headings:  # in Markdown they are formulas already
            self.with_formulas(soup)
        keep_percentages(soup)
        for tag in soup.select("*"):
            for name in [name for name in tag.attrs if name.startswith("on")]:
                del tag[name]
        shows = soup.get_text(strip=True) or soup.select_one(WORDLESS)
        told = Markup('<p class="lost">an iframe cannot be shown in a page</p>' if lost else "")
        return Markup(str(soup).strip()) + told if shows else Markup()

    def embed(self, tag: "Tag", soup: "BeautifulSoup") -> None:
        """Put the file that a tag shows into the tag. Where that is not possible, a link or a note replaces the tag."""
        first = re.match(r"[^\s,]*", str(tag.get("srcset") or "").strip())
        named = [tag.get(name) for name in ("src", "data", "href", "xlink:href")]
        source = str(next(filter(None, named), first and first[0]) or "")
        file = beside_notebook(source, self.folders)
        if tag.name == "input":
            tag.name = "img"
            del tag["type"]
        if tag.name == "image" and (found := source if source.startswith("data:") else file and data_uri(file)):
            tag["href"] = found  # in an SVG
            return
        if tag.name == "img":
            for other in tag.parent.select("source[srcset]") if tag.parent and tag.parent.name == "picture" else ():
                other.decompose()  # a browser would try it, and show nothing instead of the picture
            tag["alt"] = tag.get("alt") or self.alt()
            del tag["srcset"]
        if tag.name in ("img", "video", "audio", "source"):
            if file and (found := data_uri(file)):
                tag["src"] = source = found
            if source.startswith("data:"):
                tag["src"] = source
                return
        elif tag.name in ("object", "embed") and file and (found := data_uri(file) or "").startswith("data:image/"):
            tag.replace_with(soup.new_tag("img", attrs={"src": str(found), "alt": str(tag.get("title") or self.alt())}))
            return
        told = str(tag.get("alt") or tag.get("title") or source or tag.name)
        if re.match(r"(https?:)?//", source):
            shown = soup.new_tag("a", attrs={"href": source})
            shown.string = told
        elif source and not source.startswith("data:"):
            shown = soup.new_tag("span", attrs={"class": "lost"})
            why = "cannot be shown in a page" if file else "was not found"
            shown.string = f"{source} {why}" + (f": {told}" if told != source else "")
        else:
            (tag.unwrap if tag.get_text(strip=True) else tag.decompose)()  # an object has its own words for this
            return
        if tag.name == "image" and (drawing := tag.find_parent("svg")):
            drawing.insert_after(shown)
            tag.decompose()
        else:
            (tag.parent if tag.name == "source" and tag.parent else tag).replace_with(shown)

    def heading(self, tag: "Tag", text: str, soup: "BeautifulSoup") -> None:
        """Gives a heading its id and a link to it, and notes it for the table of contents."""
        level = int(tag.name[1])
        self.above = [*(one for one in self.above if one < level), level]  # so that no level is left out
        level, anchor = len(self.above), "-".join(text.split())  # Jupyter's ids, so links work in both
        self.ids[anchor] += 1
        anchor += f"-{self.ids[anchor]}" if self.ids[anchor] > 1 else ""
        self.contents.append(_Heading(level, text, anchor))
        tag.name, tag["id"] = f"h{min(level + 1, 6)}", anchor  # h1 is the page's title
        link = soup.new_tag(
            "a", attrs={"class": "anchor", "href": f"#{quote(anchor)}", "aria-label": f"Link to {text}"}
        )
        link.string = "#"
        tag.append(link)
