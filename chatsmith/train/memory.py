"""What a training step keeps in memory, part by part, and the cheapest way to make it fit.

Closed formulas from the network's shape. What a layer keeps was counted in torch's saved tensors, and the peaks are
held to what a memory tracker counts in whole steps (tests/train/test_memory.py; docs/scaling.md, "Memory"). Where they
are wrong all the same, and memory runs out, `Notch` makes the step smaller.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from chatsmith.data.packing import Batch
from chatsmith.model.attention import LONGEST_IN_PIECES, PIECE
from chatsmith.model.config import Cost, GPTConfig, model_cost
from chatsmith.model.gpt import GPT, straight
from chatsmith.model.loss import FUSED_ROWS, ROWS_PER_CHUNK
from chatsmith.optim.muon import STACKED_NUMBERS
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.cache import cache_folder
from chatsmith.runtime.console import format_bytes
from chatsmith.runtime.device import Runtime, free_memory, resident_for, resident_with
from chatsmith.runtime.distributed import max_number, sum_number
from chatsmith.runtime.errors import UserError
from chatsmith.train.plan import Plan

EXACT = 4
"""Bytes of a number: weights, gradients and the optimizer's state are float32, whatever activations are computed in."""

GPU_WORKSPACE = 800_000_000
"""Bytes on a GPU that are no tensors: CUDA's context and kernels, cuBLAS's workspace, holes between tensors."""

ENOUGH_TOKENS = 8192
"""A GPU that gets fewer tokens at once waits for weights: better recompute something than go below this."""

MOST_TOKENS = 65_536
"""More at once makes nothing faster."""

SHARE_OF_FREE_MEMORY = 0.9
"""Of a CPU's, what a step is planned to take."""

CORRECTIONS = "chatsmith/memory.json"
"""In the cache: what was measured on each GPU, as a share of what was foreseen."""


# ---- recomputing ----

Recompute = Literal["nothing", "elementwise", "blocks"]


def _keep_products(context: object, operator: Any, *_: Any, **__: Any) -> checkpoint.CheckpointPolicy:
    is_product = operator.name().startswith(("aten::mm", "aten::_scaled_dot_product"))
    policies = checkpoint.CheckpointPolicy
    return policies.MUST_SAVE if is_product else policies.PREFER_RECOMPUTE


def _recomputing(block: nn.Module, *inputs: Any, **options: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return block(*inputs)
    return checkpoint.checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, **options)


_selective = partial(checkpoint.create_selective_checkpoint_contexts, _keep_products)
RECOMPUTING: dict[Recompute, Callable[..., Tensor]] = {
    "nothing": straight,
    "elementwise": partial(_recomputing, context_fn=_selective),
    "blocks": partial(_recomputing),
}
"""How blocks are called (`GPT.run_block`) that recompute a part of their forward pass in the backward pass instead of
keeping it (activation checkpointing: Chen et al. 2016, arXiv:1604.06174): everything but the products (Korthikanti et
al. 2022, arXiv:2205.05198), or all of it. Gradients are the same bit for bit."""


# ---- what a step takes ----


@dataclass(frozen=True)
class Way:
    """How a step is computed, as far as its memory depends on it."""

    dtype: torch.dtype
    on_gpu: bool = False
    is_compiled: bool = False
    recompute: Recompute = "nothing"
    bf16_tables: bool = False
    """Embedding tables, their gradients and moments are bf16."""
    world_size: int = 1
    shards: int = 1
    """Among so many processes weights and gradients are cut (FSDP); 1: each has all."""
    most_shards: int = 1
    """Where nothing else fits, they may be cut among so many."""


def state_bytes(cost: Cost, world_size: int = 1, table: int = EXACT, shards: int = 1) -> dict[str, int]:
    """Bytes of weights, gradients and the optimizer's state on each process, by these names; a number of an embedding
    table takes `table` bytes. Muon keeps a momentum for each number of a matrix, AdamW two moments for all else, dealt
    out among processes, as weights and gradients are among `shards`; both gates and Muon's one variance a row are too
    few to count."""
    weights = EXACT * cost.scaling_parameters + table * cost.tables
    optimizer = EXACT * (cost.matrices + 2 * cost.head) + 2 * table * cost.tables
    own = weights // shards
    return {"weights": own, "gradients": own, "optimizer": optimizer // world_size}


def _kept_by_token(shape: GPTConfig, layer: int, way: Way) -> float:
    """Bytes that a token keeps in a layer for the backward pass if nothing is recomputed."""
    width, size, length = shape.model_dim, way.dtype.itemsize, shape.context_length
    # Stream 3, norms 4, qkv 3, rotated 2, attention 1, MLP 8, in C values; bf16 norms keep 4 more. With a value
    # embedding v is no part of qkv any more.
    values = 20 if way.is_compiled else 25 if size == 2 else 21
    kept = (values - (layer in shape.value_embedding_layers)) * width * size
    if not way.on_gpu and way.dtype == torch.bfloat16 and length <= LONGEST_IN_PIECES:
        # Attention in pieces: the weights of all keys up to a piece's end.
        seen = min((length + PIECE) / 2, length, (shape.windows[layer] or length) + PIECE)
        kept += size * seen * shape.num_heads
    return kept


def step_memory(shape: GPTConfig, rows: int, accumulation: int, way: Way) -> dict[str, int]:
    """Bytes on each process in a step of `accumulation` microbatches of `rows` rows, by part; "batch" is the most that
    forward and backward of the first add to weights and optimizer, "peak" the most that is there at once.

    There are three moments of much: at the loss, all activations and a chunk of logits; at the end of the backward
    pass, all gradients; in the update, Muon's products.
    """
    cost, layers = model_cost(shape), range(shape.num_layers)
    width, size = shape.model_dim, way.dtype.itemsize
    table_size = 2 if way.bf16_tables else EXACT
    owners = way.shards if way.shards > 1 else way.world_size
    state = state_bytes(cost, owners, table_size, way.shards)
    weights, gradients, optimizer = state.values()
    tokens = rows * shape.context_length
    head, stream = EXACT * cost.head, tokens * width * size

    whole = [tokens * _kept_by_token(shape, layer, way) for layer in layers]
    if way.recompute == "nothing":
        cast = 2 * cost.matrices if size == 2 and way.shards == 1 else 0  # weights in bf16
        kept, again = sum(whole) + cast, 0.0
    else:  # the block's input and the values it is given; of products, qkv 3, attention 1, out 1, MLP 5
        each = 11 if way.recompute == "elementwise" else 1
        kept = stream * (each * len(layers) + len(shape.value_embedding_layers))
        again = whole[-1] - each * stream
    activations = int(kept + (8.2 if size == 2 else 5.1) * stream)  # the latter around the embeddings

    # In chunks, the last one's gradient is still there when the next is made. What compiles on a GPU has a kernel for
    # it, too, which writes it over the logits; reinforcement learning has neither.
    fused = way.on_gpu and way.is_compiled
    at_once, number = (FUSED_ROWS, size) if fused else (ROWS_PER_CHUNK, EXACT)
    copies = (1.0 if fused else 2.1 if way.is_compiled else 6.1) + (tokens > at_once)
    chunk = min(tokens, at_once) * shape.vocab_size * number
    logits = int(copies * chunk + stream + head * (2 if size == 2 else 1))

    block = int(11.5 * stream + again)  # what one layer's backward pass makes, and what is recomputed for it
    # A table's dense gradient is added to what is there: of the same tokens as previous ones, of former microbatches.
    sums = accumulation > 1
    tables = width * max(table_size * shape.vocab_size * (1 + sums), EXACT * shape.bigram_buckets * sums)
    stacked, copies = cost.matrices // 3, 9  # all matrices of the shape that has most, in float32
    if way.on_gpu:  # a part of them
        stacked = min(stacked, max(4 * width * width, STACKED_NUMBERS))
    if way.dtype == torch.bfloat16:  # iterated in it
        copies = 6
    update, left = copies * EXACT * stacked // owners, gradients
    if way.shards > 1:
        # The next block's weights and the last one's gradients are on the way; a table in float32 has a dense gradient.
        number, whole = size if way.on_gpu else EXACT, cost.matrices // shape.num_layers
        activations += 2 * number * whole + head
        block += (number + 2 * EXACT) * whole
        tables = 3 * EXACT * width * max(shape.vocab_size, shape.bigram_buckets) + head
    at_end = gradients + max(tables, block)
    if way.world_size > 1 and way.shards == 1:
        # A gradient is dropped as it is copied to be sent, those of tables last; all weights are copied to arrive. In
        # bf16, whose owners keep exact weights, copies take half the bytes.
        halves = 2 if way.on_gpu and way.dtype == torch.bfloat16 else 1
        at_end -= (halves - 1) * EXACT * (cost.matrices + cost.head) // halves
        left, update = gradients // way.world_size, max(update, weights // halves)
        weights = state["weights"] = weights + (halves - 1) * weights // way.world_size

    forward = activations + max(logits, head + max(head, stream + block))
    peak = max(forward + (gradients if accumulation > 1 else 0), at_end, left + update)
    workspace = GPU_WORKSPACE if way.on_gpu else 0
    return state | {
        "activations": activations,
        "logits": logits,
        "temporary": max(block, tables, update),
        "workspace": workspace,
        "batch": max(forward, at_end),
        "peak": weights + optimizer + peak + workspace,
    }


# ---- what fits ----


@dataclass(frozen=True)
class Fit:
    """A way to compute a step, and what it takes."""

    rows: int
    """Of a microbatch."""
    way: Way
    memory: dict[str, int]
    needed: int
    """Bytes: the peak, and on a CPU what malloc keeps besides."""
    fits: bool

    @property
    def tier(self) -> str:
        """The way in a few words."""
        recomputed = "" if self.way.recompute == "nothing" else f"recomputing {self.way.recompute}"
        words = ("fully sharded" * (self.way.shards > 1), recomputed, "bf16 tables" * self.way.bf16_tables)
        return ", ".join(filter(None, words)) or "plain"


def find_fit(
    shape: GPTConfig, rows: int, at_once: int, way: Way, room: float, correction: float = 1.0, least: int = 1
) -> Fit:
    """The cheapest way to compute a step of `rows` rows on each process within `room` bytes, `least` to `at_once` of
    them in a microbatch; where none fits, the one that takes least.

    What costs time comes last: smaller microbatches, then recomputing elementwise code, then blocks, then tables in
    bf16. But a GPU should get ENOUGH_TOKENS at once, and recomputes rather than to get fewer. Where nothing fits,
    weights and gradients are cut among `most_shards`. `correction` multiplies activations and logits, by what was
    measured.
    """
    # Compiled, products cannot be told from the rest; and what several processes exchange is of one type.
    kinds = [kind for kind in RECOMPUTING if not (way.is_compiled and kind == "elementwise")]
    can_round = way.on_gpu and way.world_size == 1 and way.dtype != torch.float32
    tried: list[Fit] = []
    for tables, kind in ((tables, kind) for tables in (False, True)[: 1 + can_round] for kind in kinds):
        one = replace(way, recompute=kind, bf16_tables=tables)
        for size in (size for size in range(min(rows, at_once), least - 1, -1) if rows % size == 0):
            memory = step_memory(shape, size, rows // size, one)
            needed = memory["peak"] if way.on_gpu else resident_for(memory["peak"])
            more = (correction - 1) * (memory["activations"] + memory["logits"])
            tried.append(Fit(size, one, memory, needed, needed + more <= room))
            if tried[-1].fits:
                break
    enough = max(1, ENOUGH_TOKENS // shape.context_length) if way.on_gpu else 1
    fitting = [fit for fit in tried if fit.fits]
    if not fitting and way.most_shards > way.shards:
        cut = replace(way, shards=way.most_shards)
        return find_fit(shape, rows, at_once, cut, room, correction, least)
    if not fitting:
        return min(tried, key=lambda fit: fit.needed)
    return max(fitting, key=lambda fit: min(fit.rows, enough))  # the first of several


def most_at_once(shape: GPTConfig) -> int:
    """Rows of a microbatch on a GPU that has room."""
    return max(1, MOST_TOKENS // shape.context_length)


def free_for_training(runtime: Runtime) -> float:
    """Bytes that each process may still take: those of the one that has least."""
    device = runtime.device
    free = free_memory(device) * SHARE_OF_FREE_MEMORY / runtime.world_size
    if device.type == "cuda":  # its own, and what torch holds and does not use is free, too
        free = free_memory(device) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return -max_number(-free, runtime)


def fit_plan(
    model: GPT,
    plan: Plan,
    runtime: Runtime,
    notice: Callable[[str], object],
    *,
    is_asked: bool = False,
    compute_loss: Callable[[GPT, Batch, float], Tensor] | None = None,
) -> Plan:
    """The plan in microbatches that fit into memory, with the model made to recompute what has to be: the same steps of
    the same rows. On a CPU those of the plan stay as they are where they fit; a GPU gets as many rows as help.

    `is_asked`: a person chose the rows, or the run began with them: a CPU takes them, a GPU at most as many. With a
    `compute_loss`, a GPU on which this was never measured runs one microbatch first. Called before the model's
    optimizer is made.
    """
    shape, device, rows = plan.model, runtime.device, plan.rows_per_step // plan.world_size
    on_gpu = device.type == "cuda"
    weights = sum(weight.nbytes for weight in model.parameters()) // model.shards
    is_compiled = model.blocks[0]._compiled_call_impl is not None
    way = Way(runtime.compute_dtype, on_gpu, is_compiled, world_size=runtime.world_size, shards=model.shards)
    room = free_for_training(runtime) + weights
    most = most_at_once(shape) if on_gpu and not is_asked else plan.rows_per_microbatch
    # A run that resumes with fewer rows than it began with would compute other last digits.
    fit = find_fit(shape, rows, most, way, room, least=most if is_asked and not on_gpu else 1)
    if on_gpu:
        off = max_number(_correction(model, fit, device, compute_loss), runtime)
        fit = find_fit(shape, rows, most, way, room, off)
    if fit.tier != "plain":
        notice(f"to fit into memory: {fit.tier}, {fit.rows} rows at once")
    if not fit.fits:
        needed = f"{format_bytes(fit.needed)} are needed and {format_bytes(room)} are there"
        notice(f"by calculation a step does not fit, {needed}; trying all the same")
    model.run_block = RECOMPUTING[fit.way.recompute]
    if fit.way.bf16_tables:
        for table in (model.embedding, *model.value_embeddings.values()):
            table.to(torch.bfloat16)
    peak = fit.memory["peak"]
    foreseen = peak - fit.memory["workspace"] if on_gpu else resident_with(peak) - weights
    return replace(
        plan, rows_per_microbatch=fit.rows, accumulation=rows // fit.rows, foreseen_memory_bytes=foreseen
    )


def _correction(
    model: GPT,
    fit: Fit,
    device: torch.device,
    compute_loss: Callable[[GPT, Batch, float], Tensor] | None,
) -> float:
    """What forward and backward of one microbatch take on this GPU, as a share of what was foreseen: measured once."""
    path, name = cache_folder() / CORRECTIONS, f"{torch.cuda.get_device_name(device)}, {fit.way}"
    known: dict[str, float] = {}
    with suppress(OSError, ValueError):
        known = json.loads(path.read_text("utf-8"))
    if name in known or compute_loss is None or fit.way.shards > 1:  # processes know different ones
        return known.get(name, 1.0)
    model.run_block = RECOMPUTING[fit.way.recompute]
    ids = torch.zeros((fit.rows, model.config.context_length), dtype=torch.int64)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with suppress(torch.OutOfMemoryError):  # what was taken until then says enough
        compute_loss(model, Batch(ids, ids).to(device), 1.0).backward()
    model.zero_grad()
    found = round((torch.cuda.max_memory_allocated(device) - before) / fit.memory["batch"], 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(known | {name: found}, indent=1) + "\n")
    return found


# ---- when memory runs out all the same ----


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no memory. On a CPU that has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


PATIENCE = 1000
"""Steps without an overflow after which the scale of the loss is tried twice as large."""


@dataclass
class Notch:
    """How much of a step is in memory at once. Where memory runs out it is lowered, for the rest of the run: half the
    rows at once, and where it is a single one, more is recomputed in the backward pass. The results are the same but
    for the order of sums."""

    notice: Callable[[str], object] = str
    """Gets one line where something was lowered."""
    pieces: int = 1
    """Into which every microbatch is cut."""
    is_new: bool = False
    """Lowered in this step."""
    loss_scale: float = 2.0**16
    """In float16, what the loss is multiplied by so that gradients do not vanish below its smallest number
    (Micikevicius et al. 2018, arXiv:1710.03740): half after an overflow, twice after PATIENCE steps without."""
    good_steps: int = 0

    def lower(self, model: GPT, rows: int) -> None:
        """Take the next notch; `rows` is those of the largest microbatch. Raises UserError after the last one."""
        ways = list(RECOMPUTING.values())
        if self.pieces < rows:
            self.pieces *= 2
        elif model.run_block is not ways[-1]:
            model.run_block = ways[ways.index(model.run_block) + 1]
        else:
            raise UserError(
                "the memory does not hold one row of training, even with all blocks recomputed; `chatsmith plan` says "
                "what fits: fewer layers, shorter rows, a smaller vocabulary, or more GPUs"
            )
        self.is_new = True

    def can_update(self, model: GPT, runtime: Runtime) -> bool:
        """Whether the gradients of a step in float16 are finite on all processes; adapts the scale of the next one."""
        sums = torch.stack([w.grad.norm() for w in model.parameters() if w.grad is not None])
        is_good = sum_number(float(not sums.isfinite().all()), runtime) == 0
        self.good_steps = self.good_steps + 1 if is_good else 0
        if not is_good or self.good_steps % PATIENCE == 0:
            self.loss_scale *= 2.0 if is_good else 0.5
        return is_good

    def agree(self, model: GPT, runtime: Runtime) -> None:
        """Take the lowest notch of all processes, and say so. All call it, once a step."""
        if sum_number(float(self.is_new), runtime) == 0:
            return
        ways, most = list(RECOMPUTING.values()), 2**20
        lowest = max_number(self.pieces + most * ways.index(model.run_block), runtime)
        recomputed, self.pieces = divmod(int(lowest), most)
        model.run_block, self.is_new = ways[recomputed], False
        more = "" if recomputed == 0 else f", recomputing {list(RECOMPUTING)[recomputed]}"
        self.notice(f"memory ran out; from here on each microbatch is computed in {self.pieces} pieces{more}")
