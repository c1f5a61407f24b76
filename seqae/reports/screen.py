"""What a terminal would show of a text that moves its cursor, as progress bars do."""

import re

from markupsafe import Markup

HUES = {4: "red", 2: "green", 6: "yellow", 1: "blue", 5: "magenta", 3: "cyan"}  # by red 4, green 2, blue 1


def screen(text: str) -> str:
    """What a terminal shows in the end, without colours where the text moves its cursor; any other text as it is.

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
            row = max(row - int(re.sub(r"\D.*", "", part[2:-1]) or 1), 0)
        elif part[-1] == "K":
            lines[row] = "" if part[2:-1] == "2" else lines[row][:column]
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def terminal_html(text: str) -> Markup:
    """HTML of a text with a terminal's colours. Each of 256 becomes one of the page's own, legible in both themes."""
    from nbconvert.filters.ansi import ansi2html

    def own(match: re.Match[str]) -> str:
        levels = [int(level) for level in match.groups()]
        bits = sum(4 >> i for i, level in enumerate(levels) if 2 * level > max(levels))
        return f'style="color: var(--{HUES.get(bits, "soft")})'

    html = re.sub(r'style="color: rgb\((\d+),(\d+),(\d+)\)', own, ansi2html(text))
    return Markup(re.sub(r'background-color: rgb\([\d,]+\)(?=")', "background-color: var(--mark)", html))
