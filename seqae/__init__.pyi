from . import architectures as architectures
from . import benchmark as benchmark
from . import capture as capture
from . import checkpoint as checkpoint
from . import commands as commands
from . import contract as contract
from . import data as data
from . import device as device
from . import embeddings as embeddings
from . import evaluation as evaluation
from . import files as files
from . import losses as losses
from . import lstm as lstm
from . import metrics as metrics
from . import models as models
from . import objective as objective
from . import parameters as parameters
from . import reports as reports
from . import representations as representations
from . import runs as runs
from . import signals as signals
from . import stores as stores
from . import sweeps as sweeps
from . import tasks as tasks
from . import training as training
from . import updates as updates
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
from .training import Fitted as Fitted
from .training import fit as fit
from .updates import UpdateRule as UpdateRule
