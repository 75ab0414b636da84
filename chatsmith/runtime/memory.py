"""How much memory is free: the GPU's, the machine's, or what a container may still take."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

NAMES = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}
"""Files with a control group's limit and use, for version 2, which has no name here, and version 1."""


def free_memory(device: torch.device) -> int:
    """Free bytes of the device's memory; else of the machine's, within the limits of this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        # MemAvailable, unlike the free pages, counts what the page cache would give back.
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min((free, *left_by_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))))


def left_by_groups(membership: Path, mount: Path) -> Iterator[int]:
    """Bytes that each control group around this process leaves it: what a container, or a service, is limited to.

    `membership` lists the groups of the process; `mount` is where they are (cgroups(7)). Those without a limit, or out
    of sight, are left out.
    """
    try:
        lines = membership.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kind, path = line.split(":", 2)
        if kind not in NAMES:
            continue
        root = mount / kind
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (left := _left_by(folder, *NAMES[kind])) is not None:
                yield max(0, left)


def _left_by(folder: Path, limit: str, use: str) -> int | None:
    try:
        most, used = (int((folder / name).read_text("ascii")) for name in (limit, use))
        counts = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
    except (OSError, ValueError):  # no such group here, or "max": no limit
        return None
    return most - used + int(counts.get("inactive_file", 0))  # files read before give way
