"""Fine-tuning rows: whole conversations, nothing learned that should not be, and an end to every epoch."""

import tempfile
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.data.packing import ConversationRows
from chatsmith.data.tokens import CacheWriter, TokenCache
from chatsmith.ingest.tokenizing import cache_conversations
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Message, Part, Rendered
from chatsmith.text.tokenizer import Tokenizer

BOS, TURN_END = 0, 1
FOLDER = tempfile.TemporaryDirectory()  # hypothesis calls a test many times, fixtures once
few = settings(max_examples=50, deadline=None)


def talk(*turns: tuple[int, int], first_id: int = 10) -> Rendered:
    """A conversation of turns (ids of the user, ids of the assistant), every id counting up."""
    rendered = Rendered([BOS], [0])
    for asked, answered in turns:
        ids = [first_id + len(rendered.ids) + place for place in range(asked + answered)]
        rendered.ids.extend([*ids, TURN_END])
        rendered.mask.extend([0] * asked + [1] * (answered + 1))
    return rendered


def rows_of(rendered, length: int, seed: int = 0, **options) -> ConversationRows:
    """Rows from a cache that holds these conversations."""
    folder = tempfile.mkdtemp(dir=FOLDER.name)
    writer = CacheWriter(Path(folder), "key", bos_id=2 * BOS, vocab_size=1 << 20)
    for first in range(0, len(rendered), 4):  # several windows
        window = rendered[first : first + 4]
        writer.add_window(
            [[2 * one + mask for one, mask in zip(r.ids[1:], r.mask[1:], strict=True)] for r in window]
        )
    writer.finish()
    return ConversationRows(TokenCache(Path(folder), "key"), length, seed, turn_end_id=TURN_END, **options)


turns = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=4)
conversations = st.lists(turns, min_size=1, max_size=15)


@few
@given(conversations, st.integers(1, 30), st.integers(1, 4))
def test_no_row_is_without_something_to_learn_and_every_epoch_ends(talks, length, rows_per_batch):
    rendered = [talk(*turns) for turns in talks]
    try:
        rows = rows_of(rendered, length)
    except UserError:
        assert all(1 + turns[0][0] + turns[0][1] + 1 > length + 1 for turns in talks)
        return
    assert rows.num_conversations + rows.skipped == len(talks)
    for batch in islice(rows.batches(rows_per_batch), 2 * rows.rows_per_epoch):
        assert (batch.targets != -1).any(dim=1).all()


@few
@given(conversations)
def test_what_fits_is_learned_once_an_epoch_and_nothing_else_is(talks):
    rendered = [talk(*turns, first_id=1_000 * (number + 1)) for number, turns in enumerate(talks)]
    rows = rows_of(rendered, 120)
    assert rows.cut == rows.skipped == 0
    learned = [
        (before, target)
        for batch in islice(rows.batches(1), rows.rows_per_epoch)
        for before, target in zip(batch.inputs[0].tolist(), batch.targets[0].tolist(), strict=True)
        if target != -1
    ]
    expected = [
        (one.ids[place - 1], one.ids[place])
        for one in rendered
        for place in range(1, len(one.ids))
        if one.mask[place]
    ]
    assert sorted(learned) == sorted(expected)


@few
@given(conversations, st.integers(0, 80), st.sampled_from([(1, 1), (1, 2), (2, 3)]))
def test_resuming_and_sharing_give_the_rows_that_would_have_come(talks, start_row, shape):
    rows_per_batch, world_size = shape
    rows = rows_of([talk(*turns, first_id=1_000 * number) for number, turns in enumerate(talks)], 60, seed=4)
    straight = islice(rows.batches(1), start_row, None)
    ranks = [
        rows.batches(rows_per_batch, start_row, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(3):
        for batches in ranks:
            batch = next(batches)
            for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
                expected = next(straight)
                assert inputs.equal(expected.inputs[0]) and targets.equal(expected.targets[0])


def test_a_conversation_too_long_for_a_row_keeps_its_first_turns():
    long = talk((3, 3), (3, 3), (3, 3))  # 1 + 3 * 7 ids
    rows = rows_of([long], 16)
    assert (rows.cut, rows.skipped) == (1, 0)
    batch = next(rows.batches(1))
    assert batch.inputs[0].tolist() == [*long.ids[:15], BOS], "two turns, then padding"
    assert batch.targets[0, 13].item() == TURN_END
    assert (batch.targets[0, 14:] == -1).all()


def test_a_turn_that_ends_exactly_with_the_row_is_kept():
    assert rows_of([talk((3, 3), (3, 3))], 14).cut == 0
    assert rows_of([talk((3, 3), (3, 3))], 13).cut == 1
    batch = next(rows_of([talk((3, 3), (3, 3), (3, 3))], 14).batches(1))
    assert batch.targets[0, -1].item() == TURN_END


def test_a_first_turn_that_does_not_fit_is_left_out_and_counted():
    rows = rows_of([talk((30, 3)), talk((2, 2))], 10)
    assert (rows.num_conversations, rows.skipped, rows.cut) == (1, 1, 0)


@pytest.mark.parametrize("rendered", [[], [talk((30, 3))], [Rendered([BOS, 5, 6], [0, 0, 0])]])
def test_nothing_to_learn_is_an_error_and_not_an_endless_loop(rendered):
    with pytest.raises(UserError, match="no conversation to learn from"):
        rows_of(rendered, 10)


def test_short_conversations_share_rows():
    rows = rows_of([talk((2, 2)) for _ in range(8)], 23)  # 6 ids each, 24 places
    assert rows.rows_per_epoch == 2
    assert rows.utilisation == 1


def test_every_validation_row_comes_once():
    rows = rows_of([talk((2, 9), first_id=100 * number) for number in range(7)], 12)
    batches = list(rows.validation_batches(2))
    assert [len(batch.inputs) for batch in batches] == [2] * 4
    seen = {tuple(row.tolist()) for batch in batches for row in batch.targets if (row != -1).any()}
    assert len(seen) == 7


def test_epochs_are_ordered_differently_and_by_the_seed():
    rendered = [talk((2, 9), first_id=100 * number) for number in range(30)]
    first_ids = [batch.inputs[0, 1].item() for batch in islice(rows_of(rendered, 12).batches(1), 60)]
    assert first_ids[:30] != first_ids[30:]
    assert sorted(first_ids[:30]) == sorted(first_ids[30:])
    again = [batch.inputs[0, 1].item() for batch in islice(rows_of(rendered, 12, seed=9).batches(1), 60)]
    assert first_ids != again


def test_a_real_conversation_learns_the_assistant_s_words_and_calls_alone(
    tokenizer: Tokenizer, tmp_path: Path
):
    conversation = (
        Message.of("user", "The fox?"),
        Message("assistant", (Part("python", "2+2"), Part("output", "4"), Part("text", "Four."))),
        Message.of("user", "Where is my ball?"),
        Message.of("assistant", "Under the tree."),
    )
    cache = cache_conversations(tmp_path, "key", [conversation], tokenizer, build=True)
    rows = ConversationRows(cache, 200, 0, turn_end_id=tokenizer.special("<|assistant_end|>"))
    targets = next(rows.batches(1)).targets[0]
    learned = tokenizer.decode(targets[targets != -1].tolist())
    assert learned == (
        "<|python_start|>2+2<|python_end|>Four.<|assistant_end|>Under the tree.<|assistant_end|>"
    )
