"""A GPU that is not there: tensors that say they lie on it, computed on the CPU.

A machine without a GPU cannot show whether code for one is fast, or right in every kernel. But it can show whether all
tensors are made and moved where they belong, which is what goes wrong most: whatever meets one of these tensors must
lie where it lies, or the operation fails as it would on the device. And on MPS there is no float64.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

MAY_MEET = ("copy_", "__set__", "_has_compatible_shallow_copy_type")
"""What takes tensors of two devices: copying from one to the other, and questions about them."""

STAYS_ON_CPU = ("numpy", "data_ptr", "pin_memory")
"""What only a tensor on the CPU can do."""

FREE_BYTES = 2**33


class Elsewhere(Tensor):
    """A tensor on the device that is not there."""

    place: torch.device

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        met = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        place = next(one.place for one in met if isinstance(one, Elsewhere))
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__:
            return place
        if func == vars(torch._C.TensorBase)["is_cuda"].__get__:
            return place.type == "cuda"
        if name in STAYS_ON_CPU:
            raise TypeError(f"{name} of a tensor on {place}")
        # A single number may be used anywhere.
        strangers = [one for one in met if not isinstance(one, Elsewhere) and one.dim()]
        if strangers and name not in MAY_MEET:
            raise RuntimeError(f"{name} of tensors on {place} and on cpu")
        if func is Tensor.cpu:
            return args[0].as_subclass(Tensor)
        result = super().__torch_function__(func, types, args, kwargs or {})
        with DisableTorchFunctionSubclass():
            made = {one.dtype for one in tree_leaves(result) if isinstance(one, Tensor)}
        if place.type == "mps" and torch.float64 in made:
            raise TypeError(f"{name} in float64, which MPS has not")
        return tree_map_only(Tensor, lambda one: put(one, place), result)


def put(tensor: Tensor, place: torch.device) -> Elsewhere:
    """The tensor, as one that lies there."""
    moved = tensor if isinstance(tensor, Elsewhere) else tensor.as_subclass(Elsewhere)
    moved.place = place
    return moved


class Pretence(TorchFunctionMode):
    """While it lasts, tensors can be made on the device that is not there, and moved to it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "_has_compatible_shallow_copy_type":
            return type(args[0]) is type(args[1])
        if func is Tensor.to:
            return self._move(*args, **options)
        if func is Tensor.pin_memory and not isinstance(args[0], Elsewhere):
            return args[0]
        if func in (Tensor.new_tensor, Tensor.new_zeros):
            options.setdefault("device", args[0].device)
            args = (args[0].as_subclass(Tensor), *args[1:])
        if name == "_parse_to" or not self._is_here(options.get("device")):
            return func(*args, **options)
        del options["device"]
        return put(func(*args, **options), self.device)

    def _is_here(self, device: object) -> bool:
        return isinstance(device, str | torch.device) and torch.device(device).type == self.device.type

    def _move(self, tensor: Tensor, *rest: Any, device: Any = None, **options: Any) -> Tensor:
        if rest and isinstance(rest[0], Tensor):
            rest = (rest[0].device, rest[0].dtype)
        if rest and isinstance(rest[0], str | torch.device):
            device, rest = rest[0], rest[1:]
        if rest and rest[0] is None:
            rest = (tensor.dtype, *rest[1:])
        if device is None:
            return Tensor.to(tensor, *rest, **options)
        with DisableTorchFunctionSubclass():
            moved = tensor.as_subclass(Tensor).to(*rest, **options)
        return put(moved, self.device) if self._is_here(device) else moved


@contextmanager
def pretending(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A machine with one device of this kind, cuda or mps, as far as chatsmith asks."""
    for name, answer in {
        "is_available": kind == "cuda",
        "device_count": int(kind == "cuda"),
        "get_device_capability": (9, 0),
        "get_device_name": "a GPU that is not there",
        "set_device": None,
        "synchronize": None,
        "max_memory_allocated": 0,
        "memory_allocated": 0,
        "memory_reserved": 0,
        "reset_peak_memory_stats": None,
        "Event": Mock(),
        "mem_get_info": (FREE_BYTES, FREE_BYTES),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(torch.mps, "synchronize", lambda: None)
    # A recording repeats the work; tests/backends/test_graph_decoder.py has one that is no mere repetition.
    monkeypatch.setattr("chatsmith.backends.CudaRecorder", lambda device: lambda work: work)
    replaces = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    device = torch.device(kind)
    try:
        with Pretence(device):
            yield device
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(replaces)
