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


def test_of_a_prediction_the_frames_seen_stand_first_in_no_pair(samples):
    of_pred = {name: samples[name] for name in ("frames", "pred")}
    strips = pictures.sample_strips(of_pred, task="pred", frames_in=3, with_seen=True)
    assert [title for title, _ in strips] == ["seen", "future", "prediction"]
    assert [pair.output.title for pair in pictures.branch_pairs(strips)] == ["prediction"]
    assert pictures.sample_strips(samples, task="both", frames_in=3, with_seen=True)[2].title == "future", "seen once"


def test_every_frame_has_a_line_at_every_edge(samples, tmp_path):
    strips = pictures.sample_strips(samples, task="both", frames_in=3)
    pictures.save_strips(strips, tmp_path / "frames.png", sequences=2)
    pictures.save_gif(strips, tmp_path / "frames.gif")
    (player,) = BeautifulSoup(frames.player(strips, frames_in=3).data, "html.parser").select(".frame:not([hidden]) img")
    with Image.open(tmp_path / "frames.gif") as animation:
        of_gif = np.asarray(animation.convert("L"))[pictures.TITLE_BAND :: 28, ::28]  # 112 / 4 times as large
    for picture in (
        np.asarray(Image.open(tmp_path / "frames.png")),
        of_gif,
        np.asarray(Image.open(BytesIO(b64decode(player["src"].split(",")[1])))),
        frames.strip_figure(strips).axes[0].images[0].get_array(),
    ):
        edges = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (edges == pictures.GREY).all()
        assert not (picture[1, 1:5] == pictures.GREY).any(), "one line, not two"


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
        assert picture.shape == (11, 16)  # two rows and three columns of 4 pixels and a line, and one before the first
        truth, output = number, number + (100 if number < 3 else 200)
        assert picture[[1, 1, 1, 6], [1, 6, 11, 1]].tolist() == [truth, output, 128 + (output - truth) // 2, truth]


def test_of_a_prediction_the_numbers_begin_after_what_was_seen(samples):
    strips = pictures.sample_strips({k: samples[k] for k in ("frames", "pred")}, task="pred", frames_in=3)
    page = BeautifulSoup(frames.player(strips, frames_in=3).data, "html.parser")
    assert [frame["data-number"] for frame in page.select(".frame")] == ["4", "5"]
    assert page.output.string == "frame 4 of 5"
