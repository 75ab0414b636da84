"""Which way the loss is computed, and that one line says so on a GPU."""

import sys
from types import SimpleNamespace

import pytest
import torch

from chatsmith import backends
from chatsmith.backends import choose_loss
from chatsmith.model.loss import chunk_gradient
from chatsmith.runtime.device import Runtime

CUDA = Runtime(torch.device("cuda"), torch.bfloat16)


def kernel(agrees):
    """A pretended module of the kernel."""
    return SimpleNamespace(agrees=agrees, fused_chunk_gradient=print)


def fails(*_):
    raise RuntimeError("no compiler\nand a long story")


def test_a_cpu_computes_the_loss_plainly_and_says_nothing():
    said: list[str] = []
    assert choose_loss(Runtime(torch.device("cpu"), torch.float32), said.append) is chunk_gradient
    assert said == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (kernel(lambda *_: True), "Loss: a fused Triton kernel."),
        (
            kernel(lambda *_: False),
            "Loss: plain, since the Triton kernel does not work here (its numbers are others).",
        ),
        (kernel(fails), "Loss: plain, since the Triton kernel does not work here (no compiler)."),
        (None, "Loss: plain, since the Triton kernel does not work here (import of"),
    ],
)
def test_a_gpu_takes_the_kernel_if_it_works_there(module, line, monkeypatch):
    monkeypatch.setitem(sys.modules, "chatsmith.backends.triton_loss", module)
    monkeypatch.setattr(backends, "triton_loss", module, raising=False)
    if module is None:
        monkeypatch.delattr(backends, "triton_loss")
    said: list[str] = []
    found = choose_loss(CUDA, said.append)
    assert (found is print) == ("fused" in line) and (found is chunk_gradient) == ("plain" in line)
    assert len(said) == 1 and said[0].startswith(line)
