"""From prompts to passages: which tokens of a text are scored, and what the scores decide.

A passage is a text as ids and the place from which on it is scored. Where a question's texts begin alike, only what
differs is scored; where they end alike (schema), only the common end. The comparison is made between ids, not
characters: a word belongs to its leading space. So it is defined by DCLM's and nanochat's CORE, token boundaries
included.

`Scorer` is whoever can tell the probabilities: chatsmith's engine, or another library's model. Nothing here computes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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


class Scorer(Protocol):
    """Tells how likely a model finds passages."""

    @property
    def context_length(self) -> int:
        """The most ids a passage may have."""
        ...

    @property
    def bos_id(self) -> int:
        """The id with which every text begins."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of ordinary texts, without the beginning."""
        ...

    def score(
        self, questions: Iterable[Question], on_scored: Callable[[int], None] = lambda _: None
    ) -> list[list[PassageScore]]:
        """The scores of every passage, in order; `questions` is read as it goes. `on_scored` hears the index of each
        question as it is done."""
        ...


@dataclass(frozen=True)
class Decision:
    """What became of one item."""

    is_right: bool
    losses: tuple[float, ...]
    """The loss of each passage."""
    was_cropped: bool = False
    """Whether a passage lost its beginning."""

    @property
    def margin(self) -> float:
        """How far the best choice is ahead of the next, in nats a token; infinite without a choice."""
        ordered = sorted(loss for loss in self.losses if not math.isnan(loss))
        return ordered[1] - ordered[0] if len(ordered) > 1 else math.inf


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
        case "language modelling":
            # Of the two, the one without the continuation is normally a prefix of the other.
            passages = [(texts[1], common_prefix(texts))]
    return tuple(_cropped(text, start, context_length) for text, start in passages)


def decide(kind: Kind, scores: Sequence[PassageScore], gold: int | None) -> Decision:
    """Whether the model is right: the choice of the lowest mean loss a token is the gold one, or, in language
    modelling, every id of the continuation was the likeliest."""
    losses = tuple(score.loss for score in scores)
    if kind == "language modelling":
        return Decision(bool(scores[0].logprobs) and scores[0].is_likeliest, losses)
    # A choice that is the beginning of another has no token of its own, and the loss NaN; the definition takes
    # Python's minimum over such losses, which is the first one then.
    return Decision(losses.index(min(losses)) == gold, losses)


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
