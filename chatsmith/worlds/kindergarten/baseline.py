"""The baseline: answer with the reply that the nearest training question got.

Nearness is the cosine of TF-IDF vectors over the words of all that the user said. What a model scores above this
baseline, it did not get by looking up a similar question. Plain numpy.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from chatsmith.data.problems import Problem
from chatsmith.tasks.rules import normalise
from chatsmith.text.chat import Conversation, Message


class NearestQuestion:
    """Remembers the questions of many conversations, and answers with the reply to the nearest one."""

    def __init__(self, conversations: Iterable[Conversation]) -> None:
        """Every assistant turn counts as an answer, twice over: to the question alone, and to all said so far."""
        self._replies: list[str] = []
        documents: list[Counter[str]] = []
        for conversation in conversations:
            for number, message in enumerate(conversation):
                if message.role == "assistant":
                    for text in {_said(conversation[number - 1 : number]), _said(conversation[:number])}:
                        documents.append(Counter(normalise(text).split()))
                        self._replies.append(message.text)
        frequency = Counter(word for words in documents for word in words)
        self._rarity = {word: math.log(len(documents) / count) + 1.0 for word, count in frequency.items()}
        postings: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for number, words in enumerate(documents):
            weights = self._weights(words)
            for word, weight in weights.items():
                postings[word][0].append(number)
                postings[word][1].append(weight)
        self._postings = {
            word: (np.array(numbers, dtype=np.int32), np.array(weights, dtype=np.float32))
            for word, (numbers, weights) in postings.items()
        }

    def answer(self, prompt: Conversation) -> str:
        """The reply to the question nearest to `prompt`; the first of several equally near."""
        similarity = np.zeros(len(self._replies), dtype=np.float32)
        for word, weight in self._weights(Counter(normalise(_said(prompt)).split())).items():
            if word in self._postings:
                numbers, weights = self._postings[word]
                similarity[numbers] += weight * weights
        return self._replies[int(similarity.argmax())]

    def _weights(self, words: Counter[str]) -> dict[str, float]:
        """The TF-IDF vector of a text, of length 1. Unknown words count as the rarest ones."""
        weights = {word: count * self._rarity.get(word, 12.0) for word, count in words.items()}
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        return {word: weight / length for word, weight in weights.items()}


def baseline_scores(conversations: Iterable[Conversation], problems: Sequence[Problem]) -> dict[str, float]:
    """The share of `problems` that the nearest question answers, by section; the key "overall" has the whole."""
    nearest = NearestQuestion(conversations)
    passed: dict[str, list[bool]] = defaultdict(list)
    for problem in problems:
        passed[problem.section].append(problem.check(nearest.answer(problem.messages)))
    everything = [result for results in passed.values() for result in results]
    return {section: sum(results) / len(results) for section, results in passed.items()} | {
        "overall": sum(everything) / len(everything)
    }


def _said(messages: Sequence[Message]) -> str:
    """What was said by system and user, and by the assistant where it tells a story that is asked about."""
    return " ".join(message.text for message in messages)
