"""Small real things for the data tests: a tokenizer, and token caches of documents whose every id is unique."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from chatsmith.data.tokens import CacheWriter, TokenCache
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer

BOS = 0

MakeCache = Callable[[Sequence[Sequence[int]]], TokenCache]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["The little fox asked: where is my red ball? It is under the tree. " * 20], 320)


@pytest.fixture(scope="session")
def make_cache(tmp_path_factory: pytest.TempPathFactory) -> MakeCache:
    """Make a complete cache from the document lengths of each window. Its ids count up from 1."""

    def make(windows: Sequence[Sequence[int]]) -> TokenCache:
        folder = tmp_path_factory.mktemp("cache")
        writer = CacheWriter(folder, "key", bos_id=BOS, vocab_size=1 << 20)
        end = 0
        for lengths in windows:
            ends = (end + np.cumsum(lengths)).tolist()
            bounds = zip([end, *ends], ends, strict=False)
            writer.add_window([list(range(first + 1, last + 1)) for first, last in bounds])
            end = ends[-1]
        writer.finish()
        return TokenCache(folder, "key")

    return make


@pytest.fixture
def shared_data() -> Path:
    """The project's shared data folder; tests that need it are skipped where it is absent."""
    beside = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("CHATSMITH_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder; there is none at {folder}")
    return folder
