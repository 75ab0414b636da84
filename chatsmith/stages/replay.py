"""What the model learnt before, learnt from again beside the replies, so that practising forgets less of the rest.

Ouyang et al. 2022 (arXiv:2203.02155, "PPO-ptx") mix the gradient of earlier text into every update for this reason.
Conversations of fine-tuning keep how to answer, documents of pretraining what to answer: what only those tell (in the
kindergarten, how a word is spelled) would be forgotten first. A text is a row like a reply's, whose tokens all have
the same advantage and were sampled by nobody.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

from chatsmith.data.conversations import whole_turns
from chatsmith.text.chat import Conversation, Rendered, render
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.policy_gradient import ScoredReply

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
        weight: float,
        seed: int,
    ) -> None:
        """`weight` stands in for the advantage. Some conversations are chosen by chance, since files often hold one
        kind after the other; of documents, of which there may be billions, the first. What is longer than the context
        is cut: a conversation after the last answer that fits."""
        self._tokenizer, self._places = tokenizer, context_length + 1
        self._weight = weight
        chance = random.Random(f"{seed} replay")
        self._conversations = _some_of(conversations, MOST_KEPT, chance)
        self._documents = list(islice(documents, MOST_KEPT))
        chance.shuffle(self._conversations)
        chance.shuffle(self._documents)

    def rows(self, places: Sequence[int]) -> list[ScoredReply]:
        """The texts at these places of the order, without those of which nothing to learn fits."""
        rendered = map(self._text, places)
        return [self._row(one) for one in rendered if any(one.mask)]

    def _text(self, place: int) -> Rendered:
        number, is_document = divmod(place, 2) if self._documents and self._conversations else (place, None)
        if is_document or not self._conversations:
            text = self._documents[number % len(self._documents)]
            ids = [self._tokenizer.bos_id, *self._tokenizer.encode(text)][: self._places]
            return Rendered(ids, [0] + [1] * (len(ids) - 1))
        conversation = render(self._conversations[number % len(self._conversations)], self._tokenizer)
        return whole_turns(conversation, self._places, self._tokenizer.special("<|assistant_end|>"))

    def _row(self, text: Rendered) -> ScoredReply:
        return ScoredReply(
            text.ids[:1], text.ids[1:], [bool(one) for one in text.mask[1:]], None, self._weight
        )


def _some_of(items: Iterable[Item], most: int, chance: random.Random) -> list[Item]:
    """All items, or `most` of them, each as likely as any other (reservoir sampling)."""
    kept: list[Item] = []
    for number, item in enumerate(items):
        if number < most:
            kept.append(item)
        elif (place := chance.randrange(number + 1)) < most:
            kept[place] = item
    return kept
