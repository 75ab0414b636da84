"""How many tokens fit through training at once, by the memory that is free.

An estimate from the shape of the network, on the safe side; it does not try and fail.
"""

import torch

from chatsmith.model.config import GPTConfig

VALUES_PER_CHANNEL = 34
"""Activations that a layer keeps for its backward pass, in units of C values a token: the stream before and after
attention and MLP, queries, keys and values with their rotated and normalised forms, and three of the MLP's 4 C."""

SHARE_OF_FREE_MEMORY = 0.25
"""The rest is for gradients, the optimizer, the engine's pool, and others."""

MOST_TOKENS = 65_536
"""More at once makes nothing faster."""


def affordable_tokens(shape: GPTConfig, dtype: torch.dtype, free_bytes: int) -> int:
    """Tokens of one microbatch whose activations take a quarter of the free memory; at least one context."""
    each = shape.num_layers * VALUES_PER_CHANNEL * shape.model_dim * dtype.itemsize
    return max(shape.context_length, min(MOST_TOKENS, int(SHARE_OF_FREE_MEMORY * free_bytes) // each))
