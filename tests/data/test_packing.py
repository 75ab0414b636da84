"""Rows: nothing lost, nothing twice, one order whatever the timing, and sums that come out exactly."""

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.data.packing import RowPacker, TrainingRows, ValidationRows
from chatsmith.data.tokens import CacheWriter, TokenCache

BOS = 0

document_lengths = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any)
corpora = st.lists(document_lengths, min_size=1, max_size=9)
sequence_lengths = st.integers(1, 24)
few = settings(max_examples=30, deadline=None)


def epoch_of_rows(rows: TrainingRows, start_row: int = 0) -> np.ndarray:
    """The T + 1 ids of each row of the first epoch, in the order of training."""
    batches = islice(rows.batches(1, start_row), rows.rows_per_epoch - start_row)
    return np.array([[*batch.inputs[0].tolist(), int(batch.targets[0, -1])] for batch in batches])


@few
@given(corpora, sequence_lengths)
def test_every_token_is_trained_on_once_an_epoch_and_only_the_last_row_repeats(make_cache, windows, length):
    cache = make_cache(windows)
    rows = TrainingRows(cache, length, seed=3)
    ids, times = np.unique(epoch_of_rows(rows), return_counts=True)
    times, ids = times[ids != BOS], ids[ids != BOS]
    assert ids.tolist() == list(range(1, cache.num_ids + 1))
    assert 0 <= times.sum() - len(ids) <= length


@few
@given(corpora, sequence_lengths)
def test_rows_are_full_and_begin_with_bos_and_so_does_every_document_in_them(make_cache, windows, length):
    cache = make_cache(windows)
    rows = epoch_of_rows(TrainingRows(cache, length, seed=0))
    assert rows.shape[1] == length + 1
    assert (rows[:, 0] == BOS).all()
    offsets = np.concatenate([cache.window_offsets(window) for window in range(cache.num_windows)])
    first_ids = cache.read(0, cache.num_ids)[np.unique(offsets[offsets < cache.num_ids])]
    starts = np.isin(rows[:, 1:], first_ids)
    assert (rows[:, :-1][starts] == BOS).all()


@few
@given(
    corpora, sequence_lengths, st.sampled_from([(1, 1), (1, 2), (2, 2), (3, 1), (2, 3)]), st.integers(0, 5)
)
def test_how_many_share_the_work_does_not_change_the_order(make_cache, windows, length, shape, turns):
    rows_per_batch, world_size = shape
    cache = make_cache(windows)
    alone = TrainingRows(cache, length, seed=1).batches(1)
    shared = [
        TrainingRows(cache, length, seed=1).batches(rows_per_batch, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(turns):
        for batches in shared:
            for row in next(batches).inputs:
                assert row.tolist() == next(alone).inputs[0].tolist()


@few
@given(corpora, sequence_lengths, st.integers(0, 200))
def test_resuming_gives_the_rows_that_would_have_come(make_cache, windows, length, start_row):
    cache = make_cache(windows)
    straight = islice(TrainingRows(cache, length, seed=5).batches(1), start_row, start_row + 20)
    resumed = TrainingRows(cache, length, seed=5).batches(1, start_row)
    for expected, batch in zip(straight, resumed, strict=False):
        assert batch.inputs.equal(expected.inputs) and batch.targets.equal(expected.targets)


@few
@given(corpora, sequence_lengths)
def test_a_cache_that_grows_while_training_gives_the_order_of_a_finished_one(
    make_cache, tmp_path_factory, windows, length
):
    finished = make_cache(windows)
    folder = tmp_path_factory.mktemp("growing")
    writer = CacheWriter(folder, "key", bos_id=BOS, vocab_size=1 << 20)
    ends = [finished.window_offsets(window).tolist() for window in range(finished.num_windows)]
    pending = iter([[list(range(a + 1, b + 1)) for a, b in pairwise(offsets)] for offsets in ends])
    growing = GrowingCache(folder, writer, pending)
    late = TrainingRows(finished, length, seed=2)
    count = late.rows_per_epoch + 3  # everything is packed before the first row is asked for
    for expected, batch in zip(
        islice(late.batches(1), count), TrainingRows(growing, length, seed=2).batches(1), strict=False
    ):
        assert batch.inputs.equal(expected.inputs)


class GrowingCache(TokenCache):
    """A cache whose next window appears only when someone waits for it."""

    def __init__(self, folder: Path, writer: CacheWriter, pending):
        super().__init__(folder, "key")
        self._writer, self._pending = writer, pending

    def wait_for_window(self, window: int) -> bool:
        while self._writer.progress.complete is False and len(self._writer.progress.ids) <= window:
            following = next(self._pending, None)
            self._writer.finish() if following is None else self._writer.add_window(following)
        return super().wait_for_window(window)


def test_training_starts_with_the_first_window_alone(make_cache):
    cache = make_cache([[40] * 5, [40] * 5, [40] * 5])
    first = next(TrainingRows(cache, 10, seed=0).batches(15))
    assert 0 < first.inputs.max() <= 200, "rows of later windows came before those of the first"


def test_seeds_and_epochs_give_different_orders(make_cache):
    cache = make_cache([[30] * 40])
    rows = TrainingRows(cache, 10, seed=0)
    count = rows.rows_per_epoch
    both = [batch.inputs[0, 1].item() for batch in islice(rows.batches(1), 2 * count)]
    assert both[:count] != both[count:]
    assert sorted(both[:count]) == sorted(both[count:])
    other = [b.inputs[0, 1].item() for b in islice(TrainingRows(cache, 10, seed=1).batches(1), count)]
    assert other != both[:count]


def test_a_corpus_smaller_than_a_row_is_repeated_to_fill_it(make_cache):
    batch = next(TrainingRows(make_cache([[3]]), 8, seed=0).batches(2))
    assert batch.inputs.tolist() == [[BOS, 1, 2, 3, BOS, 1, 2, 3]] * 2
    assert batch.targets.tolist() == [[1, 2, 3, BOS, 1, 2, 3, BOS]] * 2


def test_a_document_that_fits_is_not_cut_when_best_fit_finds_its_place():
    rows = RowPacker(11).add(np.cumsum([0, 6, 3, 5, 4]))  # with <|bos|>: 7 + 4 and 6 + 5
    assert sorted(rows.piece_counts.tolist()) == [3, 4, 5, 6]
    assert len(rows) == 2


def test_realistic_lengths_waste_little_on_bos_and_cuts(make_cache):
    lengths = np.random.default_rng(0).lognormal(5, 1, size=2048).astype(int) + 1
    rows = epoch_of_rows(TrainingRows(make_cache([lengths.tolist()]), 256, seed=0))
    different = np.unique(rows)
    assert len(different) == lengths.sum() + 1, "an id was dropped"
    assert len(different) / rows.size > 0.98


@few
@given(corpora, sequence_lengths, st.integers(1, 5), st.integers(1, 3))
def test_validation_predicts_every_id_exactly_once(make_cache, windows, length, rows_per_batch, world_size):
    cache = make_cache(windows)
    rows = ValidationRows(cache, length)
    batches = [
        list(rows.batches(rows_per_batch, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert len({len(of_rank) for of_rank in batches}) == 1, "ranks would wait for each other for ever"
    predicted = np.concatenate([batch.targets.numpy().ravel() for of_rank in batches for batch in of_rank])
    assert sorted(predicted[predicted != -1]) == list(range(1, rows.num_targets + 1))


@few
@given(corpora, sequence_lengths)
def test_validation_context_is_the_same_document_from_its_piece_s_bos_on(make_cache, windows, length):
    for batch in ValidationRows(make_cache(windows), length).batches(4):
        assert (batch.inputs[:, 0] == BOS).all()
        given_, asked = batch.inputs.numpy(), batch.targets.numpy()
        follows = (asked == given_ + 1) | (given_ == BOS)
        assert follows[asked != -1].all(), "a target does not follow the id before it in its document"


def test_a_sample_of_validation_rows_is_the_same_at_every_call(make_cache):
    rows = ValidationRows(make_cache([[50] * 30]), 16)
    first, second = ([b.inputs.tolist() for b in rows.batches(2, max_rows=4)] for _ in range(2))
    assert first == second
    assert len(first) == 2


def test_tensors_are_what_the_model_takes(make_cache):
    import torch

    batch = next(TrainingRows(make_cache([[50]]), 7, seed=0).batches(3))
    assert batch.inputs.shape == batch.targets.shape == (3, 7)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.inputs.is_contiguous() and batch.targets.is_contiguous()


@pytest.mark.parametrize("window_count", [1, 2, 3, 4, 7, 8])
def test_parts_end_where_the_corpus_does(make_cache, window_count):
    rows = TrainingRows(make_cache([[25, 14]] * window_count), 9, seed=0)
    assert len(list(rows._parts(0))) <= 5
    assert list(rows._parts(0))[-1][1] == rows.rows_per_epoch
