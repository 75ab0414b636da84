"""The scheduler: what to compute in the next step. Pure bookkeeping, no torch.

A sequence is a list of known tokens and a count of those whose keys and values are computed. There are no
phases: a step simply gives each sequence some of its uncomputed tokens, within one budget (after vLLM's V1
scheduler and nano-vllm). One uncomputed token is a decode, many are a prompt, a tool's result or what
pre-emption threw away; decodes come first, so a long prompt is cut into chunks and never stalls them. How much
it may slow them is a limit of its own.

When the pool runs out, the newest sequence loses its blocks and waits at the front of the queue to be
computed again, from whatever the prefix cache still holds. The oldest always advances, so everything ends.
"""

from collections import deque
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from chatsmith.engine.block_manager import BlockManager, Key, next_key


class Sequence:
    """One completion in the making, as the scheduler sees it: known tokens, computed ones, blocks."""

    def __init__(
        self, tokens: list[int], max_length: int, needed_from: int | None = None, adapter: str = ""
    ) -> None:
        self.tokens = tokens
        self.max_length = max_length
        """The completion ends when this many tokens are known: the limit of context, pool or max_tokens."""
        self.needed_from = needed_from
        """The hidden states from this token on are wanted, so the prefix cache cannot stand in for them."""
        self.adapter = adapter
        """What changes the model's weights for it, by name; its keys and values serve nobody else."""
        self.num_prompt = len(tokens)
        self.num_computed = 0
        self.num_cached: int | None = None
        """Tokens found in the prefix cache when first admitted; None before that."""
        self.blocks: list[int] = []
        self._keys: list[Key] = []

    @property
    def num_pending(self) -> int:
        """Known tokens that are not computed yet; at least one, until the completion is finished."""
        return len(self.tokens) - self.num_computed

    @property
    def num_reusable(self) -> int:
        """Leading tokens that the prefix cache may stand in for: not the last, whose logits choose the next."""
        last = len(self.tokens) - 1
        return last if self.needed_from is None else min(last, self.needed_from)

    def keys(self, block_size: int) -> list[Key]:
        """The prefix-cache keys of all full blocks of known tokens."""
        for index in range(len(self._keys), len(self.tokens) // block_size):
            parent = self._keys[-1] if self._keys else self.adapter.encode()
            self._keys.append(next_key(parent, self.tokens[index * block_size : (index + 1) * block_size]))
        return self._keys


class Chunk(NamedTuple):
    """Compute tokens start..end-1 of a sequence."""

    sequence: Sequence
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def samples(self) -> bool:
        """Does it reach the last known token, so that its logits choose the next one?"""
        return self.end == len(self.sequence.tokens)


class Step:
    """What the model computes next: chunks, in the order of the queue, within a budget of tokens."""

    def __init__(self, tokens_per_step: int, tokens_beside_decoding: int) -> None:
        self.fresh_blocks: list[int] = []
        """Blocks that changed hands and must be zeroed before use."""
        self._chunks: dict[Sequence, Chunk] = {}
        self._tokens_per_step = tokens_per_step
        self._tokens_beside_decoding = tokens_beside_decoding
        self._num_tokens = 0
        self._num_decodes = 0

    @property
    def chunks(self) -> list[Chunk]:
        """What was planned so far; nothing only if nothing is queued."""
        return list(self._chunks.values())

    @property
    def budget(self) -> int:
        """How many more tokens the step may compute."""
        limit = self._tokens_per_step
        if self._num_decodes:
            limit = min(limit, self._num_decodes + self._tokens_beside_decoding)
        return max(0, limit - self._num_tokens)

    def add(self, sequence: Sequence) -> None:
        """As many of its uncomputed tokens as the budget allows."""
        start = sequence.num_computed
        self._chunks[sequence] = chunk = Chunk(
            sequence, start, start + min(sequence.num_pending, self.budget)
        )
        self._count(chunk, 1)

    def drop(self, sequence: Sequence) -> None:
        """The sequence was pre-empted; if it had a chunk, others may have its tokens."""
        if chunk := self._chunks.pop(sequence, None):
            self._count(chunk, -1)

    def _count(self, chunk: Chunk, sign: int) -> None:
        self._num_tokens += sign * chunk.length
        self._num_decodes += sign * (chunk.length == 1)


@dataclass(eq=False)
class Scheduler:
    """Decides, step by step, which sequences advance and by how much."""

    blocks: BlockManager
    tokens_per_step: int
    max_running: int
    tokens_beside_decoding: int = 0
    """Of a step in which others decode, at most this many tokens are a prompt's: they wait for it. 0: all of them."""
    waiting: deque[Sequence] = field(default_factory=deque)
    running: dict[Sequence, None] = field(default_factory=dict)
    """From the oldest to the newest admitted: a dict, since each of hundreds leaves it by name."""
    num_preemptions: int = 0
    num_looked_up: int = 0
    """Tokens that admitted sequences could have found in the prefix cache, ever."""
    num_found: int = 0
    """Tokens that they did find."""

    def __post_init__(self) -> None:
        can_decode = self.tokens_per_step >= self.max_running > 0
        assert can_decode, "every running sequence must be able to decode in a step"
        self.tokens_beside_decoding = self.tokens_beside_decoding or self.tokens_per_step

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Its max_length must fit into the pool when it is alone there."""
        assert self.blocks.blocks_for(sequence.max_length - 1) <= self.blocks.num_blocks
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Drop a sequence, finished or not, and give its blocks back; with `forget`, nobody reuses them."""
        if sequence in self.running:
            del self.running[sequence]
        else:
            self.waiting.remove(sequence)
        if forget:
            self.blocks.forget(sequence.blocks)
        self._release(sequence)

    def fork(self, sequence: Sequence) -> tuple[Sequence, list[tuple[int, int]]]:
        """A second sequence with the same tokens, all of which are computed. Returns it, and which block is to be
        copied to which before the next step, if any.

        They share the full blocks. Without a place or a block for it, the new one waits, to be computed again.
        """
        twin = copy(sequence)
        twin.tokens, twin._keys = sequence.tokens.copy(), sequence._keys.copy()
        full, partial = divmod(sequence.num_computed, self.blocks.block_size)
        if len(self.running) == self.max_running or self.blocks.num_free < bool(partial):
            twin.blocks, twin.num_computed = [], 0
            self.waiting.appendleft(twin)
            return twin, []
        self.blocks.hold(sequence.blocks[:full])
        own = self.blocks.allocate(bool(partial))
        twin.blocks = sequence.blocks[:full] + own
        self.running[twin] = None
        return twin, list(zip(sequence.blocks[full:], own, strict=True))

    def schedule(self) -> Step:
        """The next step. It has no chunks only if nothing is queued."""
        step = Step(self.tokens_per_step, self.tokens_beside_decoding)
        preemptions = self.num_preemptions
        # Stable sort: decodes first, and among equals the oldest.
        for sequence in sorted(self.running, key=lambda one: one.num_pending > 1):
            if sequence not in self.running:
                continue  # pre-empted a moment ago
            if step.budget == 0:
                break
            if missing := self.blocks.blocks_for(len(sequence.tokens)) - len(sequence.blocks):
                self._make_room(missing, sequence, step)
                if sequence not in self.running:
                    continue  # it had to give up its own place
                self._give_blocks(sequence, missing, step)
            step.add(sequence)
        if self.num_preemptions == preemptions:
            self._admit(step)
        return step

    def computed(self, chunks: list[Chunk]) -> None:
        """Note that the chunks' keys and values are in the pool, and publish the blocks that became full."""
        size = self.blocks.block_size
        for chunk in chunks:
            sequence = chunk.sequence
            sequence.num_computed = chunk.end
            for index in range(chunk.start // size, chunk.end // size):
                tokens = sequence.tokens[index * size : (index + 1) * size]
                self.blocks.publish(sequence.blocks[index], sequence.keys(size)[index], tokens)

    def _admit(self, step: Step) -> None:
        """Let waiting sequences in while there is room, first come first served."""
        if not self.waiting:
            return
        size = self.blocks.block_size
        being_filled = {
            key for one in self.running for key in self._uncomputed_keys(one, one.num_computed // size)
        }
        for sequence in list(self.waiting):
            if step.budget == 0 or len(self.running) == self.max_running:
                break
            cached = self.blocks.match(sequence.keys(size), sequence.tokens, sequence.num_reusable)
            uncomputed = self._uncomputed_keys(sequence, len(cached))
            if uncomputed and uncomputed[0] in being_filled:
                continue  # another sequence is computing what this one needs next: it will find it cached
            missing = self.blocks.blocks_for(len(sequence.tokens)) - len(cached)
            self.blocks.hold(cached)
            # A spare block for each running sequence, or the newcomer would soon be pre-empted again.
            if missing + len(self.running) > self.blocks.num_free:
                self.blocks.release(cached)
                break
            self.waiting.remove(sequence)
            self.running[sequence] = None
            sequence.blocks = cached
            sequence.num_computed = len(cached) * size
            self._give_blocks(sequence, missing, step)
            if sequence.num_cached is None:
                sequence.num_cached = sequence.num_computed
                self.num_looked_up += len(sequence.tokens)
                self.num_found += sequence.num_cached
            step.add(sequence)
            being_filled.update(uncomputed)

    def _uncomputed_keys(self, sequence: Sequence, num_full: int) -> list[Key]:
        """The keys of the blocks after the first `num_full` that others could reuse once computed."""
        if not self.blocks.prefix_caching:
            return []
        size = self.blocks.block_size
        return sequence.keys(size)[num_full : sequence.num_reusable // size]

    def _give_blocks(self, sequence: Sequence, count: int, step: Step) -> None:
        numbers = self.blocks.allocate(count)
        sequence.blocks += numbers
        step.fresh_blocks += numbers

    def _make_room(self, missing: int, sequence: Sequence, step: Step) -> None:
        """Pre-empt the newest sequences, this one at worst, until its blocks fit."""
        while missing > self.blocks.num_free and sequence in self.running:
            newest, _ = self.running.popitem()
            step.drop(newest)
            self._release(newest)
            self.waiting.appendleft(newest)
            self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_computed = 0
