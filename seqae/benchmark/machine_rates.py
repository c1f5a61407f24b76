"""How fast this machine is: rates of a large matrix product and of a copy, the precisions of its devices."""

import timeit

import torch

from seqae.device import DTYPES, make_accelerator, mixed_precision


def matmul_rate(*, device: str = "auto", precision: str = "none", size: int | None = None) -> float:
    """Floating-point operations a second in a product of two size × size matrices on the device, the best of four; size
    None: 8192 on CUDA, else 2048.

    Where a CPU would take more than a second for one, as those that have no bf16 do, the rate of small matrices is
    told. Raises ValueError where the device is not available, or has no such precision.
    """
    where = make_accelerator(device=device).device
    size = size or (8192 if where.type == "cuda" else 2048)
    if where.type == "cuda":  # tf32 is a setting of the process, not a dtype
        mixed_precision(where, precision)
    if where.type == "cpu" and (rate := _rate(where, precision, min(256, size))) < 2 * size**3:
        return rate
    return _rate(where, precision, size)


def _rate(device: torch.device, precision: str, size: int) -> float:
    # A GPU multiplies ones faster than other numbers.
    square = torch.rand(size, size, device=device, dtype=DTYPES[precision])
    many = 10 if device.type == "cuda" else 1  # launched one after the other, so that launching takes no time

    def multiply() -> None:
        for _ in range(many):
            product = square @ square
        product[0, 0].item()  # waits for the device

    return 2 * size**3 * many / min(timeit.repeat(multiply, number=1, repeat=4))


def copy_rate() -> float:
    """Bytes read and written a second by a copy of 256 MiB in memory, the best of five."""
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    return 8 * source.numel() / min(timeit.repeat(lambda: target.copy_(source), number=1, repeat=5))


def precision_rates(device: str = "auto") -> dict[str, str]:
    """For each precision its rate in a matrix product on the device, with the unit, or why the device refuses it."""
    found = {}
    for precision in DTYPES:
        try:
            where = make_accelerator(device=device).device
            mixed_precision(where, precision)
            size = 8192 if where.type == "cuda" else 512
            found[precision] = f"{matmul_rate(device=device, precision=precision, size=size) / 1e9:,.1f} GFLOP/s"
        except (ValueError, RuntimeError) as error:
            found[precision] = f"refused: {error}"
    return found
