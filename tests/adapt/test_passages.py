"""Documents become passages; what cannot be read is listed with the reason, and nothing ends in a traceback."""

import os
import zipfile
from pathlib import Path

import pytest

from chatsmith.adapt.passages import PASSAGE_CHARACTERS, Passage, read_documents
from chatsmith.adapt.questions import training_pairs
from chatsmith.adapt.search import PassageIndex
from chatsmith.runtime.errors import UserError

bs4, docx, pypdf = (pytest.importorskip(name) for name in ("bs4", "docx", "pypdf"))
pytest.importorskip("datasketch")

MARKDOWN = """Before.

# Cats

<!-- YAML
added: v1.0 -->
A cat sleeps. <!-- not closed

## Food

Cats eat fish.

```
# no heading
```

# Dogs

Dogs bark.
"""
HTML = (
    "<html><head><style>p{}</style></head><body><nav>Menu</nav><h1>Guide¶</h1><p>First <b>part</b>.</p>"
    "<h2>Use</h2><ul><li><p>One item.</p></li></ul><pre>x = 1\ny = 2</pre><h1>End</h1><p>Last.</p></body></html>"
)


def test_each_form_is_split_by_its_headings(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(MARKDOWN)
    (tmp_path / "b.html").write_text(HTML)
    (tmp_path / "c.txt").write_text("\ufeffPlain text.\n\nSecond paragraph.", encoding="utf-8")
    document = docx.Document()
    document.add_heading("Rules", 1)
    document.add_paragraph("Be kind.")
    document.add_heading("More", 2)
    document.add_paragraph("Be brave.")
    document.save(str(tmp_path / "d.docx"))
    found = read_documents(tmp_path)
    texts = {(one.document, one.heading): one.text for one in found.passages}
    assert texts == {
        ("a.md", ""): "Before.",
        ("a.md", "Cats"): "A cat sleeps. <!-- not closed",
        ("a.md", "Cats › Food"): "Cats eat fish.\n\n```\n# no heading\n```",
        ("a.md", "Dogs"): "Dogs bark.",
        ("b.html", "Guide"): "First part .",
        ("b.html", "Guide › Use"): "One item.\n\nx = 1\ny = 2",
        ("b.html", "End"): "Last.",
        ("c.txt", ""): "Plain text.\n\nSecond paragraph.",
        ("d.docx", "Rules"): "Be kind.",
        ("d.docx", "Rules › More"): "Be brave.",
    }
    assert found.left_out == []


def write_pdf(path: Path, pages: list[list[str]], contents: list[tuple[str, int]]) -> None:
    """A PDF with a line of text each, and a table of contents: titles and pages."""
    make, name = pypdf.generic, pypdf.generic.NameObject
    writer = pypdf.PdfWriter()
    font = make.DictionaryObject(
        {
            name("/Type"): name("/Font"),
            name("/Subtype"): name("/Type1"),
            name("/BaseFont"): name("/Helvetica"),
        }
    )
    for lines in pages:
        page, drawn = writer.add_blank_page(300, 300), make.DecodedStreamObject()
        text = " ".join(f"({line}) Tj 0 -20 Td" for line in lines)
        drawn.set_data(f"BT /F1 12 Tf 20 250 Td {text} ET".encode())
        page[name("/Contents")] = writer._add_object(drawn)
        fonts = make.DictionaryObject({name("/F1"): font})
        page[name("/Resources")] = make.DictionaryObject({name("/Font"): fonts})
    for title, number in contents:
        writer.add_outline_item(title=title, page_number=number)
    writer.write(path)


def test_a_pdf_is_split_by_its_pages_and_its_table_of_contents(tmp_path: Path) -> None:
    pages = [["Preface.", "Rules", "Be kind."], ["And brave.", "More", "Be on time.", "Last", "Go home."]]
    contents = [("Rules", 0), ("Nowhere", 0), ("More", 1), ("Last", 1)]
    write_pdf(tmp_path / "a.pdf", pages, contents)
    found = read_documents(tmp_path)
    assert {one.heading: one.text for one in found.passages} == {
        "page 1": "Preface.",
        "page 1 › Rules": "Be kind.",
        "page 2": "And brave.",
        "page 2 › More": "Be on time.",
        "page 2 › Last": "Go home.",
    }
    assert found.left_out == []


def test_bookmarks_without_a_title_and_within_a_word_split_nothing(tmp_path: Path) -> None:
    pages = [["Contents of all", "C", "Old."], ["Written in C++17.", "C++", "New."]]
    write_pdf(tmp_path / "a.pdf", pages, [("", 0), (" ", 0), ("C", 0), ("tent", 0), ("C++", 1)])
    found = read_documents(tmp_path)
    assert found.left_out == []
    assert {one.heading: one.text for one in found.passages} == {
        "page 1": "Contents of all",
        "page 1 › C": "Old.",
        "page 2": "Written in C++17.",
        "page 2 › C++": "New.",
    }


CONTAINER = """<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">
<rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""
BOOK = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0"><manifest>
<item id="style" href="style.css" media-type="text/css"/>
<item id="two" href="text/part%20two.xhtml" media-type="application/xhtml+xml"/>
<item id="one" href="../one.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="one"/><itemref idref="two"/></spine></package>"""


def write_book(path: Path, **more: str) -> None:
    """A book of two pages, which its contents name in another order than the archive."""
    page = "<?xml version='1.0'?><html><head><title>T</title></head><body><h1>{}</h1><p>{}</p></body></html>"
    parts = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": BOOK,
        "OEBPS/text/part two.xhtml": page.format("Second", "The dog &amp; the cat."),
        "one.xhtml": page.format("First", "The bird."),
        "OEBPS/style.css": "p {}",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, text in {**parts, **more}.items():
            book.writestr(name, text)


@pytest.mark.filterwarnings("error")
def test_a_book_is_read_in_its_own_order(tmp_path: Path) -> None:
    fonts = {"META-INF/encryption.xml": '<enc:CipherReference URI="OEBPS/font.otf"/>'}
    write_book(tmp_path / "a.epub", **fonts)
    found = read_documents(tmp_path)
    assert [(one.document, one.heading, one.text) for one in found.passages] == [
        ("a.epub", "First", "The bird."),
        ("a.epub", "Second", "The dog & the cat."),
    ]
    assert found.left_out == []


def test_books_and_archives_that_are_none_are_left_out(tmp_path: Path) -> None:
    write_book(tmp_path / "good.epub")
    pages = {"META-INF/encryption.xml": '<enc:CipherReference URI="OEBPS/text/part%20two.xhtml"/>'}
    write_book(tmp_path / "locked.epub", **pages)
    write_book(tmp_path / "bomb.epub", zeros="0" * 60_000_000)
    write_book(tmp_path / "bomb.docx", zeros="0" * 60_000_000)
    write_book(tmp_path / "book.docx")
    write_book(tmp_path / "lost.epub", **{"OEBPS/book.opf": BOOK.replace("../one", "gone")})
    (tmp_path / "none.epub").write_bytes(b"PK\x03\x04 no book")
    with zipfile.ZipFile(tmp_path / "plain.epub", "w") as archive:
        archive.writestr("a.txt", "text")
    found = read_documents(tmp_path)
    assert {one.document for one in found.passages} == {"good.epub"}
    reasons = dict(found.left_out)
    assert "encrypted" in reasons["locked.epub"]
    assert "60 MB" in reasons["bomb.epub"] and "60 MB" in reasons["bomb.docx"]
    assert {*reasons} == {
        *("locked.epub", "bomb.epub", "bomb.docx", "book.docx", "lost.epub", "none.epub", "plain.epub"),
    }


def test_the_languages_of_documents_are_told(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    (tmp_path / "a.md").write_text(
        "# Pumps\n\nThe pump carries water uphill, and nobody knows how old it is.\n"
    )
    (tmp_path / "b.md").write_text(
        "# Pumpen\n\nDie Pumpe bringt Wasser auf den Berg, und niemand kennt ihr Alter.\n"
    )
    (tmp_path / "c.txt").write_text(
        "La pompe porte l'eau en haut de la colline, et personne ne connaît son âge."
    )
    (tmp_path / "d.py").write_text("def carry(water):\n    return water + 1\n")
    assert read_documents(tmp_path).languages() == {"en": 1, "de": 1, "fr": 1}


def test_a_hostile_folder_ends_in_a_list_of_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("Something to read.")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "fake.docx").write_bytes(b"PK\x03\x04 no document")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "picture.png").write_bytes(b"x")
    (tmp_path / "noending").write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(200_000_000)
    found = read_documents(tmp_path)
    assert [one.document for one in found.passages] == ["good.txt"]
    reasons = dict(found.left_out)
    assert reasons["empty.txt"] == "is empty" and "200 MB" in reasons["huge.txt"]
    assert "encrypted" in reasons["locked.pdf"] and "cannot be read" in reasons["fake.docx"]
    assert "link" in reasons["sub/loop"] and "link" in reasons["dangling.txt"]
    assert "ordinary" in reasons["pipe.txt"] and ".png" in reasons["picture.png"]
    assert set(reasons) == {
        *("empty.txt", "fake.docx", "broken.pdf", "locked.pdf", "binary.txt", "picture.png", "noending"),
        *("sub/loop", "dangling.txt", "pipe.txt", "huge.txt"),
    }


@pytest.mark.timeout(60)
def test_lines_without_an_end_take_no_longer_than_others(tmp_path: Path) -> None:
    """A pattern that tries every place against every other would take hours."""
    empty = " " * 400_000
    (tmp_path / "a.md").write_text(
        f"# Heading{empty}x\n\nText {empty} of it.{'<!-- ' * 100_000}\n\n# {'# ' * 100_000}x\n"
    )
    (tmp_path / "b.txt").write_text(f"one{empty}\n{empty}\ntwo\n{empty}x")
    found = read_documents(tmp_path)
    assert {one.document for one in found.passages} == {"a.md", "b.txt"}
    assert training_pairs(found.passages) == []


def test_nothing_to_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no text.*a\.png"):
        read_documents(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        read_documents(tmp_path / "a.png")


def test_duplicates_are_counted_once_and_near_ones_too(tmp_path: Path) -> None:
    text = " ".join(f"word{number} goes here" for number in range(60))
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text(text.upper())
    (tmp_path / "c.txt").write_text(text.replace("word30", "other"))
    (tmp_path / "d.txt").write_text(" ".join(f"thing{number} is new" for number in range(60)))
    found = read_documents(tmp_path)
    assert [one.document for one in found.passages] == ["a.txt", "d.txt"] and found.num_duplicates == 2


def test_passages_keep_to_their_length_and_lose_nothing(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {number} " + "word " * (number % 90) for number in range(200)]
    endless = "".join(f"x{number:04}" for number in range(1_800))
    (tmp_path / "a.txt").write_text("\n\n".join([*paragraphs, endless]))
    found = read_documents(tmp_path)
    joined = " ".join(" ".join(one.text.split()) for one in found.passages) + " "
    assert all(f"paragraph {number} " in joined for number in range(200))
    assert all(f"x{number:04}" in joined for number in range(1_800) if number % 800)
    ordinary = [one for one in found.passages if "x0" not in one.text and "x1" not in one.text]
    assert max(len(one.text) for one in ordinary) <= PASSAGE_CHARACTERS + 2


def test_what_may_be_personal_is_counted_and_kept(tmp_path: Path) -> None:
    text = "Write to ann@example.org, card 4111 1111 1111 1111, not 4111 1111 1111 1112, +49 30 1234567."
    (tmp_path / "a.txt").write_text(text)
    found = read_documents(tmp_path)
    assert found.passages[0].text == text
    assert found.personal == {"e-mail address": 1, "card number": 1, "telephone number": 1}


def test_the_best_passages_go_into_the_prompt_as_far_as_there_is_room() -> None:
    pytest.importorskip("bm25s")
    passages = [
        Passage("a.md", "Cats", "Cats eat fish and sleep."),
        Passage("b.md", "", "Dogs bark at night."),
        Passage("c.md", "", "Bread is baked from flour."),
    ]
    index = PassageIndex(passages)
    assert index.best("what do cats eat?")[0].document == "a.md"
    assert index.best("zebra") == []
    told, used = index.put_before("What do cats eat at night?", lambda text: True)
    assert used == passages[:2] and "[1] a.md, Cats" in told and told.endswith("What do cats eat at night?")
    shorter, used = index.put_before("What do cats eat at night?", lambda text: len(text) < len(told))
    assert used == passages[:1] and len(shorter) < len(told)
    assert index.put_before("What do cats eat?", lambda text: False) == ("What do cats eat?", [])
