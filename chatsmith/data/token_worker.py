"""The process that fills a token cache: `python -m chatsmith.data.token_worker JOB`, started by
`token_cache`.

It imports no torch, holds one window in memory, and ends when the process that started it does.
"""

import errno
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from chatsmith.data.dataset import load_manifest
from chatsmith.data.documents import Document
from chatsmith.data.tokens import (
    IDS,
    OFFSETS,
    WINDOW_CHARACTERS,
    WINDOW_DOCUMENTS,
    Progress,
)
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer


class CacheWriter:
    """Appends windows to a cache's files, going on after the last one published under the same key."""

    def __init__(self, folder: Path, key: str, *, bos_id: int, vocab_size: int):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a build that was stopped while it published
            leftover.unlink()
        self.folder = folder
        self.progress = Progress.load(folder, key) or Progress(key, bos_id, 2 if vocab_size <= 1 << 16 else 4)
        self._kind = np.uint16 if self.progress.id_bytes == 2 else np.uint32
        kept_ids = self.progress.ids[-1] if self.progress.ids else 0
        if not self._cut(IDS, self.progress.id_bytes * kept_ids) or not self._cut(
            OFFSETS, 8 * self.documents
        ):
            self.progress = Progress(key, bos_id, self.progress.id_bytes)
            self._cut(IDS, 0)
            self._cut(OFFSETS, 0)
        self.progress.complete, self.progress.user_error = False, None
        # An old key's progress must not stand beside the files that are now cut.
        self.progress.save(folder)

    @property
    def documents(self) -> int:
        """Documents published so far."""
        return self.progress.documents[-1] if self.progress.documents else 0

    def add_window(self, documents: list[list[int]]) -> None:
        """Write the ids of one window's documents and publish them."""
        before = self.progress.ids[-1] if self.progress.ids else 0
        ends = before + np.cumsum([len(ids) for ids in documents], dtype=np.int64)
        with (self.folder / IDS).open("ab") as file:
            for ids in documents:
                file.write(np.array(ids, dtype=self._kind).tobytes())
            _flush(file)
        with (self.folder / OFFSETS).open("ab") as file:
            file.write(ends.tobytes())
            _flush(file)
        self.progress.documents.append(self.documents + len(documents))
        self.progress.ids.append(int(ends[-1]))
        self.progress.save(self.folder)

    def finish(self) -> None:
        """Say that every document is in."""
        self.progress.complete = True
        self.progress.save(self.folder)

    def fail(self, message: str) -> None:
        """Say, in one line for the person, why the build cannot go on."""
        self.progress.user_error = message
        self.progress.save(self.folder)

    def _cut(self, name: str, size: int) -> bool:
        """Make the file `size` bytes long; False if it is shorter than that."""
        path = self.folder / name
        with path.open("ab") as file:
            if file.tell() < size:
                return False
            file.truncate(size)
        return True


def build(
    writer: CacheWriter,
    documents: Iterable[Document],
    encode: Callable[[str], list[int]],
    threads: int = 1,
    wait_until_wanted: Callable[[int], None] = lambda window: None,
) -> None:
    """Tokenize the documents that are not in the cache yet, a window at a time. UserErrors go to the
    readers. `wait_until_wanted(window)` is called before each window is tokenized."""
    try:
        with ThreadPoolExecutor(threads) as pool:  # the encoder lets other threads run while it works
            for window in windows(islice(documents, writer.documents, None)):
                wait_until_wanted(len(writer.progress.ids))
                texts = (document.text for document in window)
                writer.add_window(list(pool.map(encode, texts) if threads > 1 else map(encode, texts)))
        writer.finish()
    except UserError as error:
        writer.fail(str(error))
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            writer.fail(f"the disk is full: {writer.folder} cannot grow; free space and repeat the command")
        raise


def windows(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents: a window ends after WINDOW_DOCUMENTS of them or WINDOW_CHARACTERS."""
    window: list[Document] = []
    characters = 0
    for document in documents:
        window.append(document)
        characters += len(document.text)
        if len(window) == WINDOW_DOCUMENTS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def main(job: dict[str, Any]) -> None:
    """Fill the cache that `job` (see `open_token_cache`) describes."""
    demand = Demand()
    threading.Thread(target=demand.listen, daemon=True).start()
    os.nice(10)  # training goes first; when it waits for tokens, the processors are ours anyway
    tokenizer = Tokenizer.load(Path(job["tokenizer_folder"]))
    writer = CacheWriter(
        Path(job["folder"]), job["key"], bos_id=tokenizer.bos_id, vocab_size=tokenizer.vocab_size
    )

    def documents() -> Iterator[Document]:  # read inside `build`, which tells the readers what is wrong
        yield from load_manifest(Path(job["data_folder"])).read_documents(job["split"])

    build(writer, documents(), tokenizer.encode, job["threads"], demand.wait_for)


class Demand:
    """How many windows the process that started this one wants so far: it says so in lines on our stdin.

    Tokenizing a large corpus to its end would take processor time from a training that needs little of it.
    """

    def __init__(self) -> None:
        self._windows = 0
        self._grown = threading.Condition()

    def listen(self) -> None:
        """Follow the demand; ends this process when the other end of the pipe closes."""
        for line in sys.stdin.buffer:
            with self._grown:
                self._windows = max(self._windows, int(line))
                self._grown.notify_all()
        os._exit(3)

    def wait_for(self, window: int) -> None:
        """Return once the window of this number is wanted."""
        with self._grown:
            self._grown.wait_for(lambda: self._windows > window)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
