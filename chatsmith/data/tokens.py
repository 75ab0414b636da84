"""Token ids on disk: every document of one split, tokenized ahead of training by a process of its own.

A split is cached in parts: a hub's shard is one, and so are local files that stand together. A part's folder holds

    ids.bin        the ids of all documents end to end, without <|bos|>: uint16, or uint32 above 65,536 ids
    offsets.bin    where each document ends in it, int64
    progress.json  how much of the two may be read, a hash of every window, and a hash of all this
    about.json     for people: the files it was made of
    .lock          held by whoever writes a window

Documents come in windows. A window is published, atomically, once all of it is on disk, and never changes
again; its hash is checked when it is read. A part depends on the tokenizer, the contents of its files and what is left
out of them, and on nothing else: its key names all that, and is the name of its folder. So runs share parts, also while
they are made, and one more shard changes no other.

This file has both sides. `open_token_cache` starts the worker, `python -m chatsmith.data.tokens JOB`, where JOB
is a JSON file with the manifest and the tokenizer: no torch in it, low priority. The parent writes to its stdin
how many windows are wanted, 8 bytes a number: a run of minutes on a large corpus needs a small part of it. The
worker answers through progress.json, which every process of a run may read, and prints what is wrong with the
data to its stdout. It ends when its stdin does. A build that was interrupted continues after the last published
window. Workers that build the same part take turns, a window each.
"""

import contextlib
import fcntl
import functools
import json
import os
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b, sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from chatsmith.data.dataset import DataManifest, SourceFile, SplitName
from chatsmith.data.documents import Document
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer

FORMAT_VERSION = 2  # 1 had no hashes
KEY_FORMAT = 1  # raised when equal inputs no longer give equal ids or windows
IDS, OFFSETS, PROGRESS, LOG, JOB = "ids.bin", "offsets.bin", "progress.json", "worker.log", "job.json"
ABOUT, LOCK, IN_USE = "about.json", ".lock", ".in-use"

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

    def __init__(
        self,
        folder: Path,
        key: str,
        worker: "subprocess.Popen[bytes] | None" = None,
        more: Sequence[tuple[Path, str]] = (),
    ):
        """The parts are in `folder` with `key`, and then in `more`."""
        self._parts = [(folder, key), *more]
        self._worker = worker
        self.opened = contextlib.ExitStack()
        """What is closed with this."""
        self.check: Callable[[], None] = lambda: None
        """Is called while a window is waited for, and may raise UserError."""
        for place, _ in self._parts:
            with contextlib.suppress(OSError):  # it is not there yet, or another's
                os.utime(place / ABOUT)  # when it was last used
        self._progress = [Progress.load(*part) or Progress(part[1]) for part in self._parts]
        self._count()
        self._asked = 0
        self._ask(part_end(1))

    def _count(self) -> None:
        """How much may be read: the parts that are complete, and what there is of the next one."""
        reached = next((n for n, one in enumerate(self._progress) if not one.complete), len(self._parts) - 1)
        readable = self._progress[: reached + 1]
        self._first_windows = np.cumsum([0, *(len(one.ids) for one in readable)]).tolist()
        self._first_ids = np.cumsum([0, *(_last(one.ids) for one in readable)]).tolist()
        self._arrays: dict[int, np.ndarray] = {}
        self.bos_id = self._progress[0].bos_id
        """The id that packing puts before each document."""
        self.num_windows: int = self._first_windows[-1]
        """Windows published so far."""
        self.num_documents = sum(_last(one.documents) for one in readable)
        """Documents published so far."""
        self.num_ids: int = self._first_ids[-1]
        """Ids published so far."""
        self.is_complete = self._progress[reached].complete
        """Whether every document is in the cache."""
        self._reached = reached

    def read(self, start: int, end: int) -> np.ndarray:
        """(end - start,) the ids from `start` to `end`, of one document: memory-mapped and read-only."""
        part = min(bisect_right(self._first_ids, start) - 1, self._reached)
        if part not in self._arrays:
            one = self._progress[part]
            path, count = self._parts[part][0] / IDS, _last(one.ids)
            self._arrays[part] = np.memmap(path, f"uint{8 * one.id_bytes}", mode="r", shape=(count,))
        return self._arrays[part][start - self._first_ids[part] : end - self._first_ids[part]]

    def window_offsets(self, window: int) -> np.ndarray:
        """(documents in the window + 1,) int64: the ids of document i of a published window are those from o[i] to
        o[i + 1].

        Raises UserError if the window is not what was written.
        """
        part = bisect_right(self._first_windows, window) - 1
        folder, progress, first_id = self._parts[part][0], self._progress[part], self._first_ids[part]
        local = window - self._first_windows[part]
        documents, ids = progress.bounds(local)
        count = documents.stop - documents.start
        ends = np.fromfile(folder / OFFSETS, np.int64, count, offset=8 * documents.start)
        offsets = np.concatenate([[ids.start], ends])
        expected = progress.hashes[local]
        is_sound = len(ends) == count and offsets[-1] == ids.stop and (np.diff(offsets) >= 0).all()
        content = self.read(first_id + ids.start, first_id + ids.stop)
        if not is_sound or (expected and expected != _window_hash(ends, content)):
            raise UserError(
                f"the tokens in {folder} are damaged (window {local} is not what was written); "
                "delete that folder and repeat the command, which tokenizes the text again"
            )
        return offsets + first_id

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

    def unfinished_files(self, manifest: DataManifest, split: SplitName) -> list[SourceFile]:
        """The training files of the parts that are not complete, in order."""
        parts = zip(parts_of(manifest, split), self._progress, strict=True)
        return [file for part, one in parts if not one.complete for file in part.documents.train]

    def close(self) -> None:
        """Stop the worker if it still runs. What it has published stays, and a later build continues from there."""
        self.opened.close()
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
            self.check()
            # Asked before the progress is read, or the worker's last window could fall between the two.
            has_ended = self._worker is not None and self._worker.poll() is not None
            before, part = self._progress[self._reached], self._parts[self._reached]
            self._progress[self._reached] = Progress.load(*part) or before
            if self._progress[self._reached] != before:
                self._count()
                last_growth = time.monotonic()
            elif has_ended:
                raise UserError(self._how_the_worker_ended())
            elif time.monotonic() - last_growth > _STALLED_SECONDS:
                minutes = _STALLED_SECONDS // 60
                raise UserError(f"no new tokens in {part[0]} for {minutes} minutes; is the folder shared?")
            else:
                time.sleep(_POLL_SECONDS)

    def _how_the_worker_ended(self) -> str:
        assert self._worker and self._worker.stdout
        said = self._worker.stdout.read().decode(errors="replace").strip()
        code = self._worker.returncode
        how = f"ended with code {code}" if code >= 0 else f"was killed by signal {-code} (out of memory?)"
        return said or (
            f"the tokenizing process {how} before it was done (see {LOG} in the run's tokens). "
            "Repeat the command to continue where it stopped"
        )


def open_token_cache(
    folder: Path,
    manifest: DataManifest,
    tokenizer: Tokenizer,
    split: SplitName,
    *,
    build: bool = True,
    shared: Path | None = None,
) -> TokenCache:
    """The cache of one split, at once; a worker continues to fill it if need be.

    Its parts are in `shared`, for other runs too (None: in `folder`); the worker's log is in `folder`/<split>. Of
    several processes that see the same folders one should `build`; the others read what it publishes. The worker
    tokenizes with one thread on a small machine; with a quarter of the processors, at most 8, on a larger one.
    """
    folder = folder / split
    former = (folder, cache_key(tokenizer.fingerprint, manifest.documents.fingerprint, split))
    if (progress := Progress.load(*former)) and progress.complete:
        return TokenCache(*former)  # in the run, where earlier versions kept it
    parts = [(part, _place(shared or folder, part, tokenizer, split)) for part in parts_of(manifest, split)]
    places = [place for _, place in parts]
    if not build or all((one := Progress.load(*place)) and one.complete for place in places):
        return TokenCache(*places[0], more=places[1:])
    for part, (place, _) in parts:
        names = [str(file.path) for file in (part.documents.train or part.documents.validation)]
        write_text(place / ABOUT, json.dumps({"files": names, "split": split}))
    job = {
        "folder": str((shared or folder).absolute()),
        "split": split,
        "threads": max(1, min(8, (os.cpu_count() or 1) // 4)),
        "manifest": manifest.to_json(),
        "tokenizer": tokenizer.to_json(),
    }
    write_text(folder / JOB, json.dumps(job))
    return TokenCache(*places[0], _start_worker(folder), places[1:])


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
    """Appends windows to a part's files, after the last one published under the same key."""

    def __init__(self, folder: Path, key: str, *, bos_id: int, vocab_size: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.progress = Progress(key, bos_id, 2 if vocab_size <= 1 << 16 else 4)
        with self.turn():
            self.progress.save(folder)

    @contextlib.contextmanager
    def turn(self) -> Iterator[int]:
        """Keep other writers out, and yield how many windows there are now."""
        with (self.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self.folder.glob(
                f".{PROGRESS}.*.tmp"
            ):  # of a build that was stopped while it published
                leftover.unlink()
            fresh = Progress(self.progress.key, self.progress.bos_id, self.progress.id_bytes)
            self.progress = Progress.load(self.folder, fresh.key) or fresh
            for name, size in self.progress.sizes().items():
                with (self.folder / name).open("ab") as file:
                    file.truncate(size)
            yield len(self.progress.ids)

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

    def wait_for(self, before: int, window: int) -> None:
        """Return once the window of this number, after `before` others, is wanted."""
        with self._grown:
            self._grown.wait_for(lambda: self._windows > before + window)


def main(job_file: Path) -> None:
    """Fill the cache that the job describes (see `open_token_cache`)."""
    demand = Demand()
    os.nice(10)  # training goes first; when it waits for tokens, the processors are ours anyway
    job = json.loads(job_file.read_bytes())
    tokenizer, split = Tokenizer(job["tokenizer"]), job["split"]
    manifest = DataManifest.from_json(job["manifest"])
    before = 0  # windows in earlier parts
    try:
        for part in parts_of(manifest, split):
            folder, key = _place(Path(job["folder"]), part, tokenizer, split)
            writer = CacheWriter(folder, key, bos_id=tokenizer.bos_id, vocab_size=tokenizer.vocab_size)
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
    main(Path(sys.argv[1]))
