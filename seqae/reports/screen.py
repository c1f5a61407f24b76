"""What a terminal would show of a text that moves its cursor, as progress bars do."""

import re


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
