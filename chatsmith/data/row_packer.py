"""Documents to rows: which stretch of which document stands where in a row, as an index of numbers.

A row has T + 1 ids, so that T inputs have T targets. It is made of pieces; a piece is <|bos|> followed by a
stretch of one document, so every row begins with <|bos|> and so does every document in it. Best-fit packing
as in Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830), with one
difference: where nothing that waits fits into the rest of a row, the longest waiting piece is cut to fill
it and its other part waits on, so that rows are full and nothing is dropped. There is at most one such cut
a row.

Nothing here reads ids or knows about time: the same documents in the same windows give the same rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from chatsmith.data.best_fit import Shelves

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
