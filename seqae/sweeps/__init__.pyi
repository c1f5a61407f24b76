from .cluster import connect as connect
from .cluster import serve_scheduler as serve_scheduler
from .cluster import serve_workers as serve_workers
from .cluster import tls as tls
from .dispatch import sweep as sweep
from .execution import Outcome as Outcome
from .forkserver import prepare as prepare
from .gpus import slots as slots
from .interrupts import ENDINGS as ENDINGS
from .interrupts import ending_in_order as ending_in_order
from .kernels import obey_signals as obey_signals
from .machines import credentials_from_stdin as credentials_from_stdin
from .pages import (
    compare_runs as compare_runs,
)
from .pages import (
    execute_page as execute_page,
)
from .pages import (
    show_both as show_both,
)
from .pages import (
    show_demo as show_demo,
)
from .planning import Planned as Planned
from .planning import plan as plan
from .reproduce import make_again as make_again
