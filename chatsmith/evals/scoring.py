"""How likely a model finds texts: which tokens of a question are scored, what the scores decide, and the engine's way.

A passage is a text as ids and the index from which on it is scored. Where a question's texts begin alike, only what
differs is scored; where they end alike (schema), only the common end. The comparison is made between ids, not
characters: a word belongs to its leading space. So it is defined by DCLM's and nanochat's CORE, token boundaries
included. `EngineScorer` asks chatsmith's engine; `TransformersScorer` is the same for other people's models.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch

from chatsmith.bundle import Bundle
from chatsmith.engine.request import Completion, Request, SamplingParams
from chatsmith.llm import LLM
from chatsmith.runtime.console import Bar
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.core import Kind


@dataclass(frozen=True)
class Passage:
    """Ids, of which those from `start` on are scored."""

    ids: tuple[int, ...]
    start: int
    """At least 1: nothing predicts the first id. It may be the length: nothing is scored then."""
    is_cropped: bool = field(default=False, compare=False)
    """Whether it lost its beginning, because it did not fit the context."""

    def __post_init__(self) -> None:
        assert 1 <= self.start <= len(self.ids), f"scored from {self.start} of {len(self.ids)} ids"


@dataclass(frozen=True)
class PassageScore:
    """What a model thinks of the scored ids of a passage."""

    logprobs: tuple[float, ...]
    """Natural log-probability of each scored id, given all ids before it."""
    is_likeliest: bool
    """Whether each scored id is the one the model would have chosen there."""

    @property
    def loss(self) -> float:
        """Mean nats a scored id; NaN if there is none."""
        return -sum(self.logprobs) / len(self.logprobs) if self.logprobs else math.nan


Question = tuple[Passage, ...]
"""Passages that are decided together."""

Scored = tuple[int, Question, list[PassageScore]]
"""A question's index, the question, and the score of each of its passages."""


class Scorer(Protocol):
    """Says how likely a model finds passages."""

    context_length: int
    """The most ids a passage may have."""
    bos_id: int
    """The id that every text begins with."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of ordinary texts, without that one."""
        ...

    def score(self, questions: Iterable[Question]) -> Iterator[Scored]:
        """Every question with its scores, as each is done; `questions` is read as it goes."""
        ...


@dataclass(frozen=True)
class Decision:
    """What became of one item."""

    is_right: bool
    losses: tuple[float, ...]
    """The loss of each passage."""
    was_cropped: bool = False
    """Whether a passage lost its beginning."""


def make_question(kind: Kind, texts: Sequence[Sequence[int]], context_length: int) -> Question:
    """The passages that decide an item of this kind, from the ids of its prompts (`tasks.core.prompts`).

    Each text begins with the bos id. A passage longer than the context loses its beginning.
    """
    match kind:
        case "multiple choice":
            start = common_prefix(texts)
            passages = [(text, start) for text in texts]
        case "schema":
            length = common_suffix(texts)
            passages = [(text, len(text) - length) for text in texts]
        case "language modeling":
            # Of the two, the one without the continuation is normally a prefix of the other.
            passages = [(texts[1], common_prefix(texts))]
    return tuple(_cropped(text, start, context_length) for text, start in passages)


def decide(kind: Kind, scores: Sequence[PassageScore], gold: int | None) -> Decision:
    """Whether the model is right: the choice of the lowest mean loss a token is the gold one, or, in language
    modeling, every id of the continuation was the likeliest."""
    losses = tuple(score.loss for score in scores)
    if kind == "language modeling":
        return Decision(bool(scores[0].logprobs) and scores[0].is_likeliest, losses)
    # A choice that is the beginning of another has no token of its own, and the loss NaN; the definition takes
    # Python's minimum over such losses, which is the first one then.
    return Decision(losses.index(min(losses)) == gold, losses)


def decide_all(
    scorer: Scorer, kind: Kind, questions: Iterable[Question], golds: Sequence[int | None], bar: Bar
) -> list[Decision]:
    """What becomes of each of these questions; `golds` are the indices of the right choices."""
    decisions = {}
    for index, question, scores in scorer.score(questions):
        was_cropped = any(passage.is_cropped for passage in question)
        decisions[index] = replace(decide(kind, scores, golds[index]), was_cropped=was_cropped)
        bar.advance(1)
    return [decisions[index] for index in range(len(decisions))]


def common_prefix(texts: Sequence[Sequence[int]]) -> int:
    """How many ids all texts have in common at their beginning."""
    shortest = min(map(len, texts))
    for index in range(shortest):
        if any(text[index] != texts[0][index] for text in texts):
            return index
    return shortest


def common_suffix(texts: Sequence[Sequence[int]]) -> int:
    """How many ids all texts have in common at their end."""
    return common_prefix([text[::-1] for text in texts])


def _cropped(text: Sequence[int], start: int, context_length: int) -> Passage:
    surplus = max(0, len(text) - context_length)
    # The first id of what is left is predicted by nothing.
    return Passage(tuple(text[surplus:]), max(1, start - surplus), surplus > 0)


# ---------------------------------------------------------------------------------------------- with chatsmith's engine

WINDOW = 128
"""Questions that are scored together, by length; all of a task would take gigabytes as lists of ids."""

MAX_RUNNING = 48
TOKENS_PER_STEP = 4096
"""Prompts in work at once, and tokens computed at once: enough for large matrix products."""

_SCORING = SamplingParams(max_tokens=0, logprobs=1)
_NOTHING = PassageScore((), is_likeliest=True)


class EngineScorer:
    """A `Scorer` over a bundle: passages sorted by length, packed into large steps, common prefixes computed once.

    The choices of a question begin alike and are asked one after another, so that they find their prefix in the cache.
    Logits are only made for the ids that are scored.
    """

    def __init__(
        self, bundle: Bundle, *, max_running: int = MAX_RUNNING, tokens_per_step: int = TOKENS_PER_STEP
    ) -> None:
        self._tokenizer = bundle.tokenizer
        llm = LLM(bundle, exact=False, tool=None, max_running=max_running, tokens_per_step=tokens_per_step)
        self._engine = llm.engine
        self.context_length = bundle.config.context_length
        self.bos_id = bundle.tokenizer.bos_id

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of ordinary texts."""
        return self._tokenizer.encode_batch(texts)

    def score(self, questions: Iterable[Question]) -> Iterator[Scored]:
        """Every question with its scores. Raises UserError if the model's numbers are not finite."""
        numbered = iter(enumerate(questions))
        while window := list(islice(numbered, WINDOW)):
            window.sort(key=lambda one: -max(len(passage.ids) for passage in one[1]))
            asked = [one for _, question in window for one in question if one.start < len(one.ids)]
            requests = [Request(one.ids, _SCORING, score_from=one.start) for one in asked]
            scores = map(_passage_score, self._engine.generate(requests))
            for index, question in window:
                yield (
                    index,
                    question,
                    [next(scores) if one.start < len(one.ids) else _NOTHING for one in question],
                )


def _passage_score(completion: Completion) -> PassageScore:
    if completion.finish_reason == "error":
        raise UserError(f"the model cannot be scored: {completion.error}")
    assert completion.prompt_logprobs is not None
    scored = completion.prompt_ids[len(completion.prompt_ids) - len(completion.prompt_logprobs) :]
    logprobs, is_likeliest = [], True
    for id, one in zip(scored, completion.prompt_logprobs, strict=True):
        assert one is not None, "a passage is scored from its second id on"
        logprobs.append(one.logprob)
        is_likeliest = is_likeliest and one.top[0][0] == id
    return PassageScore(tuple(logprobs), is_likeliest)


# ---------------------------------------------------------------------------------- with the transformers library


class TransformersScorer:
    """A `Scorer` over a folder that transformers can load, so that published models can be checked against.

    One text at a time: it is for reproducing known scores, and not fast. It reads local folders only: nothing is
    downloaded, no code of a checkpoint is executed, and weights must be safetensors. It needs the extra `hf`.
    """

    def __init__(self, path: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Raises UserError if the extra is missing or the folder is not such a checkpoint."""
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise UserError("scoring other models needs transformers: pip install 'chatsmith[hf]'") from None
        if not path.is_dir():
            raise UserError(f"{path} is no folder with a transformers checkpoint")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                path, local_files_only=True, use_safetensors=True, dtype=dtype
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{path} cannot be loaded as a transformers checkpoint: {reason}") from None
        self._model: Any = model.to(device).eval()
        self._device = device
        self.bos_id = _first_id(self._tokenizer, path)
        self.context_length = getattr(self._model.config, "max_position_embeddings", 0)
        if not isinstance(self.context_length, int) or not self.context_length:
            raise UserError(f"{path}: its config.json does not say how long its context is")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of ordinary texts."""
        return self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    def score(self, questions: Iterable[Question]) -> Iterator[Scored]:
        """Every question with its scores, in order."""
        for index, question in enumerate(questions):
            yield index, question, [self._score(passage) for passage in question]

    def _score(self, passage: Passage) -> PassageScore:
        inputs = torch.tensor([passage.ids], device=self._device)
        with torch.inference_mode():
            # (T, V): it makes them for every token
            logits = self._model(input_ids=inputs, use_cache=False).logits[0]
            scored, before = inputs[0, passage.start :], logits[passage.start - 1 : -1].float()
            logprobs = before.log_softmax(dim=-1).gather(-1, scored[:, None])[:, 0]
            return PassageScore(tuple(logprobs.tolist()), bool((before.argmax(dim=-1) == scored).all()))


def _first_id(tokenizer: Any, path: Path) -> int:
    """The id that every text begins with: libraries agree on little here, so the usual names are tried."""
    known = tokenizer.get_vocab()
    for name in ("<|bos|>", "<|endoftext|>"):
        if name in known:
            return known[name]
    for id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(id, int):
            return id
    raise UserError(f"{path}: its tokenizer has no token for the beginning of a text")
