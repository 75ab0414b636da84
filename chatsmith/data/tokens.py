"""The token cache: the ids of every document of one split, on disk, filled ahead of training by a worker.

A folder holds `ids.bin` (all documents' ids end to end, without <|bos|>; uint16, or uint32 for vocabularies
over 65,536), `offsets.bin` (int64, where each document ends in it) and `progress.json`, which says how much
of the two may be read. Documents come in windows; a window is published, atomically, when all of it is on
disk, and never changes again. The cache depends on the tokenizer, the documents and the split, and on
nothing else: its key names the three, and a cache with another key is built anew.

The worker is a process of its own (`token_worker`; no torch in it, no pickle: it is given paths), of low
priority, and stays only a little ahead of what is read: a run of minutes on a large corpus needs a small part
of it. A build that was interrupted goes on after the last published window. What goes wrong in it is raised in
the reader that waits. Two builders of one folder at a time are kept apart by the run's lock, not here.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from chatsmith.data.dataset import SplitName, load_manifest
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer

FORMAT_VERSION = 1
IDS, OFFSETS, PROGRESS, LOG = "ids.bin", "offsets.bin", "progress.json", "worker.log"

WINDOW_DOCUMENTS = 2_048
WINDOW_CHARACTERS = 16_000_000
"""A window ends after this many documents or characters, so that neither short nor huge ones delay the
first."""

ALL_WINDOWS = 1 << 62
_POLL_SECONDS = 0.05
_STALLED_SECONDS = 600


@dataclass
class Progress:
    """What `progress.json` says. The lists have an entry a window and count from the cache's beginning."""

    key: str
    bos_id: int
    id_bytes: int
    """Bytes an id: 2 or 4."""
    documents: list[int] = field(default_factory=list)
    """Documents up to and including each window."""
    ids: list[int] = field(default_factory=list)
    """Ids up to and including each window."""
    complete: bool = False
    user_error: str | None = None
    """Why the build cannot go on, when it is the data's fault: one line for the person."""

    def save(self, folder: Path) -> None:
        """Publish, atomically."""
        write_text(folder / PROGRESS, json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}))

    @staticmethod
    def load(folder: Path, key: str) -> "Progress | None":
        """The progress of the cache in `folder`; None if there is none, or one with another key."""
        try:
            value = json.loads((folder / PROGRESS).read_bytes())
            if value.pop("format_version") != FORMAT_VERSION or value["key"] != key:
                return None
            return Progress(**value)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return None


class TokenCache:
    """Reads a cache that may still be growing. Close it, or use it in a `with`, to stop its worker."""

    def __init__(self, folder: Path, key: str, worker: "subprocess.Popen[bytes] | None" = None):
        self.folder = folder
        self.key = key
        self._worker = worker
        self._progress = Progress.load(folder, key)
        self._ids: np.ndarray | None = None
        self._asked = 0
        self._ask(windows_wanted(0))

    @property
    def bos_id(self) -> int:
        """The id that packing puts before each document."""
        return self._published().bos_id

    @property
    def num_windows(self) -> int:
        """Windows published so far."""
        return len(self._progress.ids) if self._progress else 0

    @property
    def num_documents(self) -> int:
        """Documents published so far."""
        return self._progress.documents[-1] if self.num_windows and self._progress else 0

    @property
    def num_ids(self) -> int:
        """Ids published so far."""
        return self._progress.ids[-1] if self.num_windows and self._progress else 0

    @property
    def is_complete(self) -> bool:
        """Whether every document is in the cache."""
        return self._progress is not None and self._progress.complete

    @property
    def ids(self) -> np.ndarray:
        """(num_ids,) all published ids, memory-mapped and read-only."""
        if self._ids is None or len(self._ids) != self.num_ids:
            kind = np.uint16 if self._published().id_bytes == 2 else np.uint32
            self._ids = np.memmap(self.folder / IDS, dtype=kind, mode="r", shape=(self.num_ids,))
        return self._ids

    def window_offsets(self, window: int) -> np.ndarray:
        """(documents in the window + 1,) int64: document i of a published window is ids[o[i] : o[i + 1]]."""
        documents, ids = self._published().documents, self._published().ids
        first = documents[window - 1] if window else 0
        ends = np.fromfile(
            self.folder / OFFSETS, dtype=np.int64, count=documents[window] - first, offset=8 * first
        )
        return np.concatenate([[ids[window - 1] if window else 0], ends]).astype(np.int64)

    def wait_for_window(self, window: int) -> bool:
        """Return True once the window can be read, False if the cache is complete without it.

        Raises UserError for what the worker found wrong with the data, RuntimeError if the worker died or the
        cache has not grown for ten minutes.
        """
        self._ask(windows_wanted(window))
        self._wait(lambda: self.num_windows > window or self.is_complete)
        return self.num_windows > window

    def wait_until_complete(self) -> None:
        """Wait for the last document. Raises as `wait_for_window` does."""
        self._ask(ALL_WINDOWS)
        self._wait(lambda: self.is_complete)

    def close(self) -> None:
        """Stop the worker if it still runs. What it has published stays, and a later build goes on from
        there."""
        if self._worker is None:
            return
        self._worker.terminate()
        self._worker.wait()
        if self._worker.stdin:
            self._worker.stdin.close()
        self._worker = None

    def __enter__(self) -> "TokenCache":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _ask(self, windows: int) -> None:
        """Tell the worker how many windows are wanted by now."""
        if windows <= self._asked or self._worker is None or self._worker.stdin is None:
            return
        self._asked = windows
        with contextlib.suppress(BrokenPipeError):  # it has ended: whoever waits will see how
            self._worker.stdin.write(b"%d\n" % windows)

    def _published(self) -> Progress:
        if self._progress is None:
            self._wait(lambda: self._progress is not None)
        assert self._progress is not None
        return self._progress

    def _wait(self, arrived: Callable[[], bool]) -> None:
        last_growth, last_windows = time.monotonic(), self.num_windows
        while not arrived():
            # The worker's end is looked at before its progress, or its last words could fall between the two.
            ended = self._worker is not None and self._worker.poll() is not None
            self._progress = Progress.load(self.folder, self.key) or self._progress
            if arrived():
                return
            if self._progress is not None and self._progress.user_error:
                raise UserError(self._progress.user_error)
            if ended:
                assert self._worker is not None
                raise RuntimeError(
                    f"the tokenizing process ended with code {self._worker.returncode} before it was done; "
                    f"see {self.folder / LOG}. Repeating the command goes on where it stopped"
                )
            if self.num_windows != last_windows:
                last_growth, last_windows = time.monotonic(), self.num_windows
            if time.monotonic() - last_growth > _STALLED_SECONDS:
                raise RuntimeError(f"no new tokens in {self.folder} for {_STALLED_SECONDS // 60} minutes")
            time.sleep(_POLL_SECONDS)


def open_token_cache(
    tokens_folder: Path,
    *,
    data_folder: Path,
    tokenizer_folder: Path,
    split: SplitName,
    build: bool = True,
    threads: int | None = None,
) -> TokenCache:
    """The cache of one split in `tokens_folder`/<split>, at once; a worker goes on filling it if need be.

    `data_folder` holds the manifest, `tokenizer_folder` the tokenizer. With several processes, only one may
    `build`; the others read what it publishes. `threads` is how many the worker tokenizes with: by default
    one on a small machine; a quarter of the processors, at most 8, on a larger one. Raises UserError if
    manifest or tokenizer are missing or damaged.
    """
    key = cache_key(
        Tokenizer.load(tokenizer_folder).fingerprint,
        load_manifest(data_folder).documents.fingerprint,
        split,
    )
    folder = tokens_folder / split
    progress = Progress.load(folder, key)
    usable = progress is not None and not progress.user_error and _is_whole(folder, progress)
    is_done = usable and progress is not None and progress.complete
    if is_done or not build:
        return TokenCache(folder, key)
    if not usable:
        (folder / PROGRESS).unlink(missing_ok=True)  # the reader must not meet what the last build left
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "folder": str(folder.absolute()),
        "data_folder": str(data_folder.absolute()),
        "tokenizer_folder": str(tokenizer_folder.absolute()),
        "split": split,
        "key": key,
        "threads": threads or max(1, min(8, (os.cpu_count() or 1) // 4)),
    }
    return TokenCache(folder, key, _start_worker(job, folder / LOG))


def windows_wanted(window: int) -> int:
    """How many windows should be on their way when `window` is read: all of this part of the epoch and the next,
    since each part has twice the windows of the one before (see `packing`)."""
    return 2 * window + 3


def cache_key(tokenizer_fingerprint: str, documents_fingerprint: str, split: SplitName) -> str:
    """What a cache is made of, in one hash."""
    parts = (
        FORMAT_VERSION,
        WINDOW_DOCUMENTS,
        WINDOW_CHARACTERS,
        tokenizer_fingerprint,
        documents_fingerprint,
    )
    return sha256(json.dumps([*parts, split]).encode()).hexdigest()


def _is_whole(folder: Path, progress: Progress) -> bool:
    """Whether the files hold what the progress promises: someone may have deleted or cut one."""
    if not progress.ids:
        return True
    sizes = {IDS: progress.id_bytes * progress.ids[-1], OFFSETS: 8 * progress.documents[-1]}
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size >= size for name, size in sizes.items()
    )


def _start_worker(job: dict[str, Any], log: Path) -> "subprocess.Popen[bytes]":
    # A command of its own rather than multiprocessing, which would import the caller's main module, torch and
    # all, into the worker. The open pipe tells the worker that we live: its end is the worker's end.
    import chatsmith

    package_parent = str(Path(chatsmith.__file__).parent.parent)
    search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "chatsmith.data.token_worker", json.dumps(job)],
            stdin=subprocess.PIPE,
            bufsize=0,  # what could not be written to a worker that has ended must not come up again on closing
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": search},
            start_new_session=True,  # Ctrl-C is for training, which then closes the worker
        )
