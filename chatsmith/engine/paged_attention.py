"""Attention over the paged cache: what the engine passes to the model as `attend`.

A step packs the chunks of all sequences into one row of N tokens, so that every matrix product of the model
sees them together. Only attention takes them apart again: chunks of equal length form groups, and each
group's blocks are gathered into a workspace and attended to by SDPA under a mask. A layer's window is honoured by the
mask, and blocks that lie wholly outside it are not gathered at all.

Shapes: N packed tokens, R rows of a group, T queries a row, K gathered key positions, H heads, D head dim.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from chatsmith.engine.kv_cache import KVCache
from chatsmith.engine.scheduler import Chunk
from chatsmith.model.attention import attention_scale
from chatsmith.model.config import GPTConfig

WORKSPACE_TOKENS = 16_384
"""Most keys gathered at once; more rows than that holds are attended to in turns."""


class StepAttention(Protocol):
    """Attention over the cache. It is given the plan of a step, and then attends for one layer after the other."""

    def plan(self, chunks: list[Chunk]) -> None:
        """Prepare for a step whose tokens are packed in the order of `packing_order(chunks)`."""

    def plan_decoding(self, positions: Tensor, table: Tensor) -> None:
        """Prepare for a step of one token a row: its position (R,), and its blocks (R, W), padded with 0.

        All is computed on the device, by work that depends on R and W alone: a CUDA graph can hold it.
        """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend for the planned tokens; q, k, v and the result are (1, N, H, D)."""


@dataclass(frozen=True)
class _View:
    """What a group sees through one window."""

    table: Tensor
    """(R x blocks,) the blocks to gather, row after row; 0 pads."""

    mask: Tensor
    """(R, 1, T, K) added to the scores: 0 where the query may look, -inf elsewhere."""


@dataclass(frozen=True)
class _Group:
    """Chunks of equal length, neighbours in the packed row."""

    tokens: slice
    num_rows: int
    views: dict[int, _View | None]
    """By window. None: the chunks are whole prompts so far, and see themselves only, causally."""


class PagedAttention(StepAttention):
    """Holds the plan of one step, of at most so many sequences; calling it attends for one layer."""

    def __init__(self, config: GPTConfig, cache: KVCache, max_running: int) -> None:
        self._cache = cache
        # One whole context must fit, rounded up to blocks.
        longest = self._num_blocks(config.context_length)
        most = min(WORKSPACE_TOKENS // cache.block_size, max_running * longest)
        self._workspace_tokens = max(longest, most) * cache.block_size
        # Gathering into fresh memory at every call was measured 7 times slower on CPU.
        self._workspace = [
            torch.empty_like(pool[:1].expand(max(longest, most), -1)) for pool in cache.layer(0)
        ]
        self._windows = config.windows
        self._scale = attention_scale(config.head_dim)
        self._slots = torch.empty(0)
        self._groups: list[_Group] = []

    def plan(self, chunks: list[Chunk]) -> None:
        slots: list[Tensor] = []
        self._groups = []
        for rows in self._split(chunks):
            blocks = [chunk.sequence.blocks[: self._num_blocks(chunk.end)] for chunk in rows]
            table = padded_table(blocks).to(self._cache.device)
            starts = torch.tensor([chunk.start for chunk in rows], device=self._cache.device)
            is_whole = all(chunk.start == 0 for chunk in rows)
            slots.append(self._add_group(starts, rows[0].length, table, is_whole))
        self._slots = torch.cat(slots)

    def plan_decoding(self, positions: Tensor, table: Tensor) -> None:
        rows_at_once = max(1, self._workspace_tokens // (table.shape[1] * self._cache.block_size))
        self._groups = []
        parts = zip(positions.split(rows_at_once), table.split(rows_at_once), strict=True)
        self._slots = torch.cat([self._add_group(part, 1, blocks) for part, blocks in parts])

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._cache.write(layer, self._slots, k[0], v[0])
        result = torch.empty_like(q)
        for group in self._groups:
            # (N, H, D) -> (R, H, T, D)
            queries, own_keys, own_values = (
                x[0, group.tokens].unflatten(0, (group.num_rows, -1)).transpose(1, 2) for x in (q, k, v)
            )
            view = group.views[self._windows[layer]]
            if view is None:
                y = F.scaled_dot_product_attention(
                    queries, own_keys, own_values, is_causal=True, scale=self._scale
                )
            else:
                keys, values = (
                    x.view(group.num_rows, -1, *q.shape[2:]).transpose(1, 2)
                    for x in self._gather(layer, view.table)
                )
                y = F.scaled_dot_product_attention(
                    queries, keys, values, attn_mask=view.mask, scale=self._scale
                )
            result[0, group.tokens] = y.transpose(1, 2).flatten(0, 1)
        return result

    def _gather(self, layer: int, table: Tensor) -> list[Tensor]:
        """Keys and values of the blocks in `table` (M,), each (M, block size x C), until the next call."""
        both = zip(self._cache.layer(layer), self._workspace, strict=True)
        return [torch.index_select(pool, 0, table, out=work[: len(table)]) for pool, work in both]

    def _split(self, chunks: list[Chunk]) -> list[list[Chunk]]:
        """Cut into groups: equal lengths, and no more keys than the workspace holds."""
        groups: list[list[Chunk]] = []
        for chunk in chunks:
            # Sorted, so the newest row of a group is its longest.
            keys = self._num_blocks(chunk.end) * self._cache.block_size
            keys *= len(groups[-1]) + 1 if groups else 1
            if groups and groups[-1][0].length == chunk.length and keys <= self._workspace_tokens:
                groups[-1].append(chunk)
            else:
                groups.append([chunk])
        return groups

    def _add_group(self, starts: Tensor, length: int, table: Tensor, is_whole: bool = False) -> Tensor:
        """Plan rows of `length` tokens from `starts` (R,) on, with blocks `table` (R, W). Returns their slots."""
        size = self._cache.block_size
        positions = starts[:, None] + torch.arange(length, device=starts.device)  # (R, T)
        views = {
            window: None
            if is_whole and (window == 0 or length <= window)
            else self._view(positions, table, window)
            for window in set(self._windows)
        }
        first_token = self._groups[-1].tokens.stop if self._groups else 0
        tokens = slice(first_token, first_token + positions.numel())
        self._groups.append(_Group(tokens, len(starts), views))
        return (table.gather(1, positions // size) * size + positions % size).flatten()

    def _view(self, positions: Tensor, table: Tensor, window: int) -> _View:
        size, device = self._cache.block_size, positions.device
        first_blocks = torch.zeros_like(positions[:, :1])
        # As many blocks as the positions that one row looks at can touch.
        touched = (window + positions.shape[1] - 3) // size + 2
        if window and touched < table.shape[1]:
            first_blocks = (positions[:, :1] - window + 1).clamp(min=0) // size
            columns = first_blocks + torch.arange(touched, device=device)
            # Those beyond the table show its last block once more, at positions that are still to come.
            table = table.gather(1, columns.clamp(max=table.shape[1] - 1))
        key_positions = first_blocks * size + torch.arange(table.shape[1] * size, device=device)  # (R, K)
        # Padding lies beyond a row's last token, so it counts as the future.
        distance = positions[:, :, None] - key_positions[:, None, :]  # (R, T, K)
        hidden = (distance < 0) | (distance >= window) if window else distance < 0
        mask = torch.zeros(hidden.shape, dtype=self._cache.dtype, device=device)
        mask.masked_fill_(hidden, float("-inf"))
        return _View(table.flatten(), mask[:, None])

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._cache.block_size)


def padded_table(tables: list[list[int]]) -> Tensor:
    """The blocks of several sequences as one tensor (R, W), on the CPU; 0 pads."""
    width = max(map(len, tables))
    return torch.tensor([blocks + [0] * (width - len(blocks)) for blocks in tables])


def packing_order(chunks: list[Chunk]) -> list[Chunk]:
    """The order in which a step packs its chunks: by length, then by how much each looks back upon."""
    return sorted(chunks, key=lambda chunk: (chunk.length, chunk.end))


def packed_tokens(chunks: list[Chunk]) -> tuple[list[int], list[int], list[int]]:
    """The ids of a step's tokens, the id before each (-1 where there is none), and their positions."""
    tokens: list[int] = []
    previous: list[int] = []
    positions: list[int] = []
    for chunk in chunks:
        known, start, end = chunk.sequence.tokens, chunk.start, chunk.end
        tokens += known[start:end]
        previous += known[start - 1 : end - 1] if start else [-1, *known[: end - 1]]
        positions += range(start, end)
    return tokens, previous, positions
