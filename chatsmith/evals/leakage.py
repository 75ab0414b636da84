"""Leakage: which test items stand, in part, in the text a model learns from.

Two texts overlap if they have 13 words in a row in common (Brown et al. 2020, GPT-3's appendix C), after letter case
and punctuation are dropped. Items of fewer words cannot be checked and are counted apart. An overlap is not yet a
solved item: a question may quote a well-known sentence. So examples are shown. The test sets are those of the
benchmarks, and the kindergarten's exam.

Word sequences are compared by 64-bit hashes, which for these numbers never collide in practice. It reads texts and
reports; it removes nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chatsmith.evals import chat
from chatsmith.tasks import gsm8k, humaneval
from chatsmith.tasks.benchmark_files import has_file
from chatsmith.tasks.core import TASKS, core_items
from chatsmith.worlds.kindergarten import Kindergarten

WORDS = 13
EXAMPLES = 3
"""Shown for each test set."""

# Between two training texts stands a NUL, which counts as a word that no test set has.
_WORD = re.compile(r"[^\W_]+|\0")
_UNKNOWN = 0
_BATCH_CHARACTERS = 4 << 20
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication loses nothing


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
    """Knows the word sequences of the test sets; training text goes through `read`; `report` says what was found."""

    def __init__(self, test_sets: Mapping[str, Sequence[str]]) -> None:
        """`test_sets` are the texts of every set's items, by its name."""
        self._words = {name: [_words(text) for text in texts] for name, texts in test_sets.items()}
        known = dict.fromkeys(word for items in self._words.values() for words in items for word in words)
        self._index_of = {word: index for index, word in enumerate(known, start=_UNKNOWN + 1)}
        # A random number stands for each word; a sequence is hashed by a polynomial in them.
        generator = np.random.default_rng(0)
        self._values = generator.integers(1, 2**64, size=len(known) + 1, dtype=np.uint64)
        self._of_items = {name: list(map(self._sequences, items)) for name, items in self._words.items()}
        everything = [sequences for items in self._of_items.values() for sequences in items]
        self._known = np.unique(np.concatenate([*everything, np.zeros(0, dtype=np.uint64)]))
        self._seen = np.zeros(len(self._known), dtype=bool)

    def read(self, texts: Iterable[str]) -> Iterator[int]:
        """Look for the test sets' word sequences in training texts. Yields, now and then, how many characters more
        were read."""
        for batch in _batches(texts):
            found = self._sequences(_words("\0".join(batch)))
            if len(self._known):
                indices = np.searchsorted(self._known, found).clip(max=len(self._known) - 1)
                self._seen[indices[self._known[indices] == found]] = True
            yield sum(map(len, batch))

    def report(self) -> list[Overlap]:
        """What was found in all that was read."""
        overlaps = []
        for name, items in self._of_items.items():
            overlap = Overlap(name, len(items), 0)
            for words, sequences in zip(self._words[name], items, strict=True):
                overlap.too_short += not len(sequences)
                hits = np.flatnonzero(self._seen[np.searchsorted(self._known, sequences)])
                if len(hits):
                    overlap.overlapping += 1
                    overlap.examples.append(" ".join(words[hits[0] : hits[0] + WORDS]))
            del overlap.examples[EXAMPLES:]
            overlaps.append(overlap)
        return overlaps

    def _sequences(self, words: Sequence[str]) -> np.ndarray:
        """(n - 12,) hashes of the sequences of 13 words; those with a word unknown to all test sets are left out."""
        indices = np.array([self._index_of.get(word, _UNKNOWN) for word in words], dtype=np.int64)
        count = max(0, len(indices) - WORDS + 1)
        hashes = np.zeros(count, dtype=np.uint64)
        is_whole = np.ones(count, dtype=bool)
        for offset in range(WORDS if count else 0):
            part = indices[offset : offset + count]
            hashes = hashes * _BASE + self._values[part]
            is_whole &= part != _UNKNOWN
        return hashes[is_whole]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


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


def find_test_sets(folder: Path) -> dict[str, list[str]]:
    """Every set of items that scores are reported on, as texts by its name: the benchmarks whose files are in
    `folder`, and the kindergarten's exam."""
    found: dict[str, list[str]] = {}
    for task in {task.file: task for task in TASKS}.values():
        if has_file(folder, task.path):
            texts = found[f"core/{task.file.rpartition('/')[2]}"] = []
            for item in core_items(task, folder):
                match task.kind:
                    case "multiple choice":
                        texts.append(f"{item['query']} {item['choices'][item['gold']]}")
                    case "schema":
                        texts.append(f"{item['context_options'][item['gold']]} {item['continuation']}")
                    case "language modeling":
                        texts.append(f"{item['context']} {item['continuation']}")
    for task in chat.TASKS:
        if "test" not in task.files or not has_file(folder, task.files["test"]):
            continue
        if isinstance(task, chat.LetterTask):
            asked = task.load("test", folder)
            found[task.name] = [" ".join([one.question, *one.choices]) for one in asked]
        elif task.name == gsm8k.NAME:
            found[task.name] = [problem.messages[0].text for problem in task.load("test", folder)]
        elif task.name == humaneval.NAME:
            problems = task.load("test", folder)
            found[task.name] = [f"{problem.messages[0].text}\n{problem.answer}" for problem in problems]
    exam = Kindergarten().problems("exam")
    found["kindergarten exam"] = [
        " ".join([*(message.text for message in one.messages), one.answer]) for one in exam
    ]
    return found
