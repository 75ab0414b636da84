"""What training keeps in memory, and how many tokens fit through it at once, by the memory that is free.

Estimates from the shape of the network, on the safe side; it does not try and fail.
"""

import torch

from chatsmith.model.config import Cost, GPTConfig

VALUES_PER_CHANNEL = 34
"""Activations that a layer keeps for its backward pass, in units of C values a token: the stream before and after
attention and MLP, queries, keys and values with their rotated and normalized forms, and three of the MLP's 4 C."""

SHARE_OF_FREE_MEMORY = 0.25
"""The rest is for gradients, the optimizer, the engine's pool, and others."""

MOST_TOKENS = 65_536
"""More at once makes nothing faster."""

BYTES_PER_NUMBER = 4
"""Weights, gradients and the optimizer's state are float32, whatever activations are computed in."""


def state_bytes(cost: Cost) -> dict[str, int]:
    """Bytes of weights, gradients and the optimizer's state on every process, by these names. Muon keeps a momentum for
    each number of a matrix, AdamW two moments for all else; both gates and Muon's one variance a row are too few to
    count."""
    weights = BYTES_PER_NUMBER * cost.parameters
    optimizer = BYTES_PER_NUMBER * (cost.matrices + 2 * (cost.head + cost.tables))
    return {"weights": weights, "gradients": weights, "optimizer": optimizer}


def activation_bytes(shape: GPTConfig, dtype: torch.dtype) -> int:
    """Bytes of activations that one token of a microbatch keeps for the backward pass, about; compiled, it is less."""
    return shape.num_layers * VALUES_PER_CHANNEL * shape.model_dim * dtype.itemsize


def affordable_tokens(shape: GPTConfig, dtype: torch.dtype, free_bytes: int) -> int:
    """Tokens of one microbatch whose activations take a quarter of the free memory; at least one context."""
    each = activation_bytes(shape, dtype)
    return max(shape.context_length, min(MOST_TOKENS, int(SHARE_OF_FREE_MEMORY * free_bytes) // each))
