"""C for decoding on a CPU: built on first use with the machine's own compiler, called through ctypes.

It computes what torch's operations do, nearer to the speed of the memory (figures in docs/lab-log.md). Where it
cannot be built (no C compiler, another system than Linux) the engine uses torch's operations instead.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from ctypes import POINTER, Structure, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from chatsmith.runtime.cache import cache_folder

SOURCES = ("linear.c", "tiles.c", "network.c")
HEADERS = ("vector.h", "linear.h")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")

STORED_AS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""The types that weights, keys and values may have, by their numbers in vector.h."""

LANES = 16
"""Widths must be multiples of this: the widest vector's float32 numbers."""


class Weights(Structure):
    """`weights` of linear.h."""

    _fields_ = (
        ("data", c_void_p),
        ("scale", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("kind", c_int64),
        ("rounds", c_int64),
    )

    @staticmethod
    def of(weight: Tensor, scale: Tensor | None = None, *, rounds: bool = False) -> "Weights":
        """Weights (..., columns) where they lie; whoever holds this must hold the tensors, too.

        `rounds` lets a product round what it multiplies them with to bf16, where the processor multiplies that.
        """
        assert weight.is_contiguous() and weight.device.type == "cpu"
        columns = weight.shape[-1]
        at = None if scale is None else scale.data_ptr()
        rows = weight.numel() // columns
        return Weights(weight.data_ptr(), at, rows, columns, STORED_AS[weight.dtype], rounds)


class Layer(Structure):
    """`layer` of network.c."""

    _fields_ = (
        *((name, Weights) for name in ("qkv", "out", "up", "down", "values")),
        ("value_gate", c_void_p),
        ("scalars", c_void_p),
        ("window", c_int64),
        ("keys_pool", c_void_p),
        ("values_pool", c_void_p),
    )


class Network(Structure):
    """`network` of network.c."""

    _fields_ = (
        *((name, c_int64) for name in ("L", "C", "H", "D", "gate_channels", "bigram_buckets")),
        ("block_size", c_int64),
        ("pool_kind", c_int64),
        ("is_gated", c_int64),
        ("embedding", Weights),
        ("bigram", Weights),
        *((name, c_void_p) for name in ("smear_gate", "smear_strength", "cos", "sin")),
        ("layers", POINTER(Layer)),
    )


class Step(Structure):
    """`step` of network.c."""

    _fields_ = (
        ("R", c_int64),
        ("width", c_int64),
        *((name, c_void_p) for name in ("tokens", "previous", "positions", "tables")),
        *(
            (name, c_void_p)
            for name in ("x", "embedding", "bigram", "normed", "qkv", "wide", "scores", "halves")
        ),
    )


class Library:
    """The functions of the built library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._linear, self._step = library.chatsmith_linear, library.chatsmith_step
        self._tile_always = library.chatsmith_tile_always
        self._linear.argtypes = [c_void_p, c_void_p, POINTER(Weights), c_int64, ctypes.c_int]
        self._step.argtypes = [POINTER(Network), POINTER(Step), ctypes.c_int]
        self._linear.restype, self._step.restype, self._tile_always.restype = ctypes.c_int, None, None

    def linear(self, x: Tensor, weights: Weights) -> Tensor:
        """x W^T (M, N) in float32, of x (M, K) float32 and weights (N, K); K is a multiple of LANES."""
        x = x.contiguous()
        assert x.dtype == torch.float32
        result = torch.empty(len(x), weights.rows)
        if self._linear(result.data_ptr(), x.data_ptr(), weights, len(x), torch.get_num_threads()):
            raise MemoryError("there is no memory left for a product")
        return result

    def tile_always(self) -> None:
        """From now on a row's product is the same bit for bit beside any number of others, on every processor."""
        self._tile_always()

    def step(self, network: Network, step: Step) -> None:
        """One step of decoding; the hidden states are left in `step.normed`."""
        self._step(network, step, torch.get_num_threads())


@functools.cache
def load_library() -> Library | None:
    """The library, built if this machine has not built it before; None where that is impossible."""
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        return None
    try:
        return Library(ctypes.CDLL(str(_built(compiler))))
    except (OSError, subprocess.SubprocessError):
        return None


def _built(compiler: str) -> Path:
    """The library's path. Its name stands for all it depends on, so a stale one is never found."""
    folder = Path(__file__).parent
    made_of = [compiler, _output([compiler, "--version"]), *FLAGS, _processor()]
    made_of += [(folder / name).read_text(encoding="utf-8") for name in (*SOURCES, *HEADERS)]
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:32]
    cache = cache_folder() / "chatsmith" / "native"
    library = cache / f"{name}.so"
    if not library.is_file():
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=cache) as workshop:
            unfinished = Path(workshop) / library.name
            sources = [str(folder / name) for name in SOURCES]
            _output([compiler, *FLAGS, *sources, "-o", str(unfinished), "-lm"])
            os.replace(unfinished, library)
    return library


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
