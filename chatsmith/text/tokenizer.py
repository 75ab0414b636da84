"""The tokenizer: text to ids and back, exactly. Byte-level byte-pair encoding, trained, stored and applied.

Every vocabulary is the 256 bytes, then tokens made by merging, then the special tokens: marks that no text
can spell, with which chatsmith says where things begin and end. Training merges the most frequent pair of
adjacent tokens into a new token, again and again (Sennrich et al. 2016; on bytes: Radford et al. 2019, GPT-2);
the `tokenizers` library does it, and the same texts give the same tokenizer. `tokenizer.json` has that library's
format, so that other programs can read it. Encoding is done by tiktoken, which gives the ids that the
`tokenizers` library gives, several times faster. That rests on two facts, both tested: merging by rank is
merging in the order of the vocabulary, and the two libraries' regular-expression engines agree on the
character classes of the split pattern.

Guarantees:

- `decode(encode(text)) == text` for every valid Unicode text. A lone surrogate (half of a UTF-16 pair, which
  JSON can smuggle into a Python string) is no character: it is encoded as U+FFFD, and a whole pair as the
  character that it stands for.
- `encode` never gives a special token, whatever the text says. Only `encode_with_special` does.
- A tokenizer is immutable and may be used from many threads at once. It is copied, and passed to other
  processes, as the text of its file.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError

FILE_NAME = "tokenizer.json"
NUM_BYTES = 256
NUM_RESERVED = 16

# The order is part of the file format: tokenizers already written rely on it. Reserved ones can be given a
# meaning later without changing the shape of any trained model.
SPECIAL_TOKENS: tuple[str, ...] = (
    "<|bos|>",  # begins every document and every conversation
    "<|system_start|>",
    "<|system_end|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",  # the assistant calls the built-in tool
    "<|python_end|>",
    "<|output_start|>",  # what the built-in tool answered
    "<|output_end|>",
    "<|tool_start|>",  # the result of a client's own tool
    "<|tool_end|>",
    *(f"<|reserved_{number}|>" for number in range(NUM_RESERVED)),
)

MIN_VOCAB_SIZE = NUM_BYTES + len(SPECIAL_TOKENS)


# Merges never cross the boundaries of the pieces into which this pattern cuts the text first. The pieces are those
# of GPT-4 (tiktoken's cl100k_base), one alternative a line, with three differences:
#
# - Digits come in groups of 1-2, not 1-3. There are 1,110 groups of up to three digits, a seventh of a
#   vocabulary of 8,192, each too rare to be learned in a short run; groups of up to two are 110.
# - Contractions are spelled in both cases instead of switching case folding on: the two engines that must
#   agree here fold differently (for tiktoken's, ß matches a case-insensitive "ss"; for Oniguruma, it does not).
# - Runs of white space are cut at 256 characters. Unbounded, the look-ahead makes tiktoken's engine keep one
#   state a character, and it dies of a million spaces (tiktoken 0.14).
def _split_pattern_with(digits: str) -> str:
    return "|".join(
        [
            r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])",
            r"[^\r\n\p{L}\p{N}]?\p{L}+",
            digits,
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"\s{0,255}[\r\n]",
            r"\s{1,256}(?!\S)",
            r"\s",
        ]
    )


SPLIT_PATTERN = _split_pattern_with(r"\p{N}{1,2}")
SPLITS = {"chatsmith": SPLIT_PATTERN, "qwen2": _split_pattern_with(r"\p{N}")}
"""The patterns by name. qwen2 is the one that llama.cpp and others know by that name, with digits one by one; runs of
more than 256 white spaces alone are cut otherwise than there."""


def check_vocab_size(vocab_size: int) -> None:
    """Raise UserError if a vocabulary of this size cannot hold every byte and special token."""
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"a vocabulary of {vocab_size} is too small: {NUM_BYTES} bytes and {len(SPECIAL_TOKENS)} special "
            f"tokens need {MIN_VOCAB_SIZE}; choose a larger vocab_size"
        )


def train_tokenizer(texts: Iterable[str], vocab_size: int, split: str = "chatsmith") -> "Tokenizer":
    """Train a tokenizer of at most `vocab_size` ids, special tokens included, on `texts`, cut by SPLITS[`split`].

    A small corpus has fewer pairs worth merging (those seen twice) and gives a smaller vocabulary: see
    the result's `vocab_size`. Raises UserError if `vocab_size` is too small for the 256 bytes and the special
    tokens, or if there is no text at all.
    """
    check_vocab_size(vocab_size)
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLITS[split]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_some_text(texts), trainer)
    # Added after training, so that they take the last ids.
    bpe.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS]
    )
    return Tokenizer(bpe.to_str())


def well_formed(text: str) -> str:
    """`text` with lone surrogates as U+FFFD and pairs as their characters, as `Tokenizer` reads it."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _some_text(texts: Iterable[str]) -> Iterator[str]:
    is_empty = True
    for text in texts:
        is_empty = is_empty and not text
        yield well_formed(text)
    if is_empty:
        raise UserError(
            "there is no text to train a tokenizer on; check the data with `chatsmith data inspect`"
        )


class Tokenizer:
    """Byte-level BPE with chatsmith's special tokens as its last ids."""

    vocab_size: int
    """Number of ids, special tokens included."""
    bos_id: int
    """The id of `<|bos|>`, with which every document and conversation begins."""
    fingerprint: str
    """SHA-256 of the file's content: equal fingerprints mean equal ids."""
    token_byte_lengths: np.ndarray
    """(V,) int64: how many bytes of text each id stands for; 0 for special tokens. Read-only."""

    def __init__(self, content: str) -> None:
        """Build from the text of a `tokenizer.json`. Raises ValueError if it is not one of chatsmith's."""
        split_pattern, token_bytes = parse_tokenizer_file(content)
        num_ordinary = len(token_bytes)
        self._content = content
        self._special_ids = {name: id for id, name in enumerate(SPECIAL_TOKENS, start=num_ordinary)}
        names = (name.encode() for name in SPECIAL_TOKENS)
        # A dict, for a list would take a negative id for one counted from the end.
        self._bytes_of = dict(enumerate([*token_bytes, *names]))
        self._encoding = tiktoken.Encoding(
            "chatsmith",
            pat_str=split_pattern,
            mergeable_ranks={token: id for id, token in enumerate(token_bytes)},
            special_tokens=self._special_ids,
        )
        self.vocab_size = num_ordinary + len(SPECIAL_TOKENS)
        self.bos_id = self._special_ids["<|bos|>"]
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        lengths = [len(token) for token in token_bytes] + [0] * len(SPECIAL_TOKENS)
        self.token_byte_lengths = np.array(lengths, dtype=np.int64)
        self.token_byte_lengths.flags.writeable = False

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a `tokenizer.json`, given the file or its folder.

        Raises UserError, naming the file, if it is missing, damaged, or of another kind.
        """
        path = Path(path)
        file = path / FILE_NAME if path.is_dir() else path
        try:
            return cls(file.read_bytes().decode("utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"there is no tokenizer at {file}; train one with `chatsmith tokenizer`"
            ) from None
        except OSError as error:
            raise UserError(
                f"{file} cannot be read ({error.strerror}); check the path and its permissions"
            ) from error
        except ValueError as error:
            reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
            raise UserError(
                f"{file} is not a tokenizer of chatsmith: {reason}; train it again with `chatsmith tokenizer`"
            ) from error

    def save(self, folder: str | Path) -> Path:
        """Write `tokenizer.json` into `folder`, atomically, and return its path."""
        path = Path(folder) / FILE_NAME
        write_text(path, self._content)
        return path

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text: what looks like a special token is encoded as the characters it has."""
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], num_threads: int | None = None) -> list[list[int]]:
        """`encode` for each text, on several threads (default: one a core, at most 8)."""
        if not texts:
            return []
        return self._encoding.encode_ordinary_batch(
            list(texts), num_threads=num_threads or min(8, os.cpu_count() or 1)
        )

    def encode_with_special(self, text: str) -> list[int]:
        """The ids of text in which names of special tokens mean those tokens. Never for a user's words."""
        return self._encoding.encode(text, allowed_special="all")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens appear by name, bytes that are not UTF-8 as U+FFFD.

        Raises ValueError for an id that is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`, which may begin or end within a character. Raises ValueError like `decode`."""
        try:
            return b"".join([self._bytes_of[id] for id in ids])
        except KeyError as error:
            raise ValueError(f"id {error} is not in the vocabulary (0 to {self.vocab_size - 1})") from None

    def special(self, name: str) -> int:
        """The id of the special token `name`, such as `<|user_start|>`. KeyError for an unknown name."""
        return self._special_ids[name]

    def is_special(self, id: int) -> bool:
        """Whether `id` is a special token: they are the last of the vocabulary."""
        return id >= self.bos_id

    def to_json(self) -> str:
        """The text of the `tokenizer.json`."""
        return self._content

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[str]]:
        return Tokenizer, (self._content,)


_REFUSED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")


def parse_tokenizer_file(content: str) -> tuple[str, tuple[bytes, ...]]:
    """Read the text of a `tokenizer.json`: the regular expression that cuts text into pieces, within which bytes are
    merged, and the bytes of every ordinary token by id: 256 single bytes, then one token a merge, in their order.

    Of all that the format allows, only what `train_tokenizer` writes is accepted: byte-level BPE, the vocabulary in
    the order of its merges, the special tokens last. An encoder built from anything else could give other ids than
    the library does. Raises ValueError with the reason.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not complete JSON (damaged or truncated)") from error
    try:
        model = data["model"]
        _require(model["type"] == "BPE", "its model is not BPE")
        _require(not data["normalizer"], "it normalizes text, so decoding would not give the text back")
        for option in _REFUSED:
            _require(not model.get(option), f"it uses the option {option}")
        pattern = _split_pattern(data["pre_tokenizer"])
        tokens = _token_bytes(model["vocab"], model["merges"])
        _check_special_tokens(data["added_tokens"], first_id=len(tokens))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"a part of it is missing or malformed ({error!r})") from error
    return pattern, tokens


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
