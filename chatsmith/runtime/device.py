"""Where things run, as a value that is passed along: device, compute type, rank and world size.

And what can be asked of that place: whether it compiles, how much memory is free, how fast it multiplies.
"""

import ctypes
import gc
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from chatsmith.runtime.cache import prepare_compiling
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.rank import Rank, gpu_index, rank_from

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}

ONEDNN_PRIMITIVES = "512"
"""How many prepared products oneDNN keeps, of 1,024 by default; read when it makes its first one. It prepares one for
every shape (in bf16, 4 ms and up to 0.8 MB), and a step of reinforcement learning has a hundred: with 32 kept, RL
prepared three of ten products again. A server whose prompts have all lengths keeps no more than this, either."""


@dataclass(frozen=True)
class Runtime:
    """One process's rank among the processes, and what it computes with."""

    device: torch.device
    compute_dtype: torch.dtype
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and reports to the person."""
        return self.rank == 0

    @property
    def dtype_name(self) -> str:
        """The compute type as settings name it."""
        return {dtype: short for short, dtype in DTYPES.items()}[self.compute_dtype]

    def synchronize(self) -> None:
        """Wait until the device has done what it was given; before reading a clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def describe(self) -> str:
        """The device and type in words, for the top of a run."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        elif self.device.type == "cpu":
            name = f"CPU, {torch.get_num_threads()} threads"
        else:
            name = self.device.type.upper()
        return f"{name}, {self.dtype_name}" + (
            f", {self.world_size} processes" if self.world_size > 1 else ""
        )


def detect_runtime(device: str = "auto", dtype: str = "auto", scales_loss: bool = False) -> Runtime:
    """The runtime of this process: `device` is auto, cpu, cuda, cuda:N or mps; `dtype` is auto, fp32, bf16, fp16 or
    fp64.

    auto takes CUDA, then MPS, then the CPU; and bf16 where the hardware supports it (CUDA 8.0 and up,
    CPUs with AVX512-BF16 or AMX), fp32 elsewhere: emulated bf16 was measured 70 times slower than fp32 on a CPU
    with AVX2 only. Who trains with a scaled loss (`scales_loss`) gets fp16 on CUDA 7.0 to 7.5. Rank and world size
    come from torchrun's environment or Slurm's. Raises UserError for what is not there.
    """
    rank = rank_from(os.environ)
    chosen = _pick_device(device, rank)
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"dtype must be one of auto, {', '.join(DTYPES)}, not {dtype!r}")
    compute_dtype = _native_dtype(chosen, scales_loss) if dtype == "auto" else DTYPES[dtype]
    prepare_compiling()
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_PRIMITIVES)
    return Runtime(chosen, compute_dtype, rank.rank, rank.world_size)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs here: a C++ compiler on CPU, Triton on CUDA.

    The compiler is the one torch will call: $CXX, or else g++ (clang++ on a Mac), and no other.
    """
    if device.type == "cpu":
        usual = "clang++" if sys.platform == "darwin" else "g++"
        return shutil.which(os.environ.get("CXX") or usual) is not None
    return device.type == "cuda"


def _pick_device(name: str, rank: Rank) -> torch.device:
    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    if name == "cuda":
        name = f"cuda:{gpu_index(rank, torch.cuda.device_count(), os.environ)}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device must be auto, cpu, cuda, cuda:N or mps, not {name!r}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device must be auto, cpu, cuda, cuda:N or mps, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps is not there: use cpu", setting="device")
    return device


def _native_dtype(device: torch.device, scales_loss: bool) -> torch.dtype:
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if scales_loss and (7, 0) <= capability < (8, 0):
            return torch.float16
        return torch.bfloat16 if capability >= (8, 0) else torch.float32
    if device.type == "cpu" and _cpu_multiplies_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_multiplies_bf16() -> bool:
    # torch has no public name for this question in 2.11 to 2.13.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in probes if hasattr(torch.cpu, name))


# ---- memory ----


def peak_memory_bytes(runtime: Runtime) -> int:
    """The most memory this process has held: the GPU's allocator where there is one, else resident memory."""
    if runtime.device.type == "cuda":
        return torch.cuda.max_memory_allocated(runtime.device)
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most resident memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kilobytes


def resident_bytes() -> int:
    """The resident memory that this process holds now; where that is not told (macOS), the most it has held."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_resident_bytes()


LOADED_BY_A_STEP = 25_000_000
"""Bytes that the first step leaves resident besides tensors: pages of libraries, threads, oneDNN's kernels."""

RETAINED = 0.65
"""Of a step's tensors, what glibc holds besides on a CPU: freed tensors of up to 32 MB leave holes in its heap that
aligned ones do not fit into again. Measured 0.4 to 1.1 (docs/scaling.md); 0 with MALLOC_MMAP_THRESHOLD_=1000000, which
makes a step half as fast."""


def resident_for(tensors: float) -> int:
    """What so many bytes of tensors in a step of training add to the resident memory of a process on a CPU."""
    return LOADED_BY_A_STEP + int((1 + RETAINED) * tensors)


def resident_with(tensors: int) -> int:
    """The resident memory, in bytes, of this process on a CPU once it trains with so many bytes of tensors."""
    import_module("torch._dynamo")  # 70 MB, which torch's optimizers import
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)
    return resident_bytes() + resident_for(tensors)


def memory_figures() -> dict[str, float]:
    """The memory that this process holds now, in GB, by the names that experiment trackers show."""
    figures = {"memory_gb": resident_bytes() / 1e9}
    if torch.cuda.is_initialized():
        figures["gpu_memory_gb"] = torch.cuda.memory_allocated() / 1e9
    return figures


CGROUP_FILES = {
    "": ("memory.max", "memory.current"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
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
        if kind not in CGROUP_FILES:
            continue
        root = mount / kind
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (left := _left_by(folder, *CGROUP_FILES[kind])) is not None:
                yield max(0, left)


def _left_by(folder: Path, limit: str, use: str) -> int | None:
    try:
        most, used = (int((folder / name).read_text("ascii")) for name in (limit, use))
        counts = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
    except (OSError, ValueError):  # no such group here, or "max": no limit
        return None
    return most - used + int(counts.get("inactive_file", 0))  # files read before give way


@contextmanager
def settled() -> Iterator[None]:
    """Within the block, the collector leaves alone what exists now.

    torch brings half a million objects, which the collector walks again and again where many small ones are made and
    dropped: a step of decoding makes thousands. Measured in rollouts of 512 replies: 8 % of their time, in pauses of
    tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def read_later(values: Tensor) -> Callable[[], list[float]]:
    """Let numbers travel to the host while the device goes on. What is returned gives them: it waits for what was begun
    before this call, and for nothing begun since."""
    if values.device.type != "cuda":
        return values.tolist
    on_host = values.to("cpu", non_blocking=True)  # into page-locked memory, which torch picks for this
    copied = torch.cuda.Event()
    copied.record()

    def read() -> list[float]:
        copied.synchronize()
        return on_host.tolist()

    return read


# ---- speed ----


def gemm_peak(runtime: Runtime, dtype: torch.dtype, size: int = 2048, seconds: float = 1.0) -> float:
    """Floating-point operations per second of the best size x size x size matrix product within `seconds`."""
    left, right = (torch.randn(size, size, device=runtime.device).to(dtype) for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: torch.mm(left, right), runtime, seconds)


def best_seconds(work: Callable[[], object], runtime: Runtime, seconds: float) -> float:
    """The best time of `work` within `seconds`, of two at least, after one to warm up.

    The best, not the mean: it is a limit, and anything else the machine does only lowers it.
    """
    work()
    runtime.synchronize()
    best, end, timed = float("inf"), time.perf_counter() + seconds, 0
    while timed < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        runtime.synchronize()
        best, timed = min(best, time.perf_counter() - start), timed + 1
    return best
