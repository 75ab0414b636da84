"""The block manager: who holds which block of the key-value pool, and which blocks can serve again.

The pool is divided into blocks of a few tokens each (PagedAttention, Kwon et al. 2023); a sequence owns a
table of block numbers instead of one long stretch of memory. A full block is published under a key that
stands for its tokens and everything before them, so a later prompt that begins alike holds the same block
instead of computing it again. Blocks that nobody holds stay on the free list, published ones until they are
needed: first the never published, then the least recently released. Only bookkeeping happens here: no torch,
no memory.

Block 0 is never handed out: it stays zero, for padding.
"""

from collections import OrderedDict
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from hashlib import blake2b

Key = bytes


def next_key(parent: Key, tokens: Seq[int]) -> Key:
    """The key of a block that holds `tokens` after the block with the key `parent` (b"" for the first)."""
    # A cryptographic hash, so that one user's prompt cannot be made to collide with another's.
    digest = blake2b(parent, digest_size=16)
    for token in tokens:
        digest.update(token.to_bytes(4, "little"))
    return digest.digest()


@dataclass
class _Block:
    holders: int = 0
    key: Key | None = None
    tokens: tuple[int, ...] = field(default=())


class BlockManager:
    """Hands out the blocks 1..num_blocks, counts their holders, and finds published ones again."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_caching: bool = True) -> None:
        assert num_blocks > 0 and block_size > 0
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self._blocks = [_Block() for _ in range(num_blocks + 1)]
        # From the next to be handed out to the last: insertion order is the order of eviction.
        self._free: OrderedDict[int, None] = OrderedDict(
            (number, None) for number in range(1, num_blocks + 1)
        )
        self._published: dict[Key, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, published or not."""
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks `num_tokens` tokens fill, the last perhaps partly."""
        return -(-num_tokens // self.block_size)

    def match(self, keys: Seq[Key], tokens: Seq[int], at_most: int) -> list[int]:
        """The published blocks that hold the beginning of `tokens`, whose blocks have the keys `keys`.

        They hold `at_most` tokens: the caller has to compute the rest itself.
        """
        found: list[int] = []
        for index in range(at_most // self.block_size):
            number = self._published.get(keys[index])
            expected = tuple(tokens[index * self.block_size : (index + 1) * self.block_size])
            if number is None or self._blocks[number].tokens != expected:
                break
            found.append(number)
        return found

    def hold(self, numbers: Seq[int]) -> None:
        """Become one more holder of these blocks."""
        for number in numbers:
            self._free.pop(number, None)
            self._blocks[number].holders += 1

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one holder each; what was published in them is forgotten."""
        assert count <= self.num_free, "the scheduler must make room first"
        numbers = [self._free.popitem(last=False)[0] for _ in range(count)]
        self.forget(numbers)
        for number in numbers:
            self._blocks[number].holders = 1
        return numbers

    def publish(self, number: int, key: Key, tokens: Seq[int]) -> None:
        """Let later prompts find this full block. If its content is published already, nothing changes."""
        assert len(tokens) == self.block_size
        block = self._blocks[number]
        if self.prefix_caching and block.key is None and key not in self._published:
            block.key, block.tokens = key, tuple(tokens)
            self._published[key] = number

    def release(self, numbers: Seq[int]) -> None:
        """Give up one hold on each block of a sequence, listed from its beginning.

        Walked from the end, so that a conversation's tail is evicted before the beginning others may share.
        """
        for number in reversed(numbers):
            block = self._blocks[number]
            assert block.holders > 0, "released more often than held"
            block.holders -= 1
            if block.holders == 0:
                self._free[number] = None
                if block.key is None:
                    self._free.move_to_end(number, last=False)

    def forget_all(self) -> None:
        """Make sure that no later prompt finds any block of now."""
        self.forget(list(self._published.values()))

    def forget(self, numbers: Seq[int]) -> None:
        """Make sure that no later prompt finds these blocks."""
        for number in numbers:
            block = self._blocks[number]
            if block.key is not None:
                del self._published[block.key]
                block.key, block.tokens = None, ()
