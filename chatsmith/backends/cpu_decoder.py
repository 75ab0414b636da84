"""C forward pass for small decode batches on a CPU; excludes the LM head.

It is given a view of the model (see `quantized`) and the key-value pool, and reads both where they are. Every token is
a row of its own, which looks up the keys and values of those before it in the pool, also of those in the same chunk.
So it takes short chunks, too: a short prompt, the rest of one behind a cached prefix, a tool's output. Long ones go
through the model itself, whose products are made for many rows.
"""

import math

import torch
from torch import Tensor, nn

from chatsmith.backends.native import LANES, STORED_AS, Layer, Library, Network, Step, Weights
from chatsmith.backends.quantized import Int8Linear, StreamedLinear, products
from chatsmith.engine.kv_cache import KVCache
from chatsmith.engine.paged_attention import packed_tokens, padded_table
from chatsmith.engine.scheduler import Chunk
from chatsmith.model.config import GATE_CHANNELS
from chatsmith.model.gpt import GPT, Block

MOST_TOKENS = 128
"""Longer chunks go through torch's products, which use each weight they read more often. Measured on two cores with
bf16 (docs/lab-log.md): C takes 0.50 of torch's time for 128 tokens at the kindergarten's size, 0.84 at depth 6, 0.92 at
depth 12, and less of it for fewer; in fp32, at depth 6, 0.56."""

MOST_ROWS = 512
"""Room for the tokens of short chunks."""


class CPUDecoder:
    """The network in C over one model and one pool. It sees weights that change in place, not new tensors."""

    name = "C"

    def __init__(self, library: Library, view: GPT, cache: KVCache, max_rows: int, max_blocks: int) -> None:
        self._library = library
        self._config = view.config
        self._max_rows = max_rows
        # Everything that C points into is held here: memory that Python forgot would be given to others.
        self._held: list[object] = [view, cache]
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._network = self._lay_out(view, cache)
        rounded_up = math.ceil(max_rows / LANES) * LANES
        width, heads = view.config.model_dim, view.config.num_heads
        wide = view.config.mlp_dim * (2 if view.config.is_portable else 1)
        sizes = {
            "x": width,
            "embedding": width,
            "bigram": width,
            "normed": width,
            "qkv": max(3 * width, wide // 2),
        }
        sizes |= {"wide": wide, "scores": heads * max_blocks * cache.block_size}
        self._workspace = {name: torch.zeros(max_rows, size) for name, size in sizes.items()}
        self._workspace["halves"] = torch.zeros(
            rounded_up, max(width, view.config.mlp_dim), dtype=torch.bfloat16
        )

    @staticmethod
    def is_possible(view: GPT, cache: KVCache) -> bool:
        """Does the C support every size and type?"""
        return (
            cache.dtype in (torch.float32, torch.bfloat16)
            and view.embedding.weight.dtype in (torch.float32, torch.bfloat16)
            and view.config.head_dim % LANES == view.config.mlp_dim % LANES == 0
            and all(_weights_of(linear) is not None for block in view.blocks for linear in products(block))
        )

    def num_taken(self, chunks: list[Chunk]) -> int:
        """How many of a step's chunks, the first, it takes. They are packed by length, the shortest first."""
        room = self._max_rows
        for index, chunk in enumerate(chunks):
            room -= chunk.length
            if chunk.length > MOST_TOKENS or room < 0:
                return index
        return len(chunks)

    def parts(self, chunks: list[Chunk]) -> list[list[Chunk]]:
        """All of a step's chunks, in parts that there is room for; longer ones are cut."""
        parts: list[list[Chunk]] = [[]]
        room = self._max_rows
        for sequence, start, end in chunks:
            while start < end:
                cut = min(end, start + room)
                parts[-1].append(Chunk(sequence, start, cut))
                room -= cut - start
                start = cut
                if not room:
                    parts.append([])
                    room = self._max_rows
        return [part for part in parts if part]

    def hidden(self, chunks: list[Chunk]) -> Tensor:
        """Hidden states (R, C) of the packed tokens of chunks; their keys and values go into the pool."""
        numbers = torch.tensor(packed_tokens(chunks))
        rows, padded = numbers.shape[1], padded_table([chunk.sequence.blocks for chunk in chunks])
        if rows > len(chunks):
            padded = padded.repeat_interleave(torch.tensor([chunk.length for chunk in chunks]), dim=0)
        step = Step(rows, padded.shape[1], *(row.data_ptr() for row in numbers), padded.data_ptr())
        for name, workspace in self._workspace.items():
            setattr(step, name, workspace.data_ptr())
        self._library.step(self._network, step)
        return self._workspace["normed"][:rows].clone()

    def refresh(self) -> None:
        """Copy the small parameters that C reads as float32 copies; all others it reads where they are."""
        for copy, parameter in self._copies:
            copy.copy_(parameter)

    def _lay_out(self, view: GPT, cache: KVCache) -> Network:
        config = view.config
        bigram = Weights() if view.bigram is None else Weights.of(view.bigram.weight)
        layers = (Layer * config.num_layers)(
            *(self._layer(view, index, cache) for index in range(config.num_layers))
        )
        return Network(
            config.num_layers,
            config.model_dim,
            config.num_heads,
            config.head_dim,
            GATE_CHANNELS,
            config.bigram_buckets,
            cache.block_size,
            STORED_AS[cache.dtype],
            config.is_portable,
            Weights.of(view.embedding.weight),
            bigram,
            self._floats(view.smear_gate.weight),
            self._floats(view.smear_strength),
            self._floats(view.cos),
            self._floats(view.sin),
            layers,
        )

    def _layer(self, view: GPT, index: int, cache: KVCache) -> Layer:
        block = view.blocks[index]
        assert isinstance(block, Block)
        values, gate = Weights(), None
        if block.attention.value_gate is not None:
            table = view.value_embeddings[str(index)]
            assert isinstance(table, nn.Embedding)
            values, gate = Weights.of(table.weight), self._floats(block.attention.value_gate.weight)
        keys_pool, values_pool = cache.layer(index)
        return Layer(
            *(_weights_of(linear) for linear in products(block)),
            values,
            gate,
            self._floats(view.residual_scalars[index]),
            view.config.windows[index],
            keys_pool.data_ptr(),
            values_pool.data_ptr(),
        )

    def _floats(self, tensor: Tensor) -> int:
        """The address of a small parameter in float32: its own where it is stored so, else that of a copy."""
        floats = tensor.detach().float().contiguous()
        self._held.append(floats)
        if floats.data_ptr() != tensor.data_ptr():
            self._copies.append((floats, tensor.detach()))
        return floats.data_ptr()


def _weights_of(linear: nn.Module) -> Weights | None:
    return linear.weights if isinstance(linear, StreamedLinear | Int8Linear) else None
