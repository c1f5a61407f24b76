from .mirror import (
    MARK as MARK,
)
from .mirror import (
    UNPUBLISHED as UNPUBLISHED,
)
from .mirror import (
    check_writable as check_writable,
)
from .mirror import (
    fetch as fetch,
)
from .mirror import (
    leased as leased,
)
from .mirror import (
    located as located,
)
from .mirror import (
    mirror_folder as mirror_folder,
)
from .mirror import (
    publish as publish,
)
from .mirror import (
    publish_run_folder as publish_run_folder,
)
from .mirror import (
    refresh as refresh,
)
from .mirror import (
    unpublished as unpublished,
)
from .mirror import (
    working as working,
)
from .transfer import (
    CHECKPOINT as CHECKPOINT,
)
from .transfer import (
    BusyError as BusyError,
)
from .transfer import (
    Record as Record,
)
from .transfer import (
    StoreError as StoreError,
)
from .transfer import (
    compare_records as compare_records,
)
from .transfer import (
    is_passing as is_passing,
)
from .transfer import (
    record_of as record_of,
)
