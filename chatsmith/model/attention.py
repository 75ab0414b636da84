"""Causal attention over whole rows, as training and scoring use it. Decoding with a cache is the engine's.

Shapes: B batch, T time, H heads, D head dim.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""attend(layer, q, k, v) -> y, all (B, T, H, D); q and k are rotated and normalized already."""

# QK-norm makes every query and key of unit RMS, so q.k / sqrt(D) stays small and attention cannot get sharp.
# nanochat multiplies both by 1.2 for this; one scale on the scores is the same thing.
SCORE_GAIN = 1.44

LONGEST_IN_PIECES = 512
"""Where a CPU trains in bf16, attention over rows of at most this many tokens is done in plain products: torch's SDPA
has a slow backward pass there. Forward and backward on two cores with AMX: 5.3 instead of 21.6 ms for 34 rows of 62, 26
instead of 30 for 16 of 256, 78 instead of 95 for 8 of 512; but 146 instead of 100 for 4 of 1,024. That was with fp32
products; those of bf16 take less than half of the time."""

PIECE = 128
"""Queries in one piece."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attend from each position to itself and those before it; q, k, v and the result are (B, T, H, D).

    A `window` w > 0 limits the view to the last w positions, the own one included; 0 is no limit.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scale = attention_scale(q.shape[-1])
    length = q.shape[2]
    if (
        q.dtype == torch.bfloat16
        and q.device.type == "cpu"
        and q.requires_grad
        and length <= LONGEST_IN_PIECES
    ):
        y = _AttentionInPieces.apply(q, k, v, window, scale)
    elif window == 0 or window >= length:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    elif q.is_cuda and torch.compiler.is_compiling():
        y = _flex_window_attention(q, k, v, window, scale)
    else:
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=window_mask(length, window, q.device), scale=scale
        )
    return y.transpose(1, 2)


def attention_scale(head_dim: int) -> float:
    """What scores are multiplied by before the softmax."""
    return SCORE_GAIN / head_dim**0.5


def window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Which positions (columns) each position (row) may see: (T, T) bool."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions[None, :]
    return (distance >= 0) & (distance < window)


class _AttentionInPieces(torch.autograd.Function):
    """Written out, all (B, H, T, D): products in bf16, softmax in float32, as fused kernels on GPUs do. Keys after a
    piece of queries, or outside its window, cost nothing."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        visible = window_mask(q.shape[2], window or q.shape[2], q.device)
        mask = torch.zeros(visible.shape, device=q.device).masked_fill_(~visible, -torch.inf)
        pieces, kept = [], []
        for rows, seen in _pieces(q.shape[2], window):
            scores = torch.add(mask[rows, seen], q[:, :, rows] @ k[:, :, seen].mT, alpha=scale)
            kept.append(scores.softmax(dim=-1).to(v.dtype))
            pieces.append(kept[-1] @ v[:, :, seen])
        ctx.save_for_backward(q, k, v, *kept)
        ctx.window, ctx.scale = window, scale
        return torch.cat(pieces, dim=2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        of_q = []
        of_k, of_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))  # sums over pieces
        for (rows, seen), weights in zip(_pieces(q.shape[2], ctx.window), kept, strict=True):
            of_y = gradients[0][:, :, rows]
            of_v[:, :, seen] += weights.mT @ of_y
            of_scores = torch.ops.aten._softmax_backward_data(of_y @ v[:, :, seen].mT, weights, -1, q.dtype)
            of_q.append(of_scores @ k[:, :, seen])
            of_k[:, :, seen] += of_scores.mT @ q[:, :, rows]
        of_scaled = ctx.scale * torch.cat(of_q, dim=2), (ctx.scale * of_k).to(k.dtype)
        return *of_scaled, of_v.to(v.dtype), None, None


def _pieces(length: int, window: int) -> list[tuple[slice, slice]]:
    """The queries of each piece, and the keys that any of them sees."""
    ends = [min(start + PIECE, length) for start in range(0, length, PIECE)]
    first = [max(0, start - window + 1) if window else 0 for start in range(0, length, PIECE)]
    return [(slice(i * PIECE, end), slice(first[i], end)) for i, end in enumerate(ends)]


def _flex_window_attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    # FlexAttention (arXiv:2412.05496) skips the blocks outside the window. It has no backward on CPU, and uncompiled it
    # keeps all scores, (B, H, T, T) of them, which SDPA with a mask does not.
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    length = q.shape[2]
    blocks = create_block_mask(visible, None, None, length, length, device=str(q.device))
    result = flex_attention(q, k, v, block_mask=blocks, scale=scale)
    assert isinstance(result, Tensor)
    return result
