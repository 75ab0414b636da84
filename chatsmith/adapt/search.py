"""Passages that go with a question, by BM25 (Robertson & Zaragoza 2009), and a prompt that holds them."""

import re
from collections.abc import Sequence

from chatsmith.adapt.passages import Passage, package
from chatsmith.text.chat import Conversation, Message, render_prompt
from chatsmith.text.tokenizer import Tokenizer

MOST_PASSAGES = 4
INTRODUCTION = "Answer from these passages."


class PassageIndex:
    """Passages by the words in them."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Raises UserError if the package that searches is missing."""
        self.passages = list(passages)
        self._bm25 = package("bm25s").BM25()
        self._bm25.index([words(f"{one.heading} {one.text}") for one in self.passages], show_progress=False)

    def best(self, question: str, count: int = MOST_PASSAGES) -> list[Passage]:
        """At most `count` passages that share words with the question, the best first."""
        known = [word for word in words(question) if word in self._bm25.vocab_dict]
        if not known:
            return []
        numbers, scores = self._bm25.retrieve([known], k=min(count, len(self.passages)), show_progress=False)
        return [
            self.passages[number] for number, score in zip(numbers[0], scores[0], strict=True) if score > 0
        ]


def with_passages(
    conversation: Conversation, passages: Sequence[Passage], tokenizer: Tokenizer, room: int
) -> tuple[Conversation, list[Passage]]:
    """The conversation with as many of the passages, before its last message, as leave the prompt within `room` tokens;
    and which they are."""
    *before, last = conversation
    used: list[Passage] = []
    best = conversation
    for passage in passages:
        tried = [*used, passage]
        told = "\n\n".join(f"[{number}] {one.name}\n{one.text}" for number, one in enumerate(tried, start=1))
        asked = Message.of("user", f"{INTRODUCTION}\n\n{told}\n\n{last.text}")
        if len(render_prompt((*before, asked), tokenizer)) <= room:
            used, best = tried, (*before, asked)
    return best, used


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"\w+", text.lower())
