"""Causal attention over whole rows, as training and scoring use it. Decoding with a cache is the engine's.

Shapes: B batch, T time, H heads, D head dim.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""attend(layer, q, k, v) -> y, all (B, T, H, D); q and k are rotated and normalised already."""

# QK-norm makes every query and key of unit RMS, so q.k / sqrt(D) stays small and attention cannot get sharp.
# nanochat multiplies both by 1.2 for this; one scale on the scores is the same thing.
SCORE_GAIN = 1.44


def causal_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attend from each position to itself and those before it; q, k, v and the result are (B, T, H, D).

    A `window` w > 0 limits the view to the last w positions, the own one included; 0 is no limit.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scale = attention_scale(q.shape[-1])
    length = q.shape[2]
    if window == 0 or window >= length:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    elif q.is_cuda:
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


def _flex_window_attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    # FlexAttention (arXiv:2412.05496) skips the blocks outside the window; it has no backward on CPU.
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    length = q.shape[2]
    blocks = create_block_mask(visible, None, None, length, length, device=str(q.device))
    result = flex_attention(q, k, v, block_mask=blocks, scale=scale)
    assert isinstance(result, Tensor)
    return result
