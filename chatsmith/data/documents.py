"""Files to documents and conversations: what chatsmith reads, and what it says when it cannot.

Documents come from `.parquet` (column `text`), `.jsonl`, `.jsonl.gz`, `.jsonl.zst` (field `text`), `.txt`
and `.md`; conversations from the JSON lines files (field `messages`). Reading streams: memory does not grow
with the files. Every error is a UserError of one line that names the file. Nothing here decides what is
training and what is validation text: see `survey` and `manifest`.
"""

import codecs
import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, parse_conversation, unknown_keys

# -------------------- data.json_lines
# JSON lines files (.jsonl, .jsonl.gz, .jsonl.zst), read one line at a time, with the broken lines counted.
#
# A file may have up to one broken line in a hundred: real collections do, and one bad line should not cost a
# night. They are counted and the first is named. More than that means that the file is not what it is taken
# for, and is an error. What makes a line's content usable is decided by the reader, who calls `broken`
# himself.

_CHUNK_BYTES = 1 << 20
_LARGEST_ZSTD_WINDOW = 1 << 31  # what `zstd --long=31` needs; memory is taken only if a file asks for it


class JsonLines:
    """The objects of one file, and a count of the lines that could not be used."""

    def __init__(self, path: Path):
        self.path = path
        self.total = 0
        """Lines read so far that were not blank."""
        self.broken_count = 0
        self._first_broken = ""

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (line number from 1, object). Raises UserError for an unreadable file and, at the end, for
        too many broken lines."""
        for number, offset, line in _numbered_lines(self.path):
            if not line.strip():
                continue
            self.total += 1
            try:
                value = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                self.broken(number, f"not valid UTF-8 (byte {offset + error.start:,} of the text)")
            except (ValueError, RecursionError) as error:
                self.broken(number, f"not JSON ({str(error).split(': line')[0]})")
            else:
                if isinstance(value, dict):
                    yield number, value
                else:
                    self.broken(number, "not a JSON object")
        if self.broken_count * 100 > self.total:
            raise UserError(
                f"{self.path}: {self._summary()}. Repair or remove them (up to 1 line in 100 is passed over)"
            )

    def broken(self, number: int, reason: str) -> None:
        """Count line `number` as unusable. To be called at most once a line, before the next one is asked
        for."""
        self.broken_count += 1
        self._first_broken = self._first_broken or f"line {number:,}: {reason}"

    @property
    def notice(self) -> str | None:
        """One line about the broken lines met so far; None if there are none."""
        return f"{self.path}: passed over {self._summary()}" if self.broken_count else None

    def _summary(self) -> str:
        return f"{self.broken_count:,} of {self.total:,} lines cannot be used, first {self._first_broken}"


def _numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number from 1, byte offset in the unpacked text, line without its end)."""
    number, offset, pending = 0, 0, []
    for chunk in _chunks(path):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            line = b"".join([*pending, line])
            pending = []
            number += 1
            yield number, offset, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            offset += len(line) + 1
        if rest:
            pending.append(rest)
    if pending:
        yield number + 1, offset, b"".join(pending)


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        elif path.suffix == ".zst":
            yield from _zstd_chunks(path)
        else:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); fetch or make it again") from None


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    # A frame at a time: the library's stream reader takes a file cut short for a complete one.
    with path.open("rb") as file:
        frame, inside = None, False
        while packed := file.read(_CHUNK_BYTES):
            while packed:
                if frame is None:
                    unpacker = zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW)
                    frame = unpacker.decompressobj()
                yield frame.decompress(packed)
                inside = not frame.eof
                packed = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if inside:
        raise EOFError("it ends in the middle of its compressed data")


# -------------------- data.plain_text
# Plain text files (.txt, .md) as documents: long files are cut at paragraph boundaries.
#
# The pieces of a file, joined, are the file's text again, character for character (after `\r\n` became
# `\n` and a byte order mark was dropped). A whole book thus becomes many documents, so that even one file
# can be split into training and validation text. Markdown is not rendered: its marks are text like any other.

DOCUMENT_CHARACTERS = 8_000
"""About how long a document cut from a text file is. A last piece may be shorter, no piece is much longer."""

_BOUNDARIES = ("\n\n", "\n", ". ", " ")  # the best place to cut first


def read_text_documents(path: Path) -> Iterator[str]:
    """The documents of one text file, in order, holding about a megabyte in memory.

    Raises UserError naming the file when it cannot be read, or, with the byte offset, when it is not UTF-8.
    """
    pending = ""
    for piece in _decoded(path):
        pending += piece
        while len(pending) >= 2 * DOCUMENT_CHARACTERS:
            cut = cut_position(pending, DOCUMENT_CHARACTERS)
            yield pending[:cut]
            pending = pending[cut:]
    yield from split_text(pending)


def split_text(text: str) -> Iterator[str]:
    """Cut `text` into pieces of about DOCUMENT_CHARACTERS; a text up to 1.5 times that long stays whole."""
    while len(text) > DOCUMENT_CHARACTERS * 3 // 2:
        cut = cut_position(text, DOCUMENT_CHARACTERS)
        yield text[:cut]
        text = text[cut:]
    if text:
        yield text


def cut_position(text: str, wanted: int) -> int:
    """The best place to cut `text` in two near `wanted` characters: 0 < position < len(text).

    A paragraph's end in the second half of the first `wanted` characters if there is one, else a line's end,
    else a sentence's, else a word's, else the middle of a word. Needs at least two characters.
    """
    assert len(text) >= 2
    wanted = max(1, min(wanted, len(text) - 1))
    for boundary in _BOUNDARIES:
        found = text.rfind(boundary, wanted // 2, wanted)
        if found >= 0:
            return found + len(boundary)
    return wanted


def _decoded(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0  # bytes given to the decoder in earlier chunks
    held_back = ""  # a `\r` at a chunk's end, whose `\n` may begin the next one
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            undecoded = len(decoder.getstate()[0])
            try:
                text = held_back + decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                position = offset - undecoded + error.start
                raise UserError(
                    f"{path} is not valid UTF-8 (byte {position:,}); save it as UTF-8 and repeat the command"
                ) from None
            if offset == 0:
                text = text.removeprefix("\ufeff")
            offset += len(chunk)
            held_back = "\r" if chunk and text.endswith("\r") else ""
            yield text.removesuffix(held_back).replace("\r\n", "\n")
            if not chunk:
                return


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
