"""Mixtures: sources of documents and conversations, each with its share, as one stream of rows.

    mixture = ["smoltalk", "gsm8k epochs=4", "mmlu cap=100000", "documents weight=0.2"]

An entry names a source and how much of it one pass over the mixture holds: some epochs of it, or a share of the whole.
Repeats are on purpose. Every row is of one source, whose own order (`data.packing`) it follows; the mixture only
decides whose turn it is, so that after any number of rows each source has its share within one row. Like the order
within a source, this depends on content, T and seed alone.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, get_args

import torch

from chatsmith.data.dataset import SplitName
from chatsmith.data.packing import Batch, ConversationRows, RowStream, TrainingRows
from chatsmith.runtime.errors import UserError, did_you_mean

KEYS = ("epochs", "weight", "cap", "split")
TURN_OF_WEIGHTS = 10_000
"""Rows after which the shares of a mixture of weights alone are exact."""


@dataclass(frozen=True)
class Entry:
    """What a mixture takes of one source."""

    source: str
    epochs: float = 1.0
    """How often a pass over the mixture holds it, unless `weight` is given."""
    weight: float = 0.0
    """Its share of the rows; 0: by epochs."""
    cap: int = 0
    """Items at most, the first of the source; 0: all."""
    split: SplitName = "train"

    @staticmethod
    def parse(text: str) -> "Entry":
        """Read `SOURCE key=value …`. Raises UserError for an unknown key or an impossible value."""
        words = text.split()
        given: dict[str, str] = {}
        while len(words) > 1 and (match := re.fullmatch(r"([a-z_]+)=(\S*)", words[-1])):
            if match[1] not in KEYS:
                raise UserError(
                    f"mixture entry {text!r}: unknown key {match[1]!r}{did_you_mean(match[1], KEYS)}"
                )
            given.setdefault(match[1], match[2])
            words.pop()
        if not words or "=" in words[0]:
            raise UserError(f"mixture entry {text!r} names no source; write SOURCE key=value …")
        if "epochs" in given and "weight" in given:
            raise UserError(f"mixture entry {text!r}: give epochs or weight, not both")
        try:
            numbers = {key: float(given[key]) for key in ("epochs", "weight", "cap") if key in given}
        except ValueError:
            numbers = {"epochs": 0.0}
        cap, split = numbers.get("cap", 0.0), given.get("split", "train")
        is_possible = all(0 < number < float("inf") for number in numbers.values()) and cap == cap // 1
        if not is_possible or split not in get_args(SplitName):
            raise UserError(
                f"mixture entry {text!r}: epochs and weight are numbers above 0, cap is a whole one, split is train or "
                "validation"
            )
        amounts = numbers.get("epochs", 1.0), numbers.get("weight", 0.0), int(cap)
        return Entry(" ".join(words), *amounts, split)  # pyright: ignore[reportArgumentType]


class Part(NamedTuple):
    """A source of a mixture, ready to be read."""

    entry: Entry
    rows: TrainingRows | ConversationRows
    items: int
    """Documents or conversations in it, after the cap."""


class Mixture(RowStream[tuple[int, int]]):
    """Rows of several sources. A row is known by (index of its source, its number there)."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Waits for whole caches of documents where these count by epochs. Raises UserError where the weights leave no
        place for what is given in epochs."""
        self.parts = parts
        weights = sum(part.entry.weight for part in parts)
        by_epochs = [
            0 if part.entry.weight else max(1, round(part.entry.epochs * part.rows.rows_per_epoch))
            for part in parts
        ]
        self.has_end = any(by_epochs)
        """Whether a pass is defined: not by weights alone."""
        if self.has_end and weights >= 1:
            raise UserError(
                f"the weights of the mixture are {weights:g} in all, which leaves nothing for the sources given in "
                "epochs; a weight is a share of the whole, below 1",
                setting="mixture",
            )
        total = sum(by_epochs) / (1 - weights) if self.has_end else TURN_OF_WEIGHTS / weights
        self.quotas = [
            rows or max(1, round(part.entry.weight * total))
            for part, rows in zip(parts, by_epochs, strict=True)
        ]
        """Rows of each source in a pass; the next pass goes on where this one ended."""
        self.rows_per_pass = sum(self.quotas)

    def order(self, start_row: int) -> Iterator[tuple[int, int]]:
        """Whose row comes, and which."""
        used = self.used(start_row)
        streams = [part.rows.order(rows) for part, rows in zip(self.parts, used, strict=True)]
        for turn in islice(self._turns(), start_row % self.rows_per_pass, None):
            yield turn, next(streams[turn])

    def batch(self, rows: Sequence[tuple[int, int]]) -> Batch:
        """Rows, each by its source and its number there."""
        single = [self.parts[source].rows.batch([row]) for source, row in rows]
        return Batch(*(torch.cat(tensors) for tensors in zip(*single, strict=True)))

    def used(self, rows: int) -> list[int]:
        """How many of the first `rows` rows are of each source."""
        passes, rest = divmod(rows, self.rows_per_pass)
        used = [passes * quota for quota in self.quotas]
        for turn in islice(self._turns(), rest):
            used[turn] += 1
        return used

    def facts(self, rows: int) -> list[dict[str, Any]]:
        """What the first `rows` rows are made of, a dict a source: `source`, `items`, `epochs`, `tokens` (without
        padding) and `share` of them."""
        found = []
        for (entry, source, items), used in zip(self.parts, self.used(rows), strict=True):
            tokens = round(used * source.sequence_length * source.utilisation)
            epochs = round(used / source.expected_rows(items), 4)
            found.append({"source": entry.source, "items": items, "epochs": epochs, "tokens": tokens})
        total = max(1, sum(one["tokens"] for one in found))
        return [one | {"share": round(one["tokens"] / total, 4)} for one in found]

    def _turns(self) -> Iterator[int]:
        """Whose row comes, without end: of the sources that would not be ahead of their share, the one that would first
        be behind it. So none is ever a row off (Tijdeman 1980, "The chairman assignment problem")."""
        total, sources = self.rows_per_pass, range(len(self.quotas))
        while True:
            done = [0] * len(self.quotas)
            for row in range(1, total + 1):
                ready = [one for one in sources if done[one] * total < self.quotas[one] * row]
                turn = min(ready, key=lambda one: -(-(done[one] + 1) * total // self.quotas[one]))
                done[turn] += 1
                yield turn
