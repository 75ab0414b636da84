"""Texts that the model learnt from before, on which it is held to what it said of them (`train/distillation.py`).

Conversations of fine-tuning say how to answer, documents of pretraining what: what only those tell (in the
kindergarten, how a word is spelled) would be forgotten first.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

from chatsmith.text.chat import Conversation, render
from chatsmith.text.tokenizer import Tokenizer

MOST_KEPT = 20_000
"""Conversations and documents, each, that are held in memory: more than most runs come to see."""

Item = TypeVar("Item")


class Replay:
    """An endless order of conversations and documents in turn, decided by a seed."""

    def __init__(
        self,
        conversations: Iterable[Conversation],
        documents: Iterable[str],
        tokenizer: Tokenizer,
        *,
        context_length: int,
        seed: int,
    ) -> None:
        """Some conversations are chosen by chance, since files often hold one
        kind after the other; of documents, of which there may be billions, the first. What is longer than the context
        is cut."""
        self._tokenizer, self._places = tokenizer, context_length
        chance = random.Random(f"{seed} replay")
        self._conversations = _some_of(conversations, MOST_KEPT, chance)
        self._documents = list(islice(documents, MOST_KEPT))
        chance.shuffle(self._conversations)
        chance.shuffle(self._documents)

    def texts(self, places: Sequence[int]) -> list[list[int]]:
        """The ids of the texts at these places of the order."""
        return [self._text(place)[: self._places] for place in places]

    def _text(self, place: int) -> list[int]:
        number, is_document = divmod(place, 2) if self._documents and self._conversations else (place, None)
        if is_document or not self._conversations:
            text = self._documents[number % len(self._documents)]
            return [self._tokenizer.bos_id, *self._tokenizer.encode(text)]
        return render(self._conversations[number % len(self._conversations)], self._tokenizer).ids


def _some_of(items: Iterable[Item], most: int, chance: random.Random) -> list[Item]:
    """All items, or `most` of them, each as likely as any other (reservoir sampling)."""
    kept: list[Item] = []
    for number, item in enumerate(items):
        if number < most:
            kept.append(item)
        elif (place := chance.randrange(number + 1)) < most:
            kept[place] = item
    return kept
