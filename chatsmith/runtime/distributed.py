"""Several processes as one: joining their group, adding numbers up, and agreeing on one.

Numbers that the host decides by (is anyone asked to stop, how many tokens does the step train on) travel over gloo,
from CPU to CPU, also where gradients travel over NCCL: so they never wait for a GPU.
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from chatsmith.runtime.device import Runtime
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.rank import rank_from

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others in a collective: an evaluation or a first compilation may take so long on one
of them. NCCL's own limit is 10 minutes."""

MOST_SECONDS = 30 * 24 * 3600


@contextmanager
def process_group(runtime: Runtime, longest_wait: float = 0.0) -> Iterator[None]:
    """Join the other processes for the length of the block; nothing at world size 1. One of them may wait so many
    seconds for something else, such as room on a disk."""
    is_cuda = runtime.device.type == "cuda"
    if is_cuda:
        torch.cuda.set_device(runtime.device)
    if runtime.world_size == 1:
        yield
        return
    # Its functions take the group of that moment as a default. Imported later, as torch._dynamo does, they keep it for
    # ever; its threads then outlive it, and one that frees a tensor while Python ends aborts the process (1 in 10).
    importlib.import_module("torch.distributed.nn.functional")
    for name, value in rank_from(os.environ).rendezvous.items():
        os.environ.setdefault(name, value)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if is_cuda else "gloo",
        store=_store_of_attempt(runtime),
        timeout=TIMEOUT + timedelta(seconds=min(longest_wait, MOST_SECONDS)),
        rank=runtime.rank,
        world_size=runtime.world_size,
        # Known from the start, NCCL connects at once and never guesses a GPU.
        device_id=runtime.device if is_cuda else None,
    )
    try:
        yield
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise UserError(
            "another process of this training ended, and this one with it; the same command, or torchrun with "
            "--max-restarts, goes on from the last saved state"
        ) from error
    finally:
        dist.destroy_process_group()


def _store_of_attempt(runtime: Runtime) -> Store:
    """Where the processes leave their addresses for each other. torchrun's own store outlives an attempt that it
    restarts: under the same names, the new processes would read dead ones' addresses. A store that a process opens
    is new each time, and shared by machines that do not count the same attempts."""
    store, _, _ = next(rendezvous("env://", runtime.rank, runtime.world_size, timeout=TIMEOUT))
    is_torchrun_s = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0) if is_torchrun_s else 0
    return PrefixStore(f"attempt {attempt}", store)


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether a collective failed because another process is gone: gloo and NCCL say it in their own words."""
    return isinstance(error, dist.DistError) or any(
        word in str(error) for word in ("gloo", "NCCL", "Connection")
    )


def sum_number(value: float, runtime: Runtime) -> float:
    """The sum of a number over all processes."""
    return sum_numbers({"": value}, runtime)[""]


def max_number(value: float, runtime: Runtime) -> float:
    """The largest of the numbers of all processes."""
    if runtime.world_size == 1:
        return value
    largest = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.item()


def sum_numbers(values: Mapping[str, float], runtime: Runtime) -> dict[str, float]:
    """The sums of several numbers over all processes, by name; every process must give the same names."""
    if runtime.world_size == 1:
        return dict(values)
    total = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(total)
    return dict(zip(values, total.tolist(), strict=True))


def main_number(value: float, runtime: Runtime) -> float:
    """The main process's number, on every process: for what each would measure a little differently."""
    return sum_number(value if runtime.is_main else 0.0, runtime)


def gathered(items: list[T], runtime: Runtime) -> list[T]:
    """The items of all processes, in their order."""
    if runtime.world_size == 1:
        return items
    lists: list[list[T]] = [[]] * runtime.world_size
    dist.all_gather_object(lists, items)
    return [item for of_one in lists for item in of_one]
