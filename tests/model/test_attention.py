"""Attention over a row, with and without a window, equals the formula written out."""

import math

import pytest
import torch
from torch import Tensor

from chatsmith.model.attention import (
    SCORE_GAIN,
    _flex_window_attention,
    attention_scale,
    causal_attention,
    window_mask,
)
from chatsmith.runtime.device import can_compile

LENGTH, HEAD_DIM = 13, 8


def naive(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """One position of one head of one row at a time."""
    y = torch.zeros_like(q)
    for row in range(q.shape[0]):
        for head in range(q.shape[2]):
            for here in range(q.shape[1]):
                first = max(0, here + 1 - window) if window else 0
                scores = k[row, first : here + 1, head] @ q[row, here, head]
                weights = (scores * SCORE_GAIN / math.sqrt(q.shape[-1])).softmax(0)
                y[row, here, head] = weights @ v[row, first : here + 1, head]
    return y


@pytest.fixture
def qkv() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, LENGTH, 3, HEAD_DIM, generator=generator, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("window", [0, 1, 4, LENGTH - 1, LENGTH, LENGTH + 5])
def test_attention_equals_the_formula_within_the_window(qkv, window):
    torch.testing.assert_close(causal_attention(*qkv, window), naive(*qkv, window))


@pytest.mark.parametrize("window", [0, 1, 4, 9])
def test_training_in_bf16_attends_as_float64_does_but_for_rounding(monkeypatch, window):
    """Outputs and gradients, where queries are taken five at a time."""
    monkeypatch.setattr("chatsmith.model.attention.PIECE", 5)
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 12, 3, 8, generator=generator).bfloat16() for _ in range(4)]
    results = []
    for attend, dtype in ((causal_attention, torch.bfloat16), (naive, torch.float64)):
        leaves = [part.to(dtype, copy=True).requires_grad_() for part in parts[:3]]
        y = attend(*leaves, window)
        y.backward(parts[3].to(dtype))
        results.append([y.detach().double(), *(leaf.grad.double() for leaf in leaves)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)


def test_window_counts_the_own_position():
    assert window_mask(4, 2, torch.device("cpu")).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]


COMPILES = pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="needs a C++ compiler")


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("compiles", [False, pytest.param(True, marks=[pytest.mark.long, COMPILES])])
def test_the_kernel_for_windows_on_a_gpu_compiles_and_looks_back_as_far(compiles):
    """Forward only: FlexAttention has no backward on a CPU."""
    length, window, head_dim = 200, 33, 64
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, head_dim, generator=generator) for _ in range(3))
    attend = _flex_window_attention
    if compiles:
        attend = torch.compile(attend, fullgraph=True)
    with torch.no_grad():
        found = attend(q, k, v, window, attention_scale(head_dim))
        expected = causal_attention(*(x.transpose(1, 2) for x in (q, k, v)), window).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(("length", "window"), [(256, 64), (200, 33)])
def test_windows_on_a_gpu_equal_the_dense_mask(length, window, compile):
    """Compiled, they are FlexAttention's business."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, length, 3, 64, generator=generator) for _ in range(3)]
    results = []
    for device in ("cpu", "cuda"):
        attend = torch.compile(causal_attention) if compile and device == "cuda" else causal_attention
        leaves = [part.to(device).requires_grad_() for part in parts]
        y = attend(*leaves, window)
        y.square().sum().backward()
        results.append([y.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)
