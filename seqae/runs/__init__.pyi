from . import experiment as experiment
from .cells import (
    cells_hash as cells_hash,
)
from .cells import (
    family_defaults as family_defaults,
)
from .cells import (
    family_notebook as family_notebook,
)
from .cells import (
    parameter_cells as parameter_cells,
)
from .experiment import build_model as build_model
from .experiment import load_model as load_model
from .gather import PROBLEMS as PROBLEMS
from .gather import WHAT as WHAT
from .gather import merge_stores as merge_stores
from .naming import run_name as run_name
from .pictures import Strips as Strips
from .pictures import difference as difference
from .pictures import pairs as pairs
from .pictures import sample_strips as sample_strips
from .pictures import tile as tile
from .provenance import code_version as code_version
from .provenance import keep_code_version as keep_code_version
from .provenance import now as now
from .recorded import mse_rows as mse_rows
from .records import (
    RunError as RunError,
)
from .records import (
    finished as finished,
)
from .records import (
    notes as notes,
)
from .records import (
    progress as progress,
)
from .records import (
    read_record as read_record,
)
from .records import (
    remembered as remembered,
)
from .records import (
    run_status as run_status,
)
from .run import Run as Run
from .run import find_runs as find_runs
from .run import open_run as open_run
