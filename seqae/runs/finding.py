"""Runs found by what is on the disk: all of a store, or the one in a folder."""

import warnings
from collections.abc import Collection
from glob import escape
from pathlib import Path

from seqae.files import expanded
from seqae.parameters import ParameterError, Parameters
from seqae.runs.folder import family_of
from seqae.runs.records import RunError, read_record, remembered
from seqae.runs.run import Run
from seqae.stores import fetch, project_path, store_folder


def find_runs(store: str | Path | None = None, family: str | None = None, *, names: Collection[str] = ()) -> list[Run]:
    """All runs of a store, sorted by family and name. A damaged run gives a warning and is left out.

    store: a folder or any URL of fsspec; by default where runs are that give no parameter `store`. family: only runs
    of this one. names: only run folders with these names. Raises StoreError if a remote store cannot be reached.
    """
    folder, runs = project_path(str(store)) if isinstance(store, Path) else fetch(store, family or ""), []
    with remembered(folder) as root:
        of = escape(family) if family else "*"
        wanted = [f"{of}/{name}/run.yaml" for name in map(escape, names)] or [f"{of}/*/run.yaml"]
        for file in sorted({file for pattern in wanted for file in root.glob(pattern)}):
            try:
                runs.append(Run.load(file.parent))
            except (RunError, ValueError) as error:  # damaged, or with parameters of another version
                warnings.warn(f"{file.parent} left out: {error}", stacklevel=2)
    return runs


def recorded_run(folder: str | Path, *, trust_code: bool = False) -> Run:
    """The run recorded in a folder, even if its parameters are of another version. A relative path is of the store.

    trust_code: as for `Run.load`. If this version does not know the parameters, only what is recorded can be read.
    Raises RunError if the folder holds no run.
    """
    folder = store_folder() / expanded(str(folder))
    try:
        return Run.load(folder, trust_code=trust_code)
    except ParameterError:
        record = read_record(folder)
        parameters = Parameters.model_construct(**record["parameters"])
        return Run(folder.resolve(), family_of(folder, record), parameters, record["differs"])
