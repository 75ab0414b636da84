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

This file has the format, its reader, and its writer. What is written, and by which process, is decided in
`ingest.tokenizing`; a build that was interrupted continues after the last published window.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np

from chatsmith.runtime.atomic import Wait, again_while_full, sweep, write_text
from chatsmith.runtime.errors import UserError

FORMAT_VERSION = 2  # 1 had no hashes
IDS, OFFSETS, PROGRESS, LOG = "ids.bin", "offsets.bin", "progress.json", "worker.log"
ABOUT, LOCK = "about.json", ".lock"

WINDOW_DOCUMENTS = 2_048
"""A window ends after this many documents, or earlier where these are long."""

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


class TokenCache(contextlib.AbstractContextManager["TokenCache"]):
    """Reads a cache that may still be growing. Close it, or use it in a `with`, to stop its worker."""

    def __init__(
        self,
        folder: Path,
        key: str,
        worker: "subprocess.Popen[bytes] | None" = None,
        more: Sequence[tuple[Path, str]] = (),
        disk_wait: float = 0.0,
    ):
        """The parts are in `folder` with `key`, and then in `more`. `disk_wait` is how long a worker may wait for room
        on a full disk, in seconds."""
        self._longest_wait = _STALLED_SECONDS + disk_wait
        self._parts = [(folder, key), *more]
        self._worker = worker
        self.opened = contextlib.ExitStack()
        """What is closed with this."""
        if worker:
            self.opened.callback(sweep, *(place for place, _ in self._parts))  # it may be killed as it writes
            self.opened.enter_context(worker)
            self.opened.callback(worker.terminate)
        self.check: Callable[[], None] = lambda: None
        """Is called while a window is waited for, and may raise UserError."""
        for place, _ in self._parts:
            with contextlib.suppress(OSError):  # it is not there yet, or another's
                os.utime(place / ABOUT)  # when it was last used
        self.progress = [Progress.load(*part) or Progress(part[1]) for part in self._parts]
        """Of each part."""
        self._count()
        self._asked = 0
        self._ask(part_end(1))

    def _count(self) -> None:
        """How much may be read: the parts that are complete, and what there is of the next one."""
        reached = next((n for n, one in enumerate(self.progress) if not one.complete), len(self._parts) - 1)
        readable = self.progress[: reached + 1]
        self._first_windows = np.cumsum([0, *(len(one.ids) for one in readable)]).tolist()
        self._first_ids = np.cumsum([0, *(_last(one.ids) for one in readable)]).tolist()
        self._arrays: dict[int, np.ndarray] = {}
        self.bos_id = self.progress[0].bos_id
        """The id that packing puts before each document."""
        self.num_windows: int = self._first_windows[-1]
        """Windows published so far."""
        self.num_documents = sum(_last(one.documents) for one in readable)
        """Documents published so far."""
        self.num_ids: int = self._first_ids[-1]
        """Ids published so far."""
        self.is_complete = self.progress[reached].complete
        """Whether every document is in the cache."""
        self._reached = reached

    def read(self, start: int, end: int) -> np.ndarray:
        """(end - start,) the ids from `start` to `end`, of one document: memory-mapped and read-only."""
        part = min(bisect_right(self._first_ids, start) - 1, self._reached)
        if part not in self._arrays:
            one = self.progress[part]
            path, count = self._parts[part][0] / IDS, _last(one.ids)
            self._arrays[part] = np.memmap(path, f"uint{8 * one.id_bytes}", mode="r", shape=(count,))
        return self._arrays[part][start - self._first_ids[part] : end - self._first_ids[part]]

    def window_offsets(self, window: int) -> np.ndarray:
        """(documents in the window + 1,) int64: the ids of document i of a published window are those from o[i] to
        o[i + 1].

        Raises UserError if the window is not what was written.
        """
        part = bisect_right(self._first_windows, window) - 1
        folder, progress, first_id = self._parts[part][0], self.progress[part], self._first_ids[part]
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

    def close(self) -> None:
        """Stop the worker if it still runs. What it has published stays, and a later build continues from there."""
        self.opened.close()

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
            before, part = self.progress[self._reached], self._parts[self._reached]
            self.progress[self._reached] = Progress.load(*part) or before
            if self.progress[self._reached] != before:
                self._count()
                last_growth = time.monotonic()
            elif has_ended:
                raise UserError(self._how_the_worker_ended())
            elif time.monotonic() - last_growth > self._longest_wait:
                minutes = round(self._longest_wait / 60)
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


class CacheWriter:
    """Appends windows to a part's files, after the last one published under the same key."""

    def __init__(self, folder: Path, key: str, *, bos_id: int, vocab_size: int, wait: Wait = lambda _: False):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._wait = folder, wait
        self.progress = Progress(key, bos_id, 2 if vocab_size <= 1 << 16 else 4)
        with self.turn():
            self._publish(self.progress)

    @contextlib.contextmanager
    def turn(self) -> Iterator[int]:
        """Keep other writers out, and yield how many windows there are now."""
        with (self.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            sweep(self.folder)
            fresh = Progress(self.progress.key, self.progress.bos_id, self.progress.id_bytes)
            self.progress = Progress.load(self.folder, fresh.key) or fresh
            yield len(self.progress.ids)

    def add_window(self, documents: list[list[int]]) -> None:
        """Write the ids of one window's documents and publish them."""
        before = self.progress
        num_documents, num_ids = _last(before.documents), _last(before.ids)
        ends = num_ids + np.cumsum([len(ids) for ids in documents], dtype=np.int64)
        ids = np.concatenate([np.array(ids, f"uint{8 * before.id_bytes}") for ids in documents])
        grown = replace(
            before,
            documents=[*before.documents, num_documents + len(documents)],
            ids=[*before.ids, num_ids + len(ids)],
            hashes=[*before.hashes, _window_hash(ends, ids)],
        )
        self._publish(grown, {IDS: ids, OFFSETS: ends})

    def finish(self) -> None:
        """Publish that every document is in."""
        self._publish(replace(self.progress, complete=True))

    def _publish(self, progress: Progress, more: Mapping[str, np.ndarray] = {}) -> None:
        """Append to the files and say so. Waits on a full disk; raises UserError where that is in vain."""

        def append() -> None:
            for name, size in self.progress.sizes().items():
                with (self.folder / name).open("ab") as file:
                    file.truncate(size)  # what was not published
                    file.write(more[name].tobytes() if more else b"")
                    file.flush()
                    os.fsync(file.fileno())
            progress.save(self.folder)

        try:
            again_while_full(append, self._wait)
        except OSError as error:
            raise UserError(
                f"the tokens in {self.folder} cannot grow ({error.strerror}); free space and repeat the command"
            ) from error
        self.progress = progress
