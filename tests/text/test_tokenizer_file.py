"""Files that are not ours are refused with a reason, for they could encode differently here and elsewhere."""

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from chatsmith.text.tokenizer import Tokenizer, byte_alphabet, parse_tokenizer_file


def test_byte_alphabet_is_the_one_of_the_tokenizers_library():
    alphabet = byte_alphabet()
    assert sorted(alphabet) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ["A", " ", "\n", "é", "東", "🙂", "\x7f", "\xad"]:
        ((spelled, _),) = level.pre_tokenize_str(text)
        assert bytes(alphabet[character] for character in spelled) == text.encode()


def _swap_two_merges(file):
    merges = file["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def _repeat_a_merge(file):
    file["model"]["merges"].append(file["model"]["merges"][0])


def _set(*path_and_value):
    *path, last, value = path_and_value

    def damage(file):
        for key in path:
            file = file[key]
        file[last] = value

    return damage


DAMAGES = {
    "no model": (lambda file: file.pop("model"), "missing or malformed"),
    "another kind of model": (_set("model", "type", "Unigram"), "not BPE"),
    "a normalizer": (_set("normalizer", {"type": "NFC"}), "normalizes"),
    "dropout": (_set("model", "dropout", 0.1), "dropout"),
    "whole words looked up first": (_set("model", "ignore_merges", True), "ignore_merges"),
    "merges swapped": (_swap_two_merges, "order of merges"),
    "a merge too many": (_repeat_a_merge, "do not match"),
    "merges as numbers": (_set("model", "merges", [1, 2]), "."),
    "a token without a merge": (_set("model", "vocab", "zzz", 5), "do not match"),
    "no special tokens": (_set("added_tokens", []), "special tokens"),
    "a special token renamed": (_set("added_tokens", 3, "content", "<|mine|>"), "special tokens"),
    "a special token that is none": (_set("added_tokens", 3, "special", False), "special tokens"),
    "a space added in front": (_set("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", True), "splits"),
    "text split by another rule": (_set("pre_tokenizer", {"type": "Whitespace"}), "missing or malformed"),
    "a pattern that is none": (_set("pre_tokenizer", "pretokenizers", 0, "pattern", {"Regex": "("}), "."),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_that_would_encode_differently_is_refused(tokenizer: Tokenizer, name: str):
    damage, reason = DAMAGES[name]
    file = json.loads(tokenizer.to_json())
    damage(file)
    with pytest.raises(ValueError, match=reason):
        Tokenizer(json.dumps(file))


def test_a_merge_of_tokens_that_come_later_is_refused(tokenizer: Tokenizer):
    file = json.loads(tokenizer.to_json())
    single_bytes = sorted(byte_alphabet())
    file["model"]["merges"] = [["ab", "c"], ["a", "b"]]
    file["model"]["vocab"] = {token: id for id, token in enumerate([*single_bytes, "abc", "ab"])}
    with pytest.raises(ValueError, match="do not exist yet"):
        parse_tokenizer_file(json.dumps(file))


@given(
    content=st.one_of(st.text(max_size=40), st.recursive(st.none() | st.integers(), st.lists).map(json.dumps))
)
@settings(max_examples=50, deadline=None)
def test_arbitrary_text_is_refused_and_never_crashes(content: str):
    with pytest.raises(ValueError):
        parse_tokenizer_file(content)


@given(share=st.floats(0, 0.999))
@settings(max_examples=30, deadline=None)
def test_a_truncated_file_is_refused(tokenizer: Tokenizer, share: float):
    content = tokenizer.to_json()
    with pytest.raises(ValueError, match="truncated"):
        parse_tokenizer_file(content[: int(len(content) * share)])


def test_a_tokenizer_of_gpt_2s_format_is_refused():
    other = tokenizers.Tokenizer(models.BPE())
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    other.train_from_iterator(["some text"], trainers.BpeTrainer(show_progress=False))
    with pytest.raises(ValueError, match="missing or malformed"):
        parse_tokenizer_file(other.to_str())
