"""The fused loss against the plain one: on a GPU as it is, else under Triton's interpreter, in a process of its own,
since Triton decides when it is imported."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.model.config import NO_SOFTCAP, GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import IGNORED, chunk_gradient, chunked_cross_entropy

pytest.importorskip("triton", reason="a CPU build of torch brings no Triton: pip install triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
runs_here = pytest.mark.skipif(DEVICE.type == "cpu" and not INTERPRETED, reason="run in a process of its own")
if DEVICE.type == "cuda" or INTERPRETED:
    from chatsmith.backends import triton_loss


@pytest.mark.skipif(INTERPRETED, reason="not under Triton's interpreter")
def test_all_of_this_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "4 passed" in done.stdout


@runs_here
@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 300),
    softcap=st.sampled_from([15.0, 3.0, NO_SOFTCAP]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    spread=st.sampled_from([0.1, 5.0, 60.0]),
    seed=st.integers(0, 100),
)
def test_values_and_gradients_are_those_of_the_plain_loss(rows, columns, softcap, dtype, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    raw = (spread * torch.randn(rows, columns, generator=generator)).to(dtype)
    targets = torch.randint(columns, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator) * torch.randint(2, (rows,), generator=generator)
    raw, targets, weights = (one.to(DEVICE) for one in (raw, targets, weights))
    wanted_loss, wanted = chunk_gradient(raw, targets, softcap, weights)
    before = triton_loss.MOST_COLUMNS
    triton_loss.MOST_COLUMNS = 64  # several turns a row
    try:
        loss, gradient = triton_loss.fused_chunk_gradient(raw, targets, softcap, weights)
    finally:
        triton_loss.MOST_COLUMNS = before
    assert gradient.dtype == dtype and gradient.data_ptr() == raw.data_ptr()
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=1e-5)
    tolerance = {"rtol": 1e-4, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-5}
    torch.testing.assert_close(gradient.float(), wanted.float(), **tolerance)
    assert not gradient[weights == 0].any()


@runs_here
def test_a_model_learns_from_it_as_from_the_plain_loss():
    """Through the whole function, with ignored targets, in chunks of an odd size."""
    model = GPT(GPTConfig(vocab_size=133, context_length=8, num_layers=1, num_heads=2, head_dim=8))
    model.init_weights(torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(37, 16, generator=generator)
    targets = torch.randint(133, (37,), generator=generator)
    targets[::3] = IGNORED
    model, hidden, targets = (one.to(DEVICE) for one in (model, hidden, targets))
    found = []
    for gradient_of in (chunk_gradient, triton_loss.fused_chunk_gradient):
        own = hidden.clone().requires_grad_()
        model.zero_grad()
        loss = chunked_cross_entropy(model, own, targets, gradient_of=gradient_of)
        loss.backward()
        assert own.grad is not None and not own.grad[::3].any()
        found.append((loss.detach(), own.grad, model.head.weight.grad.clone()))
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-7)


@runs_here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_probe_accepts_the_kernel_and_notices_a_wrong_one(dtype, monkeypatch):
    assert triton_loss.agrees(DEVICE, dtype)
    monkeypatch.setattr(triton_loss, "chunk_gradient", lambda *one: chunk_gradient(*one[:2], 14.0, one[3]))
    assert not triton_loss.agrees(DEVICE, dtype)
