"""Rendered conversations as rows to fine-tune on: whole ones, several to a row by best fit, then padding.

A conversation longer than a row is cut after the last turn of the assistant that fits; one whose first
answer does not fit is left out. Both are counted. So every row holds something to learn, no batch is all
padding, and an epoch always ends. Which conversations share a row depends on the seed; each epoch then has
its own order of the rows. How a conversation becomes ids and a mask is decided in `text.chat`.
"""

from array import array
from collections.abc import Iterable, Iterator
from itertools import count, islice

import numpy as np

from chatsmith.data.packing import NOT_TRAINED_ON, Batch, Shelves, make_batch
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Rendered


class NothingToLearnError(UserError):
    """No conversation was given, or of the `skipped` ones none has anything to learn that fits into a row."""

    def __init__(self, skipped: int, sequence_length: int) -> None:
        reason = f"{skipped:,} do not fit into {sequence_length} tokens" if skipped else "none given"
        super().__init__(f"no conversation to learn from: {reason}; give others (`--conversations`)")
        self.skipped = skipped


class ConversationRows:
    """Rows of T + 1 places, held in memory as compact arrays (5 bytes a token)."""

    def __init__(
        self,
        rendered: Iterable[Rendered],
        sequence_length: int,
        seed: int,
        *,
        turn_end_id: int,
        padding_id: int,
    ):
        """`sequence_length` is T; `turn_end_id` is the id of <|assistant_end|>; `padding_id` any id, usually
        <|bos|>, as its places are never targets.

        Raises NothingToLearnError if no conversation is left.
        """
        self._length = sequence_length
        self._seed = seed
        self._padding_id = padding_id
        self._ids, self._masks = array("I"), array("b")
        self._starts = [0]
        self.cut = 0
        """Conversations of which only the first turns fitted."""
        self.skipped = 0
        """Conversations of which nothing to learn fitted."""
        for conversation in rendered:
            self._take(conversation, turn_end_id)
        if not self.num_conversations:
            raise NothingToLearnError(self.skipped, sequence_length)
        self._rows = self._pack()

    @property
    def num_conversations(self) -> int:
        """Conversations in the rows, whole or cut."""
        return len(self._starts) - 1

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every conversation once."""
        return len(self._rows)

    @property
    def utilisation(self) -> float:
        """The share of the rows' places that are not padding."""
        return len(self._ids) / (self.rows_per_epoch * (self._length + 1))

    def batches(
        self,
        rows_per_batch: int,
        start_row: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        pin_memory: bool = False,
    ) -> Iterator[Batch]:
        """Yield (rows_per_batch, T) batches for ever, epoch after epoch; arguments as in
        `TrainingRows.batches`. Targets are -1 wherever the mask is 0 and in padding."""
        order = self._order(start_row)
        while True:
            turn = list(islice(order, rows_per_batch * world_size))
            mine = turn[rank * rows_per_batch : (rank + 1) * rows_per_batch]
            yield self._batch(mine, rows_per_batch, pin_memory)

    def validation_batches(
        self, rows_per_batch: int, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False
    ) -> Iterator[Batch]:
        """Yield every row once, as (rows_per_batch, T) batches, filled up with rows of padding; every rank
        gets the same number of them."""
        turn = rows_per_batch * world_size
        numbers = list(range(self.rows_per_epoch))
        for first in range(rank * rows_per_batch, -(-len(numbers) // turn) * turn, turn):
            yield self._batch(numbers[first : first + rows_per_batch], rows_per_batch, pin_memory)

    def _take(self, conversation: Rendered, turn_end_id: int) -> None:
        fitting = whole_turns(conversation, self._length + 1, turn_end_id)
        ids, mask = fitting.ids, fitting.mask
        if not any(mask):
            self.skipped += 1
            return
        self.cut += len(ids) < len(conversation.ids)
        assert not mask[0], "nothing predicts the first id"
        self._ids.extend(ids)
        self._masks.extend(mask)
        self._starts.append(len(self._ids))

    def _pack(self) -> list[list[int]]:
        """Rows of conversation numbers. Of conversations of one length, the seed decides which goes where."""
        shelves: Shelves[int] = Shelves()
        for number in np.random.default_rng([self._seed, 0]).permutation(self.num_conversations):
            shelves.add(self._starts[number + 1] - self._starts[number], int(number))
        rows: list[list[int]] = []
        while shelves.total_length:
            rows.append(shelves.take_row(self._length + 1))
        return rows

    def _order(self, start_row: int) -> Iterator[int]:
        first_epoch, skip = divmod(start_row, self.rows_per_epoch)
        for epoch in count(first_epoch):
            mixed = np.random.default_rng([self._seed, 1, epoch]).permutation(self.rows_per_epoch)
            yield from (int(row) for row in mixed[skip:])
            skip = 0

    def _batch(self, numbers: list[int], rows_per_batch: int, pin_memory: bool) -> Batch:
        ids = np.full((rows_per_batch, self._length + 1), self._padding_id, dtype=np.int64)
        learned = np.zeros((rows_per_batch, self._length + 1), dtype=bool)
        for row, number in enumerate(numbers):
            place = 0
            for conversation in self._rows[number]:
                first, end = self._starts[conversation : conversation + 2]
                ids[row, place : place + end - first] = self._ids[first:end]
                learned[row, place : place + end - first] = self._masks[first:end]
                place += end - first
        targets = np.where(learned, ids, NOT_TRAINED_ON)
        return make_batch(ids[:, :-1], targets[:, 1:], pin_memory=pin_memory)


def whole_turns(conversation: Rendered, places: int, turn_end_id: int) -> Rendered:
    """The conversation, or as much of it as fits into `places` ids and ends with the assistant's `turn_end_id`:
    nothing, where not even the first answer does."""
    if len(conversation.ids) <= places:
        return conversation
    kept = next((end for end in range(places, 0, -1) if conversation.ids[end - 1] == turn_end_id), 0)
    return Rendered(conversation.ids[:kept], conversation.mask[:kept])
