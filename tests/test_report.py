"""Pages of runs and the index: what they contain, what they must not contain, how they behave in a real browser."""

import importlib
import json
import mimetypes
import os
import signal
import struct
import zlib
from base64 import b64decode, b64encode
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import filelock
import fsspec
import nbformat.v4 as v4
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from conftest import barriers, fits
from nbformat import NotebookNode, write
from PIL import Image

from seqae import open_run, reports
from seqae.reports import frames, media, pointed_map
from seqae.reports.figures.shown import as_output
from seqae.reports.head import Facts, advice
from seqae.reports.index import IndexRow, thumbnail, write_index
from seqae.reports.page import render_notebook
from seqae.runs import Strip

SMALL = {
    "loss": "0nm", "task": "recon", "architecture": "srivastava", "frame_size": 16, "width": 0.01, "epochs": 1,
    "batch_size": 8, "train_sequences": 8, "val_sequences": 8, "test_sequences": 8,
}  # fmt: skip
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def picture(width: int = 600, height: int = 300, colour: str = "steelblue") -> bytes:
    Image.new("RGB", (width, height), colour).save(buffer := BytesIO(), "png")
    return buffer.getvalue()


def png(**metadata: object) -> NotebookNode:
    data = {"image/png": b64encode(picture()).decode(), "text/plain": "<Figure size 600x300 with 1 Axes>"}
    return v4.new_output("display_data", data, metadata=metadata)


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return v4.new_output("stream", name=name, text=text)


def html_output(html: str) -> NotebookNode:
    return v4.new_output("execute_result", {"text/html": html, "text/plain": "plain twin"}, execution_count=1)


def code(source: str, *outputs: NotebookNode, tags: tuple[str, ...] = (), count: int | None = 1) -> NotebookNode:
    return v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)}, execution_count=count)


def text(source: str, *tags: str) -> NotebookNode:
    return v4.new_markdown_cell(source, metadata={"tags": list(tags)})


TRACEBACK = v4.new_output(
    "error",
    ename="RuntimeError",
    evalue=EVIL,
    traceback=[
        "\x1b[31m---------------------------------------------------------------------------\x1b[39m",
        "\x1b[31mRuntimeError\x1b[39m                              Traceback (most recent call last)",
        "\x1b[38;5;28;01mraise\x1b[39;00m RuntimeError(loss)  \x1b[43m# here\x1b[49m",
        f"\x1b[1;31mRuntimeError\x1b[0m: {EVIL}",
    ],
)
TABLE = (
    '<table border="1" class="dataframe"><thead><tr><th></th><th>mse</th></tr></thead>'
    "<tbody><tr><th>pred</th><td>{}</td></tr></tbody></table>"
)
WIDE = TABLE.replace("<th>mse</th>", "".join(f"<th>a metric number {i}</th>" for i in range(40)))


@pytest.fixture
def report(tmp_path: Path):
    """Write cells as an executed notebook, render it, parse the page."""

    def render(*cells: NotebookNode, facts: Facts | None = None) -> BeautifulSoup:
        write(v4.new_notebook(cells=list(cells)), tmp_path / "notebook.ipynb")
        facts = facts or Facts(
            "losses/0sm-pred-zero", "done", "learned (41 % below mean frame)", [("commit", "3f9c2ab")]
        )
        render_notebook(tmp_path / "notebook.ipynb", tmp_path / "report.html", facts)
        return BeautifulSoup((tmp_path / "report.html").read_text(encoding="utf-8"), "html.parser")

    return render


def failed_run() -> tuple[list[NotebookNode], Facts]:
    """A notebook as papermill leaves it when a cell raises, with every kind of content that a page shows."""
    cells = [
        text("<span>An Exception was encountered at 'In [4]'.</span>", "papermill-error-cell-tag"),
        text(
            "# Which loss can learn?\n\nSome prose with `code`, a [link](https://example.org) and a word " + "x" * 200
        ),
        code("seed = 6\nloss = '0sm'", tags=("parameters",)),
        code(f"# Parameters\nloss = {EVIL!r}\n", tags=("injected-parameters",)),
        text("## Training\n\n| loss | " + " | ".join(f"column {i}" for i in range(30)) + " |\n" + "|---" * 31 + "|"),
        code("fit()", stream("\r 0%|  |\r50%|# |\r100%|##|\n", "stderr"), stream("epoch 1 mse 0.04\n"), png()),
        text("## Numbers"),
        code("frame", html_output(WIDE.format(0.0338)), stream("y" * 500)),
        text("<span>Execution using papermill encountered an exception here</span>", "papermill-error-cell-tag"),
        code("boom()", TRACEBACK),
        code("never()", count=None),
    ]
    rows = [("machine", "a-rather-long-host-name." * 4), ("test mse", "0.0338 (mean frame 0.0372)")]
    facts = Facts("losses/0sm-pred-zero-1a2b3c4d", "failed", None, rows, "RuntimeError: nan\nLower the learning rate.")
    return cells, facts


def comparison_data(i: int) -> dict:
    """Run 3 reconstructs as well; run 9 has other sequences."""
    steps = {"pred": [0.01 * (i + 1), 0.02 * (i + 1)]} | ({"recon": [0.5, 0.6]} if i == 3 else {})
    return {"steps": steps, "mean_frame": dict.fromkeys(steps, 0.1), "sequences": "32×32" if i == 9 else "16×16"}


def an_index(folder: Path, runs: int = 30, alike: Collection[int] = ()) -> Path:
    """alike: runs that differ only by seed."""
    (folder / "frames.png").write_bytes(picture(640, 200))
    words = (
        "learned (41 % below mean frame)",
        "stuck at the mean frame",
        "cannot learn: floor 0.072 > mean frame 0.037",
    )
    rows = [
        IndexRow(
            family=("losses", "models")[i % 2], name=f"run-{i}", href=f"losses/run-{i}/report.html",
            status="failed" if i == 7 else "done", verdict=None if i == 7 else words[i % 3],
            metrics={} if i == 7 else {"pred mse": (i * 7 % runs) / 100} | ({"bce": 0.1} if i % 4 == 0 else {}),
            picture=thumbnail(folder / "frames.png"), started=f"2025-11-23 22:{i % 60:02d}", duration_s=float(i),
            parameters={"learning_rate": f"0.00{i}", "task": "pred"},
            comparison=None if i == 7 else comparison_data(i),
            setting="alike" if i in alike else f"setting {i}", seed=i,
        )
        for i in range(runs)
    ]  # fmt: skip
    write_index(folder / "index.html", rows, {"The 5 × 6 grid": "losses/compare.html"})
    return folder / "index.html"


def test_the_facts_stand_at_the_top(report):
    page = report(text("# Title\n\nProse."))
    header = " ".join(page.header.get_text().split())
    assert page.title.string == page.h1.string == "losses/0sm-pred-zero"
    assert "done" in header
    assert "learned (41 % below mean frame)" in header
    assert [(row.dt.string, row.dd.string) for row in page.select("dl > div")] == [("commit", "3f9c2ab")]
    assert page.select_one(".badge.good").get_text().startswith("learned")
    assert not page.select(".banner")


def test_the_facts_stand_by_what_they_are_about_below_the_way_to_other_pages(report):
    groups = {"the run": [("loss", "0sm")], "made": [("machine", "m"), ("made with code", "3f9c2ab")]}
    links = {"all runs": "../../index.html", "losses: comparison": "../compare.html"}
    page = report(text("# T"), facts=Facts("losses/a", "done", "stuck at the mean frame", groups=groups, links=links))
    assert [(a.string, a["href"]) for a in page.select("nav.ways a")] == [*links.items()]
    assert [about.p.string for about in page.select(".about")] == [*groups]
    assert [[(d.dt.string, d.dd.string) for d in about.select("dl > div")] for about in page.select(".about")] == [
        *groups.values()
    ]
    commands = {"made": [("to make it again", "`seqae run a/b.yaml`, in a <clone> of x")]}
    made = report(text("# T"), facts=Facts("losses/a", "done", None, groups=commands)).select_one(".about dd")
    assert made.get_text() == "seqae run a/b.yaml, in a <clone> of x"
    assert [command.get_text() for command in made.select("code")] == ["seqae run a/b.yaml"]
    assert "stuck at the mean frame on val" in " ".join(page.select_one(".badges").get_text(" ", strip=True).split())
    page = report(text("# T"), facts=Facts("performance/a", "done", "1.8 times as fast as the LSTMCell loop"))
    assert "on val" not in page.select_one(".badges").get_text(), "nothing was trained"
    facts = Facts("losses: comparison", "done", None, [("runs finished", "3 of 23")])
    assert not report(text("# T"), facts=facts).select(".badge"), "the page is done, its runs are not"
    assert report(text("# T"), facts=replace(facts, status="failed")).select_one(".badge.bad")


def test_a_run_is_reported_from_a_notebook_as_it_stands(tmp_path, monkeypatch):
    run = open_run("losses", SMALL, {"store": str(tmp_path / "store")})
    write(v4.new_notebook(cells=[text("# Mine"), code("run", stream("as it stands"))]), tmp_path / "mine.ipynb")
    with pytest.raises(ValueError, match=r"has not begun: call run\.train"):
        reports.report(run, tmp_path / "mine.ipynb")
    run.train()
    with pytest.raises(ValueError, match=r"there is no notebook .*notebook.ipynb: give the one that shows this run"):
        reports.report(run)
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "mine.ipynb"))
    file = reports.report(run)
    page = BeautifulSoup(file.read_text(), "html.parser")
    assert page.select_one("pre.stdout").string == "as it stands"
    assert [about.p.string for about in page.select(".about")] == ["the run", "result", "made"]
    assert f'href="losses/{run.name}/report.html"' in (tmp_path / "store" / "index.html").read_text()
    write(
        v4.new_notebook(cells=[text("# Mine"), v4.new_code_cell("run"), v4.new_code_cell("run.train()")]),
        tmp_path / "mine.ipynb",
    )
    with pytest.warns(UserWarning, match=r"^mine.ipynb on the disk has no outputs, .*: save the notebook, then report"):
        reports.report(run)


def test_a_report_leads_to_its_familys_comparison_whenever_that_is_made(visit, tmp_path):
    run = open_run("losses", SMALL, {"store": str(tmp_path / "store")}).train()
    other = open_run("fam+é ly", SMALL, {"store": str(tmp_path / "store"), "loss": "0sm"}).train()
    write(v4.new_notebook(cells=[]), tmp_path / "mine.ipynb")
    file, index = reports.report(other, tmp_path / "mine.ipynb"), tmp_path / "store" / "index.html"
    page = visit(file, beside=[index])
    page.get_by_role("link", name="fam+é ly: runs and comparison").click()
    assert page.locator(".runs tbody tr:visible").count() == 1, "the runs of this family"
    assert f"fam+é ly/{other.name}" in page.locator(".runs tbody tr:visible").inner_text()
    reports.report(run, tmp_path / "mine.ipynb")
    (compared := run.folder.parent / "compare.html").write_text(
        "<!doctype html><title>c</title><link rel=icon href=data:,>"
    )
    reports.report(run, tmp_path / "mine.ipynb")
    page = visit(run.folder / "report.html", beside=[compared, index])
    page.get_by_role("link", name="all runs").click()
    assert page.get_by_role("navigation", name="Comparisons").get_by_role("link", name="losses").is_visible()
    page.go_back()
    page.get_by_role("link", name="losses: comparison").click()
    assert page.title() == "c"


def test_a_finished_run_without_a_report_gets_a_page_that_a_person_can_read(visit, tmp_path):
    run = open_run("losses", SMALL, {"store": str(tmp_path), "task": "both"}).train()
    report, index = run.folder / "report.html", tmp_path / "index.html"
    with filelock.FileLock(run.folder / ".execution.lock"):  # a worker is about to render it
        reports.give_pages(tmp_path)
        assert not report.exists()
    reports.give_pages(tmp_path)
    reports.update_index(tmp_path)
    page = visit(index, beside=[report])
    page.get_by_role("link", name=run.name).click()
    assert page.locator("h1").inner_text() == f"losses/{run.name}"
    assert page.locator("h2").all_inner_texts() == [
        "Frames of val#",
        "Error by epoch#",
        "Error by frame step, on test#",
        "Conclusion#",
    ]
    assert page.locator(".figure.themed img").count() == 3
    assert "Next:" in page.locator("main").inner_text()
    assert "report(run) in its notebook makes that notebook its report" in page.locator("main").inner_text()
    before = report.stat().st_mtime_ns
    reports.give_pages(tmp_path)
    assert report.stat().st_mtime_ns == before
    write(v4.new_notebook(cells=[text("# Mine")]), tmp_path / "mine.ipynb")
    reports.report(run, tmp_path / "mine.ipynb")
    assert "Mine" in report.read_text()


def opened_in_index(visit, store: Path, ends, raises: type[BaseException]):
    """A run in Jupyter that ends after its last epoch, before it is tested, and its page, by way of the index."""
    run = open_run("losses", SMALL, {"store": str(store), "epochs": 2})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("seqae.runs.run.write_results", ends)
        with pytest.raises(raises):
            run.train()
    reports.give_pages(store)
    reports.update_index(store)
    page = visit(store / "index.html", beside=[run.folder / "report.html"])
    page.get_by_role("link", name=run.name).click()
    return run, page


LEFT_WITH = ["run.yaml", "metrics.csv"]


def test_a_run_that_failed_in_jupyter_gets_a_page_with_the_reason_until_it_is_trained_again(visit, tmp_path):
    run, page = opened_in_index(visit, tmp_path, lambda *_: 1 / 0, ZeroDivisionError)
    report = run.folder / "report.html"
    banner = page.get_by_role("alert").inner_text()
    assert "This run failed" in banner
    assert "ZeroDivisionError: division by zero" in banner
    assert "Fix the cause. The next seqae run, or run.train() in its notebook, tries this run again." in banner
    assert page.locator("h2").all_inner_texts() == ["Error by epoch#"], "the epochs that it came to"
    run.train()
    page.go_back()
    page.get_by_role("link", name=run.name).click()
    assert "This run has gone on since its page was made" in page.locator("main").inner_text()
    assert [link.get_attribute("href") for link in page.get_by_role("link").all()] == [*LEFT_WITH, "../../index.html"]
    assert all((run.folder / name).exists() for name in LEFT_WITH), "nothing that a link of the index leads to is dead"
    reports.give_pages(tmp_path)
    assert "This run failed" not in report.read_text()
    assert "has gone on since" not in report.read_text()


def test_an_interrupted_run_gets_a_page_that_says_how_to_go_on(visit, tmp_path):
    run, page = opened_in_index(visit, tmp_path, lambda *_: signal.raise_signal(signal.SIGINT), KeyboardInterrupt)
    assert "Interrupted after epoch 2 of 2. The next seqae run, or run.train() in its notebook, goes on from" in (
        page.locator("main").inner_text()
    )
    run.train()
    assert "Interrupted after" not in (run.folder / "report.html").read_text()


def test_a_page_in_a_store_at_a_url_is_published_and_replaces_no_report_there(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fs, url = fsspec.filesystem("memory"), "memory://pages/runs"
    run = open_run("losses", SMALL, {"store": url}).train()
    store, there = run.folder.parents[1], f"/pages/runs/losses/{run.name}/report.html"
    assert not fs.exists(there)
    reports.give_pages(store, "losses")
    assert fs.cat_file(there) == (run.folder / "report.html").read_bytes()
    fs.pipe_file(there, b"of the notebook, by another machine")
    (run.folder / "report.html").unlink()
    reports.give_pages(store)
    assert fs.cat_file(there) == (run.folder / "report.html").read_bytes() == b"of the notebook, by another machine"


def test_no_line_ends_between_a_number_and_its_percent_sign(report):
    table = html_output("<table><tbody><tr><td>a &lt; b, 4.5 % above</td></tr></tbody></table><pre>7 % 2</pre>")
    page = report(text("From 20 % on, `7 % 2`."), code("1", table))
    assert [tag.string for tag in page.select("main .together")] == ["20 %", "4.5 %"]
    assert page.select_one("td").get_text() == "a < b, 4.5 % above"


def test_columns_of_words_begin_at_the_left_and_those_of_numbers_end_at_the_right(report):
    told = pd.DataFrame({
        "model": ["FC-LSTM", "3D-CNN"],
        "mse": [0.02, float("nan")],
        "source": ["as later papers quote it, from memory", ""],
        "below": ["−12 %", "–"],
    })  # fmt: skip
    styled = told.set_index(["model"]).style.format(na_rep="")
    for html in (told.to_html(), styled.to_html()):
        for row in report(code("1", html_output(html))).select("tr"):
            mse, source, below = row.find_all(["th", "td"])[-3:]
            assert source["class"][-2:] == ["words", "long"]
            assert not {"words", "long"} & {*mse.get("class", ()), *below.get("class", ())}


def test_a_comparison_begins_with_its_conclusion(report):
    cells = [text("# Losses"), text("## Table"), code("1", stream("the table")), text("## Conclusion"), code("2")]
    facts = Facts("losses: comparison", "done", None, ends_first=True)
    headings = [heading.get_text().rstrip("#") for heading in report(*cells, facts=facts).select("main h2, main h3")]
    assert headings == ["Conclusion", "Losses", "Table"]
    page = report(*cells[:3], facts=facts)
    assert [heading.get_text().rstrip("#") for heading in page.select("main h2, main h3")] == ["Losses", "Table"]


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        ("learned (41 % below mean frame)", "good"),
        ("learned little (14 % below mean frame)", "good"),
        ("stuck at the mean frame", "warn"),
        ("worse than the mean frame (12 % above)", "worse"),
        ("cannot learn: floor 0.072 > mean frame 0.037", "never"),
        ("diverged at epoch 3", "bad"),
    ],
)
def test_a_verdict_is_coloured_by_its_meaning(report, verdict, tone):
    page = report(text("# T"), facts=Facts("losses/a", "done", verdict))
    assert [badge["class"] for badge in page.select(".badge")] == [["badge", "calm"], ["badge", tone]]


def test_a_run_in_a_sweep_does_not_repeat_the_title_of_its_page(report):
    cells = [text("# T"), code("run", html_output("<p>losses/a</p>")), code("1", html_output("<p>losses/b</p>"))]
    page = report(*cells, facts=Facts("losses/a", "done", None))
    assert [shown.get_text() for shown in page.select("main .html")] == ["losses/b"]
    assert "plain twin" not in page.get_text()


def test_a_failed_run_starts_with_the_error_and_what_to_do(report):
    cells, facts = failed_run()
    page = report(*cells, facts=facts)
    banner = page.body.find_next(string=lambda s: s.strip()).find_parent("section")
    assert banner["class"] == ["banner"]
    assert banner.pre.string == "RuntimeError: nan"
    assert "Lower the learning rate." in banner.get_text()
    assert page.select_one(banner.a["href"])["class"] == ["error"]
    assert "Exception was encountered" not in page.get_text()
    assert "using papermill encountered" not in page.get_text()
    folds = page.select("details.code")
    assert ["open" in fold.attrs for fold in folds] == [False, False, False, True, False]  # the cell that broke
    assert "not run" in folds[-1].summary.get_text()
    assert "not run" not in folds[-2].summary.get_text()


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", "batch_size"),
        ("the kernel died: killed, or out of memory", "--jobs 1"),
        ("OSError: [Errno 28] No space left on device", "Free space"),
        ("ModuleNotFoundError: No module named 'x'", "Install that package"),
        ("ZeroDivisionError: division by zero", "Fix the cause."),
    ],
)
def test_each_reason_comes_with_what_to_do(reason, what):
    assert what in advice(reason)
    assert advice(reason).endswith("The next seqae run, or run.train() in its notebook, tries this run again.")


ANOTHER = "and run again: that makes a new run; `seqae clean failed` removes this one."


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("ContractError: model GRU failed on (2, 3): KeyError: 1 (gru.py:12)", f"Fix the cause in gru.py {ANOTHER}"),
        ("ContractError: model GRU returned None", f"Fix the cause in gru.py or losses.py {ANOTHER}"),
        ("ContractError: metric iou failed on (2,): KeyError: 1 (metrics.py:3)", "Fix the cause. The next seqae run"),
        ("ContractError: metric iou returned (2,)", "Fix the cause. The next seqae run"),
        ("RuntimeError: CUDA out of memory", "Lower batch_size, hidden or width, or"),
        ("ZeroDivisionError: division by zero", "Fix the cause. If it is in gru.py or losses.py, run again: that"),
    ],
)  # fmt: skip
def test_an_edit_of_ones_own_code_is_said_to_make_another_run(reason, told):
    assert advice(reason, ["gru.py", "losses.py"]).startswith(told)


def test_files_beside_the_report_are_linked_where_they_are(report, tmp_path):
    (tmp_path / "frames.gif").write_bytes(b"")
    page = report(text("# T"), facts=Facts("a", "done", None, [], files=("frames.gif", "model.safetensors")))
    assert [link["href"] for link in page.select(".files a")] == ["frames.gif"]


@pytest.mark.parametrize(("title", "file", "saved"), [
    ("losses/0nm-pred-zero-1a2b3c4d", "frames.gif", "losses-0nm-pred-zero-1a2b3c4d-frames.gif"),
    ("losses/0nm-pred-zero-1a2b3c4d: demo", "demo.gif", "losses-0nm-pred-zero-1a2b3c4d-demo.gif"),
    ("losses/0nm-pred-zero-1a2b3c4d", "run.yaml", None),
])  # fmt: skip
def test_a_file_is_saved_under_a_name_that_says_of_what_run_it_is(report, tmp_path, title, file, saved):
    (tmp_path / file).write_bytes(b"")
    (link,) = report(text("# T"), facts=Facts(title, "done", None, [], files=(file,))).select(".files a")
    assert (link["href"], link.get("download")) == (file, saved), "run.yaml is for reading"


@pytest.mark.parametrize("torn", [None, "", '{"cells": [{"cell_ty', '{"cells": 3'])
def test_a_missing_or_torn_notebook_still_gives_the_facts(tmp_path, torn):
    if torn is not None:
        (tmp_path / "notebook.ipynb").write_text(torn)
    facts = Facts("losses/x", "failed", None, [], "the kernel died\nRun it again.")
    render_notebook(tmp_path / "notebook.ipynb", tmp_path / "report.html", facts)
    page = BeautifulSoup((tmp_path / "report.html").read_text(), "html.parser")
    assert page.select_one(".banner pre").string == "the kernel died"
    assert "notebook.ipynb cannot be read" in page.select_one(".banner").get_text()


def test_code_is_folded_but_the_parameters_of_the_run_are_not(report):
    page = report(
        code("loss = '1tm'", tags=("parameters",)),
        code("# Parameters\nloss = '0sm'\n", tags=("injected-parameters",)),
        code("a = 1\nb = 2"),
        code("  "),
    )
    defaults, cell = page.select("details.code")
    assert defaults.summary.get_text(" ") == "Defaults of this family 1 line"
    assert cell.summary.get_text(" ") == "Code 2 lines"
    assert "open" not in defaults.attrs | cell.attrs
    shown = page.select_one(".parameters")
    assert shown.find_parent("details") is None
    assert shown.get_text("", strip=True).startswith("Parameters of this runloss")
    assert "# Parameters" not in shown.get_text()


def test_headings_make_a_table_of_contents_with_unique_ids(report):
    page = report(
        text("# Top\n\n## A & `b`\n\n### Deep"), text("## A & `b`\n\nagain"), code("", html_output("<h2>own</h2>"))
    )
    links = page.select(".contents a")
    assert [link.get_text() for link in links] == ["Top", "A & b", "Deep", "A & b"]
    targets = [page.find(id=link["href"][1:].replace("%26", "&")) for link in links]
    assert [target.name for target in targets] == ["h2", "h3", "h4", "h3"]
    assert len({target["id"] for target in targets}) == 4
    assert len(page.select("h1")) == 1


def test_every_picture_has_a_text_and_is_in_the_file(report, tmp_path):
    (tmp_path / "beside.png").write_bytes(picture())
    page = report(
        code("", png()),
        text("## Loss curves\n\n![two digits](beside.png) ![](beside.png)"),
        code("", png(), png(alt="output alt"), png(**{"image/png": {"alt": EVIL, "width": 300, "height": 150}})),
        code("", html_output('<img src="data:image/png;base64,AA"><img src="https://example.org/far.png" alt="far">')),
        code("", v4.new_output("display_data", {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'/>"})),
    )
    pictures = page.select("img")
    assert [tag["alt"] for tag in pictures] == [
        "figure 1", "two digits", "Loss curves figure 2", "Loss curves figure 3", "output alt", EVIL,
        "Loss curves figure 4", "Loss curves figure 5",
    ]  # fmt: skip
    assert all(tag["src"].startswith("data:image/") for tag in pictures)
    assert (pictures[0]["width"], pictures[0]["height"]) == ("600", "300")
    assert (pictures[5]["width"], pictures[5]["height"]) == ("300", "150")
    assert page.find("a", string="far")["href"] == "https://example.org/far.png"


def test_prose_links_only_where_the_page_has_something(report, tmp_path):
    (tmp_path / "beside.csv").write_text("a\n")
    page = report(
        text("[notebook](compare/losses.ipynb) [table](beside.csv) [part](#Top) [paper](https://example.org/a.pdf)")
    )
    assert [(a.string, a["href"]) for a in page.select("main a")] == [
        ("table", "beside.csv"), ("part", "#Top"), ("paper", "https://example.org/a.pdf"),
    ]  # fmt: skip
    assert page.main.p.get_text() == "notebook table part paper"


@pytest.mark.parametrize(
    ("chunks", "shown"),
    [
        (["\r  0%|     |", "\r 50%|##   |", "\r100%|#####| 2/2\n"], "100%|#####| 2/2"),
        (["\r 50%|##  |\r100%|####|", "\r            \r"], None),  # tqdm with leave=False
        (["\n\rbatch 10%\x1b[A", "\n\rbatch 99%\x1b[A", "\n\r         \r\x1b[A", "\repoch 1/1\n"], "epoch 1/1"),
        (["long line\rshort"], "shortline"),
        (["working\r\x1b[2Kdone\n"], "done"),
        (["abd\bc"], "abc"),
        (["windows\r\nlines\r\n"], "windows\nlines"),
        (["\n \n"], None),
    ],
)
def test_a_stream_shows_what_a_terminal_would_show_in_the_end(report, chunks, shown):
    page = report(code("fit()", *(stream(chunk, "stderr") for chunk in chunks)))
    assert [pre.string for pre in page.select(".cell > pre")] == ([shown] if shown else [])


def test_printing_does_not_break_a_bar_in_pieces(report):
    outputs = [part for i in range(3) for part in (stream(f"\r{i}/3", "stderr"), stream(f"epoch {i}\n"))]
    page = report(code("fit()", *outputs))
    assert [pre.string for pre in page.select(".cell > pre")] == ["2/3", "epoch 0\nepoch 1\nepoch 2"]


def test_widgets_leave_no_litter_and_other_outputs_stay(report):
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%| | 0/5"}
    page = report(
        code("", v4.new_output("display_data", widget)),
        code("", html_output(TABLE.format("<b>kept</b>"))),
        code("", v4.new_output("display_data", {"text/markdown": "a **bold** word"})),
        code("1 + 1", v4.new_output("execute_result", {"text/plain": "\x1b[31m2\x1b[0m <b>"}, execution_count=1)),
    )
    assert "0/5" not in page.get_text()
    assert "plain twin" not in page.get_text()
    assert page.select_one(".html .scroll > table.dataframe td b").string == "kept"
    assert page.select_one(".html strong").string == "bold"
    assert page.select_one("pre.text").get_text() == "2 <b>"
    assert page.select_one("pre.text .ansi-red-fg").string == "2"


def test_what_would_load_or_run_something_is_taken_out_of_outputs(report):
    loading = (
        '<script src="https://cdn.example/require.js"></script><link rel="stylesheet" href="https://cdn.example/a.css">'
        '<iframe src="https://example.org"></iframe><video src="https://example.org/v.mp4"></video>'
        '<p onclick="run()">stays</p><script>run()</script>'
        '<img alt="s" src="data:," srcset="https://example.org/2x.png 2x">'
    )
    page = report(code("", html_output(loading)))
    output = page.select_one(".html")
    assert [tag.name for tag in output.find_all(True)] == ["a", "a", "p", "img"]
    assert [link["href"] for link in output.select("a")] == ["https://example.org", "https://example.org/v.mp4"]
    assert not output.p.attrs
    assert not [tag for tag in output.find_all(True) if "https://" in f"{tag.get('src')} {tag.get('srcset')}"]


def test_what_a_notebook_refers_to_is_found_where_the_notebook_came_from(tmp_path, visit):
    """The executed notebook lies in the run's folder, its pictures beside the notebook that was executed."""
    source, folder = tmp_path / "notebooks", tmp_path / "run"
    for place in (source / "figures of mine", tmp_path / "docs", folder):
        place.mkdir(parents=True)
    for file in (source / "a.png", source / "figures of mine" / "b.png", tmp_path / "docs" / "c.png", folder / "d.png"):
        file.write_bytes(picture(20, 10))
    (source / "e.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"/>')
    (source / "notes.txt").write_text("secret")
    cells = [
        text(
            "## Setup\n\n![one](a.png) ![two](figures%20of%20mine/b.png 'a title')\n![three][r]\n\n[r]: ../docs/c.png"
        ),
        text(
            '<img src="./a.png" width="30"> <p align="center"><img src="e.svg#part"></p> ![in the run](d.png?raw=true)'
        ),
        code("", html_output('<img src="figures of mine/b.png">')),
        code("", v4.new_output("display_data", {"text/markdown": "![shown](a.png)"})),
        text("![gone](gone.png) ![notes](notes.txt) ![far](https://example.org/far.png) ![none](attachment:no.png)"),
    ]
    write(v4.new_notebook(cells=cells), folder / "notebook.ipynb")
    facts = Facts("losses/a", "done", None, [])
    render_notebook(folder / "notebook.ipynb", folder / "report.html", facts, beside=source)
    page = visit(folder / "report.html")
    images = page.locator("img")
    assert [image.evaluate("e => e.decode().then(() => e.naturalWidth)") for image in images.all()] == [20] * 8
    assert [image.get_attribute("alt") for image in images.all()] == [
        *("one", "two", "three", "Setup figure 1", "Setup figure 2", "in the run", "Setup figure 3", "shown")
    ]
    assert page.locator(".lost").all_inner_texts() == [
        *(
            "gone.png was not found: gone",
            "notes.txt cannot be shown in a page: notes",
            "attachment:no.png was not found: none",
        )
    ]
    assert page.get_by_role("link", name="far").get_attribute("href") == "https://example.org/far.png"
    assert "secret" not in page.content()


FORMULAS = [
    r"The loss is $\frac{1}{N}\sum_i (x_i - \hat{x}_i)^2$ per pixel.",
    "$$\n\\sigma(z) = \\frac{1}{1 + e^{-z}}\n$$",
    "\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}",
    "\\begin{equation}\nh_t = o_t \\odot \\tanh(c_t)\n\\end{equation}",
    r"Both $a < b$ and \\(c > d\\); in **bold** $\mathbf{W} \in \mathbb{R}^{4 \times 4}$",
    r"## The gate $f_t$",
]


def test_formulas_are_shown_as_formulas_and_ask_for_nothing(visit, report, tmp_path):
    math = {"text/latex": r"$\displaystyle \int_0^1 x^2\,dx$", "text/plain": "<IPython.core.display.Math object>"}
    broken = text(r"Before $\frac{1}{$ after, and $\left( x$.")
    cells = [*map(text, FORMULAS), code("Math(…)", v4.new_output("display_data", math)), broken]
    cells += [text("It costs 5 dollars, `$HOME` and \\$3; <b>$x<y$</b> $\\text{<script>alert(1)</script>}$")]
    parsed = report(*cells)
    assert len(parsed.select("math")) >= 10
    assert parsed.select_one("math")["alttext"] == r"\frac{1}{N}\sum_i (x_i - \hat{x}_i)^2"
    assert parsed.select(".contents a")[-1].get_text() == "The gate ft"
    shown = parsed.main.get_text()
    assert "∫" in shown, "the output that is a formula"
    assert not [lost for lost in ("Math object", "left out") if lost in shown]
    assert not [tex for tex in (r"\frac{1}{N}", r"\sigma", r"\begin", r"\displaystyle", r"\odot", "$$") if tex in shown]
    assert r"\frac{1}{" in shown, "what cannot be read is shown as it was written"
    assert "$HOME" in shown
    assert len(parsed.select("script")) == 1
    page = visit(tmp_path / "report.html", width=390)
    assert fits(page)
    tall = page.locator("mfrac").first.evaluate("e => e.getBoundingClientRect().height")
    assert tall > 1.2 * page.locator("mi").first.evaluate("e => e.getBoundingClientRect().height"), "a fraction stacks"


FILLED = "HTML that a script fills"
EMPTIED = '<div id="plot"></div><script>draw()</script>'
PNG = b64encode(picture(20, 10)).decode()


@pytest.mark.parametrize(
    ("data", "kind", "shown"),
    [
        ({"text/html": EMPTIED, "image/png": PNG, "text/plain": "Figure()"}, "figure", None),
        ({"text/html": EMPTIED, "text/markdown": "**told**"}, "html", "told"),
        ({"text/html": EMPTIED, "text/plain": "Figure(a=1)"}, "text", "Figure(a=1)"),
        ({"text/html": EMPTIED, "text/plain": "<IPython.core.display.HTML object>"}, "lost", FILLED),
        ({"text/html": "<style>p {}</style><canvas></canvas><script>x()</script>"}, "lost", FILLED),
        ({"text/html": "<iframe srcdoc='x'></iframe>", "image/png": PNG}, "figure", None),
        ({"text/html": "<iframe src='https://example.org/x'></iframe>"}, "html", "https://example.org/x"),
        ({"text/html": "<table><tr><td>5</td></tr></table><script>sort()</script>"}, "html", "5"),
        ({"text/html": "<div style='background: red; width: 9px'></div>", "image/png": PNG}, "html", ""),
        ({"image/png": "bm8gcGljdHVyZQ==", "text/plain": "<Figure>"}, "lost", "image/png"),
        ({"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'/>", "text/plain": "s"}, "figure", None),
        ({"image/svg+xml": "<svg><g", "text/plain": "Drawing()"}, "text", "cannot show it: image/svg+xml"),
        ({"image/svg+xml": "", "text/plain": "Drawing()"}, "text", "cannot show it: image/svg+xml"),
        ({"text/html": "<p>a</p><form><b>in a form</b></form>"}, "html", "in a form"),
        ({"text/html": "<p>a</p><iframe srcdoc='x'></iframe>"}, "html", "an iframe cannot be shown in a page"),
        ({"text/html": "<p>a</p><object>in its place</object>"}, "html", "in its place"),
        ({"application/pdf": "JVBERi0=", "text/plain": "<PDF object>"}, "lost", "application/pdf"),
        ({"application/vnd.vegalite.v5+json": {}, "text/plain": "alt.Chart(...)"}, "text", "alt.Chart(...)"),
        ({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0/5"}, "lost", "a widget"),
        ({"application/json": {"a": [1]}, "text/plain": "<IPython.core.display.JSON object>"}, "text", '"a"'),
        ({"text/plain": "<module.Thing object>"}, "text", "<module.Thing object>"),
    ],
)  # fmt: skip
def test_of_an_output_the_richest_form_that_survives_is_shown(report, data, kind, shown):
    page = report(code("x", v4.new_output("display_data", data)))
    found = page.select_one(".figure, .html, .cell > pre:not(:has(.highlight))")
    assert found["class"] == [kind]
    assert found.img if shown is None else shown in found.get_text()


def test_an_svg_gets_the_namespace_without_which_no_browser_shows_it_as_a_picture(report):
    page = report(code("x", v4.new_output("display_data", {"image/svg+xml": "<svg width='9'><g/></svg>"})))
    svg = b64decode(page.select_one(".figure img")["src"].partition(",")[2]).decode()
    assert svg == "<svg xmlns=\"http://www.w3.org/2000/svg\" width='9'><g/></svg>"


def test_a_picture_that_only_a_srcset_names_is_in_the_page(report):
    page = report(
        code("x", v4.new_output("display_data", {"text/html": f"a<img srcset='data:image/png;base64,{PNG} 2x'>"}))
    )
    assert page.select_one(".html img")["src"].startswith("data:image/png")


def of_html(report, html: str):
    return report(code("x", v4.new_output("display_data", {"text/html": html}))).select_one(".html")


def test_a_picture_in_a_drawing_or_a_form_is_in_the_page_or_named(report, tmp_path):
    (tmp_path / "beside.png").write_bytes(picture())
    drawing = "<svg><image {}='{}'/></svg>"
    for name in ("href", "xlink:href"):
        assert of_html(report, drawing.format(name, "beside.png")).image["href"].startswith("data:image/png")
    assert of_html(report, drawing.format("href", "gone.png")).get_text(strip=True) == "gone.png was not found"
    shown = of_html(report, "<form>a<input type=image src=beside.png alt=go></form>").img
    assert (shown["src"].partition(",")[0], shown["alt"]) == ("data:image/png;base64", "go")


def test_tex_in_html_is_shown_as_formulas_and_money_as_money(report):
    found = of_html(report, r"<p>$$x^2$$ at \(y_1 < 3\), \[z\], from $5 to $6</p><pre>$$raw$$</pre>")
    assert [formula["alttext"] for formula in found.select("math")] == ["x^2", "y_1 < 3", "z"]
    assert found.p.get_text().endswith("from $5 to $6")
    assert found.pre.get_text() == "$$raw$$"


def giant() -> str:
    """A PNG that says that it has 400 million pixels."""
    parts = {b"IHDR": struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(b""), b"IEND": b""}
    chunks = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts.items()]
    return b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


@pytest.mark.parametrize(
    ("odd", "shown"),
    [
        (v4.new_output("stream", name="stderr", text="lost\rseen\n\x1b[1;1Amore\x1b[?2Ks"), "mores"),
        (v4.new_output("display_data", {"image/png": giant(), "text/plain": "<Figure>"}), "image/png"),
        (v4.new_output("display_data", {"image/png": PNG}, metadata={"image/png": None}), ""),
        (v4.new_output("display_data", {"text/html": "<b>kept</b>"}, metadata={"width": {}}), "kept"),
        (NotebookNode(output_type="display_data", metadata={}, data={"text/html": 3}), "cannot show it: TypeError"),
    ],
)
def test_one_odd_output_costs_no_page(tmp_path, odd, shown):
    notebook = v4.new_notebook(cells=[text("![gone](attachment:a.png)"), code("x"), text("the end")])
    notebook.cells[0].attachments, notebook.cells[1].outputs = {"a.png": {}}, [odd]
    (tmp_path / "n.ipynb").write_text(json.dumps(notebook))
    render_notebook(tmp_path / "n.ipynb", tmp_path / "n.html", Facts("odd", "done", None, ()))
    page = (tmp_path / "n.html").read_text()
    assert "the end" in page
    assert shown in BeautifulSoup(page, "html.parser").get_text()


def test_html_that_is_empty_by_itself_leaves_nothing(report):
    page = report(code("", html_output("<style>p { color: red }</style>"), html_output("")))
    assert not page.select(".lost")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("<picture><source media='(prefers-color-scheme: dark)' srcset='b.png'><img src='a.png' alt='both'></picture>",
         "both"),
        ("![without suffix](plain)", "without suffix"),
        ("<object data='a.svg' title='an object'></object>", "an object"),
        ("<embed src='a.png' title='embedded'>", "embedded"),
        ("![web](a.webp)", "web"),
        ("![in capitals](B.PNG)", "in capitals"),
    ],
)  # fmt: skip
def test_a_picture_is_shown_however_it_is_referred_to(report, visit, tmp_path, source, shown):
    for name in ("a.png", "plain", "B.PNG", "b.png"):
        (tmp_path / name).write_bytes(picture(20, 10))
    Image.open(BytesIO(picture(20, 10))).save(tmp_path / "a.webp")
    (tmp_path / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"/>')
    report(text(source))
    image = visit(tmp_path / "report.html", scheme="dark").locator("img")
    assert image.evaluate("e => e.decode().then(() => e.naturalWidth)") == 20
    assert image.get_attribute("alt") == shown


def test_types_of_files_are_the_same_on_machines_without_a_list_of_them(tmp_path, monkeypatch):
    """Slim containers have no /etc/mime.types, and Python's own list has no webp and no ogg."""
    monkeypatch.setattr(mimetypes, "knownfiles", [])
    for name in ("_db", "types_map", "encodings_map", "suffix_map", "common_types"):
        monkeypatch.setattr(mimetypes, name, None)
    mimetypes.init()
    assert mimetypes.guess_type("a.webp")[0] is None
    types = {"webp": "image/webp", "ogg": "audio/ogg", "m4a": "audio/mp4", "mkv": "video/x-matroska",
             "apng": "image/apng", "mp4": "video/mp4", "svg": "image/svg+xml"}  # fmt: skip
    again = importlib.reload(media)
    for suffix, mime in types.items():
        (tmp_path / f"a.{suffix}").write_bytes(b"content")
        assert again.data_uri(tmp_path / f"a.{suffix}").startswith(f"data:{mime};base64,")
    assert again.data_uri(tmp_path / "gone.txt") is None


def test_a_raw_cell_is_text(report):
    page = report(v4.new_raw_cell("a <b>raw</b> cell\nof two lines"))
    assert page.select_one(".prose pre").get_text() == "a <b>raw</b> cell\nof two lines"


def test_beside_a_text_it_is_said_what_else_was_there(report):
    page = report(code("x", v4.new_output("display_data", {"application/vnd.x+json": {}, "text/plain": "Figure(1)"})))
    told = "left out, since a page cannot show it: application/vnd.x+json"
    assert page.select_one("pre.text").get_text() == f"Figure(1)\n({told})"


def test_films_play_in_the_page(visit, report, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"film")
    videos = '<video controls src="clip.mp4"></video><video controls><source src="data:video/mp4;base64,AA"></video>'
    page = report(code("", html_output(videos + "<audio src='gone.wav'></audio>")))
    assert page.video["src"] == f"data:video/mp4;base64,{b64encode(b'film').decode()}"
    assert len(page.select("video")) == 2
    assert page.select_one(".lost").get_text() == "gone.wav was not found"
    visit(tmp_path / "report.html")


def test_everything_from_outside_is_escaped_in_a_report(report):
    facts = Facts(EVIL, EVIL, EVIL, [(EVIL, EVIL)], f"{EVIL}\n{EVIL}")
    outputs = [TRACEBACK, stream(EVIL), stream(EVIL, "stderr"), png(alt=EVIL)]
    outputs.append(v4.new_output("display_data", {"text/plain": EVIL}))
    page = report(text(f"# `{EVIL}`"), code(f"x = {EVIL!r}", *outputs, tags=("injected-parameters",)), facts=facts)
    assert len(page.select("script")) == 1  # our own
    assert not page.select("[onerror]")
    # Seen as text: 8 times in the facts and the title, in heading and contents, in the code and in 4 outputs.
    assert page.get_text().count("alert(1)") == 8 + 2 + 1 + 4
    assert "alert(" not in page.script.string


def test_everything_from_outside_is_escaped_in_the_index(tmp_path):
    told = {"steps": {EVIL: [1.0]}, "mean_frame": {EVIL: 1.0}, "sequences": EVIL}
    row = IndexRow(
        EVIL,
        EVIL,
        EVIL,
        EVIL,
        EVIL,
        {EVIL: 1.0},
        EVIL,
        EVIL,
        1.0,
        {EVIL: EVIL},
        told,
        {EVIL: EVIL, "a": EVIL},
        setting=EVIL,
        seed=6,
    )
    other = IndexRow("b", "b", "javascript:alert(1)", "done")
    again = replace(row, verdict=EVIL[::-1], seed=7)
    write_index(tmp_path / "index.html", [row, again, other], {EVIL: "//evil.example/x", "b": EVIL})
    page = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser")
    assert len(page.select("script")) == 1
    assert not page.select("[onerror]")
    assert [image["src"] for image in page.select("img")] == [EVIL, EVIL]
    links = [a["href"] for a in page.select("a")]
    assert links[0] == "evil.example/x"
    assert links[-1] == "javascript%3Aalert%281%29"
    assert not any(set(link) & set(":<>\"'") for link in links)


def test_a_report_is_small_and_written_whole(report, tmp_path):
    cells, facts = failed_run()
    cells = [cell for cell in cells if "fit()" not in cell.source]
    report(*cells, facts=facts)
    assert (tmp_path / "report.html").stat().st_size < 40_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebook.ipynb", "report.html"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    write_index(tmp_path / "index.html", [], {})
    before = (tmp_path / "index.html").read_bytes()
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_index(tmp_path / "index.html", [IndexRow("a", "b", "c", "done")], {})
    assert (tmp_path / "index.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_name_that_is_not_unicode_is_shown_as_far_as_it_can_be(tmp_path):
    write_index(tmp_path / "index.html", [IndexRow("losses", "caf\udce9", "losses/run/report.html", "done")], {})
    page = BeautifulSoup((tmp_path / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert page.select_one("tbody a").get_text() == "losses/caf?"


def test_the_index_holds_runs_whose_names_are_not_unicode(tmp_path):
    name = os.fsdecode(b"\xff-1a2b3c4d")
    write_index(tmp_path / "index.html", [IndexRow("fam", name, f"fam/{name}/run.yaml", "done")], {})
    page = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser")
    assert page.select_one("tbody a")["href"] == "fam/%FF-1a2b3c4d/run.yaml"


def test_pages_are_written_from_several_threads(tmp_path):
    """A sweep does so. Each page has its own pictures and headings, and the index is always whole."""
    for name in "abcd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "beside.png").write_bytes(picture(8, 8, "#" + name * 6))
        cells = [text(f"# Run {name}\n\n![own](beside.png)") for _ in range(40)]
        write(v4.new_notebook(cells=cells), tmp_path / name / "notebook.ipynb")

    def render(name: str) -> str:
        render_notebook(tmp_path / name / "notebook.ipynb", tmp_path / name / "r.html", Facts(name, "done", None, []))
        write_index(tmp_path / "index.html", [IndexRow("f", name, f"{name}/r.html", "done")] * 50, {})
        return (tmp_path / name / "r.html").read_text(encoding="utf-8")

    with ThreadPoolExecutor(4) as pool:
        pages = dict(zip("abcd", pool.map(render, "abcd"), strict=True))
    for name, page in pages.items():
        own = b64encode((tmp_path / name / "beside.png").read_bytes()).decode()
        assert page.count("data:image/png;base64,") == page.count(own) == 40
    assert (tmp_path / "index.html").read_text(encoding="utf-8").endswith("</html>")


def test_the_index_has_the_errors_first_and_says_their_units(tmp_path):
    metrics = {"recon psnr": 18.0, "recon mse": 0.01, "own": 3.0, "pred mse": 0.02, "recon mae": 0.05}
    write_index(tmp_path / "index.html", [IndexRow("f", "run", "r.html", "done", metrics=metrics)], {})
    heads = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser").select("thead th[data-type=number]")
    assert [head.get_text(strip=True) for head in heads] == [
        *("recon mse", "pred mse", "recon psnr", "recon mae", "own", "duration")
    ]
    assert [head.get("title") for head in heads[1:4]] == [
        *("mse per pixel, on [0, 1], on test", "psnr, dB, on test", "mae per pixel, on [0, 1], on test")
    ]


def test_the_index_holds_all_runs_and_the_union_of_their_metrics(tmp_path):
    page = BeautifulSoup(an_index(tmp_path).read_text(), "html.parser")
    labels = [th.get_text(strip=True) for th in page.select("thead th")]
    assert labels == ["run", "status", "verdict on val", "frames", "pred mse", "bce", "duration", "started"]
    rows = page.select("tbody tr")
    assert len(rows) == 30
    assert [td.get_text() for td in rows[4].select("td.number")] == ["0.2800", "0.1000", "0:00:04"]
    assert [td.get_text() for td in rows[7].select("td.number")] == ["", "", "0:00:07"]
    assert [badge["class"][1] for badge in rows[7].select(".badge")] == ["bad"]
    assert [badge["class"][1] for row in rows[:3] for badge in row.select(".badge")[1:]] == ["good", "warn", "never"]
    assert rows[0].a["href"] == "losses/run-0/report.html"
    assert page.select_one(".comparisons a")["href"] == "losses/compare.html"
    thumbnail = b64decode(rows[0].img["src"].removeprefix("data:image/webp;base64,"))
    assert Image.open(BytesIO(thumbnail)).size == (240, 75)


@pytest.mark.parametrize("status", ["running", "failed", "waiting"])
def test_seeds_of_which_none_is_done_are_a_line_too(tmp_path, status):
    rows = [IndexRow("f", f"run-seed{n}-1a2b3c4d", "r.html", status, setting="one", seed=n) for n in (6, 7)]
    write_index(tmp_path / "index.html", rows, {})
    page = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser")
    (line,) = page.select("tr.setting")
    assert "n = 2 seeds: 6, 7" in line.get_text()
    assert not line.select("input"), "there is nothing to compare"


def test_an_unknown_metric_and_a_broken_picture_leave_an_empty_cell(tmp_path):
    (tmp_path / "torn.png").write_bytes(picture()[:60])
    row = IndexRow(
        "a", "b", "c", "done", metrics={"mse": float("nan"), "psnr": 14.71234}, picture=thumbnail(tmp_path / "torn.png")
    )
    write_index(tmp_path / "index.html", [row], {})
    page = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser")
    assert [td.get_text() for td in page.select("td.number")] == ["", "14.71", ""]
    assert not page.select("img")


def test_a_new_picture_gives_a_new_thumbnail(tmp_path):
    sources = []
    for colour, width in (("red", 100), ("blue", 101)):
        (tmp_path / "frames.png").write_bytes(picture(width, 50, colour))
        row = IndexRow("a", "b", "c", "running", picture=thumbnail(tmp_path / "frames.png"))
        write_index(tmp_path / "index.html", [row], {})
        sources.append(BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser").img["src"])
    assert sources[0] != sources[1]


def test_an_empty_index_says_how_to_begin(tmp_path):
    write_index(tmp_path / "index.html", [], {})
    page = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser")
    assert "No runs yet" in page.main.get_text()
    assert not page.select("table")


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["report", "index", "evil"])
def test_pages_fit_the_screen_and_ask_for_nothing(visit, report, tmp_path, kind, scheme, width):
    if kind == "report":
        cells, facts = failed_run()
        report(*cells, facts=facts)
    elif kind == "index":
        an_index(tmp_path).rename(tmp_path / "report.html")
    else:
        told = {"steps": {"pred": [1.0]}, "mean_frame": {"pred": 1.0}, "sequences": EVIL}
        row = IndexRow(
            EVIL, EVIL * 9, EVIL, EVIL, EVIL, {EVIL: 1.0}, None, EVIL, 1.0, {EVIL: EVIL}, told, {EVIL: EVIL, "a": EVIL}
        )
        write_index(tmp_path / "report.html", [row], {EVIL: EVIL})
    page = visit(tmp_path / "report.html", width, scheme)
    assert fits(page)
    ink, paper = (
        page.evaluate(f"Math.max(...getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).map(Number))")
        for name in ("color", "backgroundColor")
    )
    assert (ink > 200 and paper < 60) if scheme == "dark" else (ink < 60 and paper > 200)


TEXT_SIZES = r"""image => {  // in pixels; matplotlib draws a letter as a path, scaled by a hundredth of its size
  const svg = atob(image.src.split(",")[1]), width = Number(svg.match(/width="([\d.]+)pt"/)[1]);
  return [...svg.matchAll(/scale\(([\d.]+) -/g)].map((found) => 100 * found[1] * image.width / width);
}"""


def test_on_a_phone_a_figures_text_can_be_read_and_ten_frames_fit_below_whole_names(visit, report, tmp_path):
    name = "pred-output-own_models:ConvForecaster-architecture_arguments_channels24_layers2-learning_rate0.004-"
    strips = [Strip(title, np.zeros((1, 10, 16, 16), np.uint8)) for title in ("truth", f"{name}a", f"{name}b")]
    of_strips = frames.strip_figure(strips)
    titles = [axis.texts[0].get_text() for axis in of_strips.axes]
    assert [title.replace("\n", "") for title in titles] == [strip.title for strip in strips]
    curves = pd.DataFrame({"epoch": [1, 2], "split": "val", "branch": "pred", "metric": "mse", "value": [2.0, 1.0]})
    levels = pd.DataFrame({"split": ["val"], "branch": "pred", "baseline": "mean_frame", "metric": "mse", "value": 1.5})
    drawn = [of_strips, reports.figures.learning_curves(curves, levels, {"best": 2})]
    shown = [as_output(figure, "a figure") for figure in drawn]
    report(*(code("1", v4.new_output("display_data", data, metadata=told)) for data, told in shown))
    page = visit(tmp_path / "report.html", width=390)
    assert fits(page)
    assert min(size for image in page.locator(".figure img").all() for size in image.evaluate(TEXT_SIZES)) >= 8.95
    scrolls = [box.evaluate("e => e.classList.contains('more')") for box in page.locator(".figure").all()]
    assert scrolls == [False, True], "what has no room fades at its side, and scrolls"


def test_the_reader_unfolds_code_and_finds_the_way(visit, report, tmp_path):
    cells, facts = failed_run()
    report(*cells, facts=facts)
    page = visit(tmp_path / "report.html")
    shown = page.locator("details.code > .highlight:visible")
    assert shown.count() == 1
    page.get_by_role("button", name="Show all code").press("Enter")
    assert shown.count() == 5
    page.get_by_role("button", name="Hide all code").click()
    assert shown.count() == 0
    contents = page.get_by_role("navigation", name="Contents")
    assert contents.is_visible()
    contents.get_by_role("link", name="Numbers").click()
    assert page.evaluate("decodeURIComponent(location.hash)") == "#Numbers"
    page.set_viewport_size({"width": 390, "height": 800})
    contents.wait_for(state="hidden")
    page.get_by_text("Contents", exact=True).click()
    assert contents.is_visible()
    assert page.locator(".figure img").evaluate("e => e.complete && e.naturalWidth") == 600


def test_the_reader_saves_a_figure_under_a_name_that_says_what_it_is(visit, report, tmp_path):
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="30"><rect width="60" height="30"/></svg>'
    shown = v4.new_output(
        "display_data", {"image/svg+xml": drawing}, metadata={"image/svg+xml": {"alt": "Error, by frame step"}}
    )
    report(
        code("draw()", shown), code("plot()", png(alt="Frames/strips " * 9)), facts=Facts("fam/run-1a2b", "done", None)
    )
    page = visit(tmp_path / "report.html")
    saved = {}
    for button in page.get_by_role("button", name="Save as").all():
        with page.expect_download() as download:
            button.click()
        saved[download.value.suggested_filename] = Path(download.value.path()).read_bytes()
    long = "fam-run-1a2b-Frames-strips-Frames-strips-Frames-strips-Frames-strips.png"
    assert [*saved] == ["fam-run-1a2b-Error-by-frame-step.svg", "fam-run-1a2b-Error-by-frame-step.png", long]
    assert saved["fam-run-1a2b-Error-by-frame-step.svg"].decode() == drawing
    with Image.open(BytesIO(saved["fam-run-1a2b-Error-by-frame-step.png"])) as drawn:
        assert (drawn.size, drawn.getpixel((20, 20))) == ((120, 60), (0, 0, 0, 255)), "sharp on slides"
    assert saved[long] == picture()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_printed_is_whole_and_for_paper(visit, report, tmp_path, scheme):
    cells, facts = failed_run()
    rows = "".join(f"<tr><th>{i}</th><td>0.1</td></tr>" for i in range(80))
    long = code("all", html_output(TABLE.replace("<tr><th>pred</th><td>{}</td></tr>", rows)), png())
    wide = code("wide", v4.new_output("display_data", {"image/png": b64encode(picture(3000, 300)).decode()}))
    cells[-2:-2] = [long, wide, code("print()", stream("line\n" * 200))]
    links = {"all runs": "../../index.html"}
    seen = Strip("seen", np.zeros((1, 3, 4, 4), np.uint8))
    played = code("", html_output(frames.player([seen, Strip("reconstruction", seen.frames)], frames_in=3).data))
    report(*cells, played, facts=Facts(facts.title, "failed", None, facts.rows, facts.error, links=links))
    page = visit(tmp_path / "report.html", 688, scheme)  # the width of A4 between its margins
    page.get_by_role("button", name="Show all code").click()
    page.emulate_media(media="print")
    assert page.locator("details:visible").count() == page.locator("details.code").count(), "as it was on the screen"
    assert page.locator(".frame img:visible").count() == 3, "nothing plays on paper"
    page.emulate_media(media="screen")
    page.get_by_role("button", name="Hide all code").click()
    page.emulate_media(media="print")
    assert not page.locator("nav:visible, aside:visible, button:visible, .anchor:visible, details:visible").count()
    assert "all runs" not in page.locator("body").inner_text()
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert max(map(int, ink[4:-1].split(", "))) < 60
    paper = "[...document.querySelectorAll('body, .figure, .banner')].map((e) => getComputedStyle(e).backgroundColor)"
    assert not {*page.evaluate(paper)} & {"rgb(21, 23, 27)", "rgb(61, 26, 25)"}, "those of a dark page"
    cut = """[...document.querySelectorAll("main *")].filter((e) => e.clientWidth && e.offsetParent &&
      getComputedStyle(e).overflow !== "visible" &&
      (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1))"""
    assert page.evaluate(f"{cut}.length") == 0
    assert max(page.locator("table").evaluate_all("all => all.map((e) => e.getBoundingClientRect().right)")) <= 688
    widths = page.locator(".figure img").evaluate_all("all => all.map((image) => image.getBoundingClientRect())")
    assert all(0 < box["width"] <= 688 and box["width"] / box["height"] == pytest.approx(2 if n < 2 else 10, rel=0.02)
               for n, box in enumerate(widths))  # fmt: skip
    after = page.locator(".prose a[href^=http]").evaluate("e => getComputedStyle(e, '::after').content")
    assert after == '" (https://example.org)"' or "https://example.org" in after
    assert page.locator("thead").first.evaluate("e => getComputedStyle(e).display") == "table-header-group"


def test_the_reader_plays_and_steps_the_animation(visit, report, tmp_path):
    from playwright.sync_api import expect

    counted = np.arange(6, dtype=np.uint8)[None, :, None, None] * np.full((1, 6, 4, 4), 20, np.uint8)
    strips = [
        Strip("seen", counted[:, :3]),
        Strip("reconstruction", counted[:, :3]),
        Strip("future", counted[:, 3:]),
        Strip("prediction", counted[:, 3:]),
    ]
    player = frames.player(strips, frames_in=3, milliseconds=20).data
    report(code("", html_output(player)), code("", html_output(player)))
    page = visit(tmp_path / "report.html")
    first, second = page.locator(".seqae-player").all()
    told, image = first.locator("output"), first.locator("img:visible")
    assert told.inner_text() == "frame 1 of 6"
    assert image.get_attribute("alt") == "Frame 1 of 6: seen, reconstruction, difference"
    first.get_by_role("button", name="One frame on").click(click_count=3)
    assert told.inner_text() == "frame 4 of 6"
    assert first.locator(".titles:visible").inner_text().split() == ["future", "prediction", "difference"]
    first.get_by_role("slider").fill("5")
    assert image.get_attribute("alt").startswith("Frame 6 of 6")
    first.get_by_role("button", name="One frame on").click()
    first.get_by_role("button", name="One frame back").press("Enter")
    assert told.inner_text() == "frame 6 of 6", "it goes round, both ways"

    first.get_by_role("button", name="Play").click()
    expect(told).not_to_have_text("frame 6 of 6")
    first.get_by_role("button", name="Pause").click()
    stopped = told.inner_text()
    page.wait_for_timeout(100)  # five frames' time
    assert told.inner_text() == stopped
    assert second.locator("output").inner_text() == "frame 1 of 6"


def test_the_reader_points_at_a_state_and_sees_its_frames(visit, report, tmp_path):
    drawn = pd.DataFrame({"sequence": range(3), "digit_1": [4, 5, 6], "v_y_1": [0, 1, 0], "v_x_1": [1, 0, -1]})
    states, seen = np.eye(3)[:, :2], np.zeros((3, 4, 16, 16), np.uint8)
    report(code("", html_output(pointed_map(states, drawn, seen).data)))
    page = visit(tmp_path / "report.html")
    (shown,) = page.locator(".seqae-map").all()
    told = shown.locator("output")
    assert told.inner_text() == "sequence 0: digits 4; the first moves at 0°"
    shown.locator("circle").nth(2).hover()
    assert told.inner_text() == "sequence 2: digits 6; the first moves at 180°"
    shown.locator("svg").press("ArrowLeft")
    assert told.inner_text() == "sequence 1: digits 5; the first moves at 90°"
    assert "translateY(-33.3" in shown.locator("img").get_attribute("style")
    before = shown.locator("circle").first.get_attribute("fill")
    shown.get_by_role("combobox").select_option("digit")
    assert shown.locator("circle").first.get_attribute("fill") != before


def test_the_reader_picks_runs_and_sees_them_side_by_side(visit, tmp_path):
    (tmp_path / "store").mkdir()
    an_index(tmp_path / "store", alike=(0, 2, 4))
    files = [
        tmp_path / "moved" / f"losses/run-{i}" / name for i in (0, 2, 3, 4) for name in ("frames.png", "frames.gif")
    ]
    (tmp_path / "store").rename(tmp_path / "moved")  # the links of a moved store still work
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture())
    page = visit(tmp_path / "moved" / "index.html", beside=files)
    assert page.get_by_label("Compare losses/run-7").count() == 0, "a failed run has nothing to compare"
    compared, table = page.get_by_role("region", name="Comparison of the runs picked"), page.get_by_role("table")
    table.get_by_label("Compare all seeds of losses/run-0").check()
    table.get_by_label("Compare models/run-3", exact=True).check()
    assert not compared.is_visible()
    page.get_by_role("button", name="Compare", exact=True).click()

    assert compared.locator(".key li").all_inner_texts() == [
        "losses/run-0: mean and range, n = 3 seeds", "models/run-3", "mean frame",
    ]  # fmt: skip
    charts = compared.locator(".charts svg")
    assert [chart.get_attribute("aria-label").split(":")[0] for chart in charts.all()] == ["recon", "pred"]
    assert [chart.locator("path.mean").count() for chart in charts.all()] == [1, 2]
    assert [chart.locator("path.band").count() for chart in charts.all()] == [0, 1]
    assert (
        compared.locator("figcaption").nth(1).inner_text()
        == "losses/run-2 cannot learn: floor 0.072 > mean frame 0.037"
    )
    shown = compared.locator("figure img")
    assert [image.get_attribute("src") for image in shown.all()] == [f"losses/run-{i}/frames.png" for i in (0, 2, 4, 3)]
    assert [image.evaluate("e => e.decode().then(() => e.naturalWidth)") for image in shown.all()] == [600] * 4
    assert "16×16" in compared.inner_text()
    assert "Not the same" not in compared.inner_text()
    compared.get_by_role("button", name="Moving").click()
    assert shown.first.get_attribute("src") == "losses/run-0/frames.gif"

    page.reload()  # the address holds the selection
    assert compared.locator("figure").count() == 4
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    table.get_by_role("button", name="Seeds of losses/run-0").click()
    table.get_by_label("Compare losses/run-2", exact=True).uncheck()
    assert "n = 2 seeds" in compared.locator(".key").inner_text()
    page.get_by_role("button", name="Clear").click()
    assert not compared.is_visible()
    assert page.evaluate("location.hash") == ""


def test_a_seed_counts_once_and_one_that_diverged_is_told(visit, tmp_path):
    drawn, told = [], []
    for name, seeds in {"two": [(1, 0.1), (2, 0.4)], "again": [(1, 0.1), (2, 0.4), (2, 0.4)], "one": [(2, 0.4)] * 2,
                        "lost": [(1, 0.1), (2, 0.4), (3, None)]}.items():  # fmt: skip
        rows = [
            IndexRow("f", f"run-{i}", f"f/run-{i}/report.html", "done", comparison={
                "steps": {"pred": [error, 2 * error]} if error else {}, "mean_frame": {"pred": 0.3}, "sequences": "16",
            }, setting="s", seed=seed)
            for i, (seed, error) in enumerate(seeds)
        ]  # fmt: skip
        (tmp_path / name).mkdir()
        write_index(tmp_path / name / "index.html", rows, {})
        pictures = [tmp_path / name / f"f/run-{i}/frames.png" for i in range(len(rows))]
        for file in pictures:
            file.parent.mkdir(parents=True)
            file.write_bytes(picture())
        page = visit(tmp_path / name / "index.html", beside=pictures)
        if name != "one":
            page.get_by_role("button", name="Seeds apart").click()
        for pick in page.locator(".pick").all():
            pick.check()
        page.get_by_role("button", name="Compare", exact=True).click()
        drawn.append(page.locator("path.mean").get_attribute("d"))
        told.append(page.locator(".key li").first.inner_text())
        page.close()
    assert drawn[0] == drawn[1] == drawn[3] != drawn[2]
    seeds = "f/run-0: mean and range, n = "
    assert told == [f"{seeds}2 seeds", f"{seeds}2 seeds", "f/run-0", f"{seeds}3 seeds, 1 diverged"]


def test_runs_that_were_shown_other_sequences_are_not_said_to_be_the_same(visit, tmp_path):
    files = [tmp_path / f"losses/run-{i}/frames.png" for i in (8, 9)]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(picture())
    page = visit(an_index(tmp_path), beside=files)
    for name in ("losses/run-8", "models/run-9"):
        page.get_by_label(f"Compare {name}", exact=True).check()
    page.get_by_role("button", name="Compare", exact=True).click()
    assert page.locator("#compare .notice").inner_text().startswith("Not the same data and budget: 16×16; 32×32.")
    charts = page.locator("#compare .charts svg")
    assert [chart.locator("text.budget").all_text_contents() for chart in charts.all()] == [["16×16"], ["32×32"]]
    assert [chart.locator("path.mean").count() for chart in charts.all()] == [1, 1], "not in one chart"


def compared(name: str, seed: int, sequences: str = "16×16", **metrics: float | None) -> IndexRow:
    """A finished run; of a metric without a value, it diverged. Underscores in names of metrics stand for blanks."""
    return IndexRow(
        "f",
        f"{name}-seed{seed}-0123abcd",
        f"f/{name}{seed}/report.html",
        "done",
        f"learned ({seed} % below)",
        {key.replace("_", " "): float("nan") if x is None else x for key, x in metrics.items()},
        duration_s=2.0 * seed,
        comparison={"steps": {"pred": [0.01 * seed, 0.02]}, "mean_frame": {"pred": 0.1}, "sequences": sequences},
        defined={"gain": "1", "seed": str(seed), "words": 'a, "b"'},
        setting=name,
        seed=seed,
    )


SEEDS = [
    compared("a", 1, pred_mse=0.1, pred_ssim=0.5),
    compared("b", 1, pred_mse=0.15, pred_ssim=0.6),
    compared("a", 2, pred_mse=0.2, pred_ssim=0.7),
    compared("a", 2, pred_mse=0.4, pred_ssim=0.9),  # the same seed again
    compared("a", 3, pred_mse=None, pred_ssim=None),
    compared("c", 1, pred_mse=0.25, pred_ssim=0.4),
    compared("c", 2, pred_mse=0.35, pred_ssim=0.4),
    compared("d", 1, sequences="32×32", pred_mse=0.01, pred_ssim=0.99),
]


def frames_of(folder: Path, *runs: str) -> list[Path]:
    """Pictures in these run folders of family f."""
    files = [folder / f"f/{run}/frames.png" for run in runs]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(picture())
    return files


def shown_names(page) -> list[str]:
    return [" ".join(text.split()) for text in page.locator("tbody tr:visible th > :is(a, span)").all_text_contents()]


def test_runs_that_differ_only_by_seed_are_one_line_of_their_mean(visit, tmp_path):
    write_index(tmp_path / "index.html", SEEDS, {})
    page = visit(tmp_path / "index.html")
    assert shown_names(page) == ["f/a", "f/b-seed1-0123abcd", "f/c", "f/d-seed1-0123abcd"]
    a = page.locator("tr.setting").first
    assert a.locator("th p").first.inner_text() == "n = 3 seeds in 4 runs: 1, 2, 3"
    assert [" ".join(cell.split()) for cell in a.locator("td.number").all_inner_texts()] == [
        "0.2000 0.1000 – 0.3000 n = 2",
        "0.6500 0.5000 – 0.8000 n = 2",
        "0:00:04",
    ]
    assert a.locator(".badge").all_inner_texts() == ["done", "learned"]
    page.get_by_role("button", name="pred mse").click()
    assert shown_names(page) == ["f/d-seed1-0123abcd", "f/b-seed1-0123abcd", "f/a", "f/c"], "0.1 does not stand for 0.2"
    page.get_by_role("button", name="Seeds of f/a").press("Enter")
    assert shown_names(page)[2:6] == ["f/a", *(f"f/a-seed{i}-0123abcd" for i in (1, 2, 2))]
    page.get_by_role("button", name="Seeds apart").click()
    assert shown_names(page)[:4] == [f"f/{run}-0123abcd" for run in ("d-seed1", "a-seed1", "b-seed1", "a-seed2")]
    assert len(shown_names(page)) == 8
    page.get_by_role("button", name="Seeds apart").click()
    page.get_by_label("Filter").fill("seed=3")
    assert shown_names(page) == ["f/a", "f/a-seed3-0123abcd"]
    assert a.locator("td.number").first.inner_text().startswith("0.2000"), "of all its seeds, whatever is filtered"


def test_the_reader_sees_the_difference_to_a_baseline(visit, tmp_path):
    write_index(tmp_path / "index.html", SEEDS, {})
    page = visit(tmp_path / "index.html", beside=frames_of(tmp_path, "c1", "c2"))
    page.get_by_label("Compare all seeds of f/c").check()
    page.get_by_label("Compare f/b-").check()
    button = page.get_by_role("button", name="Difference to it")
    assert button.is_disabled(), "to one only"
    page.get_by_label("Compare f/b-").uncheck()
    button.click()
    assert page.locator("#baseline strong").inner_text() == "f/c (mean of 2 seeds)"
    shown = """rows => rows.map(row => Array.from(row.querySelectorAll(".difference"),
        e => `${e.className.replace("difference ", "")} ${e.textContent}`))"""
    found = page.locator("tbody tr:visible").evaluate_all(shown)
    # c: 0.3 in 0.25 to 0.35 and 0.4; a: 0.2 in 0.1 to 0.3, and 0.65; b: 0.15 and 0.6; d was shown other data.
    assert found == [["better (−0.1000)", "better +0.2500"], ["better −0.1500", "better +0.2000"], [], []]
    page.reload()
    assert page.locator("tbody tr:visible").evaluate_all(shown) == found
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Compare f/b-").check()
    button.click()
    assert page.locator("tbody tr:visible").evaluate_all(shown)[2] == ["worse +0.1500", "worse −0.2000"]
    page.get_by_role("button", name="Hide differences").click()
    assert page.locator(".difference").count() == 0


def test_a_link_restores_filter_order_and_choice_and_says_what_is_gone(visit, tmp_path):
    write_index(tmp_path / "index.html", SEEDS, {})
    pictures = frames_of(tmp_path, "b1", "c1", "c2", "d1")
    page = visit(tmp_path / "index.html", beside=pictures)
    page.get_by_label("Filter").fill("gain=1")
    page.get_by_role("button", name="pred ssim").click()
    page.get_by_label("Compare f/b-").check()
    page.get_by_role("button", name="Difference to it").click()
    page.get_by_label("Compare all seeds of f/c").check()
    link, order = page.get_by_role("link", name="Link to this view").get_attribute("href"), shown_names(page)
    assert order == ["f/d-seed1-0123abcd", "f/a", "f/b-seed1-0123abcd", "f/c"]
    for other in (page.context.new_page(), page):  # opened anew; and in a page that shows another view
        other.goto((tmp_path / "index.html").as_uri() + "#seeds=apart&sort=run&compare=f/d-seed1-0123abcd")
        other.wait_for_function("document.querySelector('#filter').value === ''")
        assert shown_names(other)[0] == "f/a-seed1-0123abcd"
        assert other.locator(".key li").all_inner_texts() == ["f/d-seed1-0123abcd", "mean frame"]
        other.goto((tmp_path / "index.html").as_uri() + link)
        other.wait_for_function("document.querySelector('#filter').value === 'gain=1'")
        assert shown_names(other) == order
        assert other.locator(".pick:checked").count() == 3
        assert other.locator(".key li").all_inner_texts() == [
            "f/b-seed1-0123abcd",
            "f/c: mean and range, n = 2 seeds",
            "mean frame",
        ]
        assert other.locator("#baseline strong").inner_text() == "f/b-seed1-0123abcd"
        assert not other.locator("#lost").is_visible()
    write_index(tmp_path / "index.html", SEEDS[5:], {})
    page.reload()
    told = page.locator("#lost").inner_text()
    assert told == "In this link, but not among the finished runs here: f/b-seed1-0123abcd."


def saved(page, name: str) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    return download.value.path().rename(download.value.path().with_name(download.value.suggested_filename))


def test_the_runs_chosen_are_saved_as_csv(visit, tmp_path):
    precise = replace(SEEDS[0], metrics={"pred mse": 0.012345678, "recon val mse": 3.0})
    write_index(tmp_path / "index.html", [precise, *SEEDS[1:]], {})
    page = visit(tmp_path / "index.html")
    file = saved(page, "CSV of 8 runs")
    assert file.name == "seqae-runs.csv"
    table = pd.read_csv(file)
    names = "a-seed1 a-seed2 a-seed2 a-seed3 b-seed1 c-seed1 c-seed2 d-seed1"
    assert list(table.run) == [f"f/{name}-0123abcd" for name in names.split()]
    assert list(table.setting) == ["f/a"] * 4 + ["f/b"] + ["f/c"] * 2 + ["f/d"], "each run alone, whether folded or not"
    assert table["pred test mse"].to_list()[:3] == [0.01234568, 0.2, 0.4]
    assert table["pred test mse"].isna().to_list() == [False, False, False, True, *[False] * 4]
    assert {*table.words} == {'a, "b"'}
    assert {"recon val mse", "pred test ssim", "gain", "seed", "seconds", "verdict"} < {*table}
    page.get_by_label("Compare all seeds of f/c").check()
    assert list(pd.read_csv(saved(page, "CSV of 2 picked")).seconds) == [2, 4]
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Filter").fill("b-seed1")
    assert list(pd.read_csv(saved(page, "CSV of 1 shown"))["pred test mse"]) == [0.15]


def test_the_figure_is_saved_with_its_key(visit, tmp_path):
    write_index(tmp_path / "index.html", SEEDS, {})
    files = frames_of(tmp_path, "b1", "c1", "c2")
    page = visit(tmp_path / "index.html", scheme="dark", beside=files)
    for name in ("f/b-", "all seeds of f/c"):
        page.get_by_label(f"Compare {name}").check()
    page.get_by_role("button", name="Compare", exact=True).click()
    drawn = saved(page, "SVG")
    assert drawn.name == "seqae-error-by-frame-step.svg"
    svg = BeautifulSoup(drawn.read_text(), "html.parser").svg
    texts = [text.get_text() for text in svg.select("text")]
    assert texts[-3:] == ["f/b-seed1-0123abcd", "f/c: mean and range, n = 2 seeds", "mean frame"]
    assert "pred: MSE per pixel on [0, 1], by frame step, on test" in texts
    assert texts[:5] == ["0.02", "0.04", "0.06", "0.08", "0.10"], "round numbers"
    with Image.open(saved(page, "PNG")) as image:
        assert image.size == (2 * int(svg["width"]), 2 * int(svg["height"]))
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "on paper, though the page is dark"
        assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} < colours


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_keyboard_and_screen_reader_find_no_barrier(visit, report, tmp_path, scheme):
    files = frames_of(tmp_path, "c1", "c2")
    write_index(
        tmp_path / "index.html",
        [*SEEDS, *(replace(row, family="g", status="failed") for row in SEEDS)],
        {"f": "c.html"},
    )
    page = visit(tmp_path / "index.html", scheme=scheme, beside=files)
    page.get_by_label("Compare all seeds of f/c").check()
    page.get_by_role("button", name="Difference to it").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("button", name="Seeds of f/a").click()
    assert barriers(page) == []

    cells, facts = failed_run()
    corner = TABLE.format(1).replace("<th></th>", '<th class="blank">&nbsp;</th>')
    for ends_first in (False, True):
        end = [text("### A step too deep"), code("1", html_output(corner)), text("## Conclusion")]
        report(*cells, *end, facts=replace(facts, ends_first=ends_first))
        assert barriers(visit(tmp_path / "report.html", scheme=scheme)) == []


def test_a_parameter_is_filtered_by_its_whole_value_whoever_differs(visit, tmp_path):
    told = [{"gain": gain, "loss": loss, "seed": "6"} for gain, loss in (("1", "0sb"), ("10", "0sb"), ("1", "0NM"))]
    rows = [
        IndexRow("f", f"run-{i}", "r.html", "done", metrics={"pred ssim": i / 10}, defined=defined)
        for i, defined in enumerate(told)
    ]
    write_index(tmp_path / "index.html", rows, {})
    page = visit(tmp_path / "index.html")
    names = page.locator("tbody tr:visible th a")
    for words, shown in {
        "gain=1": ["f/run-0", "f/run-2"], "gain=1 loss=0sb": ["f/run-0"], "loss=0nm": ["f/run-2"], "gain=2": [],
        "seed=6": ["f/run-0", "f/run-1", "f/run-2"], "seed=7": [], "run-1": ["f/run-1"], "gain=10": ["f/run-1"],
    }.items():  # fmt: skip
        page.get_by_label("Filter").fill(words)
        assert names.all_text_contents() == shown, words
    page.get_by_label("Filter").fill("")
    page.get_by_role("button", name="pred ssim").click()
    assert names.all_text_contents() == ["f/run-2", "f/run-1", "f/run-0"], "the best first"


def test_columns_stand_by_metric_and_branch_whatever_run_comes_first(tmp_path):
    metrics = {"pred ssim": 0.5, "recon novel": 1.0, "pred mse": 1234.4, "recon ssim": 0.6, "recon mse": 0.12344}
    rows = [IndexRow("f", f"run-{i}", "r.html", "done", metrics=dict([pair])) for i, pair in enumerate(metrics.items())]
    for ordered in (rows, rows[::-1]):
        write_index(tmp_path / "index.html", ordered, {})
        page = BeautifulSoup((tmp_path / "index.html").read_text(), "html.parser")
        heads = [head.text for head in page.select("thead th")]
        assert heads[3:8] == ["recon mse", "pred mse", "recon ssim", "pred ssim", "recon novel"]
    assert {cell.text for cell in page.select("[data-label='recon mse'], [data-label='pred mse']")} == {
        "",
        "1234",
        "0.1234",
    }


def test_columns_that_are_empty_or_do_not_fit_are_hidden_the_least_important_first(visit, tmp_path):
    names = [f"{branch} {metric}" for metric in ("mse", "bce", "ssim", "psnr", "mae") for branch in ("recon", "pred")]
    rows = [
        IndexRow("f", "r", "r.html", "done", metrics={name: 0.5 for name in names if "bce" not in name}),
        IndexRow("f", "s", "r.html", "done", metrics={"recon mse": 0.4, "pred bce": 0.3}),
    ]
    write_index(tmp_path / "index.html", rows, {})
    page = visit(tmp_path / "index.html", width=1100)
    metrics = page.locator("thead th[data-metric]:visible")
    assert metrics.all_inner_texts() == ["recon mse", "pred mse", "pred bce"]
    assert fits(page)
    page.get_by_role("button", name="All columns (6 more)").click()
    assert metrics.count() == 9
    page.reload()
    page.get_by_role("button", name="Columns that fit").click()
    page.get_by_label("Filter").fill("f/s")
    assert metrics.all_inner_texts() == ["recon mse", "pred bce"]
    page.get_by_label("Filter").fill("")
    page.set_viewport_size({"width": 1600, "height": 900})
    page.locator("#all-columns").wait_for(state="hidden")
    assert metrics.count() == 9, "all that are not empty"


def test_the_reader_filters_and_sorts_the_index(visit, tmp_path):
    page = visit(an_index(tmp_path))
    rows = page.locator("tbody tr:visible")
    names = page.locator("tbody tr:visible th a")
    assert rows.count() == 30

    page.keyboard.press("/")
    page.keyboard.type("CANNOT learning_rate=0.002")
    # text contents, because rows out of sight are not rendered and have no inner text
    assert names.all_text_contents() == [
        "losses/run-2",
        "losses/run-20",
        "models/run-23",
        "losses/run-26",
        "models/run-29",
    ]
    assert page.locator("#shown").inner_text() == "5 of 30"
    page.get_by_label("Filter").fill("no such run")
    assert rows.count() == 0
    page.get_by_role("button", name="Show all").click()
    assert rows.count() == 30

    page.get_by_role("button", name="models").click()
    assert rows.count() == 15
    numbers = "tbody tr:visible td:nth-child(5)"
    page.get_by_role("button", name="pred mse").click()
    values = page.locator(numbers).all_text_contents()
    assert values[-1] == ""  # the failed run has no value and is last in both orders
    assert [float(value) for value in values[:-1]] == sorted(float(value) for value in values[:-1])
    page.get_by_role("button", name="pred mse").press("Space")
    down = page.locator(numbers).all_text_contents()
    assert down == [*reversed(values[:-1]), ""]
    assert page.get_by_role("columnheader", name="pred mse").get_attribute("aria-sort") == "descending"

    page.reload()  # the address holds the view
    assert page.locator(numbers).all_text_contents() == down
    assert page.evaluate("new URLSearchParams(location.hash.slice(1)).get('sort')") == "-pred mse"
    page.get_by_role("button", name="run", exact=False).first.click()
    page.get_by_role("button", name="all").click()
    assert names.all_text_contents()[:3] == ["losses/run-0", "losses/run-2", "losses/run-4"]
