"""Which questions training may ask, and which only the exams do.

Every question has a `Key`. What a key's subject is made of (a fact, a cast of a story, two numbers, ...) is sorted
into "train", "development" or "exam" once and for all by a hash, so the three are disjoint whatever the seed
and however much is generated.
"""

import random
from collections.abc import Callable
from hashlib import blake2b
from typing import Literal, NamedTuple, TypeVar

Split = Literal["train", "development", "exam"]
Drawn = TypeVar("Drawn")

# A tenth of all subjects each; facts and words, of which there are few, are dealt out by rank instead (`deal`).
_EXAM_SHARE = 0.10
_DEVELOPMENT_SHARE = 0.10


class Key(NamedTuple):
    """What a question is about, apart from its wording; and which wording it has."""

    section: str
    relation: str
    entities: tuple[str, ...]
    template: str


def split_of(*subject: str) -> Split:
    """The split that `subject` belongs to, by its hash."""
    place = _hash(subject)
    if place < _EXAM_SHARE:
        return "exam"
    return "development" if place < _EXAM_SHARE + _DEVELOPMENT_SHARE else "train"


def deal(subjects: list[str], *, salt: str, exam: float, development: float) -> dict[str, Split]:
    """Deal a short list out by rank of hash: at least one each to the exam and to development.

    `exam` and `development` are shares of the list.
    """
    ranked = sorted(subjects, key=lambda subject: _hash((salt, subject)))
    exam_end = max(1, round(exam * len(ranked)))
    development_end = exam_end + max(1, round(development * len(ranked)))
    return {
        subject: "exam" if rank < exam_end else "development" if rank < development_end else "train"
        for rank, subject in enumerate(ranked)
    }


def draw(
    rng: random.Random,
    split: Split,
    make: Callable[[random.Random], Drawn],
    subject: Callable[[Drawn], tuple[str, ...]],
) -> Drawn:
    """Make things until one's subject falls into `split`."""
    while True:
        drawn = make(rng)
        if split_of(*subject(drawn)) == split:
            return drawn


def _hash(subject: tuple[str, ...]) -> float:
    """A number in [0, 1) that depends on `subject` alone."""
    digest = blake2b("\x1f".join(subject).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
