"""Rows of T + 1 ids, so that T inputs have T targets, and batches of them: of text to pretrain on or to measure,
and of conversations to fine-tune on.

Text to train on fills its rows. A row is made of pieces; a piece is <|bos|> followed by a stretch of one
document, so every row begins with <|bos|> and so does every document in it. Best-fit packing as in Ding et al.
2024, "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830), with one difference: where nothing that
waits fits into the rest of a row, the longest waiting piece is cut to fill it and its other part waits on, so that
rows are full and nothing is dropped. There is at most one such cut a row. Text to measure on and conversations
are not cut where they fit into a row, and padding fills the rest.

The order of rows is a function of the content, T and the seed: not of time, of how far the token cache has
grown, of the batch size or of how many processes share the work.
"""

import sys
from abc import ABC, abstractmethod
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle, islice, pairwise
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from chatsmith.data.tokens import TokenCache, part_end
from chatsmith.runtime.errors import UserError

NOT_TRAINED_ON = -1
"""The target that means "no loss here": padding, the user's words in a chat, the results of tools."""


class Batch(NamedTuple):
    """`targets[b, t]` is the id that should follow `inputs[b, : t + 1]`, or -1 where nothing is learned."""

    inputs: Tensor
    """(B, T) int64 ids."""
    targets: Tensor
    """(B, T) int64 ids; -1 is not trained on."""

    @property
    def num_targets(self) -> int:
        """How many targets are trained on."""
        return int((self.targets != NOT_TRAINED_ON).sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; a GPU copies it while it computes, which takes page-locked memory."""
        pins = device.type == "cuda" and self.inputs.device.type == "cpu"
        return Batch(*((ids.pin_memory() if pins else ids).to(device, non_blocking=True) for ids in self))


def make_batch(inputs: np.ndarray, targets: np.ndarray) -> Batch:
    """Two (B, T) integer arrays as a Batch of their own memory."""
    assert inputs.shape == targets.shape and inputs.ndim == 2
    return Batch(*(torch.from_numpy(ids.astype(np.int64)) for ids in (inputs, targets)))


Item = TypeVar("Item")


class Shelves(Generic[Item]):
    """Best fit: items by length, of which the longest that fits is taken; of one length, the first added.

    Adding and taking cost the logarithm of the number of different lengths, which a row's length bounds.
    """

    def __init__(self) -> None:
        self._lengths: list[int] = []  # those with items, ascending
        self._items: dict[int, deque[Item]] = {}
        self.total_length = 0
        """The lengths of all waiting items, added up."""

    def add(self, length: int, item: Item) -> None:
        """Add an item."""
        if length not in self._items:
            insort(self._lengths, length)
            self._items[length] = deque()
        self._items[length].append(item)
        self.total_length += length

    def take_longest(self, at_most: int) -> tuple[int, Item] | None:
        """Remove the longest item of a length up to `at_most`, with its length; None if there is none."""
        index = bisect_right(self._lengths, at_most) - 1
        if index < 0:
            return None
        length = self._lengths[index]
        item = self._items[length].popleft()
        if not self._items[length]:
            del self._items[length], self._lengths[index]
        self.total_length -= length
        return length, item

    def take_row(self, space: int) -> tuple[list[Item], int]:
        """Remove items that fit into `space` together, longest first; also returns the space that is left."""
        row: list[Item] = []
        while fitting := self.take_longest(space):
            length, item = fitting
            row.append(item)
            space -= length
        return row, space


def best_fit(items: Iterable[tuple[int, Item]], space: int) -> list[list[Item]]:
    """All items, given with their lengths, as rows of `space` each. None may be longer."""
    shelves: Shelves[Item] = Shelves()
    for length, item in items:
        shelves.add(length, item)
    rows: list[list[Item]] = []
    while shelves.total_length:
        rows.append(shelves.take_row(space)[0])
    return rows


Piece = tuple[int, int]
"""(where its ids start in the cache, how many ids): it takes one id more in a row, for <|bos|>."""


@dataclass(frozen=True)
class Rows:
    """An index of rows, about 12 bytes a piece: row r has the pieces row_starts[r] to row_starts[r + 1] - 1."""

    piece_starts: np.ndarray
    """(pieces,) int64: where the ids of a piece start in the cache."""
    piece_counts: np.ndarray
    """(pieces,) int32: how many ids it has, without its <|bos|>."""
    row_starts: np.ndarray
    """(rows + 1,) int64."""

    @staticmethod
    def of(rows: Sequence[Sequence[Piece]]) -> "Rows":
        """Pack a list of rows, each a list of pieces, into arrays."""
        pieces = [piece for row in rows for piece in row]
        return Rows(
            np.array([start for start, _ in pieces], dtype=np.int64),
            np.array([count for _, count in pieces], dtype=np.int32),
            np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    def write(self, row: int, cache: TokenCache, out: np.ndarray) -> int:
        """Write a row's ids into the front of `out` (T + 1,); return how many it has."""
        position = 0
        for piece in range(self.row_starts[row], self.row_starts[row + 1]):
            start, count = self.piece_starts[piece], self.piece_counts[piece]
            out[position] = cache.bos_id
            out[position + 1 : position + 1 + count] = cache.read(start, start + count)
            position += 1 + int(count)
        return position

    def filled(self, numbers: Sequence[int], count: int, length: int, cache: TokenCache) -> np.ndarray:
        """(count, length) ids: these rows, filled up with <|bos|>, and more rows of that."""
        out = np.full((count, length), cache.bos_id, dtype=np.int64)
        for row, number in zip(out, numbers, strict=False):
            self.write(number, cache, row)
        return out


def split_documents(offsets: np.ndarray, longest: int) -> list[Piece]:
    """Documents i = ids[offsets[i] : offsets[i + 1]] as pieces of `longest` ids and a shorter last one each."""
    pieces: list[Piece] = []
    for first, end in pairwise(offsets.tolist()):
        pieces.extend((start, min(longest, end - start)) for start in range(first, end, longest))
    return pieces


class RowPacker:
    """Makes full rows of a stream of documents. What does not fill a row waits for the next documents.

    It reads no ids and knows nothing of time: the same documents in the same windows give the same rows.
    """

    def __init__(self, row_length: int):
        assert row_length >= 2, "a row needs at least <|bos|> and one id"
        self.row_length = row_length
        self._waiting: Shelves[Piece] = Shelves()

    def add(self, offsets: np.ndarray) -> Rows:
        """The rows that these documents fill, with what waited before them."""
        rows: list[list[Piece]] = []
        for piece in split_documents(offsets, self.row_length - 1):
            self._waiting.add(piece[1] + 1, piece)
        while self._waiting.total_length >= self.row_length:
            rows.append(self._full_row())
        return Rows.of(rows)

    def finish(self, first_offsets: np.ndarray) -> Rows:
        """The last row, if something still waits: filled up with documents given by `first_offsets`, which
        it repeats, over and over if need be."""
        if not self._waiting.total_length:
            return Rows.of([])
        row, space = self._waiting.take_row(self.row_length)
        repeats = split_documents(first_offsets, self.row_length - 1)
        assert repeats, "nothing to repeat"
        for start, number in cycle(repeats):
            if not space:
                break
            row.append((start, min(number, space - 1)))
            space -= row[-1][1] + 1
        return Rows.of([row])

    def _full_row(self) -> list[Piece]:
        row, space = self._waiting.take_row(self.row_length)
        if space == 1:
            row.append((0, 0))  # a last <|bos|>, to be predicted as the end of what stands before it
        elif space:
            longer = self._waiting.take_longest(self.row_length)
            assert longer, "there is more waiting than the row has space"
            start, number = longer[1]
            row.append((start, space - 1))
            self._waiting.add(number - space + 2, (start + space - 1, number - space + 1))
        return row


class RowStream(ABC, Generic[Item]):
    """Endless, exactly resumable batches of rows, epoch after epoch."""

    @abstractmethod
    def order(self, start_row: int) -> Iterator[Item]:
        """What identifies each row, in the order of training, from `start_row` on, without end."""

    @abstractmethod
    def batch(self, rows: Sequence[Item]) -> Batch:
        """These rows as a (rows, T) batch."""

    def batches(
        self, rows_per_batch: int, start_row: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield (rows_per_batch, T) batches forever.

        `start_row` counts the rows that all processes have used so far; each turn uses up rows_per_batch *
        world_size of them, of which this process gets those of its `rank`.
        """
        order = self.order(start_row)
        while True:
            turn = list(islice(order, rows_per_batch * world_size))
            yield self.batch(turn[rank * rows_per_batch : (rank + 1) * rows_per_batch])


class TrainingRows(RowStream[int]):
    """Endless, exactly resumable batches of full rows of text, each of which begins with <|bos|>.

    In the first epoch, rows are formed and shuffled within parts of 1, 2, 4, 8, ... windows (`tokens.part_end`),
    so that training starts as soon as the first window is there; later epochs shuffle everything. Packing a window
    takes a few hundredths of a second, so the index of rows is not stored.
    """

    utilisation = 1.0
    """The share of the rows that is not padding."""

    def __init__(self, cache: TokenCache, sequence_length: int, seed: int, *, cap: int = 0):
        """`sequence_length` is T; with a `cap`, only so many documents, the first. Returns at once: rows are packed
        when they are needed, which waits for windows and raises as `TokenCache.wait_for_window` does."""
        self._cache = cache
        self._left = cap or sys.maxsize  # documents that may still be packed
        self._repeated = slice(cap + 1 if cap else None)
        self.sequence_length = sequence_length
        self._seed = seed
        self._packer = RowPacker(sequence_length + 1)
        self._packed: list[Rows] = []  # an entry a window, and a last one when the epoch is finished
        self._first_rows = [0]  # of each entry, and the number of rows so far
        self._finished = False

    @property
    def rows_per_epoch(self) -> int:
        """Rows until every token was seen once. Waits for the whole cache."""
        self._pack(None)
        return self._first_rows[-1]

    def expected_rows(self, documents: int) -> float:
        """About how many rows so many documents fill, by those tokenized so far: does not wait."""
        ids_each = self._cache.num_ids / max(1, self._cache.num_documents)
        return max(1.0, documents * (ids_each + 1) / (self.sequence_length + 1))

    def order(self, start_row: int) -> Iterator[int]:
        """The rows' numbers, in the order of training."""
        skip = start_row
        for epoch in count():
            for part, (first, end) in enumerate(self._parts(epoch)):
                if skip >= end - first:
                    skip -= end - first
                    continue
                shuffled = np.random.default_rng([self._seed, epoch, part]).permutation(end - first)
                yield from (first + int(row) for row in shuffled[skip:])
                skip = 0

    def _parts(self, epoch: int) -> Iterator[tuple[int, int]]:
        """The (first, end) rows that are shuffled among themselves."""
        if epoch:
            yield 0, self.rows_per_epoch
            return
        first = 0
        for part in count():
            self._pack(part_end(part))
            # More may be packed already, but that must not show in the order.
            end = self._first_rows[min(part_end(part), len(self._packed))]
            yield first, end
            if self._finished and part_end(part) >= len(self._packed):
                return
            first = end

    def _pack(self, windows: int | None) -> None:
        """Pack this many windows (None: all), and the rest of the epoch if there are no more."""
        while not self._finished and (windows is None or len(self._packed) < windows):
            window = len(self._packed)
            if self._left and self._cache.wait_for_window(window):
                offsets = self._cache.window_offsets(window)[: self._left + 1]
                self._left -= len(offsets) - 1
                rows = self._packer.add(offsets)
            else:
                assert window, "a token cache has at least one window"
                rows = self._packer.finish(self._cache.window_offsets(0)[self._repeated])
                self._finished = True
            self._packed.append(rows)
            self._first_rows.append(self._first_rows[-1] + len(rows))

    def batch(self, rows: Sequence[int]) -> Batch:
        """Rows by their numbers."""
        filled = np.empty((len(rows), self.sequence_length + 1), dtype=np.int64)
        for out, number in zip(filled, rows, strict=True):
            entry = bisect_right(self._first_rows, number) - 1
            row = number - self._first_rows[entry]
            written = self._packed[entry].write(row, self._cache, out)
            assert written == len(out), "a training row is full"
        return make_batch(filled[:, :-1], filled[:, 1:])


class ValidationRows:
    """All of a cache, each non-<|bos|> id predicted exactly once, in rows padded at their ends.

    A document longer than a row continues in another row, after a <|bos|>, so the context of a prediction is
    at most T ids. Several short documents share a row, as in training. The rows come in a fixed shuffled
    order, so the first of them are a fair sample.
    """

    def __init__(self, cache: TokenCache, sequence_length: int):
        """`sequence_length` is T. Waits for the whole cache; raises as `TokenCache.wait_for_window` does."""
        cache.wait_until_complete()
        self._cache = cache
        self._length = sequence_length
        offsets = map(cache.window_offsets, range(cache.num_windows))
        pieces = (piece for each in offsets for piece in split_documents(each, sequence_length))
        self._rows = Rows.of(best_fit(((piece[1] + 1, piece) for piece in pieces), sequence_length + 1))
        self._order = np.random.default_rng(0).permutation(len(self._rows))

    @property
    def num_rows(self) -> int:
        """Rows in all."""
        return len(self._rows)

    @property
    def num_targets(self) -> int:
        """Ids that are predicted: all of the cache's."""
        return self._cache.num_ids

    def batches(
        self, rows_per_batch: int, *, rank: int = 0, world_size: int = 1, max_rows: int | None = None
    ) -> Iterator[Batch]:
        """Yield every row once, as (rows_per_batch, T) batches; the last is filled up with rows of padding.

        Every rank gets the same number of batches (the last may be padding alone) of different rows. With
        `max_rows`, only about that many rows: the same sample at every call.
        """
        chosen = self._order[:max_rows].tolist()
        for numbers in _share(chosen, rows_per_batch, rank, world_size):
            yield self._batch(numbers, rows_per_batch)

    def _batch(self, numbers: Sequence[int], rows_per_batch: int) -> Batch:
        rows = self._rows.filled(numbers, rows_per_batch, self._length + 1, self._cache)
        # Documents hold no <|bos|>: a target that is one stands between documents, or is padding.
        targets = np.where(rows[:, 1:] == self._cache.bos_id, NOT_TRAINED_ON, rows[:, 1:])
        return make_batch(rows[:, :-1], targets)


class NothingToLearnError(UserError):
    """No conversation was given, or of the `skipped` ones none has anything to learn that fits into a row."""

    def __init__(self, skipped: int, sequence_length: int) -> None:
        reason = f"{skipped:,} do not fit into {sequence_length} tokens" if skipped else "none given"
        super().__init__(f"no conversation to learn from: {reason}; give others")
        self.skipped = skipped


class ConversationRows(RowStream[int]):
    """Rows of whole conversations, several to a row by best fit, read from a cache (`data.mixture`): only an index of
    rows is held, 12 bytes a conversation.

    A conversation longer than a row is cut after the last turn of the assistant that fits; one whose first answer
    does not fit is left out. Both are counted. So every row holds something to learn, no batch is all padding, and
    an epoch always ends. Which conversations share a row depends on the seed; each epoch has its own order of rows.
    """

    def __init__(
        self,
        cache: TokenCache,
        sequence_length: int,
        seed: int,
        *,
        turn_end_id: int,
        learns_all: bool = False,
    ):
        """`cache` holds 2 * id + mask for each id; `sequence_length` is T; `turn_end_id` is the id of
        <|assistant_end|>. With `learns_all` the mask does not count: all of a conversation is learned.

        Waits for the whole cache. Raises NothingToLearnError if no conversation is left.
        """
        cache.wait_until_complete()
        self._cache, self.sequence_length = cache, sequence_length
        self._seed, self._learns_all = seed, learns_all
        starts, counts, masked = _conversations_in(cache)
        is_long = counts > sequence_length
        for number in np.flatnonzero(is_long):
            ids = cache.read(starts[number], starts[number] + sequence_length)
            turn_ends = np.flatnonzero(ids >> 1 == turn_end_id)
            counts[number] = turn_ends[-1] + 1 if len(turn_ends) else 0
            masked[number] = (ids[: counts[number]] & 1).any()
        self.skipped = int((~masked).sum())
        """Conversations of which nothing to learn fitted."""
        self.cut = int((is_long & masked).sum())
        """Conversations of which only the first turns fitted."""
        starts, counts = starts[masked], counts[masked]
        self.num_conversations = len(starts)
        """Conversations in the rows, whole or cut."""
        if not self.num_conversations:
            raise NothingToLearnError(self.skipped, sequence_length)
        # Of conversations of one length, the seed decides which goes where.
        drawn = np.random.default_rng([seed, 0]).permutation(self.num_conversations)
        rows = best_fit(((int(counts[one]) + 1, int(one)) for one in drawn), sequence_length + 1)
        packed = np.fromiter((number for row in rows for number in row), np.int64)
        row_starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        self._rows = Rows(starts[packed], counts[packed].astype(np.int32), row_starts)
        self.utilisation = float((counts + 1).sum()) / (len(rows) * (sequence_length + 1))
        """The share of the rows that is not padding."""

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every conversation once."""
        return len(self._rows)

    def expected_rows(self, conversations: int) -> float:
        """The rows of an epoch, in which so many conversations are."""
        return self.rows_per_epoch

    def order(self, start_row: int) -> Iterator[int]:
        """The rows' numbers, in the order of training."""
        first_epoch, skip = divmod(start_row, self.rows_per_epoch)
        for epoch in count(first_epoch):
            shuffled = np.random.default_rng([self._seed, 1, epoch]).permutation(self.rows_per_epoch)
            yield from (int(row) for row in shuffled[skip:])
            skip = 0

    def batch(self, rows: Sequence[int]) -> Batch:
        """Rows by their numbers. Targets are -1 wherever the mask is 0 and in padding."""
        return self._batch(rows, len(rows))

    def validation_batches(self, rows_per_batch: int) -> Iterator[Batch]:
        """Yield every row once, as (rows_per_batch, T) batches; the last is filled up with rows of padding."""
        for numbers in _share(range(self.rows_per_epoch), rows_per_batch, 0, 1):
            yield self._batch(numbers, rows_per_batch)

    def _batch(self, numbers: Sequence[int], rows_per_batch: int) -> Batch:
        filled = self._rows.filled(numbers, rows_per_batch, self.sequence_length + 1, self._cache)
        is_learned = filled != self._cache.bos_id if self._learns_all else filled & 1
        targets = np.where(is_learned, filled >> 1, NOT_TRAINED_ON)
        return make_batch(filled[:, :-1] >> 1, targets[:, 1:])


def _conversations_in(cache: TokenCache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each conversation: where its ids start, how many there are, and whether the mask has any of them."""
    starts, counts, masked = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, bool)]
    for window in range(cache.num_windows):
        offsets = cache.window_offsets(window)
        bits = cache.read(offsets[0], offsets[-1]) & 1  # a window is in one part
        starts.append(offsets[:-1])
        counts.append(np.diff(offsets))
        masked.append(np.add.reduceat(bits, offsets[:-1] - offsets[0], dtype=np.int64) > 0)
    return np.concatenate(starts), np.concatenate(counts), np.concatenate(masked)


def _share(rows: Sequence[int], rows_per_batch: int, rank: int, world_size: int) -> Iterator[Sequence[int]]:
    """As many batches for every rank, which hold all rows once; the last may have fewer rows, or none."""
    turn = rows_per_batch * world_size
    for first in range(rank * rows_per_batch, -(-len(rows) // turn) * turn, turn):
        yield rows[first : first + rows_per_batch]
