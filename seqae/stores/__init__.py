"""Remote stores: folders of runs at any URL of fsspec, such as s3://bucket/runs.

    location    where the store is; its URL without credentials; project: the project around it
    mirror      the local copy of a store that all other code reads and writes; fetching and publishing
    transfer    one run copied between the mirror and the store
    states      how far a copy of a run is, and which of two is further along
    record      what a run.yaml may say; yaml_text: the one reader of YAML
    leases      only one machine at a time trains a run; locks: only one process of a machine does

What a run folder holds is in `runs`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
