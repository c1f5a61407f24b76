"""The logs of a run, CSV files that grow row by row, read and cut so that a torn last line does no harm."""

from pathlib import Path
from typing import Any

from seqae.files import replace_text

LOG_COLUMNS = {  # of the logs of a run, by the name of the file without .csv
    "metrics": ["epoch", "step", "seconds", "split", "branch", "metric", "value"],
    "histograms": ["epoch", "branch", "output", "share"],
}


def append_rows(log: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a CSV log. A new log begins with a header line, the keys of the first row."""
    import pandas as pd  # here, because commands that only read runs should not wait 0.5 s for it

    table = pd.DataFrame(rows)
    with log.open("a", encoding="utf-8") as file:
        file.write(table.to_csv(index=False, header=file.tell() == 0))


def truncate_logs(logs: list[Path], epoch: int) -> None:
    """Drop the lines after `epoch` from each log. The header and the other lines stay as they are, byte for byte."""
    for log in logs:
        header, *lines = whole_lines(log)
        kept = [header, *(line for line in lines if int(line.split(",")[0]) <= epoch)]
        replace_text(log, "".join(f"{line}\n" for line in kept))


def whole_lines(log: Path) -> list[str]:
    """The lines of a log of `LOG_COLUMNS`, the header first. A last line without its line end is left out.

    A process that is killed while it writes leaves such a line. A missing log has a header and no rows.
    """
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    return text.rpartition("\n")[0].splitlines() or [",".join(LOG_COLUMNS[log.stem])]
