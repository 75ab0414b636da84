"""Best fit: of the pieces that are waiting, take the longest one that still fits into the room left in a
row."""

from bisect import bisect_right, insort
from collections import deque
from typing import Generic, TypeVar

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
