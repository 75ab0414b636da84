"""What stands in a `tokenizer.json`: read, checked, and turned into bytes.

The format is that of the `tokenizers` library, so that the rest of the ecosystem can read it. Of all that
the format allows, this module accepts only what `chatsmith.text.bpe` writes: byte-level BPE, the vocabulary
in the order of its merges, the special tokens last. Anything else is refused with a reason, for an encoder
built from it could give other ids than the library does.
"""

import json
from dataclasses import dataclass
from typing import Any

from chatsmith.text.vocabulary import NUM_BYTES, SPECIAL_TOKENS


@dataclass(frozen=True)
class TokenizerFile:
    """The facts of a `tokenizer.json` from which an encoder can be built."""

    split_pattern: str
    """The regular expression that cuts text into pieces, within which bytes are merged."""
    token_bytes: tuple[bytes, ...]
    """The bytes of every ordinary token by id: 256 single bytes, then one token a merge, in their order."""


def parse_tokenizer_file(content: str) -> TokenizerFile:
    """Read the text of a `tokenizer.json`. Raises ValueError, in plain words, if it is not one of ours."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not complete JSON (damaged or truncated)") from error
    try:
        model = data["model"]
        _require(model["type"] == "BPE", "its model is not BPE")
        _require(not data["normalizer"], "it normalizes text, so decoding would not give the text back")
        for option in (
            "dropout",
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "byte_fallback",
            "ignore_merges",
        ):
            _require(not model.get(option), f"it uses the option {option}")
        pattern = _split_pattern(data["pre_tokenizer"])
        tokens = _token_bytes(model["vocab"], model["merges"])
        _check_special_tokens(data["added_tokens"], first_id=len(tokens))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"a part of it is missing or malformed ({error!r})") from error
    return TokenizerFile(pattern, tokens)


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary.

    The scheme is GPT-2's: a byte whose Latin-1 character is visible stands for itself; the others (controls,
    the spaces, the soft hyphen) take the characters from U+0100 on, in order.
    """
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(NUM_BYTES) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}


def _split_pattern(pre_tokenizer: Any) -> str:
    steps = pre_tokenizer["pretokenizers"]
    _require([step["type"] for step in steps] == ["Split", "ByteLevel"], "it splits text in an unknown way")
    split, byte_level = steps
    _require(
        split["behavior"] == "Isolated"
        and not split["invert"]
        and not byte_level["add_prefix_space"]
        and not byte_level["use_regex"],
        "it splits text in an unknown way",
    )
    pattern = split["pattern"]["Regex"]
    _require(isinstance(pattern, str), "its split pattern is not text")
    return pattern


def _token_bytes(vocab: dict[str, int], merges: list[list[str]]) -> tuple[bytes, ...]:
    """The bytes of each token, with a check that ids are in the order in which merging makes the tokens."""
    byte_of = byte_alphabet()
    _require(len(vocab) == NUM_BYTES + len(merges), "its vocabulary and its merges do not match")
    expected = [*sorted(byte_of), *(left + right for left, right in merges)]
    _require(
        [vocab[token] for token in expected] == list(range(len(vocab))),
        "its ids are not in the order of merges",
    )
    ids = {token: id for id, token in enumerate(expected)}
    for id, (left, right) in enumerate(merges, start=NUM_BYTES):
        _require(max(ids[left], ids[right]) < id, "it merges tokens that do not exist yet")
    return tuple(bytes(byte_of[character] for character in token) for token in expected)


def _check_special_tokens(added_tokens: list[dict[str, Any]], first_id: int) -> None:
    found = [(token["id"], token["content"], token["special"]) for token in added_tokens]
    expected = [(id, name, True) for id, name in enumerate(SPECIAL_TOKENS, start=first_id)]
    _require(found == expected, "its special tokens are not those of chatsmith")


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise ValueError(complaint)
