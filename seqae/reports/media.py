"""Pictures, films and sounds that a notebook refers to, put into its page as data URIs."""

import re
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from mimetypes import MimeTypes
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from markupsafe import Markup
from PIL import Image

# Of a cell's HTML, as selectors: what shows a file, what a page cannot have, and what is something without any text.
MEDIA = "img, input[type=image], svg image, video[src], audio[src], source[src], iframe, frame, object, embed"
UNWANTED = "script, link, meta, base, :not(img)[src]:not([src^='data:'])"
WORDLESS = "img, svg, math, video, audio, progress, meter, input, hr, [style*=background]"  # what needs no text
_TYPES = MimeTypes()  # Python's own lack the following; a machine's /etc/mime.types has them, a container has none
for _kind, _suffixes in {
    "image": "webp avif apng",
    "video": "mkv:x-matroska ogv:ogg m4v:mp4",
    "audio": "ogg oga:ogg opus:ogg m4a:mp4 flac wav",
}.items():
    for _suffix in _suffixes.split():
        _TYPES.add_type(f"{_kind}/{_suffix.partition(':')[2] or _suffix}", f".{_suffix.partition(':')[0]}")


def beside(source: str, folders: Sequence[Path]) -> Path | None:
    """The file that a relative or absolute path means, in the first of `folders` that has it; None for URLs as well."""
    if re.match(r"[a-z][a-z0-9+.-]*:|//", source, re.IGNORECASE):
        return None
    path = unquote(re.split("[?#]", source)[0])
    with suppress(OSError, ValueError):
        return next((folder / path for folder in folders if (folder / path).is_file()), None)
    return None


def linked(html: Markup, home: Path) -> Markup:
    """Prose whose links work in a page in the folder `home`: of one to a file that is not there, its text."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for link in soup.select("a[href]"):
        target = urlsplit(str(link["href"]))
        if not (target.scheme or target.netloc) and target.path and not beside(target.path, [home]):
            link.unwrap()
    return Markup(str(soup))


def data_uri(file: Path) -> str | None:
    """A picture, film or sound as a data URI; None for any other file, and for one that cannot be read."""
    mime = _TYPES.guess_type(file.name.lower())[0] or _seen_type(file)
    if not mime.startswith(("image/", "video/", "audio/")):
        return None
    with suppress(OSError):
        return f"data:{mime};base64,{b64encode(file.read_bytes()).decode()}"
    return None


def _seen_type(file: Path) -> str:
    # Of a picture whose name does not tell.
    with suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError), Image.open(file) as image:
        return Image.MIME.get(image.format or "", "")
    return ""


def svg_alone(svg: str) -> str:
    """An SVG as an <img> needs it: whole XML with its namespace. Inline, as Jupyter shows it, it does without both.

    Raises ValueError for what is no XML.
    """
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ValueError(f"no SVG: {error}") from None
    return svg if root.tag != "svg" else re.sub(r"<svg\b", '<svg xmlns="http://www.w3.org/2000/svg"', svg, count=1)
