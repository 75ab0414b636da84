"""Sharing a task's items among processes, and bringing what they found together.

Each process takes every n-th item; points travel as tensors and replies as JSON in a tensor of bytes, so that nothing
needs pickle. With one process nothing is sent.
"""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from chatsmith.runtime.device import Runtime

Item = TypeVar("Item")


def share(items: Sequence[Item], runtime: Runtime) -> Sequence[Item]:
    """The items that this process works on."""
    return items[runtime.rank :: runtime.world_size]


def collect(mine: Sequence[Any], total: int, runtime: Runtime) -> list[Any]:
    """Everybody's values in the order of the items, on every process; `mine` belong to `share(items)`, and are of
    what JSON can say. All processes must call it."""
    if runtime.world_size == 1:
        return list(mine)
    everything: list[Any] = [None] * total
    for rank, values in enumerate(_all_gather(json.dumps(list(mine)).encode("utf-8"), runtime)):
        everything[rank :: runtime.world_size] = json.loads(values)
    return everything


def _all_gather(content: bytes, runtime: Runtime) -> list[bytes]:
    """Every process's bytes, in the order of their ranks."""
    sizes = torch.zeros(runtime.world_size, dtype=torch.int64, device=runtime.device)
    sizes[runtime.rank] = len(content)
    dist.all_reduce(sizes)
    # Rows of equal length; a sum in which all but one term are zero.
    rows = torch.zeros(runtime.world_size, int(sizes.max()), dtype=torch.uint8, device=runtime.device)
    rows[runtime.rank, : len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(
        runtime.device
    )
    dist.all_reduce(rows)
    return [bytes(row[:size].tolist()) for row, size in zip(rows.cpu(), sizes.tolist(), strict=True)]
