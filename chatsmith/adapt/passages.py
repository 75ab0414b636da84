"""A folder of documents as passages: read, split by headings, without duplicates, and with what was left out and why.

Text is taken out of PDF, HTML, Word files and books (EPUB) by well-kept libraries (the extra `documents`). A passage
keeps the name of its document and the headings above it. Links are not followed, so a loop of them ends nothing.
"""

import hashlib
import os
import posixpath
import re
import unicodedata
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from chatsmith.runtime.errors import UserError

MOST_BYTES = 50_000_000
"""Of one file, unpacked; larger ones are data rather than documents."""

LANGUAGE_CHARACTERS = 5_000
"""Of a document: enough to tell its language by."""

PASSAGE_CHARACTERS = 1_200
LONGEST_PARAGRAPH = 4_000
"""A paragraph that is longer (a table, a line without end) is cut."""

SHINGLE_WORDS = 5
NEAR = 0.8
"""Passages that share this part of their five-word pieces (Jaccard, by MinHash: Broder 1997) are duplicates."""

SOURCE_ENDINGS = tuple(re.findall(r"\.\w+", ".py .c .h .cpp .js .ts .go .rs .java .sh .toml .rst .tex"))

Section = tuple[str, str]
"""The headings above a text, and the text."""
Part = tuple[int, str]
"""A heading and its level, from 1, or 0 and a piece of the text below it."""


@dataclass(frozen=True)
class Passage:
    """A piece of a document, about as long as a page's paragraph or three."""

    document: str
    """The file, below the folder."""
    heading: str
    text: str

    @property
    def name(self) -> str:
        """What a reply shows as its source."""
        return f"{self.document}, {self.heading}" if self.heading else self.document


@dataclass
class Documents:
    """What a folder holds."""

    passages: list[Passage] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """File and reason."""
    num_duplicates: int = 0
    """Passages that stood there before, word for word or nearly so."""
    personal: Counter[str] = field(default_factory=Counter)
    """How often a pattern sees what may be personal; nothing is changed."""

    def by_document(self) -> dict[str, list[Passage]]:
        """The passages of each document, in its order."""
        found: dict[str, list[Passage]] = {}
        for passage in self.passages:
            found.setdefault(passage.document, []).append(passage)
        return found

    def languages(self) -> Counter[str]:
        """How many documents are in each language, by its two letters; source files are in none. Raises UserError if
        the package for it is missing."""
        classify = package("py3langid").classify
        texts = {
            name: " ".join(one.text for one in passages)[:LANGUAGE_CHARACTERS]
            for name, passages in self.by_document().items()
            if not name.lower().endswith(SOURCE_ENDINGS)
        }
        return Counter(classify(text)[0] for text in texts.values())


def read_documents(folder: Path, on_file: Callable[[], object] = lambda: None) -> Documents:
    """Everything readable below `folder`. Raises UserError if there is nothing, or a package is missing."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of documents")
    found, seen = Documents(), set[str]()
    for path in _files(folder, found):
        name = _whole(path.relative_to(folder).as_posix())
        on_file()
        try:
            sections = list(_sections(path))
        except UserError:
            raise
        except Exception as error:  # the libraries raise whatever a broken file leads them to
            found.left_out.append(
                (name, f"cannot be read: {' '.join(str(error).split())[:120] or type(error).__name__}")
            )
            continue
        passages = [Passage(name, heading, text) for heading, text in _packed(sections)]
        if not passages:
            found.left_out.append((name, "holds no text"))
        for passage in passages:
            digest = hashlib.sha256(" ".join(passage.text.lower().split()).encode()).hexdigest()
            if digest in seen:
                found.num_duplicates += 1
            else:
                seen.add(digest)
                found.passages.append(passage)
    _drop_near_duplicates(found)
    for passage in found.passages:
        found.personal.update(_personal(passage.text))
    if not found.passages:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.left_out[:3])
        raise UserError(f"{folder} holds no text that can be read" + (f" ({reasons})" if reasons else ""))
    return found


def _files(folder: Path, found: Documents) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        found.left_out.append((_whole(str(error.filename)), error.strerror or "cannot be opened"))

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted([*names, *(one for one in folders if (Path(place) / one).is_symlink())]):
            path = Path(place) / name
            reason = _reason_against(path)
            if reason is None:
                yield path
            else:
                found.left_out.append((_whole(path.relative_to(folder).as_posix()), reason))


def _reason_against(path: Path) -> str | None:
    if path.is_symlink():
        return "is a link"
    if not path.is_file():
        return "is no ordinary file"
    size = path.stat().st_size
    if size == 0:
        return "is empty"
    if size > MOST_BYTES:
        return f"has {size / 1e6:,.0f} MB; {MOST_BYTES // 10**6} are read at most"
    if path.suffix.lower() not in READERS:
        return f"has an ending that is not known: {path.suffix or 'none'}"
    return None


def _sections(path: Path) -> Iterator[Section]:
    if path.suffix.lower() in (".docx", ".epub"):
        with zipfile.ZipFile(path) as archive:
            size = sum(one.file_size for one in archive.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"it unpacks to {size / 1e6:,.0f} MB; {MOST_BYTES // 10**6} are read at most")
    headings: list[str] = []
    text = ""
    for level, part in READERS[path.suffix.lower()](path):
        if level:
            yield " › ".join(headings), text
            headings, text = [*headings[: level - 1], part], ""
        else:
            text += part
    yield " › ".join(headings), text


def _plain(path: Path) -> Iterator[Part]:
    yield 0, _decoded(path)


def _markdown(path: Path) -> Iterator[Part]:
    in_code = False
    first, *rest = _decoded(path).split("<!--")  # a comment is no answer to a question
    shown = (one.partition("-->")[2] if "-->" in one else f"<!--{one}" for one in rest)
    for line in (first + "".join(shown)).splitlines():
        in_code ^= line.lstrip().startswith("```")
        heading = None if in_code else re.match(r"#{1,6}(?=\s+\S)", line)
        text = line.strip().strip("#").strip()
        yield (heading.end(), text) if heading else (0, f"{line}\n")


def _hypertext(content: bytes) -> Iterator[Part]:
    with warnings.catch_warnings(action="ignore"):  # XHTML is XML, too
        soup = package("bs4").BeautifulSoup(content, "html.parser")
    for element in soup(["script", "style", "nav", "header", "footer", "noscript", "template"]):
        element.decompose()
    for element in soup.find_all(
        [*(f"h{level}" for level in range(1, 7)), "p", "li", "pre", "dd", "dt", "td", "th"]
    ):
        if element.find_parent(["p", "li", "pre", "dd", "td"]) is not None:
            continue  # its text is that of what it stands in
        text = element.get_text() if element.name == "pre" else " ".join(element.get_text(" ").split())
        text = text.replace("¶", "").strip()
        yield (int(element.name[1]), text) if element.name[0] == "h" else (0, f"{text}\n\n")


def _epub(path: Path) -> Iterator[Part]:
    """The pages of a book, in the order that it names (https://www.w3.org/TR/epub-33/)."""
    with zipfile.ZipFile(path) as book:
        container = ElementTree.fromstring(book.read("META-INF/container.xml"))
        index = next(container.iterfind(".//{*}rootfile")).attrib["full-path"]
        contents = ElementTree.fromstring(book.read(index))
        files = {item.attrib["id"]: unquote(item.attrib["href"]) for item in contents.iterfind(".//{*}item")}
        names = [files[item.attrib["idref"]] for item in contents.iterfind(".//{*}itemref")]
        lock = "META-INF/encryption.xml"  # fonts may be encrypted: what is read is not
        if lock in book.namelist() and any(name in unquote(book.read(lock).decode()) for name in names):
            raise ValueError("it is encrypted")
        for name in names:
            yield from _hypertext(book.read(posixpath.normpath(posixpath.join(index, "..", name))))


def _pdf(path: Path) -> Iterator[Part]:
    reader = package("pypdf").PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("it is encrypted")
    titles: dict[int | None, list[str]] = {}
    with suppress(Exception):  # a table of contents that is damaged names nothing
        for one in _titles(reader.outline):
            if title := str(one.title).strip():
                titles.setdefault(reader.get_destination_page_number(one), []).append(title)
    for number, page in enumerate(reader.pages):
        yield 1, f"page {number + 1}"
        text = re.sub(r"(\w)-\n(\w)", r"\1\2", page.extract_text())
        text = re.sub(r"(?<![.:!?\n])\n(?!\n)", " ", text)
        for title in titles.get(number, []):
            before, *after = re.split(rf"(?<!\w){re.escape(title)}(?!\w)", text, maxsplit=1)
            if any(after):
                yield 0, before
                yield 2, title
                text = after[0]
        yield 0, text


def _titles(outline: list[Any]) -> Iterator[Any]:
    """The entries of a table of contents, whose parts are lists in lists, in order."""
    for one in outline:
        if isinstance(one, list):
            yield from _titles(one)
        else:
            yield one


def _docx(path: Path) -> Iterator[Part]:
    for paragraph in package("docx").Document(str(path)).paragraphs:
        level = re.fullmatch(r"Heading (\d)", paragraph.style.name or "")
        yield (int(level[1]), paragraph.text) if level else (0, f"{paragraph.text}\n\n")


READERS: dict[str, Callable[[Path], Iterator[Part]]] = {
    **dict.fromkeys((".txt", ".text", *SOURCE_ENDINGS), _plain),
    **dict.fromkeys((".md", ".markdown"), _markdown),
    **dict.fromkeys((".html", ".htm", ".xhtml"), lambda path: _hypertext(path.read_bytes())),
    ".pdf": _pdf,
    ".docx": _docx,
    ".epub": _epub,
}


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
    encoding = next((name for mark, name in marks.items() if raw.startswith(mark)), "utf-8")
    text = raw.decode(encoding)
    if "\0" in text:
        raise ValueError("it is not text")
    return text


def _whole(text: str) -> str:
    """`text` without halves of characters, which names of files and broken documents have, and no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _packed(sections: list[Section]) -> Iterator[Section]:
    """Paragraphs of a section together, as far as they fit into a passage."""
    for heading, text in sections:
        held = ""
        for paragraph in re.split(r"\n\s*\n", unicodedata.normalize("NFC", _whole(text))):
            paragraph = paragraph.strip()
            for start in range(0, len(paragraph), LONGEST_PARAGRAPH):
                piece = paragraph[start : start + LONGEST_PARAGRAPH]
                if held and len(held) + len(piece) > PASSAGE_CHARACTERS:
                    yield heading, held
                    held = ""
                held += f"\n\n{piece}" if held else piece
        if held:
            yield heading, held


def _drop_near_duplicates(found: Documents) -> None:
    datasketch = package("datasketch")
    index = datasketch.MinHashLSH(threshold=NEAR, num_perm=64)
    kept: list[Passage] = []
    for number, passage in enumerate(found.passages):
        words = passage.text.lower().split()
        pieces = {
            " ".join(words[at : at + SHINGLE_WORDS]) for at in range(max(1, len(words) - SHINGLE_WORDS + 1))
        }
        sketch = datasketch.MinHash(num_perm=64)
        sketch.update_batch([piece.encode() for piece in pieces])
        if len(words) > SHINGLE_WORDS and index.query(sketch):
            found.num_duplicates += 1
            continue
        index.insert(number, sketch)
        kept.append(passage)
    found.passages = kept


_PATTERNS = {
    "e-mail address": re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"),
    "card number": re.compile(r"\b(?:\d[ -]?){13,16}\b"),
    "IBAN": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b"),
    "telephone number": re.compile(r"\+\d{1,3}[ (-]*\d(?:[ ()/-]*\d){6,12}\b"),
}


def _personal(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for kind, pattern in _PATTERNS.items():
        hits = pattern.findall(text)
        found[kind] += sum(_is_card(hit) for hit in hits) if kind == "card number" else len(hits)
    return +found


def _is_card(text: str) -> bool:
    """Luhn's checksum, which a number that is no card's passes once in ten."""
    digits = [int(one) for one in reversed(text) if one.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) if place % 2 else digit for place, digit in enumerate(digits)]
    return len(digits) >= 13 and sum(doubled) % 10 == 0


def package(name: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return __import__(name)
    except ImportError:
        raise UserError("reading documents needs more packages: pip install 'chatsmith[documents]'") from None
