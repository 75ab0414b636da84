"""GPT-2's and GPT-4's vocabularies, for comparison, where tiktoken has them already on this machine.

tiktoken downloads a vocabulary that it does not find in its cache folder. Here nothing is ever downloaded: a
vocabulary is loaded only if its file lies in that folder, whole.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import tiktoken


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


def load_offline(vocabulary: ReferenceVocabulary) -> tiktoken.Encoding | None:
    """The encoding, or None if its file is not in tiktoken's cache folder on this machine. The folder is named by the
    environment; a variable that is set but empty switches the cache off."""
    usual = os.environ.get("DATA_GYM_CACHE_DIR", str(Path(tempfile.gettempdir()) / "data-gym-cache"))
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", usual)
    file = Path(folder) / hashlib.sha1(vocabulary.url.encode()).hexdigest()
    try:
        is_whole = bool(folder) and hashlib.sha256(file.read_bytes()).hexdigest() == vocabulary.sha256
    except OSError:
        return None
    return tiktoken.get_encoding(vocabulary.encoding) if is_whole else None
