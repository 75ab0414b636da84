"""Which of several processes this is, by what torchrun or Slurm says in the environment. Imports no torch."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

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


def per_machine(rank: Rank, environment: Mapping[str, str]) -> int:
    """How many of the processes are on each machine, as the first machine says; all, where it is one each or
    nobody says it."""
    name = "LOCAL_WORLD_SIZE" if "RANK" in environment else "SLURM_STEP_TASKS_PER_NODE"
    found = re.match(r"\d+", environment.get(name, ""))  # 8(x4)
    return int(found[0]) if found and int(found[0]) > 1 else rank.world_size


def is_main(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the one that speaks."""
    return rank_from(environment).rank == 0


def gpu_index(rank: Rank, num_visible: int, environment: Mapping[str, str]) -> int:
    """Which of the visible GPUs a process takes: its own by number. Where only one is visible because its starter
    gave each process one (Slurm's --gpus-per-task), that one."""
    is_own = num_visible == 1 and "CUDA_VISIBLE_DEVICES" in environment
    return 0 if is_own else rank.local_rank
