"""Leakage: which test items stand, in part, in the text a model learns from.

Two texts overlap if they have 13 words in a row in common (Brown et al. 2020, GPT-3's appendix C), after letter case
and punctuation are dropped. Items of fewer words cannot be checked and are counted apart. An overlap is not yet a
solved item: a question may quote a well-known sentence. So examples are shown.

Word sequences are compared by 64-bit hashes, which for these numbers never collide in practice. It reads texts and
reports; it removes nothing.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

WORDS = 13
EXAMPLES = 3
"""Shown for each test set."""

_WORD = re.compile(r"[^\W_]+")
_UNKNOWN = 0
_BATCH_CHARACTERS = 4 << 20


@dataclass(frozen=True)
class TestSet:
    """The items of one benchmark that scores are reported on, as texts."""

    __test__ = False  # not a test, whatever pytest makes of the name

    name: str
    texts: tuple[str, ...]


@dataclass
class Overlap:
    """What was found for one test set."""

    name: str
    items: int
    too_short: int
    """Items of fewer than 13 words, which cannot be checked."""
    overlapping: int = 0
    """Items that share 13 words in a row with the training text."""
    examples: list[str] = field(default_factory=list)
    """Some of the shared words."""

    @property
    def share(self) -> float:
        """Overlapping items among those that can be checked."""
        return self.overlapping / max(1, self.items - self.too_short)

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --leakage --json` prints of it."""
        return {
            "items": self.items,
            "too_short": self.too_short,
            "overlapping": self.overlapping,
            "share": self.share,
            "examples": self.examples,
        }


class LeakageCheck:
    """Knows the word sequences of the test sets; training text is passed through `read`, then `report` tells."""

    def __init__(self, test_sets: Sequence[TestSet]) -> None:
        self._test_sets = test_sets
        self._numbers: dict[str, int] = {}
        # A random number stands for each word; a sequence is hashed by a polynomial in them.
        self._values = np.zeros(1, dtype=np.uint64)
        self._of_items = [[self._sequences(text, learn=True) for text in one.texts] for one in test_sets]
        all_sequences = [sequences for items in self._of_items for sequences in items]
        self._known = np.unique(np.concatenate([*all_sequences, np.zeros(0, dtype=np.uint64)]))
        self._seen = np.zeros(len(self._known), dtype=bool)

    def read(self, texts: Iterable[str]) -> Iterator[int]:
        """Look for the test sets' word sequences in training texts. Yields, now and then, how many characters more
        were read."""
        for batch in _batches(texts):
            # The mark between texts is no word, so no sequence reaches across it.
            found = self._sequences(" \0 ".join(batch), learn=False)
            places = np.searchsorted(self._known, found)
            places[places == len(self._known)] = 0
            if len(self._known):
                self._seen[places[self._known[places] == found]] = True
            yield sum(map(len, batch))

    def report(self) -> list[Overlap]:
        """What was found in all that was read."""
        overlaps = []
        for one, items in zip(self._test_sets, self._of_items, strict=True):
            overlap = Overlap(one.name, len(one.texts), 0)
            for text, sequences in zip(one.texts, items, strict=True):
                if not len(sequences):
                    overlap.too_short += 1
                    continue
                hits = np.flatnonzero(self._seen[np.searchsorted(self._known, sequences)])
                if len(hits):
                    overlap.overlapping += 1
                    if len(overlap.examples) < EXAMPLES:
                        words = _WORD.findall(text.casefold())
                        overlap.examples.append(" ".join(words[hits[0] : hits[0] + WORDS]))
            overlaps.append(overlap)
        return overlaps

    def _sequences(self, text: str, *, learn: bool) -> np.ndarray:
        """(n - 12,) hashes of the sequences of 13 words of a text; those with a word unknown to all test sets are left
        out, unless `learn` makes every word known."""
        words = (_WORD if learn else _WORD_OR_MARK).findall(text.casefold())
        numbers = self._numbers
        if learn:
            indices = [numbers.setdefault(word, len(numbers) + 1) for word in words]
            self._grow()
        else:
            indices = [numbers.get(word, _UNKNOWN) for word in words]
        if len(indices) < WORDS:
            return np.zeros(0, dtype=np.uint64)
        known = np.array(indices)
        values = self._values[known]
        count = len(known) - WORDS + 1
        hashes = np.zeros(count, dtype=np.uint64)
        is_whole = np.ones(count, dtype=bool)
        for offset in range(WORDS):
            hashes = hashes * _BASE + values[offset : offset + count]
            is_whole &= known[offset : offset + count] != _UNKNOWN
        return hashes[is_whole]

    def _grow(self) -> None:
        """Numbers for words that have come since; the same ones for the same words in the same order."""
        missing = len(self._numbers) + 1 - len(self._values)
        if missing > 0:
            size = max(missing, len(self._values))  # doubling, or growing would take quadratic time
            more = np.random.default_rng(len(self._values)).integers(1, 2**64, size=size, dtype=np.uint64)
            self._values = np.concatenate([self._values, more])


_WORD_OR_MARK = re.compile(r"[^\W_]+|\0")
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication loses nothing


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text.replace("\0", " "))
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
