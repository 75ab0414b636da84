"""The key-value pool: the memory behind the block manager's numbers, and how much of it there is.

Keys and values of every layer live in two tensors of fixed size, made once: (L, blocks + 2, block size, H x
D). A token's place is its slot, block number x block size + offset. Blocks that change hands are zeroed, and
block 0 stays zero, so that whatever is gathered beyond a sequence's own tokens is zero: a masked weight of 0
times another request's NaN would still be NaN. The last block is nobody's: what has to be written, but is not
wanted, goes there.
"""

import torch
from torch import Tensor

from chatsmith.model.config import GPTConfig, kv_bytes_per_token
from chatsmith.runtime.device import free_memory

SHARE_OF_FREE_MEMORY = 0.5
"""The most of the free memory that the pool takes when it is not told its size."""


def affordable_tokens(config: GPTConfig, dtype: torch.dtype, device: torch.device, max_running: int) -> int:
    """Tokens for `max_running` full contexts, or as many as half of the free memory holds (one at least)."""
    wanted = max_running * config.context_length
    held = int(SHARE_OF_FREE_MEMORY * free_memory(device)) // kv_bytes_per_token(config, dtype.itemsize)
    return max(min(wanted, held), config.context_length)


class KVCache:
    """The pool."""

    def __init__(
        self, config: GPTConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.block_size = block_size
        self.dtype, self.device = dtype, device
        self.scratch_block = num_blocks + 1
        shape = (config.num_layers, num_blocks + 2, block_size * config.model_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)

    def zero(self, blocks: list[int]) -> None:
        """Erase blocks that change hands."""
        if blocks:
            numbers = torch.tensor(blocks, device=self.device)
            self._keys.index_fill_(1, numbers, 0)
            self._values.index_fill_(1, numbers, 0)

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole blocks: (from, to)."""
        if pairs:
            sources, targets = torch.tensor(pairs, device=self.device).T
            self._keys.index_copy_(1, targets, self._keys[:, sources])
            self._values.index_copy_(1, targets, self._values[:, sources])

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k and v (N, H, D) of N tokens at their slots (N,)."""
        width = k.shape[-2] * k.shape[-1]
        self._keys[layer].view(-1, width).index_copy_(0, slots, k.flatten(1))
        self._values[layer].view(-1, width).index_copy_(0, slots, v.flatten(1))

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """The pool's keys and values of one layer, each (blocks + 2, block size x C)."""
        return self._keys[layer], self._values[layer]
