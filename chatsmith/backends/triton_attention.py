"""Attention over the paged cache in one Triton kernel, which reads keys and values where they lie: no workspace.

A program attends for the tokens of one tile, up to 64 of one sequence (one, when decoding), in one head, to the keys of
one split of those that they may see, block after block, with a running softmax (FlashAttention, Dao et al. 2022,
arXiv:2205.14135; over a block table as in vLLM). Few rows would leave a GPU idle, so their keys are split among
programs, and a second kernel merges what each found (Flash-Decoding, Dao et al. 2023). The work depends on lengths that
the device knows, not on shapes: a CUDA graph holds it for every length.

Without a GPU it runs under Triton's interpreter, which the tests use (TRITON_INTERPRET=1).
"""

# Triton's language is typed for its compiler, not for this one.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false

# pyright: reportMissingImports=false, reportIndexIssue=false
# On a CPU torch brings no Triton; and what `jit` gives is launched by an index.

import logging
import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from chatsmith.engine.kv_cache import KVCache
from chatsmith.engine.paged_attention import PagedAttention, StepAttention, padded_table
from chatsmith.engine.scheduler import Chunk, Sequence
from chatsmith.model.attention import attention_scale
from chatsmith.model.config import GPTConfig

logger = logging.getLogger(__name__)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

FEWEST_QUERIES = 16
"""Of a program: tensor cores multiply at least 16 rows, also where a single token attends."""

TILES = {2: (64, 64), 4: (16, 32)}
"""By bytes of a number: most queries of a program, and keys at once. More in float32 would not fit the shared memory
that a T4 has (64 KiB)."""

MOST_SPLITS = 16

NO_WINDOW = 2**30

LENGTH_PROBED = 200

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Types that the kernel takes, and how far its result may be from the plain one where it is probed."""


@triton.jit
def _attend(
    q,  # (N, H, D)
    keys,  # (slots, H, D), as are the values
    values,
    tiles,  # (programs, 4): first token, how many, position of the first, where the table's row begins
    table,  # (R, blocks)
    partial,  # (splits, N, H, D)
    totals,  # (splits, N, H): log of the sum of the exponentials
    num_tokens,
    window,
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,  # DIM, rounded up to a power of two
    BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    SPLITS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    tile, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    token = tl.load(tiles + 4 * tile)
    count = tl.load(tiles + 4 * tile + 1)
    start = tl.load(tiles + 4 * tile + 2)
    row = tl.load(tiles + 4 * tile + 3)
    queries, channels = tl.arange(0, QUERIES), tl.arange(0, WIDTH)
    is_here = (queries < count)[:, None] & (channels < DIM)[None, :]
    places = ((token + queries) * HEADS + head)[:, None] * DIM + channels[None, :]
    asked = tl.load(q + places, mask=is_here, other=0.0)
    if WIDEN:
        asked = asked.to(tl.float32)

    first = tl.maximum(start - window + 1, 0)
    last = start + count
    share = tl.cdiv(tl.cdiv(last - first, KEYS), SPLITS) * KEYS
    begin = first + split * share
    end = tl.minimum(begin + share, last)
    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    found = tl.zeros([QUERIES, WIDTH], tl.float32)
    for at in range(begin, end, KEYS):
        positions = at + tl.arange(0, KEYS)
        exists = positions < end
        block = tl.load(table + row + positions // BLOCK, mask=exists, other=0).to(tl.int64)
        slots = ((block * BLOCK + positions % BLOCK) * HEADS + head)[:, None] * DIM + channels[None, :]
        is_stored = exists[:, None] & (channels < DIM)[None, :]
        k = tl.load(keys + slots, mask=is_stored, other=0.0)
        v = tl.load(values + slots, mask=is_stored, other=0.0)
        if WIDEN:
            k, v = k.to(tl.float32), v.to(tl.float32)
        distance = (start + queries)[:, None] - positions[None, :]
        visible = exists[None, :] & (distance >= 0) & (distance < window)
        scores = tl.dot(asked, tl.trans(k), input_precision="ieee") * SCALE
        scores = tl.where(visible, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        # A query that has seen no key yet has no finite score.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - base[:, None])
        shrink = tl.exp(best - base)
        total = total * shrink + tl.sum(weights, 1)
        found = found * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        best = higher
    total = tl.where(total == 0, 1.0, total)  # a split without keys; its largest score says so
    found = found / total[:, None]
    tl.store(partial + split * num_tokens * HEADS * DIM + places, found.to(partial.dtype.element_ty), is_here)
    logs = split * num_tokens * HEADS + (token + queries) * HEADS + head
    tl.store(totals + logs, best + tl.log(total), queries < count)


@triton.jit
def _merge(
    partial,
    totals,
    out,
    num_heads,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """One head of one token: what the splits found, weighted by their totals."""
    head, splits, channels = tl.program_id(0), tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    is_there = (channels < DIM)[None, :]
    logs = tl.load(totals + splits * num_heads + head)
    weights = tl.exp(logs - tl.max(logs, 0))
    found = tl.load(
        partial + (splits[:, None] * num_heads + head) * DIM + channels[None, :], mask=is_there, other=0.0
    )
    merged = tl.sum(found * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out + head * DIM + channels, merged.to(out.dtype.element_ty), channels < DIM)


class TritonAttention(StepAttention):
    """`processors` is how many programs the device runs at once; None asks it."""

    def __init__(self, config: GPTConfig, cache: KVCache, processors: int | None = None) -> None:
        self._windows, self._cache = config.windows, cache
        device, dim = cache.device, config.head_dim
        self._processors: int = processors or torch.cuda.get_device_properties(device).multi_processor_count
        self._slots = self._tiles = self._table = torch.empty(0)
        self._num_queries = FEWEST_QUERIES
        self._most_queries, keys = TILES[cache.dtype.itemsize]
        widen = INTERPRETED and cache.dtype != torch.float32  # it multiplies bf16 wrongly
        self._head = {"DIM": dim, "WIDTH": max(16, triton.next_power_of_2(dim))}
        self._shape = {"SCALE": attention_scale(dim), "BLOCK": cache.block_size, "KEYS": keys, "WIDEN": widen}

    def plan(self, chunks: list[Chunk]) -> None:
        longest = max(chunk.length for chunk in chunks)
        self._num_queries = FEWEST_QUERIES if longest <= FEWEST_QUERIES else self._most_queries
        table = padded_table([chunk.sequence.blocks for chunk in chunks])
        tiles: list[tuple[int, int, int, int]] = []
        slots: list[int] = []
        size, device = self._cache.block_size, self._cache.device
        for row, (sequence, start, end) in enumerate(chunks):
            for at in range(start, end, self._num_queries):
                count = min(self._num_queries, end - at)
                tiles.append((len(slots) + at - start, count, at, row * table.shape[1]))
            slots += [sequence.blocks[at // size] * size + at % size for at in range(start, end)]
        self._tiles, self._slots = torch.tensor(tiles, device=device), torch.tensor(slots, device=device)
        self._table = table.to(device)

    def plan_decoding(self, positions: Tensor, table: Tensor) -> None:
        rows, size = torch.arange(len(positions), device=positions.device), self._cache.block_size
        self._num_queries = FEWEST_QUERIES
        self._tiles = torch.stack((rows, torch.ones_like(rows), positions, rows * table.stride(0)), dim=1)
        self._slots = table.gather(1, positions[:, None] // size)[:, 0] * size + positions % size
        self._table = table

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._cache.write(layer, self._slots, k[0], v[0])
        q = q[0].contiguous()
        num_tokens, heads, _ = q.shape
        wanted = 2 * self._processors // (len(self._tiles) * heads)  # two programs for a processor
        splits = min(1 << max(wanted.bit_length() - 1, 0), MOST_SPLITS)
        out, totals = torch.empty_like(q), q.new_empty(splits, num_tokens, heads, dtype=torch.float32)
        partial = q.new_empty(splits, *q.shape, dtype=torch.float32) if splits > 1 else out
        shape = {**self._head, **self._shape, "HEADS": heads, "QUERIES": self._num_queries, "SPLITS": splits}
        plan, numbers = (self._tiles, self._table), (num_tokens, self._windows[layer] or NO_WINDOW)
        grid = (len(self._tiles), heads, splits)
        with torch.cuda.device_of(q):  # Triton starts its kernels on the current one
            _attend[grid](q, *self._cache.layer(layer), *plan, partial, totals, *numbers, **shape)
            if splits > 1:
                all_heads = num_tokens * heads
                _merge[all_heads,](partial, totals, out, all_heads, **self._head, SPLITS=splits)
        return out[None]


def probed(config: GPTConfig, cache: KVCache) -> TritonAttention | None:
    """The kernel's attention over `cache`, if it compiles here and gives what plain attention gives; else None, and why
    not in the log."""
    try:
        attention = TritonAttention(config, cache)
        off = error_of(config, cache.block_size, cache.dtype, cache.device)
    except Exception as error:  # a compiler, a driver or an architecture that cannot: each has its own
        logger.warning("attention through a copy of the cache: Triton cannot (%s)", error)
        return None
    if not off <= TOLERANCE[cache.dtype]:
        logger.warning("attention through a copy of the cache: Triton is off by %.2g", off)
        return None
    logger.info("attention reads the cache in place, by Triton %s", triton.__version__)
    return attention


@torch.inference_mode()
def error_of(config: GPTConfig, block_size: int, dtype: torch.dtype, device: torch.device) -> float:
    """How far the kernel is from plain attention, at most, for a prompt and a token after it in a pool of their own."""
    length = min(LENGTH_PROBED, config.context_length)
    sequence = Sequence([0] * length, length)
    sequence.blocks = list(range(1, 2 + length // block_size))
    cache = KVCache(config, len(sequence.blocks), block_size, dtype, device)
    both = PagedAttention(config, cache, 1), TritonAttention(config, cache)
    generator, worst = torch.Generator().manual_seed(1), 0.0
    for start, end in ((0, length - 1), (length - 1, length)):
        shape = (3, 1, end - start, config.num_heads, config.head_dim)
        q, k, v = torch.randn(shape, generator=generator).to(device, dtype)
        for attention in both:
            attention.plan([Chunk(sequence, start, end)])
        for layer in range(config.num_layers):
            expected, found = (attention(layer, q, k, v).float() for attention in both)
            worst = max(worst, ((found - expected).abs() / (1 + expected.abs())).max().item())
    return worst
