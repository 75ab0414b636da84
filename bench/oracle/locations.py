"""Where the things are that the in-process probes use, in the old tree and in the new one.

After a move, add the new module to the thing's row. After a rename or a changed constructor, extend the one function
below that makes the thing: the probes call nothing of chatsmith but what is found here.
"""

import inspect
import os
import re
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

# name -> candidates, tried in order: "module" (the name is looked up in it) or "module:other_name".
LOCATIONS: dict[str, tuple[str, ...]] = {
    # text
    "train_tokenizer": ("chatsmith.text.bpe", "chatsmith.text.tokenizer", "chatsmith.text"),
    "Message": ("chatsmith.text.chat", "chatsmith.text"),
    "render": ("chatsmith.text.chat", "chatsmith.text"),
    "render_prompt": ("chatsmith.text.chat", "chatsmith.text"),
    "conversation_to_json": ("chatsmith.text.chat", "chatsmith.text", "chatsmith.data.conversations"),
    # the kindergarten
    "Kindergarten": (
        "chatsmith.tasks.kindergarten",
        "chatsmith.worlds.kindergarten",
        "chatsmith.worlds.kindergarten.kindergarten",
        "chatsmith.worlds.kindergarten.world",
    ),
    "exam_fingerprint": (
        "chatsmith.tasks.kindergarten.exam:fingerprint",
        "chatsmith.worlds.kindergarten.exam:fingerprint",
        "chatsmith.worlds.kindergarten.exam:exam_fingerprint",
    ),
    "problem_to_json": (
        "chatsmith.tasks.problem_set",
        "chatsmith.tasks.task",
        "chatsmith.data.problems",
        "chatsmith.tasks.problems",
    ),
    "practice_problem": (
        "chatsmith.tasks.kindergarten.practice",
        "chatsmith.worlds.kindergarten.practice",
        "chatsmith.worlds.kindergarten.rl_problems:rl_problem",
        "chatsmith.worlds.kindergarten.exam:rl_problem",
    ),
    "practice_problems": (
        "chatsmith.tasks.kindergarten.practice",
        "chatsmith.worlds.kindergarten.practice",
        "chatsmith.worlds.kindergarten.rl_problems:rl_problems",
        "chatsmith.worlds.kindergarten.exam:rl_problems",
    ),
    # data
    "TrainingRows": ("chatsmith.data.packing",),
    "ValidationRows": ("chatsmith.data.packing",),
    "ConversationRows": ("chatsmith.data.conversations", "chatsmith.data.packing", "chatsmith.data.sft"),
    # model and bundle
    "GPTConfig": ("chatsmith.model.config",),
    "GPT": ("chatsmith.model.gpt",),
    "save_bundle": ("chatsmith.checkpoint", "chatsmith.bundle", "chatsmith.checkpoint.bundle"),
    # engine
    "Engine": ("chatsmith.engine.engine", "chatsmith.engine"),
    "Request": ("chatsmith.engine.request", "chatsmith.engine"),
    "Sampling": (
        "chatsmith.engine.request",
        "chatsmith.engine.request:SamplingParams",
        "chatsmith.engine.sampler:SamplingParams",
    ),
    "choose_backend": ("chatsmith.backends",),
    "Constraint": (
        "chatsmith.engine.constraints",
        "chatsmith.engine.request",
        "chatsmith.backends.guided_decoding",
        "chatsmith.backends.guided",
    ),
    "calculator_tool": ("chatsmith.tools.calculator",),
}


def find(name: str) -> Any:
    """The thing called `name` above, from the first candidate that has it."""
    for candidate in LOCATIONS[name]:
        module_name, _, other = candidate.partition(":")
        try:
            return getattr(import_module(module_name), other or name)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("chatsmith"):
                raise
        except AttributeError:
            pass
    raise SystemExit(f"oracle: {name} is in none of {LOCATIONS[name]}; extend LOCATIONS in {__file__}")


def check_tree() -> None:
    """Stop unless `chatsmith` is the one of the tree that is probed."""
    import chatsmith

    place = Path(chatsmith.__file__ or "").resolve()
    tree = Path(os.environ["ORACLE_TREE"]).resolve()
    assert place.is_relative_to(tree), f"chatsmith is {place}, not in {tree}"


# ---- one function for each thing that is made ----


def make_tokenizer(texts: list[str], vocab_size: int) -> Any:
    """A tokenizer trained on `texts`."""
    return find("train_tokenizer")(texts, vocab_size)


def make_model(**shape: Any) -> Any:
    """A GPT of this shape, every parameter random by its own name, so that their order does not matter."""
    import hashlib

    import torch

    seed, scale = shape.pop("seed", 0), shape.pop("scale", 0.5)
    model = find("GPT")(find("GPTConfig")(**shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def save_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """The model as a bundle."""
    find("save_bundle")(
        folder, model, tokenizer, generation={"temperature": 1.0, "top_k": 0}, card="# Tiny\n"
    )


def make_engine(
    model: Any, tokenizer: Any, *, native: bool = True, quantize: str | None = None, **options: Any
) -> Any:
    """An engine with these settings; without `native`, torch's operations alone."""
    engine = find("Engine")
    if "backend" in inspect.signature(engine).parameters:
        # Since engine and backends are apart, what computes is made first. What was `native=False` is what a machine
        # without a C compiler gets: the bare Backend rounds otherwise, and follows no constraints.
        library = nullcontext() if native else patch("chatsmith.backends.load_library", lambda: None)
        with library:
            backend = find("choose_backend")(model, quantize=quantize)
        return engine(model, tokenizer, backend=backend, **options)
    return engine(model, tokenizer, native=native, quantize=quantize, **options)


def engine_figures(engine: Any) -> dict[str, Any]:
    """What an engine counts, and what it decodes with."""
    names = ("num_preemptions", "num_free_blocks", "prefix_queries", "prefix_hits")
    counts = engine.stats() if hasattr(engine, "stats") else engine
    decodes_with = engine.backend.name if hasattr(engine, "backend") else engine.decodes_with
    return {
        **{name: getattr(counts, name) for name in names},
        "num_computed": engine.num_computed,
        "decodes_with": decodes_with,
    }


def make_request(prompt_ids: list[int], sampling: dict[str, Any], **more: Any) -> Any:
    """A request; `more` are score_from and constraint."""
    return find("Request")(tuple(prompt_ids), find("Sampling")(**sampling), **more)


def make_constraint(kind: str, value: Any) -> Any:
    """A constraint: json_schema, json_object, regex, choice or lark."""
    if kind == "json_object":
        kind, value = "json_schema", {"type": "object"}
    if kind == "choice":
        kind, value = "regex", "|".join(map(re.escape, value))
    maker = find("Constraint")
    return maker.json_schema(value) if kind == "json_schema" else maker(kind, value)


def calculator() -> Any:
    """The tool that the engine is given."""
    return find("calculator_tool")


def make_world(seed: int, documents: int, conversations: int) -> Any:
    """The kindergarten."""
    return find("Kindergarten")(seed, documents, conversations, 200)


def training_rows(cache: Any, sequence_length: int, seed: int) -> Any:
    """Rows of a token cache."""
    return find("TrainingRows")(cache, sequence_length, seed)


def validation_rows(cache: Any, sequence_length: int) -> Any:
    """All of a token cache in padded rows."""
    return find("ValidationRows")(cache, sequence_length)


def conversation_rows(rendered: list[Any], sequence_length: int, seed: int, tokenizer: Any) -> Any:
    """Rows of rendered conversations."""
    return find("ConversationRows")(
        rendered,
        sequence_length,
        seed,
        turn_end_id=tokenizer.special("<|assistant_end|>"),
        padding_id=tokenizer.bos_id,
    )
