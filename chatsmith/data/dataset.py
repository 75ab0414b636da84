"""The data of a run: which files, what of them is for training and what for validation, and how it is recognized.

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

The result is a manifest, which `chatsmith data prepare` writes as `manifest.json` and later stages read alone.
"""

import functools
import json
import multiprocessing
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b, file_digest, sha256
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np

from chatsmith.data.conversations import MESSAGES, ConversationFiles, read_conversations
from chatsmith.data.documents import SUPPORTED, Document, cut_position, file_type, find_files, read_documents
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, conversation_to_json

FORMAT_VERSION = 2  # 1 did not say which form the conversations of a file have
FINGERPRINT_FORMAT = 1  # raised when equal files no longer give equal items
FILE_NAME = "manifest.json"
HUB = "hub:"
"""With what the origin of a hub's shard begins."""
_BYTES_PER_PROCESS = 1 << 26  # fewer are read sooner than a process has started

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
        kind = _documents(self.documents.text_column)
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
            yield from _chosen(self.conversations, split, _CONVERSATIONS)

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
class _Kind(Generic[Item]):
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
def _documents(column: str) -> _Kind[Document]:
    return _Kind("documents", functools.partial(read_documents, column=column), _text_of_document)


_CONVERSATIONS = _Kind[Conversation]("conversations", read_conversations, _text_of_conversation)


def _chosen(split: Split, wanted: SplitName, kind: _Kind[Item]) -> Iterator[Item]:
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
def _digests(kind: _Kind[Any], files: tuple[SourceFile, ...]) -> frozenset[int]:
    """Of all items in the files. The same few are asked for at every shard."""
    return frozenset(content_digest(kind.text_of(item)) for item in kind.read([f.path for f in files], None))


Listed = Mapping[Path, "tuple[Role, SourceFile]"]
"""The shards of a hub, by where they are or will be: for what, and what the listing says of them."""


@dataclass(frozen=True)
class Survey:
    """How `survey` goes about it."""

    chats: ConversationFiles = MESSAGES
    """Recognizes files of conversations and converts other forms."""
    held_out: float = 0.01
    """The share of items to hold out (0 to 1, at least one item) where no validation files are found."""
    text_column: str = "text"
    types: tuple[str, ...] = SUPPORTED
    """Endings of the names of documents."""
    listed: Listed = field(default_factory=dict)
    processes: int = 0
    """Processes that read; 0: as many as there are processors, where that pays."""
    advance: Callable[[int], None] = lambda size: None
    """Is called with the size of every file that was read, in bytes."""


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
    how, notices = Survey(**more), list[str]()
    talk_roles = _roles(conversations, validation_conversations, how.chats.types, how, notices)
    text_roles = _roles(data, validation, how.types, how, notices)
    for file in list(text_roles):
        if file not in how.listed and how.chats.holds_conversations(file):
            talk_roles.setdefault(file, text_roles.pop(file))
    if "train" not in text_roles.values():
        if text_roles:
            raise UserError(
                f"no documents to train on: {_list(list(text_roles))} is for measuring, because it is named for it or "
                "has such a name (validation, valid, val, test); name or rename files to train on"
            )
        raise UserError(f"no documents to train on in {_list(data)}; give files with text")
    documents = _split(_documents(how.text_column), text_roles, None, how, notices)
    talks = None
    if "train" in talk_roles.values():
        talks = _split(_CONVERSATIONS, talk_roles, how.chats.as_messages, how, notices)
    return DataManifest(source, documents, talks, tuple(notices))


Role = Literal["train", "validation", "test"]

_VALIDATION_NAMES = {"validation", "valid", "val"}
_TEST_NAMES = {"test"}


def _roles(
    train: Sequence[Path],
    validation: Sequence[Path],
    types: tuple[str, ...],
    how: Survey,
    notices: list[str],
) -> dict[Path, Role]:
    """Every file under the named paths, and what it is for (rules 1 to 3)."""
    roles: dict[Path, Role] = {}
    for path in validation:
        roles |= dict.fromkeys(
            [path] if path in how.listed else find_files([path], types, notices), "validation"
        )
    for path in train:
        if path in how.listed:
            roles.setdefault(path, how.listed[path][0])
            continue
        for file in find_files([path], types, notices):
            role = role_by_name(file, Path(os.path.abspath(path)), types)
            # Where validation files were named, another one is neither trained nor measured on.
            roles.setdefault(file, "test" if role == "validation" and validation else role)
    if set_aside := [file for file, role in roles.items() if role == "test"]:
        notices.append(f"set aside, for their names: {_list(set_aside)}; to train on them, name the files")
    return roles


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


Conversion = Callable[[Path, list[str]], tuple[Path, str]]


def _split(
    kind: _Kind[Item],
    roles: dict[Path, Role],
    convert: Conversion | None,
    how: Survey,
    notices: list[str],
) -> Split:
    """What is trained on and what is measured on, from the files' roles (rule 4)."""
    train_files, validation_files = (
        [file for file, role in roles.items() if role == wanted] for wanted in ("train", "validation")
    )
    train, digests = _look_through(kind, train_files, convert, how, notices)
    validation, validation_digests = _look_through(kind, validation_files, convert, how, notices)
    column = how.text_column if convert is None else "text"
    to_come = sum(file.is_remote for file in train)
    if to_come:
        notices.append(f"{to_come:,} shards of a hub are read as they come; their characters are estimated")
    if not len(digests) and not to_come:
        raise UserError(f"{_list(train_files)}: no {kind.plural} in there; give files that hold some")
    if validation:
        if not len(validation_digests):
            raise UserError(f"{_list(validation_files)}: no {kind.plural} to validate on in there")
        shared = np.isin(digests, validation_digests)
        if shared.any():
            notices.append(f"{shared.sum():,} training {kind.plural} are also in validation: not trained on")
        if shared.all() and not to_come:
            raise UserError(f"all training {kind.plural} are also in the validation files; name other files")
        counts = int((~shared).sum()), len(validation_digests)
        return Split("files", train, validation, -1, *counts, column)
    different = np.unique(digests)
    if len(different) == 1:
        return _split_single(kind, train, len(digests), column, notices)
    largest = _largest_held_out(different, how.held_out)
    count = int((digests <= np.uint64(largest)).sum())
    notices.append(
        f"no validation {kind.plural} were named: {count:,} of {len(digests):,} are held out by content"
    )
    if 2 * count > len(digests):
        notices.append(
            f"of {len(digests):,} {kind.plural} only {len(different):,} are different, so more is held out than "
            "trained on; give others, or name some for validation"
        )
    return Split("content", train, (), largest, len(digests) - count, count, column)


def _look_through(
    kind: _Kind[Item],
    files: Sequence[Path],
    convert: Conversion | None,
    how: Survey,
    notices: list[str],
) -> tuple[tuple[SourceFile, ...], np.ndarray]:
    """Read every file, several at once; return their descriptions and the digests of all items, in order."""
    converted = [convert(path, notices) if convert else (path, "") for path in files]
    is_read = [path not in how.listed or how.listed[path][0] == "validation" for path in files]
    paths = [path for (path, _), it_is in zip(converted, is_read, strict=True) if it_is]
    useful = sum(path.stat().st_size for path in paths) // _BYTES_PER_PROCESS
    processes = how.processes or min(useful, len(os.sched_getaffinity(0)))
    described, digests, look = [], array("Q"), functools.partial(_look_into, kind)
    # New processes, not forks: there may be threads here, of pyarrow or of downloads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, processes), context) as pool:
        found = pool.map(look, paths) if processes > 1 and len(paths) > 1 else map(look, paths)
        for named, (_, form), it_is in zip(files, converted, is_read, strict=True):
            if not it_is:
                described.append(how.listed[named][1])
                continue
            file, file_digests, file_notices = next(found)
            how.advance(file.bytes)
            digests.extend(file_digests)
            notices += file_notices
            if not file_digests:
                notices.append(f"{named} holds no {kind.plural}")
            origin = "" if file.path == named else str(named)
            if named in how.listed:
                origin = how.listed[named][1].origin
            described.append(replace(file, form=form, origin=origin))
    return tuple(described), np.array(digests, dtype=np.uint64)


def _look_into(kind: _Kind[Any], path: Path) -> tuple[SourceFile, array, list[str]]:
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
    kind: _Kind[Item], train: tuple[SourceFile, ...], count: int, column: str, notices: list[str]
) -> Split:
    """The split of `count` items that all have one content."""
    paths = [file.path for file in train]
    if kind is _CONVERSATIONS:
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
