"""Files as people have them: what is read, what is passed over and said, and what is refused by name."""

import codecs
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatsmith.cli import main as cli
from chatsmith.cli.tokenizer import sample_evenly
from chatsmith.data.dataset import load_manifest
from chatsmith.data.documents import Document, read_documents
from chatsmith.data.tokens import CacheWriter, TokenCache
from chatsmith.ingest import survey as surveys
from chatsmith.ingest.files import find_files
from chatsmith.ingest.forms import write_documents
from chatsmith.ingest.survey import survey
from chatsmith.ingest.tokenizing import build
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import read_recipe
from chatsmith.serve.auth import read_keys
from chatsmith.tasks.identity import read_persona
from chatsmith.text.tokenizer import train_tokenizer

BOM = codecs.BOM_UTF8
WORDS = "The little fox asked: where is my red ball? "


def texts(path: Path) -> list[str]:
    return [document.text for document in read_documents([path])]


def prepare(folder: Path, *argv: object) -> int:
    return cli.main(["data", "prepare", str(folder), *map(str, argv)], {})


@pytest.mark.parametrize(
    "ending", [".text", ".markdown", ".txt.gz", ".md.gz", ".ndjson", ".ndjson.gz", ".TXT"]
)
def test_row_21_synonyms_of_known_endings_are_read(tmp_path: Path, ending: str):
    content = json.dumps({"text": WORDS}).encode() if "ndjson" in ending else WORDS.encode()
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    assert find_files([tmp_path]) == [path] and texts(path) == [WORDS]


def test_row_21_what_is_passed_over_in_a_folder_is_said_by_kind(tmp_path: Path):
    folder = tmp_path / "books"
    (folder / "inside").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("a.txt", "b.pdf", "c.pdf", "d.HTML", "README", "inside/e.txt", ".hidden/f.pdf", ".g.pdf"):
        (folder / name).write_text(WORDS)
    (tmp_path / "disk").mkdir()
    (folder / "linked").symlink_to(tmp_path / "disk")
    (folder / "nowhere.txt").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe.txt")
    notices: list[str] = []
    assert [path.name for path in find_files([folder], notices=notices)] == ["a.txt", "e.txt"]
    (notice,) = notices
    for part in (
        "2 .pdf files",
        "1 .html file",
        "1 file without an ending",
        "1 linked folder",
        "2 broken links",
    ):
        assert part in notice
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.pdf").write_text(WORDS)
    with pytest.raises(
        UserError, match=r"only holds 1 \.pdf file, and no file of a supported type; chatsmith reads"
    ):
        find_files([tmp_path / "only"])


def test_row_21_kinds_beyond_those_named_are_counted(tmp_path: Path):
    (tmp_path / "a.txt").write_text(WORDS)
    for number in range(11):
        (tmp_path / f"x.kind{number}").write_text(WORDS)
    notices: list[str] = []
    find_files([tmp_path], notices=notices)
    assert notices[0].endswith(", 3 of other kinds")


def test_row_21_a_subfolder_that_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_text(WORDS)
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refused(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)  # root may read everything
    notices: list[str] = []
    assert len(find_files([tmp_path], notices=notices)) == 1
    assert "1 folder that may not be read (Permission denied)" in notices[0]


def test_row_21_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path, capsys):
    os.mkfifo(tmp_path / "p.txt")
    assert prepare(tmp_path / "run", "--data", tmp_path / "p.txt") == 2
    assert "neither a file nor a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["val.txt", "valid/a.txt", "test.txt"])
def test_row_21_what_is_refused_for_its_name_is_told_so(tmp_path: Path, name: str, capsys):
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_text(WORDS * 50)
    named = tmp_path / "data" if name == "test.txt" else tmp_path / "data" / name.split("/")[0]
    assert prepare(tmp_path / "run", "--data", named) == 2
    error = capsys.readouterr().err
    assert "its name says so" in error and path.name in error


def test_row_21_other_endings_are_read_as_text_if_one_says_so(tmp_path: Path, capsys):
    for number in range(4):
        (tmp_path / f"code{number}.py").write_text(f"# {number}\n" + WORDS * 30)
    assert prepare(tmp_path / "run", "--data", tmp_path / "code0.py") == 2
    error = capsys.readouterr().err
    assert error.endswith("and files of other types as plain text if it is told to (--as-text)\n")
    files = sorted(tmp_path.glob("*.py"))
    assert prepare(tmp_path / "run", "--data", *files, "--as-text") == 0
    manifest = load_manifest(tmp_path / "run" / "data")
    assert [file.path for file in manifest.documents.train] == files
    assert {document.text for document in manifest.read_documents("train")} < {
        file.read_text() for file in files
    }


def test_row_21_each_of_many_files_is_looked_at_once_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text(f"file {number}")
    looked: list[Path] = []
    look = surveys._look_into
    monkeypatch.setattr(surveys, "_look_into", lambda kind, path: looked.append(path) or look(kind, path))
    read: list[int] = []
    survey([tmp_path], advance=read.append)
    assert len(looked) == len(set(looked)) == 300 and len(read) == 300


def test_row_22_byte_order_marks_within_joined_text_are_dropped(tmp_path: Path):
    path = tmp_path / "two.txt"
    path.write_bytes(BOM + b"one\n" + BOM + b"two" + BOM + b"three")
    assert texts(path) == ["one\ntwothree"]


@pytest.mark.parametrize("lines", [[b"1", b"2", b"3"], [b"1"]], ids=str)
def test_row_22_byte_order_marks_of_joined_json_lines_cost_no_line(tmp_path: Path, lines: list[bytes]):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(BOM + b'{"text": "%s"}' % line for line in lines))
    assert texts(path) == [line.decode() for line in lines]


def test_row_22_utf_16_is_named(tmp_path: Path):
    (tmp_path / "a.txt").write_text(WORDS, encoding="utf-16")
    (tmp_path / "keys.txt").write_text("mine=secret", encoding="utf-16")
    (tmp_path / "recipe.toml").write_text('stages = ["data"]', encoding="utf-16")
    for read in (texts, read_keys, read_recipe):
        name = {texts: "a.txt", read_keys: "keys.txt", read_recipe: "recipe.toml"}[read]
        with pytest.raises(UserError, match="UTF-16 text; save it as UTF-8"):
            read(tmp_path / name)


def test_row_21_a_named_pipe_without_a_writer_ends_no_command(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_keys, read_recipe, read_persona):
        with pytest.raises(UserError):
            read(tmp_path / "pipe")
    inside, outside = os.pipe()  # as <(command) gives it
    os.write(outside, b"mine=secret-key\n")
    os.close(outside)
    assert read_keys(Path(f"/dev/fd/{inside}")) == ["mine=secret-key"]
    os.close(inside)


def test_row_22_recipes_and_key_files_may_begin_with_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "keys.txt").write_bytes(BOM + b"mine=secret\r\n")
    assert read_keys(tmp_path / "keys.txt") == ["mine=secret"]
    (tmp_path / "recipe.toml").write_bytes(BOM + b'name = "mine"\r\nstages = ["data"]\r\n')
    assert read_recipe(tmp_path / "recipe.toml").stages == ("data",)


def test_text_may_stand_in_a_column_of_another_name(tmp_path: Path, capsys):
    table = {"url": [f"u{n}" for n in range(50)], "content": [f"{n} {WORDS}" for n in range(50)]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    lines = (json.dumps({"content": f"line {n} {WORDS}"}) + "\n" for n in range(50))
    (tmp_path / "b.jsonl").write_text("".join(lines))
    paths = (tmp_path / "a.parquet", tmp_path / "b.jsonl")
    assert prepare(tmp_path / "run", "--data", *paths) == 2
    assert "text-column" in capsys.readouterr().err
    assert prepare(tmp_path / "run", "--data", *paths, "--text-column", "content") == 0
    manifest = load_manifest(tmp_path / "run" / "data")
    found = [
        document.text for split in ("train", "validation") for document in manifest.read_documents(split)
    ]
    assert len(found) == 100 and all(WORDS in text for text in found)
    assert manifest.documents.fingerprint != survey([paths[0]], text_column="content").documents.fingerprint


def test_categories_are_texts(tmp_path: Path):
    column = pa.array(["one text", "another text"] * 3).dictionary_encode()
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["one text", "another text"] * 3


def test_conversations_may_stand_in_columns_of_their_own(tmp_path: Path, capsys):
    (tmp_path / "a.txt").write_text("".join(f"{number} {WORDS}" for number in range(900)))
    lines = (json.dumps({"question": f"What is {n}?", "answer": f"It is {n}."}) + "\n" for n in range(20))
    (tmp_path / "qa.jsonl").write_text("".join(lines))
    given = ("--data", tmp_path / "a.txt", "--conversations", tmp_path / "qa.jsonl")
    assert prepare(tmp_path / "run", *given) == 2
    assert prepare(tmp_path / "run", *given, "--columns", "question=user", "answer") == 2
    assert prepare(tmp_path / "run", *given, "--columns", "question=user", "answer=poet") == 2
    capsys.readouterr()
    assert prepare(tmp_path / "run", *given, "--columns", "question=user", "answer=assistant") == 0
    manifest = load_manifest(tmp_path / "run" / "data")
    talks = [talk for split in ("train", "validation") for talk in manifest.read_conversations(split)]
    assert len(talks) == 20 and {message.role for message in talks[0]} == {"user", "assistant"}


def test_several_processes_find_what_one_finds(tmp_path: Path):
    for number in range(5):
        write_documents(tmp_path / f"{number}.parquet", [f"{number} {n} {WORDS}" for n in range(200)])
    (tmp_path / "talks.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n' * 3
    )
    (tmp_path / "broken.jsonl").write_text('{"text": "good"}\n' * 120 + "not JSON\n")
    one, several = (survey([tmp_path], processes=processes) for processes in (1, 3))
    assert one == several and any("broken.jsonl" in notice for notice in one.notices)
    (tmp_path / "3.parquet").write_bytes(b"nothing")
    for processes in (1, 3):
        with pytest.raises(UserError, match=r"3\.parquet is not a readable parquet"):
            survey([tmp_path], processes=processes)


@pytest.mark.parametrize(
    "word",
    [
        "ACGT",
        *(pytest.param(word, marks=pytest.mark.long) for word in ("^", "-=", "\n", " ", "é", "的一是不")),
    ],
)
def test_one_word_of_5_mb_stops_neither_the_tokenizer_nor_the_worker(tmp_path: Path, word: str):
    """In JSON lines and tables it is one document, which no paragraph cuts."""
    long = "".join(word[number % len(word)] for number in _numbers(50_000)) * (5_000_000 // 50_000)
    tokenizer = train_tokenizer(sample_evenly([WORDS * 100, long], 0.1), 400)
    writer = CacheWriter(tmp_path, "key", bos_id=tokenizer.bos_id, vocab_size=tokenizer.vocab_size)
    build(writer, [Document(long, "here")], tokenizer.encode)
    cache = TokenCache(tmp_path, "key")
    ids = cache.read(0, cache.num_ids)
    assert tokenizer.token_byte_lengths[ids].sum() == len(long.encode())
    assert long.startswith(tokenizer.decode(ids[:1000].tolist()))


def _numbers(count: int) -> list[int]:
    """Numbers without a short period, the same every time."""
    found, number = [], 1
    for _ in range(count):
        number = (number * 1103515245 + 12345) % (1 << 31)
        found.append(number >> 16)
    return found
