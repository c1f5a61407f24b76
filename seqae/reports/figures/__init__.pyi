from .curves import (
    by_branch as by_branch,
)
from .curves import (
    frame_errors as frame_errors,
)
from .curves import (
    learning_curves as learning_curves,
)
from .curves import (
    losses_in_ways as losses_in_ways,
)
from .curves import (
    sequence_errors as sequence_errors,
)
from .curves import (
    then_and_again as then_and_again,
)
from .grids import (
    floor_and_reached as floor_and_reached,
)
from .grids import (
    output_histograms as output_histograms,
)
from .grids import (
    preactivations as preactivations,
)
from .grids import (
    ranking as ranking,
)
from .grids import (
    status_grid as status_grid,
)
from .style import (
    UNITS as UNITS,
)
from .style import (
    coloured as coloured,
)
from .style import (
    level_line as level_line,
)
from .style import (
    no_values as no_values,
)
from .style import (
    ordered as ordered,
)
from .style import (
    show as show,
)
