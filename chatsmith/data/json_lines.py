"""JSON lines files (.jsonl, .jsonl.gz, .jsonl.zst), read one line at a time, with the broken lines counted.

A file may have up to one broken line in a hundred: real collections do, and one bad line should not cost a
night. They are counted and the first is named. More than that means that the file is not what it is taken
for, and is an error. What makes a line's content usable is decided by the reader, who calls `broken`
himself.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from chatsmith.runtime.errors import UserError

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
