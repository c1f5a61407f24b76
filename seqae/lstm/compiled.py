"""`step.c`, compiled and loaded: all steps of a stack of LSTM layers, the pointwise half of a single step, and
convolutions by kernels of 3×3.

Where torch makes a step, it launches a dozen operations, of which seven pass over memory for the pointwise half alone.
step.c is compiled on first use and kept in the user's cache. That needs Linux (glibc's vector functions) and a C
compiler. Elsewhere `step_library` returns None, and torch makes the same steps; `layers` says by what.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from seqae.files import cache_folder, whole

# The library finds OpenMP in what torch has loaded, so that it shares torch's threads and their number.
OPTIONS = ["-O3", "-fopenmp", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
OPTIONS += ["-Werror=attributes"]  # a compiler that does not know the vector functions would gain nothing
TILE = 64  # rows of a tile in step.c, at most
# Read when Python's own sources are, so that an edit of it takes effect as an edit of theirs does.
STEP_SOURCE = (Path(__file__).parent / "step.c").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def step_library() -> Any:
    """The loaded library with the functions of step.c, or None, logged with its reason, where there is none.

    They take addresses of contiguous float32 data, see step.c for the shapes. $SEQAE_FUSED=0 turns the library off, $CC
    names the compiler, with options if there are any.
    """
    try:
        return _load()
    except (ImportError, OSError, subprocess.CalledProcessError, AttributeError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        logging.getLogger("seqae").warning(
            "LSTM steps are made by torch, not in C: %s", (reason.strip() or repr(error)).splitlines()[0]
        )
        return None


def _load() -> Any:
    """The library, from the cache or compiled; raises one of the errors that `step_library` expects."""
    if os.environ.get("SEQAE_FUSED") == "0":
        raise OSError("SEQAE_FUSED is 0")
    wanted, *flags = os.environ.get("CC", "").split() or ["cc"]
    if platform.system() != "Linux":
        raise OSError(f"{platform.system()} does not have glibc's vector functions")
    if (compiler := shutil.which(wanted)) is None:
        raise OSError(f"the C compiler {wanted} is not on this machine")
    cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0]  # the compiled code runs on this kind of processor only
    kind = [line for line in cpu.splitlines() if line.startswith(("flags", "Features", "model name"))]
    digest = hashlib.sha256("\n".join([STEP_SOURCE, compiler, *flags, *OPTIONS, *kind]).encode()).hexdigest()[:16]
    file = cache_folder() / f"lstm-{digest}.so"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as built:  # other processes see the whole file or none, also after a crash of the machine
            command = [compiler, *flags, *OPTIONS, "-x", "c", "-", "-o", str(built), "-lmvec", "-lm"]
            text: Any = {"encoding": "utf-8", "errors": "replace"}  # whatever the locale
            subprocess.run(command, input=STEP_SOURCE, **text, check=True, capture_output=True)
    library = ctypes.CDLL(str(file))
    address, size = ctypes.c_void_p, ctypes.c_long
    library.forward.argtypes = [address, address, size, size, *[address] * 6, size, size, ctypes.c_int]
    library.backward.argtypes = [*[address] * 7, size, address, size, size, ctypes.c_int]
    library.largest.argtypes, library.largest.restype = [size], size
    return library
