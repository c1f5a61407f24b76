"""What an update costs: estimated before a run, timed beside its peers, and the tables and figures of such runs.

Nothing that trains or opens a run imports this room.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
