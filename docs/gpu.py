"""Writes the figures of `make gpu-check` into gpu.md, and those that `seqae check` reckons with into the package:
python docs/gpu.py gpu-check.json [gpu-check-2.json ...]

Several files are of several calls on one card, for example of its sections in two halves. The first line of gpu.md and
the sentence that README should have, which this prints, say what was measured.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from seqae.benchmark.cost_estimate import RECORDED_GPUS

PAGE = Path(__file__).with_name("gpu.md")
MARKS = "<!-- figures -->", "<!-- end of figures -->"
COLUMNS = (
    "update",
    "ms",
    "eager, ms",
    "`LSTMCell` loop",
    "`nn.LSTM`",
    "kernels",
    "waits",
    "GiB",
    "% of a large product",
)


def read_found(files: list[Path]) -> list[dict[str, Any]]:
    """What these files hold, in their order. Exits for one that measured no GPU, or another card than the first."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for file, each in zip(files, found, strict=True):
        machine, first = each["machine"], found[0]["machine"]
        if not machine["card"] or machine["sizes"] == "tiny":
            sys.exit(f"{file} measured no GPU at full sizes: its figures are not for the page")
        if any(machine[key] != first[key] for key in ("card", "sources")):
            sys.exit(f"{file} is of another card or of other code than {files[0]}: write each by itself")
    return found


def checks_of(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All checks, each with its section; of a section that was run twice, the later ones."""
    sections = {name: section for each in found for name, section in each["sections"].items()}
    return [check | {"section": name} for name, section in sections.items() for check in section["checks"]]


def update_table(checks: list[dict[str, Any]]) -> str:
    """The updates that were timed, a row each, in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for check in checks:
        if "eager_ms" not in (figures := check["figures"]):
            continue
        keys = ("ms", "eager_ms", "× lstmcell_loop", "× nn_lstm", "kernels", "waits", "gib")
        cells = ["–" if (value := figures.get(key)) is None else f"{value:.4g}" for key in keys]
        share = f"{100 * figures['share']:.3g}" if figures.get("share") is not None else "–"
        lines.append("| " + " | ".join([check["check"].removeprefix("update "), *cells, share]) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No update was timed."


def figures_text(found: list[dict[str, Any]]) -> str:
    """All that the page shows of these files."""
    machine, checks = found[0]["machine"], checks_of(found)
    facts = ", ".join(
        f"{key} {machine[key]}" for key in ("card", "driver", "torch", "cuda", "cudnn", "python", "cores")
    )
    counts = {outcome: sum(check["outcome"] == outcome for check in checks) for outcome in ("PASS", "FAIL", "SKIP")}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    lines = [f"{facts}; {machine['date'][:10]}, commit {machine['commit']}: {told}.", "", update_table(checks), ""]
    lines += ["`ms` is the faster of eager and captured; peers are how many times as long.", ""]
    others = [check for check in checks if "eager_ms" not in check["figures"] or check["outcome"] == "FAIL"]
    lines += [f"- {check['outcome']} {check['section']}: {check['check']}: {check['text']}" for check in others]
    return "\n".join(lines)


def title(machine: dict[str, Any]) -> str:
    """The first line of the page."""
    return f"# On a GPU: figures of an {machine['card']}, {machine['date'][:10]}, commit {machine['commit']}"


def sentence(machine: dict[str, Any], checks: list[dict[str, Any]]) -> str:
    """What README should say."""
    failed = sum(check["outcome"] == "FAIL" for check in checks)
    how = f"{failed} checks fail" if failed else "all checks pass"
    return f"On an {machine['card']}, {how}: [what was measured, and how to check another card](docs/gpu.md)."


def recorded(
    checks: list[dict[str, Any]], machine: dict[str, Any], before: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The times of updates, for `seqae check`; those from before stay, but for this card's of the same update."""
    of_card = {key: machine[key] for key in ("card", "date", "commit")}
    new = [
        {"key": figures["key"], "ms": round(figures["ms"], 4)} | of_card
        for figures in (check["figures"] for check in checks)
        if "eager_ms" in figures
    ]
    taken = {(entry["card"], entry["key"]) for entry in new}
    return [entry for entry in before if (entry["card"], entry["key"]) not in taken] + new


def main(files: list[Path], page: Path = PAGE, package: Path = RECORDED_GPUS) -> str:
    """Write page and package; return README's sentence."""
    found = read_found(files)
    machine, checks = found[0]["machine"], checks_of(found)
    text = page.read_text(encoding="utf-8")
    if not {*MARKS} <= {*text.splitlines()}:
        sys.exit(f"{page} has no lines {' and '.join(MARKS)} to write between")
    new = "\n".join([MARKS[0], figures_text(found), MARKS[1]])
    text = re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: new, text, flags=re.DOTALL)
    page.write_text(re.sub(r"\A.*", lambda _: title(machine), text), encoding="utf-8")
    entries = recorded(checks, machine, json.loads(package.read_text(encoding="utf-8")))
    package.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return sentence(machine, checks)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    sys.stdout.write(main([Path(name) for name in sys.argv[1:]]) + "\n")
