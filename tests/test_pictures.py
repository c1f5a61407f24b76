"""Pictures show the frames in the order of time."""

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from seqae.reports import frames
from seqae.runs import pictures


@pytest.fixture
def samples():
    counted = np.arange(5, dtype=np.uint8)[None, :, None, None] * np.ones((3, 1, 4, 4), np.uint8)  # frame t is all t
    return {"frames": counted, "recon": counted[:, :3][:, ::-1] + 100, "pred": counted[:, 3:] + 200}


def test_strips_are_in_true_time_order(samples):
    strips = dict(pictures.sample_strips(samples, task="both", frames_in=3))
    assert {title: frames[0, :, 0, 0].tolist() for title, frames in strips.items()} == {
        "seen": [0, 1, 2],
        "reconstruction": [100, 101, 102],
        "future": [3, 4],
        "prediction": [203, 204],
    }
    ordered = samples | {"recon": samples["recon"][:, ::-1]}
    assert dict(pictures.sample_strips(ordered, task="recon_ordered", frames_in=3))["reconstruction"][0, 0, 0, 0] == 100


def test_pictures_hold_every_frame(samples, tmp_path):
    strips = pictures.sample_strips(samples, task="both", frames_in=3)
    pictures.save_strips(strips, tmp_path / "frames.png", sequences=2)
    picture = np.asarray(Image.open(tmp_path / "frames.png"))
    assert set(np.unique(picture)) == {0, 1, 2, 100, 101, 102, 3, 4, 203, 204, pictures.GREY}
    pictures.save_gif(strips, tmp_path / "frames.gif")
    with Image.open(tmp_path / "frames.gif") as animation:
        assert animation.n_frames == 3
        assert animation.info["loop"] == 0


def test_the_player_shows_truth_output_and_difference_in_true_time_order(samples):
    strips = pictures.sample_strips(samples, task="both", frames_in=3)
    page = BeautifulSoup(frames.player(strips, frames_in=3, sequences=2).data, "html.parser")
    shown = page.select(".frame")
    assert [int(frame["data-number"]) for frame in shown] == [1, 2, 3, 4, 5]
    assert ["hidden" in frame.attrs for frame in shown] == [False, True, True, True, True]
    assert [frame.img["alt"] for frame in shown[2:4]] == [
        "Frame 3 of 5: seen, reconstruction, difference",
        "Frame 4 of 5: future, prediction, difference",
    ]
    for number, frame in enumerate(shown):
        picture = np.asarray(Image.open(BytesIO(b64decode(frame.img["src"].split(",")[1]))))
        assert picture.shape == (10, 15)  # two rows and three columns of 4 pixels and a line
        truth, output = number, number + (100 if number < 3 else 200)
        assert picture[[0, 0, 0, 5], [0, 5, 10, 0]].tolist() == [truth, output, 128 + (output - truth) // 2, truth]


def test_of_a_prediction_the_numbers_begin_after_what_was_seen(samples):
    strips = pictures.sample_strips({k: samples[k] for k in ("frames", "pred")}, task="pred", frames_in=3)
    page = BeautifulSoup(frames.player(strips, frames_in=3).data, "html.parser")
    assert [frame["data-number"] for frame in page.select(".frame")] == ["4", "5"]
    assert page.output.string == "frame 4 of 5"
