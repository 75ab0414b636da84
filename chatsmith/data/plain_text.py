"""Plain text files (.txt, .md) as documents: long files are cut at paragraph boundaries.

The pieces of a file, joined, are the file's text again, character for character (after `\\r\\n` became
`\\n` and a byte order mark was dropped). A whole book thus becomes many documents, so that even one file
can be split into training and validation text. Markdown is not rendered: its marks are text like any other.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path

from chatsmith.runtime.errors import UserError

DOCUMENT_CHARACTERS = 8_000
"""About how long a document cut from a text file is. A last piece may be shorter, no piece is much longer."""

_CHUNK_BYTES = 1 << 20
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
