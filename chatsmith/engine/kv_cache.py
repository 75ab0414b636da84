"""The key-value pool: the memory behind the block manager's numbers, and how much of it there is.

Keys and values of every layer live in one tensor of fixed size, made once: (2, L, blocks + 2, block size x H x D). A
token's place is its slot, block number x block size + offset. Blocks that change hands are zeroed, and block 0 stays
zero, so that whatever is gathered beyond a sequence's own tokens is zero: a masked weight of 0 times another request's
NaN would still be NaN. The last block is nobody's: what has to be written, but is not wanted, goes there.
"""

import torch
from torch import Tensor

from chatsmith.model.config import GPTConfig, kv_bytes_per_token
from chatsmith.runtime.device import free_memory

SHARE_OF_FREE_MEMORY = 0.5
"""The most of the free memory that the pool takes when it is not told its size."""

CPU_RUNNING, MOST_RUNNING = 16, 256
"""Sequences at once where nobody says: on a CPU, whose arithmetic 16 keep busy; and at most on a GPU, where the keys
and values of 256 are most of what a step reads."""

CPU_TOKENS_PER_STEP, GPU_TOKENS_PER_STEP = 256, 2048
"""A GPU that multiplies 300 times as fast as it reads (H100, bf16) waits for weights below some 300 tokens."""


def affordable(
    config: GPTConfig, dtype: torch.dtype, device: torch.device, max_running: int | None, reserved: int = 0
) -> tuple[int, int]:
    """How many sequences may run at once, and the pool's tokens for full contexts of them: at most what half of the
    free memory, less `reserved` bytes, holds (one context at least). `max_running` None: on a GPU as many as that is.
    """
    context, free = config.context_length, free_memory(device) - reserved
    tokens = max(int(SHARE_OF_FREE_MEMORY * free) // kv_bytes_per_token(config, dtype.itemsize), context)
    if max_running is None:
        max_running = min(MOST_RUNNING, tokens // context) if device.type == "cuda" else CPU_RUNNING
    return max_running, min(tokens, max_running * context)


class KVCache:
    """The pool."""

    def __init__(
        self, config: GPTConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.block_size = block_size
        self.dtype, self.device = dtype, device
        self.scratch_block = num_blocks + 1
        shape = (2, config.num_layers, num_blocks + 2, block_size * config.model_dim)
        self._pool = torch.zeros(shape, dtype=dtype, device=device)
        """Keys, and values."""

    def zero(self, blocks: list[int]) -> None:
        """Erase blocks that change hands."""
        if blocks:
            self._pool.index_fill_(2, torch.tensor(blocks, device=self.device), 0)

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole blocks: (from, to)."""
        if pairs:
            sources, targets = torch.tensor(pairs, device=self.device).T
            self._pool.index_copy_(2, targets, self._pool[:, :, sources])

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k and v (N, H, D) of N tokens at their slots (N,)."""
        for pool, numbers in zip(self.layer(layer), (k.flatten(1), v.flatten(1)), strict=True):
            pool.view(-1, numbers.shape[1]).index_copy_(0, slots, numbers)

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """The pool's keys and values of one layer, each (blocks + 2, block size x C)."""
        keys, values = self._pool[:, layer]
        return keys, values
