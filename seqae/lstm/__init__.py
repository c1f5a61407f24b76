"""The recurrent core: LSTM layers over whole sequences, dense or convolutional, with their backward pass.

Architectures that are built of them are in `seqae.models`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
