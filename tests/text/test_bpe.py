"""Training: what the vocabulary is made of, that it is the same every time, and what is refused."""

import subprocess
import sys

import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import MIN_VOCAB_SIZE, SPECIAL_TOKENS, train_tokenizer, well_formed

TEXTS = ["the cat sat on the mat with the other cat", "1234567 and 89, and 12 and 34 and 12 and 34"] * 3


def test_vocabulary_has_the_size_asked_for_and_special_tokens_are_its_last_ids():
    tokenizer = train_tokenizer(TEXTS, MIN_VOCAB_SIZE + 10)
    assert tokenizer.vocab_size == MIN_VOCAB_SIZE + 10
    ids = [tokenizer.special(name) for name in SPECIAL_TOKENS]
    assert ids == list(range(tokenizer.vocab_size - 29, tokenizer.vocab_size))
    assert tokenizer.bos_id == ids[0] != 0


def test_every_byte_has_a_token_even_without_any_merge():
    tokenizer = train_tokenizer(["z"], MIN_VOCAB_SIZE)
    assert sorted(tokenizer.decode_bytes([id]) for id in range(256)) == [bytes([byte]) for byte in range(256)]


def test_a_frequent_word_becomes_one_token():
    tokenizer = train_tokenizer(TEXTS, 400)
    assert tokenizer.encode(" the") == tokenizer.encode(" the the")[:1]


def test_digits_are_merged_in_groups_of_two_at_most():
    tokenizer = train_tokenizer(["1234 " * 50], 400)
    assert [tokenizer.decode([id]) for id in tokenizer.encode("1234")] == ["12", "34"]
    longest_number = max(
        (
            token
            for token in map(tokenizer.decode_bytes, ([id] for id in range(tokenizer.vocab_size - 29)))
            if token.isdigit()
        ),
        key=len,
    )
    assert len(longest_number) == 2


def test_a_small_corpus_gives_a_smaller_vocabulary():
    tokenizer = train_tokenizer(TEXTS, 50_000)
    assert MIN_VOCAB_SIZE < tokenizer.vocab_size < 1000


def test_training_twice_in_different_processes_gives_the_same_file():
    program = (
        "from chatsmith.text.tokenizer import train_tokenizer\n"
        f"print(train_tokenizer({TEXTS!r}, 330).fingerprint)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    }
    assert printed == {train_tokenizer(iter(TEXTS), 330).fingerprint}


@pytest.mark.parametrize("vocab_size", [284, 256, 0, -1])
def test_a_vocabulary_too_small_for_bytes_and_special_tokens_is_refused(vocab_size):
    with pytest.raises(UserError, match=f"{vocab_size} is too small.*285"):
        train_tokenizer(TEXTS, vocab_size)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_at_all_is_refused(texts):
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(texts, 300)


def test_an_error_while_reading_the_corpus_is_not_swallowed():
    def corpus():
        yield "some text"
        raise UserError("the file broke off")

    with pytest.raises(UserError, match="broke off"):
        train_tokenizer(corpus(), 300)


def test_lone_surrogates_do_not_stop_the_training():
    assert train_tokenizer(["ok \ud800 ok"], 300).vocab_size >= MIN_VOCAB_SIZE
    assert well_formed("a\ud800b") == "a\ufffdb"
    assert well_formed("\ud83d\ude42") == "🙂"
