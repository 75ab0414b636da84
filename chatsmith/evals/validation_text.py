"""Any files as the text that bits per byte are measured on, as a token cache."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chatsmith.data.conversations import holds_conversations
from chatsmith.data.dataset import survey
from chatsmith.data.documents import find_files
from chatsmith.data.tokens import TokenCache, open_token_cache
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer


@contextmanager
def named_text(paths: Sequence[Path], tokenizer: Tokenizer) -> Iterator[TokenCache]:
    """The text in files and folders, for the length of the block. Raises UserError if there is none in them."""
    for file in find_files(paths):
        if holds_conversations(file):
            raise UserError(f"{file} holds conversations; bits per byte are measured on text")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nothing = folder / "nothing.txt"
        nothing.write_text("-")  # a manifest names something to train on, too
        manifest = survey([nothing], validation=paths)
        with open_token_cache(folder / "tokens", manifest, tokenizer, "validation") as cache:
            yield cache
