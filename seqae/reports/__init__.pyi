from . import (
    compare as compare,
)
from . import (
    demo as demo,
)
from . import (
    figures as figures,
)
from . import (
    frames as frames,
)
from . import (
    published as published,
)
from . import (
    reproduction as reproduction,
)
from .compare import comparable_runs as comparable_runs
from .compare import labels as labels
from .compare import stack as stack
from .figures import coloured as coloured
from .index import publish_index as publish_index
from .index import update_index as update_index
from .page import Facts as Facts
from .page import advice as advice
from .page import render_notebook as render_notebook
from .reproduction import conclude as conclude
from .reproduction import recorded as recorded
