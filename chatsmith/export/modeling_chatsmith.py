"""A chatsmith model for the transformers library. This file stands in the model's folder and needs only that library.

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)

Tensors have the names and shapes of chatsmith's own bundle. Embeddings look at the token before as well (smear,
bigram): `generate` passes it on as `previous_ids`; whoever calls the model with a cache passes it likewise.

Shapes: B batch, T time, K keys, C channels, H heads, D head dim, V vocab.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

GATE_CHANNELS = 16
SCORE_GAIN = 1.44
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""What this version of the library calls the keys and values it hands from step to step."""


class ChatsmithConfig(PretrainedConfig):
    """The architecture: chatsmith's own numbers (see its model/config.py), and the names that the library looks for."""

    model_type = "chatsmith"

    def __init__(
        self,
        vocab_size=8192,
        context_length=512,
        num_layers=6,
        num_heads=6,
        head_dim=64,
        windows=(),
        value_embedding_layers=(),
        bigram_buckets=0,
        rope_base=10_000.0,
        softcap=15.0,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.context_length = self.max_position_embeddings = context_length
        self.num_layers = self.num_hidden_layers = num_layers
        self.num_heads = self.num_attention_heads = self.num_key_value_heads = num_heads
        self.head_dim = head_dim
        self.hidden_size = num_heads * head_dim
        self.windows = list(windows) or [0] * num_layers
        self.value_embedding_layers = list(value_embedding_layers)
        self.bigram_buckets = bigram_buckets
        self.rope_base = rope_base
        self.softcap = softcap
        kwargs["tie_word_embeddings"] = False
        super().__init__(**kwargs)


class Linear(nn.Module):
    """y = x W^T; `rows` may be several matrices side by side."""

    def __init__(self, columns, *rows):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*rows, columns))

    def forward(self, x):
        return F.linear(x, self.weight.flatten(0, -2))


def norm(x):
    return F.rms_norm(x, (x.shape[-1],))


def rotate(x, cos, sin):
    """Turn the pairs (x_i, x_{i + D/2}) of x (B, T, H, D) by the angles of cos, sin (B, T, 1, D/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.num_heads = layer, config.num_heads
        self.scale = SCORE_GAIN / config.head_dim**0.5
        self.qkv = Linear(config.hidden_size, 3, config.hidden_size)
        self.out = Linear(config.hidden_size, config.hidden_size)
        has_values = layer in config.value_embedding_layers
        self.value_gate = Linear(GATE_CHANNELS, config.num_heads) if has_values else None

    def forward(self, x, values, cos, sin, mask, cache):
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
        if self.value_gate is not None:
            gate = 2 * torch.sigmoid(self.value_gate(x[..., :GATE_CHANNELS]))
            v = v + gate[..., None] * values.view(v.shape)
        q, k, v = (t.transpose(1, 2) for t in (norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin)), v))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.out(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = Linear(config.hidden_size, 4 * config.hidden_size)
        self.down = Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, x):
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, values, cos, sin, mask, cache):
        x = x + self.attention(norm(x), values, cos, sin, mask, cache)
        return x + self.mlp(norm(x))


class ChatsmithForCausalLM(PreTrainedModel, GenerationMixin):
    """The network with its head."""

    config_class = ChatsmithConfig
    _no_split_modules = ("Block",)
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.smear_gate = Linear(GATE_CHANNELS, 1)
        self.smear_strength = nn.Parameter(torch.empty(1))
        self.bigram = nn.Embedding(config.bigram_buckets, width) if config.bigram_buckets else None
        self.value_embeddings = nn.ModuleDict(
            {str(layer): nn.Embedding(config.vocab_size, width) for layer in config.value_embedding_layers}
        )
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.residual_scalars = nn.Parameter(torch.empty(config.num_layers, 3))
        self.head = Linear(width, config.vocab_size)
        self.post_init()

    def _init_weights(self, module):
        """Weights come from the folder; training begins in chatsmith."""

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head

    def prepare_inputs_for_generation(self, input_ids, *args, **kwargs):
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        before = F.pad(input_ids[:, :-1], (1, 0), value=-1)
        inputs["previous_ids"] = before[:, -inputs["input_ids"].shape[1] :]
        return inputs

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        cache=None,
        previous_ids=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        **kwargs,
    ):
        """Logits (B, T, V) of ids (B, T).

        `attention_mask` (B, K) is 0 for padding, wherever it stands; `previous_ids` (B, T) holds the id before each,
        -1 where there is none, and is needed when a cache holds what came before.
        """
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache()
        past = 0 if cache is None else int(cache.get_seq_length())
        length = input_ids.shape[1]
        if previous_ids is None:
            if past:
                raise ValueError("with a cache, pass previous_ids (B, T): the id before each of input_ids")
            previous_ids = F.pad(input_ids[:, :-1], (1, 0), value=-1)
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("attention_mask must be (B, K): 1 for tokens, 0 for padding")
        places = torch.arange(past, past + length, device=input_ids.device)  # (T,)
        is_token = torch.ones(1, past + length, dtype=torch.bool, device=input_ids.device)
        if attention_mask is not None:
            is_token = attention_mask.bool()
            # What stands before the first token is padding, and no token.
            before = F.pad(attention_mask, (1, 0))[:, past : past + length]
            previous_ids = torch.where(before.bool(), previous_ids, -1)
            if position_ids is None:
                position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, past : past + length]
        if position_ids is None:
            position_ids = places[None]
        hidden = self._hidden(input_ids, previous_ids, position_ids, places, is_token, cache)
        kept = hidden[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else hidden[:, logits_to_keep]
        raw = self.head(kept)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        logits = self.config.softcap * torch.tanh(raw / self.config.softcap)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})

    def _hidden(self, ids, previous, positions, places, is_token, cache):
        """Hidden states (B, T, C). `places` (T,) count from the beginning of the row, `is_token` (B or 1, K)."""
        config = self.config
        dtype = self.embedding.weight.dtype
        # Angles in float64, as chatsmith computes them; kept in float32 at least until they are used.
        pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
        angles = positions.cpu().double()[..., None] / config.rope_base**pairs
        cos, sin = (x.float().to(ids.device, dtype)[:, :, None] for x in (angles.cos(), angles.sin()))
        keys = torch.arange(is_token.shape[1], device=ids.device)
        distance = places[:, None] - keys  # (T, K)
        masks = {}
        for window in set(config.windows):
            sees = (distance >= 0) & (distance < window) if window else distance >= 0
            # Padding sees itself, or its scores would have no maximum.
            masks[window] = ((sees & is_token[:, None]) | (distance == 0))[:, None]
        embedding = norm(self.embedding(ids))
        gate = self.smear_strength * torch.sigmoid(self.smear_gate(embedding[..., :GATE_CHANNELS]))
        smeared = norm(self.embedding(previous.clamp(min=0)))
        embedding = embedding + (previous >= 0)[..., None] * gate * smeared
        x = embedding
        for layer, block in enumerate(self.blocks):
            scalars = self.residual_scalars[layer]
            x = scalars[0] * x + scalars[1] * embedding
            if self.bigram is not None:
                mixed = (ids + 1) * 2_654_435_761 + (previous + 1) * 40_503
                x = x + scalars[2] * self.bigram((mixed ^ (mixed >> 15)) % config.bigram_buckets)
            values = self.value_embeddings[str(layer)](ids) if str(layer) in self.value_embeddings else None
            x = block(x, values, cos, sin, masks[config.windows[layer]], cache)
        return norm(x)
