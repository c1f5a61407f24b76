"""Remote stores: folders of runs at any URL of fsspec, such as s3://bucket/runs.

    mirror      the local copy of a store that all other code reads and writes; fetching and publishing
    transfer    one run copied between the mirror and the store; which of two copies is further along
    leases      only one machine at a time trains a run
    yaml_text   the one reader of YAML, of records and of parameter files

What a run folder holds is in `runs`; where the store is, is decided by `seqae.files.store_location`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
