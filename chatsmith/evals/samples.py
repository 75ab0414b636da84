"""Fixed prompts, so that models and stages can be read side by side: texts to continue, and questions.

A base model continues nanochat's seven texts greedily, and writes freely from nothing, each time with a seed of its
own; a model that was taught to converse answers questions, greedily. The replies are judged by nobody.
"""

from typing import Any

from chatsmith.engine.request import Request, SamplingParams
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.results import LENGTHS
from chatsmith.text.chat import Message, render_prompt

# nanochat's scripts/base_loss.py and base_eval.py.
TEXTS = (
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow will be",
    "The opposite of hot is",
    "The planets of the solar system are:",
    "My favorite color is",
    "If 5*x + 3 = 13, then x is",
)
QUESTIONS = (
    "Hello! Who are you?",
    "What is the capital of France?",
    "Why is the sky blue?",
    "What is 37 plus 58?",
    "How many letters r are in strawberry?",
    "Tell me a short story about a cat.",
)
FREE = 8
"""Texts from nothing."""


def samples(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Transcript entries: `id`, `section` (continued, free, answered), `prompt`, `reply`."""
    tokenizer = evaluation.bundle.tokenizer
    greedy = SamplingParams(temperature=0.0, max_tokens=LENGTHS["continued"])
    asked: list[tuple[str, str, Request]] = []
    if evaluation.bundle.provenance.get("stage", "pretrain") == "pretrain":
        for text in TEXTS:
            asked.append(("continued", text, Request((tokenizer.bos_id, *tokenizer.encode(text)), greedy)))
        for seed in range(1, FREE + 1):
            free = SamplingParams(temperature=1.0, max_tokens=LENGTHS["free"], seed=seed)
            asked.append(("free", f"(nothing, seed {seed})", Request((tokenizer.bos_id,), free)))
    else:
        answer = SamplingParams(temperature=0.0, max_tokens=LENGTHS["answered"])
        for text in QUESTIONS:
            ids = tuple(render_prompt((Message.of("user", text),), tokenizer))
            asked.append(("answered", text, Request(ids, answer)))
    mine = evaluation.share(asked)
    completions = evaluation.engine.generate([request for _, _, request in mine])
    replies = evaluation.collect([None if one.error else one.text for one in completions], len(asked))
    return [
        {"id": f"{section} {prompt}", "section": section, "prompt": prompt, "reply": reply}
        for (section, prompt, _), reply in zip(asked, replies, strict=True)
        if reply is not None  # a context of a few tokens holds no question
    ]
