"""Files to documents and conversations: what chatsmith reads, and what it says when it cannot.

Documents come from `.parquet` (column `text`), `.jsonl`, `.jsonl.gz`, `.jsonl.zst` (field `text`), `.txt`
and `.md`; conversations from the JSON lines files (field `messages`). Reading streams: memory does not grow
with the files. Every error is a UserError of one line that names the file. Nothing here decides what is
training and what is validation text: see `survey` and `manifest`.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatsmith.data.json_lines import JsonLines
from chatsmith.data.plain_text import read_text_documents
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, parse_conversation, unknown_keys

SUPPORTED = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".txt", ".md")

_PARQUET_BATCH_ROWS = 512


@dataclass(frozen=True, slots=True)
class Document:
    """One text to learn from, and where it stood."""

    text: str
    source: str
    """For people, e.g. `shard_00000.parquet, row 12`."""


def file_type(path: Path) -> str | None:
    """The one of SUPPORTED that `path` ends in, in any case of letters; None if there is none."""
    name = path.name.lower()
    return next((ending for ending in SUPPORTED if name.endswith(ending)), None)


def find_files(paths: Iterable[Path]) -> list[Path]:
    """The supported files that `paths` name, folders searched recursively, each file once, in sorted order
    a path.

    Hidden files and folders, and files of other types inside folders, are passed over. Raises UserError for a
    missing path, a file of an unsupported type, and a folder without any supported file.
    """
    found: dict[Path, None] = {}  # a set that keeps its order
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; check the path (seen from {Path.cwd()})")
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and file_type(file))
            visible = [file for file in inside if not _is_hidden(file.relative_to(path))]
            if not visible:
                raise UserError(
                    f"the folder {path} holds no file of a supported type ({', '.join(SUPPORTED)})"
                )
            found.update(dict.fromkeys(_absolute(file) for file in visible))
        elif file_type(path):
            found[_absolute(path)] = None
        else:
            raise UserError(f"{path} is of an unsupported type; chatsmith reads {', '.join(SUPPORTED)}")
    return list(found)


def holds_conversations(path: Path) -> bool:
    """Whether the first usable line of a JSON lines file has `messages`. False for every other type."""
    if file_type(path) not in (".jsonl", ".jsonl.gz", ".jsonl.zst"):
        return False
    with _named_errors(path):
        return next(("messages" in value for _, value in JsonLines(path)), False)


def read_documents(files: Iterable[Path], notices: list[str] | None = None) -> Iterator[Document]:
    """The documents of `files`, in order; blank ones are passed over.

    A line for people about anything passed over is added to `notices`. Raises UserError for what cannot be
    read.
    """
    for path in files:
        with _named_errors(path):
            match file_type(path):
                case ".parquet":
                    yield from _parquet_documents(path)
                case ".txt" | ".md":
                    for number, text in enumerate(read_text_documents(path), 1):
                        if not text.isspace():
                            yield Document(text, f"{path.name}, part {number:,}")
                case _:
                    yield from _json_documents(path, notices)


def read_conversations(files: Iterable[Path], notices: list[str] | None = None) -> Iterator[Conversation]:
    """The conversations of JSON lines `files`, in order: objects with `messages`.

    A conversation with wrong roles or parts counts as a broken line. `notices` and errors as in
    `read_documents`; one notice a file tells what else its messages have, which is not learnt from.
    """
    for path in files:
        if file_type(path) not in (".jsonl", ".jsonl.gz", ".jsonl.zst"):
            raise UserError(f"{path} cannot hold conversations; give .jsonl, .jsonl.gz or .jsonl.zst")
        with _named_errors(path):
            lines = JsonLines(path)
            ignored: Counter[str] = Counter()
            for number, value in lines:
                try:
                    conversation = _checked_conversation(value)
                except ValueError as error:
                    lines.broken(number, str(error))
                else:
                    ignored.update(unknown_keys(value))
                    yield conversation
            _note(lines, notices)
            if notices is not None and ignored:
                keys = ", ".join(f"`{name}` in {count:,}" for name, count in ignored.most_common(8))
                more = f" and {len(ignored) - 8:,} more" if len(ignored) > 8 else ""
                notices.append(
                    f"{path}: passed over what messages have besides role and content: {keys}{more}"
                )


def _parquet_documents(path: Path) -> Iterator[Document]:
    row = 0
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            _check_parquet_text(path, file.schema_arrow)
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=["text"], use_threads=False):
                for value in batch.column(0):
                    row += 1
                    text = value.as_py()
                    if text and not text.isspace():
                        yield Document(text, f"{path.name}, row {row:,}")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, row {row:,}: the text is not valid UTF-8 (byte {error.start:,})") from None
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{path} is not a readable parquet file ({reason}); fetch or make it again") from None


def _check_parquet_text(path: Path, schema: pa.Schema) -> None:
    if "text" not in schema.names:
        raise UserError(
            f"{path} has no column `text` (it has: {', '.join(schema.names) or 'none'}); "
            "rename the column that holds the text"
        )
    kind = schema.field("text").type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"{path}: the column `text` holds {kind}, not strings; write it as strings")


def _json_documents(path: Path, notices: list[str] | None) -> Iterator[Document]:
    lines = JsonLines(path)
    for number, value in lines:
        text = value.get("text")
        if not isinstance(text, str):
            lines.broken(
                number, f"it has no `text` (but {_names(value)})" if text is None else "`text` is no string"
            )
        elif not _encodable(text):
            lines.broken(number, "`text` holds half a character (a lone surrogate)")
        elif text and not text.isspace():
            yield Document(text, f"{path.name}, line {number:,}")
    _note(lines, notices)


def _checked_conversation(value: dict[str, Any]) -> Conversation:
    """A conversation that something can be learned from. Raises ValueError with a plain reason."""
    if "messages" not in value:
        raise ValueError(f"it has no `messages` (but {_names(value)})")
    conversation = parse_conversation(value)
    if not all(_encodable(part.text) for message in conversation for part in message.parts):
        raise ValueError("it holds half a character (a lone surrogate)")
    if not any(message.role == "assistant" for message in conversation):
        raise ValueError("the assistant says nothing in it")
    return conversation


def _encodable(text: str) -> bool:
    """Whether `text` exists in UTF-8: JSON's escapes can spell half a character, which does not."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _note(lines: JsonLines, notices: list[str] | None) -> None:
    if notices is not None and lines.notice:
        notices.append(lines.notice)


def _names(value: dict[str, Any]) -> str:
    return ", ".join(sorted(f"`{name}`" for name in list(value)[:8])) or "nothing"


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _absolute(path: Path) -> Path:
    # Links are kept: the name in a cache of downloads is a link to a file without a telling name.
    return Path(os.path.abspath(path))


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn the system's own errors about a file into a UserError that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); check the file and its permissions") from error
