"""A small tokenizer that has merges of many kinds, and the library it must agree with."""

import os
from pathlib import Path

import pytest
import tokenizers

from chatsmith.text.tokenizer import Tokenizer, train_tokenizer

CORPUS = [
    "The cat sat on the mat, and the dog didn't see it. I'LL say: they're here, aren't they? ",
    "def add(left, right):\n    return left + right\n\n\n\tif x:\r\n\r\n        pass\n",
    "In 1984 there were 12345 birds, 3.14159 of them blue; 2024-01-31, 10:59. ",
    "Владивосток и Москва, 東京は日本の首都です。 서울은 수도입니다. العربية 🙂🙃 ",
    "👩\u200d👩\u200d👧 Crème brûlée naïve café Ångström ",
    "a|b||c <|x|> <| |> |> == ==== --- ... !!! \u00a0\u2003\u3000 e\u0301a\u0301 ½ ² ③ ",
]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """About a thousand ids, with merges inside and across the characters of several scripts."""
    return train_tokenizer(CORPUS * 3, 1200)


@pytest.fixture(scope="session")
def library(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The same file in the `tokenizers` library, reading special tokens' names as ordinary text."""
    reference = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    reference.encode_special_tokens = True
    return reference


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that the project shares, where there is one."""
    beside_the_repository = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("CHATSMITH_SHARED_DATA", beside_the_repository))
    if not (folder / "pretrain").is_dir():
        pytest.skip(f"the shared data folder is not at {folder}; set CHATSMITH_SHARED_DATA")
    return folder
