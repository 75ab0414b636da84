"""Files to documents: what chatsmith reads, and what it says when it cannot.

Documents come from `.parquet` (a column, usually `text`), `.jsonl` or `.ndjson` (a field of that name), and `.txt`,
`.text`, `.md` or `.markdown`; all but the first also as `.gz` or `.zst`. Reading streams: memory does not grow with the
files. Every error is a UserError of one line that names the file. What is training and what is validation text is
decided in `dataset`.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from chatsmith.runtime.errors import UserError

PACKINGS = ("", ".gz", ".zst")
JSON_LINES = tuple(kind + packing for kind in (".jsonl", ".ndjson") for packing in PACKINGS)
_TEXTS = tuple(kind + packing for kind in (".txt", ".text", ".md", ".markdown") for packing in PACKINGS)
SUPPORTED = (".parquet", *JSON_LINES, *_TEXTS)
DOCUMENT_CHARACTERS = 8_000
"""About how long a document cut from a text file is. A last piece may be shorter, no piece is much longer."""

_CHUNK_BYTES = 1 << 20
_LARGEST_ZSTD_WINDOW = 1 << 31  # what `zstd --long=31` needs; memory is taken only if a file asks for it
_PARQUET_BATCH_ROWS = 512
_BOUNDARIES = ("\n\n", "\n", ". ", " ")  # the best place to cut first


@dataclass(frozen=True, slots=True)
class Document:
    """One text to learn from, and where it was found."""

    text: str
    source: str
    """For people, e.g. `shard_00000.parquet, row 12`."""


def file_type(path: Path, types: tuple[str, ...] = SUPPORTED) -> str | None:
    """The one of `types` that `path` ends in, in upper or lower case; None if there is none."""
    name = path.name.lower()
    return next((ending for ending in types if name.endswith(ending)), None) if name.endswith(types) else None


def read_documents(
    files: Iterable[Path], notices: list[str] | None = None, column: str = "text"
) -> Iterator[Document]:
    """The documents of `files`, in order, without blank ones; `column` holds them in tables and JSON lines.

    One line for people about each file with broken lines is added to `notices`. Raises UserError for what cannot
    be read.
    """
    for path in files:
        with named_errors(path):
            kind = file_type(path)
            if kind == ".parquet":
                yield from _parquet_documents(path, column)
            elif kind in JSON_LINES:
                yield from _json_documents(path, notices, column)
            else:
                for number, text in enumerate(_text_documents(path), 1):
                    if not text.isspace():
                        yield Document(text, f"{path.name}, part {number:,}")


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn the system's own errors about a file into a UserError that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); check the file and its permissions") from error


class JsonLines:
    """The objects of a JSON lines file (.jsonl, .jsonl.gz, .jsonl.zst), and a count of the lines that are broken.

    Up to one broken line in a hundred (`one_in`) is passed over: real collections have some, and one bad line should
    not cost a night. They are counted and the first is named. More than that means that the file is not what it is
    taken for, and is an error. The reader decides what makes the content of a line usable, and calls `broken`.
    """

    def __init__(self, path: Path, one_in: int = 100):
        self.path = path
        self.one_in = one_in
        self.total = 0
        """Lines read so far that were not blank."""
        self.broken_count = 0
        self._first_broken = ""

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (line number from 1, object). Raises UserError for an unreadable file and, at the end, for
        too many broken lines."""
        for number, offset, line in numbered_lines(self.path):
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
        if self.broken_count * self.one_in > self.total:
            up_to = f"up to 1 line in {self.one_in} is passed over"
            count = f"{self.broken_count:,} of {self.total:,} lines cannot be used"
            raise UserError(
                f"{self.path}: {count}, first {self._first_broken}. Repair or remove them ({up_to})"
            )

    def broken(self, number: int, reason: str) -> None:
        """Count line `number` as unusable. To be called at most once a line, before the next one is read."""
        self.broken_count += 1
        self._first_broken = self._first_broken or f"line {number:,}: {reason}"

    def add_notice(self, notices: list[str] | None) -> None:
        """Add one line about the broken lines met so far, if any."""
        if notices is not None and self.broken_count:
            count = f"passed over {self.broken_count:,} of {self.total:,} lines"
            notices.append(f"{self.path}: {count}; the first, {self._first_broken}")


def _json_documents(path: Path, notices: list[str] | None, column: str) -> Iterator[Document]:
    lines = JsonLines(path)
    for number, value in lines:
        text = value.get(column)
        if text is None:
            lines.broken(number, f"it has no `{column}` (but {key_names(value)})")
        elif not isinstance(text, str):
            lines.broken(number, f"`{column}` is no string")
        elif not is_encodable(text):
            lines.broken(number, f"`{column}` holds half a character (a lone surrogate)")
        elif text and not text.isspace():
            yield Document(text, f"{path.name}, line {number:,}")
    lines.add_notice(notices)


def is_encodable(text: str) -> bool:
    """Whether `text` exists in UTF-8: JSON's escapes can spell half a character, which does not."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def key_names(value: dict[str, Any]) -> str:
    """Some of the keys of an object, for an error message."""
    return ", ".join(sorted(f"`{name}`" for name in list(value)[:8])) or "nothing"


def numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number from 1, byte offset in the unpacked text, line without its end)."""
    number, offset, pending = 0, 0, []
    for chunk in unpacked_chunks(path):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            line = b"".join([*pending, line])
            pending = []
            number += 1
            yield number, offset, line.removeprefix(codecs.BOM_UTF8)  # files may have been joined
            offset += len(line) + 1
        if rest:
            pending.append(rest)
    if pending:
        yield number + 1, offset, b"".join(pending).removeprefix(codecs.BOM_UTF8)


def unpacked_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked if its name ends in .gz or .zst. Raises UserError if that is damaged."""
    try:
        if path.suffix == ".zst":
            yield from _zstd_chunks(path)
            return
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); download or create it again") from None


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


def _parquet_documents(path: Path, column: str) -> Iterator[Document]:
    for number, row in parquet_rows(path, [column]):
        text = row[column]
        if text is not None and not isinstance(text, str):
            kind = type(text).__name__
            raise UserError(f"{path}, row {number:,}: the column `{column}` holds {kind}, not strings")
        if text and not text.isspace():
            yield Document(text, f"{path.name}, row {number:,}")


def parquet_rows(path: Path, columns: list[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, its values in these columns, or in all).

    Raises UserError for a file that is not readable or lacks a column.
    """
    number = 0
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            names = file.schema_arrow.names
            columns = names if columns is None else columns
            for missing in (name for name in columns if name not in names):
                raise UserError(
                    f"{path} has no column `{missing}` (it has: {', '.join(names) or 'none'}); "
                    "name the column that holds the text",
                    setting="text_column",
                )
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=columns, use_threads=False):
                arrays = batch.select(columns).columns
                try:  # all at once: a value at a time takes three times as long
                    values = [array.to_pylist() for array in arrays]
                except UnicodeDecodeError:  # then that tells which one it is
                    values = [(value.as_py() for value in array) for array in arrays]
                for row in zip(*values, strict=True):
                    number += 1
                    yield number, dict(zip(columns, row, strict=True))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, row {number + 1:,}: the text is not valid UTF-8 (byte {error.start:,})"
        ) from None
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(
            f"{path} is not a readable parquet file ({reason}); download or create it again"
        ) from None


def _text_documents(path: Path) -> Iterator[str]:
    """The documents of one text file, in order, holding about a megabyte in memory.

    Long files are cut at paragraph boundaries: a whole book becomes many documents, so that even one file can be
    split into training and validation text. The pieces, joined, are the file's text, character for character
    (after `\\r\\n` became `\\n` and byte order marks were dropped). Markdown is not rendered: its marks are text.
    Raises UserError, with the byte offset, when the file is not UTF-8.
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
    """The text of a file in pieces, with `\n` for `\r\n`, whatever the borders of reads cut in two."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0  # bytes given to the decoder in earlier chunks
    held_back = ""  # a `\r` at a chunk's end, whose `\n` may begin the next one
    for chunk in chain(unpacked_chunks(path), [b""]):
        if offset == 0 and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(f"{path} is UTF-16 text; save it as UTF-8 and repeat the command")
        undecoded = len(decoder.getstate()[0])
        try:
            text = held_back + decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            position = offset - undecoded + error.start
            raise UserError(
                f"{path} is not valid UTF-8 (byte {position:,}); save it as UTF-8 and repeat the command"
            ) from None
        offset += len(chunk)
        held_back = "\r" if chunk and text.endswith("\r") else ""
        # Byte order marks stand wherever files were joined.
        yield text.removesuffix(held_back).replace("\r\n", "\n").replace("\ufeff", "")
