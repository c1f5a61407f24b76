"""A store elsewhere, at a URL of fsspec: its mirror here, what is copied either way, whose lease a run is.

What a run is, and what a folder of runs holds, is in `runs`; where the store is, in `seqae.files`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
