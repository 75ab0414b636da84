"""From the files that a person names to the manifest of a run: what is for training, what for validation.

`survey` looks through the files a person names, once: the only full pass over the data before training, so that
unreadable files are found at its start. It decides, in this order:

1. Files named for validation are validation data, wherever they are.
2. When none are named, files and folders called `validation`, `valid` or `val` (or so named at the
   beginning or end of a longer name: `chat_val.jsonl`, `validation-00000-of-00009.parquet`) are.
3. Inside a folder, files called `validation` or `test` are never trained on: what is measured on must not be
   learned. To train on such a file, name the file itself.
4. When there are still no validation files, a share of the items is held out, chosen by a hash of each
   item's content, never by its position; a single document is cut in two. Documents that are all the same text are
   refused: no part of them could tell whether anything was learned.

Whatever is in the validation split is left out of training, also where the same text stands in a training
file. Files of conversations among the documents are taken as conversations. Shards of a hub are not read: their
listing says what they are (`listed`), and they may come while training has begun.
"""

import functools
import multiprocessing
import os
import re
import signal
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chatsmith.data.dataset import (
    CONVERSATIONS,
    DataManifest,
    Kind,
    SourceFile,
    Split,
    content_digest,
    documents_in,
    file_sha256,
    tail_cut,
)
from chatsmith.data.documents import SUPPORTED, file_type, read_documents
from chatsmith.ingest.files import find_files
from chatsmith.ingest.forms import ConversationFiles
from chatsmith.runtime.errors import UserError

_BYTES_PER_PROCESS = 1 << 27  # fewer are read sooner than a process has started


def survey(
    data: Sequence[Path],
    *,
    validation: Sequence[Path] = (),
    conversations: Sequence[Path] = (),
    validation_conversations: Sequence[Path] = (),
    source: str = "files",
    **more: Any,
) -> DataManifest:
    """Read all that is named and describe it as a manifest; `more` are fields of `Survey`.

    Raises UserError, naming the file, for whatever cannot be read or holds nothing.
    """
    how = Survey(**more)
    talk_roles = how.roles(conversations, validation_conversations, how.chats.types)
    text_roles = how.roles(data, validation, how.types)
    for file in list(text_roles):
        if file not in how.listed and how.chats.holds_conversations(file):
            talk_roles.setdefault(file, text_roles.pop(file))
    if "train" not in text_roles.values():
        reason = f" in {_list(data)}; give files with text"
        if text_roles:
            reason = (
                f": {_list(list(text_roles))} is for measuring, because it was given for that or its name says so "
                "(validation, valid, val, test); name or rename files to train on"
            )
        raise UserError(f"no documents to train on{reason}")
    documents = how.split(documents_in(how.text_column), text_roles)
    talks = how.split(CONVERSATIONS, talk_roles) if "train" in talk_roles.values() else None
    return DataManifest(source, documents, talks, tuple(how.notices))


Role = Literal["train", "validation", "test"]

_VALIDATION_NAMES = {"validation", "valid", "val"}
_TEST_NAMES = {"test"}


def role_by_name(file: Path, named: Path, types: tuple[str, ...]) -> Role:
    """What `file` is for, by its names. `named` is the path it was found under: itself or a folder."""
    words = re.findall(r"[a-z]+", file.name.lower().removesuffix(file_type(file, types) or ""))
    names = {*words[:1], *words[-1:]}
    if file == named:
        return "validation" if names & _VALIDATION_NAMES else "train"
    names |= {folder.lower() for folder in file.relative_to(named).parts[:-1]}
    if names & _TEST_NAMES:
        return "test"
    return "validation" if (names | {named.name.lower()}) & _VALIDATION_NAMES else "train"


@dataclass
class Survey:
    """How `survey` goes about it, and what it notices."""

    chats: ConversationFiles = field(default_factory=ConversationFiles)
    """Recognizes files of conversations and converts other forms."""
    held_out: float = 0.01
    """The share of items to hold out (0 to 1, at least one item) where no validation files are found."""
    text_column: str = "text"
    types: tuple[str, ...] = SUPPORTED
    """Endings of the names of documents."""
    listed: Mapping[Path, "tuple[Role, SourceFile]"] = field(default_factory=dict)
    """The shards of a hub, by where they are or will be: for what, and what the listing says of them. Those to train on
    are not read."""
    processes: int = 0
    """Processes that read; 0: as many as there are processors, where that pays."""
    advance: Callable[[int], None] = lambda size: None
    """Is called with the size of every file that was read, in bytes."""
    notices: list[str] = field(default_factory=list)

    def roles(
        self, train: Sequence[Path], validation: Sequence[Path], types: tuple[str, ...]
    ) -> dict[Path, Role]:
        """Every file under the named paths, and what it is for (rules 1 to 3)."""

        def files(path: Path) -> list[Path]:
            return [path] if path in self.listed else find_files([path], types, self.notices)

        roles: dict[Path, Role] = {file: "validation" for path in validation for file in files(path)}
        for path in train:
            for file in files(path):
                role = role_by_name(file, Path(os.path.abspath(path)), types)
                # Where validation files were named, another one is neither trained nor measured on.
                role = "test" if role == "validation" and validation else role
                roles.setdefault(file, self.listed[file][0] if file in self.listed else role)
        if set_aside := [file for file, role in roles.items() if role == "test"]:
            self.notices.append(
                f"set aside, for their names: {_list(set_aside)}; to train on them, name the files"
            )
        return roles

    def split(self, kind: Kind[Any], roles: dict[Path, Role]) -> Split:
        """What is trained on and what is measured on, from the files' roles (rule 4)."""
        train_files, validation_files = (
            [file for file, role in roles.items() if role == wanted] for wanted in ("train", "validation")
        )
        train, digests = self._look_through(kind, train_files)
        validation, validation_digests = self._look_through(kind, validation_files)
        column = "text" if kind is CONVERSATIONS else self.text_column
        to_come = sum(file.is_remote for file in train)
        if to_come:
            self.notices.append(f"{to_come:,} shards are read as they come; their characters are estimated")
        if not len(digests) and not to_come:
            raise UserError(f"{_list(train_files)}: no {kind.plural} in there; give files that hold some")
        if validation:
            if not len(validation_digests):
                raise UserError(f"{_list(validation_files)}: no {kind.plural} to validate on in there")
            shared = np.isin(digests, validation_digests)
            if shared.any():
                self.notices.append(
                    f"{shared.sum():,} training {kind.plural} are also in validation: not trained on"
                )
            if shared.all() and not to_come:
                raise UserError(
                    f"all training {kind.plural} are also in the validation files; name other files"
                )
            counts = int((~shared).sum()), len(validation_digests)
            return Split("files", train, validation, -1, *counts, column)
        different = np.unique(digests)
        if len(different) == 1:
            return _split_single(kind, train, len(digests), column, self.notices)
        largest = _largest_held_out(different, self.held_out)
        count = int((digests <= np.uint64(largest)).sum())
        self.notices.append(
            f"no validation {kind.plural} were named: {count:,} of {len(digests):,} are held out by content"
        )
        if 2 * count > len(digests):
            self.notices.append(
                f"of {len(digests):,} {kind.plural} only {len(different):,} are different, so more is held out than "
                "trained on; give others, or name some for validation"
            )
        return Split("content", train, (), largest, len(digests) - count, count, column)

    def _look_through(
        self, kind: Kind[Any], files: Sequence[Path]
    ) -> tuple[tuple[SourceFile, ...], np.ndarray]:
        """Read every file, several at once; return their descriptions and the digests of all items, in order."""
        as_messages = self.chats.as_messages if kind is CONVERSATIONS else lambda path, _: (path, "")
        is_read = {path for path in files if self.listed.get(path, ("validation",))[0] == "validation"}
        converted = {path: as_messages(path, self.notices) for path in files if path in is_read}
        paths = [path for path, _ in converted.values()]
        useful = sum(path.stat().st_size for path in paths) // _BYTES_PER_PROCESS
        processes = self.processes or min(useful, os.cpu_count() or 1)
        described, digests, look = [], array("Q"), functools.partial(_look_into, kind)
        # New processes, not forks: there may be threads here, of pyarrow or of downloads. Ctrl-C is for this one.
        context, alone = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
        with ProcessPoolExecutor(max(1, processes), context, signal.signal, alone) as pool:
            try:
                found = pool.map(look, paths) if processes > 1 and len(paths) > 1 else map(look, paths)
                for named in files:
                    if named not in is_read:
                        described.append(self.listed[named][1])
                        continue
                    file, file_digests, notices = next(found)
                    self.advance(file.bytes)
                    digests.extend(file_digests)
                    self.notices += notices if file_digests else [f"{named} holds no {kind.plural}"]
                    origin = str(named) if file.path != named else ""
                    origin = self.listed[named][1].origin if named in self.listed else origin
                    described.append(replace(file, form=converted[named][1], origin=origin))
            except BrokenProcessPool:
                raise UserError("a process that read the data was killed (out of memory?)") from None
            finally:
                pool.shutdown(cancel_futures=True)
        return tuple(described), np.array(digests, dtype=np.uint64)


def _look_into(kind: Kind[Any], path: Path) -> tuple[SourceFile, array, list[str]]:
    """Read one file. Its bytes are hashed first, so that the text is then found in memory."""
    status, digest = path.stat(), file_sha256(path)
    digests, characters, notices = array("Q"), 0, list[str]()
    for item in kind.read([path], notices):
        text = kind.text_of(item)
        digests.append(content_digest(text))
        characters += len(text)
    file = SourceFile(path, status.st_size, status.st_mtime_ns, digest, len(digests), characters)
    return file, digests, notices


def _largest_held_out(different: np.ndarray, share: float) -> int:
    """The threshold below which about `share` of the digests lie: at least one, and not all of them."""
    threshold = min(int(share * 2**64), 2**64 - 1)
    below = int(np.searchsorted(different, np.uint64(threshold), side="right"))
    if 1 <= below < len(different):
        return threshold
    return int(different[max(1, min(below, len(different) - 1)) - 1])


def _split_single(
    kind: Kind[Any], train: tuple[SourceFile, ...], count: int, column: str, notices: list[str]
) -> Split:
    """The split of `count` items that all have one content."""
    paths = [file.path for file in train]
    if kind is CONVERSATIONS:
        which = (
            "there is only one conversation" if count == 1 else f"all {count:,} conversations are the same"
        )
        notices.append(f"{which}: nothing to validate fine-tuning on")
        return Split("none", train, train_items=count)
    if count > 1:
        raise UserError(
            f"{_list(paths)}: all {count:,} documents in there are the same text, so that none can be held out; give "
            "more text, or name some to validate on"
        )
    text = next(read_documents(paths, None, column)).text
    cut = tail_cut(text) if len(text) > 1 else 0
    if not text[:cut].strip() or not text[cut:].strip():
        raise UserError(f"{_list(paths)}: too little text to learn from; give more")
    notices.append(f"there is only one document: its last {len(text) - cut:,} characters are for validation")
    return Split("tail", train, (), -1, 1, 1, column)


def _list(paths: Sequence[Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown
