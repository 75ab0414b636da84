"""Passages that go with a question, by BM25 (Robertson & Zaragoza 2009), and a question that comes with them."""

import re
from collections.abc import Callable, Sequence

from chatsmith.adapt.passages import Passage, package

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
        known = [word for word in dict.fromkeys(words(question)) if word in self._bm25.vocab_dict]
        if not known:
            return []
        numbers, scores = self._bm25.retrieve([known], k=min(count, len(self.passages)), show_progress=False)
        return [
            self.passages[number] for number, score in zip(numbers[0], scores[0], strict=True) if score > 0
        ]

    def put_before(self, question: str, fits: Callable[[str], bool]) -> tuple[str, list[Passage]]:
        """The question after the best passages of which the text still `fits`, and which they are."""
        used: list[Passage] = []
        asked = question
        if not fits(question):  # too long for any passage; and to be searched by each of its words
            return asked, used
        for passage in self.best(question):
            tried = [*used, passage]
            told = "\n\n".join(
                f"[{number}] {one.name}\n{one.text}" for number, one in enumerate(tried, start=1)
            )
            text = f"{INTRODUCTION}\n\n{told}\n\n{question}"
            if fits(text):
                used, asked = tried, text
        return asked, used


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"\w+", text.lower())
