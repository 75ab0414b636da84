"""Look through the files a person names, once, and decide what is training and what is validation data.

The rules, in order:
1. Files named for validation (`--validation`) are validation data, wherever they lie.
2. When none are named, files and folders called `validation`, `valid` or `val` (or so named at the
   beginning or end of a longer name: `chat_val.jsonl`, `validation-00000-of-00009.parquet`) are.
3. Inside a folder, files called `validation` or `test` never train: what is measured on must not be
   learned. To train on such a file, name the file itself.
4. When there are still no validation files, a share of the items is held out, chosen by a hash of each
   item's content; a single document is cut in two. Documents that are all the same text are refused: no part of
   them could tell whether anything was learned.

Whatever is in the validation split is left out of training, also where the same text stands in a training
file. JSON lines files with `messages` among the documents are taken as conversations.

This is the only full pass over the data before training, so that unreadable files are found at its start.
"""

import json
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b, file_digest, sha256
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from chatsmith.data.documents import (
    Document,
    cut_position,
    file_type,
    find_files,
    holds_conversations,
    read_conversations,
    read_documents,
)
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, conversation_to_json

# -------------------- data.manifest
# The manifest: which files a run learns from, and which text is kept for validation. Later stages read
# only it.
#
# `chatsmith data prepare` writes `<run>/data/manifest.json` (built in `survey`); `load_manifest` reads it and
# checks that the files are still what they were. A split is named by files, or made by the content of each
# document, never by its position, and a text that is in the validation split is in no other.

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"

Item = TypeVar("Item")

SplitName = Literal["train", "validation"]

Method = Literal["files", "content", "tail", "none"]
"""How validation text was chosen: by named files; by a hash of each item's content; as the last tenth of
the only document; or not at all (a single conversation)."""


@dataclass(frozen=True)
class SourceFile:
    """One file, what is in it, and how to recognize it."""

    path: Path
    bytes: int
    modified_ns: int
    sha256: str
    items: int
    """Documents or conversations."""
    characters: int

    @staticmethod
    def of(path: Path, items: int, characters: int) -> "SourceFile":
        """Describe the file at `path` as it is now. Reads it once, for its hash."""
        status = path.stat()
        return SourceFile(path, status.st_size, status.st_mtime_ns, file_sha256(path), items, characters)


@dataclass(frozen=True)
class Split:
    """Where the training and the validation part of one kind of data (documents, conversations) come from."""

    method: Method
    train: tuple[SourceFile, ...]
    validation: tuple[SourceFile, ...] = ()
    """Only with the method "files"."""
    largest_held_out: int = -1
    """With the method "content": an item is held out if its `content_digest` is at most this."""
    train_items: int = 0
    """Documents or conversations to train on, without those that are also in validation."""
    validation_items: int = 0

    @property
    def fingerprint(self) -> str:
        """A hash of contents and method: equal for two splits that read the same items in the same order."""
        train, validation = ([file.sha256 for file in files] for files in (self.train, self.validation))
        return _hash_of([FORMAT_VERSION, self.method, self.largest_held_out, train, validation])


@dataclass(frozen=True)
class DataManifest:
    """What a run learns from."""

    source: str
    """`files`, or the name of the task whose generator wrote them, e.g. `kindergarten`."""
    documents: Split
    conversations: Split | None = None
    """None: no conversations were given, and there is nothing to fine-tune on."""
    notices: tuple[str, ...] = ()
    """What a person should know about how the data was read and split, a line each."""

    @property
    def fingerprint(self) -> str:
        """A hash of all the contents; see `Split.fingerprint` for that of documents or conversations
        alone."""
        conversations = self.conversations.fingerprint if self.conversations else None
        return _hash_of([self.documents.fingerprint, conversations])

    def read_documents(self, split: SplitName) -> Iterator[Document]:
        """The documents of one split, in a fixed order. Raises UserError if a file cannot be read any
        more."""
        chosen = self.documents
        if chosen.method == "tail":
            for document in read_documents(_paths(chosen.train)):
                yield Document(_head_or_tail(document.text, split), document.source)
            return
        yield from _chosen(chosen, split, read_documents, lambda document: document.text)

    def read_conversations(self, split: SplitName) -> Iterator[Conversation]:
        """The conversations of one split, in a fixed order; none if the manifest has none."""
        if self.conversations:
            yield from _chosen(self.conversations, split, read_conversations, conversation_text)

    def save(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`, atomically. Files inside `folder` are named relative to it, so
        that a run that brings its data along can be moved."""
        value = {"format_version": FORMAT_VERSION, **asdict(self)}

        place = Path(os.path.abspath(folder))

        def name(path: Path) -> str:
            absolute = Path(os.path.abspath(path))
            return str(absolute.relative_to(place) if absolute.is_relative_to(place) else path)

        write_text(folder / FILE_NAME, json.dumps(value, indent=2, default=name) + "\n")


def load_manifest(folder: Path) -> DataManifest:
    """Read the manifest in a run's data folder and check that its files are unchanged.

    A file of the same size whose time of change differs is hashed again. Raises UserError if there is no
    manifest, if it is damaged or from a newer chatsmith, or if a file is missing or changed.
    """
    path = folder / FILE_NAME
    again = "run `chatsmith data prepare` again"
    try:
        value = json.loads(path.read_bytes())
        version = value.pop("format_version")
        if version > FORMAT_VERSION:
            raise UserError(f"{path} was written by a newer chatsmith (format {version}); update chatsmith")
        manifest = _from_json(value, folder)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; run `chatsmith data prepare` first") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from None
    for split in (manifest.documents, manifest.conversations):
        for file in (*split.train, *split.validation) if split else ():
            if not file.path.is_file():
                raise UserError(f"{file.path} is gone since the data was prepared; bring it back, or {again}")
            if not _unchanged(file):
                raise UserError(f"{file.path} has changed since the data was prepared; {again}")
    return manifest


def content_digest(text: str) -> int:
    """64 bits that depend on the text alone: how items are recognized and, without named files, split."""
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")


def conversation_text(conversation: Conversation) -> str:
    """One canonical text for a conversation, to take its digest of."""
    return json.dumps(conversation_to_json(conversation), sort_keys=True)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def tail_cut(text: str) -> int:
    """Where the only document of a corpus is cut: what follows, about the last tenth, is for validation."""
    return cut_position(text, len(text) * 9 // 10)


def _head_or_tail(text: str, split: SplitName) -> str:
    cut = tail_cut(text)
    return text[:cut] if split == "train" else text[cut:]


def _chosen(
    chosen: Split,
    split: SplitName,
    read: Callable[[Iterable[Path]], Iterator[Item]],
    text_of: Callable[[Item], str],
) -> Iterator[Item]:
    if chosen.method == "files" and split == "validation":
        yield from read(_paths(chosen.validation))
    elif chosen.method == "files":
        held_out = {content_digest(text_of(item)) for item in read(_paths(chosen.validation))}
        for item in read(_paths(chosen.train)):
            if content_digest(text_of(item)) not in held_out:
                yield item
    else:
        for item in read(_paths(chosen.train)):
            is_held_out = content_digest(text_of(item)) <= chosen.largest_held_out
            if is_held_out == (split == "validation"):
                yield item


def _paths(files: tuple[SourceFile, ...]) -> list[Path]:
    return [file.path for file in files]


def _unchanged(file: SourceFile) -> bool:
    status = file.path.stat()
    if status.st_size != file.bytes:
        return False
    return status.st_mtime_ns == file.modified_ns or file_sha256(file.path) == file.sha256


def _from_json(value: dict[str, Any], folder: Path) -> DataManifest:
    def files(entries: list[dict[str, Any]]) -> tuple[SourceFile, ...]:
        return tuple(SourceFile(**{**entry, "path": folder / entry["path"]}) for entry in entries)

    def split(entry: dict[str, Any]) -> Split:
        if entry["method"] not in get_args(Method):
            raise ValueError(f"unknown split method {entry['method']!r}")
        return Split(**{**entry, "train": files(entry["train"]), "validation": files(entry["validation"])})

    conversations = value["conversations"]
    return DataManifest(
        source=value["source"],
        documents=split(value["documents"]),
        conversations=split(conversations) if conversations else None,
        notices=tuple(value["notices"]),
    )


def _hash_of(value: Any) -> str:
    return sha256(json.dumps(value).encode("utf-8")).hexdigest()


Role = Literal["train", "validation", "test"]

_VALIDATION_NAMES = {"validation", "valid", "val"}
_TEST_NAMES = {"test"}


def survey(
    data: Sequence[Path],
    *,
    validation: Sequence[Path] = (),
    conversations: Sequence[Path] = (),
    validation_conversations: Sequence[Path] = (),
    held_out: float = 0.01,
    source: str = "files",
) -> DataManifest:
    """Read all that is named and describe it as a manifest.

    `held_out` is the share of items to hold out (0 to 1, at least one item) where no validation files are
    found. Raises UserError, naming the file, for whatever cannot be read or holds nothing.
    """
    notices: list[str] = []
    chat_named = _Named(conversations, validation_conversations).roles(notices)
    text_named = _Named(data, validation).roles(notices)
    for role, files in text_named.items():
        chats = [file for file in files if holds_conversations(file)]
        text_named[role] = [file for file in files if file not in chats]
        chat_named[role] += [file for file in chats if file not in chat_named[role]]
    if not text_named["train"]:
        raise UserError(f"no documents to train on in {_list(data)}; give files with text (`--data`)")
    documents = _split(_DOCUMENTS, text_named, held_out, notices)
    chat = _split(_CONVERSATIONS, chat_named, held_out, notices) if chat_named["train"] else None
    return DataManifest(source, documents, chat, tuple(notices))


@dataclass(frozen=True)
class _Named:
    """The paths a person gave for one kind of data."""

    train: Sequence[Path]
    validation: Sequence[Path]

    def roles(self, notices: list[str]) -> dict[Role, list[Path]]:
        """Every file under the named paths, by role (rules 1 to 3)."""
        named = find_files(self.validation)
        files: dict[Role, list[Path]] = {"train": [], "validation": list(named), "test": []}
        for path in self.train:
            for file in find_files([path]):
                role = _role(file, Path(os.path.abspath(path)))
                if file in named or any(file in listed for listed in files.values()):
                    continue
                if role == "validation" and named:
                    role = "test"  # other files were named: this one is neither trained nor measured on
                files[role].append(file)
        if files["test"]:
            notices.append(
                f"set aside, for their names: {_list(files['test'])}; to train on them, name the files"
            )
        return files


def _role(file: Path, named: Path) -> Role:
    """What `file` is for, by its names. `named` is the path it was found under: itself or a folder."""
    words = re.findall(r"[a-z]+", file.name.lower().removesuffix(file_type(file) or ""))
    names = {*words[:1], *words[-1:]}
    if file == named:
        return "validation" if names & _VALIDATION_NAMES else "train"
    names |= {folder.lower() for folder in file.relative_to(named).parts[:-1]}
    if names & _TEST_NAMES:
        return "test"
    return "validation" if (names | {named.name.lower()}) & _VALIDATION_NAMES else "train"


@dataclass(frozen=True)
class _Kind:
    """How to read one kind of data, and what to call it."""

    plural: str
    read: Callable[[Iterable[Path], list[str]], Iterator[Any]]
    text_of: Callable[[Any], str]


_DOCUMENTS = _Kind("documents", read_documents, lambda document: document.text)
_CONVERSATIONS = _Kind("conversations", read_conversations, conversation_text)


def _split(kind: _Kind, named: dict[Role, list[Path]], held_out: float, notices: list[str]) -> Split:
    train, train_digests = _look_through(kind, named["train"], notices)
    validation, validation_digests = _look_through(kind, named["validation"], notices)
    if not len(train_digests):
        raise UserError(f"{_list(named['train'])}: no {kind.plural} in there; give files that hold some")
    if validation:
        if not len(validation_digests):
            raise UserError(f"{_list(named['validation'])}: no {kind.plural} to validate on in there")
        shared = np.isin(train_digests, validation_digests)
        if shared.any():
            notices.append(f"{shared.sum():,} training {kind.plural} are also in validation: not trained on")
        if shared.all():
            raise UserError(f"all training {kind.plural} are also in the validation files; name other files")
        return Split(
            "files",
            train,
            validation,
            train_items=int((~shared).sum()),
            validation_items=len(validation_digests),
        )
    unique = np.unique(train_digests)
    if len(unique) == 1:
        return _split_single(kind, train, len(train_digests), notices)
    largest = _largest_held_out(unique, held_out)
    count = int((train_digests <= np.uint64(largest)).sum())
    notices.append(
        f"no validation {kind.plural} were named: {count:,} of {len(train_digests):,} are held out by content"
    )
    if 2 * count > len(train_digests):
        notices.append(
            f"of {len(train_digests):,} {kind.plural} only {len(unique):,} are different, so more is held out than "
            "trained on; give others, or name some for validation"
        )
    return Split(
        "content",
        train,
        largest_held_out=largest,
        train_items=len(train_digests) - count,
        validation_items=count,
    )


def _look_through(
    kind: _Kind, files: Sequence[Path], notices: list[str]
) -> tuple[tuple[SourceFile, ...], np.ndarray]:
    """Read every file; return their descriptions and the digests of all items, in order."""
    described, digests = [], array("Q")
    for path in files:
        before, characters = len(digests), 0
        for item in kind.read([path], notices):
            text = kind.text_of(item)
            digests.append(content_digest(text))
            characters += len(text)
        if len(digests) == before:
            notices.append(f"{path} holds no {kind.plural}")
        described.append(SourceFile.of(path, len(digests) - before, characters))
    return tuple(described), np.array(digests, dtype=np.uint64)


def _largest_held_out(unique_digests: np.ndarray, share: float) -> int:
    """The threshold below which about `share` of the digests lie: at least one, and not all of them."""
    threshold = min(int(share * 2**64), 2**64 - 1)
    below = int(np.searchsorted(unique_digests, np.uint64(threshold), side="right"))
    if 1 <= below < len(unique_digests):
        return threshold
    return int(unique_digests[max(1, min(below, len(unique_digests) - 1)) - 1])


def _split_single(kind: _Kind, train: tuple[SourceFile, ...], count: int, notices: list[str]) -> Split:
    """The split of `count` items that all have one content."""
    if kind is _CONVERSATIONS:
        which = (
            "there is only one conversation" if count == 1 else f"all {count:,} conversations are the same"
        )
        notices.append(f"{which}: nothing to validate fine-tuning on")
        return Split("none", train, train_items=count)
    if count > 1:
        raise UserError(
            f"{_list([file.path for file in train])}: all {count:,} documents in there are the same text, so that none "
            "can be held out; give more text, or name some to measure on with `--validation`"
        )
    text = next(read_documents([file.path for file in train])).text
    cut = tail_cut(text) if len(text) > 1 else 0
    if not text[:cut].strip() or not text[cut:].strip():
        raise UserError(f"{_list([file.path for file in train])}: too little text to learn from; give more")
    notices.append(f"there is only one document: its last {len(text) - cut:,} characters are for validation")
    return Split("tail", train, train_items=1, validation_items=1)


def _list(paths: Sequence[Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown
