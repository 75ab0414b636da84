"""Encoding and decoding: the library's ids, exact round trips, and no special token out of anyone's text."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer, train_tokenizer

# Where tokenizers go wrong: borders of the split pattern, case folding, marks, odd spaces, many scripts.
HOSTILE = [
    *SPECIAL_TOKENS[:4], "<|", "|>", "<|bos", "'", "'s", "'S", "'ſ", "'LL", "'ve", "ß", "İ", "\u212a",
    " ", "  ", "\t", "\n", "\r", "\r\n", "\x0b", "\x1c", "\x85", "\u00a0", "\u180e", "\u2003", "\u2028",
    "\u200b", "\u3000", "\ufeff", "\0", "\x7f", "1", "12", "123", "½", "②", "٣", "Ⅷ", "一", "e\u0301",
    "\u0301", "東京", "서울", "Москва", "العربية", "🙂", "👩\u200d👩\u200d👧", "🇫🇷",
    "\U0010ffff", "\ufffd", "\ue000", "the", " the", "cat", "==", "!?", "a", "Z", "_", "\\", '"',
]  # fmt: skip
hostile_text = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8)), max_size=30).map("".join)


@given(text=hostile_text)
@settings(max_examples=50, deadline=None)
def test_ids_are_those_of_the_tokenizers_library(
    tokenizer: Tokenizer, library: tokenizers.Tokenizer, text: str
):
    assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_ids_are_those_of_the_library_for_every_two_neighbouring_troublemakers(
    tokenizer: Tokenizer, library: tokenizers.Tokenizer
):
    texts = [first + second for first in HOSTILE for second in HOSTILE]
    expected = [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]
    assert tokenizer.encode_batch(texts) == expected


@given(text=hostile_text)
@settings(max_examples=50, deadline=None)
def test_round_trip_is_exact_and_text_never_makes_a_special_token(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(id < tokenizer.bos_id and not tokenizer.is_special(id) for id in ids)
    assert sum(tokenizer.token_byte_lengths[ids]) == len(text.encode())


@pytest.mark.shared_data
def test_ids_are_those_of_the_library_on_real_books(shared_data: Path):
    shards = sorted((shared_data / "pretrain").glob("*.parquet"))
    first, other = (
        " ".join(pq.read_table(path, columns=["text"])["text"][:150].to_pylist()) for path in shards[:2]
    )
    tokenizer = train_tokenizer([first[:500_000]], 3000)
    library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    assert tokenizer.encode(other[:500_000]) == library.encode(other[:500_000]).ids


@given(texts=st.lists(hostile_text, max_size=5))
@settings(max_examples=20, deadline=None)
def test_a_batch_gives_the_ids_of_each_text(tokenizer: Tokenizer, texts: list[str]):
    assert tokenizer.encode_batch(texts, num_threads=2) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("character_class", [r"\p{L}", r"\p{N}", r"\s"])
def test_both_regular_expression_engines_agree_on_every_character(character_class: str):
    """Fails when one library moves to another Unicode version than the other: then ids could differ."""
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF)
    # The library's Replace uses the engine of its Split, and takes a tenth of the time on so long a text.
    in_library = set(normalizers.Replace(tokenizers.Regex(f"[^{character_class}]+"), "").normalize_str(every))
    encoding = tiktoken.Encoding(
        "one class",
        pat_str=f"{character_class}+",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    in_tiktoken = set(encoding.decode(encoding.encode_ordinary(every)))
    assert in_library == in_tiktoken
    assert character_class in SPLIT_PATTERN


@pytest.mark.parametrize("run", [" ", "\n", "\t", "a", "=", "1", "\u0301", "'", " \n", "'x"])
def test_a_million_repetitions_are_survived_and_come_back_exactly(tokenizer: Tokenizer, run: str):
    """tiktoken's engine dies of a million spaces under GPT-4's own pattern."""
    text = run * 1_000_000 + "x"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_read_only_on_request(tokenizer: Tokenizer):
    text = "a<|bos|>b<|user_end|>"
    bos, end = tokenizer.special("<|bos|>"), tokenizer.special("<|user_end|>")
    assert tokenizer.encode_with_special(text) == [*tokenizer.encode("a"), bos, *tokenizer.encode("b"), end]
    assert tokenizer.decode(tokenizer.encode_with_special(text)) == text
    with pytest.raises(KeyError):
        tokenizer.special("<|nonsense|>")


def test_lone_surrogates_become_replacement_characters_and_pairs_their_character(tokenizer: Tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.encode("\ud83d\ude42") == tokenizer.encode("🙂")
    assert tokenizer.encode_batch(["\udfff"]) == [tokenizer.encode("\ufffd")]
    assert tokenizer.encode_with_special("\ud800<|bos|>")[-1] == tokenizer.bos_id


def test_byte_lengths_count_text_and_leave_special_tokens_out(tokenizer: Tokenizer):
    lengths = tokenizer.token_byte_lengths
    assert lengths.shape == (tokenizer.vocab_size,) and lengths.dtype == np.int64
    assert list(lengths[-29:]) == [0] * 29
    assert all(lengths[id] == len(tokenizer.decode_bytes([id])) > 0 for id in range(tokenizer.bos_id))


@pytest.mark.parametrize("offset", [0, 1000])
def test_an_id_outside_the_vocabulary_is_a_clear_error(tokenizer: Tokenizer, offset: int):
    with pytest.raises(ValueError, match="not in the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size + offset])
    with pytest.raises(ValueError, match="-1 is not in the vocabulary"):
        tokenizer.decode([-1])


def test_threads_share_one_tokenizer(tokenizer: Tokenizer):
    texts = [f"text {number}: the cat sat on 東京 🙂 " * 20 for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == [tokenizer.encode(text) for text in texts]


def test_saving_loading_and_copying_keep_ids_and_fingerprint(tokenizer: Tokenizer, tmp_path):
    file = tokenizer.save(tmp_path / "folder")
    assert file == tmp_path / "folder" / "tokenizer.json"
    copies = [
        Tokenizer.load(file),
        Tokenizer.load(tmp_path / "folder"),
        deepcopy(tokenizer),  # by way of __reduce__, as on the way to another process
    ]
    for copy in copies:
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.encode("the cat 🙂") == tokenizer.encode("the cat 🙂")
        assert copy.vocab_size == tokenizer.vocab_size


def test_another_vocabulary_has_another_fingerprint(tokenizer: Tokenizer):
    assert train_tokenizer(["some other text"], 300).fingerprint != tokenizer.fingerprint


def test_loading_errors_are_one_line_and_name_the_file(tokenizer: Tokenizer, tmp_path):
    missing = tmp_path / "missing"
    damaged = tokenizer.save(tmp_path / "damaged")
    damaged.write_text(tokenizer.to_json()[:500])
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, named, reason in [
        (missing, missing, "there is no tokenizer"),
        (tmp_path, tmp_path / "tokenizer.json", "there is no tokenizer"),
        (damaged.parent, damaged, "damaged or truncated"),
        (binary, binary, "not UTF-8"),
    ]:
        with pytest.raises(UserError, match=reason) as caught:
            Tokenizer.load(path)
        assert str(named) in str(caught.value) and "\n" not in str(caught.value)
