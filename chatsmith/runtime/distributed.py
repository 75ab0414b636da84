"""Several processes as one: joining the group that torchrun describes, adding numbers up, and agreeing on one."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist

from chatsmith.runtime.device import Runtime


@contextmanager
def process_group(runtime: Runtime) -> Iterator[None]:
    """Join the other processes for the length of the block; nothing at world size 1."""
    if runtime.world_size == 1:
        yield
        return
    # Its functions take the group of that moment as a default. Imported later, as torch._dynamo does, they keep it for
    # ever; its threads then outlive it, and one that frees a tensor while Python ends aborts the process (1 in 10).
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if runtime.device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_number(value: float, runtime: Runtime) -> float:
    """The sum of a number over all processes."""
    if runtime.world_size == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=runtime.device)
    dist.all_reduce(total)
    return total.item()


def max_number(value: float, runtime: Runtime) -> float:
    """The largest of the numbers of all processes."""
    if runtime.world_size == 1:
        return value
    largest = torch.tensor(value, dtype=torch.float64, device=runtime.device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.item()


def sum_numbers(values: Mapping[str, float], runtime: Runtime) -> dict[str, float]:
    """The sums of several numbers over all processes, by name; every process must give the same names."""
    if runtime.world_size == 1:
        return dict(values)
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=runtime.device)
    dist.all_reduce(total)
    return dict(zip(values, total.tolist(), strict=True))


def main_number(value: float, runtime: Runtime) -> float:
    """The main process's number, on every process: for what each would measure a little differently."""
    return sum_number(value if runtime.is_main else 0.0, runtime)
