"""Mixtures: shares that are true after every row, and rows that hold what their sources hold, with its mask."""

import random
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.data.mixture import Entry, Mixture, Part
from chatsmith.data.packing import ConversationRows, RowStream, TrainingRows
from chatsmith.data.tokens import CacheWriter, TokenCache
from chatsmith.ingest.tokenizing import cache_conversations
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, Message, render
from chatsmith.text.chat import Part as TextPart
from chatsmith.text.tokenizer import Tokenizer

few = settings(max_examples=60, deadline=None)


# ---- entries ----


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("smoltalk", Entry("smoltalk")),
        ("gsm8k epochs=4", Entry("gsm8k", epochs=4)),
        ("mmlu cap=100000 split=validation", Entry("mmlu", cap=100_000, split="validation")),
        ("documents  weight=0.2", Entry("documents", weight=0.2)),
        ("my talks/of may.jsonl epochs=.5", Entry("my talks/of may.jsonl", epochs=0.5)),
        ("hub:a/b[0:8] weight=1e-1", Entry("hub:a/b[0:8]", weight=0.1)),
    ],
)
def test_an_entry_is_a_source_and_its_keys(text: str, entry: Entry):
    assert Entry.parse(text) == entry


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gsm8k epoch=4", "unknown key 'epoch' (did you mean epochs?)"),
        ("gsm8k epochs=0", "numbers above 0"),
        ("gsm8k epochs=nan", "numbers above 0"),
        ("gsm8k weight=inf", "numbers above 0"),
        ("gsm8k epochs=", "numbers above 0"),
        ("gsm8k cap=2.5", "a whole one"),
        ("gsm8k split=test", "train or validation"),
        ("gsm8k epochs=2 weight=.1", "not both"),
        ("epochs=2", "names no source"),
        ("", "names no source"),
    ],
)
def test_what_is_no_entry_is_refused_in_a_line(text: str, reason: str):
    with pytest.raises(UserError) as caught:
        Entry.parse(text)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


# ---- whose row comes ----


class Numbered(RowStream[int]):
    """Rows that are their numbers, in an order of every epoch's own."""

    sequence_length, utilisation = 8, 1.0

    def __init__(self, rows_per_epoch: int) -> None:
        self.rows_per_epoch = rows_per_epoch

    def expected_rows(self, items: int) -> float:
        return self.rows_per_epoch

    def order(self, start_row: int):
        epoch, skip = divmod(start_row, self.rows_per_epoch)
        while True:
            rows = list(range(self.rows_per_epoch))
            random.Random(epoch).shuffle(rows)
            yield from rows[skip:]
            epoch, skip = epoch + 1, 0

    def batch(self, rows):
        raise NotImplementedError


amounts = st.one_of(
    st.builds(lambda epochs: Entry("s", epochs=epochs), st.sampled_from([0.3, 0.5, 1, 2, 3, 4])),
    st.builds(lambda weight: Entry("s", weight=weight), st.sampled_from([0.01, 0.05, 0.1, 0.15])),
)
sources = st.lists(st.tuples(amounts, st.integers(1, 40)), min_size=1, max_size=6)


def mixed(given_sources) -> Mixture:
    return Mixture([Part(entry, Numbered(rows), rows) for entry, rows in given_sources])  # pyright: ignore[reportArgumentType]


@few
@given(sources, st.data())
def test_after_any_number_of_rows_no_source_is_a_row_off_its_share(given_sources, data):
    mixture = mixed(given_sources)
    total = mixture.rows_per_pass
    wanted = data.draw(st.integers(0, min(3 * total, 2_000)))
    used = Counter(source for source, _ in islice(mixture.order(0), wanted))
    assert [used[index] for index in range(len(given_sources))] == mixture.used(wanted)
    for index, quota in enumerate(mixture.quotas):
        assert abs(used[index] - Fraction(quota * wanted, total)) < 1


@few
@given(sources)
def test_a_pass_holds_the_epochs_and_shares_that_were_asked_for(given_sources):
    mixture = mixed(given_sources)
    rows = Counter(islice(mixture.order(0), mixture.rows_per_pass))
    for index, (entry, per_epoch) in enumerate(given_sources):
        seen = [rows[index, row] for row in range(per_epoch)]
        if entry.weight and mixture.has_end:
            share = sum(seen) / mixture.rows_per_pass
            assert abs(share - entry.weight) <= (1 + len(given_sources)) / mixture.rows_per_pass
        elif not entry.weight:
            assert sum(seen) == max(1, round(entry.epochs * per_epoch))
            assert max(seen) - min(seen) <= 1, "no row comes again before all have come"


@few
@given(sources, st.integers(0, 3_000), st.sampled_from([(1, 1), (1, 2), (2, 3)]))
def test_resuming_and_sharing_give_the_rows_that_would_have_come(given_sources, start_row, shape):
    mixture = mixed(given_sources)
    mixture.batch = lambda rows: rows  # pyright: ignore[reportAttributeAccessIssue]
    rows_per_batch, world_size = shape
    straight = islice(mixture.order(0), start_row, None)
    ranks = [
        mixture.batches(rows_per_batch, start_row, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(3):
        for batches in ranks:
            assert next(batches) == list(islice(straight, rows_per_batch))


def test_weights_leave_a_place_for_epochs_or_are_refused():
    with pytest.raises(UserError, match="leaves nothing for the sources given in epochs"):
        mixed([(Entry("a", weight=0.6), 3), (Entry("b", weight=0.4), 3), (Entry("c"), 3)])
    alone = mixed([(Entry("a", weight=3), 3), (Entry("b", weight=1), 3)])
    assert not alone.has_end and alone.used(40) == [30, 10]


# ---- real rows ----

TALKS: list[Conversation] = [
    (
        Message.of("user", f"The fox {number}?"),
        Message("assistant", (TextPart("python", "2+2"), TextPart("output", "4"), TextPart("text", "Four."))),
        Message.of("user", "Where is my ball?"),
        Message("assistant", (TextPart("text", "Under the tree."),), weight=number % 2),  # pyright: ignore[reportArgumentType]
    )
    for number in range(40)
]
TEXTS = [f"The little fox {number} asked: where is my red ball? " * (number % 5 + 1) for number in range(60)]


@pytest.fixture(scope="module")
def caches(tokenizer: Tokenizer):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        talks = cache_conversations(folder / "talks", "key", TALKS, tokenizer, build=True)
        writer = CacheWriter(folder / "text", "key", bos_id=tokenizer.bos_id, vocab_size=tokenizer.vocab_size)
        for first in range(0, len(TEXTS), 20):
            writer.add_window([tokenizer.encode(text) for text in TEXTS[first : first + 20]])
        writer.finish()
        yield talks, TokenCache(folder / "text", "key")


def real_mixture(caches, tokenizer: Tokenizer, *, learns_all: bool = False) -> Mixture:
    talks, text = caches
    turn_end = tokenizer.special("<|assistant_end|>")
    rows = ConversationRows(talks, 160, 3, turn_end_id=turn_end, learns_all=learns_all)
    return Mixture(
        [
            Part(Entry("talks", epochs=2), rows, rows.num_conversations),
            Part(Entry("text", weight=0.3), TrainingRows(text, 160, 3), len(TEXTS)),
        ]
    )


@pytest.mark.parametrize("learns_all", [False, True])
def test_every_token_has_its_mask_and_no_row_is_of_two_sources(caches, tokenizer: Tokenizer, learns_all):
    mixture = real_mixture(caches, tokenizer, learns_all=learns_all)
    bos = tokenizer.bos_id
    known = {tuple(one.ids[1:]): one.mask[1:] for one in (render(talk, tokenizer) for talk in TALKS)}
    text = [tokenizer.encode(one) for one in TEXTS]
    seen: Counter[tuple[int, ...]] = Counter()
    order = mixture.order(0)
    for batch in islice(mixture.batches(1), mixture.rows_per_pass):
        source, _ = next(order)
        inputs, targets = batch.inputs[0].tolist(), batch.targets[0].tolist()
        assert inputs[0] == bos
        starts = [place for place, one in enumerate(inputs) if one == bos]
        for start, end in zip(starts, [*starts[1:], len(inputs)], strict=True):
            piece = inputs[start + 1 : end]
            if source == 1:
                assert any(contains(one, piece) for one in text)
                assert targets[start : end - 1] == piece, "of documents every token is learned"
                continue
            # The row's last target has no input of its own.
            whole = (
                (*piece, targets[end - 1]) if end == len(inputs) and targets[end - 1] != -1 else tuple(piece)
            )
            if not whole:
                continue  # padding
            mask = known[whole]
            seen[whole] += 1
            expected = [
                one if learns_all or learned else -1 for one, learned in zip(whole, mask, strict=True)
            ]
            assert targets[start : start + len(whole)] == expected
            assert set(targets[start + len(whole) : end]) <= {-1}, "nothing follows from one talk to the next"
    assert set(seen) == set(known) and set(seen.values()) == {2}, "both epochs are whole"


def contains(text: list[int], piece: list[int]) -> bool:
    return any(text[place : place + len(piece)] == piece for place in range(len(text) - len(piece) + 1))


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_go_on_bitwise_for_any_number_of_processes(caches, tokenizer: Tokenizer, world_size):
    straight = list(islice(real_mixture(caches, tokenizer).batches(1), 24))
    for start in (0, 7, 13):
        mixtures = [real_mixture(caches, tokenizer) for _ in range(world_size)]
        ranks = [one.batches(2, start, rank, world_size) for rank, one in enumerate(mixtures)]
        place = start
        for _ in range(2):
            for batches in ranks:
                batch = next(batches)
                for row in range(2):
                    assert batch.inputs[row].equal(straight[place].inputs[0])
                    assert batch.targets[row].equal(straight[place].targets[0])
                    place += 1


def test_true_shares_are_of_tokens_and_add_up(caches, tokenizer: Tokenizer):
    mixture = real_mixture(caches, tokenizer)
    facts = mixture.facts(mixture.rows_per_pass)
    assert [one["source"] for one in facts] == ["talks", "text"]
    assert facts[0]["epochs"] == 2 and facts[0]["items"] == 40
    exact = 2 * sum(len(render(talk, tokenizer).ids) for talk in TALKS)
    assert facts[0]["tokens"] == pytest.approx(exact, rel=0.02)
    assert sum(one["share"] for one in facts) == pytest.approx(1, abs=1e-3)
    assert facts[1]["tokens"] == mixture.quotas[1] * 160


def test_a_cap_takes_the_first_documents_alone(caches, tokenizer: Tokenizer):
    rows = TrainingRows(caches[1], 30, 1, cap=25)
    seen = {one for batch in islice(rows.batches(1), rows.rows_per_epoch) for one in batch.inputs[0].tolist()}
    expected = {one for text in TEXTS[:25] for one in tokenizer.encode(text)}
    assert seen <= expected | {tokenizer.bos_id}
    held = sum(len(tokenizer.encode(text)) + 1 for text in TEXTS[:25])
    assert abs(rows.rows_per_epoch * 31 - held) < 31 + 25
    assert rows.rows_per_epoch == pytest.approx(rows.expected_rows(25), rel=0.3)


# ---- the cache of conversations ----


class Unreadable:
    def __iter__(self):
        raise AssertionError("nobody may read the conversations again")


def test_conversations_are_tokenized_once_and_by_one_process(tmp_path: Path, tokenizer: Tokenizer):
    cache_conversations(tmp_path, "key", TALKS, tokenizer, build=True)
    for build in (True, False):
        cache = cache_conversations(tmp_path, "key", Unreadable(), tokenizer, build=build)
        assert cache.num_documents == len(TALKS)
    assert cache_conversations(tmp_path, "other", TALKS[:3], tokenizer, build=True).num_documents == 3


def test_who_comes_while_another_fills_a_cache_waits_and_reads_no_conversation(
    tmp_path: Path, tokenizer: Tokenizer
):
    may_end, begun = threading.Event(), threading.Event()

    def slow():
        begun.set()
        may_end.wait(30)
        yield from TALKS

    with ThreadPoolExecutor() as pool:
        first = pool.submit(cache_conversations, tmp_path, "key", slow(), tokenizer, build=True)
        assert begun.wait(30)
        second = pool.submit(cache_conversations, tmp_path, "key", Unreadable(), tokenizer, build=True)
        may_end.set()
        assert first.result(30).num_documents == second.result(30).num_documents == len(TALKS)


def test_an_interrupted_cache_goes_on_after_its_last_window(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("chatsmith.ingest.tokenizing.WINDOW_DOCUMENTS", 8)

    def broken_off():
        yield from TALKS[:20]
        raise UserError("the disk was pulled out")

    with pytest.raises(UserError, match="pulled out"):
        cache_conversations(tmp_path / "a", "key", broken_off(), tokenizer, build=True)
    resumed = cache_conversations(tmp_path / "a", "key", TALKS, tokenizer, build=True)
    straight = cache_conversations(tmp_path / "b", "key", TALKS, tokenizer, build=True)
    assert resumed.read(0, resumed.num_ids).tolist() == straight.read(0, straight.num_ids).tolist()
    assert resumed.num_windows == straight.num_windows == 5
