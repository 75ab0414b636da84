"""The tokenizer: text to ids and back, exactly.

Built from a `tokenizer.json` (see `chatsmith.text.tokenizer_file`), it encodes with tiktoken, which gives the
ids that the `tokenizers` library gives, several times faster. That rests on two facts, both tested: merging
by rank is merging in the order of the vocabulary, and the two libraries' regular-expression engines agree on
the character classes of the split pattern.

Promises:

- `decode(encode(text)) == text` for every valid Unicode text. A lone surrogate (half of a UTF-16 pair, which
  JSON can smuggle into a Python string) is no character: it is encoded as U+FFFD, and a whole pair as the
  character that it stands for.
- `encode` never gives a special token, whatever the text says. Only `encode_with_special` does.
- A tokenizer never changes, and may be used from many threads at once. It is copied, and travels to
  other processes, as the text of its file.

It does not train (see `chatsmith.text.bpe`) and knows nothing of conversations (see `chatsmith.text.chat`).
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tiktoken

from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer_file import parse_tokenizer_file
from chatsmith.text.vocabulary import SPECIAL_TOKENS

__all__ = ["FILE_NAME", "SPECIAL_TOKENS", "Tokenizer"]

FILE_NAME = "tokenizer.json"


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
        file = parse_tokenizer_file(content)
        num_ordinary = len(file.token_bytes)
        self._content = content
        self._special_ids = {name: id for id, name in enumerate(SPECIAL_TOKENS, start=num_ordinary)}
        names = (name.encode() for name in SPECIAL_TOKENS)
        # A dict, for a list would take a negative id for one counted from the end.
        self._bytes_of = dict(enumerate([*file.token_bytes, *names]))
        self._encoding = tiktoken.Encoding(
            "chatsmith",
            pat_str=file.split_pattern,
            mergeable_ranks={token: id for id, token in enumerate(file.token_bytes)},
            special_tokens=self._special_ids,
        )
        self.vocab_size = num_ordinary + len(SPECIAL_TOKENS)
        self.bos_id = self._special_ids["<|bos|>"]
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        lengths = [len(token) for token in file.token_bytes] + [0] * len(SPECIAL_TOKENS)
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
            raise UserError(f"there is no tokenizer at {file}; make one with `chatsmith tokenizer`") from None
        except OSError as error:
            raise UserError(
                f"{file} cannot be read ({error.strerror}); check the path and its permissions"
            ) from error
        except ValueError as error:
            reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
            raise UserError(
                f"{file} is not a tokenizer of chatsmith: {reason}; make it again with `chatsmith tokenizer`"
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
