"""The text that bits per byte are measured on, as a token cache: a run's own, or any files that are named."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chatsmith.data.dataset import survey
from chatsmith.data.documents import find_files, holds_conversations
from chatsmith.data.tokens import TokenCache, open_token_cache
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory


@contextmanager
def run_text(run: RunDirectory, tokenizer_folder: Path, *, build: bool) -> Iterator[TokenCache]:
    """The validation text of a run; with several processes, only one may `build` its cache."""
    with open_token_cache(
        run.tokens,
        data_folder=run.data,
        tokenizer_folder=tokenizer_folder,
        split="validation",
        build=build,
    ) as cache:
        yield cache


@contextmanager
def named_text(paths: Sequence[Path], tokenizer_folder: Path) -> Iterator[TokenCache]:
    """The text in files and folders, for the length of the block. Raises UserError if there is none in them."""
    for file in find_files(paths):
        if holds_conversations(file):
            raise UserError(f"{file} holds conversations; bits per byte are measured on text")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nothing = folder / "nothing.txt"
        nothing.write_text("-")  # a manifest names something to train on, too
        survey([nothing], validation=paths).save(folder)
        with open_token_cache(
            folder / "tokens", data_folder=folder, tokenizer_folder=tokenizer_folder, split="validation"
        ) as cache:
            yield cache
