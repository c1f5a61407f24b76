"""`seqae predict`: clips of a file through a trained run, into arrays and an animation."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageSequence
from test_trained import SMALL
from typer.testing import CliRunner

from seqae.commands.main import app
from seqae.runs.clip_outputs import clips_of
from seqae.runs.experiment import sequences
from seqae.runs.run import Run, open_run

QUICK = SMALL | {"epochs": 1, "width": 0.5}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def run(store) -> Run:
    return open_run("own", QUICK, {"store": str(store)}).train()


@pytest.fixture
def clips(run, tmp_path, monkeypatch) -> np.ndarray:
    """The test sequences, (10, 15, 16, 16), which lie in clips.npy of the working directory."""
    monkeypatch.chdir(tmp_path)
    frames = sequences(run.parameters, "test").numpy()
    np.save("clips.npy", frames)
    return frames


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def gif(file) -> tuple[int, int, int]:
    """Steps of 200 ms, columns of 112 pixels, rows of 112 pixels below the titles."""
    with Image.open(file) as animation:
        shown = sum(frame.info["duration"] for frame in ImageSequence.Iterator(animation))
        return shown // 200, animation.width // 112, animation.height // 112


def test_arrays_are_what_the_run_makes_of_them(run, clips) -> None:
    said = call(run.folder, "clips.npy", "-o", "out.npz", "-o", "out.gif")
    shapes = "recon (10, 5, 16, 16), pred (10, 10, 16, 16), from frames 1 to 5 of 15"
    assert said.splitlines() == [f"out.npz: {shapes}", f"out.gif: {shapes}"]
    with np.load("out.npz") as arrays:
        assert {*arrays} == {"recon", "pred"}
        np.testing.assert_array_equal(arrays["pred"], run.predict(clips[:, :5]))
        np.testing.assert_array_equal(arrays["recon"], run.reconstruct(clips[:, :5]))
    assert gif("out.gif") == (10, 6, 4), "truth, output and difference, twice"


def test_further_than_the_clips_go(run, clips) -> None:
    np.savez("one.npz", frames=clips[0, :7] / 255, labels=np.arange(3))
    call(run.folder, "one.npz", "--steps", 30, "-o", "out.npz", "-o", "out.gif")
    with np.load("out.npz") as arrays:
        np.testing.assert_allclose(arrays["pred"], run.predict(clips[0, :5], 30), atol=1e-6)
    assert gif("out.gif") == (30, 4, 1), "what was true is not known"


def test_clips_of_another_size_are_resized_as_in_training(run, clips) -> None:
    np.save("large.npy", clips[0].repeat(2, axis=1).repeat(3, axis=2))
    said = call(run.folder, "large.npy", "-o", "out.npz")
    assert said.endswith(", resized from 32×48 to 16×16, from frames 1 to 5 of 15\n")
    with np.load("out.npz") as arrays:
        np.testing.assert_array_equal(arrays["pred"], run.predict(clips[0, :5]))


@pytest.mark.parametrize("time_first", [False, True])
def test_colours_become_grey_as_in_training(run, clips, time_first: bool) -> None:
    coloured = clips[..., None].repeat(3, axis=-1)
    np.save("colours.npy", coloured.swapaxes(0, 1) if time_first else coloured)
    np.save("one.npy", coloured[0, ..., :1])
    np.save("before.npy", np.moveaxis(coloured, -1, 2))
    for name, grey in (("colours", clips), ("one", clips[0]), ("before", clips)):
        call(run.folder, f"{name}.npy", "-o", "out.npz")
        with np.load("out.npz") as arrays:
            np.testing.assert_array_equal(arrays["pred"], run.predict(grey[..., :5, :, :]))


def test_a_run_of_one_branch(store, clips) -> None:
    pred, recon = (open_run("own", QUICK, {"task": task, "store": str(store)}).train() for task in ("pred", "recon"))
    call(pred.folder, "clips.npy", "--steps", 12, "-o", "out.gif")
    assert gif("out.gif") == (12, 2, 4), "seen and prediction"
    call(recon.folder, "clips.npy", "-o", "out.npz")
    with np.load("out.npz") as arrays:
        assert {*arrays} == {"recon"}
    assert "no branch pred" in call(recon.folder, "clips.npy", "-o", "out.npz", "--steps", 3, code=2)


def test_every_fault_is_a_sentence(run, store, clips, tmp_path) -> None:
    def fault(*arguments: object) -> str:
        before = {*tmp_path.rglob("*")}
        (line,) = call(*arguments, code=2).splitlines()
        assert {*tmp_path.rglob("*")} == before, "nothing is left behind"
        return line.removeprefix("seqae: ")

    def of(frames: np.ndarray) -> str:
        np.save("other.npy", frames)
        return fault(run.folder, "other.npy", "-o", "out.npz")

    assert of(clips[:, :4]) == (
        "other.npy is read as 10 clips of 4 frames (time is the axis along which neighbouring frames differ less), "
        "and this run's model reads 5 (frames_in): give as many"
    )
    assert of(clips[0, :4]) == "frames have 4 frames a sequence, and this run's model reads 5 (frames_in): give as many"
    assert of(clips[..., :12] / 255).startswith("frames have 16×12 pixels, and this run's model reads 16×16")
    assert of(clips[0, 0]).startswith("frames have shape (16, 16)")
    assert of(clips[:0]).startswith("frames have shape (0, 5, 16, 16)")
    assert of(clips.astype(np.float32)).startswith("frames go from 0 to 252: floating point must lie in [0, 1]")
    assert fault(run.folder, "clips.npy", "-o", "out.mp4") == "out.mp4 must end in .npz or .gif"
    assert fault(run.folder, "none.npy", "-o", "out.npz").startswith("none.npy is not a file")
    assert "device must be auto" in fault(run.folder, "clips.npy", "-o", "out.npz", "--device", "gpu")
    assert "there is no folder nowhere: make it" in fault(run.folder, "clips.npy", "-o", "nowhere/out.npz")
    np.savez("clips.npz", clips)
    assert "would be overwritten" in fault(run.folder, "clips.npz", "-o", tmp_path / "clips.npz")
    assert "has no run.yaml" in fault(tmp_path, "clips.npy", "-o", "out.npz")
    waiting = open_run("own", QUICK, {"seed": 9, "store": str(store)})
    waiting.fail("no luck")
    assert fault(waiting.folder, "clips.npy", "-o", "out.npz").endswith(
        "has no trained model, it is failed: finish it with seqae run first"
    )
    waiting.update(status="done", results={})
    assert "a benchmark has none, and that of another run is lost" in fault(waiting.folder, "clips.npy", "-o", "o.npz")


def test_unsound_files_are_named(tmp_path) -> None:
    def told(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as error:
            clips_of(tmp_path / name)
        return str(error.value)

    np.save(stream := io.BytesIO(), np.zeros((2, 5, 16, 16), np.uint8))
    whole = stream.getvalue()
    assert "is not a whole .npy file" in told("cut.npy", whole[:-1])
    assert "is not a whole .npy file" in told("text.npy", b"1 2 3")
    assert "is not a whole .npy file" in told("empty.npy", b"")
    np.save(stream := io.BytesIO(), np.array([{}], object), allow_pickle=True)
    assert "is not a whole .npy file" in told("objects.npy", stream.getvalue())
    assert "is not a whole .npz file" in told("cut.npz", b"PK")
    np.savez(stream := io.BytesIO(), a=np.zeros(1), b=np.zeros(1))
    assert "holds a, b: give a file with one array" in told("two.npz", stream.getvalue())
    with zipfile.ZipFile(stream := io.BytesIO(), "w"):
        pass
    assert "holds nothing" in told("none.npz", stream.getvalue())
    np.savez(stream := io.BytesIO(), np.array([{}], object), allow_pickle=True)
    assert "is not a whole .npz file" in told("objects.npz", stream.getvalue())
    assert "cannot be decoded" in told("clip.avi", b"RIFF")
