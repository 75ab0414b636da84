"""How a step is computed: here plainly, by the model itself through torch. `chatsmith.backends` has faster ways.

The engine asks a backend for nothing but memory for keys and values, hidden states, logits and, where a request is
constrained, the ids that may come next. What a faster backend computes is tested against this one.
"""

import copy
from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from chatsmith.engine.kv_cache import KVCache
from chatsmith.engine.paged_attention import PagedAttention, StepAttention, packed_tokens
from chatsmith.engine.request import Constraint, RequestError
from chatsmith.engine.scheduler import Chunk
from chatsmith.model.gpt import GPT
from chatsmith.text.tokenizer import Tokenizer


class Guide(Protocol):
    """Follows one completion through its constraint."""

    @property
    def failure(self) -> str | None:
        """Why no id at all may follow, if so."""

    def allowed(self) -> Tensor:
        """Which ids may come next: (V,) bool, on the CPU."""

    def push(self, id: int) -> None:
        """Go on by one id of those allowed."""


class Backend:
    """The model, its key-value pool, and the forward pass of a step."""

    is_exact = False
    """Whether a token's numbers are the same bit for bit whatever is computed beside it."""

    adapters: Collection[str] = ()
    """Names of what can change the model's weights for a request."""

    def __init__(self, model: GPT) -> None:
        self.name = "torch"
        """What single tokens go through."""
        self.config = model.config
        self.device = model.embedding.weight.device
        self.dtype = model.compute_dtype or model.embedding.weight.dtype
        self.model = shared_copy(model)

    def allocate(self, num_blocks: int, block_size: int, max_running: int, tokens_per_step: int) -> None:
        """Make the key-value pool, for steps of at most so many sequences and tokens."""
        self.cache = KVCache(self.config, num_blocks, block_size, self.dtype, self.device)
        self.attention = self.make_attention(max_running)

    def make_attention(self, max_running: int) -> StepAttention:
        """Attention over the cache."""
        return PagedAttention(self.config, self.cache, max_running)

    def forward(self, chunks: list[Chunk]) -> Tensor:
        """Hidden states (N, C) of the tokens of chunks, packed in this order; keys and values go into the pool."""
        self.attention.plan(chunks)
        packed = torch.tensor(packed_tokens(chunks), device=self.device)[:, None]
        return self.model(packed[0], previous=packed[1], positions=packed[2], attend=self.attention)[0]

    def weights_changed(self) -> None:
        """Take over the model's new weights, which were changed in place: this backend reads the very same."""

    def guide(self, constraint: Constraint, tokenizer: Tokenizer) -> Guide:
        """What follows a completion through `constraint`. Raises RequestError if the constraint makes no sense."""
        raise RequestError("this engine follows no constraints", parameter="constraint")


def shared_copy(model: GPT) -> GPT:
    """The same network over the same parameters, without what was compiled for training.

    Compiled blocks would be compiled anew for every number of tokens that a step packs.
    """
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
