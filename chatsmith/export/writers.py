"""The two forms in which other programs take a model: a folder of the transformers library, and a GGUF file.

A portable model becomes `Qwen3ForCausalLM`, which those programs have. Any other becomes a transformers folder with the
network's code beside the weights (`modeling_chatsmith.py`); llama.cpp has no such network, so GGUF is refused.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import safetensors.torch

from chatsmith.bundle import GENERATION_DEFAULTS, Bundle
from chatsmith.export.qwen3 import EPSILON, qwen3_config, qwen3_weights
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import chat_template
from chatsmith.text.tokenizer import SPECIAL_TOKENS, SPLITS, Tokenizer

MODELING = Path(__file__).parent / "modeling_chatsmith.py"
USE = Path(__file__).parent / "use.md"
"""What the card says beyond the model's own."""
END_OF_TURN = "<|assistant_end|>"
BOS = "<|bos|>"

GGUFType = Literal["f32", "bf16", "q8_0"]


def write_transformers(bundle: Bundle, folder: Path) -> None:
    """Write the files of a transformers folder into `folder`, which exists and is empty.

    Raises UserError for a model that the format cannot hold.
    """
    config, generation = bundle.config, {**GENERATION_DEFAULTS, **bundle.generation}
    if config.is_portable:
        weights, described = qwen3_weights(bundle), qwen3_config(bundle)
    else:
        weights = dict(bundle.model.state_dict())
        classes = {"AutoConfig": "ChatsmithConfig", "AutoModelForCausalLM": "ChatsmithForCausalLM"}
        described = {
            "architectures": ["ChatsmithForCausalLM"],
            "model_type": "chatsmith",
            "auto_map": {auto: f"{MODELING.stem}.{name}" for auto, name in classes.items()},
            **config.to_json(),
        }
        shutil.copyfile(MODELING, folder / MODELING.name)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ends: dict[str, Any] = {"bos_token_id": bundle.tokenizer.bos_id, "pad_token_id": bundle.tokenizer.bos_id}
    ends["eos_token_id"] = [bundle.tokenizer.special(END_OF_TURN), bundle.tokenizer.bos_id]
    _write(folder / "config.json", {**described, **ends, "dtype": "float32", "torch_dtype": "float32"})
    sampling = {"temperature": generation["temperature"], "top_k": generation["top_k"]}
    sampling |= {name: generation[name] for name in ("top_p", "min_p") if name in generation}
    longest = {"max_new_tokens": generation["max_tokens"]}
    _write(folder / "generation_config.json", {"do_sample": True, **sampling, **longest, **ends})
    bundle.tokenizer.save(folder)
    names = {"bos_token": BOS, "eos_token": END_OF_TURN, "pad_token": BOS}
    _write(folder / "special_tokens_map.json", names)
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.context_length,
            "clean_up_tokenization_spaces": False,
            "chat_template": chat_template(),
            **names,
        },
    )
    (folder / "chat_template.jinja").write_text(chat_template(), encoding="utf-8")
    card = (bundle.path / "README.md").read_text(encoding="utf-8").rstrip()
    trust = "" if config.is_portable else ", trust_remote_code=True"
    card = card.replace("library_name: chatsmith", "library_name: transformers")
    use = USE.read_text(encoding="utf-8").replace(", TRUST", trust)
    (folder / "README.md").write_text(f"{card}\n\n{use}", encoding="utf-8")


def write_gguf(bundle: Bundle, path: Path, kind: GGUFType) -> None:
    """Write a GGUF file of the architecture qwen3 to `path`: large matrices as `kind`, norms in float32.

    Raises UserError for a model or a tokenizer that llama.cpp has no name for, and if the package gguf is missing.
    """
    try:
        import gguf
    except ImportError:
        raise UserError("writing GGUF needs a package: pip install 'chatsmith[gguf]'") from None
    config, tokenizer = bundle.config, bundle.tokenizer
    if not config.is_portable:
        raise UserError(
            "llama.cpp has no network with smear, value embeddings or softcapped logits, so this model cannot be a GGUF"
            " file; a model trained with the architecture portable can"
        )
    if any(config.windows):
        raise UserError("llama.cpp's qwen3 attends to the whole context; this model has windows")
    split = json.loads(tokenizer.to_json())["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    if split != {"Regex": SPLITS["qwen2"]}:
        raise UserError(
            "llama.cpp does not know this tokenizer's split pattern; train it with the split qwen2"
        )
    writer: Any = gguf.GGUFWriter(path, "qwen3")
    writer.add_name(bundle.path.absolute().parent.name)
    writer.add_description((bundle.path / "README.md").read_text(encoding="utf-8"))
    # What a file does not say, llama.cpp decides: top_p 0.95 and min_p 0.05.
    sampling = {**GENERATION_DEFAULTS, "top_p": 1.0, "min_p": 0.0, **bundle.generation}
    writer.add_int32("general.sampling.top_k", sampling["top_k"])
    for name, key in (("temperature", "temp"), ("top_p", "top_p"), ("min_p", "min_p")):
        writer.add_float32(f"general.sampling.{key}", sampling[name])
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.model_dim)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(EPSILON)
    types = {"f32": ("ALL_F32", "F32"), "bf16": ("MOSTLY_BF16", "BF16"), "q8_0": ("MOSTLY_Q8_0", "Q8_0")}
    file_type, tensor_type = types[kind]
    writer.add_file_type(gguf.LlamaFileType[file_type])
    _add_tokenizer(writer, tokenizer)
    quantization = gguf.GGMLQuantizationType[tensor_type]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_layers)
    for name, tensor in qwen3_weights(bundle).items():
        there = names.get_name(name, try_suffixes=(".weight",))
        if there is None:
            raise UserError(f"GGUF's qwen3 has no place for {name}")
        values = tensor.float().numpy()
        if tensor.dim() == 1 or kind == "f32":
            writer.add_tensor(there, values)
        else:
            writer.add_tensor(there, gguf.quantize(values, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    """The vocabulary as llama.cpp reads it: tokens in GPT-2's byte alphabet, merges, and which are special."""
    import gguf

    model = json.loads(tokenizer.to_json())["model"]
    ordinary = sorted(model["vocab"], key=model["vocab"].__getitem__)
    normal, control = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*ordinary, *SPECIAL_TOKENS])
    writer.add_token_types([normal] * len(ordinary) + [control] * len(SPECIAL_TOKENS))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.special(END_OF_TURN))
    writer.add_eot_token_id(tokenizer.special(END_OF_TURN))
    writer.add_pad_token_id(tokenizer.bos_id)
    writer.add_add_bos_token(False)  # the template begins with it
    writer.add_chat_template(chat_template())


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
