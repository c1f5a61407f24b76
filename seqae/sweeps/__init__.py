"""Many runs: what parameter files define, notebooks executed in kernels, on workers of this machine or of many.

What becomes of a run is recorded by the run itself (`runs`); what a terminal shows is in `commands`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
