"""Rows of a token cache as batches: full ones in a seeded order to train on, padded ones to validate on.

The order of training rows is a function of the cache, T and the seed: not of time, of how far the cache has
grown, of the batch size or of how many processes share the work. In the first epoch, rows are formed and
mixed in parts of 1, 2, 4, 8, ... windows, so that training starts as soon as the first window is there; later
epochs mix everything. Rows are packed as the windows come and kept as an index in memory (about 12 bytes a
piece of a document; packing a window takes a few hundredths of a second, so the index is not stored).
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import count, islice

import numpy as np

from chatsmith.data.batch import NOT_TRAINED_ON, Batch, make_batch
from chatsmith.data.best_fit import Shelves
from chatsmith.data.row_packer import Piece, RowPacker, Rows, split_documents
from chatsmith.data.token_cache import TokenCache


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
