from .estimates import (
    H100 as H100,
)
from .estimates import (
    H100_LAUNCH as H100_LAUNCH,
)
from .estimates import (
    H100_SHARE as H100_SHARE,
)
from .estimates import (
    estimate as estimate,
)
from .estimates import (
    matmul_rate as matmul_rate,
)
from .estimates import (
    precisions as precisions,
)
from .estimates import (
    seconds_of as seconds_of,
)
from .tables import (
    performances as performances,
)
from .tables import (
    roofline as roofline,
)
from .tables import (
    speedup_bars as speedup_bars,
)
from .tables import (
    speedups as speedups,
)
from .tables import (
    update_times as update_times,
)
from .timing import measure as measure
from .timing import run_benchmark as run_benchmark
