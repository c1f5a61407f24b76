from .architectures import ARCHITECTURES as ARCHITECTURES
from .checkpoint import Checkpointing as Checkpointing
from .data import MovingMNIST as MovingMNIST
from .evaluation import predict as predict
from .models import SequenceAutoencoder as SequenceAutoencoder
from .objective import Objective as Objective
from .parameters import ParameterError as ParameterError
from .parameters import Parameters as Parameters
from .reports import comparable_runs as comparable_runs
from .runs import (
    Run as Run,
)
from .runs import (
    RunError as RunError,
)
from .runs import (
    build_model as build_model,
)
from .runs import (
    find_runs as find_runs,
)
from .runs import (
    load_digits as load_digits,
)
from .runs import (
    load_model as load_model,
)
from .runs import (
    open_run as open_run,
)
from .runs import (
    parameter_cells as parameter_cells,
)
from .runs import (
    resolve as resolve,
)
from .training import fit as fit
from .updates import UpdateRule as UpdateRule
