"""The runtime: what is asked for or can be had, and a plain sentence for what cannot."""

import sys

import pytest
import torch

from chatsmith.runtime import device as device_module
from chatsmith.runtime.device import Runtime, can_compile, detect_runtime, peak_memory_bytes
from chatsmith.runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Outside torchrun, whatever these tests run in."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CXX"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpus(monkeypatch):
    """Four GPUs of a compute capability."""

    def pretend(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return pretend


def test_cpu_alone_is_a_world_of_one():
    runtime = detect_runtime("cpu", "fp32")
    assert runtime == Runtime(CPU, torch.float32, rank=0, world_size=1)
    assert runtime.is_main
    assert runtime.describe().endswith("threads, fp32")
    runtime.synchronize()


def test_rank_and_world_size_are_torchrun_s(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    runtime = detect_runtime("cpu", "fp32")
    assert (runtime.rank, runtime.world_size, runtime.is_main) == (3, 8, False)
    assert "8 processes" in runtime.describe()


@pytest.mark.parametrize(("has_it", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_cpu_computes_in_bf16_only_where_the_hardware_multiplies_it(monkeypatch, has_it, expected):
    monkeypatch.setattr(device_module, "_cpu_multiplies_bf16", lambda: has_it)
    assert detect_runtime("cpu").compute_dtype == expected
    assert detect_runtime("cpu", "fp32").compute_dtype == torch.float32
    assert detect_runtime("cpu", "bf16").compute_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_gpu_computes_in_bf16_from_capability_8(gpus, capability, expected):
    gpus(capability)
    assert detect_runtime().compute_dtype == expected


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_of_a_machine_takes_its_own_gpu(gpus, monkeypatch, name):
    gpus((9, 0))
    assert detect_runtime(name).device == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert detect_runtime(name).device == torch.device("cuda", 2)
    assert detect_runtime("cuda:1").device == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "xpu", "meta"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(UserError, match="device must be auto, cpu, cuda, cuda:N or mps"):
        detect_runtime(name)


def test_absent_devices_are_refused(monkeypatch, gpus):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="use cpu"):
        detect_runtime("mps")
    gpus((9, 0))
    with pytest.raises(UserError, match="cuda:4 is not there: torch sees 4"):
        detect_runtime("cuda:4")


def test_unknown_types_are_refused():
    with pytest.raises(UserError, match="dtype must be one of auto, fp32, bf16, fp16, fp64, not 'fp8'"):
        detect_runtime("cpu", "fp8")


@pytest.mark.parametrize(
    ("platform", "chosen", "found", "expected"),
    [
        ("linux", None, {"g++"}, True),
        ("linux", None, {"clang++", "c++"}, False),  # torch would not look for them
        ("linux", "clang++", {"clang++"}, True),
        ("linux", "icpx", {"g++"}, False),
        ("darwin", None, {"clang++"}, True),
    ],
)
def test_compiling_needs_the_compiler_that_torch_will_call(monkeypatch, platform, chosen, found, expected):
    monkeypatch.setattr(device_module.shutil, "which", lambda name: name if name in found else None)
    monkeypatch.setattr(sys, "platform", platform)
    if chosen:
        monkeypatch.setenv("CXX", chosen)
    assert can_compile(CPU) is expected
    assert can_compile(torch.device("cuda", 0))
    assert not can_compile(torch.device("mps"))


def test_peak_memory_is_in_bytes():
    held = torch.ones(8 * 2**20)  # 32 MB
    assert held.nbytes < peak_memory_bytes(Runtime(CPU, torch.float32)) < 2**40
