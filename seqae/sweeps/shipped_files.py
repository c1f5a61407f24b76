"""What comes with the package, so that an installed one needs no clone: notebooks of pages, scales, a first project.

The notebooks and scales are those of the repository, to which `shipped/` links.
"""

import shutil
from pathlib import Path

from seqae.sweeps.parameter_files import files_below

SHIPPED = Path(__file__).with_name("shipped")


def page_notebook(project: Path, name: str) -> Path:
    """The notebook of a page, notebooks/NAME of the project; or else the one that comes with the package."""
    own = project / "notebooks" / name
    return own if own.exists() else SHIPPED / "notebooks" / name


def lay_down(folder: Path) -> None:
    """Lay down the smallest project in a folder, which is made if it is missing: a notebook and a parameter file.

    Raises ValueError if the folder has notebooks or parameter files, or is none.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name another one")
    notebooks = [*(folder / "notebooks").glob("**/*.ipynb")]
    parameters = [file for file in files_below(folder / "params") if file.is_file()]
    if there := sorted(notebooks + parameters):
        raise ValueError(f"{there[0]} is there already: name another folder")
    for name in ("notebooks/mine.ipynb", "params/mine/prediction.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SHIPPED / "new" / name, folder / name)
