"""Pages: an executed notebook as one HTML file, and the index of all runs as another.

Each page is whole in itself: pictures are data URIs, style and script stand inline, and its content security
policy forbids the browser any request and any script but our own. What comes from outside (names, values, errors) is
escaped by jinja; what a notebook's own cells display as HTML is kept, except where it would load or run something.
"""

import hashlib
import os
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from io import BytesIO
from itertools import groupby
from pathlib import Path
from threading import get_ident
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from seqae.metrics import MORE_IS_BETTER, UNITS, four_digits, label

IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif", "image/webp")
SCRIPTED = {"application/vnd.jupyter.widget-view+json", "application/javascript"}  # their text/plain says nothing
UNWANTED = "script, link, meta, base, iframe, frame, object, embed, form, :not(img)[src]:not([src^='data:'])"
THUMBNAIL = (240, 96)  # pixels; shown at half that, so that they are sharp on fine screens
TONES = {
    "learned": "good", "running": "busy", "interrupted": "warn", "stuck": "warn", "saturated": "warn",
    "failed": "bad", "cannot": "bad", "diverged": "bad",
}  # fmt: skip

ADVICE = {  # what to do, by what the reason of a failure holds; our own errors say it themselves
    "out of memory|MemoryError|can't allocate": "Lower batch_size, hidden or width, or have fewer runs at a time: "
    "seqae run --jobs 1.",
    "No space left": "Free space there, or choose another --store.",
    "ModuleNotFoundError": "Install that package into the environment that seqae runs in.",
}


@dataclass(frozen=True)
class Facts:
    """What stands at the top of a report."""

    title: str
    status: str  # done | failed | running | interrupted | waiting
    verdict: str | None
    rows: Sequence[tuple[str, str]]  # label, value
    error: str | None = None  # the reason on the first line, what to do on the others
    files: Sequence[str] = ()  # what lies beside the page, linked where it is there


@dataclass(frozen=True)
class IndexRow:
    """One run in the index; `href` is a plain path relative to the index, quoted when it is written."""

    family: str
    name: str
    href: str
    status: str
    verdict: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    picture: str | None = None  # as `thumbnail`
    started: str = ""
    duration_s: float | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, Any] | None = None  # as `index.beside_others`; with it, the run can be picked to be compared
    defined: Mapping[str, str] = field(default_factory=dict)  # all parameters, for the filter


def advice(reason: str) -> str:
    """What to do about a run that failed for this reason."""
    known = [text for pattern, text in ADVICE.items() if re.search(pattern, reason)]
    return " ".join([*(known or ["Mend the cause."]), "The next seqae run tries this run again."])


def render_notebook(notebook: Path, html: Path, facts: Facts) -> None:
    """Write `notebook` as one HTML page. Where it is missing or torn, the page holds the facts and says so."""
    import nbformat  # here, because it takes a second to import where JupyterLab is installed

    try:
        cells, trouble = nbformat.read(notebook, as_version=4).cells, None
    except (FileNotFoundError, ValueError) as error:
        cells, trouble = [], f"{notebook.name} cannot be read: {error}"
    page = _Notebook(notebook.parent)
    shown = [(cell, *page.cell(cell)) for cell in cells if page.wants(cell)]
    broken = any("error" in dict(outputs) for _, _, outputs in shown)
    files = [name for name in facts.files if (html.parent / name).exists()]
    _write(html, "report.html.j2", facts=facts, files=files, trouble=trouble, cells=shown, contents=page.contents,
           broken=broken)  # fmt: skip


def write_index(html: Path, rows: Sequence[IndexRow], comparisons: Sequence[tuple[str, str]]) -> None:
    """Write the page of all runs; `comparisons` are (title, path relative to the index)."""
    metrics = {column: column.rpartition(" ")[2] for row in rows for column in row.metrics}  # of "recon mse"
    order = [*UNITS, *sorted({*metrics.values()} - UNITS.keys())]
    ordered = sorted(metrics, key=lambda column: (order.index(metrics[column]), not column.startswith("recon"), column))
    columns = {column: label(metrics[column]) for column in ordered}
    told = {pair for row in rows for pair in row.defined.items()}
    varying = {key for key, count in Counter(key for key, _ in told).items() if count > 1}
    shared = sorted(pair for pair in told if pair[0] not in varying)
    defined = ["".join(f"{key}={value}\n" for key, value in r.defined.items() if key in varying) for r in rows]
    best = {column for column in columns if metrics[column] in MORE_IS_BETTER}
    families = sorted(Counter(row.family for row in rows).items())
    _write(html, "index.html.j2", runs=list(zip(rows, defined, strict=True)), columns=columns, families=families,
           best=best, shared="".join(f"{key}={value}\n" for key, value in shared), comparisons=comparisons,
           pictured=any(row.picture for row in rows), states=Counter(row.status for row in rows))  # fmt: skip


class _Notebook:
    """Turns cells into what the template shows, and collects the headings on the way."""

    def __init__(self, folder: Path) -> None:
        from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

        self.contents: list[tuple[int, str, str]] = []  # level, text, id
        self.ids: Counter[str] = Counter()
        self.figures = 0
        self.renderer = IPythonRenderer(escape=False, exclude_anchor_links=True, embed_images=True, path=str(folder))
        self.parser = MarkdownWithMath(renderer=self.renderer)  # Jupyter's own markdown

    def wants(self, cell: Any) -> bool:
        filled = cell.source.strip() or cell.get("outputs")
        return cell.cell_type != "raw" and filled and "papermill-error-cell-tag" not in cell.metadata.get("tags", ())

    def cell(self, cell: Any) -> tuple[Markup, list[tuple[str, Any]]]:
        """The cell's text or code as HTML, and the (kind, content) of each output."""
        if cell.cell_type == "markdown":
            return self.markdown(cell.source, cell.get("attachments", {})), []
        source = cell.source.removeprefix("# Parameters\n")  # papermill's own line above those it injects
        return Markup(self.renderer.block_code(source, "python")), [out for out in self.outputs(cell) if out[1]]

    def outputs(self, cell: Any) -> Iterator[tuple[str, Any]]:
        from nbconvert.filters.ansi import ansi2html

        # All that a cell wrote to stderr is one text: printing in between must not break a progress bar in pieces.
        ordered = sorted(cell.outputs, key=lambda output: output.get("name") != "stderr")
        for stream, group in groupby(ordered, key=lambda output: output.get("name")):
            if stream:
                yield stream, Markup(ansi2html(_screen("".join(output.text for output in group))))
                continue
            for output in group:
                data = output.get("data", {})
                if output.output_type == "error":
                    yield "error", Markup(ansi2html("\n".join(output.traceback)))
                elif "text/html" in data:
                    yield "html", self.fragment(data["text/html"])
                elif "text/markdown" in data:
                    yield "html", self.markdown(data["text/markdown"], {})
                elif mime := next((mime for mime in IMAGES if mime in data), None):
                    yield "figure", self.figure(mime, data[mime], {**cell.metadata, **output.metadata})
                elif "text/plain" in data and SCRIPTED.isdisjoint(data):
                    yield "text", Markup(ansi2html(data["text/plain"]))

    def figure(self, mime: str, data: str, metadata: dict[str, Any]) -> dict[str, Any]:
        own = {"width": None, "height": None, **metadata, **metadata.get(mime, {})}
        if mime == "image/svg+xml":
            data = b64encode(data.encode()).decode()
        elif not own["width"]:
            with Image.open(BytesIO(b64decode(data))) as image:
                own |= {"width": image.width, "height": image.height}
        src = f"data:{mime};base64,{''.join(data.split())}"
        return {"src": src, "alt": own.get("alt") or self.alt(), "width": own["width"], "height": own["height"]}

    def alt(self) -> str:
        """A picture that says nothing of itself is named after the heading that it stands under."""
        self.figures += 1
        return " ".join([*(text for _, text, _ in self.contents[-1:]), f"figure {self.figures}"])

    def markdown(self, source: str, attachments: Any) -> Markup:
        self.renderer.attachments = attachments
        return self.fragment(self.parser.render(source), headings=True)

    def fragment(self, html: str, headings: bool = False) -> Markup:
        """HTML as a cell gave it, made to stand alone: nothing loads or runs, pictures have texts, tables scroll."""
        from bs4 import BeautifulSoup

        soup: Any = BeautifulSoup(html, "html.parser")
        for tag in soup.select(UNWANTED):
            tag.decompose()
        for tag in soup.find_all(True):
            for name in [name for name in tag.attrs if name.startswith("on")]:
                del tag[name]
        for tag in soup.find_all(re.compile("^(h[1-6]|img|table)$")):
            if tag.name == "table" and not tag.find_parent("table"):
                tag.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
            elif tag.name == "img":
                tag["alt"] = tag.get("alt") or self.alt()
                del tag["srcset"]
                if not (source := tag.get("src", "")).startswith("data:"):  # it lies elsewhere: leave the way to it
                    tag.replace_with(link := soup.new_tag("a", attrs={"href": source}))
                    link.string = tag["alt"]
            elif headings and tag.name != "table" and (text := tag.get_text(" ", strip=True)):
                level, anchor = int(tag.name[1]), "-".join(text.split())  # Jupyter's ids, so links work in both
                self.ids[anchor] += 1
                anchor += f"-{self.ids[anchor]}" if self.ids[anchor] > 1 else ""
                self.contents.append((level, text, anchor))
                tag.name, tag["id"] = f"h{min(level + 1, 6)}", anchor  # h1 is the page's title
                tag.append(link := soup.new_tag("a", attrs={"class": "anchor", "href": f"#{quote(anchor)}"}))
                link["aria-label"], link.string = f"Link to {text}", "#"
        return Markup(str(soup).strip())


def _screen(text: str) -> str:
    """What a terminal shows in the end where the text moves its cursor (and then without colours), else the text.

    nbconvert's CoalesceStreamsPreprocessor knows the carriage return, but not the cursor-up of nested tqdm bars.
    """
    if not re.search(r"[\r\b]|\x1b\[\d*[AK]", text):
        return text.strip("\n") if text.strip() else ""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|[\r\n\b]|[^\x1b\r\n\b]+", text):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part in "\r\b":
            column = max(column - 1, 0) if part == "\b" else 0
        elif part[0] != "\x1b":
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
        elif part[-1] == "A":
            row = max(row - int(part[2:-1] or 1), 0)
        elif part[-1] == "K":
            lines[row] = "" if part[2:-1] == "2" else lines[row][:column]
    return "\n".join(line.rstrip() for line in lines).strip("\n")


@cache
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {
        "tone": lambda words: TONES.get(re.split(r"\W", words.lower(), maxsplit=1)[0], "calm"),  # by the first word
        "path": lambda href: quote(href.lstrip("/")),  # no scheme, host or fragment can come of a path
        "digits": four_digits,
        "duration": lambda seconds: str(timedelta(seconds=round(seconds))),
        "sha256": lambda text: b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    }
    return environment


def _write(path: Path, template: str, **values: Any) -> None:
    """Write a page so that a reader finds the old one or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}")
    try:
        text = _environment().get_template(template).render(values)
        temporary.write_text(text, encoding="utf-8", errors="replace")  # a file's name need not be Unicode
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def thumbnail(path: Path) -> str | None:
    """The upper part of a picture, its first sequence, as a small data URI; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB").crop((0, 0, image.width, min(image.height, 2 * image.width // 5)))
    except OSError:  # half written, say: the next index has it
        return None
    small.thumbnail(THUMBNAIL)
    small.save(buffer := BytesIO(), "webp", quality=60, method=0)  # the fastest: of a thousand runs it counts
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"
