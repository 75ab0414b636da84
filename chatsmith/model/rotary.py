"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), half-split pairing as in GPT-NeoX."""

import torch
from torch import Tensor


def rotary_table(length: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position's angles, each (length, head_dim / 2), in float64.

    Float64 because float32 angles of late positions lose digits; the caller casts to what it computes in.
    """
    wavelengths = base ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] / wavelengths
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + D/2}) of x (B, T, H, D) by its position's angle; cos, sin (B or 1, T, D/2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)
