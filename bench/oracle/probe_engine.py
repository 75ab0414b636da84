"""What the engine answers: 500 seeded requests of many kinds, in engines of different sizes, by C and by torch.

A tiny random model in float32, in this process, through `locations`. Of each completion: ids, parts of text, finish
reason, log-probabilities, and what the prefix cache spared. Called as `probe_engine.py RECIPE RESULT`.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import locations
import torch

CONTEXT = 96
TEXT_IDS = 250
TEXT = "the cat sat on the mat; the dog sat on the cat. 1+1=2, 37 + 58 is 95 é 😀 "
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GRAMMAR = 'start: ("a" | "b")+ "." '

# Engines by name: the model's windows, and the engine's settings.
ENGINES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "roomy": ((0, 7, 0), {"max_running": 8, "kv_tokens": 4096}),
    "usual": ((0, 0), {}),
    "small pool": ((0, 7, 0), {"max_running": 5, "kv_tokens": 112, "block_size": 4, "tokens_per_step": 24}),
    "no cache": ((0, 0), {"max_running": 4, "kv_tokens": 200, "block_size": 4, "prefix_caching": False}),
    "torch": ((0, 7, 0), {"max_running": 6, "kv_tokens": 400, "block_size": 3, "native": False}),
    "beside decoding": ((0, 0), {"max_running": 6, "tokens_per_step": 64, "tokens_beside_decoding": 5}),
    "bf16 weights": ((0, 0), {"max_running": 6, "quantize": "bf16"}),
    "int8 weights": ((0, 7, 0), {"max_running": 6, "quantize": "int8"}),
}
REQUESTS = 500

Result = dict[str, Any]


def main() -> None:
    """Answer everything and write the answers."""
    locations.check_tree()
    torch.set_num_threads(1)
    tokenizer = locations.make_tokenizer([TEXT * 3], 300)
    result: Result = {}
    each = REQUESTS // len(ENGINES) + 1
    for number, (name, (windows, options)) in enumerate(ENGINES.items()):
        source = random.Random(f"oracle {number}")
        engine = locations.make_engine(
            a_model(tokenizer, windows), tokenizer, tool=locations.calculator(), seed=5, **options
        )
        requests = [a_request(tokenizer, source) for _ in range(each)]
        for index, answer in enumerate(answers(engine, requests, source)):
            result[f"{name} {index}"] = answer
        result[f"{name} figures"] = locations.engine_figures(engine)
    result["kinds"] = told_apart(result)
    Path(sys.argv[2]).write_text(json.dumps(result, indent=1))


def a_model(tokenizer: Any, windows: tuple[int, ...]) -> Any:
    """A GPT with all its parts, every parameter random. 16 channels a head: what the C decoder takes."""
    return locations.make_model(
        vocab_size=tokenizer.vocab_size,
        context_length=CONTEXT,
        num_layers=len(windows),
        num_heads=2,
        head_dim=16,
        windows=windows,
        value_embedding_layers=(1,),
        bigram_buckets=64,
    )


def answers(engine: Any, requests: list[list[Any]], source: random.Random) -> list[Any]:
    """Submit requests at random times, cancel a few, and collect what came of each: a list for its replies."""
    handles: list[list[int | str]] = []
    found: dict[int, Any] = {}
    streamed: dict[int, list[Any]] = {}

    def step() -> None:
        for event in engine.step():
            streamed.setdefault(event.handle, []).append([list(event.ids), as_pairs(event.parts)])
            if event.completion is not None:
                found[event.handle] = as_json(event.completion)

    for replicas in requests:
        for _ in range(source.choice((0, 0, 1, 2, 5))):
            step()
        handles.append([submitted(engine, one) for one in replicas])
        if source.random() < 0.06:
            chosen = source.choice([one for one in handles[-1] if isinstance(one, int)] or [-1])
            if chosen >= 0 and (over := engine.cancel(chosen)) is not None:
                found[chosen] = as_json(over)
    while not engine.is_idle:
        step()
    return [
        [one if isinstance(one, str) else {**found[one], "events": streamed.get(one, [])} for one in group]
        for group in handles
    ]


def submitted(engine: Any, request: Any) -> int | str:
    """The handle, or why it was refused."""
    if isinstance(request, str):
        return request
    try:
        return engine.submit(request)
    except ValueError as error:
        return f"refused: {error}"


def a_request(tokenizer: Any, source: random.Random) -> list[Any]:
    """A request, or several that differ in their seed alone; or why none could be made."""
    beginning = [(7 * place) % TEXT_IDS for place in range(20)]
    prompt = beginning[: source.choice((0, 0, 9, 20))] + source.choices(
        range(TEXT_IDS), k=source.randrange(1, 24)
    )
    sampling: dict[str, Any] = {
        "temperature": source.choice((0.0, 0.0, 0.03, 0.7, 1.0)),
        "seed": source.choice((None, source.randrange(1 << 40))),
        "max_tokens": source.choice((1, 8, 16, 30, 30, None if source.random() < 0.3 else 12)),
        "ignore_end": source.random() < 0.6,
        "logprobs": source.choice((None, 0, 1, 5)),
    }
    more: dict[str, Any] = {}
    count = source.choice((1, 1, 1, 2, 5))
    source.choice(KINDS)(tokenizer, source, prompt, sampling, more)
    try:
        return locations.make_request(prompt, sampling, **more).replicas(count)
    except ValueError as error:
        return [f"not made: {error}"]


# ---- kinds of requests: each changes the prompt, the sampling or what else a request has ----


def plain(tokenizer: Any, source: random.Random, prompt: list[int], sampling: dict, more: dict) -> None:
    pass


def truncated(tokenizer: Any, source: random.Random, prompt: list[int], sampling: dict, more: dict) -> None:
    sampling |= {"top_k": source.choice((0, 1, 20)), "top_p": source.choice((0.3, 0.9, 1.0))}
    sampling |= {"min_p": source.choice((0.0, 0.1)), "temperature": 0.9}


def penalised(tokenizer: Any, source: random.Random, prompt: list[int], sampling: dict, more: dict) -> None:
    sampling |= {"frequency_penalty": 0.7, "presence_penalty": source.choice((0.0, -0.5, 1.5))}
    sampling["repetition_penalty"] = source.choice((1.0, 1.2))


def biased(tokenizer: Any, source: random.Random, prompt: list[int], sampling: dict, more: dict) -> None:
    sampling["logit_bias"] = {source.randrange(TEXT_IDS): source.choice((-100.0, 3.0, 8.0)) for _ in range(6)}
    sampling["logit_bias"] |= dict.fromkeys(tokenizer.encode("é😀"), 6.0)


def stopped(tokenizer: Any, source: random.Random, prompt: list[int], sampling: dict, more: dict) -> None:
    sampling["stop"] = source.choice((("a", "the"), ("éé",), ("😀", "aaa", "1+1")))
    sampling["logit_bias"] = dict.fromkeys((*tokenizer.encode("aé😀"), *tokenizer.encode("the")), 7.0)
    sampling |= {"min_tokens": source.choice((0, 6)), "stop_ids": (source.randrange(TEXT_IDS),)}


def calling(tokenizer: Any, source: random.Random, prompt: list[int], sampling: dict, more: dict) -> None:
    """The prompt may leave a call open; the model is pushed to close it, and to begin another."""
    special = tokenizer.special
    if source.random() < 0.7:
        expression = source.choice(("37+58", "1/0", '"strawberry".count("r")', "nonsense", "2**200"))
        prompt += [special("<|python_start|>"), *tokenizer.encode(expression)]
    sampling["logit_bias"] = {special("<|python_end|>"): 25.0, special("<|python_start|>"): 12.0}
    sampling["max_tokens"] = 30


def in_form(tokenizer: Any, source: random.Random, prompt: list[int], sampling: dict, more: dict) -> None:
    kind, value = source.choice(
        (
            ("json_schema", SCHEMA),
            ("json_object", None),
            ("regex", r"[a-c]{3,9}-\d{2}"),
            ("choice", ["yes", "no", "the cat"]),
            ("lark", GRAMMAR),
            ("regex", "(unclosed"),
            ("json_schema", {"type": "nonsense"}),
        )
    )
    sampling["max_tokens"] = 40
    more["constraint"] = locations.make_constraint(kind, value)


def scored(tokenizer: Any, source: random.Random, prompt: list[int], sampling: dict, more: dict) -> None:
    more["score_from"] = source.randrange(len(prompt))
    sampling |= {"logprobs": source.choice((0, 3)), "max_tokens": source.choice((0, 0, 5))}


def wrong(tokenizer: Any, source: random.Random, prompt: list[int], sampling: dict, more: dict) -> None:
    sampling |= source.choice(
        (
            *({"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"logprobs": 21}, {"max_tokens": 0}),
            *(
                {"logit_bias": {10_000: 1.0}},
                {"stop": ("",)},
                {"stop_ids": (-1,)},
                {"repetition_penalty": 0.0},
            ),
        )
    )
    if source.random() < 0.2:
        prompt += [1] * CONTEXT


KINDS = (
    plain,
    plain,
    truncated,
    penalised,
    biased,
    stopped,
    stopped,
    calling,
    calling,
    in_form,
    in_form,
    scored,
    wrong,
)


# ---- answers as JSON ----


def as_json(completion: Any) -> Result:
    """All that a completion says."""
    return {
        "ids": list(completion.ids),
        "sampled": list(completion.sampled),
        "parts": as_pairs(completion.parts),
        "text": completion.text,
        "finish reason": completion.finish_reason,
        "logprobs": as_numbers(completion.logprobs),
        "prompt logprobs": as_numbers(completion.prompt_logprobs),
        "cached": completion.cached_tokens,
        "error": completion.error,
    }


def as_pairs(parts: Any) -> list[list[str]]:
    """Kind and text of each part."""
    return [[part.kind, part.text] for part in parts]


def as_numbers(logprobs: Any) -> Any:
    """Log-probabilities, with their alternatives."""
    if logprobs is None:
        return None
    return [None if one is None else [one.logprob, [list(pair) for pair in one.top]] for one in logprobs]


def told_apart(result: Result) -> dict[str, int]:
    """How many there are of each way to end, calls answered, and so on: that the requests are of many kinds."""
    counts: dict[str, int] = {}
    replies = [reply for answer in result.values() if isinstance(answer, list) for reply in answer]
    for reply in replies:
        kinds = [reply.partition(":")[0]] if isinstance(reply, str) else [reply["finish reason"]]
        if not isinstance(reply, str):
            kinds += [f"with {kind}" for kind in {part[0] for part in reply["parts"]}]
            kinds += ["scored"] if reply["prompt logprobs"] else []
            kinds += ["cached"] if reply["cached"] else []
        for kind in kinds:
            counts[kind] = counts.get(kind, 0) + 1
    return counts


if __name__ == "__main__":
    main()
