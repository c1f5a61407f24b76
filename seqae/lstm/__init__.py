"""The recurrent core: stacks of LSTM layers over whole sequences, dense or convolutional, and their backward pass.

`layers` has the modules, and chooses who makes the steps: `stacked` makes all steps of dense layers on a CPU by
`step.c`, which `compiled` compiles and loads; torch's own LSTM makes those of others; `recurrence` makes the rest, of
layers that `unrolled` has. `linear` has the products with weights and their gradients, `winograd` those of 3×3 kernels
on a CPU. The architectures that are built of these are in `seqae.architectures`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
