"""GPT-2's and GPT-4's vocabularies, for comparison, where they are already on this machine.

tiktoken downloads a vocabulary that it does not find in its cache folder. Here nothing is ever downloaded: a
vocabulary is loaded only if its file lies, whole, in that folder or where `chatsmith data download vocabularies` puts
it.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tiktoken

from chatsmith.data.dataset import file_sha256
from chatsmith.runtime.atomic import write_bytes
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import default_folder
from chatsmith.text.tokenizer import Tokenizer


class ReferenceVocabulary(NamedTuple):
    """A published vocabulary, and how to recognize its file in tiktoken's cache."""

    name: str
    """What people call it."""
    encoding: str
    """tiktoken's name for it."""
    sha256: str
    """What tiktoken wants the file's content to hash to; it downloads again what does not."""

    @property
    def url(self) -> str:
        """Where tiktoken has it from; its SHA-1 is the file's name in the cache."""
        return f"https://openaipublic.blob.core.windows.net/encodings/{self.encoding}.tiktoken"


# Addresses and hashes are those in tiktoken's own tiktoken_ext/openai_public.py; a test compares them.
_GPT_2 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
_GPT_4 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
REFERENCE_VOCABULARIES = (
    ReferenceVocabulary("GPT-2", "r50k_base", _GPT_2),
    ReferenceVocabulary("GPT-4", "cl100k_base", _GPT_4),
)


def compare(own: Tokenizer, texts: Mapping[str, list[str]]) -> dict[str, dict[str, float] | None]:
    """Bytes per token by kind of text, and the number of "ids", by vocabulary: of this tokenizer first; None where one
    is not available offline. What has no tokens is left out."""
    vocabularies: dict[str, Any] = {"this tokenizer": (own.vocab_size, own.encode_batch)}
    for reference in REFERENCE_VOCABULARIES:
        encoding = load_offline(reference)
        vocabularies[reference.name] = encoding and (encoding.n_vocab, encoding.encode_ordinary_batch)
    compared: dict[str, dict[str, float] | None] = dict.fromkeys(vocabularies)
    for name, (ids, encode_batch) in filter(lambda one: one[1], vocabularies.items()):
        found = compared[name] = {"ids": ids}
        for kind, parts in texts.items():
            if count := sum(map(len, encode_batch(parts))):
                found[kind] = sum(len(text.encode("utf-8", "replace")) for text in parts) / count
    return compared


def beginning(texts: Iterable[str], characters: int) -> list[str]:
    """The first texts, until they have so many characters in all."""
    chosen, found = list[str](), 0
    for text in texts:
        chosen.append(text)
        found += len(text)
        if found >= characters:
            break
    return chosen


def load_offline(vocabulary: ReferenceVocabulary) -> tiktoken.Encoding | None:
    """The encoding, or None if its file is not on this machine, or cannot be read or put where tiktoken finds it."""
    folder = _cache_folder()
    if folder is None:
        return None
    file = folder / hashlib.sha1(vocabulary.url.encode()).hexdigest()
    downloaded = default_folder() / "vocabularies" / f"{vocabulary.encoding}.tiktoken"
    try:
        if not _is_whole(file, vocabulary):
            if not _is_whole(downloaded, vocabulary):
                return None
            write_bytes(file, downloaded.read_bytes())  # for tiktoken reads no other folder
        return tiktoken.get_encoding(vocabulary.encoding)
    except (OSError, UserError):
        return None


def _is_whole(file: Path, vocabulary: ReferenceVocabulary) -> bool:
    return file.is_file() and file_sha256(file) == vocabulary.sha256


def _cache_folder() -> Path | None:
    """Where tiktoken keeps its files; None if its cache is switched off (the variable is set but empty)."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable]) if os.environ[variable] else None
    return Path(tempfile.gettempdir()) / "data-gym-cache"
