"""Blocks are counted right, found again only for the very same beginning, and evicted oldest first."""

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.engine.block_manager import BlockManager, next_key


def keys_of(tokens: list[int], size: int) -> list[bytes]:
    keys: list[bytes] = []
    for start in range(0, len(tokens) - size + 1, size):
        keys.append(next_key(keys[-1] if keys else b"", tokens[start : start + size]))
    return keys


def fill(manager: BlockManager, tokens: list[int]) -> list[int]:
    """Allocate blocks for `tokens` and publish the full ones."""
    size = manager.block_size
    numbers = manager.allocate(manager.blocks_for(len(tokens)))
    for index, key in enumerate(keys_of(tokens, size)):
        manager.publish(numbers[index], key, tokens[index * size : (index + 1) * size])
    return numbers


def match(manager: BlockManager, tokens: list[int]) -> list[int]:
    return manager.match(keys_of(tokens, manager.block_size), tokens, len(tokens) - 1)


def test_block_zero_is_never_handed_out() -> None:
    manager = BlockManager(5, 2)
    assert sorted(manager.allocate(5)) == [1, 2, 3, 4, 5]


def test_a_released_beginning_is_found_again_and_another_one_is_not() -> None:
    manager = BlockManager(8, 2)
    numbers = fill(manager, [1, 2, 3, 4, 5])
    manager.release(numbers)
    assert match(manager, [1, 2, 3, 4, 9, 9]) == numbers[:2]
    assert match(manager, [1, 2, 9, 9, 3, 4, 7]) == numbers[:1]
    assert match(manager, [3, 4, 3, 4, 5]) == []


def test_the_last_token_is_always_left_to_compute() -> None:
    manager = BlockManager(8, 2)
    numbers = fill(manager, [1, 2, 3, 4])
    assert match(manager, [1, 2, 3, 4]) == numbers[:1]


def test_equal_keys_of_different_tokens_do_not_match() -> None:
    manager = BlockManager(8, 2)
    number = manager.allocate(1)
    manager.publish(number[0], next_key(b"", [1, 2]), [8, 9])  # as if the two collided
    assert match(manager, [1, 2, 3]) == []


def test_a_forgotten_block_is_not_found() -> None:
    manager = BlockManager(8, 2)
    numbers = fill(manager, [1, 2, 3])
    manager.forget(numbers)
    manager.release(numbers)
    assert match(manager, [1, 2, 3]) == []


def test_unpublished_blocks_go_first_then_the_least_recently_used_tail_first() -> None:
    manager = BlockManager(5, 1)
    old = fill(manager, [1, 2])
    new = fill(manager, [3, 4])
    manager.release(old)
    manager.release(new)
    manager.hold(old[:1])  # a later prompt uses the first old block again
    manager.release(old[:1])
    never_published = 5
    assert manager.allocate(5) == [never_published, old[1], new[1], new[0], old[0]]


def test_without_prefix_caching_nothing_is_found() -> None:
    manager = BlockManager(8, 2, prefix_caching=False)
    fill(manager, [1, 2, 3])
    assert match(manager, [1, 2, 3]) == []


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2), min_size=1, max_size=9)), max_size=40)
)
def test_held_and_free_blocks_always_make_the_pool(actions: list[tuple[int, list[int]]]) -> None:
    """Random prompts come and go; what is matched is what a plain dictionary remembers."""
    size = 2
    manager = BlockManager(10, size)
    content: dict[int, list[int]] = {}  # block -> the whole beginning it ends
    alive: list[list[int]] = []
    for action, tokens in actions:
        if action == 0 and alive:
            manager.release(alive.pop(len(tokens) % len(alive)))
            continue
        found = match(manager, tokens)
        for index, number in enumerate(found):
            assert content[number] == tokens[: (index + 1) * size]
        manager.hold(found)
        missing = manager.blocks_for(len(tokens)) - len(found)
        if missing > manager.num_free:
            manager.release(found)
            continue
        numbers = found + manager.allocate(missing)
        for index, key in enumerate(keys_of(tokens, size)):
            manager.publish(numbers[index], key, tokens[index * size : (index + 1) * size])
            content[numbers[index]] = tokens[: (index + 1) * size]
        alive.append(numbers)
        held = {number for one in alive for number in one}
        assert manager.num_free == 10 - len(held)
    for numbers in alive:
        manager.release(numbers)
    assert manager.num_free == 10


def test_scheduler_and_block_manager_import_no_torch() -> None:
    code = (
        "import sys, chatsmith.engine.scheduler, chatsmith.engine.request; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
