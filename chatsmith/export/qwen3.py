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
from chatsmith.runtime.errors import UserError

EPSILON = torch.finfo(torch.float32).eps
"""What F.rms_norm adds in float32."""


def qwen3_weights(bundle: Bundle) -> dict[str, Tensor]:
    """The tensors of a portable bundle (float32) by their names in transformers. Raises UserError for any that is not
    known here, so that none is lost."""
    config, given = bundle.config, dict(bundle.model.state_dict())
    head = torch.ones(config.head_dim)
    head[config.head_dim // 2 :] = -1
    turn = head.repeat(config.num_heads)[:, None]  # (C, 1)
    width = torch.ones(config.model_dim)
    made = {
        "model.embed_tokens.weight": F.rms_norm(given.pop("embedding.weight"), (config.model_dim,)),
        "model.norm.weight": width,
        "lm_head.weight": given.pop("head.weight"),
    }
    for layer in range(config.num_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        q, k, v = given.pop(f"{ours}.attention.qkv.weight")
        gate, up = given.pop(f"{ours}.mlp.up.weight")
        made |= {
            f"{theirs}.input_layernorm.weight": width,
            f"{theirs}.self_attn.q_proj.weight": turn * q,
            f"{theirs}.self_attn.k_proj.weight": turn * k,
            f"{theirs}.self_attn.v_proj.weight": v,
            f"{theirs}.self_attn.o_proj.weight": given.pop(f"{ours}.attention.out.weight"),
            f"{theirs}.self_attn.q_norm.weight": torch.full((config.head_dim,), SCORE_GAIN),
            f"{theirs}.self_attn.k_norm.weight": torch.ones(config.head_dim),
            f"{theirs}.post_attention_layernorm.weight": width,
            f"{theirs}.mlp.gate_proj.weight": gate,
            f"{theirs}.mlp.up_proj.weight": up,
            f"{theirs}.mlp.down_proj.weight": given.pop(f"{ours}.mlp.down.weight"),
        }
    if given:
        raise UserError(f"this model has weights that Qwen3 has no place for: {', '.join(sorted(given))}")
    return {
        name: tensor.clone().contiguous() for name, tensor in made.items()
    }  # safetensors refuses shared memory


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
