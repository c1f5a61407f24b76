"""What a trained run has learned of its data, measured on its model: the questions of the paper's title.

    probes             what can be read linearly from the encoder's state, and from frames
    labelled           a classifier with few labels, from the trained encoder and from random weights
    beyond_training    errors on a longer horizon, on more and fewer digits
    weights            weights as pictures, gates that saturate

Each function takes a run (`runs`) and returns a table; `Run.measured` keeps it in the run's folder. Figures of the
tables are in `reports`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
