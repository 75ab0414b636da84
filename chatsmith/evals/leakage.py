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
_BATCH_CHARACTERS = 4 << 20
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication loses nothing


class LeakageCheck:
    """Knows the word sequences of the test sets; training text goes through `read`; `report` says what was found."""

    def __init__(self, test_sets: Mapping[str, Sequence[str]]) -> None:
        """`test_sets` are the texts of every set's items, by its name."""
        self._test_sets = test_sets
        self._sequences_of = {text: _sequences(text) for texts in test_sets.values() for text in texts}
        self._known = np.unique(np.concatenate([*self._sequences_of.values(), np.zeros(0, dtype=np.uint64)]))
        self._seen = np.zeros(len(self._known), dtype=bool)

    def read(self, texts: Iterable[str]) -> Iterator[int]:
        """Look for the test sets' word sequences in training texts. Yields, now and then, how many characters more
        were read."""
        for batch in _batches(texts):
            found = _sequences("\0".join(batch))
            if len(self._known):
                indices = np.searchsorted(self._known, found).clip(max=len(self._known) - 1)
                self._seen[indices[self._known[indices] == found]] = True
            yield sum(map(len, batch))

    def report(self) -> dict[str, dict[str, Any]]:
        """What was found in all that was read, by test set, as `evaluate --leakage --json` prints it: how many `items`,
        how many of them are `too_short` to be checked, how many are `overlapping`, their `share` of those that can be
        checked, and some of the shared words as `examples`."""
        found = {}
        for name, texts in self._test_sets.items():
            too_short, examples = 0, []
            for text in texts:
                sequences = self._sequences_of[text]
                too_short += not len(sequences)
                hits = np.flatnonzero(self._seen[np.searchsorted(self._known, sequences)])
                if len(hits):
                    examples.append(" ".join(_words(text)[hits[0] : hits[0] + WORDS]))
            found[name] = {
                "items": len(texts),
                "too_short": too_short,
                "overlapping": len(examples),
                "share": len(examples) / max(1, len(texts) - too_short),
                "examples": examples[:EXAMPLES],
            }
        return found


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _sequences(text: str) -> np.ndarray:
    """(n - 12,) hashes of the sequences of 13 words: a polynomial in the words' own."""
    words = np.array([hash(word) for word in _words(text)], dtype=np.int64).view(np.uint64)
    count = max(0, len(words) - WORDS + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(WORDS if count else 0):
        hashes = hashes * _BASE + words[offset : offset + count]
    return hashes


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
        if not task.max_tokens:
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
