"""The kindergarten: a small world in plain English that a small model can learn in minutes.

Item number i of a split depends on the seed, the split and i alone, not on how many are made. No text of training
is ever one of validation: which of the two a text may appear in is decided by a hash of it.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from typing import Literal, get_args

from chatsmith.data.problems import Problem
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation
from chatsmith.worlds.kindergarten.conversations import KeyedConversation, draw_conversation
from chatsmith.worlds.kindergarten.documents import Document, draw_document
from chatsmith.worlds.kindergarten.exam import exam_problems

TextSplit = Literal["train", "validation"]
# One text in so many may only be used for validation, whose share of what is generated is set by the caller.
_VALIDATION_EVERY = 16


class Kindergarten:
    """The embedded task. Everything is generated when asked for."""

    def __init__(
        self, seed: int = 1, documents: int = 40_000, conversations: int = 40_000, validation: int = 500
    ) -> None:
        """`documents` and `conversations` count those of training; of validation there are `validation` each.

        The seed chooses the texts; the exam is the same for all seeds. Raises UserError for counts below one.
        """
        for name, count in (
            ("documents", documents),
            ("conversations", conversations),
            ("validation", validation),
        ):
            if count < 1:
                raise UserError(f"kindergarten: {name} must be at least 1, not {count}")
        self.seed = seed
        self.num_documents = documents
        self.num_conversations = conversations
        self.num_validation = validation

    @property
    def name(self) -> str:
        """The task's name."""
        return "kindergarten"

    def documents(self, split: str) -> Iterator[str]:
        """Texts for pretraining; `split` is "train" or "validation"."""
        return (document.text for document in self.keyed_documents(split))

    def conversations(self, split: str) -> Iterator[Conversation]:
        """Conversations for fine-tuning; `split` is "train" or "validation"."""
        return (conversation.messages for conversation in self.keyed_conversations(split))

    def problems(self, split: str) -> Iterator[Problem]:
        """The items of the "exam", or those of "development" to tune on."""
        if split not in ("development", "exam"):
            raise UserError(f'kindergarten has no problems "{split}"; there are "development" and "exam"')
        return exam_problems(split)

    def keyed_documents(self, split: str) -> Iterator[Document]:
        """The documents with their kinds and the keys of their questions."""
        count = self._count(split, self.num_documents)
        for index in range(count):
            rng = self._random(split, "document", index)
            document = draw_document(rng)
            while _belongs_to(document.text) != split:
                document = draw_document(rng)
            yield document

    def keyed_conversations(self, split: str) -> Iterator[KeyedConversation]:
        """The conversations with their kinds and the keys of their questions."""
        count = self._count(split, self.num_conversations)
        for index in range(count):
            rng = self._random(split, "conversation", index)
            conversation = draw_conversation(rng)
            while _belongs_to(_transcript(conversation.messages)) != split:
                conversation = draw_conversation(rng)
            yield conversation

    def mixture(self, split: str = "train") -> dict[str, dict[str, int]]:
        """How many documents and conversations there are of each kind; generates them all to count."""
        return {
            "documents": dict(
                Counter(document.kind for document in self.keyed_documents(split)).most_common()
            ),
            "conversations": dict(
                Counter(each.kind for each in self.keyed_conversations(split)).most_common()
            ),
        }

    def _count(self, split: str, for_training: int) -> int:
        if split not in get_args(TextSplit):
            raise UserError(f'kindergarten has no texts "{split}"; there are "train" and "validation"')
        return for_training if split == "train" else self.num_validation

    def _random(self, split: str, kind: str, index: int) -> random.Random:
        return random.Random(f"{self.seed} {split} {kind} {index}")


def _belongs_to(text: str) -> TextSplit:
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return "validation" if int.from_bytes(digest, "big") % _VALIDATION_EVERY == 0 else "train"


def _transcript(messages: Conversation) -> str:
    """A conversation as one text, for hashing. System messages are left out: a text with another one is no new one."""
    return "\n".join(f"{message.role}: {message.text}" for message in messages if message.role != "system")
