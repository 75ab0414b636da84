"""Attention over the paged cache in one Triton kernel, which reads keys and values where they lie: no workspace.

A program attends for the tokens of one tile, up to 64 of one sequence (one, when decoding), in one head, to the keys of
one split of those that they may see, block after block, with a running softmax (FlashAttention, Dao et al. 2022,
arXiv:2205.14135; over a block table as in vLLM). Few rows would leave a GPU idle, so their keys are split among
programs, and a second kernel merges what each found (Flash-Decoding, Dao et al. 2023). The work depends on lengths that
the device knows, not on shapes: a CUDA graph holds it for every length.

A third kernel stands before it: rotation, norms, the gate of value embeddings and storing, for one head of one token.

Without a GPU it runs under Triton's interpreter, which the tests use (TRITON_INTERPRET=1).
"""

# Triton's language is typed for its compiler, not for this one.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false

# pyright: reportMissingImports=false, reportIndexIssue=false
# On a CPU torch brings no Triton; and what `jit` gives is launched by an index.

import logging
import os
from copy import copy

import torch
import triton
import triton.language as tl
from torch import Tensor

from chatsmith.engine.kv_cache import KVCache
from chatsmith.engine.paged_attention import PagedAttention, StepAttention, padded_table
from chatsmith.engine.scheduler import Chunk, Sequence
from chatsmith.model.attention import Attend, attention_scale
from chatsmith.model.config import GATE_CHANNELS, GPTConfig
from chatsmith.model.gpt import GPT, Attention, Block, rotary_table

logger = logging.getLogger(__name__)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

FEWEST_QUERIES = 16
"""Of a program: tensor cores multiply at least 16 rows, also where a single token attends."""

TILES = {2: (64, 64), 4: (16, 32)}
"""By bytes of a number: most queries of a program, and keys at once. More in float32 would not fit the shared memory
that a T4 has (64 KiB)."""

MOST_SPLITS = 16

NO_WINDOW = 2**30

EPSILON = tl.constexpr(torch.finfo(torch.float32).eps)
"""What torch's `rms_norm` adds to the mean square, in bf16 and fp16, too, which it computes in float32."""

LENGTH_PROBED = 200

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Types that the kernels take, and how far what an attention gives with them may be from the plain one where they are
probed: 1e-6 and, in bf16, where torch rounds at every operation, 0.017 in the interpreter (width 1,280)."""


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
def _rotate(x, to, cos, sin, lanes, HALF: tl.constexpr):
    """One query or key: its pairs turned by the angles, the whole brought to unit root mean square."""
    first = tl.load(x + lanes, mask=lanes < HALF, other=0.0).to(tl.float32)
    second = tl.load(x + HALF + lanes, mask=lanes < HALF, other=0.0).to(tl.float32)
    left, right = first * cos + second * sin, second * cos - first * sin
    scale = 1 / tl.sqrt(tl.sum(left * left + right * right, 0) / (2 * HALF) + EPSILON)
    tl.store(to + lanes, (left * scale).to(to.dtype.element_ty), lanes < HALF)
    tl.store(to + HALF + lanes, (right * scale).to(to.dtype.element_ty), lanes < HALF)


@triton.jit
def _prepare(
    product,  # (N, 3, H, D)
    gates,  # (N, H), before the sigmoid
    embeddings,  # (N, H, D): what a token adds to its values
    cos,  # (N, D / 2), as are the sines
    sin,
    slots,  # (N,)
    queries,  # (N, H, D), written
    keys,  # (slots, H, D), written, as are the values
    values,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,  # HALF, rounded up to a power of two
    GATED: tl.constexpr,
):
    """One head of one token: all that stands between the first product and attention."""
    token, head, lanes = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, WIDTH)
    is_there, dim = lanes < HALF, 2 * HALF
    c = tl.load(cos + token * HALF + lanes, mask=is_there, other=0.0).to(tl.float32)
    s = tl.load(sin + token * HALF + lanes, mask=is_there, other=0.0).to(tl.float32)
    place = (token * HEADS + head) * dim
    slot = (tl.load(slots + token) * HEADS + head) * dim
    product += (3 * token * HEADS + head) * dim
    _rotate(product, queries + place, c, s, lanes, HALF)
    _rotate(product + HEADS * dim, keys + slot, c, s, lanes, HALF)
    for start in range(0, 2 * HALF, HALF):
        at = start + lanes
        v = tl.load(product + 2 * HEADS * dim + at, mask=is_there, other=0.0).to(tl.float32)
        if GATED:
            gate = 2 * tl.sigmoid(tl.load(gates + token * HEADS + head).to(tl.float32))
            v += gate * tl.load(embeddings + place + at, mask=is_there, other=0.0).to(tl.float32)
        tl.store(values + slot + at, v.to(values.dtype.element_ty), is_there)


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
        self._windows, self.cache = config.windows, cache
        device, dim = cache.device, config.head_dim
        self._processors: int = processors or torch.cuda.get_device_properties(device).multi_processor_count
        self.slots = self._tiles = self._table = torch.empty(0)
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
        size, device = self.cache.block_size, self.cache.device
        for row, (sequence, start, end) in enumerate(chunks):
            for at in range(start, end, self._num_queries):
                count = min(self._num_queries, end - at)
                tiles.append((len(slots) + at - start, count, at, row * table.shape[1]))
            slots += [sequence.blocks[at // size] * size + at % size for at in range(start, end)]
        self._tiles, self.slots = torch.tensor(tiles, device=device), torch.tensor(slots, device=device)
        self._table = table.to(device)

    def plan_decoding(self, positions: Tensor, table: Tensor) -> None:
        rows, size = torch.arange(len(positions), device=positions.device), self.cache.block_size
        self._num_queries = FEWEST_QUERIES
        self._tiles = torch.stack((rows, torch.ones_like(rows), positions, rows * table.stride(0)), dim=1)
        self.slots = table.gather(1, positions[:, None] // size)[:, 0] * size + positions % size
        self._table = table

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.write(layer, self.slots, k[0], v[0])
        return self.attend(layer, q[0].contiguous())

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """Attend by q (N, H, D), whose keys and values lie in the pool already."""
        num_tokens, heads, _ = q.shape
        wanted = 2 * self._processors // (len(self._tiles) * heads)  # two programs for a processor
        splits = min(1 << max(wanted.bit_length() - 1, 0), MOST_SPLITS)
        out, totals = torch.empty_like(q), q.new_empty(splits, num_tokens, heads, dtype=torch.float32)
        partial = q.new_empty(splits, *q.shape, dtype=torch.float32) if splits > 1 else out
        shape = {**self._head, **self._shape, "HEADS": heads, "QUERIES": self._num_queries, "SPLITS": splits}
        plan, numbers = (self._tiles, self._table), (num_tokens, self._windows[layer] or NO_WINDOW)
        grid = (len(self._tiles), heads, splits)
        with torch.cuda.device_of(q):  # Triton starts its kernels on the current one
            _attend[grid](q, *self.cache.layer(layer), *plan, partial, totals, *numbers, **shape)
            if splits > 1:
                all_heads = num_tokens * heads
                _merge[all_heads,](partial, totals, out, all_heads, **self._head, SPLITS=splits)
        return out[None]


class FusedAttention(Attention):
    """The model's attention where the engine attends by Triton: rotation, norms, gate and storing are one kernel. They
    are computed in float32, so rounded once where torch rounds at every operation."""

    def forward(
        self, x: Tensor, values: Tensor | None, cos: Tensor, sin: Tensor, attend: Attend | None
    ) -> Tensor:
        if not isinstance(attend, TritonAttention):
            return super().forward(x, values, cos, sin, attend)
        qkv, heads, half = self.qkv(x), self.num_heads, self.head_dim // 2
        gate, added, is_gated = qkv, qkv, False
        if self.value_gate is not None and values is not None:
            gate, added, is_gated = self.value_gate(x[..., :GATE_CHANNELS]), values, True
        inputs = (tensor.contiguous() for tensor in (qkv, gate, added, cos, sin))
        q = qkv.new_empty(x.shape[1], heads, self.head_dim)
        outputs = (q, *attend.cache.layer(self.layer))
        shape = {"HEADS": heads, "HALF": half, "WIDTH": triton.next_power_of_2(half), "GATED": is_gated}
        with torch.cuda.device_of(q):
            _prepare[x.shape[1], heads](*inputs, attend.slots, *outputs, **shape, num_warps=1)
        return self.out(attend.attend(self.layer, q).flatten(2))


def probed(model: GPT, cache: KVCache) -> TritonAttention | None:
    """The kernel's attention over `cache`, if it compiles here and gives what plain attention gives; else None, and why
    not in the log. Where the other kernel does so, too, the blocks of `model` use it from now on."""
    if not _works(Attention, "attention through a copy of the cache", model.config, cache):
        return None
    logger.info("attention reads the cache in place, by Triton %s", triton.__version__)
    if _works(FusedAttention, "rotation, norms, gate and storing by torch", model.config, cache):
        logger.info("rotation, norms, gate and storing are one kernel, by Triton")
        for block in model.blocks:
            assert isinstance(block, Block)
            block.attention.__class__ = FusedAttention
    return TritonAttention(model.config, cache)


def _works(kind: type[Attention], otherwise: str, config: GPTConfig, cache: KVCache) -> bool:
    try:
        off = error_of(config, cache.block_size, cache.dtype, cache.device, kind)
        reason = "" if off <= TOLERANCE[cache.dtype] else f"is off by {off:.2g}"
    except Exception as error:  # a compiler, a driver or an architecture that cannot: each has its own
        reason = f"cannot ({error})"
    if reason:
        logger.warning("%s: Triton %s", otherwise, reason)
    return not reason


@torch.inference_mode()
def error_of(
    config: GPTConfig,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    kind: type[Attention] = Attention,
) -> float:
    """How far `kind` with the kernel is from the model's own code, at most, for a prompt and a token after it, each in
    a pool of its own."""
    length = min(LENGTH_PROBED, config.context_length)
    sequence = Sequence([0] * length, length)
    sequence.blocks = list(range(1, 2 + length // block_size))
    pools = [KVCache(config, len(sequence.blocks), block_size, dtype, device) for _ in range(2)]
    both = PagedAttention(config, pools[0], 1), TritonAttention(config, pools[1])
    angles = rotary_table(length, config.head_dim, config.rope_base)
    generator, worst = torch.Generator(device).manual_seed(1), 0.0
    for start, end in ((0, length - 1), (length - 1, length)):
        for attention in both:
            attention.plan([Chunk(sequence, start, end)])
        cos, sin = (table[None, start:end].to(device, dtype) for table in angles)
        for layer in range(config.num_layers):
            with device:
                plain = Attention(config, layer).to(dtype)
            for weight in plain.parameters():
                weight.normal_(0, weight.shape[-1] ** -0.5, generator=generator)
            ours = copy(plain)
            ours.__class__ = kind
            noise = (torch.empty(1, end - start, config.model_dim, device=device) for _ in range(2))
            x, values = (tensor.normal_(generator=generator).to(dtype) for tensor in noise)
            modules = zip((plain, ours), both, strict=True)
            expected, found = (one(x, values, cos, sin, attention).float() for one, attention in modules)
            worst = max(worst, ((found - expected).abs() / (1 + expected.abs())).max().item())
    return worst
