"""An exported transformers folder as a bundle again.

Read are folders that chatsmith exported, of either kind, and others of Qwen3's shape where the same function can be
written in our tensors: no grouped queries, a token table of normed rows, and gains of queries and keys that together
are our gain on scores. Gains of other norms become part of the matrices that follow. Nothing in the folder is executed;
a pickle in it, which another program may execute, is refused.
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

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
NUMBERS = (torch.float32, torch.bfloat16, torch.float16)
"""What weights may be kept in: float32 holds all of these exactly."""
LONGEST = 2**20
"""The longest context, in tokens: a table of angles is made for it."""
FOLDED = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Norms of a layer, and the matrices that read what they give."""


def read_transformers(folder: Path) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    """The model, its tokenizer and its defaults for sampling. Raises UserError for what is no such folder, is damaged,
    or computes what our network cannot."""
    file = folder / "config.json"
    config = _json(file)
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder} has no model.safetensors; other files (.bin, .pt, parts) are not read")
    refuse_pickles(folder)
    try:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise UserError(f"{folder / 'model.safetensors'} cannot be read ({error}); copy it again") from error
    try:
        _check_numbers(config, weights, file)
        weights = {name: tensor.float() for name, tensor in weights.items()}
        match config.get("model_type"):
            case "chatsmith":
                names = GPTConfig(1).to_json()
                shape = GPTConfig.from_json({name: config[name] for name in names})
            case "qwen3":
                shape = _portable_shape(config)
                weights = _portable_weights(weights, shape)
            case other:
                raise UserError(f"{folder} holds a model of the type {other!r}; read are chatsmith and qwen3")
        if (longest := max(shape.context_length, *shape.windows)) > LONGEST:
            raise UserError(f"{file} says {longest} for a context or a window; here {LONGEST} is the most")
        with torch.device("meta"):  # whatever the config says, nothing is as large before it is known to fit
            GPT(shape).load_state_dict(weights, assign=True)
    except KeyError as error:
        raise UserError(f"{folder} lacks {error}, which such a model has") from error
    except (TypeError, AttributeError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split("Exception raised")[0].split())[:300]
        raise UserError(f"{folder}: its config.json and its weights do not go together ({reason})") from error
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size != shape.vocab_size:
        raise UserError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} ids, its model {shape.vocab_size}"
        )
    model = GPT(shape)
    model.load_state_dict(weights)
    file = folder / "generation_config.json"
    sampling = _json(file) if file.exists() else {}
    kept = {name: sampling[name] for name in ("temperature", "top_k", "top_p", "min_p") if name in sampling}
    longest = sampling.get("max_new_tokens", GENERATION_DEFAULTS["max_tokens"])
    return model.eval(), tokenizer, {**GENERATION_DEFAULTS, **kept, "max_tokens": longest}


def refuse_pickles(folder: Path) -> None:
    """Raise UserError if there is one."""
    if pickles := [path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in PICKLES]:
        raise UserError(f"{folder} holds {pickles[0]}: a pickle can run code where it is read; remove it")


def _check_numbers(config: dict[str, Any], weights: dict[str, Tensor], file: Path) -> None:
    """Raise UserError for weights that are no floats, and for more layers than there can be."""
    if other := {str(tensor.dtype) for tensor in weights.values() if tensor.dtype not in NUMBERS}:
        raise UserError(f"{file.parent} has weights in {min(other)}; read are float32, bfloat16, float16")
    depth = config.get("num_hidden_layers", config.get("num_layers", 0))
    if depth > len(weights):
        raise UserError(f"{file} says that there are {depth} layers, more than {file.parent} has weights")


def _portable_shape(config: dict[str, Any]) -> GPTConfig:
    heads, depth = config["num_attention_heads"], config["num_hidden_layers"]
    _require(config["num_key_value_heads"] == heads, "its queries share keys (grouped queries)")
    _require(config["hidden_size"] == heads * config["head_dim"], "its heads are not as wide as the stream")
    is_plain = config["hidden_act"] == "silu" and not config["attention_bias"]
    _require(is_plain, "it has other activations, or biases")
    _require(not config["tie_word_embeddings"], "its head is its token table")
    # Ours add 1.2e-7; with 1e-5, logits are 1e-5 apart (measured), with 1e-2, 7e-3.
    _require(0 <= config["rms_norm_eps"] <= 1e-5, "its norms add more than 1e-5 to the mean square")
    rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"]}
    scaling = config.get("rope_scaling")  # of transformers 4
    _require(rope.get("rope_type", "default") == "default" and not scaling, "its angles are scaled")
    window = (config.get("use_sliding_window") and config.get("sliding_window")) or 0
    _require(bool(config.get("layer_types")) or not window, "it does not say which layers have windows")
    kinds = config.get("layer_types") or ["full_attention"] * depth
    _require({*kinds} <= {"full_attention", "sliding_attention"}, "its attention is of another kind")
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
    """The inverse of `qwen3_weights`, gains of norms in the matrices that follow."""
    with torch.device("meta"):
        empty, (pairs, wanted) = GPT(shape).state_dict(), correspondence(shape)
    for name, (ours, part, _) in pairs.items():
        wanted[name] = empty[ours] if part is None else empty[ours][part]
    missing, rest = wanted.keys() - theirs.keys(), theirs.keys() - wanted.keys()
    _require(not missing, f"it lacks {', '.join(sorted(missing))}")
    _require(not rest, f"it has weights that our network has no place for: {', '.join(sorted(rest))}")
    other = sorted(name for name in wanted if theirs[name].shape != wanted[name].shape)
    _require(not other, f"the shapes of {', '.join(other)} are not those of its config")
    sizes = theirs["model.embed_tokens.weight"].square().mean(dim=-1)
    _require(bool((sizes - 1).abs().max() < 1e-3), "its token table is not normed")
    for place in (f"model.layers.{layer}" for layer in range(shape.num_layers)):
        queries, keys = (theirs[f"{place}.self_attn.{one}_norm.weight"] for one in "qk")
        # It is their product that counts, where the halves of a head, which a turn mixes, have the same gains.
        one, other = queries.chunk(2)
        off = torch.cat([queries * keys / SCORE_GAIN, one / other]) - 1
        _require(bool(off.abs().max() < 2e-5), "its queries and keys have gains other than ours")
        for norm, matrices in FOLDED.items():
            for name in (f"{place}.{matrix}.weight" for matrix in matrices):
                theirs[name] = theirs[name] * theirs[f"{place}.{norm}.weight"]
    theirs["lm_head.weight"] = theirs["lm_head.weight"] * theirs["model.norm.weight"]
    pairs, _ = correspondence(shape)
    made: dict[str, list[Tensor]] = {}
    for name, (ours, _, signs) in pairs.items():
        made.setdefault(ours, []).append(theirs[name] if signs is None else signs * theirs[name])
    return {ours: torch.stack(parts) if len(parts) > 1 else parts[0] for ours, parts in made.items()}


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise UserError(f"this Qwen3 model cannot be written as ours: {reason}")


def _json(path: Path) -> dict[str, Any]:
    try:
        return {**json.loads(path.read_bytes())}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; name a folder of the transformers library") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it is no JSON object ({error})") from None
