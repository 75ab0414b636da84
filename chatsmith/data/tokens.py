"""Token ids on disk: every document of one split, tokenized ahead of training by a process of its own.

A folder holds

    ids.bin        the ids of all documents end to end, without <|bos|>: uint16, or uint32 above 65,536 ids
    offsets.bin    where each document ends in it, int64
    progress.json  how much of the two may be read, a hash of every window, and a hash of all this

Documents come in windows. A window is published, atomically, once all of it is on disk, and never changes
again; its hash is checked when it is read. The cache depends on the tokenizer, the documents and the split,
and on nothing else: its key names the three, and a cache with another key is rebuilt.

This file has both sides. `open_token_cache` starts the worker, `python -m chatsmith.data.tokens JOB`, where JOB
is a JSON file with the manifest and the tokenizer: no torch in it, low priority. The parent writes to its stdin
how many windows are wanted, 8 bytes a number: a run of minutes on a large corpus needs a small part of it. The
worker answers through progress.json, which every process of a run may read, and prints what is wrong with the
data to its stdout. It ends when its stdin does. A build that was interrupted continues after the last published
window. Two builders of one folder are kept apart by their caller.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from chatsmith.data.dataset import DataManifest, SplitName
from chatsmith.data.documents import Document
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer

FORMAT_VERSION = 2  # 1 had no hashes
KEY_FORMAT = 1  # raised when equal inputs no longer give equal ids or windows
IDS, OFFSETS, PROGRESS, LOG, JOB = "ids.bin", "offsets.bin", "progress.json", "worker.log", "job.json"

WINDOW_DOCUMENTS = 2_048
WINDOW_CHARACTERS = 16_000_000
"""A window ends after this many documents or characters, so that neither short nor huge ones delay the first."""

ALL_WINDOWS = 1 << 62
_POLL_SECONDS = 0.05
_STALLED_SECONDS = 600


def part_end(part: int) -> int:
    """The first window after `part`: an epoch is read in parts of 1, 2, 4, 8, ... windows (0 | 1-2 | 3-6 | 7-14).

    Training starts with the first window alone, and while it reads one part the worker fills the next.
    """
    return 2 ** (part + 1) - 1


@dataclass
class Progress:
    """The content of `progress.json`. The lists have an entry a window and count from the start of the cache."""

    key: str
    bos_id: int = 0
    id_bytes: int = 2
    """Bytes an id: 2 or 4."""
    documents: list[int] = field(default_factory=list)
    """Documents up to and including each window."""
    ids: list[int] = field(default_factory=list)
    """Ids up to and including each window."""
    hashes: list[str] = field(default_factory=list)
    """Of each window's offsets and ids; empty for a window of format 1."""
    complete: bool = False

    def bounds(self, window: int) -> tuple[slice, slice]:
        """Which documents, and which ids, a window holds."""
        first_document, first_id = (ends[window - 1] if window else 0 for ends in (self.documents, self.ids))
        return slice(first_document, self.documents[window]), slice(first_id, self.ids[window])

    def sizes(self) -> dict[str, int]:
        """How many bytes of each file are published."""
        return {IDS: self.id_bytes * _last(self.ids), OFFSETS: 8 * _last(self.documents)}

    def save(self, folder: Path) -> None:
        """Publish, atomically."""
        facts = {"format_version": FORMAT_VERSION, **asdict(self)}
        write_text(folder / PROGRESS, json.dumps({**facts, "hash": _facts_hash(facts)}))

    @staticmethod
    def load(folder: Path, key: str) -> "Progress | None":
        """The progress of the cache in `folder`; None if there is none, or it is damaged or has another key."""
        try:
            facts = json.loads((folder / PROGRESS).read_bytes())
            stored_hash = facts.pop("hash", None)
            if facts["key"] != key or facts["format_version"] not in (1, FORMAT_VERSION):
                return None
            if facts["format_version"] == 1:
                facts["hashes"] = [""] * len(facts["ids"])
                del facts["user_error"]
            elif stored_hash != _facts_hash(facts):
                return None
            del facts["format_version"]
            progress = Progress(**facts)
            sizes = progress.sizes().items()
            is_whole = all((folder / name).stat().st_size >= size for name, size in sizes if size)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return progress if is_whole else None


def _last(ends: list[int]) -> int:
    return ends[-1] if ends else 0


def _facts_hash(facts: dict[str, Any]) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _window_hash(ends: np.ndarray, ids: np.ndarray) -> str:
    """64 bits of a window's content: against damage, not against forgery."""
    digest = blake2b(ends.data, digest_size=8)
    digest.update(ids.data)
    return digest.hexdigest()


class TokenCache:
    """Reads a cache that may still be growing. Close it, or use it in a `with`, to stop its worker."""

    def __init__(self, folder: Path, key: str, worker: "subprocess.Popen[bytes] | None" = None):
        self.folder = folder
        self.key = key
        self._worker = worker
        self._progress = Progress.load(folder, key) or Progress(key)
        self._ids: np.ndarray | None = None
        self._asked = 0
        self._ask(part_end(1))

    @property
    def bos_id(self) -> int:
        """The id that packing puts before each document."""
        return self._progress.bos_id

    @property
    def num_windows(self) -> int:
        """Windows published so far."""
        return len(self._progress.ids)

    @property
    def num_documents(self) -> int:
        """Documents published so far."""
        return _last(self._progress.documents)

    @property
    def num_ids(self) -> int:
        """Ids published so far."""
        return _last(self._progress.ids)

    @property
    def is_complete(self) -> bool:
        """Whether every document is in the cache."""
        return self._progress.complete

    @property
    def ids(self) -> np.ndarray:
        """(num_ids,) all published ids, memory-mapped and read-only."""
        if self._ids is None or len(self._ids) != self.num_ids:
            dtype = f"uint{8 * self._progress.id_bytes}"
            self._ids = np.memmap(self.folder / IDS, dtype, mode="r", shape=(self.num_ids,))
        return self._ids

    def window_offsets(self, window: int) -> np.ndarray:
        """(documents in the window + 1,) int64: document i of a published window is ids[o[i] : o[i + 1]].

        Raises UserError if the window is not what was written.
        """
        documents, ids = self._progress.bounds(window)
        count = documents.stop - documents.start
        ends = np.fromfile(self.folder / OFFSETS, np.int64, count, offset=8 * documents.start)
        offsets = np.concatenate([[ids.start], ends])
        expected = self._progress.hashes[window]
        is_sound = len(ends) == count and offsets[-1] == ids.stop and (np.diff(offsets) >= 0).all()
        if not is_sound or (expected and expected != _window_hash(ends, self.ids[ids])):
            raise UserError(
                f"the tokens in {self.folder} are damaged (window {window} is not what was written); "
                "delete that folder and repeat the command, which tokenizes the text again"
            )
        return offsets

    def wait_for_window(self, window: int) -> bool:
        """Return True once the window can be read, False if the cache is complete without it.

        Raises UserError with what the worker found wrong with the data, if the worker died, or if the cache has
        not grown for ten minutes.
        """
        part = (window + 1).bit_length() - 1
        self._ask(part_end(part + 1))
        self._wait(window + 1)
        return self.num_windows > window

    def wait_until_complete(self) -> None:
        """Wait for the last document. Raises as `wait_for_window` does."""
        self._ask(ALL_WINDOWS)
        self._wait(ALL_WINDOWS)

    def close(self) -> None:
        """Stop the worker if it still runs. What it has published stays, and a later build continues from there."""
        if self._worker is None:
            return
        self._worker.terminate()
        self._worker.wait()
        for pipe in (self._worker.stdin, self._worker.stdout):
            if pipe:
                pipe.close()
        self._worker = None

    def __enter__(self) -> "TokenCache":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _ask(self, windows: int) -> None:
        """Have the worker fill this many windows."""
        if windows <= self._asked or self._worker is None or self._worker.stdin is None:
            return
        self._asked = windows
        with contextlib.suppress(BrokenPipeError):  # it has ended: whoever waits will see how
            self._worker.stdin.write(windows.to_bytes(8, "little"))

    def _wait(self, windows: int) -> None:
        """Return once this many windows are published, or all there are."""
        last_growth = time.monotonic()
        while self.num_windows < windows and not self.is_complete:
            # Asked before the progress is read, or the worker's last window could fall between the two.
            has_ended = self._worker is not None and self._worker.poll() is not None
            before = self._progress
            self._progress = Progress.load(self.folder, self.key) or before
            if self._progress != before:
                last_growth = time.monotonic()
            elif has_ended:
                raise UserError(self._how_the_worker_ended())
            elif time.monotonic() - last_growth > _STALLED_SECONDS:
                minutes = _STALLED_SECONDS // 60
                raise UserError(
                    f"no new tokens in {self.folder} for {minutes} minutes; is the folder shared?"
                )
            else:
                time.sleep(_POLL_SECONDS)

    def _how_the_worker_ended(self) -> str:
        assert self._worker
        said = self._worker.stdout.read().decode(errors="replace").strip() if self._worker.stdout else ""
        code = self._worker.returncode
        how = f"ended with code {code}" if code >= 0 else f"was killed by signal {-code} (out of memory?)"
        return said or (
            f"the tokenizing process {how} before it was done; see {self.folder / LOG}. "
            "Repeat the command to continue where it stopped"
        )


def open_token_cache(
    folder: Path,
    manifest: DataManifest,
    tokenizer: Tokenizer,
    split: SplitName,
    *,
    build: bool = True,
) -> TokenCache:
    """The cache of one split in `folder`/<split>, at once; a worker continues to fill it if need be.

    With several processes, only one may `build`; the others read what it publishes. The worker tokenizes with one
    thread on a small machine; with a quarter of the processors, at most 8, on a larger one.
    """
    folder = folder / split
    key = cache_key(tokenizer.fingerprint, manifest.documents.fingerprint, split)
    progress = Progress.load(folder, key)
    if not build or (progress and progress.complete):
        return TokenCache(folder, key)
    folder.mkdir(parents=True, exist_ok=True)
    if progress is None:
        (folder / PROGRESS).unlink(missing_ok=True)  # no reader may meet what another build left
    job = {
        "folder": str(folder.absolute()),
        "key": key,
        "split": split,
        "threads": max(1, min(8, (os.cpu_count() or 1) // 4)),
        "manifest": manifest.to_json(),
        "tokenizer": tokenizer.to_json(),
    }
    write_text(folder / JOB, json.dumps(job))
    return TokenCache(folder, key, _start_worker(folder))


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
    with (folder / LOG).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "chatsmith.data.tokens", str(folder / JOB)],
            stdin=subprocess.PIPE,
            bufsize=0,  # what could not be written to a worker that has ended must not come up again on closing
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": search},
            start_new_session=True,  # Ctrl-C is for training, which then closes the worker
        )


class CacheWriter:
    """Appends windows to a cache's files, after the last one published under the same key."""

    def __init__(self, folder: Path, key: str, *, bos_id: int, vocab_size: int):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a build that was stopped while it published
            leftover.unlink()
        self.folder = folder
        id_bytes = 2 if vocab_size <= 1 << 16 else 4
        self.progress = Progress.load(folder, key) or Progress(key, bos_id, id_bytes)
        self.progress.complete = False
        for name, size in self.progress.sizes().items():
            with (folder / name).open("ab") as file:
                file.truncate(size)
        self.progress.save(folder)

    def add_window(self, documents: list[list[int]]) -> None:
        """Write the ids of one window's documents and publish them. Raises UserError if the disk is full."""
        num_documents, num_ids = _last(self.progress.documents), _last(self.progress.ids)
        ends = num_ids + np.cumsum([len(ids) for ids in documents], dtype=np.int64)
        dtype = f"uint{8 * self.progress.id_bytes}"
        ids = np.concatenate([np.array(ids, dtype) for ids in documents])
        try:
            for name, array in ((IDS, ids), (OFFSETS, ends)):
                with (self.folder / name).open("ab") as file:
                    file.write(array.tobytes())
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"the tokens in {self.folder} cannot grow ({error.strerror}); free space and repeat the command"
            ) from error
        self.progress.documents.append(num_documents + len(documents))
        self.progress.ids.append(num_ids + len(ids))
        self.progress.hashes.append(_window_hash(ends, ids))
        self.progress.save(self.folder)

    def finish(self) -> None:
        """Publish that every document is in."""
        self.progress.complete = True
        self.progress.save(self.folder)


def build(
    writer: CacheWriter,
    documents: Iterable[Document],
    encode: Callable[[str], list[int]],
    threads: int = 1,
    wait_until_wanted: Callable[[int], None] = lambda window: None,
) -> None:
    """Tokenize the documents that are not in the cache yet, window by window, and finish it."""
    published = _last(writer.progress.documents)
    with ThreadPoolExecutor(threads) as pool:
        for window in windows(islice(documents, published, None)):
            wait_until_wanted(len(writer.progress.ids))
            texts = (document.text for document in window)
            writer.add_window(list(pool.map(encode, texts) if threads > 1 else map(encode, texts)))
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


class Demand:
    """How many windows are wanted so far, as our stdin says."""

    def __init__(self) -> None:
        self._windows = 0
        self._grown = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Follow the demand; end this process when the other end of the pipe closes."""
        while number := os.read(
            0, 8
        ):  # not through sys.stdin, whose lock would be held at this process's end
            with self._grown:
                self._windows = max(self._windows, int.from_bytes(number, "little"))
                self._grown.notify_all()
        os._exit(3)

    def wait_for(self, window: int) -> None:
        """Return once the window of this number is wanted."""
        with self._grown:
            self._grown.wait_for(lambda: self._windows > window)


def main(job_file: Path) -> None:
    """Fill the cache that the job describes (see `open_token_cache`)."""
    demand = Demand()
    os.nice(10)  # training goes first; when it waits for tokens, the processors are ours anyway
    job = json.loads(job_file.read_bytes())
    tokenizer = Tokenizer(job["tokenizer"])
    manifest = DataManifest.from_json(job["manifest"])
    try:
        writer = CacheWriter(
            Path(job["folder"]), job["key"], bos_id=tokenizer.bos_id, vocab_size=tokenizer.vocab_size
        )
        documents = manifest.read_documents(job["split"])
        build(writer, documents, tokenizer.encode, job["threads"], demand.wait_for)
    except UserError as error:
        sys.stdout.write(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
