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

import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chatsmith.data.manifest import (
    DataManifest,
    SourceFile,
    Split,
    content_digest,
    conversation_text,
    tail_cut,
)
from chatsmith.data.sources import (
    file_type,
    find_files,
    holds_conversations,
    read_conversations,
    read_documents,
)
from chatsmith.runtime.errors import UserError

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
