"""The scheduler, driven without a model: budget kept, decodes never stalled, everything ends, blocks return."""

from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.engine.block_manager import BlockManager
from chatsmith.engine.scheduler import Scheduler, Sequence, Step


def make_scheduler(num_blocks: int = 50, size: int = 4, budget: int = 16, running: int = 4) -> Scheduler:
    return Scheduler(BlockManager(num_blocks, size), tokens_per_step=budget, max_running=running)


def advance(scheduler: Scheduler) -> Step:
    """One step, as an engine takes it: compute, append a token to those due, drop the finished."""
    step = scheduler.schedule()
    scheduler.computed(step.chunks)
    for chunk in step.chunks:
        sequence = chunk.sequence
        if chunk.end == len(sequence.tokens):
            sequence.tokens.append(len(sequence.tokens) % 7)
            if len(sequence.tokens) == sequence.max_length:
                scheduler.remove(sequence)
    return step


def lengths(step: Step) -> list[int]:
    return [chunk.length for chunk in step.chunks]


def test_a_long_prompt_is_cut_into_chunks_beside_decodes() -> None:
    scheduler = make_scheduler()
    scheduler.add(Sequence([1, 2, 3], max_length=40))
    advance(scheduler)
    scheduler.add(Sequence(list(range(40)), max_length=60))
    assert [lengths(advance(scheduler)) for _ in range(4)] == [[1, 15], [1, 15], [1, 10], [1, 1]]


def test_a_long_result_of_a_tool_does_not_stall_newer_sequences() -> None:
    scheduler = make_scheduler()
    old, new = (Sequence([number] * 3, max_length=60) for number in (1, 2))
    scheduler.add(old)
    scheduler.add(new)
    advance(scheduler)
    old.tokens += range(30)
    step = advance(scheduler)
    assert {chunk.sequence: chunk.length for chunk in step.chunks} == {old: 15, new: 1}


def test_a_sequence_that_shares_an_uncomputed_beginning_waits_and_then_finds_it_cached() -> None:
    scheduler = make_scheduler(budget=8)
    prompt = list(range(13))
    first, second, other = (
        Sequence(list(tokens), max_length=30) for tokens in (prompt, [*prompt, 99], [50, 51])
    )
    for sequence in (first, second, other):
        scheduler.add(sequence)
    assert [chunk.sequence for chunk in advance(scheduler).chunks] == [first]
    assert [chunk.sequence for chunk in advance(scheduler).chunks] == [first, other]
    advance(scheduler)
    assert second.num_cached == 12
    assert second.blocks[:3] == first.blocks[:3]


def test_the_newest_is_preempted_and_waits_in_front() -> None:
    scheduler = make_scheduler(num_blocks=6, size=2, budget=32)
    old, new, later = (
        Sequence([number] * length, max_length=10) for number, length in ((1, 4), (2, 4), (3, 4))
    )
    scheduler.add(old)
    scheduler.add(new)
    advance(scheduler)
    scheduler.add(later)
    while scheduler.num_preemptions == 0:
        advance(scheduler)
    assert list(scheduler.running) == [old]
    assert list(scheduler.waiting) == [new, later]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 30), st.integers(1, 20), st.integers(0, 1)),
        min_size=1,
        max_size=15,
    ),
    st.integers(13, 40),
    st.booleans(),
    st.sampled_from([None, 1, 3]),
)
def test_everything_ends_within_budget_and_gives_its_blocks_back(
    arrivals: list[tuple[int, int, int, int]], num_blocks: int, prefix_caching: bool, beside: int | None
) -> None:
    """Arrivals are (steps to wait, prompt length, tokens to write, which of two texts)."""
    blocks = BlockManager(num_blocks, 4, prefix_caching=prefix_caching)
    scheduler = Scheduler(blocks, tokens_per_step=8, max_running=3, tokens_beside_decoding=beside)
    steps = 0

    def checked_step() -> None:
        nonlocal steps
        steps += 1
        assert steps < 5_000, "it never ends"
        decoding = {one for one in scheduler.running if one.num_pending == 1}
        preemptions = scheduler.num_preemptions
        step = advance(scheduler)
        assert sum(lengths(step)) <= 8
        assert len(scheduler.running) <= 3
        if beside and any(chunk.sequence in decoding for chunk in step.chunks):
            assert sum(length for length in lengths(step) if length > 1) <= beside, (
                "a prompt slows the others"
            )
        if preemptions == scheduler.num_preemptions:
            assert decoding <= {chunk.sequence for chunk in step.chunks}, "a decode was stalled"
        for sequence in scheduler.running:
            assert len(sequence.blocks) * 4 >= sequence.num_computed

    for wait, length, more, text in arrivals:
        for _ in range(wait):
            checked_step()
        tokens = [(index * (text + 1)) % 5 for index in range(length)]
        scheduler.add(Sequence(tokens, max_length=length + more))
    while scheduler.running or scheduler.waiting:
        checked_step()
    assert blocks.num_free == num_blocks


def test_a_fork_shares_full_blocks_and_copies_the_last() -> None:
    scheduler = make_scheduler(num_blocks=4, size=4)
    one = Sequence(list(range(6)), max_length=12)
    scheduler.add(one)
    scheduler.computed(scheduler.schedule().chunks)
    twin, copies = scheduler.fork(one)
    assert twin.blocks[0] == one.blocks[0] and copies == [(one.blocks[1], twin.blocks[1])]
    assert twin.tokens == one.tokens and twin.tokens is not one.tokens
    for sequence, token in ((one, 7), (twin, 8)):
        sequence.tokens.append(token)
    assert lengths(scheduler.schedule()) == [1, 1]
    scheduler.remove(one)
    assert scheduler.blocks.num_free == 2, "the shared block is still held"
    scheduler.remove(twin)
    assert scheduler.blocks.num_free == 4


def test_a_branch_without_a_place_or_a_block_waits_in_front() -> None:
    for num_blocks, running in ((4, 1), (2, 4)):
        scheduler = make_scheduler(num_blocks=num_blocks, size=4, running=running)
        one, other = Sequence(list(range(6)), max_length=8), Sequence([9], max_length=2)
        scheduler.add(one)
        scheduler.computed(scheduler.schedule().chunks)
        scheduler.add(other)
        twin, copies = scheduler.fork(one)
        assert copies == [] and twin.num_computed == 0 and list(scheduler.waiting) == [twin, other]
        scheduler.remove(one)
        # What is left of it to compute stands behind the block they shared.
        (chunk,) = [chunk for chunk in scheduler.schedule().chunks if chunk.sequence is twin]
        assert (chunk.start, chunk.end) == (4, 6)
