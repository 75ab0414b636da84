"""An exported transformers folder as a bundle again.

Read are folders that chatsmith exported, of either kind, and others of Qwen3's shape where the same function can be
written in our tensors: no grouped queries, gains that are one (or, of queries and keys together, our gain on scores),
and a token table of normed rows. Nothing in the folder is executed.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from chatsmith.bundle import GENERATION_DEFAULTS
from chatsmith.export.qwen3 import correspondence
from chatsmith.model.attention import SCORE_GAIN
from chatsmith.model.config import NO_SOFTCAP, GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer


def read_transformers(folder: Path) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    """The model, its tokenizer and its defaults for sampling. Raises UserError for what is no such folder, is damaged,
    or computes what our network cannot."""
    config = _json(folder / "config.json")
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            f"{folder} has no model.safetensors; weights in other files (.bin, .pt, several parts) are not read"
        )
    try:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise UserError(f"{folder / 'model.safetensors'} cannot be read ({error}); copy it again") from error
    weights = {name: tensor.float() for name, tensor in weights.items()}
    try:
        match config.get("model_type"):
            case "chatsmith":
                names = GPTConfig(1).to_json()
                shape = GPTConfig.from_json({name: config[name] for name in names})
            case "qwen3":
                shape = _portable_shape(config)
                weights = _portable_weights(weights, shape)
            case other:
                raise UserError(f"{folder} holds a model of the type {other!r}; read are chatsmith and qwen3")
    except KeyError as error:
        raise UserError(f"{folder} lacks {error}, which such a model has") from error
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size != shape.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model {shape.vocab_size}"
        )
    model = GPT(shape)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}: its weights are not those of its config ({reason})") from error
    sampling = _json(folder / "generation_config.json")
    kept = {name: sampling[name] for name in ("temperature", "top_k", "top_p", "min_p") if name in sampling}
    longest = sampling.get("max_new_tokens", GENERATION_DEFAULTS["max_tokens"])
    return model.eval(), tokenizer, {**GENERATION_DEFAULTS, **kept, "max_tokens": longest}


def _portable_shape(config: dict[str, Any]) -> GPTConfig:
    heads, depth = config["num_attention_heads"], config["num_hidden_layers"]
    _require(config["num_key_value_heads"] == heads, "its queries share keys (grouped queries)")
    _require(config["hidden_size"] == heads * config["head_dim"], "its heads are not as wide as the stream")
    _require(
        config["hidden_act"] == "silu" and not config["attention_bias"], "it has other activations, or biases"
    )
    _require(not config["tie_word_embeddings"], "its head is its token table")
    # Ours add 1.2e-7; with 1e-5, logits are 1e-5 apart (measured), with 1e-2, 7e-3.
    _require(config["rms_norm_eps"] <= 1e-5, "its norms add more than 1e-5 to the mean square")
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"]}
    _require(rope.get("rope_type", "default") == "default", "its angles are scaled")
    kinds = config.get("layer_types") or ["full_attention"] * depth
    window = config.get("sliding_window") or 0
    shape = GPTConfig(
        vocab_size=config["vocab_size"],
        context_length=config["max_position_embeddings"],
        num_layers=depth,
        num_heads=heads,
        head_dim=config["head_dim"],
        windows=tuple(window if kind == "sliding_attention" else 0 for kind in kinds),
        rope_base=rope["rope_theta"],
        softcap=NO_SOFTCAP,
        architecture="portable",
    )
    _require(config["intermediate_size"] == shape.mlp_dim, f"its MLP has not {shape.mlp_dim} channels")
    return shape


def _portable_weights(theirs: dict[str, Tensor], shape: GPTConfig) -> dict[str, Tensor]:
    """The inverse of `qwen3_weights`."""
    pairs, gains = correspondence(shape)
    missing = (pairs.keys() | gains.keys()) - theirs.keys()
    _require(not missing, f"it lacks {', '.join(sorted(missing))}")
    rest = theirs.keys() - pairs.keys() - gains.keys()
    _require(not rest, f"it has weights that our network has no place for: {', '.join(sorted(rest))}")
    sizes = theirs["model.embed_tokens.weight"].square().mean(dim=-1)
    _require(bool((sizes - 1).abs().max() < 1e-3), "its token table is not normed")
    for name, gain in gains.items():
        found = theirs[name]
        if name.endswith(("q_norm.weight", "k_norm.weight")):  # it is their product that counts
            place, gain = name[: -len("q_norm.weight")], SCORE_GAIN
            found = theirs[f"{place}q_norm.weight"] * theirs[f"{place}k_norm.weight"]
        _require(bool((found / gain - 1).abs().max() < 2e-5), "its norms have gains of their own")
    made: dict[str, list[Tensor]] = {}
    for name, (ours, _, signs) in pairs.items():
        made.setdefault(ours, []).append(theirs[name] if signs is None else signs * theirs[name])
    return {ours: torch.stack(parts) if len(parts) > 1 else parts[0] for ours, parts in made.items()}


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise UserError(f"this Qwen3 model cannot be written as ours: {reason}")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; name a folder of the transformers library") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error})") from None
