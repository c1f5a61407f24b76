"""The demo of a trained run: it shows the model's own outputs for the test split, on any available device."""

import contextlib
import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageSequence
from typer.testing import CliRunner

from seqae.commands.main import app
from seqae.evaluation import predict
from seqae.reports import demo
from seqae.runs import pictures
from seqae.runs.experiment import sequences
from seqae.runs.notebook_cells import family_defaults
from seqae.runs.records import RunError
from seqae.runs.run import Run, open_run
from seqae.stores import MARK, unpublished
from seqae.sweeps import pages
from seqae.sweeps.parameter_files import read_yaml

ROOT = Path(__file__).parents[1]
SMOKE = read_yaml(ROOT / "params/scale/smoke.yaml") | {"task": "both", "frames_in": 4, "frames_out": 5}
pytestmark = [
    # papermill 2.7 opens kernels and files through libraries that warn; ours are errors.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def make(store: Path, **given) -> Run:
    return open_run("losses", family_defaults(ROOT / "notebooks/losses.ipynb"), SMOKE | given | {"store": str(store)})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make(tmp_path_factory.mktemp("store")).train()


def call(*arguments: str, code: int = 0) -> str:
    with contextlib.chdir(ROOT):
        result = CliRunner().invoke(app, ["demo", *arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


# --- what the model makes of test sequences ---


def test_outputs_are_the_models_own_of_the_test_split(run):
    outputs = run.outputs(indices=[5, 2])
    test = sequences(run.parameters, "test")[[5, 2]]
    np.testing.assert_array_equal(outputs["frames"], test.numpy())
    p = run.parameters
    expected = predict(run.model(), test[:, :4], activation=p.activation, pixel_range=p.pixel_range)
    assert {name: (frames.shape, frames.dtype) for name, frames in outputs.items()} == {
        "frames": ((2, 9, 16, 16), np.uint8),
        "recon": ((2, 4, 16, 16), np.uint8),
        "pred": ((2, 5, 16, 16), np.uint8),
    }
    for branch, frames in expected.items():
        np.testing.assert_allclose(outputs[branch], 255 * frames, atol=0.51)


def test_outputs_of_val_are_the_samples_recorded(run):
    outputs = run.outputs("val")
    assert all((outputs[name] == frames).all() for name, frames in run.samples().items())
    assert len(outputs["frames"]) == 8


@pytest.mark.parametrize("indices", [[0, 16], [-1], []])
def test_sequences_that_there_are_not(run, indices):
    with pytest.raises(ValueError, match="test has sequences 0 to 15: choose some of them, not") as raised:
        run.outputs(indices=indices)
    assert str(indices) in str(raised.value)


@pytest.mark.processes  # the fork server
@pytest.mark.parametrize(("device", "message"), [("cuda:7", "device cuda:7 is not available"), ("tpu", "must be auto")])
def test_a_device_that_there_is_not(run, device, message):
    with pytest.raises(ValueError, match=message):
        run.outputs(device=device)
    assert message in call(str(run.folder), "--device", device, code=2)
    assert "-p device: seqae demo RUN --device DEVICE says" in call(str(run.folder), "-p", "device=cuda", code=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_another_device_shows_the_same(run):
    there, here = run.outputs(device="cuda"), run.outputs(device="cpu")
    for name, frames in here.items():
        np.testing.assert_allclose(there[name].astype(int), frames, atol=1)


def test_errors_are_those_of_the_test_table(run):
    outputs = run.outputs(indices=range(16))
    errors = demo.shown_errors(run, outputs, list(range(16)))
    mean = errors.groupby(["branch", "frame"])["value"].mean()
    table = run.test().query("frame.notna() and metric == 'mse'").set_index(["branch", "frame"])["value"]
    assert len(mean) == len(table) == 9
    # Outputs are rounded to 8 bits, and an unbounded output is clipped, which makes its error smaller.
    np.testing.assert_allclose(mean[table.index], table, rtol=0.02)


# --- which run ---


def test_the_newest_finished_run_or_one_of_the_store(tmp_path, run, monkeypatch):
    monkeypatch.setenv("SEQAE_STORE", str(tmp_path))
    with pytest.raises(RunError, match="no finished run in"):
        demo.shown_run()
    for name, ended in {
        "a": "2026-01-01",
        "b": "2026-01-03",
        "c": "2026-01-02",
        "d": "2026-01-04",
        "timed": "2026-01-05",
    }.items():
        (folder := tmp_path / "losses" / name).mkdir(parents=True)
        text = (run.folder / "run.yaml").read_text().replace(run.record()["ended"], f"{ended}T00:00:00+00:00")
        (folder / "run.yaml").write_text(text if name != "d" else text.replace("status: done", "status: failed"))
    record = yaml.safe_load((folder / "run.yaml").read_text()) | {"results": {}}  # as a benchmark has it
    (folder / "run.yaml").write_text(yaml.safe_dump(record))
    assert demo.shown_run().name == "b"
    assert demo.shown_run("losses/c").name == "c"
    assert demo.shown_run(str(run.folder)).folder == run.folder


@pytest.mark.processes  # the fork server
def test_an_unfinished_run_is_to_be_finished(tmp_path):
    unfinished = make(tmp_path)
    assert call(str(unfinished.folder), code=2).startswith(f"seqae: there is no run {unfinished.folder}, ")
    unfinished.folder.mkdir(parents=True)
    unfinished.fail("no luck")
    message = f"seqae: {unfinished.folder} has no trained model, it is failed: finish it with seqae run first\n"
    assert call(str(unfinished.folder), code=2) == message
    assert not (unfinished.folder / "demo.html").exists()


@pytest.mark.processes  # the fork server
def test_a_mirror_is_not_emptied_of_a_run_while_its_demo_is_made(run, tmp_path, monkeypatch):
    folder, found = shutil.copytree(run.folder, tmp_path / "losses" / run.name), []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(pages, "execute_page", lambda *_, **__: found.append(unpublished(folder)))
    pages.demo_page(folder)
    (tmp_path / MARK).touch()
    pages.demo_page(folder)
    assert found == [False, True]


@pytest.mark.processes("the fork server")
def test_only_parameters_of_the_notebook(run):
    assert "-p sequence: no parameter of " in call(str(run.folder), "-p", "sequence=[1]", code=2)


# --- pictures ---


def pixels(file: Path) -> list[np.ndarray]:
    with Image.open(file) as animation:
        return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(animation)]


def test_an_animation_has_titles_and_differences(tmp_path):
    truth, output = (np.full((2, 3, 4, 4), value, np.uint8) for value in (100, 100))
    output[0, 1], output[1, 1] = 200, 0  # in the second picture too bright above, too dark below
    pictures.save_gif(
        [pictures.Strip("seen", truth), pictures.Strip("reconstruction", output)], tmp_path / "a.gif", pixels=80
    )
    shown = pixels(tmp_path / "a.gif")
    assert len(shown) == 3
    band, below = shown[0][: pictures.TITLE_BAND], shown[1][pictures.TITLE_BAND :]
    width = band.shape[1] // 3
    assert width >= 80
    for column in range(3):
        title = band[:, column * width : (column + 1) * width]
        assert title.max() > 200, "a title above each column"
        assert not title[:, [0, -1]].any(), "that does not reach into the next"
    middle = [below[y, column * width + width // 2] for y in (40, 140) for column in range(3)]
    assert middle == [100, 200, 178, 100, 0, 78]
    assert shown[0][pictures.TITLE_BAND + 40, 2 * width + 40] == 128


def test_a_long_title_is_made_to_fit(tmp_path):
    frames = np.zeros((1, 1, 16, 16), np.uint8)
    pictures.save_gif(
        [pictures.Strip("a very long title of a column", frames), pictures.Strip("b", frames)],
        tmp_path / "a.gif",
        pixels=48,
    )
    (picture,) = pixels(tmp_path / "a.gif")
    band = picture[: pictures.TITLE_BAND, : picture.shape[1] // 3]
    assert band.max() > 100
    assert not band[:, [0, -1]].any()


# --- the page ---


@pytest.fixture(scope="module")
def shown(run):
    before = {file.name: file.read_bytes() for file in run.folder.iterdir()}
    return call(str(run.folder), "-p", "sequences=[3, 9]"), before


@pytest.mark.processes
def test_the_page_and_its_pictures_lie_in_the_run_folder(run, shown):
    output, before = shown
    assert output == f"{run.folder / 'demo.html'}\n"
    after = {file.name: file.read_bytes() for file in run.folder.iterdir()}
    assert after.keys() - before.keys() == {"demo.html", "demo.ipynb", "demo.gif", "demo.png"}
    assert {name: after[name] for name in before} == before
    assert len(pixels(run.folder / "demo.gif")) == 5, "as many as the longest branch has steps"
    text = (run.folder / "demo.html").read_text()
    assert 'class="seqae-player"' in text
    assert "best is test" in text
    notebook = nbformat.read(run.folder / "demo.ipynb", as_version=4)
    assert str(run.folder) not in json.dumps(notebook)
    assert all(out.output_type != "error" for cell in notebook.cells for out in cell.get("outputs", []))


@pytest.mark.processes
def test_the_animation_shows_the_sequences_chosen(run, shown):
    outputs = run.outputs(indices=[3, 9])
    picture = pixels(run.folder / "demo.gif")[0][pictures.TITLE_BAND :]
    scale = picture.shape[1] // (6 * 17 + 1)  # six frames of 16 pixels and a line, and a line before the first
    picture, side = picture[scale:, scale:], 17 * scale
    first = picture[scale // 2 : side - scale : scale, scale // 2 : side - scale : scale]
    np.testing.assert_array_equal(first, outputs["frames"][0, 0])
    future = picture[side + scale // 2 : 2 * side - scale : scale, 3 * side + scale // 2 : 4 * side - scale : scale]
    np.testing.assert_array_equal(future, outputs["frames"][1, 4])
