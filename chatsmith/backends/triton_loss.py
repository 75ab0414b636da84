"""The softcapped cross-entropy and its gradient by the raw logits, in one Triton kernel: what the loss takes on CUDA.

`model.loss.chunk_gradient`, compiled, reads the logits of a chunk and writes a gradient of the same size in float32,
which another kernel casts. This one reads them twice and writes the gradient over them, in their own type: no second
tensor of (n, V), and a logit is never in float32 but in a register (as in Liger Kernel, Hsu et al. 2024,
arXiv:2410.10989, and Cut Cross-Entropy, arXiv:2411.09009). A program has a row: its first pass finds the logarithm of
the row's sum of exponentials, each lane keeping a running maximum and a sum of its own (Milakov & Gimelshein 2018,
arXiv:1805.02867), its second one writes.

It is tested under Triton's interpreter against the plain one, and probed once on the GPU before it is used.
"""

# Triton's language is typed for its compiler, not for this one.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from chatsmith.model.config import NO_SOFTCAP
from chatsmith.model.loss import chunk_gradient

MOST_COLUMNS = 4096
"""Logits of a row that a program has in registers at once."""

LOWEST = tl.constexpr(-1e30)
"""Below every logit, and finite, so that differences are numbers."""


@triton.jit
def _bent(x, softcap):
    """tanh(x / softcap), without the library's function, which the interpreter lacks."""
    return 2 * tl.sigmoid(2 * x / softcap) - 1


@triton.jit
def _kernel(raw, targets, weights, losses, columns, stride, softcap, caps: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0)
    raw += row.to(tl.int64) * stride
    target, weight = tl.load(targets + row), tl.load(weights + row)
    lanes = tl.arange(0, block)

    top = tl.full((block,), LOWEST, tl.float32)
    total = tl.zeros((block,), tl.float32)
    chosen = tl.zeros((block,), tl.float32)
    for start in range(0, columns, block):
        at = start + lanes
        z = tl.load(raw + at, mask=at < columns, other=0.0).to(tl.float32)
        if caps:
            z = softcap * _bent(z, softcap)
        z = tl.where(at < columns, z, LOWEST)
        chosen = tl.where(at == target, z, chosen)
        higher = tl.maximum(top, z)
        total = total * tl.exp(top - higher) + tl.exp(z - higher)
        top = higher
    highest = tl.max(top, 0)
    log_total = highest + tl.log(tl.sum(total * tl.exp(top - highest), 0))
    tl.store(losses + row, weight * (log_total - tl.sum(chosen, 0)))

    for start in range(0, columns, block):
        at = start + lanes
        z = tl.load(raw + at, mask=at < columns, other=0.0).to(tl.float32)
        slope = tl.full((block,), 1.0, tl.float32)
        if caps:
            bent = _bent(z, softcap)
            z, slope = softcap * bent, 1 - bent * bent
        gradient = tl.exp(z - log_total) - tl.where(at == target, 1.0, 0.0)
        tl.store(raw + at, weight * slope * gradient, mask=at < columns)


def fused_chunk_gradient(
    raw: Tensor, targets: Tensor, softcap: float, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """`model.loss.chunk_gradient` of raw (n, V) in bf16, fp16 or fp32, targets (n,) and weights (n,) in fp32. The
    gradient takes the memory of `raw`, whose type it has."""
    rows, columns = raw.shape
    assert raw.stride(1) == 1 and weights.dtype == torch.float32
    losses = torch.empty(rows, dtype=torch.float32, device=raw.device)
    block = min(MOST_COLUMNS, triton.next_power_of_2(columns))
    arguments = (raw, targets, weights, losses, columns, raw.stride(0), softcap)
    _kernel[(rows,)](*arguments, caps=softcap < NO_SOFTCAP, block=block, num_warps=8)
    return losses.sum(), raw


def agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel gives on `device` what the plain code gives, in a type's own precision."""
    generator = torch.Generator().manual_seed(0)
    raw = (8 * torch.randn(33, 5003, generator=generator)).to(device, dtype)
    targets = torch.randint(5003, (33,), generator=generator).to(device)
    weights = torch.rand(33, generator=generator).to(device)
    wanted = chunk_gradient(raw, targets, 15.0, weights)
    found = fused_chunk_gradient(raw.clone(), targets, 15.0, weights)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    return all(
        torch.allclose(one.float(), other.float(), rtol=tolerance, atol=1e-5)
        for one, other in zip(found, wanted, strict=True)
    )
