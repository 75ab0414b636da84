"""The manifest: which files a run learns from, and which text is kept for validation. Later stages read
only it.

`chatsmith data prepare` writes `<run>/data/manifest.json` (built in `survey`); `load_manifest` reads it and
checks that the files are still what they were. A split is named by files, or made by the content of each
document, never by its position, and a text that is in the validation split is in no other.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b, file_digest, sha256
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from chatsmith.data.plain_text import cut_position
from chatsmith.data.sources import Document, read_conversations, read_documents
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, conversation_to_json

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
