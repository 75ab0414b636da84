"""Causal attention over whole rows, as training and scoring use it. Decoding with a cache is the engine's.

Shapes: B batch, T time, H heads, D head dim.
"""

from collections.abc import Callable

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
instead of 30 for 16 of 256, 78 instead of 95 for 8 of 512; but 146 instead of 100 for 4 of 1,024."""

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
        y = _attention_in_pieces(q, k, v, window, scale)
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


def _attention_in_pieces(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    """Written out, all (B, H, T, D), in float32. Keys after a piece of queries, or outside its window, cost nothing."""
    dtype, length = q.dtype, q.shape[2]
    q, k, v = scale * q.float(), k.float(), v.float()
    visible = window_mask(length, window or length, q.device)
    mask = torch.zeros(visible.shape, device=q.device).masked_fill_(~visible, float("-inf"))
    pieces: list[Tensor] = []
    for start in range(0, length, PIECE):
        end, first = min(start + PIECE, length), max(0, start - window + 1) if window else 0
        scores = q[:, :, start:end] @ k[:, :, first:end].transpose(-1, -2) + mask[start:end, first:end]
        pieces.append(scores.softmax(dim=-1) @ v[:, :, first:end])
    return torch.cat(pieces, dim=2).to(dtype)


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
