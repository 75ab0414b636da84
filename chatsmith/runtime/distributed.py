"""Several processes as one: which of them this is, joining their group, adding numbers up, and agreeing on one.

Numbers that the host decides by (is anyone asked to stop, how many tokens does the step train on) travel over gloo,
from CPU to CPU, also where gradients travel over NCCL: so they never wait for a GPU.
"""

import importlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from chatsmith.runtime.errors import UserError

T = TypeVar("T")

if TYPE_CHECKING:
    from chatsmith.runtime.device import Runtime  # which asks this file for the rank

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others in a collective: an evaluation or a first compilation may take so long on one
of them. NCCL's own limit is 10 minutes."""

SLURM_PORTS = 15_000, 20_000
"""Under Slurm the processes of a job step meet at one of so many ports from the first on, by the number of the job."""


class Rank(NamedTuple):
    """Which process this is."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """On its machine."""
    rendezvous: Mapping[str, str] = {}
    """MASTER_ADDR and MASTER_PORT, where the environment has them under other names."""


def rank_from(environment: Mapping[str, str]) -> Rank:
    """Which process this is, by what its starter says in the environment.

    torchrun's variables come first, so that `srun torchrun` works with a task for each machine. Else those of a Slurm
    job step (`srun python -m chatsmith …`, a task for each GPU); a batch script that calls no srun has no step, and is
    one process however many tasks the job may have. The processes of a step meet on its first machine.
    """
    if "RANK" in environment or "SLURM_STEP_NUM_TASKS" not in environment:
        number = {name: int(environment.get(name, 0)) for name in ("RANK", "LOCAL_RANK")}
        return Rank(number["RANK"], int(environment.get("WORLD_SIZE", 1)), number["LOCAL_RANK"])
    # node[07-12,15],other -> node07
    first = re.match(r"([^,\[]+)(?:\[(\d+)[^]]*\])?", environment.get("SLURM_STEP_NODELIST", "localhost"))
    assert first
    start, count = SLURM_PORTS
    number = int(environment.get("SLURM_JOB_ID", 0)) + int(environment.get("SLURM_STEP_ID", 0))
    meeting = {"MASTER_ADDR": first[1] + (first[2] or ""), "MASTER_PORT": str(start + number % count)}
    given = {name: environment[name] for name in meeting if name in environment}
    rank, world_size = int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
    return Rank(rank, world_size, int(environment["SLURM_LOCALID"]), meeting | given)


def gpu_index(rank: Rank, num_visible: int, environment: Mapping[str, str]) -> int:
    """Which of the visible GPUs a process takes: its own by number. Where only one is visible because its starter
    gave each process one (Slurm's --gpus-per-task), that one."""
    is_own = num_visible == 1 and "CUDA_VISIBLE_DEVICES" in environment
    return 0 if is_own else rank.local_rank


@contextmanager
def process_group(runtime: "Runtime") -> Iterator[None]:
    """Join the other processes for the length of the block; nothing at world size 1."""
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
        timeout=TIMEOUT,
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


def _store_of_attempt(runtime: "Runtime") -> Store:
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


def sum_number(value: float, runtime: "Runtime") -> float:
    """The sum of a number over all processes."""
    return sum_numbers({"": value}, runtime)[""]


def max_number(value: float, runtime: "Runtime") -> float:
    """The largest of the numbers of all processes."""
    if runtime.world_size == 1:
        return value
    largest = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.item()


def sum_numbers(values: Mapping[str, float], runtime: "Runtime") -> dict[str, float]:
    """The sums of several numbers over all processes, by name; every process must give the same names."""
    if runtime.world_size == 1:
        return dict(values)
    total = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(total)
    return dict(zip(values, total.tolist(), strict=True))


def main_number(value: float, runtime: "Runtime") -> float:
    """The main process's number, on every process: for what each would measure a little differently."""
    return sum_number(value if runtime.is_main else 0.0, runtime)


def gathered(items: list[T], runtime: "Runtime") -> list[T]:
    """The items of all processes, in their order."""
    if runtime.world_size == 1:
        return items
    lists: list[list[T]] = [[]] * runtime.world_size
    dist.all_gather_object(lists, items)
    return [item for of_one in lists for item in of_one]
