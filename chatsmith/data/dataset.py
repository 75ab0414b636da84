"""The data of a run: which files, what of them is for training and what for validation, and how it is recognized.

This is the manifest, `manifest.json`, that `chatsmith data prepare` writes and later stages read alone; it is made by
`chatsmith.ingest.survey`. Whatever is in the validation split is left out of training, also where the same text stands
in a training file.
"""

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b, file_digest, sha256
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from chatsmith.data.conversations import read_conversations
from chatsmith.data.documents import Document, cut_position, read_documents
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, conversation_to_json

FORMAT_VERSION = 2  # 1 did not say which form the conversations of a file have
FINGERPRINT_FORMAT = 1  # raised when equal files no longer give equal items
FILE_NAME = "manifest.json"
HUB = "hub:"
"""With what the origin of a hub's shard begins."""

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
    """Documents or conversations; 0 for a shard of a hub, which is not read before it is used."""
    characters: int
    """Estimated for a shard of a hub."""
    form: str = ""
    """The form that its conversations had, e.g. `sharegpt`; empty for documents and in manifests of format 1."""
    origin: str = ""
    """The file it was converted from, if that had another form than `messages`; hub:… of a shard."""

    @property
    def is_remote(self) -> bool:
        """Whether it comes from a hub, by a download that checks its hash."""
        return self.origin.startswith(HUB)

    def is_unchanged(self) -> bool:
        """Whether the file is what it was. One of the same size with another time of change is hashed again."""
        status = self.path.stat()
        if status.st_size != self.bytes or self.is_remote:
            return status.st_size == self.bytes
        return status.st_mtime_ns == self.modified_ns or file_sha256(self.path) == self.sha256


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
    text_column: str = "text"
    """The column or field that holds the documents."""

    @property
    def fingerprint(self) -> str:
        """A hash of contents and method: equal for two splits that read the same items in the same order."""
        train, validation = ([file.sha256 for file in files] for files in (self.train, self.validation))
        column = [] if self.text_column == "text" else [self.text_column]
        return _hash_of([FINGERPRINT_FORMAT, self.method, self.largest_held_out, train, validation, *column])


@dataclass(frozen=True)
class DataManifest:
    """What a run learns from."""

    source: str
    """`files`, or the name of the world whose generator wrote them, e.g. `kindergarten`."""
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
        """The documents of one split, in a fixed order. Raises UserError if a file cannot be read any more."""
        kind = documents_in(self.documents.text_column)
        if self.documents.method != "tail":
            yield from _chosen(self.documents, split, kind)
            return
        for document in kind.read([file.path for file in self.documents.train], None):
            cut = tail_cut(document.text)
            text = document.text[:cut] if split == "train" else document.text[cut:]
            yield Document(text, document.source)

    def read_conversations(self, split: SplitName) -> Iterator[Conversation]:
        """The conversations of one split, in a fixed order; none if the manifest has none."""
        if self.conversations:
            yield from _chosen(self.conversations, split, CONVERSATIONS)

    def to_json(self, folder: Path | None = None) -> dict[str, Any]:
        """Plain lists and dicts. Files inside `folder` are named relative to it, others absolutely."""
        value = {"format_version": FORMAT_VERSION, **asdict(self)}
        for split in filter(None, (value["documents"], value["conversations"])):
            for file in (*split["train"], *split["validation"]):
                path = Path(os.path.abspath(file["path"]))
                inside = folder is not None and path.is_relative_to(os.path.abspath(folder))
                file["path"] = os.path.relpath(path, folder) if inside else str(path)
        return value

    @staticmethod
    def from_json(value: dict[str, Any], folder: Path = Path()) -> "DataManifest":
        """The inverse of `to_json`. Raises one of ValueError, KeyError, TypeError and AttributeError if damaged."""

        def files(entries: list[dict[str, Any]]) -> tuple[SourceFile, ...]:
            return tuple(SourceFile(**{**entry, "path": folder / entry["path"]}) for entry in entries)

        def split(entry: dict[str, Any]) -> Split:
            if entry["method"] not in get_args(Method):
                raise ValueError(f"unknown split method {entry['method']!r}")
            return Split(
                **{**entry, "train": files(entry["train"]), "validation": files(entry["validation"])}
            )

        return DataManifest(
            source=value["source"],
            documents=split(value["documents"]),
            conversations=split(value["conversations"]) if value["conversations"] else None,
            notices=tuple(value["notices"]),
        )

    def save(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`, atomically. A run that brings its data along can be moved."""
        write_text(folder / FILE_NAME, json.dumps(self.to_json(folder), indent=2) + "\n")


def load_manifest(folder: Path) -> DataManifest:
    """Read the manifest in a run's data folder and check that its files are unchanged.

    Raises UserError if there is no manifest, if it is damaged or from a newer chatsmith, or if a file is missing or
    changed.
    """
    path = folder / FILE_NAME
    again = "run `chatsmith data prepare` again"
    try:
        value = json.loads(path.read_bytes())
        version = value["format_version"]
        if version > FORMAT_VERSION:
            raise UserError(f"{path} was written by a newer chatsmith (format {version}); update chatsmith")
        manifest = DataManifest.from_json(value, folder)
    except FileNotFoundError:
        raise UserError(f"there is no {path}; run `chatsmith data prepare` first") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from None
    for split in filter(None, (manifest.documents, manifest.conversations)):
        for file in (*split.train, *split.validation):
            if file.is_remote and not file.path.is_file():
                continue  # it is still to come
            if not file.path.is_file():
                raise UserError(f"{file.path} is gone since the data was prepared; bring it back, or {again}")
            if not file.is_unchanged():
                raise UserError(f"{file.path} has changed since the data was prepared; {again}")
    return manifest


def content_digest(text: str) -> int:
    """64 bits that depend on the text alone: how items are recognized and, without named files, split."""
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def tail_cut(text: str) -> int:
    """Where the only document of a corpus is cut: what follows, about the last tenth, is for validation."""
    return cut_position(text, len(text) * 9 // 10)


def _hash_of(value: Any) -> str:
    return sha256(json.dumps(value).encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Kind(Generic[Item]):
    """How to read one kind of data, and what to call it. Other processes get it as it is."""

    plural: str
    read: Callable[[Iterable[Path], list[str] | None], Iterator[Item]]
    text_of: Callable[[Item], str]
    """What an item is recognized by."""


def _text_of_document(document: Document) -> str:
    return document.text


def _text_of_conversation(conversation: Conversation) -> str:
    return json.dumps(conversation_to_json(conversation), sort_keys=True)


@functools.cache
def documents_in(column: str) -> Kind[Document]:
    return Kind("documents", functools.partial(read_documents, column=column), _text_of_document)


CONVERSATIONS = Kind[Conversation]("conversations", read_conversations, _text_of_conversation)


def _chosen(split: Split, wanted: SplitName, kind: Kind[Item]) -> Iterator[Item]:
    """The items of one part of a split, told apart by their content."""
    if split.method == "files" and wanted == "validation":
        yield from kind.read([file.path for file in split.validation], None)
        return
    kept_out = _digests(kind, split.validation)
    for item in kind.read([file.path for file in split.train], None):
        digest = content_digest(kind.text_of(item))
        is_held_out = digest in kept_out or digest <= split.largest_held_out
        if is_held_out == (wanted == "validation"):
            yield item


@functools.lru_cache(maxsize=2)
def _digests(kind: Kind[Any], files: tuple[SourceFile, ...]) -> frozenset[int]:
    """Of all items in the files. The same few are asked for at every shard."""
    return frozenset(content_digest(kind.text_of(item)) for item in kind.read([f.path for f in files], None))
