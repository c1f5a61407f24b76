"""What every Python that a test starts does first, by PYTHONPATH: it imports in two thirds of the time.

Of a million objects that the imports make none is garbage, so nothing looks for it so often, nor once more at the end.
"""

import atexit
import gc
import sys

gc.set_threshold(100_000)
atexit.register(gc.freeze)
# jsonschema parses a grammar of IRIs at its import, for 2.5 seconds, where that package is installed. Nothing here
# checks an IRI.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
