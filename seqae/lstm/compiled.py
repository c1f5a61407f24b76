"""The pointwise half of an LSTM step in C, forward and backward: one pass over memory each, where torch takes seven.

Compiled on first use where there is a C compiler and glibc's vector functions, so on Linux, and kept in the user's
cache; elsewhere `step_library` gives None and `steps` does the same with torch, slower where layers are narrow.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

# OpenMP's symbols are found in what torch has loaded for all, so that its threads, and their number, are shared.
OPTIONS = ["-O3", "-fopenmp", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
OPTIONS += ["-Werror=attributes"]  # a compiler that does not know the vector functions is no gain


@lru_cache(maxsize=1)
def step_library() -> Any:
    """The library with `forward` and `backward` of step.c, which take addresses of float32; None where it cannot be."""
    try:
        return _load()
    except (OSError, subprocess.CalledProcessError, AttributeError) as error:
        why = getattr(error, "stderr", None) or str(error)
        logging.getLogger("seqae").warning(
            "LSTM steps in torch, not in C: %s", (why.strip() or repr(error)).splitlines()[0]
        )
        return None


def _load() -> Any:
    if os.environ.get("SEQAE_FUSED") == "0":
        raise OSError("SEQAE_FUSED is 0")
    wanted = os.environ.get("CC", "cc")
    if platform.system() != "Linux":
        raise OSError(f"{platform.system()} has not glibc's vector functions")
    if (compiler := shutil.which(wanted)) is None:
        raise OSError(f"no C compiler {wanted} here")
    from pooch import os_cache

    cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0]  # the code runs on no other kind of processor
    kind = [line for line in cpu.splitlines() if line.startswith(("flags", "Features", "model name"))]
    source = (Path(__file__).parent / "step.c").read_text(encoding="utf-8")
    digest = hashlib.sha256("\n".join([source, compiler, *OPTIONS, *kind]).encode()).hexdigest()[:16]
    file = os_cache("seqae") / f"lstm-{digest}.so"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            built = Path(folder) / file.name
            command = [compiler, *OPTIONS, "-x", "c", "-", "-o", str(built), "-lmvec", "-lm"]
            subprocess.run(command, input=source, text=True, check=True, capture_output=True)
            built.replace(file)  # whole, or not there
    library = ctypes.CDLL(str(file))
    address, size = ctypes.c_void_p, ctypes.c_long
    library.forward.argtypes = [address, address, size, size, *[address] * 6, size, size]
    library.backward.argtypes = [*[address] * 7, size, address, size, size]
    library.forward.restype = library.backward.restype = None
    return library
