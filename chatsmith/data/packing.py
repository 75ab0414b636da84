"""Rows of a token cache as batches: full ones in a seeded order to train on, padded ones to validate on.

The order of training rows is a function of the cache, T and the seed: not of time, of how far the cache has
grown, of the batch size or of how many processes share the work. In the first epoch, rows are formed and
mixed in parts of 1, 2, 4, 8, ... windows, so that training starts as soon as the first window is there; later
epochs mix everything. Rows are packed as the windows come and kept as an index in memory (about 12 bytes a
piece of a document; packing a window takes a few hundredths of a second, so the index is not stored).
"""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, pairwise
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from chatsmith.data.tokens import TokenCache

# -------------------- data.batch
# The value that crosses from the data room to the training loop: one batch of rows.
#
# It holds tensors and nothing else: where its rows came from, and in which order, is decided in `packing` and
# `conversations`.

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
        """The same batch on `device`; from page-locked memory without waiting for the copy."""
        return Batch(*(ids.to(device, non_blocking=True) for ids in self))


def make_batch(inputs: np.ndarray, targets: np.ndarray, *, pin_memory: bool = False) -> Batch:
    """Two (B, T) integer arrays as a Batch of their own memory.

    `pin_memory` puts both into page-locked memory, from which a GPU copies while it computes; it needs CUDA.
    """
    assert inputs.shape == targets.shape and inputs.ndim == 2
    batch = Batch(*(torch.from_numpy(ids.astype(np.int64)) for ids in (inputs, targets)))
    if pin_memory:
        return Batch(batch.inputs.pin_memory(), batch.targets.pin_memory())
    return batch


# -------------------- data.best_fit
# Best fit: of the pieces that are waiting, take the longest one that still fits into the room left in a
# row.

Item = TypeVar("Item")


class Shelves(Generic[Item]):
    """Items by length; of one length, the first to come is the first to go.

    Adding and taking cost the logarithm of the number of different lengths, which a row's length bounds.
    """

    def __init__(self) -> None:
        self._lengths: list[int] = []  # those with items, ascending
        self._items: dict[int, deque[Item]] = {}
        self.total_length = 0
        """The lengths of all waiting items, added up."""

    def add(self, length: int, item: Item) -> None:
        """Put an item on the shelf."""
        if length not in self._items:
            insort(self._lengths, length)
            self._items[length] = deque()
        self._items[length].append(item)
        self.total_length += length

    def take_longest(self, at_most: int) -> tuple[int, Item] | None:
        """Take away the longest item of a length up to `at_most`, with its length; None if there is none."""
        place = bisect_right(self._lengths, at_most) - 1
        if place < 0:
            return None
        length = self._lengths[place]
        item = self._items[length].popleft()
        if not self._items[length]:
            del self._items[length], self._lengths[place]
        self.total_length -= length
        return length, item

    def take_rows(self, room: int) -> list[list[Item]]:
        """Take all items away, as rows of `room` each. None may be longer."""
        rows: list[list[Item]] = []
        while self.total_length:
            rows.append(self.take_row(room))
        return rows

    def take_row(self, room: int) -> list[Item]:
        """Take away items that fit into `room` together, longest first."""
        row: list[Item] = []
        while fitting := self.take_longest(room):
            length, item = fitting
            row.append(item)
            room -= length
        return row


# -------------------- data.row_packer
# Documents to rows: which stretch of which document stands where in a row, as an index of numbers.
#
# A row has T + 1 ids, so that T inputs have T targets. It is made of pieces; a piece is <|bos|> followed by a
# stretch of one document, so every row begins with <|bos|> and so does every document in it. Best-fit packing
# as in Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830), with one
# difference: where nothing that waits fits into the rest of a row, the longest waiting piece is cut to fill
# it and its other part waits on, so that rows are full and nothing is dropped. There is at most one such cut
# a row.
#
# Nothing here reads ids or knows about time: the same documents in the same windows give the same rows.

Piece = tuple[int, int]
"""(where its ids start in the cache, how many ids): it takes one place more in a row, for <|bos|>."""


@dataclass(frozen=True)
class Rows:
    """An index of rows: row r is made of the pieces from row_starts[r] up to row_starts[r + 1]."""

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

    def write(self, row: int, ids: np.ndarray, bos_id: int, out: np.ndarray) -> int:
        """Write a row's ids into the front of `out` (T + 1,); return how many it has."""
        place = 0
        for piece in range(self.row_starts[row], self.row_starts[row + 1]):
            start, count = self.piece_starts[piece], self.piece_counts[piece]
            out[place] = bos_id
            out[place + 1 : place + 1 + count] = ids[start : start + count]
            place += 1 + int(count)
        return place


class RowPacker:
    """Makes full rows of a stream of documents. What does not fill a row waits for the next documents."""

    def __init__(self, row_length: int):
        assert row_length >= 2, "a row needs at least <|bos|> and one id"
        self.row_length = row_length
        self._waiting: Shelves[Piece] = Shelves()

    def add(self, offsets: np.ndarray) -> Rows:
        """The rows that documents i = ids[offsets[i] : offsets[i + 1]] fill, with what waited before them."""
        rows: list[list[Piece]] = []
        for piece in split_documents(offsets, self.row_length - 1):
            if piece[1] == self.row_length - 1:
                rows.append([piece])
            else:
                self._waiting.add(piece[1] + 1, piece)
        while self._waiting.total_length >= self.row_length:
            rows.append(self._full_row())
        return Rows.of(rows)

    def finish(self, first_offsets: np.ndarray) -> Rows:
        """The last row, if something still waits: filled up with documents given by `first_offsets`, which
        it repeats, over and over if need be."""
        if not self._waiting.total_length:
            return Rows.of([])
        row = self._waiting.take_row(self.row_length)
        room = self.row_length - sum(count + 1 for _, count in row)
        repeats = split_documents(first_offsets, self.row_length - 1)
        assert repeats, "nothing to repeat"
        number = 0
        while room:
            start, count = repeats[number % len(repeats)]
            count = min(count, room - 1)
            row.append((start, count))
            room -= count + 1
            number += 1
        return Rows.of([row])

    def _full_row(self) -> list[Piece]:
        row: list[Piece] = []
        room = self.row_length
        while room:
            fitting = self._waiting.take_longest(room)
            if fitting:
                length, piece = fitting
                row.append(piece)
                room -= length
            elif room == 1:
                row.append((0, 0))  # a last <|bos|>, to be predicted as the end of what stands before it
                room = 0
            else:
                longer = self._waiting.take_longest(self.row_length)
                assert longer, "there is more waiting than the row has room"
                start, count = longer[1]
                row.append((start, room - 1))
                self._waiting.add(count - room + 2, (start + room - 1, count - room + 1))
                room = 0
        return row


def split_documents(offsets: np.ndarray, longest: int) -> list[Piece]:
    """Every document as pieces of `longest` ids and a shorter last one. Documents without ids have none."""
    pieces: list[Piece] = []
    bounds = offsets.tolist()
    for first, end in pairwise(bounds):
        pieces.extend((start, min(longest, end - start)) for start in range(first, end, longest))
    return pieces


class TrainingRows:
    """Endless, exactly resumable batches of full rows, each of which begins with <|bos|>."""

    def __init__(self, cache: TokenCache, sequence_length: int, seed: int):
        """`sequence_length` is T. Returns at once; rows are packed when they are needed."""
        self._cache = cache
        self._length = sequence_length
        self._seed = seed
        self._packer = RowPacker(sequence_length + 1)
        self._packed: list[Rows] = []  # an entry a window, and a last one when the epoch is finished
        self._first_rows = [0]  # of each entry, and the number of rows so far
        self._finished = False

    def batches(
        self,
        rows_per_batch: int,
        start_row: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        pin_memory: bool = False,
    ) -> Iterator[Batch]:
        """Yield (rows_per_batch, T) batches for ever, epoch after epoch.

        `start_row` counts the rows that all processes have used so far; each turn uses up rows_per_batch *
        world_size of them, of which this process gets those of its `rank`. Waits for windows as it needs them
        and raises as `TokenCache.wait_for_window` does.
        """
        order = self._order(start_row)
        while True:
            turn = list(islice(order, rows_per_batch * world_size))
            yield self._batch(turn[rank * rows_per_batch : (rank + 1) * rows_per_batch], pin_memory)

    @property
    def rows_per_epoch(self) -> int:
        """Rows until every token was seen once. Waits for the whole cache."""
        self._pack_through(None)
        return self._first_rows[-1]

    @property
    def dropped_share(self) -> float:
        """The share of the documents' ids that no row holds. Waits for the whole cache."""
        return 1 - (self._placed_ids() - self.repeated_ids) / self._cache.num_ids

    @property
    def repeated_ids(self) -> int:
        """Ids that fill up the epoch's last row a second time. Waits for the whole cache."""
        self._pack_through(None)
        return max(0, self._placed_ids() - self._cache.num_ids)

    @property
    def utilisation(self) -> float:
        """The share of the rows' places that hold new text, not <|bos|> or repeats. Waits for the whole
        cache."""
        places = self.rows_per_epoch * (self._length + 1)
        return (self._placed_ids() - self.repeated_ids) / places

    def _placed_ids(self) -> int:
        self._pack_through(None)
        return sum(int(rows.piece_counts.sum()) for rows in self._packed)

    def _order(self, start_row: int) -> Iterator[int]:
        """The rows' numbers, in the order of training, from `start_row` on."""
        skip = start_row
        for epoch in count():
            for part, (first, end) in enumerate(self._parts(epoch)):
                if skip >= end - first:
                    skip -= end - first
                    continue
                mixed = np.random.default_rng([self._seed, epoch, part]).permutation(end - first)
                yield from (first + int(row) for row in mixed[skip:])
                skip = 0

    def _parts(self, epoch: int) -> Iterator[tuple[int, int]]:
        """The (first, end) rows that are mixed among themselves."""
        if epoch:
            yield 0, self.rows_per_epoch
            return
        first = 0
        for part in count():
            last_window = 2 ** (part + 1) - 2  # windows 0 | 1-2 | 3-6 | 7-14 | ...
            self._pack_through(last_window)
            # More may be packed already, but that must not show in the order.
            end = self._first_rows[min(last_window + 1, len(self._packed))]
            yield first, end
            if self._finished and last_window + 1 >= len(self._packed):
                return
            first = end

    def _pack_through(self, last_window: int | None) -> None:
        """Pack all windows up to the one given (None: all), and the rest of the epoch if that was the
        last."""
        while not self._finished and (last_window is None or len(self._packed) <= last_window):
            window = len(self._packed)
            if self._cache.wait_for_window(window):
                self._append(self._packer.add(self._cache.window_offsets(window)))
            else:
                assert window, "a token cache has at least one window"
                self._append(self._packer.finish(self._cache.window_offsets(0)))
                self._finished = True

    def _append(self, rows: Rows) -> None:
        self._packed.append(rows)
        self._first_rows.append(self._first_rows[-1] + len(rows))

    def _batch(self, numbers: list[int], pin_memory: bool) -> Batch:
        rows = np.empty((len(numbers), self._length + 1), dtype=np.int64)
        for out, number in zip(rows, numbers, strict=True):
            entry = bisect_right(self._first_rows, number) - 1
            row = number - self._first_rows[entry]
            written = self._packed[entry].write(row, self._cache.ids, self._cache.bos_id, out)
            assert written == len(out), "a training row is full"
        return make_batch(rows[:, :-1], rows[:, 1:], pin_memory=pin_memory)


class ValidationRows:
    """All of a cache, each non-<|bos|> id predicted exactly once, in rows padded at their ends.

    A document longer than a row goes on in another row, after a <|bos|>, so the context of a prediction is
    at most T ids. Several short documents share a row, as in training. The rows come in a fixed shuffled
    order, so the first of them are a fair sample.
    """

    def __init__(self, cache: TokenCache, sequence_length: int):
        """`sequence_length` is T. Waits for the whole cache; raises as `TokenCache.wait_for_window` does."""
        cache.wait_until_complete()
        self._cache = cache
        self._length = sequence_length
        pieces = (
            piece
            for window in range(cache.num_windows)
            for piece in split_documents(cache.window_offsets(window), sequence_length)
        )
        self._rows = Rows.of(_whole_pieces(pieces, sequence_length + 1))
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
        self,
        rows_per_batch: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        max_rows: int | None = None,
        pin_memory: bool = False,
    ) -> Iterator[Batch]:
        """Yield every row once, as (rows_per_batch, T) batches; the last is filled up with rows of padding.

        Every rank gets the same number of batches (the last may be padding alone) of different rows. With
        `max_rows`, only about that many rows: the same sample at every call.
        """
        chosen = self._order[:max_rows]
        turn = rows_per_batch * world_size
        for first in range(rank * rows_per_batch, -(-len(chosen) // turn) * turn, turn):
            yield self._batch(chosen[first : first + rows_per_batch], rows_per_batch, pin_memory)

    def _batch(self, numbers: np.ndarray, rows_per_batch: int, pin_memory: bool) -> Batch:
        bos_id = self._cache.bos_id
        rows = np.full((rows_per_batch, self._length + 1), bos_id, dtype=np.int64)
        for out, number in zip(rows, numbers, strict=False):
            self._rows.write(int(number), self._cache.ids, bos_id, out)
        # Documents hold no <|bos|>: a target that is one stands between documents, or is padding.
        targets = np.where(rows[:, 1:] == bos_id, NOT_TRAINED_ON, rows[:, 1:])
        return make_batch(rows[:, :-1], targets, pin_memory=pin_memory)


def _whole_pieces(pieces: Iterable[Piece], row_length: int) -> list[list[Piece]]:
    """Put pieces into rows by best fit, longest first, cutting none."""
    shelves: Shelves[Piece] = Shelves()
    for piece in pieces:
        shelves.add(piece[1] + 1, piece)
    return shelves.take_rows(row_length)
