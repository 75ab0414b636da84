"""Where things run, as a value that is passed along: device, compute type, rank and world size."""

import os
import shutil
import sys
from dataclasses import dataclass

import torch

from chatsmith.runtime.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}

ONEDNN_PRIMITIVES = "512"
"""How many prepared products oneDNN keeps, of 1,024 by default; read when it makes its first one. It prepares one for
every shape (in bf16, 4 ms and up to 0.8 MB), and a step of reinforcement learning has a hundred: with 32 kept, practice
prepared three of ten products anew. A server whose prompts have all lengths keeps no more than this, either."""


@dataclass(frozen=True)
class Runtime:
    """One process's place among the processes, and what it computes with."""

    device: torch.device
    compute_dtype: torch.dtype
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and speaks to the person."""
        return self.rank == 0

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
        numbers = {dtype: short for short, dtype in DTYPES.items()}[self.compute_dtype]
        return f"{name}, {numbers}" + (f", {self.world_size} processes" if self.world_size > 1 else "")


def detect_runtime(device: str = "auto", dtype: str = "auto") -> Runtime:
    """The runtime of this process: `device` is auto, cpu, cuda, cuda:N or mps; `dtype` is auto, fp32, bf16 or fp64.

    auto takes CUDA, then MPS, then the CPU; and bf16 where the hardware multiplies it natively (CUDA 8.0 and up,
    CPUs with AVX512-BF16 or AMX), fp32 elsewhere: emulated bf16 was measured 70 times slower than fp32 on a CPU
    with AVX2 only. Rank and world size come from torchrun's environment. Raises UserError for what is not there.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = _pick_device(device)
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"dtype must be one of auto, {', '.join(DTYPES)}, not {dtype!r}")
    compute_dtype = _native_dtype(chosen) if dtype == "auto" else DTYPES[dtype]
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_PRIMITIVES)
    return Runtime(chosen, compute_dtype, rank, world_size)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs here: a C++ compiler on CPU, Triton on CUDA.

    The compiler is the one torch will call: $CXX, or else g++ (clang++ on a Mac), and no other.
    """
    if device.type == "cpu":
        usual = "clang++" if sys.platform == "darwin" else "g++"
        return shutil.which(os.environ.get("CXX") or usual) is not None
    return device.type == "cuda"


def peak_memory_bytes(runtime: Runtime) -> int:
    """The most memory this process has held: the GPU's allocator where there is one, else resident memory."""
    if runtime.device.type == "cuda":
        return torch.cuda.max_memory_allocated(runtime.device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _pick_device(name: str) -> torch.device:
    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # torchrun's processes take a GPU each
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device must be auto, cpu, cuda, cuda:N or mps, not {name!r}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device must be auto, cpu, cuda, cuda:N or mps, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps is not there: use --device cpu")
    return device


def _native_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    if device.type == "cpu" and _cpu_multiplies_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_multiplies_bf16() -> bool:
    # torch has no public name for this question in 2.11 to 2.13.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in probes if hasattr(torch.cpu, name))
