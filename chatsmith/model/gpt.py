"""The network: token ids to hidden states to logits. It neither trains, samples, caches nor loads itself.

A GPT in the modern small-model recipe (nanochat and modded-nanogpt measured most of these; sources beside each):
rotary positions, queries and keys normalized, squared ReLU, no biases and no norm gains, an untied head with
softcapped logits, the embedding mixed back into every block, and three cheap ways to use the token before.

Shapes: B batch, T time, C channels (width), H heads, D head dim, V vocab, L layers.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatsmith.model.attention import Attend, causal_attention
from chatsmith.model.config import GATE_CHANNELS, GPTConfig


def rotary_table(length: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position's angles, each (length, head_dim / 2), in float64.

    Rotary position embedding (Su et al. 2021, arXiv:2104.09864), half-split pairing as in GPT-NeoX. Float64 because
    float32 angles of late positions lose digits; the caller casts to what it computes in."""
    wavelengths = base ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] / wavelengths
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + D/2}) of x (B, T, H, D) by its position's angle; cos, sin (B or 1, T, D/2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class Linear(nn.Module):
    """y = x W^T, without bias. The master weight keeps its precision and is cast to x's type at each use.

    `rows` may be a tuple: (3, C) is three matrices side by side, kept apart for the optimizer.
    """

    product: Callable[[Tensor, Tensor], Tensor] = staticmethod(F.linear)
    """How x (..., n) is multiplied with W (m, n); training may do it in fp8 (backends/fp8.py)."""

    def __init__(self, columns: int, *rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*rows, columns))

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight.flatten(0, -2).to(x.dtype))


def norm(x: Tensor) -> Tensor:
    """Scale each position to unit root mean square, without a gain (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    return F.rms_norm(x, (x.shape[-1],))


class Attention(nn.Module):
    """Multi-head attention with normalized queries and keys (Dehghani et al. 2023, arXiv:2302.05442)."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.window = config.windows[layer]
        self.qkv = Linear(config.model_dim, 3, config.model_dim)
        self.out = Linear(config.model_dim, config.model_dim)
        # Value embeddings (modded-nanogpt, after "value residual learning", arXiv:2410.17897): each token adds a
        # vector of its own to what it offers others, gated by head.
        has_values = layer in config.value_embedding_layers
        self.value_gate = Linear(GATE_CHANNELS, config.num_heads) if has_values else None

    def forward(
        self, x: Tensor, values: Tensor | None, cos: Tensor, sin: Tensor, attend: Attend | None
    ) -> Tensor:
        shape = (*x.shape[:2], self.num_heads, self.head_dim)  # (B, T, H, D)
        q, k, v = (part.view(shape) for part in self.qkv(x).chunk(3, dim=-1))
        if self.value_gate is not None and values is not None:
            gate = 2 * torch.sigmoid(self.value_gate(x[..., :GATE_CHANNELS]))  # (B, T, H), 1 at the start
            v = v + gate[..., None] * values.view(shape)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        y = causal_attention(q, k, v, self.window) if attend is None else attend(self.layer, q, k, v)
        return self.out(y.flatten(2))


class MLP(nn.Module):
    """Two layers with a squared ReLU between (Primer, So et al. 2021, arXiv:2109.08668); in portable models with SwiGLU
    (Shazeer 2020, arXiv:2002.05202), whose gate is the first matrix of `up`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.is_gated = config.is_portable
        rows = (2, config.mlp_dim) if self.is_gated else (config.mlp_dim,)
        self.up = Linear(config.model_dim, *rows)
        self.down = Linear(config.mlp_dim, config.model_dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_gated:
            gate, x = self.up(x).chunk(2, dim=-1)
            return self.down(F.silu(gate) * x)
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """One layer. `scalars` (3,) weigh the stream, the token embedding and the bigram embedding on the way in."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        bigram: Tensor | None,
        values: Tensor | None,
        scalars: Tensor,
        cos: Tensor,
        sin: Tensor,
        attend: Attend | None = None,
    ) -> Tensor:
        scalars = scalars.to(x.dtype)
        x = scalars[0] * x + scalars[1] * embedding
        if bigram is not None:
            x = x + scalars[2] * bigram
        x = x + self.attention(norm(x), values, cos, sin, attend)
        return x + self.mlp(norm(x))


def straight(block: nn.Module, *inputs: Any) -> Tensor:
    """Call a block, and keep what its backward pass needs."""
    return block(*inputs)


class GPT(nn.Module):
    """The whole network. Weights are undefined until `init_weights` or a bundle fills them."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.model_dim
        self.embedding = nn.Embedding(config.vocab_size, width)
        # Smear (modded-nanogpt): a little of the previous token's embedding leaks into this one, by a gate.
        self.smear_gate = Linear(GATE_CHANNELS, 1)
        self.smear_strength = nn.Parameter(torch.empty(1))
        # A hashed table of token pairs (modded-nanogpt): what a pair means, without a layer of attention.
        self.bigram = nn.Embedding(config.bigram_buckets, width) if config.bigram_buckets else None
        self.value_embeddings = nn.ModuleDict(
            {str(layer): nn.Embedding(config.vocab_size, width) for layer in config.value_embedding_layers}
        )
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.residual_scalars = nn.Parameter(torch.empty(config.num_layers, 3))
        self.head = Linear(width, config.vocab_size)
        if config.is_portable:
            _fix(self.smear_gate, "weight", torch.zeros(1, GATE_CHANNELS))
            _fix(self, "smear_strength", torch.zeros(1))
            _fix(self, "residual_scalars", torch.tensor([1.0, 0.0, 0.0]).repeat(config.num_layers, 1))
        cos, sin = rotary_table(config.context_length, config.head_dim, config.rope_base)
        # Computed in float64, kept in float32: Apple's GPUs know no float64.
        self.register_buffer("cos", cos.float(), persistent=False)
        self.register_buffer("sin", sin.float(), persistent=False)
        self.compute_dtype: torch.dtype | None = None
        """What activations are computed in; None: the type of the weights."""
        self.run_block: Callable[..., Tensor] = straight
        """How a block is called; training may keep less and recompute it (`train.step.recomputing`)."""
        self.new_optimizer: Callable[..., Any] | None = None
        """What makes its optimizer, where its weights are cut among processes (`backends/fully_sharded.py`)."""
        self.shards = 1
        """Among how many they are."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GPT":
        """What `to` and its kin do, but for the angles, which never become less exact than float32.

        In bfloat16 the positions 256 and 257 would be one.
        """
        exact = self.cos, self.sin
        super()._apply(fn, recurse)
        if self.cos.dtype.itemsize < torch.float32.itemsize:
            self.cos, self.sin = (table.to(self.cos.device) for table in exact)
        return self

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the starting weights (on CPU, then copied, so that every device starts from the same numbers).

        Matrices that write into the stream start at zero, so each block starts as the identity (as in nanochat);
        those that read it start uniform with standard deviation 1/sqrt(C).
        """
        width = self.config.model_dim

        def normal(parameter: Tensor, deviation: float) -> None:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)

        def uniform(parameter: Tensor, deviation: float) -> None:
            bound = 3**0.5 * deviation
            parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)

        normal(self.embedding.weight, 0.8)
        normal(self.head.weight, 0.001)
        if not self.config.is_portable:
            self.smear_gate.weight.zero_()
            self.smear_strength.zero_()
            self.residual_scalars.copy_(torch.tensor([1.0, 0.1, 0.1]).expand_as(self.residual_scalars))
        if self.bigram is not None:
            self.bigram.weight.zero_()
        for table in self.value_embeddings.values():
            assert isinstance(table, nn.Embedding)
            uniform(table.weight, width**-0.5)
        for block in self.blocks:
            assert isinstance(block, Block)
            uniform(block.attention.qkv.weight, width**-0.5)
            uniform(block.mlp.up.weight, 0.4 * width**-0.5)
            block.attention.out.weight.zero_()
            block.mlp.down.weight.zero_()
            if block.attention.value_gate is not None:
                block.attention.value_gate.weight.zero_()

    def forward(
        self,
        tokens: Tensor,
        *,
        previous: Tensor | None = None,
        positions: Tensor | None = None,
        attend: Attend | None = None,
    ) -> Tensor:
        """Hidden states (B, T, C), normalized for `logits`, of tokens (B, T).

        `previous` (B, T) holds the id before each token, -1 where there is none; by default each row's own tokens
        shifted by one. `positions` (B, T) default to 0..T-1. `attend` replaces the attention over the row itself:
        an engine that caches keys and values passes all three. Everything else depends on (token, previous) alone.
        Raises ValueError for a row longer than the context.
        """
        length = tokens.shape[1]
        if positions is None and length > self.config.context_length:
            raise ValueError(
                f"{length} tokens do not fit the model's context of {self.config.context_length}"
            )
        if previous is None:
            previous = F.pad(tokens[:, :-1], (1, 0), value=-1)
        dtype = self.compute_dtype or self.embedding.weight.dtype
        cos, sin = (
            (table[None, :length] if positions is None else table[positions]).to(dtype)
            for table in (self.cos, self.sin)
        )
        embedding = self._embed(tokens, previous, dtype)
        bigram = self._bigram_embedding(tokens, previous, dtype)
        # Were it the same tensor, the first block would be compiled for itself.
        x = embedding.view_as(embedding)
        for layer, block in enumerate(self.blocks):
            values = self._value_embedding(layer, tokens, dtype)
            scalars = self.residual_scalars[layer]
            x = self.run_block(block, x, embedding, bigram, values, scalars, cos, sin, attend)
        return norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Softcapped logits (..., V) of hidden states (..., C), in float32 or better (Gemma 2, arXiv:2408.00118)."""
        raw = self.head(hidden)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        softcap = self.config.softcap
        if raw.requires_grad:
            return softcap * torch.tanh(raw / softcap)
        # The same numbers, in one large tensor instead of three.
        return raw.div_(softcap).tanh_().mul_(softcap)

    def compile_blocks(self) -> None:
        """Compile the block once for all layers (its code is the same); the embeddings stay eager.

        One region instead of the whole network keeps compilation to seconds, and a compiled embedding's gradient
        adds atomically, so that two runs would differ.
        """
        for block in self.blocks:
            block.compile(dynamic=False)

    def _embed(self, tokens: Tensor, previous: Tensor, dtype: torch.dtype) -> Tensor:
        x = norm(self.embedding(tokens).to(dtype))
        before = norm(self.embedding(previous.clamp(min=0)).to(dtype))
        gate = self.smear_strength.to(dtype) * torch.sigmoid(self.smear_gate(x[..., :GATE_CHANNELS]))
        return x + (previous >= 0)[..., None] * gate * before

    def _bigram_embedding(self, tokens: Tensor, previous: Tensor, dtype: torch.dtype) -> Tensor | None:
        if self.bigram is None:
            return None
        return self.bigram(bigram_buckets(tokens, previous, self.config.bigram_buckets)).to(dtype)

    def _value_embedding(self, layer: int, tokens: Tensor, dtype: torch.dtype) -> Tensor | None:
        if str(layer) not in self.value_embeddings:
            return None
        return self.value_embeddings[str(layer)](tokens).to(dtype)


def _fix(module: nn.Module, name: str, value: Tensor) -> None:
    """Make a parameter a constant: neither trained nor stored."""
    delattr(module, name)
    module.register_buffer(name, value, persistent=False)


def bigram_buckets(tokens: Tensor, previous: Tensor, num_buckets: int) -> Tensor:
    """The table row of each (previous, token) pair: a multiplicative hash (Knuth), the same on every device.

    Products stay below 2^63 for ids below 2^31; a missing previous token (-1) has rows of its own.
    """
    mixed = (tokens + 1) * 2_654_435_761 + (previous + 1) * 40_503
    return (mixed ^ (mixed >> 15)) % num_buckets
