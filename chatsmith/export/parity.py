"""The certificate of an export: does another program, reading the finished files alone, give what our model gives?

Asked are fixed prompts (logits), a page of difficult Unicode (token ids), conversations (the chat template) and greedy
continuations with the other program's own cache. Nothing here is shared with what wrote the files. A transformers
folder is read by transformers; a GGUF file by llama.cpp where llama-cpp-python is installed, else its numbers are read
back, dequantized and run by transformers.
"""

import itertools
import json
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatsmith.bundle import Bundle
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import parse_conversation, render

BOUNDS = {"fp32": 1e-4, "f32": 1e-4, "bf16": 0.05, "q8_0": 0.1}
"""The largest difference of a logit, as a share of the largest logit, by what the weights are kept in."""

MOST_BPB = 0.005
"""How much more bits a byte of the model's own samples may take with rounded weights, as a share."""

MOST_TOKENS = 96
NEW_TOKENS = 24
SAMPLED_TOKENS = 512

_ASKED = tomllib.loads(Path(__file__).with_name("parity.toml").read_text(encoding="utf-8"))
HOSTILE, TEXTS = _ASKED["hostile"], _ASKED["texts"]
CONVERSATIONS = [parse_conversation(one) for one in _ASKED["conversations"]]

Logits = Callable[[Sequence[int]], Tensor]
"""Of ids, (T, V) float32."""


@dataclass(frozen=True)
class Answers:
    """What a program gives for all that is asked."""

    program: str
    logits: Logits
    token_ids: list[list[int]]
    """Of HOSTILE."""
    chats: list[list[int]]
    """Of CONVERSATIONS."""
    greedy: list[list[int]]
    """What follows the first half of each prompt, the end of the turn included."""


def prompts_of(bundle: Bundle) -> list[list[int]]:
    """What the model is shown: texts after `<|bos|>`, and ids from all over the vocabulary."""
    longest = min(MOST_TOKENS, bundle.config.context_length - NEW_TOKENS)
    generator = torch.Generator().manual_seed(1)
    anything = torch.randint(bundle.config.vocab_size, (longest,), generator=generator).tolist()
    texts = [[bundle.tokenizer.bos_id, *bundle.tokenizer.encode(text)] for text in TEXTS]
    return [ids[:longest] for ids in [*texts, anything]]


def our_answers(bundle: Bundle, prompts: Sequence[Sequence[int]]) -> Answers:
    """What the bundle itself gives, in float32."""
    model, tokenizer = bundle.model, bundle.tokenizer

    def logits(ids: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            return model.logits(model(torch.tensor([list(ids)])))[0]

    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    requests = [Request(tuple(_half(ids)), sampling) for ids in prompts]
    greedy = [list(one.ids) for one in Engine(model, tokenizer).generate(requests)]
    chats = [render(conversation, tokenizer).ids for conversation in CONVERSATIONS]
    return Answers("chatsmith", logits, [tokenizer.encode(text) for text in HOSTILE], chats, greedy)


def transformers_answers(path: Path, prompts: Sequence[Sequence[int]], ends: Sequence[int]) -> Answers:
    """What transformers gives for a folder, whose own code it runs, or for a GGUF file."""
    folder, file = (path, None) if path.is_dir() else (path.parent, path.name)
    given = {"gguf_file": file} if file else {"trust_remote_code": True}
    transformers = _transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **given)
    model = _network(folder, file)

    def logits(ids: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            return model(torch.tensor([list(ids)])).logits[0].float()

    greedy = []
    for ids in prompts:
        asked = torch.tensor([_half(ids)])
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": list(ends)}
        options |= {"pad_token_id": ends[-1], "attention_mask": torch.ones_like(asked)}
        options |= {"temperature": None, "top_k": None, "top_p": None}
        greedy.append(model.generate(asked, **options)[0, asked.shape[1] :].tolist())
    # What people write is never a special token; a program that serves others should ask for that, too.
    plain = {"add_special_tokens": False, "split_special_tokens": True}
    token_ids = [tokenizer(text, **plain)["input_ids"] for text in HOSTILE]
    chats = []
    for one in _ASKED["conversations"]:
        text = tokenizer.apply_chat_template(one["messages"], tokenize=False)
        chats.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    return Answers(f"transformers {transformers.__version__}", logits, token_ids, chats, greedy)


def llama_answers(path: Path, prompts: Sequence[Sequence[int]], ends: Sequence[int]) -> Answers:
    """What llama.cpp gives for a GGUF file, with keys and values in 32 bits. Raises ImportError if it is missing."""
    import llama_cpp
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "logits_all": True}
    model = llama_cpp.Llama(str(path), n_ctx=2 * MOST_TOKENS + NEW_TOKENS, verbose=False, **exact)
    template = model.metadata["tokenizer.chat_template"]
    rendered = Jinja2ChatFormatter(template, "", "", add_generation_prompt=False)

    def logits(ids: Sequence[int]) -> Tensor:
        model.reset()
        model.eval(ids)
        return torch.tensor(model.scores[: len(ids)])

    greedy = []
    for ids in prompts:
        said = list(itertools.islice(model.generate(_half(ids), temp=0), NEW_TOKENS))
        after = [index + 1 for index, id in enumerate(said) if id in ends]
        greedy.append(said[: after[0]] if after else said)
    token_ids = [model.tokenize(text.encode(), add_bos=False) for text in HOSTILE]
    texts = [rendered(**one).prompt.encode() for one in _ASKED["conversations"]]
    chats = [model.tokenize(text, add_bos=False, special=True) for text in texts]
    return Answers(f"llama.cpp of llama-cpp-python {llama_cpp.__version__}", logits, token_ids, chats, greedy)


def their_answers(path: Path, prompts: Sequence[Sequence[int]], ends: Sequence[int]) -> Answers:
    """What another program gives for the finished export. Raises UserError where none is installed."""
    if path.is_file():
        with suppress(ImportError):
            return llama_answers(path, prompts, ends)
    return transformers_answers(path, prompts, ends)


def certificate(bundle: Bundle, path: Path, kind: str = "fp32") -> dict[str, Any]:
    """Compare the finished export at `path` (a transformers folder, or a GGUF file with weights of `kind`) with the
    bundle. Raises UserError where it does not hold; without a program that can tell, `verified` is false."""
    prompts = prompts_of(bundle)
    ends = [bundle.tokenizer.special("<|assistant_end|>"), bundle.tokenizer.bos_id]
    try:
        theirs = their_answers(path, prompts, ends)
    except UserError as error:
        return {"verified": False, "why": str(error)}
    ours = our_answers(bundle, prompts)
    logits = [(ours.logits(ids), theirs.logits(ids)) for ids in prompts]
    largest = max(float(own.abs().max()) for own, _ in logits)
    difference = max(float((own - other).abs().max()) for own, other in logits)
    program, _, version = theirs.program.rpartition(" ")
    found = {
        "program": program,
        "version": version,
        "verified": True,
        "logits_difference": difference / largest,
        "logits_bound": BOUNDS[kind],
        "token_ids_equal": ours.token_ids == theirs.token_ids,
        "chat_template_equal": ours.chats == theirs.chats,
        "greedy_equal": ours.greedy == theirs.greedy,
    }
    failed = [name for name in ("token_ids_equal", "chat_template_equal") if not found[name]]
    if found["logits_difference"] > BOUNDS[kind]:
        failed.append("logits_difference")
    if kind in ("fp32", "f32") and not found["greedy_equal"]:
        failed.append("greedy_equal")
    if kind in ("bf16", "q8_0"):
        bits = _own_samples(bundle, ours.logits, theirs.logits)
        found["bits_ratio"], found["bits_bound"] = bits, 1 + MOST_BPB
        failed += ["bits_ratio"] if bits > 1 + MOST_BPB else []
    if failed:
        shown = json.dumps({one: found[one] for one in failed})
        raise UserError(f"the export does not give what the model gives, so it was not kept: {shown}")
    return found


def _own_samples(bundle: Bundle, ours: Logits, theirs: Logits) -> float:
    """Bits of texts that the model samples itself, as the copy reads them, by those that the model needs."""
    length = min(128, bundle.config.context_length - 1)
    sampling = SamplingParams(max_tokens=length, ignore_end=True, seed=1)
    asked = Request((bundle.tokenizer.bos_id,), sampling).replicas(max(1, SAMPLED_TOKENS // length))
    texts = [[*one.prompt_ids, *one.ids] for one in Engine(bundle.model, bundle.tokenizer).generate(asked)]

    def bits(logits: Logits) -> float:
        losses = [torch.nn.functional.cross_entropy(logits(ids)[:-1], torch.tensor(ids[1:])) for ids in texts]
        return float(torch.stack(losses).sum())

    return bits(theirs) / bits(ours)


def _network(folder: Path, file: str | None) -> Any:
    """The network in float32, as transformers computes it. Its reader of GGUF takes 128 for every head_dim of Qwen3
    (5.24), so that is read here by the package gguf."""
    transformers = _transformers()
    if file is None:
        options = {"trust_remote_code": True, "dtype": torch.float32}
        return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    import gguf
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.from_pretrained(folder, gguf_file=file)
    config.head_dim = gguf.GGUFReader(folder / file).fields["qwen3.attention.key_length"].contents()
    network = transformers.Qwen3ForCausalLM(config).eval()
    # What from_pretrained does with the file, which asks for one more package there.
    found = load_gguf_checkpoint(folder / file, return_tensors=True, model_to_load=network)
    network.load_state_dict({name: tensor.float() for name, tensor in found["tensors"].items()})
    return network


def _half(ids: Sequence[int]) -> list[int]:
    return list(ids[: max(1, len(ids) // 2)])


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError(
            "nothing independent is installed to compare with: pip install 'chatsmith[hf]'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers
