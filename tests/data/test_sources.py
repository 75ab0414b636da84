"""Reading files: every kind, and for every kind of damage one line that names the file and what to do."""

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.data.conversations import holds_conversations, read_conversations
from chatsmith.data.documents import (
    DOCUMENT_CHARACTERS,
    read_documents,
    split_text,
)
from chatsmith.ingest.files import find_files
from chatsmith.ingest.forms import write_conversations, write_documents
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Message, parse_conversation

TALK = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi, Ada."}]}


def texts(*paths: Path) -> list[str]:
    return [document.text for document in read_documents(paths)]


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        texts(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


def json_lines(*values: object) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def test_every_kind_of_file_gives_its_documents(tmp_path):
    lines = json_lines({"text": "one\nline"}, {"text": "zwei äöü"})
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "d.md").write_text("# Title\n\nText.")
    write_documents(tmp_path / "e.parquet", ["one\nline", "zwei äöü"])
    (tmp_path / "f.TXT").write_text("plain")
    two = ["one\nline", "zwei äöü"]
    assert texts(*find_files([tmp_path])) == [*two, *two, *two, "# Title\n\nText.", *two, "plain"]


def test_documents_say_where_they_stood(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines({"text": "one"}) + b"\n" + json_lines({"text": "two"}))
    assert [document.source for document in read_documents([tmp_path / "a.jsonl"])] == [
        "a.jsonl, line 1",
        "a.jsonl, line 3",
    ]


def test_folders_are_searched_in_sorted_order_without_hidden_files_and_each_file_once(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a.md", ".hidden/3.txt", "b/.4.txt", "b/picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    found = find_files([tmp_path, tmp_path / "b" / "1.txt"])
    assert [str(file.relative_to(tmp_path)) for file in found] == ["a.md", "b/1.txt", "b/2.txt"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing.txt", "does not exist"), ("song.mp3", "unsupported type"), ("empty", "no file")],
)
def test_paths_that_lead_nowhere_are_named(tmp_path, name, said):
    (tmp_path / "song.mp3").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=said) as caught:
        find_files([tmp_path / name])
    assert name in str(caught.value)


def test_blank_documents_are_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines({"text": ""}, {"text": " \n"}, {"text": "x"}))
    (tmp_path / "b.txt").write_text("\n \n")
    assert texts(tmp_path / "a.jsonl", tmp_path / "b.txt") == ["x"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a" * 900, "Word. ", "\n\n", "\n", "é", "x" * 9000]), max_size=60))
def test_the_pieces_of_a_long_text_are_the_text(parts):
    text = "".join(parts)
    pieces = list(split_text(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= DOCUMENT_CHARACTERS * 3 // 2 for piece in pieces)


def test_a_long_file_is_cut_at_paragraphs_and_nothing_is_lost(tmp_path):
    paragraphs = [f"Paragraph {number}. " + "words and " * 60 + "end.\n\n" for number in range(5_000)]
    (tmp_path / "book.txt").write_text("".join(paragraphs))  # several megabytes: several reads
    documents = texts(tmp_path / "book.txt")
    assert "".join(documents) == "".join(paragraphs)
    assert all(document.endswith("end.\n\n") for document in documents)
    assert max(map(len, documents)) < 2 * DOCUMENT_CHARACTERS


def test_characters_and_line_ends_across_reads_stay_whole(tmp_path):
    text = ("é" * 1_048_575 + "\r\n€ und 🙂\r\n") * 3
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert "".join(texts(tmp_path / "a.txt")) == text.replace("\r\n", "\n")


@pytest.mark.parametrize("before", [0, 5, (1 << 20) - 1, 3 << 20])
def test_invalid_utf8_in_a_text_file_is_an_error_with_its_byte(tmp_path, before):
    (tmp_path / "a.txt").write_bytes(b"x" * before + b"\xe2\x82x")
    assert f"byte {before:,}" in error_of(tmp_path / "a.txt")


def test_text_cut_short_within_a_character_is_an_error_with_its_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc\xe2\x82")
    assert "byte 3" in error_of(tmp_path / "a.txt")


def test_a_parquet_without_text_is_told_its_columns(tmp_path):
    pq.write_table(pa.table({"content": ["x"], "id": [1]}), tmp_path / "a.parquet")
    assert "it has: content, id" in error_of(tmp_path / "a.parquet")


def test_a_parquet_whose_text_is_no_text_is_an_error(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    assert "row 1: the column `text` holds int, not strings" in error_of(tmp_path / "a.parquet")


def test_a_damaged_parquet_is_an_error(tmp_path):
    write_documents(tmp_path / "a.parquet", ["x" * 100] * 100)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "short.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "none.parquet").write_bytes(b"")
    for name in ("short.parquet", "none.parquet"):
        assert "not a readable parquet" in error_of(tmp_path / name)


def test_nulls_in_a_parquet_are_passed_over(tmp_path):
    pq.write_table(pa.table({"text": ["a", None, "b"]}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["a", "b"]


def test_invalid_utf8_in_a_parquet_names_the_row(tmp_path):
    bytes_column = pa.array([b"good", b"bad\xff"], type=pa.binary())
    column = pa.Array.from_buffers(pa.string(), 2, bytes_column.buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert "row 2" in error_of(tmp_path / "a.parquet")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gz", "zst"])
def test_a_compressed_file_cut_short_or_damaged_is_an_error(tmp_path, pack):
    suffix = "gz" if pack is gzip.compress else "zst"
    packed = pack(json_lines(*({"text": f"number {number}"} for number in range(5_000))))
    for name, content in (("short", packed[:-20]), ("other", b"not packed at all")):
        path = tmp_path / f"{name}.jsonl.{suffix}"
        path.write_bytes(content)
        assert "damaged or cut short" in error_of(path)


def test_zst_files_of_several_frames_are_read_whole(tmp_path):
    frames = [zstandard.compress(json_lines({"text": str(number)})) for number in range(3)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert texts(tmp_path / "a.jsonl.zst") == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{broken", "not JSON"),
        (b'["a list"]', "not a JSON object"),
        (b'{"content": 1}', "no `text` \\(but `content`\\)"),
        (b'{"text": 5}', "`text` is no string"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
        (b'{"text": "half \\ud800"}', "half a character"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_few_broken_lines_are_passed_over_counted_and_the_first_is_named(tmp_path, line, reason):
    good = json_lines(*({"text": str(number)} for number in range(200)))
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + good + line + b"\n")
    notices: list[str] = []
    documents = list(read_documents([tmp_path / "a.jsonl"], notices))
    assert len(documents) == 200
    (notice,) = notices
    assert "2 of 202 lines" in notice and "line 1:" in notice
    assert re.search(reason, notice)


def test_byte_order_marks_of_files_that_were_joined_are_dropped(tmp_path):
    line = b"\xef\xbb\xbf" + json_lines({"text": "one"})
    (tmp_path / "a.jsonl").write_bytes(line * 3)
    assert texts(tmp_path / "a.jsonl") == ["one"] * 3


def test_one_broken_conversation_in_ten_is_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines({"messages": []}, *[TALK] * 9))
    notices: list[str] = []
    assert len(list(read_conversations([tmp_path / "a.jsonl"], notices))) == 9
    assert "1 of 10 lines" in notices[0]
    (tmp_path / "a.jsonl").write_bytes(json_lines({"messages": []}, *[TALK] * 8))
    with pytest.raises(UserError, match="1 of 9 lines"):
        list(read_conversations([tmp_path / "a.jsonl"]))


def test_more_than_one_broken_line_in_a_hundred_is_an_error(tmp_path):
    good = json_lines(*({"text": str(number)} for number in range(90)))
    (tmp_path / "a.jsonl").write_bytes(good + b"{\n")
    message = error_of(tmp_path / "a.jsonl")
    assert "1 of 91 lines" in message and "line 91" in message


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(b"")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # tests may run as root, whom nothing is forbidden
    assert "Permission denied" in error_of(tmp_path / "a.jsonl")


def test_conversations_survive_the_way_to_disk_and_back(tmp_path):
    conversation = (Message.of("user", "Hi ⏎ there"), parse_conversation(TALK)[1])
    write_conversations(tmp_path / "a.jsonl", [conversation, conversation])
    assert list(read_conversations([tmp_path / "a.jsonl"])) == [conversation] * 2


def test_conversations_in_a_wrong_order_are_counted_as_broken(tmp_path):
    wrong = {"messages": list(reversed(TALK["messages"]))}
    unanswered = {"messages": TALK["messages"][:1]}
    (tmp_path / "a.jsonl").write_bytes(json_lines(wrong, unanswered, *[TALK] * 300))
    notices: list[str] = []
    assert len(list(read_conversations([tmp_path / "a.jsonl"], notices))) == 300
    assert "2 of 302 lines" in notices[0] and "message 1" in notices[0]


def test_keys_of_messages_that_are_not_known_are_told_once_a_file(tmp_path):
    """Silence would let someone believe that a key counts which does not. OpenAI's `weight` does."""
    ask, answer = TALK["messages"][:2]
    odd = {"messages": [{**ask, "name": "Ann"}, {**answer, "refusal": None, "weight": 1}]}
    (tmp_path / "a.jsonl").write_bytes(json_lines(odd, TALK, {"messages": [ask, {**answer, "refusal": 1}]}))
    (tmp_path / "b.jsonl").write_bytes(json_lines(TALK))
    notices: list[str] = []
    assert len(list(read_conversations([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], notices))) == 4
    (notice,) = notices
    assert notice.endswith(
        "a.jsonl: passed over what messages have besides role and content: `refusal` in 2, `name` in 1"
    )


def test_documents_given_as_conversations_are_an_error_that_says_so(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines({"text": "a document"}))
    (tmp_path / "b.txt").write_text("a document")
    with pytest.raises(UserError, match="no `messages`"):
        list(read_conversations([tmp_path / "a.jsonl"]))
    with pytest.raises(UserError, match=r"b\.txt cannot hold conversations"):
        list(read_conversations([tmp_path / "b.txt"]))


def test_files_of_conversations_are_told_from_files_of_documents(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n" + json_lines(TALK))
    (tmp_path / "b.jsonl").write_bytes(json_lines({"text": "messages"}))
    (tmp_path / "c.txt").write_text('{"messages": []}')
    assert [holds_conversations(tmp_path / name) for name in ("a.jsonl", "b.jsonl", "c.txt")] == [
        True,
        False,
        False,
    ]
