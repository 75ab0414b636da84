"""A portable model as `Qwen3ForCausalLM`: the same function in that network's tensors and numbers.

Ours against Qwen3 (arXiv:2505.09388; transformers' modeling_qwen3): norms without gains are norms with gains of one;
the token table is normed once and for all; angles turn the other way, so the second half of each head's rows in Wq and
Wk changes sign (with S = diag(1, -1): S R(a) S = R(-a), on both sides of the product); queries and keys normed before
the turn instead of after it are the same, for a turn keeps the norm; and the gain on scores becomes the gain of the
queries' norm.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chatsmith.bundle import Bundle
from chatsmith.model.attention import SCORE_GAIN
from chatsmith.model.config import GPTConfig
from chatsmith.runtime.errors import UserError

EPSILON = torch.finfo(torch.float32).eps
"""What F.rms_norm adds in float32."""


Pairs = dict[str, tuple[str, int | None, Tensor | None]]


def correspondence(config: GPTConfig) -> tuple[Pairs, dict[str, Tensor]]:
    """Which tensor of ours each of Qwen3's is: by its name there, our name, which of those that we keep stacked
    (None: not stacked), and the signs (C, 1) of its rows, if they change; and the gains that are Qwen3's alone."""
    head = torch.ones(config.head_dim)
    head[config.head_dim // 2 :] = -1
    turn = head.repeat(config.num_heads)[:, None]  # (C, 1)
    pairs: Pairs = {
        "model.embed_tokens.weight": ("embedding.weight", None, None),
        "lm_head.weight": ("head.weight", None, None),
    }
    ones = torch.ones(config.model_dim)
    gains = {"model.norm.weight": ones}
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        for index, (name, signs) in enumerate((("q", turn), ("k", turn), ("v", None))):
            pairs[f"{theirs}.self_attn.{name}_proj.weight"] = (f"{ours}.attention.qkv.weight", index, signs)
        pairs[f"{theirs}.self_attn.o_proj.weight"] = (f"{ours}.attention.out.weight", None, None)
        for index, name in enumerate(("gate", "up")):
            pairs[f"{theirs}.mlp.{name}_proj.weight"] = (f"{ours}.mlp.up.weight", index, None)
        pairs[f"{theirs}.mlp.down_proj.weight"] = (f"{ours}.mlp.down.weight", None, None)
        gains |= {f"{theirs}.{name}_layernorm.weight": ones for name in ("input", "post_attention")}
        for name, gain in (("q", SCORE_GAIN), ("k", 1.0)):
            gains[f"{theirs}.self_attn.{name}_norm.weight"] = torch.full((config.head_dim,), gain)
    return pairs, gains


def qwen3_weights(bundle: Bundle) -> dict[str, Tensor]:
    """The tensors of a portable bundle (float32) by their names in transformers. Raises UserError for any that is not
    known here, so that none is lost."""
    given = dict(bundle.model.state_dict())
    table = given["embedding.weight"]
    # A table that was imported is normed, and stays as it is: norming it again would change last bits.
    if (table.square().mean(-1) - 1).abs().max() > 1e-5:
        given["embedding.weight"] = F.rms_norm(table, (bundle.config.model_dim,))
    pairs, gains = correspondence(bundle.config)
    made = dict(gains)
    for theirs, (ours, index, signs) in pairs.items():
        tensor = given[ours] if index is None else given[ours][index]
        made[theirs] = tensor if signs is None else signs * tensor
    if unknown := given.keys() - {ours for ours, _, _ in pairs.values()}:
        raise UserError(f"this model has weights that Qwen3 has no place for: {', '.join(sorted(unknown))}")
    # Copies, for safetensors refuses shared memory.
    return {name: tensor.clone().contiguous() for name, tensor in made.items()}


def qwen3_config(bundle: Bundle) -> dict[str, Any]:
    """config.json for transformers. Raises UserError for windows of several sizes."""
    config = bundle.config
    windows = {window for window in config.windows if window}
    if len(windows) > 1:
        raise UserError(f"Qwen3 has windows of one size; this model's are {sorted(windows)}")
    kinds = ["sliding_attention" if window else "full_attention" for window in config.windows]
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.model_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": EPSILON,
        # transformers 4 reads the one, 5 the other.
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "layer_types": kinds,
        "use_sliding_window": bool(windows),
        "sliding_window": max(windows, default=None),
        "max_window_layers": config.num_layers,
    }
