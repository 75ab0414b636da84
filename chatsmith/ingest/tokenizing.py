"""The process that tokenizes documents ahead of training, into token caches (`data.tokens`) that runs share.

`open_token_cache` starts it, `python -m chatsmith.ingest.tokenizing JOB`, where JOB is a JSON file with the manifest
and the tokenizer: no torch in it, low priority. The parent writes to its stdin how many windows are wanted, 8 bytes a
number: a run of minutes on a large corpus needs a small part of it. The worker answers through progress.json, which
every process of a run may read, and prints what is wrong with the data to its stdout. It ends when its stdin does.
Workers that build the same part take turns, a window each.

Conversations are rendered and tokenized by the main process itself, once: `cache_conversations`.
"""

import fcntl
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path

from chatsmith.data.dataset import DataManifest, SourceFile, SplitName
from chatsmith.data.documents import Document
from chatsmith.data.tokens import ABOUT, LOG, PROGRESS, WINDOW_DOCUMENTS, CacheWriter, Progress, TokenCache
from chatsmith.runtime.atomic import wait_for_room, write_text
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, render
from chatsmith.text.tokenizer import Tokenizer

KEY_FORMAT = 1  # raised when equal inputs no longer give equal ids or windows
JOB, IN_USE = "job.json", ".in-use"
BUILDING = ".building"
"""Held by whoever fills a cache of conversations."""

WINDOW_CHARACTERS = 16_000_000
"""A window ends after WINDOW_DOCUMENTS or this many characters: neither short documents nor huge ones delay the
first."""

_POLL_SECONDS = 0.05


def open_token_cache(
    folder: Path,
    manifest: DataManifest,
    tokenizer: Tokenizer,
    split: SplitName,
    *,
    build: bool = True,
    shared: Path | None = None,
    disk_wait: float = 0.0,
) -> TokenCache:
    """The cache of one split, at once; a worker continues to fill it if need be.

    Its parts are in `shared`, for other runs too (None: in `folder`); the worker's log is in `folder`/<split>. Of
    several processes that see the same folders one should `build`; the others read what it publishes. The worker
    tokenizes with one thread on a small machine; with a quarter of the processors, at most 8, on a larger one. On a
    full disk it waits up to `disk_wait` seconds for room.
    """
    folder = folder / split
    former = (folder, cache_key(tokenizer.fingerprint, manifest.documents.fingerprint, split))
    if (progress := Progress.load(*former)) and progress.complete:
        return TokenCache(*former)  # in the run, where earlier versions kept it
    parts = [(part, _place(shared or folder, part, tokenizer, split)) for part in parts_of(manifest, split)]
    places = [place for _, place in parts]
    if not build or all((one := Progress.load(*place)) and one.complete for place in places):
        return TokenCache(*places[0], more=places[1:], disk_wait=disk_wait)
    for part, (place, _) in parts:
        names = [str(file.path) for file in (part.documents.train or part.documents.validation)]
        write_text(place / ABOUT, json.dumps({"files": names, "split": split}))
    job = {
        "folder": str((shared or folder).absolute()),
        "split": split,
        "threads": max(1, min(8, (os.cpu_count() or 1) // 4)),
        "manifest": manifest.to_json(),
        "tokenizer": tokenizer.to_json(),
        "disk_wait": disk_wait,
    }
    write_text(folder / JOB, json.dumps(job))
    return TokenCache(*places[0], _start_worker(folder), places[1:], disk_wait)


def parts_of(manifest: DataManifest, split: SplitName) -> list[DataManifest]:
    """The manifest in parts that are cached by themselves: each shard of a hub, and local files that stand together.

    Windows end with a part, and nothing that changes in one changes another.
    """

    def part(files: Iterable[SourceFile]) -> DataManifest:
        return DataManifest(manifest.source, replace(manifest.documents, train=tuple(files)))

    if split == "validation" and manifest.documents.method == "files":
        return [part(())]
    kinds = groupby(manifest.documents.train, lambda file: file.is_remote and file.sha256)
    return [part(files) for _, files in kinds]


def unfinished_files(cache: TokenCache, manifest: DataManifest, split: SplitName) -> list[SourceFile]:
    """The training files of the parts that are not complete, in order."""
    parts = zip(parts_of(manifest, split), cache.progress, strict=True)
    return [file for part, progress in parts if not progress.complete for file in part.documents.train]


def _place(shared: Path, part: DataManifest, tokenizer: Tokenizer, split: SplitName) -> tuple[Path, str]:
    key = cache_key(tokenizer.fingerprint, part.documents.fingerprint, split)
    return shared / key[:32], key


def cache_key(tokenizer_fingerprint: str, documents_fingerprint: str, split: SplitName) -> str:
    """What a cache is made of, in one hash."""
    window = (WINDOW_DOCUMENTS, WINDOW_CHARACTERS)
    parts = [KEY_FORMAT, *window, tokenizer_fingerprint, documents_fingerprint, split]
    return sha256(json.dumps(parts).encode()).hexdigest()


def _start_worker(folder: Path) -> "subprocess.Popen[bytes]":
    # A command of its own rather than multiprocessing, which would import the caller's main module, torch and
    # all, into the worker.
    package_parent = str(Path(__file__).parents[2])
    search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    said = os.dup(2)  # where the worker's one notice is read at once; its log may be on the full disk
    with (folder / LOG).open("wb") as log, closing(os.fdopen(said, "wb", 0)):
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "chatsmith.ingest.tokenizing", str(folder / JOB), str(said)],
            pass_fds=(said,),
            stdin=subprocess.PIPE,
            bufsize=0,  # what could not be written to a worker that has ended must not come up again on closing
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": search},
            start_new_session=True,  # Ctrl-C is for training, which then closes the worker
        )


def build(
    writer: CacheWriter,
    documents: Iterable[Document],
    encode: Callable[[str], list[int]],
    threads: int = 1,
    wait_until_wanted: Callable[[int], None] = lambda window: None,
) -> None:
    """Tokenize the documents that are not in the cache yet, window by window, and finish it."""
    with ThreadPoolExecutor(threads) as pool:
        for number, window in enumerate(windows(documents)):
            if number < len(writer.progress.ids):
                continue
            wait_until_wanted(number)
            with writer.turn() as published:
                if number == published:
                    texts = (document.text for document in window)
                    writer.add_window(list(pool.map(encode, texts) if threads > 1 else map(encode, texts)))
                elif number > published:
                    raise UserError(
                        f"the tokens in {writer.folder} were removed meanwhile; repeat the command"
                    )
    with writer.turn():
        writer.finish()


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


def cache_conversations(
    folder: Path, key: str, conversations: Iterable[Conversation], tokenizer: Tokenizer, *, build: bool
) -> TokenCache:
    """The conversations as a complete token cache in `folder`: 2 * id + mask of each id after the first <|bos|>.

    What is there under the same `key` is not made again. Of several processes that see the folder those that may
    `build` take turns; the others wait and read no conversation. A build that was interrupted goes on after its last
    window. Raises UserError for what is wrong with the conversations.
    """

    def encoded(conversation: Conversation) -> list[int]:
        rendered = render(conversation, tokenizer)
        return [2 * one + mask for one, mask in zip(rendered.ids[1:], rendered.mask[1:], strict=True)]

    if build:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / BUILDING).open("w") as lock, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            fcntl.flock(lock, fcntl.LOCK_EX)
            progress = Progress.load(folder, key)
            if progress is None:
                (folder / PROGRESS).unlink(missing_ok=True)  # no reader may meet what another build left
            if not (progress and progress.complete):
                bos_id, vocab_size = 2 * tokenizer.bos_id, 2 * tokenizer.vocab_size
                writer = CacheWriter(folder, key, bos_id=bos_id, vocab_size=vocab_size)
                done = progress.documents[-1] if progress and progress.documents else 0
                left = islice(conversations, done, None)
                while window := list(islice(left, WINDOW_DOCUMENTS)):
                    writer.add_window(list(pool.map(encoded, window)))
                writer.finish()
    cache = TokenCache(folder, key)
    cache.wait_until_complete()
    return cache


class Demand:
    """How many windows are wanted so far, as our stdin says."""

    def __init__(self) -> None:
        self._windows = 0
        self._grown = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Follow the demand; end this process when the other end of the pipe closes."""
        # Not through sys.stdin, whose lock would be held at this process's end.
        while number := os.read(0, 8):
            with self._grown:
                self._windows = max(self._windows, int.from_bytes(number, "little"))
                self._grown.notify_all()
        os._exit(3)

    def wait_for(self, before: int, window: int) -> None:
        """Return once the window of this number, after `before` others, is wanted."""
        with self._grown:
            self._grown.wait_for(lambda: self._windows > before + window)


def main(job_file: Path, notices: int) -> None:
    """Fill the cache that the job describes (see `open_token_cache`)."""

    def say(text: str) -> None:
        os.write(notices, f"chatsmith: {text}\n".encode())

    demand = Demand()
    os.nice(10)  # training goes first; when it waits for tokens, the processors are ours anyway
    job = json.loads(job_file.read_bytes())
    tokenizer, split = Tokenizer(job["tokenizer"]), job["split"]
    manifest = DataManifest.from_json(job["manifest"])
    before = 0  # windows in earlier parts
    try:
        for part in parts_of(manifest, split):
            folder, key = _place(Path(job["folder"]), part, tokenizer, split)
            wait = functools.partial(wait_for_room, folder, job["disk_wait"], say)
            ids = {"bos_id": tokenizer.bos_id, "vocab_size": tokenizer.vocab_size}
            writer = CacheWriter(folder, key, **ids, wait=wait)
            if not writer.progress.complete:
                for file in (*part.documents.train, *part.documents.validation):
                    while file.is_remote and not file.path.exists():  # it is being downloaded
                        time.sleep(_POLL_SECONDS)
                wanted = functools.partial(demand.wait_for, before)
                build(writer, part.read_documents(split), tokenizer.encode, job["threads"], wanted)
            before += len(writer.progress.ids)
    except UserError as error:
        sys.stdout.write(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
