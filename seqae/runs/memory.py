"""How much memory a training takes: of tensors on CUDA, of the process on Linux, elsewhere not known."""

import ctypes
from contextlib import suppress
from pathlib import Path

import torch


def used_memory(device: torch.device, *, since: int | None = None) -> int | None:
    """Bytes. Without `since`, what is in use, and the peak forgotten; with it, what the peak was above that: of tensors
    on CUDA, of this process on Linux, elsewhere None.
    """
    begin, status = since is None, Path("/proc/self/status")
    if device.type == "cuda":
        if begin:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) if begin else torch.cuda.max_memory_allocated(device) - (since or 0)
    if device.type != "cpu" or not status.exists():
        return None
    with suppress(OSError):  # what sets VmHWM back to VmRSS (man proc_pid_clear_refs)
        if begin:
            if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
                trim(0)  # what is free and kept is not in use
            Path("/proc/self/clear_refs").write_text("5")
    kilobytes = {line.split(":")[0]: line.split()[1] for line in status.read_text().splitlines() if " kB" in line}
    found = kilobytes.get("VmRSS" if begin else "VmHWM")  # gVisor, for one, does not tell the peak
    return None if found is None else 1024 * int(found) - (since or 0)
