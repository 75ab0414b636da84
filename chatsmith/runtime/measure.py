"""The machine's measured limits, so that speeds can be given as a share of something."""

import time

import torch

from chatsmith.runtime.device import Runtime


def gemm_peak(runtime: Runtime, dtype: torch.dtype, size: int = 2048, seconds: float = 1.0) -> float:
    """Floating-point operations per second of the best size x size x size matrix product within `seconds`.

    The best, not the mean: it is a limit, and anything else the machine does only lowers it. At least two products
    are timed after one to warm up.
    """
    left, right = (torch.randn(size, size, device=runtime.device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    runtime.synchronize()
    best, end, timed = float("inf"), time.perf_counter() + seconds, 0
    while timed < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        runtime.synchronize()
        best, timed = min(best, time.perf_counter() - start), timed + 1
    return 2 * size**3 / best


def read_bandwidth(runtime: Runtime, megabytes: int = 512, seconds: float = 1.0) -> float:
    """Bytes a second at which the device reads its memory: the best sum over a tensor larger than any cache.

    What bounds decoding: every token needs every weight once.
    """
    numbers = torch.ones(megabytes * 2**20 // 4, device=runtime.device)
    numbers.sum()
    runtime.synchronize()
    best, end, timed = float("inf"), time.perf_counter() + seconds, 0
    while timed < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        numbers.sum()
        runtime.synchronize()
        best, timed = min(best, time.perf_counter() - start), timed + 1
    return numbers.numel() * 4 / best
