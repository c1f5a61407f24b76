"""The pointwise half of an LSTM step in C, forward and backward: one pass over memory each, where torch takes seven.

Compiled on first use with whatever C compiler there is, and kept in the user's cache; without one, `kernels` is None
and `recurrent` does the same with torch, slower where layers are narrow.
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

SOURCE = r"""
__attribute__((simd("notinbranch"))) float expf(float);
__attribute__((simd("notinbranch"))) float tanhf(float);
static inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* z: 4 blocks of n = features * batch, pre-activations of i, f, g, o, which become i, f, tanh(c), o. p: 3 * features
   peepholes, or 0. */
void forward(float *restrict z, float *restrict g, const float *restrict before, float *restrict c, float *restrict h,
             const float *restrict p, long features, long batch) {
  long n = features * batch;
  for (long j = 0; j < features; j++) {
    float p_i = p ? p[j] : 0, p_f = p ? p[features + j] : 0, p_o = p ? p[2 * features + j] : 0;
    for (long k = j * batch; k < (j + 1) * batch; k++) {
      float i = sigmoid(z[k] + p_i * before[k]), f = sigmoid(z[n + k] + p_f * before[k]), new = tanhf(z[2 * n + k]);
      float cell = f * before[k] + i * new, o = sigmoid(z[3 * n + k] + p_o * cell), t = tanhf(cell);
      z[k] = i, z[n + k] = f, z[2 * n + k] = t, z[3 * n + k] = o, g[k] = new, c[k] = cell, h[k] = o * t;
    }
  }
}

/* From what forward left, and the gradients of h and of c, which becomes that of the c before: d, that of z. */
void backward(const float *restrict z, const float *restrict g, const float *restrict before, const float *restrict c,
              const float *restrict d_h, float *restrict d_c, float *restrict d, const float *restrict p,
              long features, long batch) {
  long n = features * batch;
  for (long j = 0; j < features; j++) {
    float p_i = p ? p[j] : 0, p_f = p ? p[features + j] : 0, p_o = p ? p[2 * features + j] : 0;
    for (long k = j * batch; k < (j + 1) * batch; k++) {
      float i = z[k], f = z[n + k], t = z[2 * n + k], o = z[3 * n + k], new = g[k];
      float d_o = d_h[k] * t * o * (1 - o), d_cell = d_c[k] + d_h[k] * o * (1 - t * t) + d_o * p_o;
      float d_i = d_cell * new * i * (1 - i), d_f = d_cell * before[k] * f * (1 - f);
      d[k] = d_i, d[n + k] = d_f, d[2 * n + k] = d_cell * i * (1 - new * new), d[3 * n + k] = d_o;
      d_c[k] = d_cell * f + d_i * p_i + d_f * p_f;
    }
  }
}
"""
OPTIONS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]


@lru_cache(maxsize=1)
def kernels() -> Any:
    """The library with `forward` and `backward` of SOURCE, which take addresses of float32; None where it cannot be."""
    try:
        return _load()
    except (OSError, subprocess.CalledProcessError, AttributeError) as error:
        why = getattr(error, "stderr", None) or str(error)
        logging.getLogger("seqae").warning("LSTM steps in torch, not in C: %s", why.strip().splitlines()[0])
        return None


def _load() -> Any:
    if os.environ.get("SEQAE_FUSED") == "0":
        raise OSError("SEQAE_FUSED is 0")
    wanted = os.environ.get("CC", "cc")
    if platform.system() != "Linux" or (compiler := shutil.which(wanted)) is None:
        raise OSError(f"no C compiler {wanted} here")
    from pooch import os_cache

    cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0]  # the code runs on no other kind of processor
    kind = [line for line in cpu.splitlines() if line.startswith(("flags", "Features", "model name"))]
    digest = hashlib.sha256("\n".join([SOURCE, compiler, *OPTIONS, *kind]).encode()).hexdigest()[:16]
    file = os_cache("seqae") / f"lstm-{digest}.so"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            built = Path(folder) / file.name
            command = [compiler, *OPTIONS, "-x", "c", "-", "-o", str(built), "-lmvec", "-lm"]
            subprocess.run(command, input=SOURCE, text=True, check=True, capture_output=True)
            built.replace(file)  # whole, or not there
    library = ctypes.CDLL(str(file))
    library.forward.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_long] * 2
    library.backward.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_long] * 2
    library.forward.restype = library.backward.restype = None
    return library
