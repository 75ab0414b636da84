"""Small files that people write by hand: recipes, keys, personas."""

import codecs
from pathlib import Path

from chatsmith.runtime.errors import UserError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises UserError for UTF-16, as PowerShell and Notepad may save it; OSError and UnicodeDecodeError as they are.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path} is UTF-16 text; save it as UTF-8")
    return content.decode("utf-8-sig")
