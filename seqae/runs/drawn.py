"""The sequences of a run, and what is known of each: what the generator drew, or labels of clips of one's own."""

from abc import ABC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqae.data import SPLITS, MovingMNIST
from seqae.parameters import Parameters
from seqae.runs import clip_sets, experiment
from seqae.runs.clip_files import named_source
from seqae.runs.digits import OFFICIAL_FRAMES, load_labels
from seqae.stores import project_path

if TYPE_CHECKING:
    import pandas as pd


class HasData(ABC):
    """The base of runs: the sequences of each split, and tables of what is known of them, aligned with these."""

    parameters: Parameters

    def sequences(self, split: str = "test", *, frames_out: int | None = None) -> np.ndarray:
        """The fixed sequences of val or test, or the first epoch's of train: uint8 (N, frames_in + frames_out, H, W).

        frames_out: frames to come, 1 or more; None: as the run has. The same sequences of Moving MNIST then go on for
        longer, clips are cut anew, and the official test file has 20 frames, of which they are the first. Raises
        ValueError for an unknown split and for more frames than that, OSError and ValueError where the data cannot be
        read.
        """
        _check_split(split)
        if frames_out is not None and (isinstance(frames_out, bool) or not frames_out >= 1):
            raise ValueError(f"frames_out must be a whole number, 1 or more; not {frames_out!r}")
        p = self.parameters
        frames = p.frames_in + (frames_out or p.frames_out)
        if split == "test" and p.test_data == "official" and not (p.clips or p.clips_digest):
            if frames_out is not None and frames > OFFICIAL_FRAMES:
                told = f"frames_out {frames_out}: the official test file has {OFFICIAL_FRAMES} frames"
                raise ValueError(f"{told}: give {OFFICIAL_FRAMES - p.frames_in} or fewer, or use val")
            return experiment.sequences(p, split).numpy()[:, :frames]
        return experiment.sequences(p.model_copy(update={"frames_out": frames_out or p.frames_out}), split).numpy()

    def drawn(self, split: str = "test", *, frame: int = 1) -> "pd.DataFrame":
        """What the generator drew: a row for each of `sequences(split)`, in their order, see `drawn_table`.

        Raises ValueError for clips and the official test file, which nothing is known of, and as `sequences`.
        """
        _check_split(split)
        return drawn_table(self.parameters, split, frame=frame)

    def labels(self, file: str | Path | None = None, split: str = "test") -> "pd.DataFrame":
        """Which clip each of `sequences(split)` is from, and what a CSV file says of it, see `labels_of_clips`."""
        _check_split(split)
        return labels_of_clips(self.parameters, split, file)


def drawn_table(p: Parameters, split: str, *, frame: int = 1) -> "pd.DataFrame":
    """A row for each Moving MNIST sequence of a split: `sequence`, 0, 1, …, and for each digit n = 1, 2, …

    - `digit_n`: its class, 0 to 9; `image_n`: its place among the images of `load_digits()[split]`;
    - `y_n`, `x_n`: where its upper left corner is at this frame, in pixels; the frame shows it at the whole number
      below;
    - `v_y_n`, `v_x_n`: its velocity after this frame, in pixels a frame. At a wall a component changes its sign; it
      moves less than its velocity in the step that ends at a wall.

    frame: 1, 2, … of frames_in + frames_out, the first frame seen being 1. Digits are in the order in which they were
    drawn, which says nothing. Raises ValueError for another frame, for clips and for the official test file.
    """
    import pandas as pd

    if p.clips or p.clips_digest:
        raise ValueError("nothing was drawn for clips of your own: give what is known of them as a CSV file, to labels")
    if split == "test" and p.test_data == "official":
        raise ValueError("the official test file does not say what was drawn: use val, or test_data: generated")
    frames = p.frames_in + p.frames_out
    if isinstance(frame, bool) or not isinstance(frame, int) or not 1 <= frame <= frames:
        raise ValueError(f"frame must be a whole number from 1 to {frames}; not {frame!r}")
    stream = experiment.digit_stream(p, split)
    assert isinstance(stream, MovingMNIST)
    count = {"train": p.train_sequences, "val": p.val_sequences, "test": p.test_sequences}[split]
    which, angle, path = stream.motion(range(count))
    canvas = stream.frame_size - stream.digits.shape[1]
    turned = ((path[:frame] <= 0) | (path[:frame] >= 1)).sum(0)  # how often each component met a wall, (2, n, digits)
    velocity = np.stack([np.sin(angle), np.cos(angle)]) * stream.digit_speed * (-1.0) ** turned
    (y, x), (v_y, v_x) = canvas * path[frame - 1], canvas * velocity
    classes = load_labels(p.digits, experiment.digits_folder(p))[split][which].astype(int)
    columns = {"digit": classes, "image": which, "y": y, "x": x, "v_y": v_y, "v_x": v_x}
    of_digits = {f"{name}_{n + 1}": of[:, n] for n in range(p.digits_per_sequence) for name, of in columns.items()}
    return pd.DataFrame({"sequence": np.arange(count), **of_digits})


def labels_of_clips(p: Parameters, split: str, file: str | Path | None) -> "pd.DataFrame":
    """A row for each sequence of a split of clips, from a CSV file that has a row for each clip.

    file: a path, relative to the project; None: no labels, only where each sequence is from. Its column `file` is the
    name of a clip's file or, for a folder of pictures, of the folder, with as many folders before it as are needed to
    tell clips apart (kth/walking/person01.avi, or person01.avi). Its column `index`, 0, 1, …, is the place in an array
    of several clips. Every other column is a label. Returned are `sequence`, `clip`, the clip's file, `index`, `start`,
    the first frame of the sequence in its clip, 0, 1, …, and the labels. Raises ValueError for a run without clips,
    where a clip has no row or several, a row two files, or a label the name of one of these, and FileNotFoundError.
    """
    import pandas as pd

    if p.clips is None:
        raise ValueError("labels are of clips of your own, and this run has none: see drawn")
    if file is None:
        return pd.DataFrame(_origins(p, split))
    path = project_path(str(file))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: give a CSV file with the columns file and your labels")
    table = pd.read_csv(path, dtype={"file": str})
    if "file" not in table or len(table.columns.difference(["file", "index"])) == 0:
        raise ValueError(f"{path} has the columns {', '.join(table.columns)}: it needs file, and a label or more")
    if taken := sorted({"sequence", "clip", "start"} & {*table.columns}):
        raise ValueError(f"{path} has the column {taken[0]}, which the table of sequences has already: rename it")
    if unnamed := [number for number, empty in enumerate(table["file"].isna(), start=2) if empty]:
        raise ValueError(f"{path} names no file in line {unnamed[0]}: write there which clip its labels are of")
    names = ["/" + name.strip().replace("\\", "/").lstrip("./") for name in table["file"]]
    rows, owners = [], dict[int, str]()
    for origin in _origins(p, split):
        source, index = origin["clip"], origin["index"]
        found = [i for i, name in enumerate(names) if f"/{Path(source).as_posix().lstrip('/')}".endswith(name)]
        if "index" in table:
            found = [i for i in found if table["index"][i] == index]
        if len(found) != 1:
            what = "no row" if not found else f"{len(found)} rows"
            raise ValueError(f"{path} has {what} for clip {index} of {source}: give it one, with its file's name")
        if (other := owners.setdefault(found[0], source)) != source:
            raise ValueError(f"{path} has one row for {other} and for {source}: write folders before the file's name")
        labels = table.loc[found[0]].drop(["file", "index"], errors="ignore")
        rows.append({**origin, **labels})
    return pd.DataFrame(rows)


def _origins(p: Parameters, split: str) -> list[dict[str, Any]]:
    # The clip of each sequence of a split, and its first frame there.
    windows, rows = clip_sets.windows(p, split), []
    for number, (place, start) in enumerate(windows.places[: getattr(p, f"{split}_sequences")].tolist()):
        clip = windows.clips[place]
        rows.append({"sequence": number, "clip": str(named_source(clip.source)), "index": clip.index, "start": start})
    return rows


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; not {split!r}")
