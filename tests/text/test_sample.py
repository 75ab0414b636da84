"""The even sample: its size, its spread, and that it is the same every time."""

import itertools

import pytest

from chatsmith.cli.tokenizer import CHUNK_CHARACTERS, sample_evenly


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_sample_has_its_share_within_one_chunk(share: float):
    texts = ["x" * length for length in (10, 5000, 3, 100_000, 7, 20_000)] * 10
    taken = sum(map(len, sample_evenly(texts, share)))
    assert share * sum(map(len, texts)) <= taken <= share * sum(map(len, texts)) + CHUNK_CHARACTERS


def test_the_whole_is_given_in_order_when_all_of_it_fits():
    texts = ["one", "two " * 3000, "three"]
    assert "".join(sample_evenly(texts, 1.0)) == "".join(sample_evenly(texts, 7.5)) == "".join(texts)


def test_the_sample_comes_from_everywhere_in_many_short_texts_and_in_one_long_one():
    short = [f"{number:03d}" for number in range(1000)]
    numbers = [int(text) for text in sample_evenly(short, 0.1)]
    assert len(numbers) == 100 and max(b - a for a, b in itertools.pairwise(numbers)) <= 11
    long = "".join(chr(ord("a") + letter) * CHUNK_CHARACTERS for letter in range(20))
    assert [chunk[0] for chunk in sample_evenly([long], 0.25)] == ["a", "e", "i", "m", "q"]
